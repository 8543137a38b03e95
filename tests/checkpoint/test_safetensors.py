"""Reading .safetensors: against the library that writes them, and with files that lie."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from checkpoint.files import any_bits, assert_same, entry, tensors, write_raw
from hypothesis import HealthCheck, given, settings
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from baichuan_intel.checkpoint.safetensors import open_safetensors
from baichuan_intel.errors import CheckpointError

ONE_FILE = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@ONE_FILE
@given(tensors(), st.data())
def test_rows_are_torchs_float32_values(
    tmp_path: Path, weights: dict[str, torch.Tensor], data: st.DataObject
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    found = open_safetensors(path)
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        start = data.draw(st.integers(0, len(tensor)))
        stop = data.draw(st.integers(start, len(tensor)))
        assert_same(found[name].rows(start, stop), tensor[start:stop])
        assert found[name].values.shape == tuple(tensor.shape)
    del found


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_every_16_bit_value_is_converted_exactly(tmp_path: Path, dtype: str) -> None:
    width = {"bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(width).reshape(256, 256)
    save_file({"w": every}, tmp_path / "m.safetensors")
    assert_same(open_safetensors(tmp_path / "m.safetensors")["w"].rows(0, 256), every)


@pytest.mark.parametrize("padding", range(9))
def test_data_may_start_at_any_address(tmp_path: Path, padding: int) -> None:
    expected = any_bits("f32", (3, 5), 1)
    text = json.dumps({"w": entry([3, 5], 0)}).encode() + b" " * padding
    path = write_raw(tmp_path / "m.safetensors", text, expected.numpy().tobytes())
    assert_same(open_safetensors(path)["w"].rows(1, 3), expected[1:3])


def test_rows_are_writable_and_the_file_stays(tmp_path: Path) -> None:
    save_file({"w": torch.ones(4, 2)}, tmp_path / "m.safetensors")
    found = open_safetensors(tmp_path / "m.safetensors")
    found["w"].rows(0, 4)[:] = 7
    assert np.array_equal(found["w"].rows(0, 4), np.ones((4, 2)))
    with pytest.raises(ValueError, match="read-only"):
        found["w"].values[0, 0] = 7


LIES = {
    "gap": ({"a": entry([2], 0), "b": entry([2], 12)}, 20),
    "overlap": ({"a": entry([2], 0), "b": entry([2], 4)}, 12),
    "twice the same bytes": ({"a": entry([2], 0), "b": entry([2], 0)}, 8),
    "late start": ({"a": entry([2], 4)}, 12),
    "data cut off": ({"a": entry([2], 0)}, 7),
    "data left over": ({"a": entry([2], 0)}, 9),
    "shape too large": ({"a": entry([3], 0, 8)}, 8),
    "shape too small": ({"a": entry([1], 0, 8)}, 8),
    "end before begin": ({"a": entry([2], 8, 0)}, 8),
    "negative begin": ({"a": entry([2], -8, 0)}, 8),
    "negative sizes": ({"a": entry([-1, -2], 0, 8)}, 8),
    "fraction": ({"a": entry([2.0], 0, 8)}, 8),
    "truth for a size": ({"a": entry([True, 2], 0, 8)}, 8),
    "text for an offset": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": "08"}}, 8),
    "three offsets": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}}, 8),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 8),
    "a key too many": ({"a": entry([2], 0) | {"strides": [1]}}, 8),
    "an entry that is a list": ({"a": [1]}, 8),
    "empty, yet beyond numpy": ({"a": entry([0, 2**40, 2**40], 0, 0)}, 0),
    "size beyond 64 bits": ({"a": entry([0, 2**70], 0, 0)}, 0),
    "forty sizes": ({"a": entry([1] * 40, 0, 4)}, 4),
    "a header that is a list": ([1], 0),
    "a header after a space": (b' {"a":%s}' % json.dumps(entry([2], 0)).encode(), 8),
    "metadata that is a number": ({"a": entry([2], 0), "__metadata__": 1}, 8),
    "metadata that holds a number": ({"a": entry([2], 0), "__metadata__": {"b": 1}}, 8),
    "not json": (b"{'a'", 0),
    "not utf-8": (b'{"\xff": 1}', 0),
    "nested too deep": (b'{"a":' + b"[" * 100_000, 0),
    "a name twice": (b'{"a":%s,"a":%s}' % ((json.dumps(entry([2], 0)).encode(),) * 2), 8),
    "a key twice": (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(tmp_path: Path, lie: str) -> None:
    header, size = LIES[lie]
    path = write_raw(tmp_path / "m.safetensors", header, bytes(size))
    with pytest.raises(CheckpointError, match=r"damaged or truncated .*: download it again") as caught:
        open_safetensors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 9, 2**31, 2**63, 2**64 - 1])
def test_a_header_length_that_lies_is_refused(tmp_path: Path, length: int) -> None:
    path = write_raw(tmp_path / "m.safetensors", {"a": entry([2], 0)}, bytes(8), length)
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        open_safetensors(path)


def test_a_giant_header_is_not_read(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "m.safetensors", b"{}", length=1 << 30)
    with path.open("r+b") as file:
        file.truncate(2 << 30)  # sparse: takes no disk
    with pytest.raises(CheckpointError, match="over 16 MiB"):
        open_safetensors(path)


@pytest.mark.parametrize("size", range(9))
def test_a_file_shorter_than_its_header_is_refused(tmp_path: Path, size: int) -> None:
    path = write_raw(tmp_path / "m.safetensors", {"a": entry([2], 0)}, bytes(8))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        open_safetensors(path)


def test_other_types_are_named(tmp_path: Path) -> None:
    save_file({"model.a": torch.ones(2, dtype=torch.int8)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"'model\.a' has dtype 'I8'; only BF16, F16 and F32"):
        open_safetensors(tmp_path / "m.safetensors")


def test_a_file_without_tensors_is_read(tmp_path: Path) -> None:
    save_file({}, tmp_path / "m.safetensors", metadata={"format": "pt"})
    assert open_safetensors(tmp_path / "m.safetensors") == {}


GOOD = {"model.a": entry([2, 3], 0), "b": entry([4], 24, 32, "BF16"), "__metadata__": {"format": "pt"}}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4), st.integers(0, 3)), min_size=1, max_size=4)
)
def test_any_header_is_read_as_the_library_does_or_refused(
    tmp_path: Path, edits: list[tuple[int, bytes, int]]
) -> None:
    text = bytearray(json.dumps(GOOD, separators=(",", ":")).encode())
    for position, new, removed in edits:
        position %= len(text) + 1
        text[position : position + removed] = new
    path = write_raw(tmp_path / "m.safetensors", bytes(text), bytes(range(32)))
    try:
        found = open_safetensors(path)
    except CheckpointError:
        return
    try:
        with safe_open(path, "pt") as file:
            assert set(file.keys()) == found.keys()
            for name, stored in found.items():
                tensor = file.get_tensor(name)
                if tensor.ndim:
                    assert_same(stored.rows(0, len(tensor)), tensor)
    except SafetensorError as error:
        if b"-0" in text or b"\\u" in text:  # valid json to Python and not to the library
            return
        pytest.fail(f"we read what the library refuses: {error}: {bytes(text)!r}")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        open_safetensors(path)
