"""QuantizedTensor and the round-to-nearest quantiser that fills it, in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from baichuan_intel.errors import RecipeError, TensorError
from baichuan_intel.lowbit.recipe import Format

# Rows [start, stop) of a matrix as float32.
ReadRows = Callable[[int, int], np.ndarray]

# Weights a block. Its float32 (512 KB) and one working copy stay in a core's cache, and the calls of
# numpy cost little beside it: 64K is a fifth slower, 1M a tenth.
BLOCK_WEIGHTS = 128 * 1024
# Blocks a task: a task allocates its working memory once.
_BLOCKS_PER_TASK = 16
# The floor under a length in torch.nn.functional.normalize, which Baichuan 2 calls.
_NORM_FLOOR = 1e-12
_DAMAGED = "NaN or Inf among the weights: the checkpoint is damaged, download it again"
_TOO_LARGE = "weights too large for float16: the checkpoint is damaged, or convert with recipe f32"


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
        rows, cols = self.shape
        codes = self.codes.astype(np.int16)
        if self.format.bits == 4:
            codes = np.stack([codes & 15, codes >> 4], axis=-1)
            if self.format.symmetric:
                codes = np.where(codes < 8, codes, codes - 16)
        codes = codes.reshape(rows, self.scales.shape[1], -1)
        if self.zeros is not None:
            codes = codes - self.zeros[:, :, None]
        weights: np.ndarray = codes * self.scales[:, :, None].astype(np.float32)
        return weights.reshape(rows, cols)


def quantize_into(read: ReadRows, out: QuantizedTensor, pool: ThreadPoolExecutor, name: str) -> None:
    """Quantises the rows that ``read(start, stop)`` gives into ``out``, by round-to-nearest.

    Symmetric: scale = w / -2**(bits-1) for the weight w of the largest magnitude in the group, sign
    included, so that w becomes the lowest code and the full range is used (as NNCF's INT4_SYM).
    Asymmetric: the codes span min to max, widened to hold 0. The scale is rounded to float16 first
    and the codes are made with that.

    ``read`` is called from the threads of ``pool``, several at once.

    Raises:
        TensorError: NaN, Inf, or a weight too large for a float16 scale; names tensor and row.
    """

    def work(start: int, stop: int, step: int) -> None:
        quantizer = _BlockQuantizer(out, step, name)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            quantizer.run(np.ascontiguousarray(read(first, last), np.float32), first, last)

    _in_blocks(work, out.shape, pool)


def copy_into(read: ReadRows, out: np.ndarray, pool: ThreadPoolExecutor, name: str) -> None:
    """Copies the rows that ``read(start, stop)`` gives into ``out``, a float16 or float32 array.

    Raises:
        TensorError: NaN, Inf, or a weight too large for float16; names tensor and row.
    """

    def work(start: int, stop: int, step: int) -> None:
        for first in range(start, stop, step):
            last = min(first + step, stop)
            block = read(first, last)
            _check_finite(block, last - first, name, first, _DAMAGED)
            with np.errstate(over="ignore"):
                np.copyto(out[first:last], block, casting="same_kind")
            _check_finite(out[first:last], last - first, name, first, _TOO_LARGE)

    _in_blocks(work, out.shape, pool)


def quantize(array: np.ndarray, format: Format, name: str = "array") -> QuantizedTensor:
    """Quantises a matrix [rows, cols] in memory.

    Raises:
        TensorError: as `quantize_into`.
        RecipeError: ``format`` is a float format, or the rows are not whole groups.
    """
    rows, cols = array.shape
    if format.is_float or not format.fits(cols):
        raise RecipeError(f"{name} has rows of {cols} weights, which {format} cannot hold")
    out = QuantizedTensor.empty((rows, cols), format)
    with ThreadPoolExecutor(1) as pool:
        quantize_into(lambda start, stop: array[start:stop], out, pool, name)
    return out


def normalize_rows(block: np.ndarray) -> np.ndarray:
    """Rows of ``block`` [rows, cols] at L2 length 1, float32: the norm head, folded before quantising."""
    length = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
    unit: np.ndarray = block / np.maximum(length, _NORM_FLOOR).astype(np.float32)[:, None]
    return unit


class _BlockQuantizer:
    """Quantises blocks of up to ``rows`` rows into ``out``, in working memory of its own."""

    def __init__(self, out: QuantizedTensor, rows: int, name: str) -> None:
        self.out, self.name = out, name
        bits, symmetric, cols = out.format.bits, out.format.symmetric, out.shape[1]
        self.group = cols // out.format.groups(cols)
        self.lowest = -(1 << (bits - 1)) if symmetric else 0
        self.highest = self.lowest + (1 << bits) - 1
        self.group_starts = np.arange(0, rows * cols, self.group)
        self.quotients = np.empty((rows * cols // self.group, self.group), np.float32)
        self.wide_codes = np.empty((rows, cols), np.int8 if symmetric else np.uint8)

    def run(self, block: np.ndarray, first: int, last: int) -> None:
        """``block`` is rows [first, last) of the matrix, float32 and contiguous."""
        # reduceat takes half the time of max(axis=-1) over short groups. NaN comes through both.
        starts = self.group_starts[: block.size // self.group]
        low = np.minimum.reduceat(block.reshape(-1), starts).astype(np.float64)
        high = np.maximum.reduceat(block.reshape(-1), starts).astype(np.float64)
        _check_finite(np.stack([low, high], axis=1), last - first, self.name, first, _DAMAGED)

        with np.errstate(over="ignore"):
            scales = self._ideal_scales(low, high).astype(np.float16)
        _check_finite(scales, last - first, self.name, first, _TOO_LARGE)
        self.out.scales[first:last] = scales.reshape(last - first, -1)
        # A scale of 0 stands for weights below 2**-17: over 1 their codes are 0.
        divisors = np.where(scales == 0, 1, scales).astype(np.float32)

        # Division and not a product with the reciprocal: it is as fast, and bf16 or float16 weights
        # over a float16 scale then round exactly as the true quotient, ties included.
        quotients = np.divide(
            block.reshape(-1, self.group), divisors[:, None], out=self.quotients[: starts.size]
        )
        np.rint(quotients, out=quotients)
        if self.out.zeros is not None:
            zeros = np.clip(np.rint(np.minimum(low, 0) / -divisors), 0, self.highest)
            self.out.zeros[first:last] = zeros.reshape(last - first, -1)
            quotients += zeros[:, None].astype(np.float32)
        np.clip(quotients, self.lowest, self.highest, out=quotients)
        self._store(quotients.reshape(block.shape), first, last)

    def _ideal_scales(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        if self.out.format.symmetric:
            ideal: np.ndarray = np.where(high > -low, high, low) / self.lowest
        else:
            ideal = (np.maximum(high, 0) - np.minimum(low, 0)) / self.highest
        return ideal

    def _store(self, codes: np.ndarray, first: int, last: int) -> None:
        if self.out.format.bits == 8:
            np.copyto(self.out.codes[first:last], codes, casting="unsafe")
            return
        wide = self.wide_codes[: last - first]
        np.copyto(wide, codes, casting="unsafe")
        # Two neighbours as one little-endian uint16: the even column is the low byte.
        pairs = wide.view(np.uint16)
        pairs &= 0x0F0F
        pairs |= pairs >> 4
        np.copyto(self.out.codes[first:last], pairs, casting="unsafe")


def _check_finite(values: np.ndarray, rows: int, name: str, first: int, problem: str) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        row = first + int(np.argmin(finite.reshape(rows, -1).all(axis=1)))
        raise TensorError(f"{name}, row {row}: {problem}")


def _in_blocks(
    work: Callable[[int, int, int], None], shape: tuple[int, ...], pool: ThreadPoolExecutor
) -> None:
    """Calls ``work(start, stop, rows a block)`` over all rows; the error of the lowest rows is raised."""
    step = max(1, BLOCK_WEIGHTS // math.prod(shape[1:]))
    task = step * _BLOCKS_PER_TASK
    starts = range(0, shape[0], task)
    for _ in pool.map(lambda start: work(start, min(start + task, shape[0]), step), starts):
        pass
