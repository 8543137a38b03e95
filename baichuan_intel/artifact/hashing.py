"""SHA-256 of many gigabytes of files, on all cores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from baichuan_intel.artifact.manifest import FileRecord

# Large enough that Python's part is nothing; hashlib lets go of the interpreter lock.
_BLOCK_BYTES = 1 << 20
# Called with the bytes hashed since the last call, from any thread.
OnBytes = Callable[[int], None]


def record_file(path: Path, on_bytes: OnBytes | None = None) -> FileRecord:
    """Size and hash of ``path``.

    Raises:
        OSError: it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    block = memoryview(bytearray(_BLOCK_BYTES))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            size += count
            if on_bytes:
                on_bytes(count)
    return FileRecord(bytes=size, sha256=digest.hexdigest())


def record_files(paths: Sequence[Path], on_bytes: OnBytes | None = None) -> dict[str, FileRecord]:
    """`record_file` of every path, several at a time; keys are the files' names.

    Raises:
        OSError: one cannot be read.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        records = pool.map(lambda path: record_file(path, on_bytes), paths)
        return {path.name: record for path, record in zip(paths, records, strict=True)}


def sync_files(paths: Sequence[Path]) -> None:
    """Waits until the files are on the disk.

    Raises:
        OSError: one cannot be written out, e.g. because the disk is full.
    """
    for path in paths:
        # Windows flushes only through a handle that may write.
        with open(path, "rb" if os.name == "posix" else "rb+", buffering=0) as file:
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the folder's entries are on the disk; Windows has no such call and needs none.

    Raises:
        OSError: the disk failed.
    """
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
