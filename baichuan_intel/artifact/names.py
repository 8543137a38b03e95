"""File names that are safe to join to a folder, on every system."""

from __future__ import annotations

from baichuan_intel.errors import ArtifactError

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: neither the characters nor the
# device names may be used there, whatever the extension.
_FORBIDDEN = frozenset('<>:"/\\|?*')
_DEVICES = frozenset(
    {"CON", "PRN", "AUX", "NUL"} | {f"{d}{n}" for d in ("COM", "LPT") for n in "0123456789¹²³"}
)


def check_name(where: str, name: object) -> None:
    """Refuses a file name that is not one plain name inside the folder on every system.

    Raises:
        ArtifactError: a path, a drive, a device name, or unprintable characters.
    """
    safe = (
        isinstance(name, str)
        and 0 < len(name) <= 255
        and name.isprintable()  # no control characters, no lone surrogates
        and not _FORBIDDEN.intersection(name)
        and not name.endswith((".", " "))  # Windows drops them; . and .. are among these
        and name.partition(".")[0].rstrip().upper() not in _DEVICES
    )
    if not safe:
        raise ArtifactError(f"{where} names {short(name)}, which is not a safe file name")


def short(value: object) -> str:
    """``value`` for a message, cut where a hostile file would fill the screen."""
    return repr(value)[:80]
