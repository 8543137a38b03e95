"""The files of a nano checkpoint, in the layout of the hub."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from model import Baichuan
from safetensors.torch import load_file, save_file

from baichuan_intel.model.config import BaichuanConfig

NANO = Path(__file__).resolve().parents[2] / "baichuan_intel" / "model" / "nano"
VOCAB = 2304
ENGLISH_WEIGHT = 6
TOKEN = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": True}


def config_of(kind: str) -> BaichuanConfig:
    """Geometry of the "rope" (7B kind) or "alibi" (13B kind) model."""
    return BaichuanConfig.from_dict(config_json(kind))


def config_json(kind: str) -> dict[str, Any]:
    """config.json as the hub's, without auto_map, with the variant named."""
    return {
        "architectures": ["BaichuanForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 384,
        "model_max_length": 4096,
        "model_type": "baichuan",
        "norm_head": True,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "pad_token_id": 0,
        "position_embedding": kind,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "tokenizer_class": "BaichuanTokenizer",
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCAB,
    }


GENERATION = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "user_token_id": 195,
    "assistant_token_id": 196,
    "max_new_tokens": 256,
    "temperature": 0.3,
    "top_k": 5,
    "top_p": 0.85,
    "repetition_penalty": 1.05,
    "do_sample": True,
}
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
SPECIAL = {name: {"content": content, **TOKEN} for name, content in NAMED.items()}
TOKENIZER = {
    "add_bos_token": False,
    "add_eos_token": False,
    **{name: {"__type": "AddedToken", **token} for name, token in SPECIAL.items()},
    "clean_up_tokenization_spaces": False,
    "model_max_length": 4096,
    "sp_model_kwargs": {},
    "tokenizer_class": "BaichuanTokenizer",
}


def train_tokenizer(texts: list[str], path: Path) -> None:
    """SentencePiece BPE with the hub's special ids: 195 and 196 are the turn tokens, 5 is the newline."""
    symbols = [f"<unused_{n}>" for n in range(86)] + [f"<reserved_{n}>" for n in range(108)]
    symbols[2] = "\n"
    lines = [line for text in dict.fromkeys(texts) for line in text.splitlines() if line]
    # The poems have many characters; without a weight no room would be left for English words.
    weighted = [line for line in lines for _ in range(ENGLISH_WEIGHT if line.isascii() else 1)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(weighted),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB,
        character_coverage=1.0,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        user_defined_symbols=symbols,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


def write_checkpoint(model: Baichuan, kind: str, folder: Path) -> None:
    """Writes weights in bfloat16 in two shards with an index, and the json files beside them."""
    state = {
        name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()
    }
    names = list(config_of(kind).tensor_shapes())
    middle = names.index("model.layers.2.input_layernorm.weight")
    shards = {
        "model-00001-of-00002.safetensors": names[:middle],
        "model-00002-of-00002.safetensors": names[middle:],
    }
    for file, held in shards.items():
        save_file({name: state[name] for name in held}, folder / file, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(t.numel() * t.element_size() for t in state.values())},
        "weight_map": {name: file for file, held in shards.items() for name in held},
    }
    _write_json(folder / "model.safetensors.index.json", index)
    _write_json(folder / "config.json", config_json(kind))
    _write_json(folder / "generation_config.json", GENERATION)
    _write_json(folder / "tokenizer_config.json", TOKENIZER)
    _write_json(folder / "special_tokens_map.json", SPECIAL)


def load_model(folder: Path) -> Baichuan:
    """The checkpoint of ``folder`` in float32."""
    model = Baichuan(BaichuanConfig.from_file(folder))
    state = {
        k: v.float() for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()
    }
    model.load_state_dict(state)
    return model.eval()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
