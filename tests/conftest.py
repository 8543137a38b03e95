"""Checkpoints, artifacts and the command line, for all tests."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import settings

from baichuan_intel.convert import convert
from baichuan_intel.model.nano import nano_path
from factory import Checkpoint, make_config, random_weights, write_checkpoint

torch.set_num_threads(2)
# A shell starts background jobs with Ctrl-C ignored, and children inherit that: the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples at every run, and no clock.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")


def _checkpoint(folder, config) -> Checkpoint:
    weights = random_weights(config)
    return Checkpoint(write_checkpoint(folder, config, weights), config, weights)


@pytest.fixture(scope="session")
def rope_checkpoint(tmp_path_factory) -> Checkpoint:
    """Of the 7B kind."""
    return _checkpoint(tmp_path_factory.mktemp("rope"), make_config("rope"))


@pytest.fixture(scope="session")
def alibi_checkpoint(tmp_path_factory) -> Checkpoint:
    """Of the 13B kind; 6 heads, so that the slopes are interleaved as for 40."""
    config = make_config("alibi", hidden_size=384, num_attention_heads=6)
    return _checkpoint(tmp_path_factory.mktemp("alibi"), config)


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``nano(kind, recipe)`` is the folder of the converted nano model, made once; do not change it."""
    made: dict[tuple[str, str], Path] = {}

    def get(kind: str = "rope", recipe: str = "int4-sym-g128") -> Path:
        if (kind, recipe) not in made:
            out = tmp_path_factory.mktemp("nano") / f"{kind}-{recipe}"
            made[kind, recipe] = convert(nano_path(kind), out, recipe=recipe, progress=False).folder
        return made[kind, recipe]

    return get


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """``cli(*arguments, stdin=text)`` runs the command in this process."""
    from baichuan_intel.cli import main

    def run(*arguments: object, stdin: str | bytes = "") -> Done:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "argv", ["baichuan-intel", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Done(code if isinstance(code, int) else int(code is not None), *capsys.readouterr())

    return run
