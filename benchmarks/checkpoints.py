"""Makes a random checkpoint at the full geometry of Baichuan 2, sharded like the hub's. Linux.

    python -m benchmarks.checkpoints 7b OUT --format bin

The weights are bf16 normal values of deviation 0.02 (the norms are 1). They are drawn once, 2^27 of
them, and every tensor is a piece of that block, repeated, from another offset: drawing 15 GB anew
would take minutes and measure nothing more. Shards are written straight from that memory: the peak
is 1.9 GB for 7b and 2.1 GB for 13b, in either format. Tokenizer and generation config are those of
the bundled nano model, whose vocabulary is smaller than the config's.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from baichuan_intel.model.config import BaichuanConfig

Format = Literal["bin", "safetensors"]
GEOMETRY = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
    },
    "13b": {
        "hidden_size": 5120,
        "intermediate_size": 13696,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
}
NANO = Path(__file__).parent.parent / "baichuan_intel" / "model" / "nano" / "rope"
# What transformers cuts at by default: 2 shards for 7b and 3 for 13b, as on the hub.
SHARD_BYTES = 10_000_000_000
BLOCK = 1 << 27
BF16_ONE = 0x3F80


class Noise:
    """Random bf16 values as uint16 bit patterns; any tensor of the model is a piece of them."""

    def __init__(self, largest: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        block = np.empty(BLOCK, np.uint16)
        for start in range(0, BLOCK, 1 << 22):
            values = random.standard_normal(1 << 22, np.float32) * np.float32(0.02)
            block[start : start + values.size] = values.view(np.uint32) >> 16
        self._values = np.resize(block, largest + BLOCK)
        self._random = random

    def tensor(self, shape: tuple[int, ...]) -> np.ndarray:
        """Bit patterns of one tensor, flat; a view where it can be."""
        if len(shape) == 1:
            return np.full(shape, BF16_ONE, np.uint16)
        start = int(self._random.integers(BLOCK))
        return self._values[start : start + math.prod(shape)]


def write_checkpoint(folder: Path, size: str, format: Format, layers: int | None = None) -> BaichuanConfig:
    """Writes the checkpoint into ``folder``, a new one, and returns what its config.json says."""
    folder.mkdir(parents=True)
    entries = _config_json(size, layers)
    (folder / "config.json").write_text(json.dumps(entries, indent=2), encoding="utf-8")
    for name in ("generation_config.json", "tokenizer_config.json", "tokenizer.model"):
        shutil.copyfile(NANO / name, folder / name)
    config = BaichuanConfig.from_file(folder)
    shapes = config.tensor_shapes()
    noise = Noise(max(map(math.prod, shapes.values())))
    stem, write = ("pytorch_model", _write_bin) if format == "bin" else ("model", _write_safetensors)
    parts = list(_split(shapes))
    weight_map = {}
    for n, part in enumerate(parts, 1):
        file = f"{stem}-{n:05}-of-{len(parts):05}.{format}"
        write(folder / file, part, noise)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 2 * config.parameters}, "weight_map": weight_map}
    (folder / f"{stem}.{format}.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return config


def _config_json(size: str, layers: int | None) -> dict[str, object]:
    """The hub's config.json, which names neither the position encoding nor the head."""
    entries: dict[str, object] = {
        "architectures": ["BaichuanForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "model_max_length": 4096,
        "model_type": "baichuan",
        "pad_token_id": 0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 125696,
    }
    entries |= GEOMETRY[size]
    if layers is not None:
        entries["num_hidden_layers"] = layers
    return entries


def _split(shapes: dict[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    part: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if part and 2 * sum(map(math.prod, [*part.values(), shape])) > SHARD_BYTES:
            yield part
            part = {}
        part[name] = shape
    yield part


def _write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], noise: Noise) -> None:
    """By hand, as the library wants the whole shard in memory: length, JSON header, the tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            file.write(noise.tensor(shape).data)


def _write_bin(path: Path, shapes: dict[str, tuple[int, ...]], noise: Noise) -> None:
    """Each tensor is a storage of its own over the same memory, so torch.save copies none."""
    import torch

    tensors = {
        name: torch.frombuffer(noise.tensor(shape), dtype=torch.bfloat16).view(shape)
        for name, shape in shapes.items()
    }
    torch.save(tensors, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a random checkpoint at full geometry.")
    parser.add_argument("size", choices=GEOMETRY)
    parser.add_argument("out", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--format", choices=("bin", "safetensors"), default="bin")
    parser.add_argument("--layers", type=int, help="fewer layers than the real model, to try it out")
    args = parser.parse_args()
    config = write_checkpoint(args.out, args.size, args.format, args.layers)
    print(f"{args.out}: {config.parameters / 1e9:.2f} G parameters, {2 * config.parameters / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
