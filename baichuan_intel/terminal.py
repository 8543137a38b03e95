"""The terminal chat, and answers printed as they come."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baichuan_intel.backends.base import Generation
from baichuan_intel.errors import BaichuanError, PromptError
from baichuan_intel.load import Model, Pieces, collect
from baichuan_intel.show import speed_line

_HELP = """\
/reset          forget the conversation
/system [TEXT]  set the system message (none: drop it) and forget the conversation
/save FILE      write the conversation as JSON; FILE must not exist
/stats          what the last answer cost
/help           this list
/exit           leave (also Ctrl-D)
Ctrl-C stops an answer. A pasted text of several lines is one message; Alt-Enter starts a new line."""


def show_stream(pieces: Pieces, *, quiet: bool = False) -> Generation:
    """Prints text as it comes (not when ``quiet``) and returns the whole answer."""
    if quiet:
        return collect(pieces)
    answer = collect(pieces, lambda text: print(text, end="", flush=True))
    print(flush=True)
    return answer


def read_input() -> str:
    """What a pipe brings, less the new line that ends it.

    Raises:
        PromptError: nothing, or not UTF-8.
    """
    try:
        text = sys.stdin.read() if sys.stdin else ""
    except UnicodeDecodeError as error:
        raise PromptError(
            f"the input is not UTF-8 (byte {error.start}): convert it, for instance with iconv"
        ) from None
    text = text.removeprefix("\ufeff").rstrip("\n")
    if not text:
        raise PromptError("the input is empty: pipe some text in")
    return text


def ask_once(
    model: Model, system: str | None, text: str, values: dict[str, Any], stop: Sequence[str], *, quiet: bool
) -> Generation:
    """Answers ``text`` as one user message."""
    messages = [*_system(system), {"role": "user", "content": text}]
    return show_stream(model.stream(messages, stop=stop, **values), quiet=quiet)


class Chat:
    """A conversation at the terminal."""

    def __init__(self, model: Model, system: str | None, values: dict[str, Any], stop: Sequence[str]) -> None:
        self._model, self._values, self._stop = model, values, stop
        self._messages: list[dict[str, str]] = _system(system)
        self._last: Generation | None = None

    def run(self) -> None:
        """Reads messages until /exit or Ctrl-D."""
        from prompt_toolkit import PromptSession

        session: PromptSession[str] = PromptSession(key_bindings=_new_line_keys())
        print("/help lists the commands.", file=sys.stderr)
        while True:
            try:
                text = session.prompt("> ").strip()
                if text == "/exit":
                    return
                self.take(text)
            except EOFError:
                return
            except KeyboardInterrupt:  # empties the line, or ends an answer that cannot be stopped well
                continue
            except (BaichuanError, OSError) as error:
                print(" ".join(str(error).splitlines()), file=sys.stderr)

    def take(self, text: str) -> None:
        """One line: a command, or a message to answer.

        Raises:
            PromptError: the command is unknown or lacks its argument.
            BackendError: the runtime failed; the message is not kept.
        """
        if text.startswith("/"):
            name, *argument = text.split(maxsplit=1)
            self._command(name, "".join(argument))
        elif text:
            self._answer(text)

    def _command(self, name: str, argument: str) -> None:
        if name == "/reset":
            self._messages = [m for m in self._messages if m["role"] == "system"]
        elif name == "/system":
            self._messages = _system(argument)
        elif name == "/save":
            self._save(argument)
        elif name == "/stats":
            print(speed_line(self._last) if self._last else "no answer yet", file=sys.stderr)
        elif name == "/help":
            print(_HELP, file=sys.stderr)
        else:
            raise PromptError(f"no command {name}: /help lists them")

    def _answer(self, text: str) -> None:
        messages = [*self._messages, {"role": "user", "content": text}]
        self._last = show_stream(self._model.stream(messages, stop=self._stop, **self._values))
        if self._last.text:  # a question stopped before its answer began is forgotten
            self._messages = [*messages, {"role": "assistant", "content": self._last.text}]

    def _save(self, name: str) -> None:
        if not name:
            raise PromptError("/save needs a file name")
        try:
            with Path(name).expanduser().open("x", encoding="utf-8") as file:
                json.dump(self._messages, file, ensure_ascii=False, indent=2)
        except FileExistsError:
            raise PromptError(f"{name} already exists: choose another name") from None
        print(f"saved {len(self._messages)} messages", file=sys.stderr)


def _system(text: str | None) -> list[dict[str, str]]:
    return [{"role": "system", "content": text}] if text else []


def _new_line_keys() -> Any:
    """Enter sends; Alt-Enter starts a new line. A paste keeps its own new lines."""
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    return keys
