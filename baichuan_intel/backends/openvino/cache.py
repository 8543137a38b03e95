"""OpenVINO's compiled models, kept for the next start: one folder a user, with a size limit.

::

    $BAICHUAN_INTEL_CACHE or the user's cache folder
    └── compiled/
        └── 3f0c…/          one entry: an artifact, a device, its driver, OpenVINO's version, properties
            ├── lock        held while the entry is being made
            ├── complete    made, whole; its time is the last use
            └── *.blob      OpenVINO's

What lies there can be deleted at any time: it is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baichuan_intel.backends.base import Device
from baichuan_intel.backends.openvino.devices import describe
from baichuan_intel.errors import BackendError

if TYPE_CHECKING:
    from filelock import FileLock

FOLDER = "BAICHUAN_INTEL_CACHE"
LIMIT = "BAICHUAN_INTEL_CACHE_LIMIT_GB"
DEFAULT_LIMIT_GB = 20.0
# An entry used this lately is not evicted: another process may be reading it.
GRACE_S = 3600.0

_COMPLETE, _LOCK, _EVICTED = "complete", "lock", ".evicted"
_ENTRY = re.compile(r"[0-9a-f]{32}")
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def cached_properties(
    core: Any, device: str, properties: Mapping[str, Any], artifact_hash: str
) -> Iterator[dict[str, Any]]:
    """``properties`` with the CACHE_DIR of this model on this device. Open the model inside.

    A CACHE_DIR of the user's stays as it is, and on CPU there is no cache: the blob holds the weights
    as they are before oneDNN repacks them at the first inference, and the repacking is what takes the
    time (measured at 7B: 4.5 GB written, and a second start slower than one without).

    Raises:
        BackendError: the size limit in the environment is not a number.
    """
    if device.startswith("CPU") or "CACHE_DIR" in properties:
        yield dict(properties)
        return
    with cache_folder(cache_key(artifact_hash, describe(core, device), properties)) as folder:
        yield dict(properties) if folder is None else {**properties, "CACHE_DIR": str(folder)}


def cache_key(artifact_hash: str, device: Device, properties: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that change with whatever a compiled model depends on."""
    import openvino

    hardware = [device.full_name, device.architecture, sorted(device.details.items())]
    settings = sorted((key, repr(value)) for key, value in properties.items())
    parts = [artifact_hash, hardware, openvino.get_version(), settings]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@contextlib.contextmanager
def cache_folder(key: str) -> Iterator[Path | None]:
    """The folder of the entry ``key`` for OpenVINO's CACHE_DIR; None where the cache is off.

    One process makes an entry: OpenVINO writes straight to the final name, and mapping a file that
    another process is writing could end this one. Until it is whole, others go without. What a maker
    that died left is cleared. After the block the cache is pruned to its limit.

    Raises:
        BackendError: the size limit in the environment is not a number.
    """
    limit = limit_bytes()
    entry = _open_entry(root() / key) if limit else None
    if entry is None:
        yield None
        return
    folder, lock = entry
    try:
        yield folder
        with contextlib.suppress(OSError):
            if lock is not None:
                (folder / _COMPLETE).touch()
            prune(limit, keep=key)
    finally:
        if lock is not None:
            lock.release()


def prune(limit: int, keep: str = "") -> int:
    """Evicts the entries least recently used until ``limit`` bytes are left, and gives the bytes freed.

    Entries used within the last hour, and the entry ``keep``, stay even above the limit. Only our own
    entries are touched; where a file is in use (Windows) its entry stays.
    """
    for leftover in _folders(_ENTRY.pattern + re.escape(_EVICTED)):
        _delete(leftover)
    entries = [(_last_use(folder), _size(folder), folder) for folder in _folders(_ENTRY.pattern)]
    excess = sum(bytes_ for _, bytes_, _ in entries) - limit
    freed = 0
    for used, bytes_, folder in sorted(entries):
        if excess <= 0:
            break
        if folder.name == keep or time.time() - used < GRACE_S:
            continue
        if _evict(folder):
            freed += bytes_
        elif folder.exists():
            continue
        excess -= bytes_  # gone, by us or by another process
    return freed


def size() -> int:
    """Bytes of all entries."""
    return sum(_size(folder) for folder in _folders(_ENTRY.pattern))


def root() -> Path:
    """The folder of the entries; it need not exist."""
    named = os.environ.get(FOLDER)
    if named:
        return Path(named).expanduser().absolute() / "compiled"
    import platformdirs

    return platformdirs.user_cache_path("baichuan-intel", appauthor=False) / "compiled"


def limit_bytes() -> int:
    """The size limit; 0 turns the cache off.

    Raises:
        BackendError: BAICHUAN_INTEL_CACHE_LIMIT_GB is not a number of gigabytes.
    """
    text = os.environ.get(LIMIT) or str(DEFAULT_LIMIT_GB)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not (math.isfinite(gigabytes) and gigabytes >= 0):
        raise BackendError(f"{LIMIT} is {text!r}: give a number of gigabytes, 0 for no cache")
    return int(gigabytes * 1e9)


def _open_entry(folder: Path) -> tuple[Path, FileLock | None] | None:
    """The entry's folder, with its lock while it is not whole; None, and a note, if it cannot be used."""
    from filelock import FileLock, Timeout

    complete = folder / _COMPLETE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if complete.exists():
            _touch(complete)
            return folder, None
        lock = FileLock(folder / _LOCK)
        lock.acquire(timeout=0)
        if complete.exists():  # made while we asked for the lock
            lock.release()
            return folder, None
        for rest in folder.iterdir():
            if rest.name != _LOCK:
                _delete(rest)
        return folder, lock
    except Timeout:
        _log.warning("another process is compiling this model: compiled here once more, without the cache")
    except (OSError, NotImplementedError) as error:  # the second: a file system without locks
        _log.warning("no compile cache in %s (%s): set %s to a folder you can write", folder, error, FOLDER)
    return None


def _folders(pattern: str) -> list[Path]:
    """The real folders in the cache whose whole name matches."""
    try:
        children = list(root().iterdir())
    except OSError:
        return []
    return [c for c in children if re.fullmatch(pattern, c.name) and c.is_dir() and not c.is_symlink()]


def _evict(folder: Path) -> bool:
    """Renames, which only one process can, then deletes."""
    gone = folder.with_name(folder.name + _EVICTED)
    try:
        folder.rename(gone)
    except OSError:
        return False
    _delete(gone)
    return True


def _delete(path: Path) -> None:
    """Deletes what it can; OpenVINO's blobs are read-only, which stops Windows."""
    if path.is_dir() and not path.is_symlink():
        for file in _files(path):
            with contextlib.suppress(OSError):
                file.chmod(0o600)
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _last_use(folder: Path) -> float:
    """Seconds since the epoch; a folder that vanished is as old as can be."""
    for path in (folder / _COMPLETE, folder):
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def _touch(file: Path) -> None:
    with contextlib.suppress(OSError):  # a cache made ahead on a read-only disk is as good
        file.touch()


def _size(folder: Path) -> int:
    total = 0
    for file in _files(folder):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total


def _files(folder: Path) -> Iterator[Path]:
    """The files below ``folder``, links not followed; what vanishes meanwhile is passed over."""
    for parent, _, names in os.walk(folder):
        yield from (file for file in (Path(parent) / name for name in names) if not file.is_symlink())
