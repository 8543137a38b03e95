"""The properties that a session is opened with, per device, and `--property KEY=VALUE`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baichuan_intel.errors import BackendError, ContextLengthError
from baichuan_intel.model.config import BaichuanConfig

# Above this an NPU has answered garbage without an error, also with MAX_PROMPT_LEN set higher
# (https://github.com/openvinotoolkit/openvino.genai/issues/3255).
NPU_SAFE_PROMPT = 2048
# Ours, not the runtime's: accepts prompts above NPU_SAFE_PROMPT.
ALLOW_LONG_PROMPT = "ALLOW_LONG_PROMPT"
# openvino-genai's own, which a bare openvino.Core refuses.
_GENAI_ONLY = frozenset(
    {
        "ATTENTION_BACKEND",
        "MAX_PROMPT_LEN",
        "MIN_RESPONSE_LEN",
        "PREFILL_HINT",
        "GENERATE_HINT",
        "PREFILL_CONFIG",
        "GENERATE_CONFIG",
        "SHARED_HEAD_CONFIG",
        "EXPORT_BLOB",
        "BLOB_PATH",
        "prompt_lookup",
        "scheduler_config",
        "draft_model",
        "extensions",
    }
)
_KEY = re.compile(r"(\+\+)?[A-Za-z][A-Za-z0-9_]*")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.?[0-9]+)([eE][+-]?[0-9]{1,2})?")
_BOOLEANS = {"YES": True, "TRUE": True, "NO": False, "FALSE": False}


@dataclass(frozen=True, kw_only=True)
class NpuLimits:
    """Tokens of the NPU pipeline, whose shapes are fixed when it is compiled.

    The defaults are openvino-genai's (https://docs.openvino.ai/2026/openvino-workflow-generative/
    inference-with-genai/inference-with-genai-on-npu.html).

    Raises:
        BackendError: a value is not a positive whole number.
    """

    max_prompt_len: int = 1024
    min_response_len: int = 128

    def __post_init__(self) -> None:
        for name, value in (
            ("MAX_PROMPT_LEN", self.max_prompt_len),
            ("MIN_RESPONSE_LEN", self.min_response_len),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BackendError(f"{name} is {value!r}: give a whole number of tokens above 0")

    @classmethod
    def from_properties(cls, properties: Mapping[str, Any]) -> NpuLimits:
        """The limits in a session's properties, openvino-genai's defaults where they are not named.

        Raises:
            BackendError: a value is not a positive whole number.
        """
        names = {"max_prompt_len": "MAX_PROMPT_LEN", "min_response_len": "MIN_RESPONSE_LEN"}
        return cls(**{field: properties[key] for field, key in names.items() if key in properties})

    @property
    def context(self) -> int:
        """Prompt and answer together, in tokens."""
        return self.max_prompt_len + self.min_response_len

    def answer_limit(self, prompt_tokens: int) -> int:
        """How many tokens can follow such a prompt: the pipeline ends the answer there, unasked."""
        return self.context - prompt_tokens

    def check(self, prompt_tokens: int) -> None:
        """Refuses a prompt that the compiled shapes do not hold.

        Raises:
            ContextLengthError: it is too long; the message says what to set.
        """
        if prompt_tokens <= self.max_prompt_len:
            return
        raise ContextLengthError(
            f"the prompt has {prompt_tokens} tokens and this NPU session takes {self.max_prompt_len}: "
            + _longer(prompt_tokens)
        )


def _longer(prompt_tokens: int) -> str:
    """How to get a prompt of that length through an NPU."""
    wanted = f"--property MAX_PROMPT_LEN={-(-prompt_tokens // 128) * 128}"
    if prompt_tokens <= NPU_SAFE_PROMPT:
        return f"open it with {wanted}, or shorten the prompt"
    return (
        f"shorten it or use CPU or GPU (NPUs have answered garbage above {NPU_SAFE_PROMPT} tokens; "
        f"{wanted} --property {ALLOW_LONG_PROMPT}=YES tries it)"
    )


def session_properties(
    device: str, config: BaichuanConfig, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The properties for ``openvino_genai.LLMPipeline`` on ``device`` (a name of `require_device`).

    The KV cache's precision is left to the runtime, whose default is 8 bits on CPU (x86) and, with
    PagedAttention, on GPU. The compile cache is added by `cache.cached_properties`. ``overrides``
    win over everything.

    Raises:
        BackendError: a limit of the NPU is wrong or unsafe.
    """
    overrides = dict(overrides or {})
    kind = device.partition(".")[0]
    if kind == "NPU":
        return _npu_properties(config, overrides)
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if kind == "GPU":
        properties["INFERENCE_PRECISION_HINT"] = "f16"
    return properties | overrides


