"""Weights as OpenVINO constants with their decompression subgraph, over memory that we hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from openvino import Node

    from baichuan_intel.lowbit.quantize import QuantizedTensor


def constant(values: Any, dtype: Any, shape: Sequence[int] | None = None, name: str = "") -> Any:
    """A small constant, copied. ``shape`` defaults to one dimension."""
    from openvino import opset13 as ops

    array = np.array(values, dtype=dtype)
    array = array.reshape(-1 if shape is None else tuple(shape))
    return ops.constant(array, name=name or None)


def decompressed(weight: QuantizedTensor | np.ndarray, name: str, held: list[Any]) -> Node:
    """The float32 [rows, cols] weight of a matmul or a gather, decompressed in the graph.

    ``held`` collects the memory to keep alive.
    """
    from openvino import opset13 as ops

    if isinstance(weight, np.ndarray):
        node = _view(weight, _element_type(weight), weight.shape, name, held)
        return node if weight.dtype == np.float32 else ops.convert(node, "f32")
    return ops.convert(_from_codes(weight, name, held), "f32")


def _from_codes(weight: QuantizedTensor, name: str, held: list[Any]) -> Node:
    """codes -> f16, minus zero point, times scale, ungrouped: [rows, cols] f16.

    This is the pattern that OpenVINO's plugins keep compressed (NNCF writes the same one).
    """
    from openvino import opset13 as ops

    rows, cols = weight.shape
    groups = weight.scales.shape[1]
    grouped = (rows, groups, cols // groups) if groups > 1 else (rows, cols)
    per_group = (rows, groups, 1) if groups > 1 else (rows, 1)
    kind = _code_type(weight)
    node = ops.convert(_view(weight.codes, kind, grouped, name, held), "f16")
    if weight.zeros is not None:
        zeros = _packed_zeros(weight)
        zero = ops.convert(_view(zeros, kind, per_group, name + "/zero_point", held), "f16")
        node = ops.subtract(node, zero)
    node = ops.multiply(node, _view(weight.scales, "f16", per_group, name + "/scale", held))
    return ops.reshape(node, constant([rows, cols], np.int64), False) if groups > 1 else node


def _code_type(weight: QuantizedTensor) -> str:
    return ("i" if weight.zeros is None else "u") + str(weight.format.bits)


def _packed_zeros(weight: QuantizedTensor) -> np.ndarray:
    """Zero points in the codes' own element type: u4 packs two, low nibble first."""
    if weight.zeros is None or weight.format.bits == 8:
        return np.ascontiguousarray(weight.zeros)
    flat = weight.zeros.reshape(-1)
    flat = np.pad(flat, (0, flat.size % 2))
    packed: np.ndarray = flat[0::2] | (flat[1::2] << 4)
    return packed


def _element_type(array: np.ndarray) -> str:
    return {"float32": "f32", "float16": "f16"}[array.dtype.name]


def _view(array: np.ndarray, kind: str, shape: Sequence[int], name: str, held: list[Any]) -> Any:
    """A constant over ``array``'s own memory. OpenVINO keeps no reference to it: we do."""
    import openvino as ov
    from openvino import opset13 as ops

    held.append(array)
    tensor = ov.Tensor(array, ov.Shape(list(shape)), getattr(ov.Type, kind))
    held.append(tensor)
    node = ops.constant(tensor, shared_memory=True)
    node.set_friendly_name(name)
    return node
