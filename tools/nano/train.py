"""Trains the two nano checkpoints and writes them into the package.

Run from the repository root, with the package, torch, sentencepiece and safetensors installed::

    python tools/nano/train.py                 # both kinds
    python tools/nano/train.py alibi --check   # only measure what is in the package

About 7 minutes of CPU time a model. Seeds and data order are fixed; another processor or number of threads
rounds otherwise and gives an equivalent model, not the same bytes (the bundled ones: OMP_NUM_THREADS=1).
The last third of the training sees the weights rounded to 4 bits, so that the models answer after
quantisation too.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from pathlib import Path

import sentencepiece
import torch
from check import report
from data import Encode, batches, epoch, ids_and_targets, read_corpus
from files import NANO, config_of, load_model, train_tokenizer, write_checkpoint
from model import Baichuan, round_linear
from torch.nn import functional as F

EPOCHS, BATCH_TOKENS, PEAK_LR, SEED = 25, 1536, 3e-3, 20231
ROUNDINGS = (None, round_linear(128), round_linear(0), round_linear(32))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", default=["rope", "alibi"], help="rope, alibi or both")
    parser.add_argument("--check", action="store_true", help="do not train")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=NANO)
    arguments = parser.parse_args()
    corpus = read_corpus()
    for kind in arguments.kinds:
        folder = arguments.out / kind
        if not arguments.check:
            folder.mkdir(parents=True, exist_ok=True)
            train_tokenizer(list(corpus.texts()), folder / "tokenizer.model")
        tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        if not arguments.check:
            write_checkpoint(train(kind, tokenizer.encode, arguments.epochs), kind, folder)
        report(load_model(folder), corpus, tokenizer)


def train(kind: str, encode: Encode, epochs: int) -> Baichuan:
    """Trains one model from the seed; prints the loss of every epoch to stderr."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    corpus = read_corpus()
    model = Baichuan(config_of(kind))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.02}, {"params": norms, "weight_decay": 0.0}],
        lr=PEAK_LR,
        betas=(0.9, 0.98),
    )
    start = time.monotonic()
    for number in range(epochs):
        groups = list(batches(epoch(corpus, encode, rng), BATCH_TOKENS, rng))
        total = 0.0
        for step, group in enumerate(groups):
            done = (number + step / len(groups)) / epochs
            for parameters in optimizer.param_groups:
                parameters["lr"] = PEAK_LR * schedule(done)
            model.see_through(rng.choice(ROUNDINGS) if done > 2 / 3 else None)
            loss = loss_of(model, [ids_and_targets(sample) for sample in group])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        seconds = time.monotonic() - start
        print(
            f"{kind} epoch {number + 1}/{epochs} loss {total / len(groups):.4f} {seconds:.0f} s",
            file=sys.stderr,
        )
    model.see_through(None)
    return model


def schedule(done: float) -> float:
    """Share of the peak learning rate: a short rise, then a cosine to a fiftieth."""
    rise = 0.04
    if done < rise:
        return done / rise + 0.01
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))


def loss_of(model: Baichuan, group: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """Cross entropy of the answers of one right-padded batch."""
    longest = max(len(ids) for ids, _ in group)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in group])
    targets = torch.tensor([t + [-100] * (longest - len(t)) for _, t in group])
    learned = targets != -100
    return F.cross_entropy(model.lm_head(model(ids)[learned]), targets[learned])


if __name__ == "__main__":
    main()
