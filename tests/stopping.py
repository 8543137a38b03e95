"""Conversions that are killed, or meet Ctrl-C, while they write each of their files; POSIX only.

``python stopping.py FOLDER`` prints the exit codes as json: those of SIGKILL, then those of SIGINT.
A script, for it forks: a process that already runs OpenVINO's threads must not.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

# Once for all that are forked.
import openvino  # noqa: F401
import openvino_tokenizers  # noqa: F401
import transformers.tokenization_utils_sentencepiece  # noqa: F401

from baichuan_intel import cli
from baichuan_intel.artifact.store import verify
from baichuan_intel.model.nano import nano_path

MOMENTS = (
    "baichuan_intel.json",
    "tokenizer.model",
    "openvino_detokenizer.xml",
    "openvino_model.bin",
    "baichuan_intel.json.tmp",
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def convert(out: Path) -> int:
    """The process id of a conversion that has begun."""
    child = os.fork()
    if child:
        return child
    # A kill takes nothing from the system's cache, so that waiting for the disk proves nothing here.
    os.fsync = lambda handle: None
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["baichuan-intel", "convert", str(nano_path("rope")), str(out), "--json"]
    try:
        cli.main()
    except SystemExit as ended:
        os._exit(ended.code)
    os._exit(99)


def stop(child: int, number: int, moment: Path) -> int:
    """The exit code of a conversion that gets the signal as soon as ``moment`` exists."""
    ended = (0, 0)
    while not ended[0] and not moment.exists():
        time.sleep(0.0005)
        ended = os.waitpid(child, os.WNOHANG)
    if not ended[0]:
        os.kill(child, number)
        ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended[1])


def stop_everywhere(base: Path, number: int) -> list[int]:
    base.mkdir()
    out, codes = base / "out", []
    for moment in MOMENTS:
        code = stop(convert(out), number, base / "out.partial" / moment)
        codes.append(code)
        assert out.exists() == (code == 0), (moment, code)
        if code == 0:
            verify(out)
            shutil.rmtree(out)
        elif number == signal.SIGINT:
            assert names(base) == [], (moment, names(base))
    assert os.waitpid(convert(out), 0)[1] == 0
    verify(out)
    assert names(base) == ["out"], names(base)
    return codes


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(json.dumps([stop_everywhere(folder / f"{n}", n) for n in (signal.SIGKILL, signal.SIGINT)]))
