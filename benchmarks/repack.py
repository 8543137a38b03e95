"""What OpenVINO's first inference on a CPU pays for: the repacking of low-bit weights. Linux only.

    python -m benchmarks.repack

One matmul of 7B's gate_proj geometry (11008 x 4096) in each way that the weights could be stored,
and with each setting that could matter: seconds of the first inference less those of a later one,
per weight. It says why `start` is not faster and which ways round were tried. The record is
results/repack.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import write_record

RESULT = Path(__file__).parent / "results" / "repack.json"
ROWS, COLS = 11008, 4096
REPEATS = 3


@dataclass(frozen=True)
class Variant:
    """One way to store the weight, and the properties to compile it with."""

    name: str
    kind: str = "i4"
    group: int = 128
    zero_point: bool = False
    transposed: bool = False
    properties: dict[str, Any] = field(default_factory=dict)


VARIANTS = (
    Variant("i4, groups of 128 (the default recipe)"),
    Variant("i4, groups of 32", group=32),
    Variant("i4, one scale a row", group=0),
    Variant("u4, groups of 128, zero point 8", kind="u4", zero_point=True),
    Variant("i4, groups of 128, stored [in, out]", transposed=True),
    Variant("i4, DYNAMIC_QUANTIZATION_GROUP_SIZE 128", properties={"DYNAMIC_QUANTIZATION_GROUP_SIZE": 128}),
    Variant("i4, second start from the compile cache", properties={"CACHE_DIR": ""}),
    Variant("i8, one scale a row", kind="i8", group=0),
)


def measure_variant(variant: Variant) -> dict[str, Any]:
    """Medians over fresh compilations; the seconds are wall time of all cores."""
    with tempfile.TemporaryDirectory() as folder:
        properties = {key: value or folder for key, value in variant.properties.items()}
        model = _model(variant)
        if "CACHE_DIR" in properties:
            _first_and_later(model, properties)
        samples = [_first_and_later(model, properties) for _ in range(REPEATS)]
    first, later = (sorted(column)[REPEATS // 2] for column in zip(*samples, strict=True))
    return {
        "variant": variant.name,
        "first_inference_s": first,
        "later_inference_s": later,
        "ns_per_weight": (first - later) / (ROWS * COLS) * 1e9,
        "samples": samples,
    }


def _first_and_later(model: Any, properties: dict[str, Any]) -> tuple[float, float]:
    import openvino as ov

    request = ov.Core().compile_model(model, "CPU", properties).create_infer_request()
    x = np.ones((1, 1, COLS), np.float32)
    seconds = [_timed(lambda: request.infer([x])) for _ in range(4)]
    return seconds[0], min(seconds[1:])


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _model(variant: Variant) -> Any:
    import openvino as ov
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)
    groups = COLS // variant.group if variant.group else 1
    shape, scales = [ROWS, groups, COLS // groups], [ROWS, groups, 1]
    if variant.transposed:
        shape, scales = [groups, COLS // groups, ROWS], [groups, 1, ROWS]
    if groups == 1:
        shape, scales = [ROWS, COLS], [ROWS, 1]
    kind = getattr(ov.Type, variant.kind)
    weight = ops.convert(ops.constant(_random(rng, kind, shape)), "f16")
    if variant.zero_point:
        eight = ov.Tensor(kind, ov.Shape([1] * len(shape)))
        _bytes(eight)[:] = 8
        weight = ops.subtract(weight, ops.convert(ops.constant(eight), "f16"))
    weight = ops.multiply(weight, ops.constant(rng.uniform(0.9, 1.1, scales).astype(np.float16)))
    if groups > 1:
        flat = [COLS, ROWS] if variant.transposed else [ROWS, COLS]
        weight = ops.reshape(weight, ops.constant(np.array(flat)), False)
    x = ops.parameter([-1, -1, COLS], ov.Type.f32)
    product = ops.matmul(x, ops.convert(weight, "f32"), False, not variant.transposed)
    return ov.Model([ops.result(product)], [x], "one")


def _random(rng: np.random.Generator, kind: Any, shape: list[int]) -> Any:
    import openvino as ov

    tensor = ov.Tensor(kind, ov.Shape(shape))
    data = _bytes(tensor)
    data[:] = rng.integers(0, 256, data.size, dtype=np.uint8)
    return tensor


def _bytes(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.data).reshape(-1).view(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the repacking of low-bit weights on this CPU.")
    parser.add_argument("--out", type=Path, default=RESULT, help="the record (default: results/repack.json)")
    args = parser.parse_args()
    variants = [measure_variant(variant) for variant in VARIANTS]
    for line in variants:
        print(f"{line['ns_per_weight']:.2f} ns a weight  {line['variant']}")
    what = "OpenVINO CPU plugin, first inference of one matmul, 11008 x 4096"
    write_record(args.out, {"what": what, "rows": [], "variants": variants})


if __name__ == "__main__":
    main()
