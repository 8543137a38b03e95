"""How the next token is chosen: `Sampling`, read from generation_config.json."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baichuan_intel.errors import ConfigError, PromptError
from baichuan_intel.model.checks import is_number, is_whole, shown
from baichuan_intel.model.config import read_json

GENERATION_CONFIG = "generation_config.json"
# Far above any sensible value: a hostile file must not make a runtime overflow or loop for days.
_MAX_NEW_TOKENS = 1 << 20
_MAX_TOKEN_ID = 1 << 20
_MAX_EOS = 64
_MAX_SEED = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling values of one answer; the defaults are those of the Baichuan 2 chat models.

    ``temperature`` divides the logits, ``top_k`` keeps the k likeliest tokens (0 keeps all), ``top_p``
    the likeliest that reach this probability. With ``do_sample`` False these three have no effect: the
    likeliest token is taken. ``repetition_penalty`` 1.0 is none. ``seed`` None draws a new one each
    time. A token of ``eos_token_ids`` ends the answer unless ``ignore_eos`` (for benchmarks, which
    need exactly ``max_new_tokens``).

    Raises:
        PromptError: a value is of the wrong type or out of range.
    """

    max_new_tokens: int = 2048
    do_sample: bool = True
    temperature: float = 0.3
    top_k: int = 5
    top_p: float = 0.85
    repetition_penalty: float = 1.05
    seed: int | None = None
    eos_token_ids: tuple[int, ...] = (2,)
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _check_int("max_new_tokens", self.max_new_tokens, 1, _MAX_NEW_TOKENS)
        _check_bool("do_sample", self.do_sample)
        # Below 1e-4 the scaled logits leave float16 and float32; temperature 0 means do_sample=False.
        _check_number("temperature", self.temperature, 1e-4, 100.0)
        _check_int("top_k", self.top_k, 0, _MAX_TOKEN_ID)
        _check_number("top_p", self.top_p, 1e-6, 1.0)
        _check_number("repetition_penalty", self.repetition_penalty, 1e-2, 100.0)
        if self.seed is not None:
            _check_int("seed", self.seed, 0, _MAX_SEED)
        _check_eos(self.eos_token_ids)
        _check_bool("ignore_eos", self.ignore_eos)

    @classmethod
    def greedy(cls, **values: Any) -> Sampling:
        """The likeliest token each time, without a repetition penalty; ``values`` override.

        Raises:
            PromptError: a value is of the wrong type or out of range.
        """
        return cls(**{"do_sample": False, "repetition_penalty": 1.0, **values})

    @classmethod
    def from_folder(cls, folder: str | Path) -> Sampling:
        """The values of ``folder``'s generation_config.json; without that file the defaults above.

        A key that the file leaves out, or sets to null, means what it means to transformers, whose file
        this is: no sampling, temperature 1, top_k 50, top_p 1, no penalty (so base models, which name
        none, decode greedily). max_new_tokens and the eos id keep the defaults above. Other keys are
        ignored.

        Raises:
            ConfigError: the file cannot be read, or a value is of the wrong type or out of range.
        """
        raw = read_generation_config(folder)
        if raw is None:
            return cls()
        values = _ABSENT | {key: raw[key] for key in _KEYS if raw.get(key) is not None}
        if (eos := raw.get("eos_token_id")) is not None:
            values["eos_token_ids"] = tuple(eos) if isinstance(eos, list) else (eos,)
        try:
            return cls(**values)
        except PromptError as error:
            raise ConfigError(f"{GENERATION_CONFIG}: {error}") from None

    def replace(self, **values: Any) -> Sampling:
        """A copy with these values changed.

        Raises:
            PromptError: a value is of the wrong type or out of range.
        """
        return dataclasses.replace(self, **values)


# What transformers' GenerationConfig takes where the file is silent.
_ABSENT: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
}
_KEYS = ("max_new_tokens", *_ABSENT)


def read_generation_config(folder: str | Path) -> dict[str, Any] | None:
    """``folder``'s generation_config.json; None without one, for checkpoints may lack it.

    Raises:
        ConfigError: the file cannot be read as a JSON object.
    """
    file = Path(folder) / GENERATION_CONFIG
    return read_json(file, GENERATION_CONFIG) if os.path.lexists(file) else None


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if not is_whole(value, low, high):
        raise PromptError(f"{name} is {shown(value)}, expected a whole number from {low} to {high}")


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if not is_number(value, low, high):
        hint = "; for greedy decoding set do_sample to False (--greedy)" if name == "temperature" else ""
        raise PromptError(f"{name} is {shown(value)}, expected a number from {low:g} to {high:g}{hint}")


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise PromptError(f"{name} is {shown(value)}, expected true or false")


def _check_eos(ids: object) -> None:
    if not isinstance(ids, tuple) or not 1 <= len(ids) <= _MAX_EOS:
        raise PromptError(f"eos_token_ids is {shown(ids)}, expected a tuple of 1 to {_MAX_EOS} token ids")
    for token in ids:
        _check_int("eos_token_ids", token, 0, _MAX_TOKEN_ID)
