"""`Model` over a scripted runtime: what the seam promises to both of its sides."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from baichuan_intel.backends.base import Memory
from baichuan_intel.errors import BackendError, ContextLengthError, PromptError
from baichuan_intel.load import Model, collect, load
from baichuan_intel.model.sampling import Sampling
from fake_backend import EOS, FakeBackend, FakeSession, config, fake_model, install, interrupt, tokenizer

TESTS = Path(__file__).parent
USER = [{"role": "user", "content": "你好"}]
CLOSED = r"^the model is closed: load it again$"
LONG = [*["白日依山尽。", 0.01] * 200]


def session(model: Model):
    return model.session


def text_ids(text: str) -> list[int]:
    return tokenizer().encode(text)


def answering() -> list[str]:
    """The threads of answers that are under way."""
    return [thread.name for thread in threading.enumerate() if thread.name == "baichuan-intel"]


# Text and tokens


def test_chat_sends_the_prompt_of_the_rules_and_gives_the_whole_answer():
    model = fake_model(["欲穷千里目", EOS, "never"])
    answer = model.chat([{"role": "system", "content": "诗"}, *USER])
    assert session(model).prompts == [[*text_ids("诗"), 195, *text_ids("你好"), 196]]
    assert (answer.text, str(answer)) == ("欲穷千里目", "欲穷千里目")
    assert list(answer.ids) == text_ids("欲穷千里目")
    assert answer.prompt_tokens == len(session(model).prompts[0])
    assert answer.new_tokens == len(text_ids("欲穷千里目"))
    assert answer.finish_reason == "stop"


def test_generate_sends_a_text_or_ids_as_they_are():
    model = fake_model(["更上一层楼", EOS])
    prompts = ["登鹳雀楼->", [5, 300], (5, 300), np.array([5, 300]), torch.tensor([5, 300]), iter([5, 300])]
    for prompt in prompts:
        assert model.generate(prompt).text == "更上一层楼"
    assert session(model).prompts == [text_ids("登鹳雀楼->"), *[[5, 300]] * 5]


def test_stream_takes_a_conversation_a_text_or_ids():
    model = fake_model([EOS])
    for prompt in (USER, "你好", text_ids("你好")):
        list(model.stream(prompt))
    assert session(model).prompts == [[195, *text_ids("你好"), 196], text_ids("你好"), text_ids("你好")]


def test_the_pieces_of_a_stream_are_the_text_and_the_last_is_the_answer():
    *pieces, last = fake_model(["欲穷千里目，", "Hello, you!", EOS]).stream("x")
    assert "".join(piece.text for piece in pieces) == "欲穷千里目，Hello, you!"
    assert all(piece.text and piece.generation is None for piece in pieces)
    assert last.text == ""
    assert last.generation is not None
    assert last.generation.text == "欲穷千里目，Hello, you!"


def test_a_piece_comes_while_the_runtime_is_still_at_work():
    seen = threading.Event()
    pieces = fake_model(["一", seen.wait, "二", EOS]).stream("x")
    assert next(pieces).text == "一"
    seen.set()
    assert [piece.text for piece in pieces] == ["二", ""]


@given(st.text(max_size=40).filter(lambda text: text and not any("\ud800" <= c <= "\udfff" for c in text)))
def test_no_piece_has_a_part_of_a_character(text):
    pieces = [piece.text for piece in fake_model([text, EOS]).stream("x")]
    assert "".join(pieces) == text.replace("\u2581", " ")
    assert ("\ufffd" in "".join(pieces)) == ("\ufffd" in text)


def test_a_character_of_four_tokens_comes_whole():
    assert len(text_ids("🙂")) == 4
    assert [piece.text for piece in fake_model(["a🙂b", EOS]).stream("x")] == ["a", "🙂", "b", ""]


# The end of an answer


def test_eos_at_once_is_an_empty_answer():
    answer = fake_model([EOS]).generate("x")
    assert (answer.text, answer.ids, answer.finish_reason) == ("", (), "stop")
    assert (answer.timing.token_s, answer.timing.tpot_s, answer.timing.decode_tokens_per_s) == (
        (),
        None,
        None,
    )
    assert answer.timing.first_token_s > 0


def test_every_eos_token_ends_the_answer():
    for eos in (7, 9):
        answer = fake_model(["a", eos, "b"]).generate("x", eos_token_ids=(7, 9))
        assert (answer.text, answer.finish_reason) == ("a", "stop")


def test_ignore_eos_gives_exactly_the_tokens_asked_for():
    answer = fake_model(["ab", EOS, "c", *[EOS] * 9]).generate("x", ignore_eos=True, max_new_tokens=6)
    assert answer.new_tokens == 6
    assert EOS in answer.ids
    assert (answer.text, answer.finish_reason) == ("abc", "length")


def test_max_new_tokens_ends_the_answer():
    model = fake_model(["一二三四五六七八"])
    answer = model.generate("x", max_new_tokens=3)
    assert (list(answer.ids), answer.finish_reason) == (text_ids("一二三四五六七八")[:3], "length")
    assert session(model).emitted == 3


@pytest.mark.parametrize(
    ("stop", "text", "shown"),
    [
        ("。", "白日依山尽。黄河", "白日依山尽"),
        ("山尽。黄", "白日依山尽。黄河", "白日依"),
        (["河", "日依"], "白日依山尽。黄河", "白"),
        ("白", "白日", ""),
        (("\nUser:",), "hi\nUser: more", "hi"),
        ("🙂", "a🙂b", "a"),
    ],
)
def test_a_stop_string_ends_the_answer_before_it_over_any_tokens(stop, text, shown):
    model = fake_model([text, "never"])
    *pieces, last = model.stream("x", stop=stop)
    assert "".join(piece.text for piece in pieces) == shown
    assert (last.generation.text, last.generation.finish_reason) == (shown, "stop")
    # The runtime was stopped at the token that completed it.
    assert tokenizer().decode(last.generation.ids).startswith(shown)
    assert session(model).emitted == len(last.generation.ids) <= len(text_ids(text))


def test_what_only_began_a_stop_string_is_shown_at_the_end():
    answer = fake_model(["a\nUs", EOS]).generate("x", stop="\nUser:")
    assert (answer.text, answer.finish_reason) == ("a\nUs", "stop")
    assert fake_model(["a\nUs"]).generate("x", stop="\nUser:").finish_reason == "length"


# Ctrl-C


def test_ctrl_c_while_waiting_ends_the_answer_and_returns_what_there_is():
    model = fake_model(["一二", interrupt, *LONG])
    answer = model.generate("x")
    assert answer.finish_reason == "interrupted"
    assert answer.text.startswith("一二")
    assert answer.text == tokenizer().decode(answer.ids)
    assert session(model).emitted < 200
    assert not answering()


def test_ctrl_c_before_the_first_token():
    model = fake_model([interrupt, 0.2, *LONG])
    answer = model.generate("x")
    assert (answer.text, answer.ids, answer.finish_reason) == ("", (), "interrupted")
    assert answer.timing.first_token_s > 0


def test_ctrl_c_where_a_piece_is_shown_ends_the_answer_too():
    shown = []

    def show(text: str) -> None:
        shown.append(text)
        if len(shown) == 2:
            raise KeyboardInterrupt

    answer = collect(fake_model(["一二", *LONG]).stream("x"), show)
    assert answer.finish_reason == "interrupted"
    assert answer.text.startswith("".join(shown))


def test_an_answer_that_ended_before_ctrl_c_is_whole():
    pieces = fake_model(["一", "二", EOS]).stream("x")
    assert next(pieces).text == "一"
    while answering():
        time.sleep(0.01)
    assert pieces.throw(KeyboardInterrupt()).text == "二"
    assert next(pieces).generation.finish_reason == "stop"


def test_a_second_ctrl_c_is_an_ordinary_one():
    emitted, release = threading.Event(), threading.Event()
    pieces = fake_model(["一", "二", "三", emitted.set, release.wait, EOS]).stream("x")
    assert next(pieces).text == "一"
    emitted.wait()
    assert pieces.throw(KeyboardInterrupt()).text == "二"
    release.set()
    with pytest.raises(KeyboardInterrupt):
        pieces.throw(KeyboardInterrupt())
    assert not answering()


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_a_real_sigint_ends_the_answer_and_not_the_program():
    child = run_child(
        """
        say = lambda: print("started", flush=True)
        model = fake_model(["一", until_waiting, say, *["二", 0.01] * 2000])
        answer = model.generate("x", max_new_tokens=2000)
        again = model.generate("x", max_new_tokens=1)
        print(json.dumps([answer.finish_reason, answer.text, answer.new_tokens, again.finish_reason]))
        """
    )
    assert child.stdout.readline() == "started\n"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    reason, text, tokens, again = json.loads(out.splitlines()[-1])
    assert (reason, again) == ("interrupted", "length")
    assert text == "一" + "二" * (tokens - 1)
    assert tokens < 2000


# Leaving, failing, closing


def test_leaving_the_loop_cancels_the_answer_and_ends_its_thread():
    model = fake_model(LONG)
    for piece in model.stream("x"):
        assert piece.text
        break
    gc.collect()
    assert not answering()
    assert session(model).emitted < 1000


def test_closing_a_stream_cancels_the_answer():
    model = fake_model(LONG)
    pieces = model.stream("x")
    next(pieces)
    pieces.close()
    assert not answering()
    assert list(pieces) == []


def test_a_stream_that_is_never_begun_runs_nothing():
    model = fake_model(LONG)
    model.stream("x")
    assert session(model).prompts == []


@pytest.mark.parametrize("error", [BackendError("the runtime failed"), RuntimeError("C++"), SystemExit(3)])
def test_an_error_of_the_runtime_reaches_the_caller_as_it_is(error):
    model = fake_model(["一", error], ["二", EOS])
    seen = []
    with pytest.raises(type(error)) as raised:
        seen.extend(piece.text for piece in model.stream("x"))
    assert raised.value is error
    assert not answering()
    assert model.generate("x").text == "二"


def test_answers_one_after_another_do_not_mix():
    model = fake_model(["一", EOS], ["🙂", EOS], ["三", EOS])
    assert [model.generate("x").text for _ in range(3)] == ["一", "🙂", "三"]
    # A character that the first answer left unfinished is not finished by the second.
    first, second = text_ids("🙂")[:2], text_ids("🙂")[2:]
    model = fake_model([*first, EOS], [*second, EOS])
    assert "🙂" not in model.generate("x").text + model.generate("x").text


def test_answers_of_several_threads_wait_for_each_other():
    model = fake_model(["白日", 0.02, "依山尽", EOS])
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(model.generate("x").text)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["白日依山尽"] * 4


def test_an_abandoned_stream_does_not_block_the_next_answer():
    model = fake_model(["一", 0.05, EOS], ["二", EOS])
    pieces = model.stream("x")
    next(pieces)
    assert model.generate("x").text == "二"


def test_close_is_idempotent_and_use_after_it_is_one_clear_error():
    model = fake_model(["一", EOS])
    late = model.stream("x")
    model.close()
    model.close()
    assert session(model).closed
    for use in (model.chat, model.stream):
        with pytest.raises(BackendError, match=CLOSED):
            use(USER)
    for use in (model.generate, model.logits):
        with pytest.raises(BackendError, match=CLOSED):
            use("x")
    assert collect(late).finish_reason == "interrupted"
    assert session(model).prompts == []


def test_the_context_manager_closes_also_after_an_error():
    with pytest.raises(ZeroDivisionError), fake_model([EOS]) as model:
        raise ZeroDivisionError
    assert session(model).closed


def test_closing_in_another_thread_ends_the_answer_first():
    model = fake_model(["一", lambda: threading.Thread(target=model.close).start(), *LONG])
    answer = model.generate("x")
    assert answer.finish_reason == "interrupted"
    model.close()
    assert session(model).closed


def test_a_model_that_is_dropped_is_closed():
    model = fake_model([EOS])
    kept = model.session
    model.generate("x")
    del model
    gc.collect()
    assert kept.closed


def test_a_program_may_end_in_the_middle_of_a_stream(nano):
    """The thread that is inside OpenVINO neither keeps the program nor crashes it."""
    child = run_child(
        f"""
        from baichuan_intel.load import load
        pieces = load({str(nano())!r}).stream("x", ignore_eos=True, max_new_tokens=4000)
        next(pieces)
        print("going")
        """
    )
    out, err = child.communicate(timeout=120)
    assert (child.returncode, out, err) == (0, "going\n", "")


# What an answer costs


def test_timing_has_a_gap_between_each_two_tokens():
    answer = fake_model([0.02, "一", 0.03, "二三", 0.01, EOS]).generate("x")
    timing = answer.timing
    assert answer.new_tokens == 3
    assert len(timing.token_s) == answer.new_tokens - 1
    assert all(gap >= 0 for gap in timing.token_s)
    # Lower bounds only: what was slept through is in the right place.
    assert timing.first_token_s >= 0.02
    assert timing.token_s[0] >= 0.03 > timing.token_s[1]
    assert timing.total_s == pytest.approx(timing.first_token_s + sum(timing.token_s))
    assert timing.tpot_s == pytest.approx(sum(timing.token_s) / 2)
    assert timing.decode_tokens_per_s == pytest.approx(1 / timing.tpot_s)
    assert timing.load_s == 1.5
    assert answer.prefill_tokens_per_s == pytest.approx(1 / timing.first_token_s)


def test_memory_is_that_of_this_process():
    memory = fake_model([EOS]).generate("x").memory
    assert 0 < memory.rss <= memory.peak_rss
    ballast = np.ones(64 << 20, np.uint8)
    assert Memory.now().peak_rss >= memory.rss + ballast.nbytes // 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux hands the parent's peak down")
def test_the_peak_of_a_large_parent_is_not_ours():
    code = "from baichuan_intel.backends.base import Memory; print(Memory.now().peak_rss)"
    ballast = np.ones(256 << 20, np.uint8)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < ballast.nbytes


# Lengths and values


def test_a_length_that_was_asked_for_must_fit_and_the_error_says_by_how_much():
    model = fake_model([EOS], model_max_length=100)
    assert model.generate([5] * 90, max_new_tokens=10).finish_reason == "stop"
    error = "95 prompt tokens and 10 new ones are 5 more than the context of 100: shorten"
    with pytest.raises(ContextLengthError, match=error):
        model.generate([5] * 95, max_new_tokens=10)
    with pytest.raises(ContextLengthError, match=error):
        model.generate([5] * 95, sampling=Sampling(max_new_tokens=10))
    with pytest.raises(ContextLengthError, match="101 prompt tokens are 1 more than the context of 100"):
        model.logits([5] * 101)
    assert model.logits([5] * 100).shape == (100, config().vocab_size)


def test_the_default_length_shrinks_to_the_room_left():
    model = fake_model(["一"], model_max_length=100)
    model.generate([5] * 60)
    assert session(model).samplings[0].max_new_tokens == 40
    with pytest.raises(ContextLengthError, match="100 prompt tokens and 1 new ones are 1 more"):
        model.generate([5] * 100)


def test_a_conversation_in_a_context_below_the_default_length():
    model = fake_model(["一"], model_max_length=100)
    model.chat([{"role": "user", "content": "日" * 500}])
    assert len(session(model).prompts[0]) == 50
    assert session(model).samplings[0].max_new_tokens == 50
    with pytest.raises(ContextLengthError, match="max_new_tokens 100 leaves no room"):
        model.chat(USER, max_new_tokens=100)


def test_old_rounds_give_way_to_the_answer_length():
    model = fake_model([EOS], model_max_length=60)
    old = [{"role": "user", "content": "日" * 20}, {"role": "assistant", "content": "月"}]
    model.chat([*old, *USER], max_new_tokens=20)
    model.chat([*old, *USER], max_new_tokens=50)
    newest = [195, *text_ids("你好"), 196]
    kept, cut = session(model).prompts
    assert kept == [195, *text_ids("日" * 20), 196, *text_ids("月"), *newest]
    assert cut == newest


def test_old_rounds_give_way_to_what_the_session_takes(monkeypatch):
    monkeypatch.setattr(FakeSession, "max_prompt_tokens", 20)
    model = fake_model([EOS])
    old = [{"role": "user", "content": "日" * 20}, {"role": "assistant", "content": "月"}]
    model.chat([*old, *USER])
    assert session(model).prompts == [[195, *text_ids("你好"), 196]]
    assert session(model).samplings[0].max_new_tokens == Sampling().max_new_tokens
    model.generate([5] * 30)
    assert len(session(model).prompts[1]) == 30


def test_overrides_go_on_top_of_the_sampling_given_or_the_models_own():
    model = fake_model([EOS])
    model.generate("x", temperature=0.7)
    model.generate("x", sampling=Sampling.greedy(max_new_tokens=9), seed=3)
    assert session(model).samplings == [
        dataclasses.replace(Sampling(), temperature=0.7, max_new_tokens=2048),
        Sampling(max_new_tokens=9, do_sample=False, repetition_penalty=1.0, seed=3),
    ]


@pytest.mark.parametrize("typo", ["max_tokens", "temprature", "stop_words"])
def test_an_unknown_value_is_a_type_error(typo):
    with pytest.raises(TypeError, match=typo):
        fake_model([EOS]).generate("x", **{typo: 1})


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ([], "the prompt is empty"),
        (None, "the prompt is None, expected text, token ids or messages"),
        (5, "the prompt is 5, expected"),
        (b"abc", "the prompt is b'abc', expected"),
        (USER[0], r"the prompt is \{'role': 'user'.*expected text"),
        ([1.5], "the prompt holds 1.5, expected token ids"),
        ([[1, 2]], r"the prompt holds \[1, 2\]"),
        (np.ones((1, 2), np.int64), r"the prompt holds array\(\[1, 1\]\)"),
        ([-1], "token id -1 is outside the vocabulary of"),
        ([1 << 40], "token id 1099511627776 is outside"),
        (["你好"], r"messages\[0\] is a str"),
        ([5, USER[0]], r"messages\[0\] is a int"),
    ],
)
def test_what_is_no_prompt_is_refused_before_the_runtime(prompt, message):
    model = fake_model([EOS])
    with pytest.raises(PromptError, match=message):
        model.stream(prompt)
    assert session(model).prompts == []


@pytest.mark.parametrize(
    ("messages", "message"),
    [([], "messages is empty"), ("你好", "messages is a str"), ([5, 6], r"messages\[0\] is a int")],
)
def test_chat_takes_messages_alone(messages, message):
    with pytest.raises(PromptError, match=message):
        fake_model([EOS]).chat(messages)


def test_turn_tokens_outside_the_vocabulary_are_refused():
    with pytest.raises(PromptError, match="token id 195 is outside the vocabulary of 195"):
        fake_model([EOS], vocab_size=195).chat(USER)


# load


def test_load_opens_the_artifact_through_its_backend(nano, monkeypatch):
    backend = FakeBackend(["你好", EOS])
    install(monkeypatch, backend)
    with load(nano(), "GPU.1", properties={"A": 1}) as model:
        answer = model.chat(USER)
    ((folder, device, properties, key),) = backend.opened
    assert (folder, device, properties) == (nano(), "GPU.1", {"A": 1})
    assert len(key) == 64
    assert answer.text == "你好"
    assert answer.timing.load_s > 0
    assert model.sampling == Sampling.from_folder(nano())
    assert backend.sessions[0].closed


# The real runtime, where only it can tell


@pytest.fixture(scope="module")
def real(nano):
    with load(nano()) as model:
        yield model


def test_a_seed_gives_the_same_text_also_after_an_interrupted_answer(real):
    def sample(seed: int) -> str:
        messages = [{"role": "user", "content": "你好，介绍一首诗"}]
        values = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
        return real.chat(messages, seed=seed, do_sample=True, max_new_tokens=32, **values).text

    first = sample(7)
    pieces = real.stream("夜雨寄北->", max_new_tokens=200, ignore_eos=True)
    next(pieces)
    pieces.throw(KeyboardInterrupt())
    pieces.close()
    assert sample(7) == first
    assert len({first, *map(sample, range(4))}) > 1


def test_the_real_runtime_keeps_the_promises_of_the_seam(real):
    answer = real.generate("夜雨寄北->", do_sample=False)
    assert answer.finish_reason == "stop"
    assert answer.text == "".join(p.text for p in real.stream("夜雨寄北->", do_sample=False))
    assert len(answer.timing.token_s) == answer.new_tokens - 1
    assert not set(answer.ids) & {0, 1, EOS}
    exact = real.generate("夜雨寄北->", do_sample=False, ignore_eos=True, max_new_tokens=20)
    assert (exact.new_tokens, exact.finish_reason) == (20, "length")
    assert EOS in exact.ids
    stopped = real.generate("夜雨寄北->", do_sample=False, stop=answer.text[1])
    assert (stopped.text, stopped.finish_reason) == (answer.text[0], "stop")


def test_an_error_in_the_callers_thread_leaves_the_real_runtime_usable(real):
    expected = real.generate("夜雨寄北->", do_sample=False).text
    for _ in range(3):
        pieces = real.stream("夜雨寄北->", ignore_eos=True, max_new_tokens=2000)
        next(pieces)
        pieces.close()
    assert real.generate("夜雨寄北->", do_sample=False).text == expected


def run_child(code: str) -> subprocess.Popen[str]:
    head = f"import json, sys\nsys.path.insert(0, {str(TESTS)!r})\nfrom fake_backend import *\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
