"""Writers that are killed, interrupted or meet a full disk before any of their file operations."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from baichuan_intel.artifact.manifest import Manifest
from baichuan_intel.artifact.store import open_artifact, seal, verify, writing
from baichuan_intel.errors import ArtifactError, ArtifactLockedError

OLD, NEW = {"old.bin": b"old"}, {"new.bin": b"new", "config.json": b"{}"}
FILE_EVENTS = {
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.listdir",
    "os.scandir",
    "os.truncate",
}


def convert(out: Path, content: dict[str, bytes], manifest: Manifest) -> None:
    with writing(out, overwrite=True) as partial:
        for name, data in content.items():
            (partial / name).write_bytes(data)
        seal(partial, manifest)


class Fault:
    """Does ``action`` before the ``at``-th file operation below ``folder``; audit hooks cannot be removed."""

    def __init__(self) -> None:
        self.folder, self.at, self.count = "", 0, 0
        sys.addaudithook(self.hook)

    def action(self) -> None:
        raise NotImplementedError

    def hook(self, event: str, args: tuple[object, ...]) -> None:
        if not self.at or event not in FILE_EVENTS or not str(args[0]).startswith(self.folder):
            return
        self.count += 1
        if self.count == self.at:
            self.action()

    def arm(self, folder: Path, at: int) -> None:
        self.folder, self.at, self.count = str(folder), at, 0

    def disarm(self) -> bool:
        """Whether the fault came."""
        came, self.at = self.count >= self.at, 0
        return came


class Kill(Fault):
    def action(self) -> None:
        os.kill(os.getpid(), 9)


class Raise(Fault):
    error: BaseException = KeyboardInterrupt()

    def action(self) -> None:
        raise self.error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(out: Path) -> dict[str, bytes]:
    return {check.name: (out / check.name).read_bytes() for check in verify(out)}


def check_after(out: Path, before: dict[str, bytes] | None, manifest: Manifest) -> None:
    """OUT is as before or new, never between; the next run works and leaves nothing beside it."""
    if before is None and not out.exists():
        with pytest.raises(ArtifactError):
            open_artifact(out)
    else:
        assert content(out) in (before, NEW)
    convert(out, NEW, manifest)
    assert content(out) == NEW
    assert names(out.parent) == [out.name]


def kill_everywhere(base: Path, before: dict[str, bytes] | None, manifest: Manifest) -> int:
    """Runs in its own process: forks a writer for each of its file operations and kills it there."""
    fault = Kill()
    for at in range(1, 1000):
        out = base / str(at) / "out"
        out.parent.mkdir(parents=True)
        if before is not None:
            convert(out, before, manifest)
        child = os.fork()
        if not child:
            fault.arm(out.parent, at)
            convert(out, NEW, manifest)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        check_after(out, before, manifest)
        if status != -9:
            assert status == 0
            return at - 1
    raise AssertionError("the writer never ends")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("before", [None, OLD])
def test_kill_before_every_file_operation(
    tmp_path: Path, manifest: Manifest, before: dict[str, bytes] | None
) -> None:
    (tmp_path / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    script = f"""
        import importlib.util, os, pathlib
        from baichuan_intel.artifact.manifest import Manifest
        spec = importlib.util.spec_from_file_location("interrupted", {__file__!r})
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        # A kill takes nothing from the system's cache, so that waiting for the disk proves nothing here.
        os.fsync = lambda handle: None
        base = pathlib.Path({str(tmp_path)!r})
        manifest = Manifest.from_json((base / "manifest.json").read_text(encoding="utf-8"))
        print(module.kill_everywhere(base, {before!r}, manifest))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Fewer would mean that the writer's own operations are not seen.
    assert int(done.stdout) > 12


@pytest.fixture(scope="module")
def fault() -> Raise:
    return Raise()


@pytest.mark.parametrize("before", [None, OLD])
@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), ArtifactError),
    ],
)
def test_an_error_before_every_file_operation(
    tmp_path: Path,
    manifest: Manifest,
    fault: Raise,
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, bytes] | None,
    error: BaseException,
    seen: type[BaseException],
) -> None:
    fault.error = error
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    for at in range(1, 1000):
        out = tmp_path / str(at) / "out"
        out.parent.mkdir()
        if before is not None:
            convert(out, before, manifest)
        fault.arm(out.parent, at)
        try:
            convert(out, NEW, manifest)
        except seen:
            pass
        finally:
            came = fault.disarm()
        if not out.exists():
            assert not out.with_name("out.partial").exists()
        check_after(out, before, manifest)
        if not came:
            assert at > 12
            return
    pytest.fail("the writer never ends")


def test_two_writers_and_a_kill(tmp_path: Path, manifest: Manifest) -> None:
    """A second writer is refused at once; a killed first one blocks nobody."""
    out = tmp_path / "out"
    script = """
        import pathlib, sys
        from baichuan_intel.artifact.store import writing
        with writing(pathlib.Path(sys.argv[1])) as partial:
            (partial / "weights").write_bytes(b"x" * 100_000)
            print("ready", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
        with pytest.raises(ArtifactLockedError, match="another process is writing"), writing(out):
            pytest.fail("two writers")
        assert (tmp_path / "out.partial" / "weights").stat().st_size == 100_000
        writer.kill()
    assert not out.exists()
    with pytest.raises(ArtifactError, match="is not finished"):
        open_artifact(out)
    convert(out, NEW, manifest)
    assert content(out) == NEW
    assert names(tmp_path) == ["out"]


def test_two_writers_in_one_process(tmp_path: Path, manifest: Manifest) -> None:
    with writing(tmp_path / "out") as partial:
        with pytest.raises(ArtifactLockedError), writing(tmp_path / "out"):
            pytest.fail("two writers")
        convert(tmp_path / "other", NEW, manifest)
        seal(partial, manifest)
    assert names(tmp_path) == ["other", "out"]


def test_many_writers_take_turns(tmp_path: Path) -> None:
    """Locks are made and removed all the time; never do two writers hold one."""
    script = """
        import os, pathlib, sys
        from baichuan_intel.artifact.folders import locked
        from baichuan_intel.errors import ArtifactLockedError
        out, inside = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1] + ".inside")
        held = 0
        for _ in range(400):
            try:
                with locked(out):
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                    held += 1
                    inside.unlink()
            except ArtifactLockedError:
                pass
        print(held)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "out")]
    writers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for writer in writers:
        held, errors = writer.communicate()
        assert writer.returncode == 0, errors
        assert int(held) > 0
    assert names(tmp_path) == []
