"""A .safetensors file, parsed strictly and memory-mapped.

The layout is the one of the safetensors README: eight bytes with the length of a JSON header
(little-endian), the header, then the data, which the tensors must cover without gap or overlap.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from baichuan_intel.checkpoint.tensor import DType, StoredTensor, refuse_quantised
from baichuan_intel.errors import CheckpointError

# The format allows 100 MB. Real headers are about 100 bytes a tensor; Python objects cost far more.
_HEADER_LIMIT_BYTES = 16 << 20
# Far above any weight, and far below what numpy's index arithmetic takes.
_ELEMENTS_LIMIT = 1 << 40
_DTYPES: dict[str, tuple[DType, np.dtype[Any]]] = {
    "BF16": ("bf16", np.dtype("<u2")),
    "F16": ("f16", np.dtype("<f2")),
    "F32": ("f32", np.dtype("<f4")),
}


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, over a read-only memory map.

    Raises:
        CheckpointError: the file is truncated, breaks the format, or holds a type other than
            BF16, F16 and F32.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise _damaged(path, f"{size} bytes are too few for its header")
            if length > _HEADER_LIMIT_BYTES:
                raise _damaged(path, f"its header of {length} bytes is over 16 MiB")
            entries = _parse_header(path, file.read(length))
        _check_cover(path, entries, size - 8 - length)
        # An empty map is an error, and without data there is nothing to map.
        data = np.memmap(path, np.uint8, "r", 8 + length) if size > 8 + length else np.empty(0, np.uint8)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    return {name: _stored(data, entry) for name, entry in entries.items()}


class _Entry:
    """One checked entry of the header: kind, shape, and the byte range inside the data."""

    def __init__(self, path: Path, name: str, raw: Any) -> None:
        if not isinstance(raw, dict) or raw.keys() != {"dtype", "shape", "data_offsets"}:
            raise _damaged(path, f"its entry of {name!r} is not one of dtype, shape and data_offsets")
        dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise CheckpointError(
                f"{path}: tensor {name!r} has dtype {dtype!r}; only BF16, F16 and F32 weights can be "
                "converted: use the float checkpoint"
            )
        if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
            raise _damaged(path, f"the shape or the offsets of {name!r} are not sizes")
        self.kind, self.numpy = _DTYPES[dtype]
        self.shape = tuple(shape)
        self.begin, self.end = offsets
        if self.end - self.begin != math.prod(shape) * self.numpy.itemsize or _too_large(shape):
            raise _damaged(path, f"the offsets of {name!r} do not fit its shape {shape}")


def _parse_header(path: Path, text: bytes) -> dict[str, _Entry]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({error})") from None
    if not isinstance(header, dict) or not text.startswith(b"{"):
        raise _damaged(path, "its header is not a JSON object")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise _damaged(path, "its __metadata__ is not a JSON object of strings")
    refuse_quantised(path, header)
    return {name: _Entry(path, name, raw) for name, raw in header.items()}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is there twice")
    return result


def _are_sizes(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > 8:
        return False
    return all(type(n) is int and 0 <= n < _ELEMENTS_LIMIT * 4 for n in value)


def _too_large(shape: list[int]) -> bool:
    """Whether numpy could refuse the shape; it looks at the other sizes even when one is zero."""
    return math.prod(n for n in shape if n) > _ELEMENTS_LIMIT


def _check_cover(path: Path, entries: dict[str, _Entry], size: int) -> None:
    """The byte ranges, in order, must touch and must end where the file ends."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise _damaged(path, f"the data of {name!r} overlaps another tensor's, or leaves a gap")
        end = entry.end
    if end != size:
        raise _damaged(path, f"its header promises {end} bytes of data and {size} are there")


def _stored(data: np.ndarray, entry: _Entry) -> StoredTensor:
    values = data[entry.begin : entry.end].view(entry.numpy).reshape(entry.shape)
    return StoredTensor(values, entry.kind)


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or truncated ({why}): download it again")
