"""Reading pytorch_model.bin: against torch itself, and files that hold code or are broken."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import sys
import zipfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from checkpoint.files import any_bits, assert_same, tensors
from hypothesis import HealthCheck, given, settings

from baichuan_intel.checkpoint.torch_bin import open_torch_bin
from baichuan_intel.errors import CheckpointError, MissingDependencyError, UnsafeFileError

MARK = "BAICHUAN_INTEL_TEST_MARK"  # names the file that hostile code would create


class Touch:
    """Unpickled without care, it creates a file."""

    def __reduce__(self):
        return os.system, (f'touch "${MARK}"',)


class Build:
    """The same by way of an instance's state."""

    def __setstate__(self, state):
        Path(os.environ[MARK]).touch()

    def __getstate__(self):
        return {"a": 1}


def refused(path: Path, error: type[Exception] = CheckpointError) -> str:
    with pytest.raises(error) as caught:
        open_torch_bin(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(path: Path, value: object, **kw: object) -> Path:
    torch.save(value, path, **kw)
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors(), st.data())
def test_rows_are_torchs_float32_values(
    tmp_path: Path, weights: dict[str, torch.Tensor], data: st.DataObject
) -> None:
    found = open_torch_bin(saved(tmp_path / "m.bin", weights))
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        start = data.draw(st.integers(0, len(tensor)))
        stop = data.draw(st.integers(start, len(tensor)))
        assert_same(found[name].rows(start, stop), tensor[start:stop])


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_views_of_one_storage_are_read_as_they_were(tmp_path: Path, dtype: str) -> None:
    base = any_bits(dtype, (12, 10), 3)
    views = {
        "base": base,
        "transposed": base.t(),
        "slice": base[3:9, 2:7],
        "steps": base[::3, ::2],
        "offset": base.view(-1)[17:],
        "repeated": base[5].expand(4, 10),
        "parameter": torch.nn.Parameter(base),
    }
    found = open_torch_bin(saved(tmp_path / "m.bin", views))
    for name, view in views.items():
        block = found[name].rows(1, 4)
        assert_same(block, view.detach()[1:4])
        assert block.flags.c_contiguous


def test_rows_are_writable_and_the_map_is_not(tmp_path: Path) -> None:
    found = open_torch_bin(saved(tmp_path / "m.bin", {"w": torch.ones(4, 2), "b": torch.ones(4).bfloat16()}))
    found["w"].rows(0, 4)[:] = 7
    assert np.array_equal(found["w"].rows(0, 4), np.ones((4, 2)))
    assert not found["w"].values.flags.writeable
    assert not found["b"].values.flags.writeable


@pytest.mark.parametrize("hostile", [Touch, Build])
@pytest.mark.parametrize("how", ["torch.save", "torch.save before 1.6", "pickle"])
def test_code_is_refused_and_never_run(
    tmp_path: Path, hostile: type, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv(MARK, str(mark))
    path = tmp_path / "pytorch_model.bin"
    value = {"model.norm.weight": torch.ones(3), "evil": hostile()}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"evil": hostile()}))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=how == "torch.save")
    message = refused(path, UnsafeFileError)
    assert "code" in message
    assert not mark.exists()
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert mark.exists()  # the file was dangerous


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(saved(tmp_path / "m.bin", {"w": torch.ones(2)}), "a") as archive:
        archive.writestr("m/constants.pkl", pickle.dumps(()))  # what tells torch.load to run it as a program
    assert "TorchScript" in refused(tmp_path / "m.bin", UnsafeFileError)


def test_the_old_format_says_how_to_mend_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.bin", {"w": torch.ones(2)}, _use_new_zipfile_serialization=False)
    assert "save it again with a current torch" in refused(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(2, dtype=torch.int64), "torch.int64"),
        (torch.ones(2, dtype=torch.float64), "torch.float64"),
        (torch.ones(2, dtype=torch.complex64).conj(), "torch.complex64"),
        (torch.eye(2).to_sparse(), "torch.sparse_coo"),
        (torch.empty(2, device="meta"), "meta"),
        (torch._neg_view(torch.ones(2)), "dense"),
        ([torch.ones(2)], "list"),
        ("text", "str"),
        ({"w": torch.ones(2)}, "dict"),
    ],
)
def test_what_is_no_float_weight_is_named(tmp_path: Path, value: object, said: str) -> None:
    message = refused(saved(tmp_path / "m.bin", {"model.a": value}))
    assert "'model.a'" in message
    assert said in message


@pytest.mark.parametrize("value", [[torch.ones(2)], torch.ones(2), {1: torch.ones(2)}])
def test_tensors_need_names(tmp_path: Path, value: object) -> None:
    assert "named tensors" in refused(saved(tmp_path / "m.bin", value))


def test_the_official_4_bit_files_are_pointed_to_the_float_ones(tmp_path: Path) -> None:
    state = [
        torch.ones(2, dtype=torch.uint8),
        torch.Size([2]),
        torch.float16,
        64,
        [0.1, [torch.ones(2)] * 2],
        "nf4",
    ]
    name = "model.layers.0.self_attn.W_pack.weight"
    weights = {f"{name}.data": torch.ones(2, dtype=torch.uint8), f"{name}.quant_state": state}
    assert "without -4bits" in refused(saved(tmp_path / "m.bin", weights))


@pytest.mark.parametrize("kept", [0, 1, 4, 30, 500, -200, -1])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, kept: int) -> None:
    path = saved(tmp_path / "m.bin", {"w": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:kept])
    assert "damaged or truncated" in refused(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain.bin", {"w": torch.zeros(1000)})
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(tmp_path / "m.bin", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert "is compressed, which torch.save never does" in refused(tmp_path / "m.bin")


def test_a_giant_pickle_is_refused_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.bin", "w") as archive:
        archive.writestr("m/data.pkl", bytes(17 << 20))
    assert "over 16 MiB" in refused(tmp_path / "m.bin")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    good = saved(
        tmp_path / "good.bin", {"model.a": torch.ones(30, 20).bfloat16(), "b": torch.ones(7)}
    ).read_bytes()
    pickled = good.index(b"data.pkl")
    choose, read = random.Random(0), 0
    path = tmp_path / "m.bin"
    for _ in range(300):
        content = bytearray(good)
        for _ in range(choose.randint(1, 3)):
            content[choose.randrange(pickled, pickled + 600)] = choose.randrange(256)
        path.write_bytes(content)
        with contextlib.suppress(CheckpointError):
            for tensor in open_torch_bin(path).values():
                if tensor.values.ndim:
                    tensor.rows(0, min(2, len(tensor.values)))
            read += 1
    assert read < 250  # most of the damage was seen


def test_without_torch_the_pip_line_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r'needs torch: pip install "baichuan-intel\[bin\]"'):
        open_torch_bin(tmp_path / "m.bin")
