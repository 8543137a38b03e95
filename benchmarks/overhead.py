"""Our `Model.generate` against a bare `openvino_genai.LLMPipeline` on the same folder. Linux only.

    python -m benchmarks.overhead ARTIFACT

One process holds both, each as a user would open it, and they take turns on the same token ids: so
memory for two models. Greedy, a fixed number of tokens, and the tokens must be the same; times are
of the whole call. The limit is for 7B geometry: a token of a tiny model takes a millisecond, and then
a thread and a callback count. The record is results/overhead.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from baichuan_intel.artifact.store import open_artifact
from benchmarks.measure import row, write_record

RESULT = Path(__file__).parent / "results" / "overhead.json"
LIMIT = 1.03
PROMPT = list(range(300, 332))
# A call that returns the new token ids.
Generate = Callable[[int], list[int]]


def ours(artifact: Path, device: str) -> Generate:
    """The package's `generate`."""
    import baichuan_intel as bi

    model = bi.load(artifact, device)
    values = bi.Sampling.greedy(ignore_eos=True)

    def generate(count: int) -> list[int]:
        return list(model.generate(PROMPT, sampling=values, max_new_tokens=count).ids)

    return generate


def bare(artifact: Path, device: str) -> Generate:
    """openvino-genai alone, with its own defaults."""
    import openvino as ov
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(str(artifact), device)
    config = openvino_genai.GenerationConfig()
    config.do_sample, config.ignore_eos, config.apply_chat_template = False, True, False

    def generate(count: int) -> list[int]:
        config.max_new_tokens = count
        return list(pipeline.generate(ov.Tensor(np.array([PROMPT], np.int64)), config).tokens[0])

    return generate


def measure(artifact: Path, device: str, tokens: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, the two alternating, after one call of each that is not counted."""
    calls = {"ours": ours(artifact, device), "bare": bare(artifact, device)}
    answers = {name: call(tokens) for name, call in calls.items()}
    if answers["ours"] != answers["bare"] or len(answers["ours"]) != tokens:
        sys.exit(f"the two do not give the same {tokens} tokens: {answers}")
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for n in range(repeats):
        # Each goes first every second time.
        for name in sorted(calls, reverse=n % 2 == 0):
            started = time.perf_counter()
            calls[name](tokens)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the package adds to openvino-genai.")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--device", default="CPU")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULT, help="the record (default: %(default)s)")
    args = parser.parse_args()
    opened = open_artifact(args.artifact)
    seconds = measure(args.artifact, args.device, args.tokens, args.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    record = {
        "what": "seconds of generate, the package against a bare LLMPipeline, alternating in one process",
        "rows": [row("ours / bare, medians", medians["ours"] / medians["bare"], LIMIT)],
        "device": args.device,
        "recipe": opened.manifest.recipe.name,
        "parameters": opened.config.parameters,
        "prompt_tokens": len(PROMPT),
        "new_tokens": args.tokens,
        "median_s": medians,
        "seconds": seconds,
    }
    sys.exit(0 if write_record(args.out, record) else 1)


if __name__ == "__main__":
    main()
