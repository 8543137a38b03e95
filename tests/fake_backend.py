"""A runtime without a model: it plays scripts of tokens, delays, errors and calls."""

from __future__ import annotations

import _thread
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from baichuan_intel.backends import base
from baichuan_intel.backends.base import Backend, Device, OnToken, Session
from baichuan_intel.load import Model
from baichuan_intel.model.chat import TurnTokens
from baichuan_intel.model.config import BaichuanConfig
from baichuan_intel.model.nano import nano_path
from baichuan_intel.model.sampling import Sampling
from baichuan_intel.model.tokenizer import Tokenizer

EOS = 2
# A text is its tokens, an int one token, a float seconds to wait; an exception is raised, a function called.
Step = str | int | float | BaseException | Callable[[], object]
Script = Sequence[Step]


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(nano_path("rope"))


@cache
def config() -> BaichuanConfig:
    return BaichuanConfig.from_file(nano_path("rope"))


class FakeSession(Session):
    """Plays one script an answer, the last again and again, as the seam asks of a session.

    It fails where `Model` breaks its side: two answers at once, a use after close, a token after
    ``on_token`` said that the answer is over.
    """

    def __init__(self, *scripts: Script, device: str = "FAKE") -> None:
        self.device = device
        self.scripts = list(scripts)
        self.prompts: list[list[int]] = []
        self.samplings: list[Sampling] = []
        self.emitted = self.closed = 0
        self._busy = False

    def generate(self, ids: Sequence[int], sampling: Sampling, on_token: OnToken) -> None:
        assert not self._busy, "two answers at once"
        assert not self.closed, "used after close"
        self.prompts.append(list(ids))
        self.samplings.append(sampling)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self._busy = True
        try:
            self._play(script, sampling, on_token)
        finally:
            self._busy = False

    def _play(self, script: Script, sampling: Sampling, on_token: OnToken) -> None:
        for n, token in enumerate(_tokens(script), 1):
            self.emitted += 1
            ended = not sampling.ignore_eos and token in sampling.eos_token_ids
            if on_token(token) or ended or n == sampling.max_new_tokens:
                return

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        assert not self.closed, "used after close"
        return np.zeros((len(ids), config().vocab_size), np.float32)

    def close(self) -> None:
        self.closed += 1


def _tokens(script: Script) -> Iterable[int]:
    for step in script:
        if isinstance(step, str):
            yield from tokenizer().encode(step)
        elif isinstance(step, int):
            yield step
        elif isinstance(step, float):
            time.sleep(step)
        elif isinstance(step, BaseException):
            raise step
        else:
            step()


class FakeBackend(Backend):
    """Opens folders as a `FakeSession` of these scripts; ``opened`` records what it was asked for."""

    name = "fake"

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts
        self.opened: list[tuple[Path, str, dict[str, Any], str]] = []
        self.sessions: list[FakeSession] = []

    def check_can_write(self) -> None:
        pass

    def write(self, config: BaichuanConfig, recipe: Any, weights: Any, folder: Path) -> None:
        (folder / "fake_model.json").write_text(f"{sorted(weights)}", encoding="utf-8")

    def open(
        self, folder: Path, config: BaichuanConfig, device: str, properties: Mapping[str, Any], key: str
    ) -> Session:
        self.opened.append((folder, device, dict(properties), key))
        self.sessions.append(FakeSession(*self.scripts, device=device))
        return self.sessions[-1]

    def devices(self) -> Iterable[Device]:
        return [Device(name="FAKE", full_name="A fake device", memory_bytes=1 << 30)]


# What the registry's entry below names; set by `install`.
installed: Callable[[], Backend]


def install(monkeypatch: Any, backend: Backend, name: str = "openvino") -> None:
    """Registers ``backend`` under ``name`` for the length of a test."""
    monkeypatch.setitem(base._BACKENDS, name, f"{__name__}:installed")
    monkeypatch.setattr(f"{__name__}.installed", lambda: backend, raising=False)


def fake_model(*scripts: Script, **config_values: Any) -> Model:
    """A `Model` over a `FakeSession`, with the nano model's tokenizer."""
    import dataclasses

    return Model(
        FakeSession(*scripts),
        tokenizer(),
        dataclasses.replace(config(), **config_values),
        Sampling(),
        TurnTokens(),
        load_s=1.5,
    )


def until_waiting() -> None:
    """A step of a script: goes on once the main thread waits for a token."""
    main, waiting = threading.main_thread().ident, 0
    while waiting < 3:
        time.sleep(0.01)
        waiting = waiting + 1 if sys._current_frames()[main].f_code.co_name == "_pieces" else 0


def interrupt() -> None:
    """A step of a script: Ctrl-C while the main thread waits for a token."""
    until_waiting()
    _thread.interrupt_main()
