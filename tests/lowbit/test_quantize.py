"""The quantiser against a reference that goes weight by weight in exact fractions."""

from __future__ import annotations

import math
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baichuan_intel.errors import RecipeError, TensorError
from baichuan_intel.lowbit import quantize as module
from baichuan_intel.lowbit.quantize import (
    QuantizedTensor,
    copy_into,
    normalize_rows,
    quantize,
    quantize_into,
)
from baichuan_intel.lowbit.recipe import Format

FORMATS = [
    Format(bits, group, symmetric)
    for bits in (4, 8)
    for group in (0, 32, 64, 128)
    for symmetric in (True, False)
]
formats = st.sampled_from(FORMATS)
FLOAT16_STEP = 2.0**-11


@st.composite
def matrices(draw: st.DrawFn, precision: str | None = None) -> np.ndarray:
    """[1 or 3, 128 or 256] float32 of some magnitude, with zeros, ties, flat and one-sided groups."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from([(1, 128), (3, 256)]))
    weights = rng.standard_normal(shape) * 2.0 ** draw(st.integers(-34, 13))
    weights[rng.random(shape) < 0.1] = 0
    special = draw(st.sampled_from(["none", "tie", "zero group", "flat", "positive", "negative", "grid"]))
    first = weights[0, :32]
    if special == "tie":
        first[3], first[7] = -abs(weights[0]).max(), abs(weights[0]).max()
    elif special == "zero group":
        first[:] = 0
    elif special == "flat":
        weights[:] = weights[0, 0]
    elif special == "positive":
        weights = abs(weights)
    elif special == "negative":
        weights = -abs(weights)
    elif special == "grid":  # quotients of exactly k and k + 1/2
        weights = rng.integers(-16, 17, shape) * 2.0 ** draw(st.integers(-12, 10))
    weights = weights.astype(np.float32)
    precision = precision or draw(st.sampled_from(["bf16", "f16", "f32"]))
    if precision == "bf16":
        weights = (weights.view(np.uint32) & 0xFFFF0000).view(np.float32)
    elif precision == "f16":
        weights = weights.astype(np.float16).astype(np.float32)
    return weights


def to_float16(value: float) -> Fraction:
    """Rounded to float16 by Python's own struct."""
    return Fraction(struct.unpack("<e", struct.pack("<e", value))[0])


def reference_scale_and_zero(group: list[Fraction], format: Format) -> tuple[Fraction, int]:
    if format.symmetric:
        extreme = min(group, key=lambda w: (-abs(w), w))
        return to_float16(float(extreme / -(2 ** (format.bits - 1)))), 0
    low, high, top = min(*group, Fraction(0)), max(*group, Fraction(0)), 2**format.bits - 1
    scale = to_float16(float((high - low) / top))
    return scale, 0 if scale == 0 else min(max(round(-low / scale), 0), top)


def reference_codes(weight: Fraction, scale: Fraction, zero: int, format: Format) -> set[int]:
    """The code; two when the quotient is nearer to a tie than float32 division can tell."""
    quotient = weight / scale if scale else Fraction(0)
    rounded = {round(quotient)}
    floor = math.floor(quotient)
    if 0 < abs(quotient - floor - Fraction(1, 2)) <= abs(quotient) / 2**24:
        rounded = {floor, floor + 1}
    low, high = (
        (-(2 ** (format.bits - 1)), 2 ** (format.bits - 1) - 1)
        if format.symmetric
        else (0, 2**format.bits - 1)
    )
    return {min(max(code + zero, low), high) for code in rounded}


