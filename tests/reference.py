"""Baichuan in float32 torch, written for the tests straight from the architecture.

No cache, no fused op, no tricks: every backend is compared with these numbers. Checked against
transformers' Llama (tests/test_reference.py) and, for ALiBi, against Baichuan 2's own modelling code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from baichuan_intel.model.config import BaichuanConfig

# Queries a block, so that scores of a long prompt stay small: heads x 512 x length.
QUERY_BLOCK = 512


def reference_logits(
    config: BaichuanConfig,
    weights: Mapping[str, Tensor],
    ids: Sequence[int] | Tensor,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """float32 logits of every position, [batch, len, vocab].

    Args:
        config: the geometry and the variant. For weights whose head is already folded (those of an
            artifact) give a config with ``norm_head=False``.
        weights: tensors under their checkpoint names, of any float dtype.
        ids: one prompt, or [batch, len] padded on the left.
        attention_mask: [batch, len], 0 on padding; logits at padding mean nothing.
    """
    return _head(config, weights, _hidden(config, weights, ids, attention_mask))


def greedy(config: BaichuanConfig, weights: Mapping[str, Tensor], ids: Sequence[int], n: int) -> list[int]:
    """The ``n`` tokens that follow ``ids`` when the likeliest is always taken; eos is a token like others."""
    out = list(ids)
    for _ in range(n):
        last = _hidden(config, weights, out, None)[:, -1]
        out.append(int(_head(config, weights, last).argmax()))
    return out[len(ids) :]


def alibi_slopes(heads: int) -> list[float]:
    """2^(-8/n), 2^(-16/n), ... for n a power of two; else those of the power below, then every
    other one of the power above (the ALiBi paper's rule)."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return slopes + between


@torch.no_grad()
def _hidden(
    config: BaichuanConfig,
    weights: Mapping[str, Tensor],
    ids: Sequence[int] | Tensor,
    attention_mask: Tensor | None,
) -> Tensor:
    """The last layer's normalised output, [batch, len, hidden]."""
    ids = torch.as_tensor(ids, dtype=torch.long)
    ids = ids[None] if ids.dim() == 1 else ids
    mask = torch.ones_like(ids) if attention_mask is None else attention_mask.long()
    positions = (mask.cumsum(-1) - 1) * mask
    x = weights["model.embed_tokens.weight"][ids].float()
    for n in range(config.num_hidden_layers):
        prefix = f"model.layers.{n}."
        layer = {k.removeprefix(prefix): v.float() for k, v in weights.items() if k.startswith(prefix)}
        normed = _rms_norm(x, layer["input_layernorm.weight"], config.rms_norm_eps)
        x = x + _attention(config, layer, normed, mask, positions)
        normed = _rms_norm(x, layer["post_attention_layernorm.weight"], config.rms_norm_eps)
        gate = normed @ layer["mlp.gate_proj.weight"].T
        up = normed @ layer["mlp.up_proj.weight"].T
        x = x + (gate * torch.sigmoid(gate) * up) @ layer["mlp.down_proj.weight"].T
    return _rms_norm(x, weights["model.norm.weight"].float(), config.rms_norm_eps)


@torch.no_grad()
def _head(config: BaichuanConfig, weights: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    head = weights["lm_head.weight"].float()
    if config.norm_head:
        head = head / head.norm(dim=1, keepdim=True)
    return hidden @ head.T


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def _attention(
    config: BaichuanConfig, layer: Mapping[str, Tensor], x: Tensor, mask: Tensor, positions: Tensor
) -> Tensor:
    batch, length, hidden = x.shape
    packed = x @ layer["self_attn.W_pack.weight"].T
    q, k, v = (
        part.view(batch, length, config.num_attention_heads, config.head_dim).transpose(1, 2)
        for part in packed.split(hidden, dim=-1)
    )
    if config.position_embedding == "rope":
        q, k = _rotate(config, q, positions), _rotate(config, k, positions)
    blocks = [
        _attend(config, q, k, v, mask, positions, start, min(start + QUERY_BLOCK, length))
        for start in range(0, length, QUERY_BLOCK)
    ]
    out = torch.cat(blocks, dim=2).transpose(1, 2).reshape(batch, length, hidden)
    return out @ layer["self_attn.o_proj.weight"].T


def _attend(
    config: BaichuanConfig,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    positions: Tensor,
    start: int,
    stop: int,
) -> Tensor:
    """Attention of the queries start..stop over all keys, [batch, heads, stop - start, head_dim]."""
    scores = q[:, :, start:stop] @ k.transpose(-1, -2) / math.sqrt(config.head_dim)
    if config.position_embedding == "alibi":
        distance = positions[:, None, :] - positions[:, start:stop, None]
        slopes = torch.tensor(alibi_slopes(config.num_attention_heads), dtype=torch.float32)
        scores = scores + slopes[:, None, None] * distance[:, None].float()
    later = torch.arange(mask.shape[1]) > torch.arange(start, stop)[:, None]
    hidden = later | (mask == 0)[:, None, None, :]
    # A finite value keeps the rows of padding, which see nothing, free of NaN.
    scores = scores.masked_fill(hidden, torch.finfo(torch.float32).min)
    return torch.softmax(scores, dim=-1) @ v


def _rotate(config: BaichuanConfig, x: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding of [batch, heads, len, head_dim]: element i turns with element i + head_dim/2."""
    half = config.head_dim // 2
    frequency = config.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
    angle = positions[:, None, :, None].float() * frequency
    cos, sin = torch.cos(angle), torch.sin(angle)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
