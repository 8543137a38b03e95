"""The demo: the whole way of a model, on a bundled checkpoint."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from baichuan_intel.convert import convert
from baichuan_intel.load import load
from baichuan_intel.model.nano import NanoKind, nano_path
from baichuan_intel.show import generation_facts, speed_line
from baichuan_intel.terminal import show_stream

QUESTION = "解释一下“温故而知新”"
COMPLETION = "登鹳雀楼->王之涣\n夜雨寄北->"


def run_demo(kind: NanoKind, device: str, *, quiet: bool = False) -> dict[str, Any]:
    """Converts the nano checkpoint ``kind`` to INT4, chats, completes a text, prints the speed.

    Raises:
        BaichuanError: a step failed.
    """
    say = (lambda *_, **__: None) if quiet else print
    # Windows may still hold a model file open for a moment.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        started = time.perf_counter()
        artifact = convert(nano_path(kind), Path(folder) / "nano-int4", progress=False)
        convert_s = time.perf_counter() - started
        before = sum(file.bytes for file in artifact.manifest.source.files.values())
        recipe = artifact.manifest.recipe.name
        say(f"converted {before / 1e6:.1f} MB of bf16 to {recipe} in {convert_s:.1f} s\n")
        with load(artifact.folder, device) as model:
            say(f"> {QUESTION}")
            messages = [{"role": "user", "content": QUESTION}]
            answer = show_stream(model.stream(messages, do_sample=False), quiet=quiet)
            say(f"{speed_line(answer)}\n\n> {COMPLETION}", end="")
            completion = show_stream(
                model.stream(COMPLETION, do_sample=False, max_new_tokens=8, stop="\n"), quiet=quiet
            )
            say(speed_line(completion))
    return {
        "convert_s": convert_s,
        "recipe": recipe,
        "chat": generation_facts(answer),
        "completion": generation_facts(completion),
    }
