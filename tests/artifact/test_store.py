from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from baichuan_intel.artifact import folders
from baichuan_intel.artifact.folders import check_output, check_space
from baichuan_intel.artifact.manifest import Manifest
from baichuan_intel.artifact.store import open_artifact, seal, verify, writing
from baichuan_intel.errors import (
    ArtifactCorruptError,
    ArtifactError,
    ArtifactExistsError,
    ArtifactLockedError,
    ArtifactVersionError,
)

Make = Callable[..., Path]
CONFIG = {
    "architectures": ["BaichuanForCausalLM"],
    "model_type": "baichuan",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 100,
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write_and_raise(
    out: Path, error: BaseException, size: int = 1, needed_bytes: int = 0, overwrite: bool = False
) -> None:
    with writing(out, overwrite=overwrite, needed_bytes=needed_bytes) as partial:
        (partial / "sub").mkdir()
        with open(partial / "sub" / "weights", "wb") as file:
            file.truncate(size)
        raise error


def test_round_trip(make: Make, tmp_path: Path) -> None:
    # Over the block size, and not a multiple of it.
    content = {"config.json": b"{}", "openvino_model.bin": os.urandom((9 << 20) + 7), "empty": b""}
    out = make(tmp_path / "a" / "b" / "out", content)
    artifact = open_artifact(out)
    assert artifact.folder == out
    assert artifact.config.hidden_size == 256
    assert {name: r.bytes for name, r in artifact.manifest.files.items()} == {
        name: len(data) for name, data in content.items()
    }
    assert {name: r.sha256 for name, r in artifact.manifest.files.items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in content.items()
    }
    assert names(out) == sorted([*content, "baichuan_intel.json"])
    assert names(out.parent) == ["out"]
    assert {check.name for check in verify(out)} == set(content)


def test_verify_tells_its_progress(make: Make, tmp_path: Path) -> None:
    out = make(tmp_path / "out", {"a": bytes(5 << 20), "b": b"12345"})
    counts: list[int] = []
    assert all(check.ok for check in verify(out, counts.append))
    assert sum(counts) == open_artifact(out).manifest.total_bytes == (5 << 20) + 5
    assert len(counts) > 2  # more than once a file


def test_nothing_is_at_out_before_the_end(manifest: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with writing(out) as partial:
        assert partial == tmp_path / "out.partial"
        assert names(partial) == ["baichuan_intel.json"]
        (partial / "config.json").write_bytes(b"{}")
        with pytest.raises(ArtifactError, match="is not finished"):
            open_artifact(out)
        with pytest.raises(ArtifactError, match="did not finish"):
            open_artifact(partial)
        seal(partial, manifest)
        assert not out.exists()
    assert open_artifact(out)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), ValueError("x"), SystemExit(1), PermissionError(13, "no")]
)
def test_an_error_leaves_nothing_and_comes_through(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        write_and_raise(tmp_path / "out", error)
    assert caught.value is error
    assert names(tmp_path) == []


def test_a_folder_that_was_not_sealed_does_not_become_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="did not finish"), writing(tmp_path / "out") as partial:
        (partial / "config.json").write_bytes(b"{}")
    assert names(tmp_path) == []


