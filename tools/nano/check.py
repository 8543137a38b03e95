"""Counts what a nano model answers exactly, in bfloat16 and with its weights in 4 bits.

Greedy decoding repeats a text exactly if and only if the text's token has the largest logit at each of its
places, so one forward pass per text decides, and the product of the sampling probabilities is the chance of
the exact text under the default sampling.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import sentencepiece
import torch
from data import Corpus, Sample, chat_sample, few_shot_sample, ids_and_targets
from model import Baichuan, Linear, Rounding, round_linear, round_row8
from torch import Tensor
from torch.nn import functional as F

FORMATS: dict[str, Rounding | None] = {
    "bf16": None,
    "int4 g128": round_linear(128),
    "int4 g64": round_linear(64),
    "int4 g32": round_linear(32),
    "int4 channel": round_linear(0),
}
PENALTY, TEMPERATURE, TOP_K, TOP_P = 1.05, 0.3, 5, 0.85


def report(model: Baichuan, corpus: Corpus, tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    """Prints, per weight format, the exact answers of each part and their chance under default sampling."""

    def first(asks: tuple[str, ...]) -> str:
        return asks[0]

    parts = {
        "chat": [chat_sample(c, tokenizer.encode, first) for c in corpus.written],
        "poem chat": [chat_sample(c, tokenizer.encode, first) for c in corpus.from_poems],
        "2-shot": [
            few_shot_sample([corpus.pairs[n - 1], pair], tokenizer.encode)
            for n, pair in enumerate(corpus.pairs)
        ],
    }
    for name, rounding in FORMATS.items():
        quantised = rounded(model, rounding)
        cells = []
        for part, samples in parts.items():
            greedy, chances = count(quantised, samples)
            cells.append(f"{part} {greedy}/{len(samples)} (sampled {sum(chances) / len(chances):.3f})")
        print(f"{name}: " + ", ".join(cells))
        for prompt in (
            tokenizer.encode("登鹳雀楼->王之涣\n夜雨寄北->"),
            [195, *tokenizer.encode("解释一下“温故而知新”"), 196],
        ):
            print("   ", tokenizer.decode(greedy_ids(quantised, prompt, 80)))


def rounded(model: Baichuan, rounding: Rounding | None) -> Baichuan:
    """A copy with the linears rounded, and embedding and (normalised) head in 8 bits per row."""
    model = copy.deepcopy(model)
    if rounding is None:
        return model
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Linear):
                module.weight.copy_(rounding(module.weight))
        model.model.embed_tokens.weight.copy_(round_row8(model.model.embed_tokens.weight))
        model.lm_head.weight.copy_(round_row8(F.normalize(model.lm_head.weight, dim=1)))
    return model


@torch.inference_mode()
def count(model: Baichuan, samples: Iterable[Sample]) -> tuple[int, list[float]]:
    """How many last answers are exact when greedy, and each one's chance under the default sampling."""
    greedy, chances = 0, []
    for sample in samples:
        ids, targets = ids_and_targets(sample)
        answer = len(sample[-1][1]) + 1
        logits = model.lm_head(model(torch.tensor([ids])))[0, -answer:]
        wanted = torch.tensor(targets[-answer:])
        greedy += int((logits.argmax(1) == wanted).all())
        start = len(ids) - answer + 1
        chance = 1.0
        for n, token in enumerate(targets[-answer:]):
            chance *= float(sampling_probabilities(logits[n], ids[: start + n])[token])
        chances.append(chance)
    return greedy, chances


def sampling_probabilities(logits: Tensor, seen: list[int]) -> Tensor:
    """Baichuan 2's default sampling: repetition penalty, temperature, top-k, top-p."""
    logits = logits.clone()
    known = torch.tensor(sorted(set(seen)))
    logits[known] = torch.where(logits[known] > 0, logits[known] / PENALTY, logits[known] * PENALTY)
    values, order = (logits / TEMPERATURE).topk(TOP_K)
    p = values.softmax(0)
    p = torch.where(p.cumsum(0) - p < TOP_P, p, 0)
    return torch.zeros_like(logits).scatter(0, order, p / p.sum())


@torch.inference_mode()
def greedy_ids(model: Baichuan, prompt: list[int], limit: int) -> list[int]:
    """Greedy decoding without a cache, until eos."""
    ids = list(prompt)
    while len(ids) < len(prompt) + limit:
        token = int(model.lm_head(model(torch.tensor([ids]))[0, -1]).argmax())
        if token == 2:
            break
        ids.append(token)
    return ids[len(prompt) :]
