"""What an artifact records of the checkpoint that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from baichuan_intel.artifact.hashing import record_file
from baichuan_intel.artifact.manifest import FileRecord, Source

# Hashing the weights as well would read the whole checkpoint a second time.
_HASHED_BYTES = 64 << 20


def describe_source(
    folder: Path, files: Sequence[Path], *, repo: str | None = None, revision: str | None = None
) -> Source:
    """What an artifact records of its checkpoint.

    ``files`` are those that were read; up to 64 MiB each is hashed, larger ones have their size alone.

    Raises:
        ArtifactError: a file has a name that is no safe file name.
        OSError: a file cannot be read.
    """
    name = folder.resolve().name or "unnamed"
    shown = "".join(c if c.isprintable() else "?" for c in name)
    return Source(folder=shown, repo=repo, revision=revision, files={f.name: _record(f) for f in files})


def _record(file: Path) -> FileRecord:
    size = file.stat().st_size
    return record_file(file) if size <= _HASHED_BYTES else FileRecord(bytes=size)
