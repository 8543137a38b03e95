"""Tiny random checkpoints in the layout of the hub, for tests."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor

from baichuan_intel.model.config import BaichuanConfig

TOKENIZER_VOCAB = 600
_DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


@dataclass(frozen=True)
class Checkpoint:
    """A written checkpoint and what it holds."""

    folder: Path
    config: BaichuanConfig
    weights: dict[str, Tensor]


def make_config(kind: Literal["rope", "alibi"] = "rope", **geometry: Any) -> BaichuanConfig:
    """A tiny geometry of that kind with the norm head; ``geometry`` are fields of BaichuanConfig."""
    defaults = {
        "hidden_size": 256,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 640,
        "norm_head": True,
    }
    return BaichuanConfig(position_embedding=kind, **(defaults | geometry))


def random_weights(config: BaichuanConfig, seed: int = 0) -> dict[str, Tensor]:
    """bf16 weights that make every layer count and greedy choices clear.

    The linears are strong enough that leaving any of them out changes the logits by a fifth or more;
    a heavy-tailed head and final norm spread the logits. Every value is exact in bf16, f16 and f32.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in config.tensor_shapes().items():
        x = torch.randn(shape, generator=generator)
        if name == "model.norm.weight":
            x = torch.exp(x)
        elif len(shape) == 1:
            x = 1 + 0.1 * x
        elif name == "lm_head.weight":
            x = x * x.abs()
        elif name != "model.embed_tokens.weight":
            x = x * 1.6 / math.sqrt(shape[1])
        x[x.abs() < 2**-14] = 0  # below this a bf16 value may have more digits than f16 keeps
        weights[name] = x.to(torch.bfloat16)
    return weights


def write_checkpoint(
    folder: Path,
    config: BaichuanConfig,
    weights: Mapping[str, Tensor],
    *,
    format: Literal["safetensors", "bin"] = "safetensors",
    shards: int = 1,
    dtype: Literal["bf16", "f16", "f32"] = "bf16",
    config_overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a checkpoint as the hub has it, without its code files, and returns ``folder``.

    ``config_overrides`` replaces keys of config.json; a value of None takes the key out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = _config_json(config, dtype) | dict(config_overrides or {})
    _write_json(folder / "config.json", {k: v for k, v in entries.items() if v is not None})
    _write_json(folder / "generation_config.json", _generation_json(config))
    _write_json(folder / "tokenizer_config.json", _tokenizer_json(config))
    (folder / "tokenizer.model").write_bytes(tokenizer_model())
    _write_weights(folder, {k: v.to(_DTYPES[dtype]).contiguous() for k, v in weights.items()}, format, shards)
    return folder


@cache
def tokenizer_model() -> bytes:
    """A SentencePiece BPE model with Baichuan 2's settings and turn tokens, trained on a few lines."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT),
        model_writer=out,
        model_type="bpe",
        vocab_size=TOKENIZER_VOCAB,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        user_defined_symbols=_SYMBOLS,
        minloglevel=2,
    )
    return out.getvalue()


# <unk>, <s> and </s> are ids 0 to 2; the two turn tokens must be 195 and 196.
_SYMBOLS = [*(f"<unused_{i}>" for i in range(3, 195)), "<reserved_106>", "<reserved_107>"]

# Enough different pairs to fill the vocabulary, with lines the tests like to send.
_TEXT = [
    "登鹳雀楼->王之涣\n夜雨寄北->李商隐",
    "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。",
    "解释一下“温故而知新”：温习旧的知识，从中得到新的理解。",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "A small model answers in English and in 中文; the other one answers in numbers: 0123456789.",
    "Hello! How are you today? I am well, thank you, and how is the weather there?",
]


def _config_json(config: BaichuanConfig, dtype: str) -> dict[str, Any]:
    names = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
    entries = {
        "architectures": ["BaichuanForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_baichuan.BaichuanConfig",
            "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM",
        },
        "tokenizer_class": "BaichuanTokenizer",
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "model_max_length": config.model_max_length,
        "model_type": "baichuan",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "pad_token_id": config.pad_token_id,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": False,
        "torch_dtype": names[dtype],
        "transformers_version": "4.29.2",
        "use_cache": True,
        "vocab_size": config.vocab_size,
        "position_embedding": config.position_embedding,
        "norm_head": config.norm_head,
    }
    if config.position_embedding == "rope":
        entries |= {"max_position_embeddings": config.model_max_length, "rope_theta": config.rope_theta}
    return entries


def _generation_json(config: BaichuanConfig) -> dict[str, Any]:
    return {
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "user_token_id": 195,
        "assistant_token_id": 196,
        "max_new_tokens": 2048,
        "temperature": 0.3,
        "top_k": 5,
        "top_p": 0.85,
        "repetition_penalty": 1.05,
        "do_sample": True,
        "transformers_version": "4.29.2",
    }


def _tokenizer_json(config: BaichuanConfig) -> dict[str, Any]:
    def token(content: str) -> dict[str, Any]:
        flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": True}
        return {"__type": "AddedToken", "content": content} | flags

    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaichuanTokenizer", None]},
        "bos_token": token("<s>"),
        "clean_up_tokenization_spaces": False,
        "eos_token": token("</s>"),
        "model_max_length": config.model_max_length,
        "pad_token": token("<unk>"),
        "sp_model_kwargs": {},
        "tokenizer_class": "BaichuanTokenizer",
        "unk_token": token("<unk>"),
    }


def _write_weights(folder: Path, tensors: dict[str, Tensor], format: str, shards: int) -> None:
    stem, suffix = ("model", "safetensors") if format == "safetensors" else ("pytorch_model", "bin")
    names = list(tensors)
    size = math.ceil(len(names) / shards)
    weight_map: dict[str, str] = {}
    for n in range(shards):
        file = f"{stem}.{suffix}" if shards == 1 else f"{stem}-{n + 1:05}-of-{shards:05}.{suffix}"
        part = {k: tensors[k] for k in names[n * size : (n + 1) * size]}
        if format == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        total = sum(t.nbytes for t in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / f"{stem}.{suffix}.index.json", index)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")
