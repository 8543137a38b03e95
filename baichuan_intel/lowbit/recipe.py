"""Recipe: how every weight of a model is stored, and what each device wants."""

from __future__ import annotations

import difflib
import functools
import itertools
import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from baichuan_intel.errors import RecipeError
from baichuan_intel.model.config import BaichuanConfig

GROUP_SIZES = (0, 32, 64, 128)
# Above this OpenVINO's NPU guide asks for one scale a row instead of groups of 128.
NPU_CHANNEL_PARAMETERS = 5_000_000_000
# The linear layers of a block, those that 4 bits cost most first.
_LINEARS = ("mlp.down_proj", "self_attn.W_pack", "mlp.up_proj", "self_attn.o_proj", "mlp.gate_proj")
EMBEDDING, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    # By type too: True == 1 and 4.0 == 4, and these go into a manifest.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise RecipeError(f"{name} is {value!r}, expected one of {', '.join(map(str, choices))}")


@dataclass(frozen=True)
class Format:
    """How one matrix is stored.

    ``bits`` is 4 or 8 (codes with scales), 16 or 32 (plain floats). ``group_size`` counts the
    neighbouring columns that share a scale; 0 is one scale a row. ``symmetric`` codes are signed
    and have no zero point.

    Raises:
        RecipeError: a value is unknown, or floats are given groups.
    """

    bits: int
    group_size: int
    symmetric: bool

    def __post_init__(self) -> None:
        _check_choice("bits", self.bits, (4, 8, 16, 32))
        _check_choice("group_size", self.group_size, GROUP_SIZES)
        _check_choice("symmetric", self.symmetric, (True, False))
        if self.is_float and (self.group_size or not self.symmetric):
            raise RecipeError(
                f"{self.bits}-bit floats have no groups and no zero points: use group_size 0, symmetric"
            )

    @property
    def is_float(self) -> bool:
        """Plain float16 or float32, without scales."""
        return self.bits >= 16

    def groups(self, cols: int) -> int:
        """Number of scales in a row of ``cols`` weights."""
        return cols // (self.group_size or cols)

    def fits(self, cols: int) -> bool:
        """Whether a row of ``cols`` weights is whole groups (and whole bytes)."""
        return cols % (self.group_size or 1) == 0 and (self.bits != 4 or cols % 2 == 0)


FLOAT32 = Format(32, 0, True)
# One scale a row is enough at 8 bits. 4 bits hurt lm_head more than any kind of layer.
INT8 = Format(8, 0, True)


@dataclass(frozen=True)
class Advice:
    """The recipe that a device wants, and why."""

    recipe_name: str
    reason: str