def code_at(tensor: QuantizedTensor, row: int, col: int) -> int:
    """One code, taken out of its byte by hand."""
    if tensor.format.bits == 8:
        return int(tensor.codes[row, col])
    byte = int(tensor.codes[row, col // 2])
    nibble = byte // 16 if col % 2 else byte % 16
    return nibble - 16 if tensor.format.symmetric and nibble > 7 else nibble


def groups_of(weights: np.ndarray, format: Format) -> list[tuple[int, int, slice]]:
    """(row, group, columns) of every group."""
    size = format.group_size or weights.shape[1]
    return [
        (row, group, slice(group * size, (group + 1) * size))
        for row in range(weights.shape[0])
        for group in range(weights.shape[1] // size)
    ]


def check_against_reference(weights: np.ndarray, format: Format, ties_allowed: bool) -> None:
    tensor = quantize(weights, format)
    dequantized = tensor.dequantize()
    assert dequantized.dtype == np.float32
    assert dequantized.shape == tensor.shape == weights.shape
    for row, group, columns in groups_of(weights, format):
        exact = [Fraction(float(w)) for w in weights[row, columns]]
        scale, zero = reference_scale_and_zero(exact, format)
        assert Fraction(float(tensor.scales[row, group])) == scale
        assert (0 if tensor.zeros is None else tensor.zeros[row, group]) == zero
        for offset, weight in enumerate(exact):
            col = columns.start + offset
            code, allowed = code_at(tensor, row, col), reference_codes(weight, scale, zero, format)
            assert code in allowed
            assert ties_allowed or len(allowed) == 1
            assert Fraction(float(dequantized[row, col])) == (code - zero) * scale


@given(matrices(precision="bf16"), formats)
def test_bf16_weights_have_exactly_the_reference_codes(weights: np.ndarray, format: Format) -> None:
    check_against_reference(weights, format, ties_allowed=False)


@given(matrices(precision="f16"), formats)
def test_f16_weights_have_exactly_the_reference_codes(weights: np.ndarray, format: Format) -> None:
    check_against_reference(weights, format, ties_allowed=False)


@given(matrices(precision="f32"), formats)
def test_f32_weights_have_the_reference_codes_up_to_ties(weights: np.ndarray, format: Format) -> None:
    check_against_reference(weights, format, ties_allowed=True)


@given(matrices(), formats)
def test_error_is_half_a_scale_and_a_whole_one_only_where_seven_is_clipped(
    weights: np.ndarray, format: Format
) -> None:
    tensor = quantize(weights, format)
    error = abs(weights.astype(np.float64) - tensor.dequantize())
    levels = 2**format.bits
    for row, group, columns in groups_of(weights, format):
        scale = float(tensor.scales[row, group])
        if abs(scale) < 2.0**-14:  # a subnormal scale has fewer bits
            continue
        rounding = levels * abs(scale) * FLOAT16_STEP
        assert error[row, columns].max() <= abs(scale) + rounding
        quotients = weights[row, columns].astype(np.float64) / scale
        clipped = quotients > levels / 2 - 0.5 if format.symmetric else np.zeros_like(quotients, bool)
        assert (error[row, columns][~clipped] <= abs(scale) / 2 + rounding).all()


@given(matrices(), st.sampled_from([f for f in FORMATS if f.symmetric]))
def test_the_extreme_of_a_group_is_the_lowest_code(weights: np.ndarray, format: Format) -> None:
    tensor = quantize(weights, format)
    for row, group, columns in groups_of(weights, format):
        if abs(tensor.scales[row, group]) >= 2.0**-14:
            extreme = columns.start + int(abs(weights[row, columns]).argmax())
            opposite_tie = weights[row, columns].max() == -weights[row, columns].min()
            if not opposite_tie:
                assert code_at(tensor, row, extreme) == -(2 ** (format.bits - 1))
                assert tensor.dequantize()[row, extreme] == pytest.approx(
                    weights[row, extreme], rel=FLOAT16_STEP
                )


@given(matrices(), formats)
def test_zeros_stay_zero(weights: np.ndarray, format: Format) -> None:
    assert (quantize(weights, format).dequantize()[weights == 0] == 0).all()


@given(matrices(), st.sampled_from([f for f in FORMATS if f.group_size]))
def test_a_group_depends_on_its_own_weights_only(weights: np.ndarray, format: Format) -> None:
    before = quantize(weights, format).dequantize()
    changed = weights.copy()
    changed[0, : format.group_size] = 3.0
    after = quantize(changed, format).dequantize()
    outside = np.ones(weights.shape, bool)
    outside[0, : format.group_size] = False
    np.testing.assert_array_equal(before[outside], after[outside])


def test_symmetric_codes_by_hand() -> None:
    weights = np.zeros((1, 32), np.float32)
    weights[0, :6] = [-8, 7, 1, 2.4, 8, -0.6]  # the tie of -8 and 8 goes to -8: scale 1
    tensor = quantize(weights, Format(4, 32, True))
    assert tensor.scales.tolist() == [[1.0]]
    assert tensor.zeros is None
    assert tensor.codes[0, :4].tolist() == [0x78, 0x21, 0xF7, 0x00]
    assert tensor.dequantize()[0, :6].tolist() == [-8, 7, 1, 2, 7, -1]


def test_a_positive_extreme_gives_a_negative_scale() -> None:
    weights = np.zeros((1, 32), np.float32)
    weights[0, :3] = [4, -3.5, 1]
    tensor = quantize(weights, Format(4, 32, True))
    assert tensor.scales.tolist() == [[-0.5]]
    assert tensor.codes[0, :2].tolist() == [0x78, 0x0E]
    assert tensor.dequantize()[0, :3].tolist() == [4, -3.5, 1]


def test_asymmetric_codes_by_hand() -> None:
    weights = np.zeros((2, 32), np.float32)
    weights[0, :3] = [-2, 5.5, 1]  # 7.5 over 15: scale 0.5, zero point 4
    weights[1, :] = 15  # widened down to 0
    tensor = quantize(weights, Format(4, 32, False))
    assert tensor.scales.tolist() == [[0.5], [1.0]]
    assert tensor.zeros is not None
    assert tensor.zeros.tolist() == [[4], [0]]
    assert tensor.codes[0, :3].tolist() == [0xF0, 0x46, 0x44]
    assert tensor.codes[1].tolist() == [0xFF] * 16


def test_openvino_reads_the_same_codes() -> None:
    """The byte layout is that of OpenVINO's i4 and u4 constants."""
    ov = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    weights = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    for format, kind in ((Format(4, 32, True), ov.Type.i4), (Format(4, 32, False), ov.Type.u4)):
        tensor = quantize(weights, format)
        constant = ops.constant(ov.Tensor(tensor.codes, [4, 64], kind))
        model = ov.Model([ops.convert(constant, ov.Type.f32)], [])
        codes = ov.Core().compile_model(model, "CPU")({})[0].reshape(4, 2, 32)
        zeros = 0 if tensor.zeros is None else tensor.zeros[:, :, None]
        expected = (codes - zeros) * tensor.scales[:, :, None].astype(np.float32)
        np.testing.assert_array_equal(tensor.dequantize(), expected.reshape(4, 64))


@pytest.mark.parametrize(
    "format", [Format(4, 32, True), Format(4, 0, False), Format(8, 0, True), Format(8, 64, False)]
)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("block_weights", [1, 700, 4096])
def test_threads_and_blocks_do_not_change_a_bit(
    monkeypatch: pytest.MonkeyPatch, format: Format, threads: int, block_weights: int
) -> None:
    weights = np.random.default_rng(1).standard_normal((211, 64)).astype(np.float32)
    expected = quantize(weights, format)
    monkeypatch.setattr(module, "BLOCK_WEIGHTS", block_weights)
    out, seen, lock = QuantizedTensor.empty((211, 64), format), [], threading.Lock()

    def read(start: int, stop: int) -> np.ndarray:
        with lock:
            seen.extend(range(start, stop))
        return weights[start:stop]

    with ThreadPoolExecutor(threads) as pool:
        quantize_into(read, out, pool, "w")
    assert sorted(seen) == list(range(211))
    np.testing.assert_array_equal(out.codes, expected.codes)
    np.testing.assert_array_equal(out.scales, expected.scales)
    if expected.zeros is not None:
        np.testing.assert_array_equal(out.zeros, expected.zeros)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("format", [Format(4, 32, True), Format(4, 0, False), Format(8, 0, True)])
def test_nan_and_inf_name_the_tensor_and_the_first_row(
    monkeypatch: pytest.MonkeyPatch, format: Format, value: float
) -> None:
    monkeypatch.setattr(module, "BLOCK_WEIGHTS", 128)
    weights = np.zeros((100, 64), np.float32)
    weights[[71, 97], [40, 0]] = value
    with ThreadPoolExecutor(2) as pool, pytest.raises(TensorError, match=r"^model\.x, row 71: NaN or Inf"):
        quantize_into(lambda a, b: weights[a:b], QuantizedTensor.empty((100, 64), format), pool, "model.x")


@pytest.mark.parametrize("format", [Format(4, 32, True), Format(4, 32, False)])
@pytest.mark.parametrize("value", [1e7, 3e38])
def test_a_scale_beyond_float16_is_refused(format: Format, value: float) -> None:
    weights = np.full((3, 32), 1.0, np.float32)
    weights[2, 5], weights[2, 6] = value, -value
    with pytest.raises(TensorError, match="row 2: weights too large for float16"):
        quantize(weights, format)


def test_what_a_format_cannot_hold_is_refused() -> None:
    for shape, format in (
        ((2, 48), Format(4, 32, True)),
        ((2, 33), Format(4, 0, True)),
        ((2, 32), Format(16, 0, True)),
    ):
        with pytest.raises(RecipeError, match=f"rows of {shape[1]} weights"):
            quantize(np.zeros(shape, np.float32), format)


@pytest.mark.parametrize("shape", [(300, 7), (1000,)])
def test_floats_are_copied(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(module, "BLOCK_WEIGHTS", 64)
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.float32):
        expected = weights.to(dtype).numpy()
        out = np.zeros(shape, expected.dtype)
        with ThreadPoolExecutor(2) as pool:
            copy_into(lambda a, b: weights.numpy()[a:b], out, pool, "w")
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("value", "problem"), [(np.nan, "NaN or Inf"), (-np.inf, "NaN or Inf"), (70000, "too large")]
)
def test_floats_that_float16_cannot_hold_are_refused(value: float, problem: str) -> None:
    weights = np.ones(50, np.float32)
    weights[33] = value
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(TensorError, match=f"^norm, row 33: .*{problem}"),
    ):
        copy_into(lambda a, b: weights[a:b], np.empty(50, np.float16), pool, "norm")


@given(st.integers(0, 2**32), st.sampled_from([1e-20, 1e-14, 1e-6, 1.0, 1e6]))
def test_normalized_rows_are_those_of_torch(seed: int, magnitude: float) -> None:
    block = (np.random.default_rng(seed).standard_normal((5, 96)) * magnitude).astype(np.float32)
    block[2] = 0
    expected = torch.nn.functional.normalize(torch.from_numpy(block).double()).float().numpy()
    result = normalize_rows(block)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=3e-7, atol=0)


def test_normalizing_a_row_of_huge_weights_does_not_overflow() -> None:
    np.testing.assert_allclose(normalize_rows(np.full((1, 4), 1e30, np.float32)), 0.5)
