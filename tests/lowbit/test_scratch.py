"""The scratch store: what is written stays, costs no private memory and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from baichuan_intel.errors import ArtifactError
from baichuan_intel.lowbit.recipe import Format
from baichuan_intel.lowbit.scratch import WeightStore

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in a fresh process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_tensors_keep_what_is_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with WeightStore(tmp_path / "scratch") as store:
        written: dict[str, list[np.ndarray]] = {}
        for number, format in enumerate((Format(4, 32, True), Format(4, 0, False), Format(8, 0, True))):
            tensor = store.new_quantized(f"q{number}", (7, 96), format)
            arrays = [a for a in (tensor.codes, tensor.scales, tensor.zeros) if a is not None]
            for array in arrays:
                array[...] = rng.integers(0, 100, array.shape)
            written[f"q{number}"] = [array.copy() for array in arrays]
        norm = store.new_float("norm", (11,), np.float32)
        norm[:] = rng.standard_normal(11)
        written["norm"] = [norm.copy()]

        assert list(store) == ["q0", "q1", "q2", "norm"]
        assert len(store) == 4
        assert "norm" in store
        assert "q3" not in store
        assert store["norm"] is norm
        for name, copies in written.items():
            kept = store[name]
            arrays = [kept] if isinstance(kept, np.ndarray) else [kept.codes, kept.scales, kept.zeros]
            for array, copy in zip(arrays, copies, strict=False):
                np.testing.assert_array_equal(array, copy)
                assert array.ctypes.data % 64 == 0


def test_formats_decide_shapes_and_types(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "scratch") as store:
        int4 = store.new_quantized("a", (5, 128), Format(4, 32, False))
        int8 = store.new_quantized("b", (5, 128), Format(8, 0, True))
    assert (int4.codes.shape, int4.codes.dtype) == ((5, 64), np.uint8)
    assert (int4.scales.shape, int4.scales.dtype) == ((5, 4), np.float16)
    assert int4.zeros is not None
    assert (int4.zeros.shape, int4.zeros.dtype) == ((5, 4), np.uint8)
    assert (int8.codes.shape, int8.codes.dtype) == ((5, 128), np.int8)
    assert (int8.scales.shape, int8.zeros) == ((5, 1), None)


def test_views_outlive_the_store(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "scratch") as store:
        view = store.new_float("a", (1000,), np.float32)
        view[:] = 3
    store.close()
    assert (view == 3).all()
    del view
    assert list(tmp_path.iterdir()) == []


def test_a_taken_name_or_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(ArtifactError, match="already exists"):
        WeightStore(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "keep"
    with pytest.raises(ArtifactError, match="cannot be created"):
        WeightStore(tmp_path / "no" / "folder")
    with WeightStore(tmp_path / "scratch") as store:
        store.new_float("a", (1,), np.float32)
        with pytest.raises(ArtifactError, match="a is already"):
            store.new_float("a", (1,), np.float32)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the other way is the only one here")
@pytest.mark.parametrize("fallocate", [True, False])
def test_blocks_are_allocated_before_they_are_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fallocate: bool
) -> None:
    if not fallocate:
        monkeypatch.delattr(os, "posix_fallocate")
    with WeightStore(tmp_path / "scratch") as store:
        for name in "ab":
            array = store.new_float(name, (700_001,), np.float32)
            assert not array.any()
        status = os.fstat(store._file.fileno())
        assert status.st_size >= 2 * 700_001 * 4
        assert status.st_blocks * 512 >= status.st_size


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit to stand for a full disk")
@pytest.mark.parametrize("fallocate", ["fallocate", "write"])
def test_a_full_disk_is_one_line(tmp_path: Path, fallocate: str) -> None:
    """A limit on the file's size fails where a full disk does."""
    done = run(
        """
        import os, resource, sys
        import numpy as np
        from baichuan_intel.errors import ArtifactError
        from baichuan_intel.lowbit.scratch import WeightStore
        if sys.argv[2] == "write":
            del os.posix_fallocate
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
        with WeightStore(sys.argv[1]) as store:
            store.new_float("fits", (500_000,), np.float32)[:] = 1
            try:
                store.new_float("does not", (500_000,), np.float32)[:] = 1
            except ArtifactError as error:
                print(error)
        """,
        str(tmp_path / "scratch"),
        fallocate,
    )
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path} has no room for 2.0 MB more" in done.stdout
    assert done.stdout.count("\n") == 1


@linux_only
def test_written_pages_are_not_private_memory(tmp_path: Path) -> None:
    done = run(
        """
        import re, sys
        import numpy as np
        from baichuan_intel.lowbit.scratch import WeightStore
        def megabytes(kind):
            return int(re.search(kind + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
        with WeightStore(sys.argv[1]) as store:
            first = store.new_float("first", (1024,), np.float32)
            first[:] = 1
            anonymous, shared = megabytes("RssAnon"), megabytes("RssFile") + megabytes("RssShmem")
            store.new_float("a", (32 << 20,), np.uint8)[:] = 1
            print(megabytes("RssAnon") - anonymous, megabytes("RssFile") + megabytes("RssShmem") - shared)
        """,
        str(tmp_path / "scratch"),
    )
    assert done.returncode == 0, done.stderr
    private, shared = map(float, done.stdout.split())
    assert private < 4
    assert shared > 28


def test_a_killed_process_leaves_no_file(tmp_path: Path) -> None:
    done = run(
        """
        import os, signal, sys
        import numpy as np
        from baichuan_intel.lowbit.scratch import WeightStore
        store = WeightStore(sys.argv[1])
        store.new_float("a", (1000,), np.float32)[:] = 1
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        """,
        str(tmp_path / "scratch"),
    )
    assert done.returncode != 0
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
