"""Baichuan 2's printed quick start, and ipex-llm's habits, with one import changed.

::

    from baichuan_intel.transformers import AutoModelForCausalLM, AutoTokenizer

torch is imported only where its tensors are asked for, transformers only to convert. No code of a
checkpoint is run.
"""

from __future__ import annotations

from baichuan_intel.transformers.model import AutoModelForCausalLM, BaichuanForCausalLM
from baichuan_intel.transformers.tokenizer import AutoTokenizer, BaichuanTokenizer, BatchEncoding

__all__ = [
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "BaichuanForCausalLM",
    "BaichuanTokenizer",
    "BatchEncoding",
]
