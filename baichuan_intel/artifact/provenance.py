"""Where an artifact comes from: the checkpoint, the tools, the time."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from baichuan_intel import __version__
from baichuan_intel.artifact.hashing import record_file
from baichuan_intel.artifact.manifest import CREATED_FORMAT, FileRecord, Source
from baichuan_intel.errors import ArtifactError

_TOOLS = ("openvino", "openvino_genai", "openvino_tokenizers", "numpy")
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


def tool_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that make an artifact; imports none of them."""
    versions = {"baichuan_intel": __version__, "python": platform.python_version()}
    for tool in _TOOLS:
        try:
            versions[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    return versions


def creation_time() -> str:
    """Now in UTC, as 2026-11-23T12:00:00Z; the environment's SOURCE_DATE_EPOCH (seconds) wins.

    https://reproducible-builds.org/specs/source-date-epoch/

    Raises:
        ArtifactError: SOURCE_DATE_EPOCH is no time.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:
        return datetime.now(timezone.utc).strftime(CREATED_FORMAT)
    try:
        return datetime.fromtimestamp(int(epoch), timezone.utc).strftime(CREATED_FORMAT)
    except (ValueError, OverflowError, OSError):
        raise ArtifactError(f"SOURCE_DATE_EPOCH is {epoch[:80]!r}: set it to seconds since 1970") from None


def _record(file: Path) -> FileRecord:
    size = file.stat().st_size
    return record_file(file) if size <= _HASHED_BYTES else FileRecord(bytes=size)