@dataclass(frozen=True)
class Recipe:
    """How a model is stored: the linear layers, then lm_head and the embedding on their own.

    ``ratio`` is the share of the linear layers' weights in 4 bits, the rest is in 8 bits.
    lm_head and the embedding in 8 bits have one scale a row; in 4 bits they take the layers'
    groups. Norm weights are always float32.

    Raises:
        RecipeError: a value is unknown or two do not go together.
    """

    bits: int
    group_size: int
    symmetric: bool
    lm_head_bits: int = 8
    embedding_bits: int = 8
    ratio: float = 1.0
    method: Literal["rtn"] = "rtn"

    def __post_init__(self) -> None:
        Format(self.bits, self.group_size, self.symmetric)
        _check_choice("lm_head_bits", self.lm_head_bits, (4, 8, 16, 32))
        _check_choice("embedding_bits", self.embedding_bits, (4, 8, 16, 32))
        _check_choice("method", self.method, ("rtn",))
        if (
            isinstance(self.ratio, bool)
            or not isinstance(self.ratio, (int, float))
            or not 0 < self.ratio <= 1
        ):
            raise RecipeError(f"ratio is {self.ratio!r}, expected a number above 0 and up to 1")
        if self.ratio < 1 and self.bits != 4:
            raise RecipeError(f"ratio {self.ratio} mixes 4 and 8 bits, but bits is {self.bits}: use bits 4")

    @property
    def name(self) -> str:
        """Its key in `RECIPES`, else a description in the same style."""
        for name, recipe in RECIPES.items():
            if recipe == self:
                return name
        parts = [f"{'f' if self.bits >= 16 else 'int'}{self.bits}"]
        if self.bits < 16:
            parts += [
                "sym" if self.symmetric else "asym",
                f"g{self.group_size}" if self.group_size else "channel",
            ]
        parts += [f"head{self.lm_head_bits}", f"embedding{self.embedding_bits}"]
        return "-".join(parts + ([f"ratio{self.ratio:g}"] if self.ratio < 1 else []))

    @classmethod
    def named(cls, name: str) -> Recipe:
        """The recipe of that name.

        Raises:
            RecipeError: no such name; the message lists them all.
        """
        try:
            return RECIPES[name]
        except KeyError:
            near = difflib.get_close_matches(name, RECIPES, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise RecipeError(f"no recipe {name!r}{hint}: use one of {', '.join(RECIPES)}") from None

    def format_of(self, tensor_name: str, config: BaichuanConfig) -> Format:
        """How the tensor of that name in the checkpoint is stored.

        Raises:
            RecipeError: ``config``'s model has no such tensor.
        """
        shape = config.tensor_shapes().get(tensor_name)
        if shape is None:
            raise RecipeError(f"the model has no tensor {tensor_name!r}")
        if len(shape) == 1:
            return FLOAT32
        if tensor_name == LM_HEAD:
            return self._format(self.lm_head_bits)
        if tensor_name == EMBEDDING:
            return self._format(self.embedding_bits)
        if tensor_name in _eight_bit_layers(self.ratio, config):
            return INT8
        return Format(self.bits, self.group_size, self.symmetric)

    def check(self, config: BaichuanConfig) -> None:
        """Refuses a model whose rows are not whole groups.

        Raises:
            RecipeError: names the first such tensor and the recipes that fit this model.
        """
        misfit = self._misfit(config)
        if misfit:
            name, cols, group = misfit
            raise RecipeError(
                f"{name} has rows of {cols} weights, not a multiple of {group} as {self.name} needs: "
                f"use one of {', '.join(_fitting(config))}"
            )

    @classmethod
    def for_device(cls, device: str, config: BaichuanConfig) -> Advice:
        """The recipe that ``device`` (OpenVINO's spelling: CPU, GPU.1, NPU, AUTO, HETERO:GPU,CPU) wants.

        Raises:
            RecipeError: the device's kind is unknown.
        """
        kinds = _device_kinds(device)
        reason = next(text for kind, text in _REASONS.items() if kind in kinds or kind == "CPU")
        wanted = ["int4-sym-g128", "int4-sym-g64", "int4-sym-g32", "int4-sym-channel", "int8"]
        if "NPU" in kinds:
            wanted = ["int4-sym-g128", "int4-sym-channel", "int8"]
            if config.parameters > NPU_CHANNEL_PARAMETERS:
                wanted = ["int4-sym-channel", "int8"]
                reason += ", and wants one scale a row above 5 billion parameters"
        fitting = _fitting(config)
        return Advice(next(name for name in wanted if name in fitting), reason)

    def check_device(self, device: str) -> None:
        """Refuses a recipe that ``device`` cannot run.

        Raises:
            RecipeError: asymmetric or mixed codes for an NPU, or a device of unknown kind.
        """
        if "NPU" not in _device_kinds(device):
            return
        if not self.symmetric:
            raise RecipeError(
                f"{self.name} is asymmetric and the NPU compiler aborts on zero points: "
                "use int4-sym-g128 or int4-sym-channel"
            )
        if self.ratio < 1:
            raise RecipeError(
                f"{self.name} mixes 4 and 8 bits and the NPU compiler needs one width in all layers: "
                "use int4-sym-g128 or int4-sym-channel"
            )

    def to_dict(self) -> dict[str, Any]:
        """For the manifest: every field under its own name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Recipe:
        """Back from `to_dict`.

        Raises:
            RecipeError: a key is unknown or missing, or a value is not one of ours.
        """
        if not isinstance(raw, dict):
            raise RecipeError(f"the recipe is a {type(raw).__name__}, expected an object")
        known = {field.name for field in fields(cls)}
        wrong = sorted(str(key) for key in raw.keys() ^ known)
        if wrong:
            raise RecipeError(f"the recipe has unknown or missing keys: {', '.join(wrong)}")
        return cls(**raw)

    def _format(self, bits: int) -> Format:
        if bits == 4:
            return Format(4, self.group_size, self.symmetric)
        return Format(bits, 0, True)

    def _misfit(self, config: BaichuanConfig) -> tuple[str, int, int] | None:
        """The first tensor whose rows are not whole groups: its name, its columns, the divisor."""
        for name, shape in config.tensor_shapes().items():
            format = self.format_of(name, config)
            if not format.fits(shape[-1]):
                return name, shape[-1], format.group_size or 2
        return None


RECIPES: dict[str, Recipe] = {
    "int4-sym-g128": Recipe(4, 128, True),
    "int4-asym-g128": Recipe(4, 128, False),
    "int4-sym-g64": Recipe(4, 64, True),
    "int4-sym-g32": Recipe(4, 32, True),
    "int4-sym-channel": Recipe(4, 0, True),
    "int4-mixed": Recipe(4, 128, True, ratio=0.8),
    "int8": Recipe(8, 0, True),
    "f16": Recipe(16, 0, True, 16, 16),
    "f32": Recipe(32, 0, True, 32, 32),
}
DEFAULT_RECIPE = "int4-sym-g128"

# Why a device wants symmetric 4-bit groups; the first kind named in the device string counts.
_REASONS = {
    "NPU": "the NPU compiler takes symmetric 4-bit codes only, in all layers alike",
    "GPU": "XMX engines multiply symmetric 4-bit codes directly, without zero points",
    "CPU": "VNNI and AMX multiply 8-bit activations by symmetric 4-bit codes, without zero points",
}


def _fitting(config: BaichuanConfig) -> list[str]:
    """The named recipes whose groups divide this model's widths."""
    return [name for name, recipe in RECIPES.items() if recipe._misfit(config) is None]


def _device_kinds(device: str) -> set[str]:
    """{"GPU", "HETERO", "CPU"} of "HETERO:GPU.1,CPU"."""
    kinds = {part.partition(".")[0].strip() for part in re.split("[:,]", device.upper())}
    unknown = kinds - {"CPU", "GPU", "NPU", "AUTO", "HETERO", "MULTI", "BATCH"}
    if unknown:
        raise RecipeError(f"no recipe is known for device {device!r}: use CPU, GPU, NPU or AUTO")
    return kinds


@functools.lru_cache(maxsize=8)
def _eight_bit_layers(ratio: float, config: BaichuanConfig) -> frozenset[str]:
    """The linear layers that a mixed recipe keeps in 8 bits: down_proj first, from both ends inward.

    No data is needed, and it is where llama.cpp's mixed types spend bits too. On SmolLM2-135M, with
    a fifth in 8 bits counted at Baichuan's proportions, it left the smallest divergence from float
    of the rules tried: whole layers (both ends, start, end, evenly), up_proj, attention, mixtures.
    """
    shapes, last = config.tensor_shapes(), config.num_hidden_layers - 1
    inward = sorted(range(last + 1), key=lambda layer: min(layer, last - layer))
    ranked = [f"model.layers.{layer}.{kind}.weight" for kind in _LINEARS for layer in inward]
    budget = (1 - ratio) * sum(math.prod(shapes[name]) for name in ranked)
    sums = itertools.accumulate(math.prod(shapes[name]) for name in ranked)
    return frozenset(name for name, used in zip(ranked, sums, strict=True) if used <= budget)
