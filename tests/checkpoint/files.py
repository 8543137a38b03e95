"""Small weight files for the tests of this folder, and what the readers must make of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import torch

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def any_bits(dtype: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Every bit pattern is as likely: NaN, infinity, subnormals and minus zero come up."""
    generator = torch.Generator().manual_seed(seed)
    width = torch.int32 if dtype == "f32" else torch.int16
    bound = torch.iinfo(width)
    bits = torch.randint(bound.min, bound.max + 1, shape, generator=generator, dtype=torch.int64)
    return bits.to(width).view(DTYPES[dtype])


def assert_same(found: np.ndarray, expected: torch.Tensor) -> None:
    """Equal bits; any NaN is as good as another."""
    reference = expected.float().contiguous().numpy()
    assert found.dtype == np.float32
    assert found.shape == reference.shape
    nan = np.isnan(reference)
    assert np.array_equal(np.isnan(found), nan)
    assert np.array_equal(found.view(np.uint32)[~nan], reference.view(np.uint32)[~nan])


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """A few named tensors of mixed shapes and types."""
    names = draw(
        st.lists(st.text(min_size=1, max_size=8).filter(_plain), min_size=1, max_size=4, unique=True)
    )
    shapes = st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple)
    return {
        name: any_bits(draw(st.sampled_from(sorted(DTYPES))), draw(shapes), draw(st.integers(0, 99)))
        for name in names
    }


def _plain(name: str) -> bool:
    return name.isprintable() and "quant_state" not in name


def write_raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A .safetensors file by hand; ``header`` is json, or the bytes that stand in its place."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(shape: list[Any], begin: Any, end: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": shape,
        "data_offsets": [begin, begin + 4 * math.prod(shape) if end is None else end],
    }
