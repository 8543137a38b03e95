"""From `load` to the first token, in a fresh process with a warm page cache. Linux only.

    python -m benchmarks.start ARTIFACT

A first start has an empty compile cache, the second start what the first left there (nothing, on a
device whose compiled models the package does not keep); both are taken several times, and the
medians count. Before each start the artifact's files are read once. The record is results/start.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from baichuan_intel.artifact.store import open_artifact
from baichuan_intel.backends.openvino.cache import FOLDER as CACHE_FOLDER
from benchmarks.measure import folder_bytes, row, run, warm_cache, write_record

RESULT = Path(__file__).parent / "results" / "start.json"
FIRST_LIMIT_S, SECOND_LIMIT_S = 20.0, 10.0
PROMPT = list(range(300, 332))


# Runs in the fresh process, which has imported nothing else: prints where its seconds went.
CHILD = """
import json, sys, time
started = time.perf_counter()
import baichuan_intel as bi
imported = time.perf_counter()
with bi.load(sys.argv[1], sys.argv[2]) as model:
    loaded = time.perf_counter()
    prompt = json.loads(sys.argv[3])
    timing = model.generate(prompt, do_sample=False, ignore_eos=True, max_new_tokens=2).timing
print(json.dumps({
    "import_s": imported - started,
    "load_s": loaded - imported,
    "first_token_s": timing.first_token_s,
    "load_to_first_token_s": loaded - imported + timing.first_token_s,
    "second_token_s": timing.token_s[0],
}))
"""


def measure_pair(artifact: Path, device: str) -> dict[str, dict[str, Any]]:
    """A first start, with an empty compile cache, and a second one."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ[CACHE_FOLDER] = cache
        return {which: _start(artifact, device, Path(cache)) for which in ("first", "second")}


def _start(artifact: Path, device: str, cache: Path) -> dict[str, Any]:
    warm_cache(file for file in artifact.iterdir() if file.is_file())
    cost = run([sys.executable, "-c", CHILD, str(artifact), device, json.dumps(PROMPT)])
    if cost.returncode:
        sys.exit(f"the start failed with {cost.returncode}\n{cost.stderr[-4000:]}")
    return json.loads(cost.stdout) | {
        "process_s": cost.seconds,
        "peak_private_bytes": cost.peak_private_bytes,
        "compile_cache_bytes": folder_bytes(cache),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how long an artifact takes to its first token.")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--device", default="CPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT, help="the record (default: %(default)s)")
    args = parser.parse_args()
    opened = open_artifact(args.artifact)
    pairs = [measure_pair(args.artifact, args.device) for _ in range(args.repeats)]
    medians = {
        which: statistics.median(pair[which]["load_to_first_token_s"] for pair in pairs)
        for which in ("first", "second")
    }
    record = {
        "what": "seconds from load to the first token of 32, fresh process, warm page cache",
        "rows": [
            row("first start, empty compile cache, median s", medians["first"], FIRST_LIMIT_S),
            row("second start, median s", medians["second"], SECOND_LIMIT_S),
        ],
        "device": args.device,
        "recipe": opened.manifest.recipe.name,
        "parameters": opened.config.parameters,
        "prompt_tokens": len(PROMPT),
        "starts": pairs,
    }
    sys.exit(0 if write_record(args.out, record) else 1)


if __name__ == "__main__":
    main()
