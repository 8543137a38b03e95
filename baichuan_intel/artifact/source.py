"""What an artifact records of the checkpoint that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from baichuan_intel.artifact.hashing import record_file
from baichuan_intel.artifact.manifest import FileRecord, Source

# Hashing the weights as well would read the whole checkpoint a second time.
_HASHED_BYTES = 64 << 20


def describe_source(
    folder: Path,
    files: Sequence[Path],
    *,
    repo: str | None = None,
    revision: str | None = None,
    sha256: Mapping[str, str] | None = None,
) -> Source:
    """What an artifact records of its checkpoint.

    ``files`` are those that were read. ``sha256`` holds hashes that are known already, by file name
    (a download was compared with the hub's); other files are hashed up to 64 MiB, larger ones have
    their size alone.

    Raises:
        ArtifactError: a file has a name that is no safe file name.
        OSError: a file cannot be read.
    """
    name = folder.resolve().name or "unnamed"
    shown = "".join(c if c.isprintable() else "?" for c in name)
    records = {file.name: _record(file, (sha256 or {}).get(file.name)) for file in files}
    return Source(folder=shown, repo=repo, revision=revision, files=records)


def _record(file: Path, sha256: str | None) -> FileRecord:
    size = file.stat().st_size
    if sha256 or size > _HASHED_BYTES:
        return FileRecord(bytes=size, sha256=sha256)
    return record_file(file)
