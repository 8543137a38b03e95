"""What a command cost: seconds and memory of its whole process tree; and what ran it. Linux only.

Private memory is RssAnon, plus what of it was swapped out, summed over the command and all its
descendants: memory that no file backs. Pages of mapped checkpoints and artifacts are the page
cache's, which the kernel takes back when it needs them, and are not in it.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

SCHEMA = 1
INTERVAL_S = 0.02
# Listing the processes of a machine takes milliseconds, so new children are looked for less often.
TREE_INTERVAL_S = 0.25
# Those that decide how fast 4-bit matrices are read and multiplied.
FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
)
PACKAGES = (
    "baichuan-intel",
    "openvino",
    "openvino-genai",
    "openvino-tokenizers",
    "numpy",
    "torch",
    "safetensors",
    "transformers",
)


@dataclass(frozen=True)
class Measured:
    """One command: seconds by the clock and of all cores together, bytes, the peaks of all samples."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float
    cpu_seconds: float
    peak_private_bytes: int
    peak_processes: int
    samples: int


def run(command: Sequence[str]) -> Measured:
    """Runs ``command`` to its end, watching the memory of its process tree."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start, cpu = time.perf_counter(), _children_cpu_s()
        child = subprocess.Popen(command, stdout=out, stderr=err)
        watch = _Watch(child.pid)
        returncode = child.wait()
        seconds = time.perf_counter() - start
        watch.stop()
        return Measured(
            returncode=returncode,
            stdout=_text(out),
            stderr=_text(err),
            seconds=seconds,
            cpu_seconds=_children_cpu_s() - cpu,
            peak_private_bytes=watch.peak_bytes,
            peak_processes=watch.peak_processes,
            samples=watch.samples,
        )


class _Watch(threading.Thread):
    """Samples the tree under one process until stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = self.peak_processes = self.samples = 0
        self._pid = pid
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        tree, listed = [self._pid], 0.0
        while True:
            if time.perf_counter() - listed > TREE_INTERVAL_S:
                tree, listed = _tree(self._pid), time.perf_counter()
            self.peak_bytes = max(self.peak_bytes, sum(map(private_bytes, tree)))
            self.peak_processes = max(self.peak_processes, len(tree))
            self.samples += 1
            if self._done.wait(INTERVAL_S):
                return

    def stop(self) -> None:
        self._done.set()
        self.join()


def _children_cpu_s() -> float:
    """User and system time of all ended descendants."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _tree(pid: int) -> list[int]:
    try:
        return [pid, *(p.pid for p in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def private_bytes(pid: int) -> int:
    """RssAnon + VmSwap of one process; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return sum(1024 * int(fields.get(key, "0 kB").split()[0]) for key in ("RssAnon", "VmSwap"))


def machine() -> dict[str, Any]:
    """What ran the measurement: no name of the host, no path."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in info.splitlines())}
    flags = set(fields.get("flags", "").split())
    return {
        "cpu": fields.get("model name", "unknown"),
        "cpu_family_model": f"{fields.get('cpu family')}/{fields.get('model')}",
        "cpu_flags": [flag for flag in FLAGS if flag in flags],
        "cores": psutil.cpu_count(logical=False),
        "threads": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def disk_rates(folder: Path, size: int = 2 << 30) -> dict[str, float]:
    """Bytes per second of writing (with fsync) and reading back (not from the page cache) in ``folder``."""
    block = os.urandom(8 << 20)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - start
        drop_cache([Path(file.name)])
        start = time.perf_counter()
        with open(file.name, "rb", buffering=0) as again:
            while again.read(len(block)):
                pass
        read = time.perf_counter() - start
    return {"write_bytes_per_s": size / written, "read_bytes_per_s": size / read}


def drop_cache(files: Iterable[Path]) -> None:
    """Takes the files' pages out of the page cache; needs no right beyond reading them."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm_cache(files: Iterable[Path]) -> None:
    """Reads the files, so that their pages are in the page cache."""
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.read(8 << 20):
                pass


def folder_bytes(folder: Path) -> int:
    """Sum of the sizes of all files under ``folder``."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def row(name: str, value: float, limit: float) -> dict[str, Any]:
    """One line of a record: what was measured, how much it may be, whether it is."""
    return {"name": name, "value": value, "limit": limit, "pass": value <= limit}


def write_record(path: Path, record: dict[str, Any]) -> bool:
    """Writes ``record`` with the machine and the schema beside it; returns whether every row passes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"schema": SCHEMA, "date": time.strftime("%Y-%m-%d"), "machine": machine()} | record
    path.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for line in record["rows"]:
        verdict = "pass" if line["pass"] else "FAIL"
        print(f"{verdict}  {line['name']}: {line['value']:.4g} (limit {line['limit']:.4g})")
    return all(line["pass"] for line in record["rows"])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _text(file: Any) -> str:
    file.seek(0)
    return file.read().decode("utf-8", errors="replace")
