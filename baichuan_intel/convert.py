"""`convert`: a checkpoint's float weights become a low-bit artifact, one row block at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from baichuan_intel.artifact.folders import check_output, check_replaceable, resolve_output
from baichuan_intel.artifact.manifest import Manifest
from baichuan_intel.artifact.sidecar import write_sidecar
from baichuan_intel.artifact.source import describe_source
from baichuan_intel.artifact.store import Artifact, open_artifact, seal, writing
from baichuan_intel.backends.base import get_backend
from baichuan_intel.checkpoint.hub import fetch
from baichuan_intel.checkpoint.reader import Checkpoint, open_checkpoint
from baichuan_intel.errors import CheckpointError
from baichuan_intel.lowbit.quantize import copy_into, normalize_rows, quantize_into
from baichuan_intel.lowbit.recipe import DEFAULT_RECIPE, LM_HEAD, Recipe
from baichuan_intel.lowbit.scratch import WeightStore
from baichuan_intel.model.chat import TurnTokens
from baichuan_intel.model.config import BaichuanConfig
from baichuan_intel.model.sampling import Sampling
from baichuan_intel.model.tokenizer import Tokenizer
from baichuan_intel.progress import Bars, bars

_SOURCE_BYTES = {"bf16": 2, "f16": 2, "f32": 4}


def convert(
    source: str | Path,
    out: str | Path,
    *,
    recipe: str | Recipe = DEFAULT_RECIPE,
    device: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    hub: str = "huggingface",
    offline: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Artifact:
    """Converts a checkpoint folder or hub id to the artifact folder ``out``.

    ``recipe`` is a name or a `Recipe`; with ``device`` it is checked against what that device can
    run. ``revision``, ``subfolder``, ``hub`` ("huggingface" or "modelscope") and ``offline`` say
    where a hub id is fetched from. Private memory stays under 2.5 GB at 7B and 3 GB at 13B; the
    disk needs twice the output's size while writing.

    Raises:
        HubError: the download failed.
        ConfigError, CheckpointError, TokenizerError: the checkpoint cannot be used.
        RecipeError: the recipe is unknown, or does not suit the model or device.
        ArtifactError: ``out`` exists, is being written, or has no room.
        MissingDependencyError: an extra is not installed; the message has the pip line.
    """
    chosen = Recipe.named(recipe) if isinstance(recipe, str) else recipe
    if device is not None:
        chosen.check_device(device)
    # What is refused later too is refused before a download of gigabytes.
    backend = get_backend("openvino")
    backend.check_can_write()
    target = resolve_output(out)
    check_replaceable(target, overwrite)
    # Outside our bars, which would swallow those of the download.
    fetched = fetch(source, revision=revision, subfolder=subfolder, hub=hub, offline=offline)
    folder = fetched.folder
    check_output(target, folder)
    config = _checked_config(folder, chosen)
    # The scratch file and the model stand on the disk together for a while.
    needed = 2 * _output_bytes(config, chosen)
    with open_checkpoint(folder) as checkpoint, bars(enabled=progress) as shown:
        checkpoint.check(config)
        source_files = describe_source(
            folder,
            checkpoint.files,
            repo=fetched.repo,
            revision=fetched.revision,
            sha256=fetched.sha256,
        )
        with writing(target, overwrite=overwrite, needed_bytes=needed) as partial:
            write_sidecar(folder, config, partial)
            with WeightStore(partial / "weights.scratch") as weights:
                _quantize(checkpoint, config, chosen, weights, shown)
                shown.start("writing the model", None)
                backend.write(config, chosen, weights, partial)
            shown.start("hashing", None)
            seal(partial, Manifest.new(backend.name, source_files, config, chosen))
    return open_artifact(target)


def _checked_config(folder: Path, recipe: Recipe) -> BaichuanConfig:
    """Everything that can be refused before a weight is read."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give the folder of a Baichuan checkpoint")
    config = BaichuanConfig.from_file(folder)
    recipe.check(config)
    Tokenizer(folder, config.vocab_size)
    Sampling.from_folder(folder)
    TurnTokens.from_folder(folder)
    return config


def _quantize(
    checkpoint: Checkpoint, config: BaichuanConfig, recipe: Recipe, weights: WeightStore, shown: Bars
) -> None:
    """Fills ``weights`` with every tensor of the model, in the order of the forward pass."""
    shapes = config.tensor_shapes()
    total = sum(
        int(np.prod(shape)) * _SOURCE_BYTES[checkpoint.dtypes[name]] for name, shape in shapes.items()
    )
    shown.start("quantising", total)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, shape in shapes.items():
            read = _reader(checkpoint, config, name, shown)
            form = recipe.format_of(name, config)
            if form.is_float:
                dtype = np.float16 if form.bits == 16 else np.float32
                copy_into(read, weights.new_float(name, shape, dtype), pool, name)
            else:
                rows, cols = shape
                quantize_into(read, weights.new_quantized(name, (rows, cols), form), pool, name)


def _reader(
    checkpoint: Checkpoint, config: BaichuanConfig, name: str, shown: Bars
) -> Callable[[int, int], np.ndarray]:
    """Rows of a tensor as the graph takes them: those of a norm head at unit length."""
    fold = config.norm_head and name == LM_HEAD
    size = _SOURCE_BYTES[checkpoint.dtypes[name]]

    def read(start: int, stop: int) -> np.ndarray:
        block = checkpoint.rows(name, start, stop)
        shown.advance(block.size * size)
        return normalize_rows(block) if fold else block

    return read


def _output_bytes(config: BaichuanConfig, recipe: Recipe) -> int:
    """Bytes of all tensors as the recipe stores them."""
    total = 0
    for name, shape in config.tensor_shapes().items():
        form = recipe.format_of(name, config)
        size = int(np.prod(shape))
        total += size * form.bits // 8
        if not form.is_float:
            total += size // shape[-1] * form.groups(shape[-1]) * (2 if form.symmetric else 3)
    return total
