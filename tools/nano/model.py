"""Baichuan in torch, small enough to read: fused W_pack, RMSNorm, SwiGLU, rope or ALiBi, NormHead.

Module names are those of the hub's checkpoints, so ``state_dict()`` is the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baichuan_intel.model.config import BaichuanConfig

Rounding = Callable[[Tensor], Tensor]


class Linear(nn.Linear):
    """A linear layer whose weight can be seen through a rounding, with the gradient passed straight on."""

    rounding: Rounding | None = None

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        nn.init.normal_(self.weight, std=0.6 * inputs**-0.5)

    def seen_weight(self) -> Tensor:
        if self.rounding is None:
            return self.weight
        return self.weight + (self.rounding(self.weight) - self.weight).detach()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.seen_weight())


class NormHead(nn.Linear):
    """lm_head with rows of unit length, as Baichuan 2's."""

    def __init__(self, hidden: int, vocab: int) -> None:
        super().__init__(hidden, vocab, bias=False)
        nn.init.normal_(self.weight, std=hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight, dim=1))


class Attention(nn.Module):
    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.rope = config.position_embedding == "rope"
        self.theta = config.rope_theta
        self.W_pack = Linear(config.hidden_size, 3 * config.hidden_size)
        self.o_proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, hidden = x.shape
        packed = self.W_pack(x).view(batch, length, 3, self.heads, hidden // self.heads)
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        if self.rope:
            cos, sin = rotary_tables(length, q.shape[-1], self.theta)
            y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=alibi_mask(length, self.heads))
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, hidden))


class MLP(nn.Module):
    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Baichuan(nn.Module):
    """ids [batch, length] -> hidden states [batch, length, hidden]; ``lm_head`` makes logits of them."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.model.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.model.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = NormHead(config.hidden_size, config.vocab_size)
        nn.init.normal_(self.model.embed_tokens.weight, std=0.5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x)
        return self.model.norm(x)

    def see_through(self, rounding: Rounding | None) -> None:
        """Sets the rounding of all linear layers but the head."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.rounding = rounding


def rotary_tables(length: int, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin [length, dim] of the half-rotation."""
    frequencies = theta ** -(torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates [..., length, dim] by position."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def alibi_mask(length: int, heads: int) -> Tensor:
    """[heads, length, length]: slope * (key - query), -inf for keys to come. ``heads`` is a power of two."""
    slopes = 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1))
    places = torch.arange(length)
    distance = (places[None, :] - places[:, None]).float()
    return (slopes[:, None, None] * distance).masked_fill(distance > 0, float("-inf"))


def round_linear(group: int) -> Rounding:
    """4-bit round-to-nearest, symmetric, one scale per ``group`` columns (0: per row).

    The entry of the largest magnitude, with its sign, maps to -8.
    """

    def rounding(weight: Tensor) -> Tensor:
        rows = weight.detach().reshape(-1, group or weight.shape[1])
        extreme = rows.gather(1, rows.abs().argmax(1, keepdim=True))
        scale = (extreme / -8).half().float()
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        return ((rows / scale).round().clamp(-8, 7) * scale).view_as(weight)

    return rounding


def round_row8(weight: Tensor) -> Tensor:
    """8-bit round-to-nearest, symmetric, one scale a row."""
    scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    return (weight / scale).round() * scale
