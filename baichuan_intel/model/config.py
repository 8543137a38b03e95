"""What a Baichuan checkpoint is: geometry and variant, read from config.json."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from baichuan_intel.errors import ConfigError
from baichuan_intel.model.checks import is_number, is_whole, shown

PositionEmbedding = Literal["rope", "alibi"]

# Spellings of `architectures` on the hub; Baichuan 1 7B has a capital C.
ARCHITECTURES = ("BaichuanForCausalLM", "BaiChuanForCausalLM")
# Baichuan 1 has 64,000 tokens and no norm head, Baichuan 2 has 125,696 and one.
NORM_HEAD_VOCAB = 100_000
# Hostile configs must not make us allocate or overflow float32: far above every released model.
_LIMIT = 1 << 20
_LAYER_LIMIT = 1024
_JSON_LIMIT_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class BaichuanConfig:
    """Geometry of one checkpoint.

    Sizes are in elements. ``position_embedding`` is "rope" (7B kind) or "alibi" (13B kind);
    ``norm_head`` says that rows of lm_head.weight are L2-normalised at inference (Baichuan 2).

    Raises:
        ConfigError: a value is missing, of the wrong type, or out of range.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    position_embedding: PositionEmbedding
    norm_head: bool
    model_max_length: int = 4096
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "vocab_size",
            "model_max_length",
        ):
            _check_int(name, getattr(self, name), 1, _LIMIT)
        _check_int("num_hidden_layers", self.num_hidden_layers, 1, _LAYER_LIMIT)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            _check_int(name, getattr(self, name), 0, _LIMIT)
        _check_number("rms_norm_eps", self.rms_norm_eps, 1e-12, 1.0)
        _check_number("rope_theta", self.rope_theta, 1.0, 1e12)
        if not isinstance(self.norm_head, bool):
            raise ConfigError(f"config.json: norm_head is {shown(self.norm_head)}, expected true or false")
        if self.position_embedding not in ("rope", "alibi"):
            raise ConfigError(
                f"config.json: position_embedding is {shown(self.position_embedding)}, "
                "expected 'rope' or 'alibi'"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"config.json: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.position_embedding == "rope" and self.head_dim % 2:
            raise ConfigError(f"config.json: rotary heads must be even, head_dim is {self.head_dim}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def generation(self) -> int:
        """1 for Baichuan, 2 for Baichuan 2 (told by the norm head)."""
        return 2 if self.norm_head else 1

    @property
    def parameters(self) -> int:
        """Number of weights in the checkpoint."""
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the checkpoint and its shape, in the order of the forward pass."""
        h, i, v = self.hidden_size, self.intermediate_size, self.vocab_size
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, h)}
        for n in range(self.num_hidden_layers):
            p = f"model.layers.{n}."
            shapes |= {
                p + "input_layernorm.weight": (h,),
                p + "self_attn.W_pack.weight": (3 * h, h),
                p + "self_attn.o_proj.weight": (h, h),
                p + "post_attention_layernorm.weight": (h,),
                p + "mlp.gate_proj.weight": (i, h),
                p + "mlp.up_proj.weight": (i, h),
                p + "mlp.down_proj.weight": (h, i),
            }
        shapes["model.norm.weight"] = (h,)
        shapes["lm_head.weight"] = (v, h)
        return shapes

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> BaichuanConfig:
        """Reads a hub config.json, telling the variant by the rule of docs/how-it-works.md.

        Raises:
            ConfigError: another model's config, or a bad value.
        """
        _check_is_baichuan(raw)
        missing = [k for k in _REQUIRED if k not in raw]
        if missing:
            raise ConfigError(f"config.json lacks {', '.join(missing)}: download it again from the hub")
        if raw.get("tie_word_embeddings", False) is not False:
            raise ConfigError("config.json: tie_word_embeddings is set; no Baichuan checkpoint ties them")
        if raw.get("hidden_act", "silu") != "silu":
            raise ConfigError(f"config.json: hidden_act is {shown(raw['hidden_act'])}; Baichuan uses 'silu'")
        optional = {k: raw[k] for k in _OPTIONAL if raw.get(k) is not None}
        return cls(
            **{k: raw[k] for k in _REQUIRED},
            **optional,
            position_embedding=_position_embedding(raw),
            norm_head=_norm_head(raw),
            model_max_length=_max_length(raw),
        )

    @classmethod
    def from_file(cls, path: str | Path) -> BaichuanConfig:
        """Reads ``path`` (a config.json, or the folder that holds one).

        Raises:
            ConfigError: no such file, not JSON, or not a Baichuan config.
        """
        return cls.from_dict(read_json(path))


def read_json(path: str | Path, name: str = "config.json") -> dict[str, Any]:
    """Reads a JSON object from a file, or from ``name`` in a folder.

    Raises:
        ConfigError: the file is missing, too large, not UTF-8 JSON, or not an object.
    """
    file = Path(path)
    try:
        if file.is_dir():
            file = file / name
        if file.stat().st_size > _JSON_LIMIT_BYTES:
            raise ConfigError(f"{file} is over 16 MiB: not a {name}")
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist: give the folder of a Baichuan checkpoint") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read as JSON ({error}): download it again") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} holds a {type(raw).__name__}, expected an object")
    return raw


_REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)
_OPTIONAL = ("rms_norm_eps", "rope_theta", "bos_token_id", "eos_token_id", "pad_token_id")


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if not is_whole(value, low, high):
        raise ConfigError(
            f"config.json: {name} is {shown(value)}, expected a whole number from {low} to {high}"
        )


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if not is_number(value, low, high):
        raise ConfigError(
            f"config.json: {name} is {shown(value)}, expected a number from {low:g} to {high:g}"
        )


def _check_is_baichuan(raw: dict[str, Any]) -> None:
    architectures = raw.get("architectures")
    named = architectures if isinstance(architectures, list) else []
    if raw.get("model_type") == "baichuan" and (not named or named[0] in ARCHITECTURES):
        return
    found = shown(named[0]) if named else f"model_type {shown(raw.get('model_type'))}"
    raise ConfigError(
        f"config.json is of another model ({found}): only Baichuan and Baichuan 2 are supported"
    )


def _position_embedding(raw: dict[str, Any]) -> PositionEmbedding:
    """No released config names it: an explicit key, else the width, else which length key is there."""
    if "position_embedding" in raw:
        value: PositionEmbedding = raw["position_embedding"]
        return value
    if raw["hidden_size"] == 4096:
        return "rope"
    if raw["hidden_size"] == 5120:
        return "alibi"
    return "rope" if "max_position_embeddings" in raw else "alibi"


def _norm_head(raw: dict[str, Any]) -> bool:
    if "norm_head" in raw:
        value: bool = raw["norm_head"]
        return value
    vocab = raw["vocab_size"]
    return isinstance(vocab, int) and vocab > NORM_HEAD_VOCAB


def _max_length(raw: dict[str, Any]) -> Any:
    for key in ("model_max_length", "max_position_embeddings"):
        if raw.get(key) is not None:
            return raw[key]
    return 4096
