"""OpenVINO tokenizer and detokenizer models made from tokenizer.model, without remote code."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from baichuan_intel.backends.openvino.saving import save_model
from baichuan_intel.errors import MissingDependencyError, TokenizerError


def import_converter() -> tuple[Any, Any]:
    """openvino_tokenizers' ``convert_tokenizer`` and transformers' ``SentencePieceBackend``.

    Raises:
        MissingDependencyError: the ``convert`` extra is not installed.
    """
    # Else it says at each import that models need PyTorch; a tokenizer does not.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        # Without it the conversion refuses, blaming the tokenizer's type.
        importlib.import_module("google.protobuf")
        from openvino_tokenizers import convert_tokenizer
        from transformers.tokenization_utils_sentencepiece import SentencePieceBackend
    except ImportError as error:
        package = "protobuf" if (error.name or "").startswith("google") else error.name or "transformers"
        raise MissingDependencyError(package, "convert", "converting") from None
    return convert_tokenizer, SentencePieceBackend


def write_tokenizer_ir(folder: Path) -> None:
    """Writes openvino_tokenizer.* and openvino_detokenizer.* beside ``folder``/tokenizer.model.

    Raises:
        MissingDependencyError: the ``convert`` extra is not installed.
        TokenizerError: the tokenizer cannot be converted.
        BackendError: OpenVINO could not write it.
    """
    convert_tokenizer, sentencepiece_backend = import_converter()
    # Just enough for the converter: it reads the SentencePiece file itself.
    names = {"vocab_files_names": {"vocab_file": "tokenizer.model"}}
    tokenizer = type("BaichuanTokenizer", (sentencepiece_backend,), names)(
        vocab_file=str(folder / "tokenizer.model"),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
    )
    try:
        models = convert_tokenizer(
            tokenizer,
            with_detokenizer=True,
            add_special_tokens=False,
            # "</s>" typed by a user is text, as SentencePiece itself has it.
            handle_special_tokens_with_re=False,
        )
    except Exception as error:
        raise TokenizerError(f"tokenizer.model cannot be converted to OpenVINO: {error}") from error
    for model, name in zip(models, ("openvino_tokenizer", "openvino_detokenizer"), strict=True):
        save_model(model, folder / f"{name}.xml")
