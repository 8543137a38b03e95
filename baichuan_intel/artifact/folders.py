"""Output folders: which may be written or replaced, who may write, how a finished one takes its place.

Beside OUT lie, while it is written: OUT.partial (the new files), OUT.lock (held by the writer) and,
for the moment of a replacement, OUT.partial-old (what OUT was). Only a folder that holds a
baichuan_intel.json, or nothing, is ever deleted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from baichuan_intel.artifact.hashing import sync_folder
from baichuan_intel.artifact.manifest import MANIFEST_NAME
from baichuan_intel.errors import ArtifactError, ArtifactExistsError, ArtifactLockedError

PARTIAL, OLD, LOCK = ".partial", ".partial-old", ".lock"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def beside(out: Path, suffix: str) -> Path:
    """``out``'s sibling of that suffix."""
    return out.with_name(out.name + suffix)


def resolve_output(out: str | Path) -> Path:
    """The folder that ``out`` means, links followed: its siblings are on its own disk.

    Raises:
        ArtifactError: no folder can be made of that name.
    """
    try:
        path = Path(out).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ArtifactError(f"{str(out)!r} is no usable output ({error}): choose another") from None
    if path.name.endswith((PARTIAL, OLD, LOCK)) or not path.name:
        raise ArtifactError(
            f"{path} cannot be an output: choose a name that does not end in {PARTIAL} or {LOCK}"
        )
    return path


def check_output(out: str | Path, source: str | Path) -> None:
    """Refuses an output that is the checkpoint's folder, is inside it, or has it inside.

    Raises:
        ArtifactError: they overlap.
    """
    out, source = resolve_output(out), Path(source).resolve()
    if _is_within(out, source) or _is_within(source, out):
        raise ArtifactError(f"output {out} and checkpoint {source} overlap: choose an output outside it")


def check_space(folder: Path, needed_bytes: int) -> None:
    """Refuses a disk with less than ``needed_bytes`` free; ``folder`` need not exist yet.

    Raises:
        ArtifactError: how much is missing.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise ArtifactError(
            f"{folder} has {_gb(free)} free and {_gb(needed_bytes)} are needed: "
            f"free {_gb(needed_bytes - free)} or choose another disk"
        )


def disk_full(error: OSError, partial: Path, needed_bytes: int) -> ArtifactError:
    """The message for a disk that filled up while ``partial`` was written."""
    written = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
    missing = f"about {_gb(needed_bytes - written)}" if needed_bytes > written else "some space"
    return ArtifactError(
        f"the disk is full at {error.filename or partial}: free {missing} or choose another disk"
    )


@contextlib.contextmanager
def explained(out: Path) -> Iterator[None]:
    """Turns what the system refuses while ``out`` is written into an ArtifactError."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"cannot write {out} ({error}): check its folder, permissions and disk"
        ) from error


def check_replaceable(out: Path, overwrite: bool) -> None:
    """Refuses an existing ``out`` unless it may be overwritten.

    Raises:
        ArtifactExistsError: it exists and ``overwrite`` is false, or it is not ours to delete.
        OSError: it cannot be looked at.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise ArtifactExistsError(f"{out} is a file: choose another output")
    if not overwrite:
        raise ArtifactExistsError(f"{out} exists: choose another output or pass --overwrite")
    if not _is_ours(out):
        raise ArtifactExistsError(f"{out} holds other files than an artifact's: choose another output")
    if os.path.ismount(out):
        raise ArtifactExistsError(f"{out} is a mount point: choose a folder inside it")
    for place in (Path.cwd(), Path(os.path.expanduser("~"))):
        if _is_within(place.resolve(), out):
            raise ArtifactExistsError(f"{out} holds {place}: choose another output")


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Holds OUT.lock; the system lets go of it when the process dies, however it dies.

    Raises:
        ArtifactLockedError: another writer holds it.
        ArtifactError: the lock cannot be made.
    """
    from filelock import FileLock, Timeout

    file = beside(out, LOCK)
    lock = FileLock(file)
    with explained(out):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ArtifactLockedError(f"another process is writing {out}: wait until it has ended") from None
    try:
        yield
    finally:
        try:
            if os.name == "posix":
                # While it is held: who has opened the file already finds it without a name and
                # starts over (filelock does so since 3.24). On Windows filelock removes it.
                with contextlib.suppress(OSError):
                    file.unlink()
        finally:
            lock.release()


def remove(folder: Path) -> None:
    """Deletes a folder of ours, if it is there; the manifest last, so that a rest is still ours.

    Raises:
        ArtifactExistsError: it is not ours.
        OSError: it cannot be deleted.
    """
    if not os.path.lexists(folder):
        return
    if not _is_ours(folder):
        raise ArtifactExistsError(f"{folder} is in the way and not ours: move it or choose another output")
    for child in folder.iterdir():
        if child.name != MANIFEST_NAME:
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    shutil.rmtree(folder)


def publish(partial: Path, out: Path) -> None:
    """Gives ``partial`` the name ``out``; what was there comes back if that fails, else is deleted.

    Raises:
        OSError: it cannot be renamed.
    """
    sync_folder(partial)
    old = beside(out, OLD)
    try:
        if os.path.lexists(out):
            _rename(out, old)
        _rename(partial, out)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(out):
            old.rename(out)
        raise
    sync_folder(out.parent)
    # The new artifact is in place: the next run deletes what cannot be deleted now.
    with contextlib.suppress(OSError):
        remove(old)


def repair(out: Path) -> None:
    """Ends a replacement that was killed half-way, under the lock: the old artifact comes back.

    Raises:
        ArtifactExistsError: OUT.partial-old is not ours.
        OSError: it cannot be renamed or deleted.
    """
    old = beside(out, OLD)
    if not os.path.lexists(out):
        if os.path.lexists(old):
            _rename(old, out)
    elif _is_ours(out):
        remove(old)


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder that may be deleted: it holds a manifest, or nothing."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return (folder / MANIFEST_NAME).is_file() or not any(folder.iterdir())


def _is_within(inner: Path, outer: Path) -> bool:
    # normcase: Windows takes A and a for the same.
    return Path(os.path.normcase(inner)).is_relative_to(os.path.normcase(outer))


def _rename(old: Path, new: Path) -> None:
    # On Windows a virus scanner that looks at the new files refuses the first attempts.
    for _ in range(5):
        try:
            old.rename(new)
            return
        except PermissionError:
            time.sleep(0.2)
    old.rename(new)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count:,} bytes"
