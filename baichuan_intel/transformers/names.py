"""From what `from_pretrained` is given to an artifact: recipe, device, and the folder it is kept in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baichuan_intel.artifact.folders import PARTIAL
from baichuan_intel.artifact.manifest import MANIFEST_NAME
from baichuan_intel.artifact.store import Artifact, open_artifact
from baichuan_intel.backends.openvino import cache
from baichuan_intel.checkpoint.hub import fetch
from baichuan_intel.convert import convert
from baichuan_intel.errors import ArtifactError, RecipeError
from baichuan_intel.lowbit.recipe import DEFAULT_RECIPE, RECIPES, Recipe

# ipex-llm 2.2 has groups of 64 in these three (its ggml_qk_size says so); our 8 bits have one scale a row.
# Its 16-bit kinds differ in the exponent; a weight in bfloat16 that is not tiny is exact in float16.
IPEX_LLM = {
    "sym_int4": RECIPES["int4-sym-g64"],
    "asym_int4": Recipe(4, 64, False),
    "sym_int8": RECIPES["int8"],
    "fp16": RECIPES["f16"],
    "bf16": RECIPES["f16"],
}
_CHECKPOINT_FILES = (".json", ".model", ".safetensors", ".bin")


@dataclass(frozen=True)
class Precision:
    """A recipe that was asked for, and by which ``load_in_low_bit``."""

    recipe: Recipe
    low_bit: str | None = None

    def check(self, artifact: Artifact) -> None:
        """Refuses an artifact that is not what was asked for.

        ``load_in_4bit`` and ``load_in_8bit`` ask for bits, ipex-llm's names for a zero point or none as well,
        a recipe's name for that recipe.

        Raises:
            RecipeError: it is another.
        """
        held, asked = artifact.manifest.recipe, self.recipe
        if self.low_bit in RECIPES:
            fits = held == asked
        else:
            fits = held.bits == asked.bits and (not self.low_bit or held.symmetric == asked.symmetric)
        if not fits:
            raise RecipeError(
                f"{artifact.folder} holds {held.name}, which cannot become {self.low_bit or asked.name}: "
                "load the checkpoint that it was made from, or leave the precision out"
            )


@dataclass(frozen=True)
class Source:
    """A folder or hub id, and how it is fetched; as `baichuan_intel.convert` takes them."""

    name: str
    revision: str | None = None
    subfolder: str | None = None
    hub: str = "huggingface"
    offline: bool = False

    def local(self) -> Path | None:
        """The folder, where the name is one that exists.

        Raises:
            HubError: a revision is given for it, or the subfolder is no name.
        """
        if not os.path.exists(os.path.expanduser(self.name)):
            return None
        return fetch(self.name, revision=self.revision, subfolder=self.subfolder).folder

    def artifact(self, precision: Precision | None, device: str, *, again: bool = False) -> Artifact:
        """The artifact at this place, or the one that its checkpoint was converted to, now or before.

        A checkpoint is converted once and kept in the user's cache folder. A local one is known by its path
        and its files' sizes and times, one of a hub by its id and the revision asked for: from then on it
        needs no network. ``again`` fetches and converts anew. ``precision`` None takes an artifact as it is,
        and INT4 for a checkpoint.

        Raises:
            BaichuanError: as `baichuan_intel.convert`.
            RecipeError: the artifact is of another recipe.
        """
        local = self.local()
        if local and (local / MANIFEST_NAME).is_file():
            artifact = open_artifact(local)
            if precision:
                precision.check(artifact)
            return artifact
        chosen = precision.recipe if precision else int4(device)
        out = self._home(local) / chosen.name
        if not again:
            # Whatever is wrong with what was kept, converting again mends it.
            with contextlib.suppress(ArtifactError):
                return open_artifact(out)
        _say(f"converting {self.name} to {chosen.name}, once; kept in {out}")
        if precision is None:
            _say("no precision was asked for: load_in_8bit=True or load_in_low_bit='fp16' keep more")
        return convert(
            self.name,
            out,
            recipe=chosen,
            device=device,
            revision=self.revision,
            subfolder=self.subfolder,
            hub=self.hub,
            offline=self.offline,
            overwrite=True,
        )

    def tokenizer_folder(self) -> Path:
        """A folder with this source's tokenizer.model: the source's, or of an artifact made from it.

        Raises:
            HubError: the download failed.
        """
        local = self.local()
        if local:
            return local
        kept = sorted(file.parent for file in self._home(None).glob(f"*/{MANIFEST_NAME}"))
        finished = [folder for folder in kept if PARTIAL not in folder.name]
        if finished:
            return finished[0]
        return fetch(
            self.name, revision=self.revision, subfolder=self.subfolder, hub=self.hub, offline=self.offline
        ).folder

    def _home(self, local: Path | None) -> Path:
        """Where this source's artifacts are kept, one folder a recipe."""
        identity = [self.hub, self.name, self.revision, self.subfolder] if local is None else _files(local)
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
        label = re.sub(r"[^\w.-]", "_", (local or Path(self.name)).resolve().name)
        return cache.root().with_name("converted") / f"{label}-{digest}"


