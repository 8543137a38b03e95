"""The OpenVINO graph of Baichuan, built op by op: nothing is traced, nothing is baked.

Inputs: ``input_ids``, ``attention_mask``, ``position_ids`` [batch, seq] i64 and ``beam_idx`` [batch]
i32. Output: ``logits`` [batch, seq, vocab] f32. The KV cache is model state, [batch, heads, past,
head_dim] a layer. docs/how-it-works.md says why each part has the form it has.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baichuan_intel.backends.openvino.constants import constant, decompressed
from baichuan_intel.backends.openvino.saving import save_model
from baichuan_intel.lowbit.recipe import Recipe
from baichuan_intel.model.config import BaichuanConfig

if TYPE_CHECKING:
    import openvino as ov
    from openvino import Node

    from baichuan_intel.lowbit.scratch import WeightStore

# The most negative float16: a mask value that every plugin's precision can hold.
_MASKED = -65504.0


def build_model(config: BaichuanConfig, weights: WeightStore) -> ov.Model:
    """The stateful model of ``config`` over ``weights`` (names as in the checkpoint).

    The constants view the weights' memory: keep ``weights`` open as long as the model.
    """
    import openvino as ov

    builder = _Builder(config, weights)
    hidden = builder.embed()
    for layer in range(config.num_hidden_layers):
        hidden = builder.layer(hidden, layer)
    hidden = builder.norm(hidden, "model.norm.weight")
    logits = builder.linear(hidden, "lm_head.weight")
    logits.output(0).get_tensor().set_names({"logits"})
    result = builder.ops.result(logits, name="logits")
    model = ov.Model([result], builder.sinks, builder.parameters, "baichuan")
    # Hold what the constants view: OpenVINO keeps no reference to numpy memory.
    model._baichuan_weights = builder.held
    return model


def save_graph(config: BaichuanConfig, recipe: Recipe, weights: WeightStore, path: Path) -> None:
    """Writes the model of ``weights`` as ``path`` (.xml) and the .bin beside it.

    Raises:
        BackendError: OpenVINO could not write it (a full disk, most often).
    """
    model = build_model(config, weights)
    if recipe.bits == 4:
        # Where the NPU pipeline looks to tell per-channel from grouped codes; NNCF's own names.
        group = recipe.group_size or -1
        model.set_rt_info(group, ["nncf", "weight_compression", "group_size"])
        mode = "int4_sym" if recipe.symmetric else "int4_asym"
        model.set_rt_info(mode, ["nncf", "weight_compression", "mode"])
    save_model(model, path)


def alibi_slopes(heads: int) -> np.ndarray:
    """ALiBi's slopes for ``heads`` heads, float32 [heads] (Press et al. 2022, appendix A).

    A power of two n takes 2^(-8/n), 2^(-16/n), …; another count takes those of the power of two
    below, then every second one of the power of two above.
    """

    def series(count: int) -> list[float]:
        ratio = 2.0 ** (-8.0 / count)
        return [ratio ** (k + 1) for k in range(count)]

    below = 2 ** math.floor(math.log2(heads))
    slopes = series(below)
    if below < heads:
        slopes += series(2 * below)[0::2][: heads - below]
    return np.array(slopes, dtype=np.float32)


def _state_name(layer: int, part: str) -> str:
    """The NPU pipeline splits this name into those of its own input and output."""
    return f"past_key_values.{layer}.{part}present.{layer}.{part}"


class _Builder:
    """Ops of one model; shared inputs, masks and rotary tables are made once."""

    def __init__(self, config: BaichuanConfig, weights: WeightStore) -> None:
        from openvino import opset13 as ops

        self.config, self.weights, self.ops = config, weights, ops
        self.held: list[Any] = []
        self.sinks: list[Any] = []
        self.input_ids = self._input("input_ids", "i64", 2)
        self.attention_mask = self._input("attention_mask", "i64", 2)
        self.position_ids = self._input("position_ids", "i64", 2)
        self.beam_idx = self._input("beam_idx", "i32", 1)
        self.parameters = [self.input_ids, self.attention_mask, self.position_ids, self.beam_idx]
        self.mask: Node | None = None
        if config.position_embedding == "rope":
            self.cos, self.sin = self._rotary_tables()

    def embed(self) -> Node:
        """Rows of the embedding, [batch, seq, hidden]."""
        name = "model.embed_tokens.weight"
        table = decompressed(self.weights[name], name, self.held)
        return self.ops.gather(table, self.input_ids, constant([0], np.int64, ()))

    def layer(self, hidden: Node, index: int) -> Node:
        """One decoder layer with its two residuals."""
        prefix = f"model.layers.{index}."
        normed = self.norm(hidden, prefix + "input_layernorm.weight")
        hidden = self.ops.add(hidden, self._attention(normed, prefix + "self_attn.", index))
        normed = self.norm(hidden, prefix + "post_attention_layernorm.weight")
        return self.ops.add(hidden, self._mlp(normed, prefix + "mlp."))

    def norm(self, x: Node, name: str) -> Node:
        """RMSNorm in the form that OpenVINO fuses into one op."""
        ops = self.ops
        mean = ops.reduce_mean(
            ops.power(x, constant([2.0], np.float32, (1, 1, 1))), constant([-1], np.int64), keep_dims=True
        )
        root = ops.sqrt(ops.add(mean, constant([self.config.rms_norm_eps], np.float32, (1, 1, 1))))
        scaled = ops.multiply(x, ops.divide(constant([1.0], np.float32, (1, 1, 1)), root))
        weight = np.asarray(self.weights[name], dtype=np.float32).reshape(1, 1, -1)
        return ops.multiply(constant(weight, np.float32, weight.shape, name), scaled)

    def linear(self, x: Node, name: str) -> Node:
        """``x @ weight.T`` with the weight decompressed in the graph."""
        weight = decompressed(self.weights[name], name, self.held)
        return self.ops.matmul(x, weight, False, True, name=name.removesuffix(".weight"))

    def _input(self, name: str, dtype: str, rank: int) -> Any:
        from openvino import Type

        parameter = self.ops.parameter([-1] * rank, getattr(Type, dtype), name=name)
        parameter.output(0).get_tensor().set_names({name})
        return parameter

    def _mlp(self, x: Node, prefix: str) -> Node:
        gate = self.ops.swish(self.linear(x, prefix + "gate_proj.weight"))
        up = self.linear(x, prefix + "up_proj.weight")
        return self.linear(self.ops.multiply(gate, up), prefix + "down_proj.weight")

    def _attention(self, x: Node, prefix: str, index: int) -> Node:
        ops, config = self.ops, self.config
        packed = self.linear(x, prefix + "W_pack.weight")
        thirds = constant([config.hidden_size] * 3, np.int64)
        split = ops.variadic_split(packed, constant([-1], np.int64, ()), thirds)
        query, key, value = (self._heads(split.output(n)) for n in range(3))
        if config.position_embedding == "rope":
            query, key = self._rotate(query), self._rotate(key)
        key, value = (
            self._cached(key, _state_name(index, "key")),
            self._cached(value, _state_name(index, "value")),
        )
        if self.mask is None:
            self.mask = self._attention_bias()
        attended = ops.scaled_dot_product_attention(query, key, value, self.mask)
        merged = ops.transpose(attended, constant([0, 2, 1, 3], np.int64))
        flat = ops.reshape(merged, constant([0, 0, config.hidden_size], np.int64), True)
        return self.linear(flat, prefix + "o_proj.weight")

    def _heads(self, x: Any) -> Node:
        """[batch, seq, hidden] -> [batch, heads, seq, head_dim]."""
        heads, dim = self.config.num_attention_heads, self.config.head_dim
        split = self.ops.reshape(x, constant([0, 0, heads, dim], np.int64), True)
        return self.ops.transpose(split, constant([0, 2, 1, 3], np.int64))

    def _cached(self, new: Node, name: str) -> Node:
        """Appends ``new`` to the state ``name`` along the sequence."""
        from openvino import PartialShape, Type
        from openvino.op.util import Variable, VariableInfo

        ops, config = self.ops, self.config
        shape = [-1, config.num_attention_heads, -1, config.head_dim]
        info = VariableInfo()
        info.data_shape, info.data_type, info.variable_id = PartialShape(shape), Type.f32, name
        variable = Variable(info)
        batch = ops.gather(ops.shape_of(self.input_ids), constant([0], np.int64), constant([0], np.int64))
        empty_shape = ops.concat(
            [batch, constant([config.num_attention_heads, 0, config.head_dim], np.int64)], 0
        )
        empty = ops.broadcast(constant([0.0], np.float32, ()), empty_shape)
        past = ops.gather(ops.read_value(empty, variable), self.beam_idx, constant([0], np.int64, ()))
        joined = ops.concat([past, new], 2)
        self.sinks.append(ops.assign(joined, variable))
        return joined

    def _rotary_tables(self) -> tuple[Node, Node]:
        """cos and sin [batch, 1, seq, head_dim], computed from position_ids at any length.

        The broadcast of the frequencies looks idle. It completes the form that OpenVINO's NPU pipeline
        recognises and turns into a table made in float32 on the host (RopePatternLLama2 of its source);
        any other is left to the NPU's float16, which cannot hold the angles of late positions.
        """
        ops, config = self.ops, self.config
        half = config.head_dim // 2
        frequencies = config.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
        inverse = constant(frequencies.astype(np.float32), np.float32, (1, half, 1))
        batch = ops.gather(ops.shape_of(self.input_ids), constant([0], np.int64), constant([0], np.int64, ()))
        shape = ops.concat([batch, constant([half], np.int64), constant([1], np.int64)], 0)
        positions = ops.convert(ops.unsqueeze(self.position_ids, constant([1], np.int64, ())), "f32")
        inverse = ops.broadcast(inverse, shape)
        angles = ops.transpose(ops.matmul(inverse, positions, False, False), constant([0, 2, 1], np.int64))
        doubled = ops.concat([angles, angles], -1)
        axis = constant([1], np.int64, ())
        return ops.unsqueeze(ops.cos(doubled), axis), ops.unsqueeze(ops.sin(doubled), axis)

    def _rotate(self, x: Node) -> Node:
        """Llama's half rotation: x*cos + concat(-x2, x1)*sin."""
        ops, half = self.ops, self.config.head_dim // 2
        axis, step = constant([3], np.int64), constant([1], np.int64)
        zero, middle = constant([0], np.int64), constant([half], np.int64)
        end = constant([np.iinfo(np.int64).max], np.int64)
        first, second = ops.slice(x, zero, middle, step, axis), ops.slice(x, middle, end, step, axis)
        negated = ops.multiply(second, constant([-1.0], np.float32, (1, 1, 1, 1)))
        turned = ops.concat([negated, first], -1)
        return ops.add(ops.multiply(x, self.cos), ops.multiply(turned, self.sin))

    def _attention_bias(self) -> Node:
        """What is added to the scores, broadcastable to [batch, heads, seq, kv]."""
        masked = constant([_MASKED], np.float32, ())
        if self.config.position_embedding == "rope":
            allowed_bias: Node = constant([0.0], np.float32, ())
            return self.ops.select(self._allowed(), allowed_bias, masked)
        return self.ops.select(self.ops.logical_not(self._allowed()), masked, self._alibi_bias())

    def _allowed(self) -> Node:
        """Boolean [batch, 1, seq, kv]: causal by index, and not padding."""
        ops = self.ops
        zero = constant([0], np.int64, ())
        one = constant([1], np.int64, ())
        kv = ops.gather(ops.shape_of(self.attention_mask), one, zero)
        seq = ops.gather(ops.shape_of(self.input_ids), one, zero)
        keys = ops.range(zero, kv, one, "i64")
        queries = ops.unsqueeze(ops.range(ops.subtract(kv, seq), kv, one, "i64"), one)
        causal = ops.less_equal(ops.unsqueeze(keys, zero), queries)
        present = ops.convert(self.attention_mask, "boolean")
        present = ops.unsqueeze(present, constant([1, 2], np.int64))
        return ops.logical_and(ops.unsqueeze(causal, constant([0, 1], np.int64)), present)

    def _alibi_bias(self) -> Node:
        """slope * key position, [batch, heads, 1, kv]; softmax cancels the query's part.

        Positions come from the mask, so that left padding and the NPU's static shapes are right.
        The slopes are the *first* input and two reshapes follow: that is the pattern which the
        PagedAttention conversion takes them from (measured; docs/how-it-works.md).
        """
        ops, heads = self.ops, self.config.num_attention_heads
        minus_one = constant([-1], np.int64)
        counted = ops.cum_sum(self.attention_mask, constant([1], np.int64, ()))
        positions = ops.multiply(ops.add(counted, minus_one), self.attention_mask)
        positions = ops.unsqueeze(ops.convert(positions, "f32"), constant([1, 2], np.int64))
        slopes = constant(alibi_slopes(heads), np.float32, (1, heads, 1, 1), "alibi_slopes")
        bias = ops.multiply(slopes, positions)
        kv = ops.gather(ops.shape_of(self.attention_mask), constant([1], np.int64), constant([0], np.int64))
        flat = ops.concat([constant([-1, 1], np.int64), kv], 0)
        full = ops.concat([constant([-1, heads, 1], np.int64), kv], 0)
        return ops.reshape(ops.reshape(bias, flat, False), full, False)
