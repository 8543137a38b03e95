"""The terminal chat: what it keeps, what its commands do, and what Ctrl-C stops."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from baichuan_intel.errors import BackendError, PromptError
from baichuan_intel.terminal import Chat, show_stream
from fake_backend import EOS, fake_model, tokenizer

TESTS = Path(__file__).parent
PASTE = "\x1b[200~{}\x1b[201~"
# Bracketed paste is switched on where a line is asked for.
PROMPT = "\x1b[?2004h"
CTRL_C, CTRL_D, ALT_ENTER = "\x03", "\x04", "\x1b\r"


def chat(*scripts, system=None, stop=()):
    model = fake_model(*(scripts or [["好", EOS]]))
    return Chat(model, system, {}, stop), model.session


def type_in(chat: Chat, keys: str) -> None:
    """Runs the chat with a keyboard that types ``keys``, then Ctrl-D."""
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        keyboard.send_text(keys + CTRL_D)
        chat.run()


def turns(*texts: str) -> list[int]:
    """The prompt of a conversation that the user begins."""
    ids = []
    for n, text in enumerate(texts):
        ids += [195 if n % 2 == 0 else 196, *tokenizer().encode(text)]
    return [*ids, 196]


def test_answers_are_shown_as_they_come_and_remembered(capsys):
    talk, session = chat(["一", EOS], ["二", EOS])
    type_in(talk, "first\rsecond\r")
    assert session.prompts == [turns("first"), turns("first", "一", "second")]
    assert capsys.readouterr().out == "一\n二\n"


def test_an_answer_is_printed_piece_by_piece(capsys):
    seen = []
    model = fake_model(["一", lambda: time.sleep(0.05), "二", EOS])
    pieces = model.stream("x")

    def spy():
        for piece in pieces:
            seen.append(capsys.readouterr().out)
            yield piece

    show_stream(spy())
    assert "一" in seen


def test_a_pasted_text_of_several_lines_is_one_message():
    talk, session = chat()
    type_in(talk, PASTE.format("line 1\nline 2\n\nline 4") + "\r")
    assert session.prompts == [turns("line 1\nline 2\n\nline 4")]


def test_alt_enter_starts_a_new_line():
    talk, session = chat()
    type_in(talk, f"line 1{ALT_ENTER}line 2\r")
    assert session.prompts == [turns("line 1\nline 2")]


def test_empty_lines_and_ctrl_c_at_the_prompt_do_nothing():
    talk, session = chat()
    type_in(talk, f"\r  \rnever sent{CTRL_C}sent\r")
    assert session.prompts == [turns("sent")]


@pytest.mark.parametrize("way", ["/exit\rnever\r", ""])
def test_exit_and_ctrl_d_leave(way):
    talk, session = chat()
    type_in(talk, way)
    assert session.prompts == []


def test_reset_forgets_the_conversation_but_not_the_system_message():
    talk, session = chat(system="诗人")
    for line in ("one", "/reset", "two"):
        talk.take(line)
    assert session.prompts[1] == [*tokenizer().encode("诗人"), *turns("two")]


def test_system_sets_or_drops_the_system_message_and_forgets_the_conversation():
    talk, session = chat(system="旧")
    for line in ("one", "/system\n新的\n诗人", "two", "/system", "three"):
        talk.take(line)
    assert session.prompts[1:] == [[*tokenizer().encode("新的\n诗人"), *turns("two")], turns("three")]


def test_save_writes_the_conversation_once(tmp_path, capsys):
    talk, _ = chat(system="诗人")
    talk.take("你好")
    file = tmp_path / "a file.json"
    talk.take(f"/save {file}")
    saved = [("system", "诗人"), ("user", "你好"), ("assistant", "好")]
    assert [(m["role"], m["content"]) for m in json.loads(file.read_text("utf-8"))] == saved
    assert "saved 3 messages" in capsys.readouterr().err
    with pytest.raises(PromptError, match="already exists: choose another name"):
        talk.take(f"/save {file}")
    with pytest.raises(PromptError, match="/save needs a file name"):
        talk.take("/save")


def test_stats_and_help_go_to_stderr(capsys):
    talk, _ = chat()
    talk.take("/stats")
    assert capsys.readouterr().err == "no answer yet\n"
    talk.take("你好")
    talk.take("/stats")
    talk.take("/help")
    out, err = capsys.readouterr()
    assert out == "好\n"
    assert err.startswith(f"[{len(turns('你好'))} prompt + 1 new tokens, first token ")
    assert all(command in err for command in ("/reset", "/system", "/save", "/stats", "/exit"))


def test_an_error_is_one_line_and_the_chat_goes_on(capsys, tmp_path):
    talk, session = chat([BackendError("it broke:\nhere")], ["好", EOS])
    type_in(talk, f"one\r/sing\r/save {tmp_path}/no/such\rtwo\r")
    err = capsys.readouterr().err.splitlines()
    assert err[1:3] == ["it broke: here", "no command /sing: /help lists them"]
    assert "No such file" in err[3]
    assert len(err) == 4
    # A message without an answer is not kept.
    assert session.prompts[1] == turns("two")


def test_a_message_that_cannot_be_encoded_is_an_error_and_not_kept():
    talk, session = chat()
    with pytest.raises(PromptError, match="lone surrogate"):
        talk.take("\ud83d")
    talk.take("two")
    assert session.prompts == [turns("two")]


def test_ctrl_c_while_text_is_printed_ends_the_answer_and_keeps_it(monkeypatch):
    talk, session = chat(["一", *["二", 0.01] * 500], ["三", EOS])
    real_print, count = print, []

    def interrupted_print(*args, **options):
        real_print(*args, **options)
        count.append(args)
        if len(count) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupted_print)
    talk.take("one")
    monkeypatch.undo()
    assert session.emitted < 500
    talk.take("two")
    answer = tokenizer().decode(session.prompts[1]).removeprefix("one").partition("two")[0]
    assert "一二" in answer


def test_a_question_stopped_before_its_answer_is_forgotten():
    talk, session = chat([EOS], ["好", EOS])
    talk.take("one")
    talk.take("two")
    assert session.prompts[1] == turns("two")


def test_stop_strings_reach_the_answer(capsys):
    talk, _ = chat(["一二。三"], stop=("。",))
    talk.take("x")
    assert capsys.readouterr().out == "一二\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_ctrl_c_at_a_real_terminal_stops_the_answer_and_not_the_program(nano):
    code = f"""
        import sys
        sys.path.insert(0, {str(TESTS)!r})
        import fake_backend
        from baichuan_intel.backends import base
        from baichuan_intel.cli import main
        slow = fake_backend.FakeBackend(["白日", *["依", 0.02] * 5000])
        base._BACKENDS["openvino"], fake_backend.installed = "fake_backend:installed", lambda: slow
        sys.argv = ["baichuan-intel", "chat", {str(nano())!r}]
        main()
    """
    import pty

    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # it becomes the controlling terminal
    )
    os.close(follower)
    screen = b""

    def until(text: str) -> None:
        nonlocal screen
        while text.encode() not in screen:
            assert select.select([leader], [], [], 60)[0], f"no {text!r} after {screen!r}"
            screen += os.read(leader, 4096)
        screen = screen.partition(text.encode())[2]

    try:
        until(PROMPT)
        os.write(leader, "你好\r".encode())
        until("白日依")
        os.write(leader, CTRL_C.encode())
        until(PROMPT)
        os.write(leader, b"/stats\r")
        until("interrupted]")
        until(PROMPT)
        os.write(leader, b"/exit\r")
        assert child.wait(timeout=60) == 0
    finally:
        child.kill()
        child.wait()
        os.close(leader)
