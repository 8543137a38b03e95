"""Artifacts on disk: written whole or not at all, opened, verified."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from baichuan_intel.artifact import folders
from baichuan_intel.artifact.hashing import OnBytes, record_files, sync_files
from baichuan_intel.artifact.manifest import MANIFEST_NAME, FileRecord, Manifest
from baichuan_intel.artifact.names import check_name
from baichuan_intel.errors import ArtifactCorruptError, ArtifactError, BaichuanError
from baichuan_intel.model.config import BaichuanConfig

_CONVERT = "baichuan-intel convert CHECKPOINT OUT"


@dataclass(frozen=True)
class Artifact:
    """An artifact whose files are all there, at the recorded sizes; ``folder`` is absolute."""

    folder: Path
    manifest: Manifest

    @property
    def config(self) -> BaichuanConfig:
        """The model's geometry."""
        return self.manifest.config


@dataclass(frozen=True)
class FileCheck:
    """One file of an artifact: as recorded and as found, None when it is missing."""

    name: str
    expected: FileRecord
    found: FileRecord | None

    @property
    def ok(self) -> bool:
        """Whether size and hash are the recorded ones."""
        return self.found == self.expected

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.name} is missing"
        if self.found.bytes != self.expected.bytes:
            return f"{self.name} has {self.found.bytes:,} bytes instead of {self.expected.bytes:,}"
        if not self.ok:
            return f"{self.name} has sha256 {self.found.sha256} instead of {self.expected.sha256}"
        return f"{self.name} is unchanged"


@contextlib.contextmanager
def writing(out: str | Path, *, overwrite: bool = False, needed_bytes: int = 0) -> Iterator[Path]:
    """Yields OUT.partial to be filled and given to `seal`; at the end it becomes OUT, in one step.

    Whatever ends the block early, Ctrl-C included, leaves nothing; after a kill OUT.partial is left,
    and deleted by the next call. An OUT that is replaced stays in place until then. The folder
    holds nothing but an unfinished manifest. ``needed_bytes`` must be free on the disk.

    Raises:
        ArtifactExistsError: OUT is there and may not be replaced.
        ArtifactLockedError: another process is writing OUT.
        ArtifactError: the disk is full, OUT cannot be written, or the folder was not sealed.
    """
    target = folders.resolve_output(out)
    partial = folders.beside(target, folders.PARTIAL)
    with folders.explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with folders.locked(target):
        try:
            with folders.explained(target):
                folders.repair(target)
                folders.check_replaceable(target, overwrite)
                folders.remove(partial)
                folders.check_space(target.parent, needed_bytes)
                partial.mkdir()
                (partial / MANIFEST_NAME).write_text("{}\n", encoding="utf-8")
            yield partial
            with folders.explained(target):
                Manifest.read(partial)
                # Somebody else may have put a folder there meanwhile.
                folders.check_replaceable(target, overwrite)
                folders.publish(partial, target)
        except BaseException as error:
            explanation = None
            if isinstance(error, OSError) and error.errno in folders.DISK_FULL:
                explanation = folders.disk_full(error, partial, needed_bytes)
            # What cannot be deleted now is deleted by the next run; the error is what counts.
            with contextlib.suppress(OSError, ArtifactError):
                folders.remove(partial)
            if explanation:
                raise explanation from error
            raise


def seal(partial: Path, manifest: Manifest) -> Manifest:
    """Puts every file of ``partial`` on the disk, hashes them, and writes the finished manifest.

    Returns ``manifest`` with its ``files``.

    Raises:
        ArtifactError: the folder holds something that is not a plain file of a safe name.
        OSError: a file cannot be written out, e.g. because the disk is full.
    """
    paths = sorted(path for path in partial.iterdir() if path.name != MANIFEST_NAME)
    for path in paths:
        check_name(str(partial), path.name)
        if path.is_symlink() or not path.is_file():
            raise ArtifactError(f"{path} is not a plain file and cannot be part of an artifact")
    with ThreadPoolExecutor(1) as pool:
        synced = pool.submit(sync_files, paths)  # the disk and the cores work at the same time
        sealed = dataclasses.replace(manifest, files=record_files(paths))
        synced.result()
    sealed.write(partial)
    return sealed


def open_artifact(folder: str | Path) -> Artifact:
    """Opens an artifact; sizes are checked, hashes are not (see `verify`), extra files are let be.

    Raises:
        ArtifactError: not an artifact; the message says what it is instead and what to do.
        ArtifactVersionError: written by a newer version.
        ArtifactCorruptError: a file is missing or has another size.
    """
    path = _existing(folder)
    manifest = Manifest.read(path)
    checks = [
        FileCheck(name, record, _size_only(path / name, record)) for name, record in manifest.files.items()
    ]
    _raise_for(path, checks)
    return Artifact(path, manifest)


def verify(folder: str | Path, on_bytes: OnBytes | None = None) -> tuple[FileCheck, ...]:
    """Hashes every file of an artifact and compares; ``on_bytes`` gets the bytes done, from any thread.

    Returns one unchanged `FileCheck` a file.

    Raises:
        ArtifactCorruptError: names every file that is missing or changed, with both hashes.
        ArtifactError: not an artifact.
        ArtifactVersionError: written by a newer version.
    """
    path = _existing(folder)
    manifest = Manifest.read(path)
    there = [path / name for name in manifest.files if (path / name).is_file()]
    try:
        found = record_files(there, on_bytes)
    except OSError as error:
        raise ArtifactCorruptError(f"{path} cannot be read ({error}): convert the checkpoint again") from None
    checks = tuple(FileCheck(name, record, found.get(name)) for name, record in manifest.files.items())
    _raise_for(path, checks)
    return checks


def _size_only(file: Path, expected: FileRecord) -> FileRecord | None:
    """The record of ``file`` as far as its size tells."""
    if not file.is_file():
        return None
    return dataclasses.replace(expected, bytes=file.stat().st_size)


def _raise_for(folder: Path, checks: list[FileCheck] | tuple[FileCheck, ...]) -> None:
    wrong = "; ".join(str(check) for check in checks if not check.ok)
    if wrong:
        raise ArtifactCorruptError(
            f"{folder}: {wrong}: convert the checkpoint again or copy the artifact again"
        )


def _existing(folder: str | Path) -> Path:
    """The folder, once it is known to hold a manifest."""
    try:
        path = Path(folder).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{str(folder)!r} is no usable path ({error}): give the artifact's folder"
        ) from None
    if not os.path.lexists(path) and folders.beside(path, folders.OLD).is_dir():
        with folders.locked(path), folders.explained(path):
            folders.repair(path)
    if (path / MANIFEST_NAME).is_file():
        return path
    if path.is_dir():
        raise ArtifactError(_what_else(path))
    if path.exists():
        raise ArtifactError(f"{path} is a file: give the artifact's folder")
    if folders.beside(path, folders.PARTIAL).is_dir():
        raise ArtifactError(
            f"{path} is not finished: wait for its conversion, or run it again if it was stopped"
        )
    raise ArtifactError(f"{path} does not exist: make it with {_CONVERT}")


def _what_else(folder: Path) -> str:
    try:
        BaichuanConfig.from_file(folder)
    except BaichuanError:
        return f"{folder} holds no {MANIFEST_NAME}, so it is not an artifact: make one with {_CONVERT}"
    return f"{folder} is a checkpoint, not an artifact: run baichuan-intel convert {folder} OUT first"
