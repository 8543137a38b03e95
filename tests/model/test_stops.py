import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baichuan_intel.errors import PromptError
from baichuan_intel.model.stops import StopStrings


def stream(stops, pieces):
    """What is shown piece by piece, and whether a stop string was met."""
    cutter = StopStrings(stops)
    shown = []
    for piece in pieces:
        text, hit = cutter.push(piece)
        shown.append(text)
        if hit:
            assert cutter.flush() == ""
            return shown, True
    return [*shown, cutter.flush()], False


def whole(stops, text):
    """The rule over the whole text: the stop string complete earliest, the longest of several."""
    found = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
    return (text[: min(found)[1]], True) if found else (text, False)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.text("ab。", min_size=1, max_size=4), max_size=4),
    st.lists(st.text("ab。", max_size=5), max_size=12),
)
def test_pieces_equal_the_whole(stops, pieces):
    shown, hit = stream(stops, pieces)
    assert ("".join(shown), hit) == whole(stops, "".join(pieces))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.text("ab。", min_size=1, max_size=4), max_size=4),
    st.lists(st.text("ab。", max_size=5), max_size=12),
)
def test_holds_back_no_more_than_it_must(stops, pieces):
    cutter = StopStrings(stops)
    text = shown = ""
    for piece in pieces:
        text += piece
        more, hit = cutter.push(piece)
        if hit:
            break
        shown += more
        held = text[len(shown) :]
        begins = {s[:n] for s in stops for n in range(1, len(s))}
        assert held == max((b for b in begins if text.endswith(b)), key=len, default="")


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "hit"),
    [
        ((), ["a", "b"], ["a", "b", ""], False),
        ("用户：", ["好的。", "用", "户", "：再"], ["好的。", "", "", ""], True),
        (["用户："], ["用", "户", "名"], ["", "", "用户名", ""], False),
        (["\n\n"], ["a\n", "b\n\nc"], ["a", "\nb"], True),
        (["abc", "b"], ["a", "b"], ["", "a"], True),
        (["abc", "bc"], ["ab", "c"], ["", ""], True),
        (["ab"], ["aa", "b"], ["a", ""], True),
        (["stop"], ["st"], ["", "st"], False),
    ],
)
def test_cases(stops, pieces, shown, hit):
    assert stream(stops, pieces) == (shown, hit)


def test_nothing_after_a_hit():
    cutter = StopStrings("x")
    assert cutter.push("axb") == ("a", True)
    assert cutter.push("c") == ("", True)
    assert cutter.flush() == ""


@pytest.mark.parametrize(
    "stops", [[""], [1], ["a" * 1025], ["a"] * 65, [None], 5, None, b"x"], ids=lambda s: repr(s)[:20]
)
def test_refused(stops):
    with pytest.raises(PromptError) as caught:
        StopStrings(stops)
    assert len(str(caught.value)) < 200
