"""Converts random checkpoints at full geometry: seconds, private memory, output size. Linux only.

    python -m benchmarks.convert_full WORK [--case 7b-bin --case 13b-safetensors ...]

Each case makes a checkpoint under WORK (see checkpoints.py), drops it from the page cache, runs
`baichuan-intel convert` on it as a user would, looks at what came out, and deletes both: WORK needs
room for the checkpoint and twice the artifact, 44 GB for 13b. The record is results/convert.json.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from baichuan_intel.artifact.store import open_artifact
from baichuan_intel.lowbit.recipe import Recipe
from baichuan_intel.model.config import BaichuanConfig
from benchmarks.checkpoints import Format, write_checkpoint
from benchmarks.measure import disk_rates, drop_cache, folder_bytes, row, run, write_record

RESULT = Path(__file__).parent / "results" / "convert.json"
SMALL_CONSTANT_BYTES = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What a conversion may cost; the project's own figures, for two cores."""

    private_bytes: float
    seconds: float
    output_bytes: float


LIMITS = {"7b": Limits(2.5e9, 90, 4.4e9), "13b": Limits(3e9, 180, 7.9e9)}
CASES: dict[str, tuple[str, Format]] = {
    "7b-bin": ("7b", "bin"),
    "7b-safetensors": ("7b", "safetensors"),
    "13b-bin": ("13b", "bin"),
    "13b-safetensors": ("13b", "safetensors"),
}
DEFAULT_CASES = ("7b-bin", "7b-safetensors", "13b-safetensors")


def measure_case(name: str, work: Path, layers: int | None) -> dict[str, Any]:
    """Makes, converts and deletes one checkpoint; the raw values of its conversion."""
    size, format = CASES[name]
    checkpoint, artifact = work / f"{name}-checkpoint", work / f"{name}-artifact"
    try:
        config = write_checkpoint(checkpoint, size, format, layers)
        rates = disk_rates(work)
        drop_cache(checkpoint.iterdir())
        command = [
            sys.executable,
            "-m",
            "baichuan_intel",
            "convert",
            str(checkpoint),
            str(artifact),
            "--json",
        ]
        cost = run(command)
        if cost.returncode:
            sys.exit(f"{name}: convert failed with {cost.returncode}\n{cost.stderr[-4000:]}")
        manifest = open_artifact(artifact).manifest
        return {
            "case": name,
            "layers": config.num_hidden_layers,
            "checkpoint_bytes": folder_bytes(checkpoint),
            "seconds": cost.seconds,
            "cpu_seconds": cost.cpu_seconds,
            "peak_private_bytes": cost.peak_private_bytes,
            "memory_samples": cost.samples,
            "artifact_bytes": folder_bytes(artifact),
            "artifact_files": {file.name: file.stat().st_size for file in sorted(artifact.iterdir())},
            "recipe": manifest.recipe.name,
            "foreign_constants": foreign_constants(artifact / "openvino_model.xml", config, manifest.recipe),
            "disk": rates,
            "disk_floor_s": folder_bytes(checkpoint) / rates["read_bytes_per_s"]
            + folder_bytes(artifact) / rates["write_bytes_per_s"],
        }
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)
        shutil.rmtree(artifact, ignore_errors=True)


def foreign_constants(graph: Path, config: BaichuanConfig, recipe: Recipe) -> list[dict[str, Any]]:
    """Constants of the graph (an .xml) over 1 MB that are not a weight's codes, scales or zero points.

    Told by their number of elements, each weight accounting for its own once: a baked mask or
    table has no weight to stand for.
    """
    expected = _expected_elements(config, recipe)
    foreign = []
    for _, layer in ElementTree.iterparse(graph):
        data = layer.find("data") if layer.tag == "layer" and layer.get("type") == "Const" else None
        if data is None:
            continue
        shape = [int(n) for n in data.get("shape", "").split(",") if n.strip()]
        elements = math.prod(shape)
        if expected[elements]:
            expected[elements] -= 1
        elif int(data.get("size", 0)) > SMALL_CONSTANT_BYTES:
            foreign.append({"name": layer.get("name"), "shape": shape, "bytes": int(data.get("size", 0))})
    return foreign


def _expected_elements(config: BaichuanConfig, recipe: Recipe) -> Counter[int]:
    expected: Counter[int] = Counter()
    for name, shape in config.tensor_shapes().items():
        expected[math.prod(shape)] += 1
        form = recipe.format_of(name, config)
        if not form.is_float:
            expected[shape[0] * form.groups(shape[1])] += 1 if form.symmetric else 2
    return expected


def rows(case: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures that must be reached, for one case."""
    name, limits = case["case"], LIMITS[CASES[case["case"]][0]]
    return [
        row(f"{name}: peak private memory, bytes", case["peak_private_bytes"], limits.private_bytes),
        row(f"{name}: seconds", case["seconds"], limits.seconds),
        row(f"{name}: artifact, bytes", case["artifact_bytes"], limits.output_bytes),
        row(f"{name}: constants over 1 MB that are no weight", len(case["foreign_constants"]), 0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure convert at full geometry.")
    parser.add_argument("work", type=Path, help="a folder with 44 GB free")
    parser.add_argument("--case", choices=CASES, action="append", help="default: " + ", ".join(DEFAULT_CASES))
    parser.add_argument("--layers", type=int, help="fewer layers, to try the script out")
    parser.add_argument("--out", type=Path, default=RESULT, help="the record (default: %(default)s)")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    cases = [measure_case(name, args.work, args.layers) for name in args.case or DEFAULT_CASES]
    record = {
        "what": "baichuan-intel convert, default recipe, checkpoint not in the page cache",
        "rows": [line for case in cases for line in rows(case)],
        "cases": cases,
    }
    sys.exit(0 if write_record(args.out, record) else 1)


if __name__ == "__main__":
    main()