def test_seal_refuses_folders_and_links(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    with writing(tmp_path / "out") as partial:
        (partial / "sub").mkdir()
        with pytest.raises(ArtifactError, match="not a plain file"):
            seal(partial, manifest)
        (partial / "sub").rmdir()
        try:
            (partial / "link").symlink_to(tmp_path / "secret")
        except OSError:
            pytest.skip("this account may not make links")
        with pytest.raises(ArtifactError, match="not a plain file"):
            seal(partial, manifest)
        (partial / "link").unlink()
        seal(partial, manifest)


# Existing outputs


def test_existing_out_is_refused_before_any_work(make: Make, tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    before = tree(out)
    with pytest.raises(ArtifactExistsError, match="--overwrite"), writing(out):
        pytest.fail("the block ran")
    assert tree(out) == before
    assert names(tmp_path) == ["out"]


def test_overwrite_replaces_an_artifact_whole(make: Make, tmp_path: Path) -> None:
    out = make(tmp_path / "out", {"old.bin": b"old"}, backend="old")
    make(out, {"new.bin": b"new"}, overwrite=True)
    assert names(out) == ["baichuan_intel.json", "new.bin"]
    assert verify(out)
    assert names(tmp_path) == ["out"]


def test_the_old_artifact_stays_until_the_new_one_is_whole(
    make: Make, manifest: Manifest, tmp_path: Path
) -> None:
    out = make(tmp_path / "out", {"old.bin": b"old"})
    with writing(out, overwrite=True) as partial:
        (partial / "new.bin").write_bytes(b"new")
        seal(partial, manifest)
        assert verify(out)[0].name == "old.bin"
    assert verify(out)[0].name == "new.bin"


def test_overwrite_that_fails_keeps_the_old(make: Make, tmp_path: Path) -> None:
    out = make(tmp_path / "out", {"old.bin": b"old"})
    before = tree(out)
    with pytest.raises(KeyboardInterrupt):
        write_and_raise(out, KeyboardInterrupt(), overwrite=True)
    assert tree(out) == before
    assert names(tmp_path) == ["out"]


def test_overwrite_takes_an_empty_folder(make: Make, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactExistsError, match="--overwrite"):
        make(tmp_path / "out")
    assert verify(make(tmp_path / "out", overwrite=True))
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_folders_and_files_are_never_replaced(make: Make, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "photos" / "2019").mkdir(parents=True)
    (tmp_path / "photos" / "2019" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "file").write_bytes(b"file")
    before = tree(tmp_path)
    for name in ("photos", "file"):
        with pytest.raises(ArtifactExistsError):
            make(tmp_path / name, overwrite=overwrite)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("where", ["home", "cwd"])
def test_home_and_working_folder_are_never_replaced(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    out = make(tmp_path / "out")
    (out / "inner").mkdir()
    if where == "cwd":
        monkeypatch.chdir(out / "inner")
    else:
        monkeypatch.setenv("HOME", str(out / "inner"))
        monkeypatch.setenv("USERPROFILE", str(out / "inner"))
    before = tree(out)
    with pytest.raises(ArtifactExistsError, match="inner"):
        make(out, overwrite=True)
    assert tree(out) == before


def test_a_mount_point_is_refused_before_any_work(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = make(tmp_path / "out")
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == out)
    with pytest.raises(ArtifactExistsError, match="mount point"), writing(out, overwrite=True):
        pytest.fail("the block ran")


def test_a_folder_that_appears_meanwhile_is_kept(manifest: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write() -> None:
        with writing(out) as partial:
            seal(partial, manifest)
            out.mkdir()

    with pytest.raises(ArtifactExistsError):
        write()
    assert names(tmp_path) == ["out"]
    assert names(out) == []


def test_out_through_a_link(make: Make, tmp_path: Path) -> None:
    real = make(tmp_path / "disk" / "real")
    link = tmp_path / "link"
    try:
        link.symlink_to(real, target_is_directory=True)
    except OSError:
        pytest.skip("this account may not make links")
    with pytest.raises(ArtifactExistsError):
        make(link)
    make(link, {"new.bin": b"new"}, overwrite=True)
    assert link.is_symlink()
    assert names(real) == ["baichuan_intel.json", "new.bin"]
    assert names(tmp_path) == ["disk", "link"]
    assert names(tmp_path / "disk") == ["real"]
    assert open_artifact(link).folder == real
    # A link to nothing: the folder appears where it points.
    shutil.rmtree(real)
    make(link)
    assert verify(real)


@pytest.mark.parametrize("name", ["x.partial", "x.lock", "x.partial-old", "/", "a\0b"])
def test_unusable_outputs(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError), writing(tmp_path / name):
        pytest.fail("the block ran")


def test_out_below_a_file(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactError, match="cannot write"):
        make(tmp_path / "file" / "out")


def test_a_foreign_partial_folder_is_not_deleted(make: Make, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "download").write_bytes(b"mine")
    with pytest.raises(ArtifactExistsError, match="not ours"):
        make(tmp_path / "out")
    assert tree(tmp_path) == {str(Path("out.partial/download")): b"mine"}


def test_a_partial_that_is_a_link_is_not_followed(make: Make, tmp_path: Path) -> None:
    real = make(tmp_path / "real")
    try:
        (tmp_path / "out.partial").symlink_to(real, target_is_directory=True)
    except OSError:
        pytest.skip("this account may not make links")
    with pytest.raises(ArtifactExistsError, match="not ours"):
        make(tmp_path / "out")
    assert verify(real)


def test_a_backup_that_the_user_made_is_not_touched(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "out.old", {"mine": b"1"})
    make(tmp_path / "out")
    make(tmp_path / "out", overwrite=True)
    assert verify(tmp_path / "out.old")


# Replacement, step by step


def test_a_failed_second_rename_brings_the_old_back(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = make(tmp_path / "out", {"old.bin": b"old"})
    before = tree(out)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(errno.EIO, "disk failed")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ArtifactError, match="disk failed"):
        make(out, {"new.bin": b"new"}, overwrite=True)
    assert tree(out) == before
    assert names(tmp_path) == ["out"]


def test_a_rename_is_tried_again(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, refusals = Path.rename, [PermissionError(13, "scanned"), PermissionError(13, "scanned")]

    def scanned(self: Path, target: Path) -> Path:
        if refusals:
            raise refusals.pop()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", scanned)
    monkeypatch.setattr(folders.time, "sleep", lambda seconds: None)
    assert verify(make(tmp_path / "out"))


@pytest.mark.parametrize("opener", [open_artifact, verify])
def test_opening_ends_a_replacement_that_was_killed(
    make: Make, tmp_path: Path, opener: Callable[[Path], object]
) -> None:
    out = make(tmp_path / "out", {"old.bin": b"old"})
    out.rename(tmp_path / "out.partial-old")
    assert opener(out)
    assert names(tmp_path) == ["out"]


def test_opening_leaves_a_replacement_in_progress_alone(make: Make, tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    with folders.locked(out):
        out.rename(tmp_path / "out.partial-old")
        with pytest.raises(ArtifactLockedError):
            open_artifact(out)
    assert open_artifact(out)


def test_writing_deletes_what_a_killed_replacement_left(make: Make, tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    shutil.copytree(out, tmp_path / "out.partial-old")
    make(out, overwrite=True)
    assert names(tmp_path) == ["out"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_everything_is_on_the_disk_before_it_has_its_name(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, rename, events = os.fsync, Path.rename, []

    def note_sync(handle: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def note_rename(self: Path, target: Path) -> Path:
        events.append(f"{self.name} -> {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    make(tmp_path / "out", {"a": b"1", "b": b"2"})
    written = ["a", "b", "baichuan_intel.json.tmp", "out.partial"]
    assert events == [*written, "out.partial -> out", tmp_path.name]


# Source, space


@pytest.mark.parametrize(
    ("out", "source"), [("a", "a"), ("a/b", "a"), ("a", "a/b"), ("a/../b", "b"), ("a/b/c", "a")]
)
def test_output_and_source_may_not_overlap(tmp_path: Path, out: str, source: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="overlap"):
        check_output(tmp_path / out, tmp_path / source)


def test_output_may_not_reach_the_source_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    try:
        (tmp_path / "link").symlink_to(tmp_path / "source", target_is_directory=True)
    except OSError:
        pytest.skip("this account may not make links")
    with pytest.raises(ArtifactError, match="overlap"):
        check_output(tmp_path / "link" / "out", tmp_path / "source")


def test_output_beside_the_source(tmp_path: Path) -> None:
    check_output(tmp_path / "model-int4", tmp_path / "model")


def test_check_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def usage(folder: Path) -> object:
        asked.append(folder)
        return shutil._ntuple_diskusage(10**12, 0, 3_000_000_000)  # type: ignore[attr-defined]

    monkeypatch.setattr(shutil, "disk_usage", usage)
    check_space(tmp_path / "not" / "yet", 3_000_000_000)
    with pytest.raises(ArtifactError, match=r"has 3\.0 GB free and 4\.4 GB are needed: free 1\.4 GB"):
        check_space(tmp_path / "not" / "yet", 4_400_000_000)
    assert set(asked) == {tmp_path}


def test_check_space_asks_the_real_disk(tmp_path: Path) -> None:
    check_space(tmp_path, 1)
    with pytest.raises(ArtifactError, match="are needed"):
        check_space(tmp_path, 1 << 60)


def test_writing_checks_space_first(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="are needed"), writing(tmp_path / "out", needed_bytes=1 << 60):
        pytest.fail("the block ran")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("needed", "missing"), [(1_000_000_000, r"free about 0\.9 GB"), (0, "free some space")]
)
def test_a_full_disk_is_explained(tmp_path: Path, needed: int, missing: str) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ArtifactError, match=f"disk is full.*{missing}"):
        write_and_raise(tmp_path / "out", error, size=100_000_000, needed_bytes=needed)
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_of_the_system(tmp_path: Path) -> None:
    def write() -> None:
        with writing(tmp_path / "out") as partial:
            (partial / "weights").symlink_to("/dev/full")
            (partial / "weights").write_bytes(b"x" * 100_000)

    with pytest.raises(ArtifactError, match="disk is full"):
        write()
    assert names(tmp_path) == []


# Damage


def test_damage_is_named_by_open_where_sizes_tell(make: Make, tmp_path: Path) -> None:
    out = make(tmp_path / "out", {"a": b"aaaa", "b": b"bbbb", "c": b"cccc", "d": b"dddd"})
    (out / "a").unlink()
    (out / "b").write_bytes(b"bbb")
    (out / "c").write_bytes(b"cccX")
    (out / "d").unlink()
    (out / "d").mkdir()
    with pytest.raises(ArtifactCorruptError) as caught:
        open_artifact(out)
    message = str(caught.value)
    assert "a is missing; b has 3 bytes instead of 4; d is missing" in message
    assert "c " not in message.replace("config", "")
    with pytest.raises(ArtifactCorruptError) as caught:
        verify(out)
    message = str(caught.value)
    assert "a is missing" in message
    assert "b has 3 bytes instead of 4" in message
    assert "d is missing" in message
    assert hashlib.sha256(b"cccc").hexdigest() in message
    assert hashlib.sha256(b"cccX").hexdigest() in message
    assert "\n" not in message


def test_one_changed_bit_passes_open_and_fails_verify(make: Make, tmp_path: Path) -> None:
    out = make(tmp_path / "out", {"big": bytes(5 << 20)})
    with open(out / "big", "r+b") as file:
        file.seek((5 << 20) - 1)
        file.write(b"\1")
    assert open_artifact(out)
    with pytest.raises(ArtifactCorruptError, match="big has sha256"):
        verify(out)


def test_extra_files_are_let_be(make: Make, tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    (out / "README.md").write_text("mine")
    assert open_artifact(out)
    assert verify(out)


def test_files_may_be_links_as_in_a_hub_cache(make: Make, tmp_path: Path) -> None:
    out = make(tmp_path / "out", {"weights": b"1234"})
    (out / "weights").rename(tmp_path / "blob")
    try:
        (out / "weights").symlink_to(tmp_path / "blob")
    except OSError:
        pytest.skip("this account may not make links")
    assert verify(out)


def test_a_newer_schema_is_refused(make: Make, tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    file = out / "baichuan_intel.json"
    raw = json.loads(file.read_text(encoding="utf-8")) | {"schema_version": 9}
    file.write_text(json.dumps(raw), encoding="utf-8")
    for opener in (open_artifact, verify):
        with pytest.raises(ArtifactVersionError, match="schema 9"):
            opener(out)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "C:secret"])
def test_a_manifest_cannot_reach_outside(make: Make, tmp_path: Path, name: str) -> None:
    out = make(tmp_path / "out")
    file = out / "baichuan_intel.json"
    raw = json.loads(file.read_text(encoding="utf-8"))
    raw["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    file.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(ArtifactError, match="not a safe file name"):
        verify(out)


def test_what_is_no_artifact_is_told_apart(make: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "unfinished.partial").mkdir()
    for name, message in {
        "absent": "does not exist: make it with baichuan-intel convert",
        "empty": "not an artifact: make one with baichuan-intel convert",
        "checkpoint": "is a checkpoint, not an artifact: run baichuan-intel convert",
        "file": "is a file: give the artifact's folder",
        "unfinished": "is not finished",
        "a\0b": "no usable path|does not exist",
    }.items():
        for opener in (open_artifact, verify):
            with pytest.raises(ArtifactError, match=message):
                opener(tmp_path / name)
    with pytest.raises(ArtifactError):
        open_artifact(Path(tmp_path.anchor))
