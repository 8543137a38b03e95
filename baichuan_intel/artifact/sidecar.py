"""The small files beside the model: configs without code, the tokenizer, the chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from baichuan_intel.model.chat import CHAT_TEMPLATE
from baichuan_intel.model.config import BaichuanConfig, read_json
from baichuan_intel.model.sampling import GENERATION_CONFIG
from baichuan_intel.model.tokenizer import TOKENIZER_MODEL

# Only what a runtime reads; anything else in a checkpoint's file is dropped.
_GENERATION_KEYS = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "user_token_id",
    "assistant_token_id",
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "do_sample",
)
_TEMPLATE_NOTE = (
    "chat_template is for servers that take text. baichuan_intel builds the prompt from token ids "
    "instead: each message is encoded on its own and old rounds are dropped to fit the context, as "
    "Baichuan 2's own chat function does; a template can do neither."
)


def write_sidecar(source: Path, config: BaichuanConfig, folder: Path) -> None:
    """Writes config.json, generation_config.json, tokenizer_config.json and tokenizer.model.

    ``source`` is a checkpoint folder whose files were already validated.

    Raises:
        ConfigError: a json file of ``source`` cannot be read.
    """
    raw = read_json(source)
    raw.pop("auto_map", None)
    _write_json(folder / "config.json", raw)
    _write_json(folder / GENERATION_CONFIG, _generation_config(source, config))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(config))
    shutil.copyfile(source / TOKENIZER_MODEL, folder / TOKENIZER_MODEL)


def _generation_config(source: Path, config: BaichuanConfig) -> dict[str, Any]:
    ids = {
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
    }
    if not (source / GENERATION_CONFIG).exists():
        return ids
    raw = read_json(source, GENERATION_CONFIG)
    return ids | {key: raw[key] for key in _GENERATION_KEYS if raw.get(key) is not None}


def _tokenizer_config(config: BaichuanConfig) -> dict[str, Any]:
    return {
        "_comment": _TEMPLATE_NOTE,
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": "<s>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_max_length": config.model_max_length,
        "pad_token": "<unk>",
        "unk_token": "<unk>",
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
