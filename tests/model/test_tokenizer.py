import random

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from baichuan_intel.errors import PromptError, TokenizerError
from baichuan_intel.model.tokenizer import Tokenizer
from factory import tokenizer_model

PLAIN = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model())
VOCAB = PLAIN.vocab_size()
BYTES = [PLAIN.piece_to_id(f"<0x{value:02X}>") for value in range(256)]
FIRST_BYTE, USER = BYTES[0], 195


def with_dummy_prefix() -> bytes:
    """The same model, except that it puts a space before the text, as Baichuan 1's does."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(tokenizer_model())
    proto.normalizer_spec.add_dummy_prefix = True
    return proto.SerializeToString()


DUMMY = sentencepiece.SentencePieceProcessor(model_proto=with_dummy_prefix())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    (folder / "tokenizer.model").write_bytes(tokenizer_model())
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def dummy_tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("dummy") / "分词.model"
    file.write_bytes(with_dummy_prefix())
    return Tokenizer(str(file))


def detokenize(tokenizer, ids):
    detokenizer = tokenizer.detokenizer()
    return "".join([*map(detokenizer.push, ids), detokenizer.flush()])


# Byte tokens as often as all others, in runs that are near to UTF-8: leads, continuations, anything.
byte_ids = st.one_of(
    st.sampled_from([0xE6, 0xF0, 0xC3, 0xED, 0xEF, 0xF4, 0xE0, 0xC0]),
    st.integers(0x80, 0xBF),
    st.sampled_from([0x9F, 0xA0, 0xBF, 0xBD]),
    st.integers(0, 255),
).map(BYTES.__getitem__)
ids_strategy = st.lists(st.one_of(byte_ids, byte_ids, byte_ids, st.integers(0, VOCAB - 1)), max_size=30)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\u2581"))


def test_encode_and_decode_are_sentencepiece(tokenizer):
    text = "登鹳雀楼->王之涣\n夜雨寄北->  the fox 😀  é\x00"
    ids = tokenizer.encode(text)
    assert ids == PLAIN.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(iter(ids)) == text
    assert tokenizer.decode(tokenizer.encode("\u2581")) == " "  # SentencePiece's sign for a space
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""
    assert tokenizer.vocab_size == VOCAB


def test_turn_tokens(tokenizer):
    assert tokenizer.encode("<reserved_106>") == [195]
    assert tokenizer.encode("<reserved_107>") == [196]
    # Control tokens cannot be written: their text is only text.
    assert not {0, 1, 2} & set(tokenizer.encode("<s></s><unk>"))


@settings(deadline=None, max_examples=200)
@given(ids=ids_strategy)
def test_stream_equals_sentencepiece(tokenizer, ids):
    assert detokenize(tokenizer, ids) == PLAIN.decode(ids) == tokenizer.decode(ids)


def test_stream_equals_sentencepiece_on_every_token(tokenizer):
    rng = random.Random(0)
    ids = [i for _ in range(4) for i in rng.sample(range(VOCAB), VOCAB)]
    assert detokenize(tokenizer, ids) == PLAIN.decode(ids)
    for id_ in range(VOCAB):
        assert detokenize(tokenizer, [id_]) == PLAIN.decode([id_])


@settings(deadline=None, max_examples=150)
@given(ids=ids_strategy)
def test_dummy_prefix_keeps_the_first_space_of_an_answer(dummy_tokenizer, ids):
    prompt = [USER]
    text = DUMMY.decode(prompt)
    assert DUMMY.decode(prompt + ids) == text + detokenize(dummy_tokenizer, ids)


def test_dummy_prefix(dummy_tokenizer, tokenizer):
    ids = dummy_tokenizer.encode("the")
    assert dummy_tokenizer.decode(ids) == "the"
    assert detokenize(dummy_tokenizer, ids) == " the"
    assert detokenize(tokenizer, tokenizer.encode(" the")) == " the"


@settings(deadline=None, max_examples=200)
@given(ids=ids_strategy)
def test_holds_back_an_unfinished_character_only(tokenizer, ids):
    detokenizer = tokenizer.detokenizer()
    shown = ""
    for n, id_ in enumerate(ids, 1):
        shown += detokenizer.push(id_)
        # SentencePiece makes one U+FFFD of each byte of an unfinished character.
        so_far = PLAIN.decode(ids[:n])
        held = so_far[len(shown) :]
        assert so_far.startswith(shown)
        assert held in ("", "\ufffd", "\ufffd" * 2, "\ufffd" * 3)


@settings(deadline=None, max_examples=150)
@given(text=texts)
def test_never_shows_a_broken_character(tokenizer, text):
    detokenizer = tokenizer.detokenizer()
    pieces = [detokenizer.push(id_) for id_ in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert detokenizer.flush() == ""


def test_a_character_comes_with_its_last_byte(tokenizer):
    detokenizer = tokenizer.detokenizer()
    shown = [detokenizer.push(BYTES[value]) for value in "€😀".encode()]
    assert shown == ["", "", "€", "", "", "", "😀"]


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (b"\xe6\xb8", "\ufffd\ufffd"),
        (b"\xff\xe6\xb8\xa9", "\ufffd温"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"\xc0\xaf", "\ufffd\ufffd"),
        (b"\xf0\x9f\x98A", "\ufffd\ufffd\ufffdA"),
        (b"\xef\xbf\xbd", "\ufffd"),
    ],
)
def test_invalid_bytes(tokenizer, run, text):
    assert detokenize(tokenizer, [BYTES[value] for value in run]) == text


def test_any_other_token_ends_a_byte_run(tokenizer):
    first, second, third = (BYTES[value] for value in "温".encode())
    assert detokenize(tokenizer, [first, 2, second, third]) == "\ufffd\ufffd\ufffd"


def test_detokenizers_are_independent(tokenizer):
    one, other = tokenizer.detokenizer(), tokenizer.detokenizer()
    one.push(BYTES[0xE6])
    assert other.flush() == ""
    assert one.flush() == "\ufffd"
    assert one.flush() == ""


def test_ids_above_the_vocabulary(tokenizer):
    # A resized model may give them; the tokenizer has no text for them.
    ids = [*tokenizer.encode("温故"), VOCAB, BYTES[0xE6], 125_695]
    assert detokenize(tokenizer, ids) == "温故\ufffd\ufffd\ufffd"
    assert tokenizer.decode(ids) == "温故\ufffd\ufffd\ufffd"


def test_negative_ids(tokenizer):
    with pytest.raises(TokenizerError, match="-1 is negative"):
        tokenizer.detokenizer().push(-1)
    with pytest.raises(TokenizerError, match="-1 is negative"):
        tokenizer.decode([3, -1])


@pytest.mark.parametrize(
    ("text", "says"),
    [("a\ud800b", "lone surrogate at character 1"), (b"bytes", "bytes"), (None, "NoneType"), (["a"], "list")],
)
def test_encode_refuses(tokenizer, text, says):
    with pytest.raises(PromptError, match=says):
        tokenizer.encode(text)


def test_missing(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.model does not exist"):
        Tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="does not exist"):
        Tokenizer(tmp_path / "nowhere")


def test_too_large(tmp_path):
    with (tmp_path / "tokenizer.model").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(TokenizerError, match="over 64 MiB"):
        Tokenizer(tmp_path)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:79452955be6b\nsize 2001107\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"not a model", b'{"model": {}}', LFS_POINTER, tokenizer_model()[:2000]],
    ids=["empty", "nul", "text", "json", "lfs", "truncated"],
)
def test_not_a_sentencepiece_model(tmp_path, content, capfd):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(TokenizerError, match="is not a SentencePiece model") as caught:
        Tokenizer(tmp_path)
    assert str(caught.value).isprintable()
    assert capfd.readouterr() == ("", "")


def test_a_token_that_is_not_utf8(tmp_path, capfd):
    content = tokenizer_model()
    assert content.count("温".encode()) == 1
    (tmp_path / "tokenizer.model").write_bytes(content.replace("温".encode(), b"\xe6\xb8\xff"))
    with pytest.raises(TokenizerError, match="is not a SentencePiece model"):
        Tokenizer(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_vocabulary_larger_than_the_models(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model())
    with pytest.raises(TokenizerError, match=f"{VOCAB} tokens but the model only {VOCAB - 1}"):
        Tokenizer(tmp_path, VOCAB - 1)
    assert Tokenizer(tmp_path, VOCAB).vocab_size == VOCAB
    assert Tokenizer(tmp_path, VOCAB + 40).vocab_size == VOCAB
