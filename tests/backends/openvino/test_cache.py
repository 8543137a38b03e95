"""The compile cache: keys, limit, eviction, two processes, and OpenVINO itself writing and reading it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baichuan_intel.backends.base import Device
from baichuan_intel.backends.openvino import cache
from baichuan_intel.backends.openvino.cache import cache_folder, cache_key, cached_properties, prune, size
from baichuan_intel.errors import BackendError

KEYS = [f"{n:032x}" for n in range(10)]
HOUR = 3600


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this test."""
    monkeypatch.setenv("BAICHUAN_INTEL_CACHE", str(tmp_path / "home"))
    monkeypatch.delenv("BAICHUAN_INTEL_CACHE_LIMIT_GB", raising=False)
    return tmp_path / "home" / "compiled"


def make(key: str, bytes_: int, used_hours_ago: float) -> Path:
    with cache_folder(key) as folder:
        assert folder is not None
        (folder / "model.blob").write_bytes(bytes(bytes_))
    (folder / "model.blob").chmod(0o440)  # as OpenVINO leaves it
    then = time.time() - used_hours_ago * HOUR
    os.utime(folder / "complete", (then, then))
    return folder


# --- one entry -----------------------------------------------------------------------------------


def test_an_entry_is_made_once_and_found_again(home: Path) -> None:
    with cache_folder(KEYS[0]) as folder:
        assert folder == home / KEYS[0]
        assert folder.is_dir()
        (folder / "1.blob").write_text("made")
    with cache_folder(KEYS[0]) as again:
        assert again == folder
        assert (again / "1.blob").read_text() == "made"


def test_using_an_entry_makes_it_young() -> None:
    folder = make(KEYS[0], 10, used_hours_ago=5)
    with cache_folder(KEYS[0]):
        pass
    assert time.time() - (folder / "complete").stat().st_mtime < 60


def test_what_a_failed_maker_left_is_cleared() -> None:
    def die() -> None:
        with cache_folder(KEYS[0]) as folder:
            assert folder is not None
            (folder / "1.blob").write_text("half")
            (folder / "kernels").mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        die()
    with cache_folder(KEYS[0]) as folder:
        assert folder is not None
        assert [p.name for p in folder.iterdir()] == ["lock"]


def test_an_error_of_the_block_is_not_taken_for_the_cache_s() -> None:
    with pytest.raises(PermissionError, match="the model's"), cache_folder(KEYS[0]):
        raise PermissionError("the model's")


def test_a_second_opening_meanwhile_goes_without(caplog: pytest.LogCaptureFixture) -> None:
    with cache_folder(KEYS[0]) as first, cache_folder(KEYS[0]) as second, cache_folder(KEYS[1]) as other:
        assert first is not None
        assert second is None
        assert other is not None
    assert "another process is compiling" in caplog.text


