"""Properties per device, the NPU's limits, and --property; accepted by OpenVINO itself where it can tell."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baichuan_intel.backends.openvino.properties import (
    NpuLimits,
    core_properties,
    parse_property,
    session_properties,
)
from baichuan_intel.errors import BackendError, ContextLengthError
from baichuan_intel.model.config import BaichuanConfig
from factory import make_config


def config(context: int = 4096) -> BaichuanConfig:
    return make_config(model_max_length=context)


def test_the_choices_per_device() -> None:
    assert session_properties("CPU", config()) == {"PERFORMANCE_HINT": "LATENCY"}
    for gpu in ("GPU", "GPU.1"):
        assert session_properties(gpu, config()) == {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f16",
        }
    assert session_properties("NPU", config()) == {"MAX_PROMPT_LEN": 1024, "MIN_RESPONSE_LEN": 128}


@pytest.mark.parametrize("device", ["CPU", "GPU.0", "NPU"])
def test_overrides_win_and_are_not_changed(device: str) -> None:
    overrides = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32", "MAX_PROMPT_LEN": 256}
    before = dict(overrides)
    properties = session_properties(device, config(), overrides)
    assert {key: properties[key] for key in overrides} == before == overrides


def test_npu_defaults_give_way_to_a_short_context() -> None:
    def limits(context: int, **overrides: Any) -> tuple[int, int]:
        properties = session_properties("NPU", config(context), overrides)
        return properties["MAX_PROMPT_LEN"], properties["MIN_RESPONSE_LEN"]

    assert limits(512) == (384, 128)
    assert limits(100) == (50, 50)
    assert limits(4096, MIN_RESPONSE_LEN=3500) == (596, 3500)
    assert limits(1100, MAX_PROMPT_LEN=972) == (972, 128)


@pytest.mark.parametrize(
    "overrides",
    [
        {"MAX_PROMPT_LEN": 0},
        {"MAX_PROMPT_LEN": -5},
        {"MAX_PROMPT_LEN": "1024"},
        {"MAX_PROMPT_LEN": True},
        {"MAX_PROMPT_LEN": 1024.0},
        {"MIN_RESPONSE_LEN": 0},
        {"MIN_RESPONSE_LEN": 4096},
        {"MAX_PROMPT_LEN": 2000, "MIN_RESPONSE_LEN": 2097},
        {"MAX_PROMPT_LEN": 2049},
        {"MAX_PROMPT_LEN": 2049, "ALLOW_LONG_PROMPT": False},
        {"ALLOW_LONG_PROMPT": "YES"},
    ],
)
def test_npu_limits_that_are_wrong_or_unsafe_are_refused(overrides: dict[str, Any]) -> None:
    with pytest.raises(BackendError):
        session_properties("NPU", config(), overrides)


def test_a_long_npu_prompt_needs_a_word_of_its_own() -> None:
    with pytest.raises(BackendError, match=r"garbage without an error.*ALLOW_LONG_PROMPT=YES"):
        session_properties("NPU", config(), {"MAX_PROMPT_LEN": 3072})
    properties = session_properties("NPU", config(), {"MAX_PROMPT_LEN": 3072, "ALLOW_LONG_PROMPT": True})
    # Ours: the runtime would refuse it.
    assert properties == {"MAX_PROMPT_LEN": 3072, "MIN_RESPONSE_LEN": 128}
    assert session_properties("NPU", config(), {"MAX_PROMPT_LEN": 2048})["MAX_PROMPT_LEN"] == 2048


def test_a_prompt_over_the_limit_is_refused_with_how_to_raise_it() -> None:
    limits = NpuLimits.from_properties(session_properties("NPU", config()))
    limits.check(1)
    limits.check(1024)
    with pytest.raises(ContextLengthError, match=r"1025 tokens.* 1024: .*--property MAX_PROMPT_LEN=1152"):
        limits.check(1025)
    with pytest.raises(ContextLengthError, match="MAX_PROMPT_LEN=2048,") as error:
        limits.check(2048)
    assert "ALLOW_LONG_PROMPT" not in str(error.value)
    with pytest.raises(ContextLengthError, match=r"CPU or GPU .*MAX_PROMPT_LEN=2176 .*ALLOW_LONG_PROMPT=YES"):
        limits.check(2049)


def test_what_the_message_asks_for_lets_the_prompt_through() -> None:
    for prompt in (1025, 2048, 2049, 3900):
        with pytest.raises(ContextLengthError) as error:
            NpuLimits().check(prompt)
        words = str(error.value).replace(",", " ").replace(")", " ").split()
        asked = dict(parse_property(words[i + 1]) for i, word in enumerate(words) if "--property" in word)
        NpuLimits.from_properties(session_properties("NPU", config(8192), asked)).check(prompt)


def test_prompt_and_answer_share_the_npu_s_context() -> None:
    limits = NpuLimits(max_prompt_len=128, min_response_len=16)
    # Measured with the pipeline of these limits: prompts of 32 and 128 got 112 and 16 tokens.
    assert limits.answer_limit(32) == 112
    assert limits.answer_limit(128) == 16


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("INFERENCE_NUM_THREADS=8", "INFERENCE_NUM_THREADS", 8),
        (" A = -3 ", "A", -3),
        ("CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE=0.5", "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE", 0.5),
        ("A=1e3", "A", 1000.0),
        ("A=.5", "A", 0.5),
        ("ENABLE_CPU_PINNING=NO", "ENABLE_CPU_PINNING", False),
        ("A=yes", "A", True),
        ("A=False", "A", False),
        ("INFERENCE_PRECISION_HINT=f32", "INFERENCE_PRECISION_HINT", "f32"),
        ("NPUW_DEVICES=CPU", "NPUW_DEVICES", "CPU"),
        ("CACHE_DIR=", "CACHE_DIR", ""),
        ("CACHE_DIR=/a=b c", "CACHE_DIR", "/a=b c"),
        ('DEVICE_ID="1"', "DEVICE_ID", "1"),
        ("A=1.2.3", "A", "1.2.3"),
        ("A=0x10", "A", "0x10"),
        ("A=nan", "A", "nan"),
        ("A=9223372036854775807", "A", 2**63 - 1),
        ('++PREFILL_CONFIG={"NPUW_DEVICES": "CPU"}', "++PREFILL_CONFIG", {"NPUW_DEVICES": "CPU"}),
    ],
)
def test_a_property_is_parsed_and_typed(text: str, key: str, value: Any) -> None:
    parsed = parse_property(text)
    assert parsed == (key, value)
    assert type(parsed[1]) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A",
        "=1",
        "A B=1",
        "1A=2",
        "A-B=1",
        "A={",
        "A={'x': 1}",
        'A="x',
        'A={"x": 1} y',
        "A=9223372036854775808",
        "A=-9223372036854775809",
        "A=" + "9" * 5000,
        "A=" + '{"a":' * 50_000,
    ],
)
def test_bad_syntax_is_refused(text: str) -> None:
    with pytest.raises(BackendError):
        parse_property(text)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans()))
def test_any_json_object_survives(value: dict[str, Any]) -> None:
    assert parse_property("NPUW_CONFIG=" + json.dumps(value)) == ("NPUW_CONFIG", value)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        key, _ = parse_property(text)
    except BackendError:
        return
    assert text.strip().startswith(key)


def compiled(properties: dict[str, Any]) -> Any:
    """A model of one addition, compiled by the real CPU plugin with ``properties``."""
    ov = pytest.importorskip("openvino")
    op = ov.opset15
    x = op.parameter([1, 4], np.float32)
    model = ov.Model([op.result(op.add(x, op.constant(np.ones((1, 4), np.float32))))], [x])
    return ov.Core().compile_model(model, "CPU", properties)


def test_openvino_takes_what_we_choose_and_parse() -> None:
    overrides = dict(
        map(
            parse_property,
            [
                "INFERENCE_NUM_THREADS=1",
                "ENABLE_CPU_PINNING=NO",
                "INFERENCE_PRECISION_HINT=f32",
                "KV_CACHE_PRECISION=f16",
                "DYNAMIC_QUANTIZATION_GROUP_SIZE=64",
                "ATTENTION_BACKEND=SDPA",
            ],
        )
    )
    model = compiled(core_properties(session_properties("CPU", config(), overrides)))
    assert model.get_property("INFERENCE_NUM_THREADS") == 1
    assert model.get_property("ENABLE_CPU_PINNING") is False
    assert model.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert model.get_property("KV_CACHE_PRECISION").to_string() == "f16"
    assert model.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 64
    assert str(model.get_property("PERFORMANCE_HINT")).endswith("LATENCY")


def test_the_runtime_s_own_kv_cache_is_8_bits() -> None:
    # Why session_properties sets none.
    assert "KV_CACHE_PRECISION" not in session_properties("CPU", config())
    assert compiled({}).get_property("KV_CACHE_PRECISION").to_string() == "u8"


def test_core_properties_leaves_out_what_only_genai_knows() -> None:
    overrides = {"PREFILL_HINT": "STATIC", "++PREFILL_CONFIG": {}, "NPU_TURBO": True}
    npu = session_properties("NPU", config(), overrides)
    assert core_properties(npu) == {"NPU_TURBO": True}
