"""The seam between the package and the runtimes: tokens in, tokens out.

A backend writes the files of an artifact and opens them as a `Session`. A session knows token ids
only; text, stop strings, timing and history are `baichuan_intel.load.Model`'s.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from baichuan_intel.errors import BackendError
from baichuan_intel.lowbit.recipe import Recipe
from baichuan_intel.lowbit.scratch import WeightStore
from baichuan_intel.model.config import BaichuanConfig
from baichuan_intel.model.sampling import Sampling

FinishReason = Literal["stop", "length", "interrupted"]
# Called with each new token id; returning True ends the answer.
OnToken = Callable[[int], bool]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one answer.

    ``first_token_s`` is TTFT, from the call to the first token; ``token_s`` the gaps between
    tokens after it; ``load_s`` what opening the session took.
    """

    first_token_s: float
    token_s: tuple[float, ...] = ()
    load_s: float = 0.0

    @property
    def total_s(self) -> float:
        """From the call to the last token."""
        return self.first_token_s + sum(self.token_s)

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for an answer of fewer than two tokens."""
        return sum(self.token_s) / len(self.token_s) if self.token_s else None

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Decode rate, without the first token; None for an answer of fewer than two tokens."""
        total = sum(self.token_s)
        return len(self.token_s) / total if total > 0 else None


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of this process when the answer ended; ``peak_rss`` since the process started."""

    rss: int
    peak_rss: int

    @classmethod
    def now(cls) -> Memory:
        """This process at this moment."""
        import psutil

        info = psutil.Process().memory_info()
        # Windows has the peak beside the current size. On Linux resource.getrusage would give that of
        # the parent where it is larger.
        peak = getattr(info, "peak_wset", 0) or _peak_rss()
        return cls(rss=info.rss, peak_rss=max(peak, info.rss))


def _peak_rss() -> int:
    """Linux's VmHWM in bytes (proc(5)); 0 elsewhere."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One answer, with what it cost. ``str()`` of it is the text."""

    text: str
    ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    timing: Timing
    memory: Memory

    def __str__(self) -> str:
        return self.text

    @property
    def new_tokens(self) -> int:
        """Tokens generated, the end-of-answer token not counted."""
        return len(self.ids)

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens over the time to the first token."""
        return self.prompt_tokens / self.timing.first_token_s if self.timing.first_token_s else 0.0


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device as the runtime reports it; unknown values stay None."""

    name: str
    full_name: str
    architecture: str | None = None
    memory_bytes: int | None = None
    capabilities: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)


class Session(ABC):
    """An artifact opened on a device. Not thread-safe: one answer at a time.

    ``max_prompt_tokens`` is the longest prompt that it takes, None where only the context limits it.
    """

    device: str
    max_prompt_tokens: int | None = None

    @abstractmethod
    def generate(self, ids: Sequence[int], sampling: Sampling, on_token: OnToken) -> None:
        """Decodes from ``ids`` until an eos id of ``sampling``, ``max_new_tokens``, or ``on_token``.

        ``on_token`` gets every token in order, an eos that ended the answer included.

        Raises:
            ContextLengthError: the device's own prompt limit is exceeded.
            BackendError: the runtime failed.
        """

    @abstractmethod
    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """float32 logits of every position, [len(ids), vocab]."""

    @abstractmethod
    def close(self) -> None:
        """Frees the device. Idempotent."""


class Backend(ABC):
    """A runtime: writes the run-time files of an artifact, opens them."""

    name: str

    @abstractmethod
    def check_can_write(self) -> None:
        """Refuses what `write` would refuse for want of a library, before hours of work.

        Raises:
            MissingDependencyError: an extra is not installed.
        """

    @abstractmethod
    def write(self, config: BaichuanConfig, recipe: Recipe, weights: WeightStore, folder: Path) -> None:
        """Writes this runtime's model files into ``folder`` from the quantised ``weights``.

        config.json, generation_config.json and tokenizer.model are already there.
        """

    @abstractmethod
    def open(
        self, folder: Path, config: BaichuanConfig, device: str, properties: Mapping[str, Any], key: str
    ) -> Session:
        """Opens ``folder`` on ``device``; ``key`` names its contents, for a cache of compiled models.

        Raises:
            DeviceError: no such device here, or its driver is missing.
            BackendError: the runtime refused the model or a property.
        """

    @abstractmethod
    def devices(self) -> Iterable[Device]:
        """The devices that this runtime sees here."""


_BACKENDS = {"openvino": "baichuan_intel.backends.openvino:OpenVINOBackend"}


def get_backend(name: str) -> Backend:
    """The backend of that name; its runtime is imported when it is used.

    Raises:
        BackendError: no backend has this name.
    """
    try:
        module, _, attribute = _BACKENDS[name].partition(":")
    except KeyError:
        raise BackendError(f"no backend {name!r}: use one of {', '.join(_BACKENDS)}") from None
    backend: Backend = getattr(importlib.import_module(module), attribute)()
    return backend