def int4(device: str) -> Recipe:
    """The 4-bit recipe for a released Baichuan model on ``device``: the NPU wants one scale a row."""
    return RECIPES["int4-sym-channel" if device.startswith("NPU") else DEFAULT_RECIPE]


def asked_precision(in_4bit: bool, in_8bit: bool, low_bit: str | None, device: str) -> Precision | None:
    """What ``load_in_4bit``, ``load_in_8bit`` and ``load_in_low_bit`` ask for; None without any.

    ``load_in_low_bit`` alone counts where it stands beside ``load_in_4bit``, as in ipex-llm.

    Raises:
        RecipeError: the name is unknown, or two contradict each other.
    """
    if in_8bit and (in_4bit or low_bit):
        raise RecipeError("load_in_8bit contradicts load_in_4bit and load_in_low_bit: give one of them")
    if low_bit:
        found = IPEX_LLM.get(low_bit) or RECIPES.get(low_bit)
        if found is None:
            raise RecipeError(
                f"load_in_low_bit={low_bit!r} is not supported: use one of {', '.join(IPEX_LLM)}, "
                f"or a recipe: {', '.join(RECIPES)}"
            )
        return Precision(found, low_bit)
    if in_8bit:
        return Precision(RECIPES["int8"])
    return Precision(int4(device)) if in_4bit else None


def device_name(device: Any) -> str:
    """OpenVINO's name of a device in torch's, transformers' or OpenVINO's spelling.

    An Intel GPU is "xpu" in torch. "cuda" is in most printed examples: the best device here.
    """
    kind, _, index = str(device).lower().partition(":")
    if kind == "xpu":
        return "GPU" if index in ("", "0") else f"GPU.{index}"
    if kind == "cpu":
        return "CPU"
    if kind == "cuda" or str(device).lower() == "auto":
        return "AUTO"
    return str(device).upper()


def check_ignored(call: str, keywords: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuses a keyword that is not in ``known``: a wish that would silently not be met.

    Raises:
        TypeError: names the first.
    """
    for name in keywords:
        if name not in known:
            raise TypeError(f"{call}() does not support the keyword {name!r}")


def _files(folder: Path) -> list[object]:
    """The path, and every file of a checkpoint with its size and time of change."""
    found: list[object] = [str(folder.resolve())]
    with contextlib.suppress(OSError):  # what cannot be read is refused when it is converted
        for file in sorted(folder.iterdir()):
            if file.suffix in _CHECKPOINT_FILES:
                status = file.stat()
                found.append((file.name, status.st_size, status.st_mtime_ns))
    return found


def _say(text: str) -> None:
    print(f"baichuan-intel: {text}", file=sys.stderr)