def _npu_properties(config: BaichuanConfig, overrides: dict[str, Any]) -> dict[str, Any]:
    allow_long = overrides.pop(ALLOW_LONG_PROMPT, False)
    if not isinstance(allow_long, bool):
        raise BackendError(f"{ALLOW_LONG_PROMPT} is {allow_long!r}: give YES or NO")
    limits = _npu_limits(overrides, config.model_max_length)
    if limits.max_prompt_len > NPU_SAFE_PROMPT and not allow_long:
        raise BackendError(
            f"MAX_PROMPT_LEN {limits.max_prompt_len} is above {NPU_SAFE_PROMPT}, where NPUs have answered "
            f"garbage without an error: lower it, use CPU or GPU, or add --property {ALLOW_LONG_PROMPT}=YES"
        )
    return {
        "MAX_PROMPT_LEN": limits.max_prompt_len,
        "MIN_RESPONSE_LEN": limits.min_response_len,
    } | overrides


def _npu_limits(overrides: Mapping[str, Any], context: int) -> NpuLimits:
    """The limits asked for; those not named give way to a model of short context."""
    limits = NpuLimits.from_properties(overrides)
    response, prompt = limits.min_response_len, limits.max_prompt_len
    if "MIN_RESPONSE_LEN" not in overrides:
        response = min(response, context // 2)
    if "MAX_PROMPT_LEN" not in overrides:
        prompt = min(prompt, context - response)
    if min(prompt, response) < 1 or prompt + response > context:
        raise BackendError(
            f"MAX_PROMPT_LEN {prompt} and MIN_RESPONSE_LEN {response} are not both above 0 and together "
            f"within the model's {context} tokens: change them"
        )
    return NpuLimits(max_prompt_len=prompt, min_response_len=response)


def core_properties(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a session's properties that ``openvino.Core.compile_model`` takes too."""
    return {key: value for key, value in properties.items() if key.lstrip("+") not in _GENAI_ONLY}


def parse_property(text: str) -> tuple[str, Any]:
    """``KEY=VALUE`` of ``--property``: the key and the typed value.

    Whole numbers, decimal numbers and YES/NO/TRUE/FALSE are typed; a value that begins with ``{`` is
    a JSON object (for maps such as PREFILL_CONFIG) and one in double quotes a JSON string (``"8"``
    stays text); the rest is text, also empty.

    Raises:
        BackendError: the syntax is wrong.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not _KEY.fullmatch(key):
        raise BackendError(f"property {text!r} is not KEY=VALUE: e.g. INFERENCE_NUM_THREADS=8")
    return key, _parse_value(key, value)


def _parse_value(key: str, value: str) -> Any:
    if value.upper() in _BOOLEANS:
        return _BOOLEANS[value.upper()]
    if value.startswith(("{", '"')):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BackendError(f"property {key}: {value!r} is not JSON ({error})") from None
    if _INTEGER.fullmatch(value):
        # The runtime's widest integer; also keeps int() from its limit of digits.
        if len(value) > 20 or not -(1 << 63) <= int(value) < 1 << 63:
            raise BackendError(f"property {key}: {value[:24]} does not fit 64 bits")
        return int(value)
    if _FLOAT.fullmatch(value):
        return float(value)
    return value
