"""By what and when an artifact was made."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata

from baichuan_intel import __version__
from baichuan_intel.errors import ArtifactError

CREATED_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_TOOLS = ("openvino", "openvino_genai", "openvino_tokenizers", "numpy")


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
