"""QuantizedTensor and the round-to-nearest quantiser that fills it, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from baichuan_intel.lowbit.recipe import Format

# Rows [start, stop) of a matrix as float32.
ReadRows = Callable[[int, int], np.ndarray]


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A matrix in 4 or 8 bits: the one form that every backend and export takes.

    ``codes`` is uint8 [rows, cols/2] for 4 bits, the even column in the low nibble (OpenVINO's
    order; two's complement i4 when symmetric, u4 when not); for 8 bits int8 (symmetric) or uint8
    [rows, cols]. ``scales`` is float16 [rows, groups]; ``zeros`` uint8 [rows, groups], None when
    symmetric. A weight is (code - zero) * scale.
    """

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None
    shape: tuple[int, int]
    format: Format

    @classmethod
    def empty(
        cls,
        shape: tuple[int, int],
        format: Format,
        new: Callable[[tuple[int, ...], Any], np.ndarray] = np.empty,
    ) -> QuantizedTensor:
        """One to be filled; ``new(shape, dtype)`` gives the memory."""
        rows, cols = shape
        groups = format.groups(cols)
        code_type = np.int8 if format.symmetric and format.bits == 8 else np.uint8
        return cls(
            codes=new((rows, cols * format.bits // 8), code_type),
            scales=new((rows, groups), np.float16),
            zeros=None if format.symmetric else new((rows, groups), np.uint8),
            shape=shape,
            format=format,
        )

    def dequantize(self) -> np.ndarray:
        """The weights that the codes stand for, float32 [rows, cols]: the reference for every backend."""
        raise NotImplementedError


def quantize_into(read: ReadRows, out: QuantizedTensor, pool: ThreadPoolExecutor, name: str) -> None:
    """Quantises the rows that ``read(start, stop)`` gives into ``out``.

    ``read`` is called from the threads of ``pool``, several at once.

    Raises:
        TensorError: NaN, Inf, or a value too large for a float16 scale; names tensor and row.
    """
    raise NotImplementedError


def copy_into(read: ReadRows, out: np.ndarray, pool: ThreadPoolExecutor, name: str) -> None:
    """Copies the rows that ``read(start, stop)`` gives into ``out``, a float16 or float32 array.

    Raises:
        TensorError: NaN, Inf, or a value too large for float16; names tensor and row.
    """
    raise NotImplementedError


def quantize(array: np.ndarray, format: Format, name: str = "array") -> QuantizedTensor:
    """Quantises a matrix [rows, cols] in memory.

    Raises:
        TensorError: as `quantize_into`.
        RecipeError: the rows are not whole groups.
    """
    raise NotImplementedError


def normalize_rows(block: np.ndarray) -> np.ndarray:
    """Rows of ``block`` [rows, cols] at L2 length 1, in float32: the norm head, folded before quantising.

    The floor of 1e-12 under the length is that of torch.nn.functional.normalize, which Baichuan 2 calls.
    """
    raise NotImplementedError