HOLDER = """
import sys, time
from baichuan_intel.backends.openvino.cache import cache_folder
with cache_folder(sys.argv[1]) as folder:
    (folder / "1.blob").write_text("half")
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_holds_the_entry_until_it_dies() -> None:
    command = [sys.executable, "-c", HOLDER, KEYS[0]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with cache_folder(KEYS[0]) as folder:
            assert folder is None
        holder.kill()
    with cache_folder(KEYS[0]) as folder:
        assert folder is not None
        assert not (folder / "1.blob").exists()


def test_whole_entries_are_read_by_many() -> None:
    make(KEYS[0], 10, used_hours_ago=0)
    with cache_folder(KEYS[0]) as first, cache_folder(KEYS[0]) as second:
        assert first == second is not None


# --- off -----------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_is_off_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "home").write_text("a file in the way")
    with caplog.at_level(logging.WARNING), cache_folder(KEYS[0]) as folder:
        assert folder is None
    assert "no compile cache in" in caplog.text
    assert "BAICHUAN_INTEL_CACHE" in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_whole_entry_on_a_read_only_disk_is_used() -> None:
    folder = make(KEYS[0], 10, used_hours_ago=5)
    for path in (folder / "complete", folder, folder.parent):
        path.chmod(0o555)
    try:
        with cache_folder(KEYS[0]) as found:
            assert found == folder
    finally:
        for path in (folder.parent, folder):
            path.chmod(0o755)


def test_a_limit_of_nothing_turns_it_off(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAICHUAN_INTEL_CACHE_LIMIT_GB", "0")
    with cache_folder(KEYS[0]) as folder:
        assert folder is None
    assert not home.exists()


@pytest.mark.parametrize("text", ["abc", "-1", "nan", "inf", "20GB"])
def test_a_limit_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAICHUAN_INTEL_CACHE_LIMIT_GB", text)
    with pytest.raises(BackendError, match="BAICHUAN_INTEL_CACHE_LIMIT_GB"), cache_folder(KEYS[0]):
        pass


def test_the_limit_is_in_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.limit_bytes() == 20_000_000_000
    monkeypatch.setenv("BAICHUAN_INTEL_CACHE_LIMIT_GB", "0.5")
    assert cache.limit_bytes() == 500_000_000


def test_without_the_variable_it_lies_in_the_user_s_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    monkeypatch.delenv("BAICHUAN_INTEL_CACHE")
    assert cache.root() == Path(platformdirs.user_cache_dir("baichuan-intel", False)) / "compiled"


# --- eviction ------------------------------------------------------------------------------------


def test_size_counts_the_entries_only(home: Path) -> None:
    assert size() == 0
    make(KEYS[0], 1000, 2)
    make(KEYS[1], 500, 2)
    (home / "notes.txt").write_bytes(bytes(10_000))
    assert size() == 1500


def test_the_least_recently_used_go_first_until_the_limit_holds() -> None:
    folders = {age: make(KEYS[age], 1000, used_hours_ago=age) for age in (3, 5, 2, 4)}
    assert prune(4000) == 0
    assert all(f.exists() for f in folders.values())
    assert prune(2500) == 2000
    assert {age for age, f in folders.items() if f.exists()} == {2, 3}
    assert size() == 2000


def test_entries_in_use_stay_even_above_the_limit() -> None:
    fresh, kept, old = make(KEYS[0], 1000, 0.1), make(KEYS[1], 1000, 9), make(KEYS[2], 1000, 8)
    assert prune(0, keep=KEYS[1]) == 1000
    assert (fresh.exists(), kept.exists(), old.exists()) == (True, True, False)


def test_opening_an_entry_prunes_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    old = make(KEYS[0], 2000, used_hours_ago=2)
    monkeypatch.setenv("BAICHUAN_INTEL_CACHE_LIMIT_GB", "0.000003")
    new = make(KEYS[1], 2000, used_hours_ago=0)
    assert (old.exists(), new.exists()) == (False, True)


def test_nothing_else_is_ever_deleted(home: Path, tmp_path: Path) -> None:
    make(KEYS[0], 1000, 5)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("x" * 5000)
    (home / "notes").mkdir()
    (home / "notes" / "a.txt").write_text("mine")
    (home / ("A" * 32)).mkdir()
    (home / f"{KEYS[5]}x").mkdir()
    (home / KEYS[6]).write_text("a file with an entry's name")
    if os.name == "posix":
        (home / KEYS[7]).symlink_to(precious, target_is_directory=True)
        (home / KEYS[0] / "link").symlink_to(precious, target_is_directory=True)
        (home / KEYS[0] / "file").symlink_to(precious / "thesis.txt")
    long_ago = time.time() - 99 * HOUR
    for path in (*home.iterdir(), precious, precious / "thesis.txt"):
        os.utime(path, (long_ago, long_ago))
    before = sorted(p.name for p in home.iterdir() if p.name != KEYS[0])
    thesis = (precious / "thesis.txt").stat()
    assert prune(0) == 1000
    assert sorted(p.name for p in home.iterdir()) == before
    after = (precious / "thesis.txt").stat()
    assert (after.st_size, after.st_mode) == (thesis.st_size, thesis.st_mode)


def test_a_half_finished_eviction_is_finished(home: Path) -> None:
    folder = make(KEYS[0], 1000, 5)
    folder.rename(folder.with_name(folder.name + ".evicted"))
    assert prune(10**9) == 0
    assert list(home.iterdir()) == []


def test_many_prune_at_once(home: Path) -> None:
    for n, key in enumerate(KEYS):
        make(key, 1000, used_hours_ago=2 + n)
    freed: list[int] = []
    threads = [threading.Thread(target=lambda: freed.append(prune(3000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Each entry is counted by the one that removed it, and none below the limit is.
    assert sum(freed) == 7000
    assert sorted(p.name for p in home.iterdir()) == KEYS[:3]


# --- keys and OpenVINO ---------------------------------------------------------------------------

ARC = Device(
    name="GPU",
    full_name="Intel(R) Arc(TM) Graphics (iGPU)",
    architecture="GPU: vendor=0x8086 arch=v12.71.4",
    details={"driver": "24.52.32224", "uarch": "12.71.4"},
)


def test_a_key_changes_with_all_that_a_compiled_model_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino")
    keys = [
        cache_key("a" * 64, ARC, {"X": 1}),
        cache_key("b" * 64, ARC, {"X": 1}),
        cache_key("a" * 64, ARC, {"X": 2}),
        cache_key("a" * 64, ARC, {"X": "1"}),
        cache_key("a" * 64, ARC, {}),
        cache_key("a" * 64, replace(ARC, full_name="Intel(R) Arc(TM) A770 Graphics (dGPU)"), {"X": 1}),
        cache_key("a" * 64, replace(ARC, architecture="GPU: vendor=0x8086 arch=v20.4.4"), {"X": 1}),
        cache_key("a" * 64, replace(ARC, details={"driver": "25.01", "uarch": "12.71.4"}), {"X": 1}),
    ]
    monkeypatch.setattr(openvino, "get_version", lambda: "2027.0.0")
    keys.append(cache_key("a" * 64, ARC, {"X": 1}))
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)


def test_a_key_does_not_change_with_order_or_index() -> None:
    # The same card as GPU.1 after a second one came: the compiled model still fits.
    swapped = replace(ARC, name="GPU.1", details=dict(reversed(list(ARC.details.items()))))
    assert cache_key("a", ARC, {"X": 1, "Y": 2}) == cache_key("a", swapped, {"Y": 2, "X": 1})


class ArcCore:
    available_devices = ("CPU", "GPU")

    def get_property(self, device: str, name: str) -> Any:
        assert device == "GPU"
        try:
            return {"FULL_DEVICE_NAME": ARC.full_name, "DEVICE_ARCHITECTURE": ARC.architecture}[name]
        except KeyError:
            raise RuntimeError(name) from None


def test_a_gpu_gets_the_folder_of_its_entry(home: Path) -> None:
    with cached_properties(ArcCore(), "GPU", {"PERFORMANCE_HINT": "LATENCY"}, "a" * 64) as properties:
        folder = Path(properties.pop("CACHE_DIR"))
        assert properties == {"PERFORMANCE_HINT": "LATENCY"}
    assert folder.parent == home
    assert (folder / "complete").exists()


@pytest.mark.parametrize(
    ("device", "properties"), [("CPU", {"A": 1}), ("GPU", {"CACHE_DIR": "mine"}), ("NPU", {"CACHE_DIR": ""})]
)
def test_a_cpu_and_the_user_s_own_cache_stay_as_they_are(
    home: Path, device: str, properties: dict[str, Any]
) -> None:
    with cached_properties(object(), device, properties, "a" * 64) as found:
        assert found == properties
    assert not home.exists()


def test_openvino_writes_an_entry_and_starts_from_it() -> None:
    ov = pytest.importorskip("openvino")
    op = ov.opset15
    x = op.parameter([1, 64], np.float32)
    weights = op.constant(np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32))
    model = ov.Model([op.result(op.matmul(x, weights, False, True))], [x])

    def compiled() -> tuple[bool, np.ndarray]:
        with cache_folder(KEYS[0]) as folder:
            found = ov.Core().compile_model(model, "CPU", {"CACHE_DIR": str(folder)})
        return found.get_property("LOADED_FROM_CACHE"), found(np.ones((1, 64), np.float32))[0]

    cold, expected = compiled()
    warm, result = compiled()
    assert (cold, warm) == (False, True)
    np.testing.assert_array_equal(result, expected)
    assert size() > 64 * 64 * 4

    (blob,) = (cache.root() / KEYS[0]).glob("*.blob")
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:1000])
    after_damage, result = compiled()
    assert after_damage is False
    np.testing.assert_array_equal(result, expected)
