"""One artifact, four ways to run it: the greedy tokens are the same."""

from __future__ import annotations

import numpy as np
import openvino as ov
import openvino_genai as genai
import pytest

from raw import EXACT, IDS, KINDS, compiled, infer

NEW = 24
PIPELINES = {
    "SDPA": ("CPU", {**EXACT, "ATTENTION_BACKEND": "SDPA"}),
    "PagedAttention": ("CPU", {**EXACT, "ATTENTION_BACKEND": "PA"}),
    # OpenVINO's own NPU pipeline with its static shapes, told to compile for the CPU.
    "NPU": ("NPU", {"NPUW_DEVICES": "CPU", "NPUW_ONLINE_PIPELINE": "NONE"}),
}


def raw_greedy(artifact, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Greedy tokens of a left-padded batch, from OpenVINO without GenAI."""
    request = compiled(artifact).create_infer_request()
    width = max(map(len, prompts))
    ids = np.array([[0] * (width - len(p)) + p for p in prompts])
    mask = np.array([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    logits, past, rows = infer(request, ids, mask), width, []
    for _ in range(count):
        rows.append(logits[:, -1].argmax(-1))
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        logits = infer(request, rows[-1][:, None], mask, past)
        past += 1
    return np.array(rows).T.tolist()


def genai_greedy(artifact, pipeline: str, prompt: list[int], count: int, **properties) -> list[int]:
    device, own = PIPELINES[pipeline]
    runner = genai.LLMPipeline(artifact.folder, device, **{**own, **properties})
    config = genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.do_sample = count, True, False
    return runner.generate(ov.Tensor(np.array([prompt], np.int64)), config).tokens[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("recipe", ["int4-sym-g128", "int4-sym-channel"])
def test_greedy_tokens_are_those_of_the_raw_model(converted, kind, pipeline, recipe):
    artifact, _ = converted(kind, recipe)
    expected = raw_greedy(artifact, [IDS], NEW)[0]
    limits = {"MAX_PROMPT_LEN": 128, "MIN_RESPONSE_LEN": 64} if pipeline == "NPU" else {}
    assert genai_greedy(artifact, pipeline, IDS, NEW, **limits) == expected
    assert len(set(expected)) > NEW // 3, "a model that repeats itself would show nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_a_left_padded_batch_decodes_as_each_prompt_alone(converted, kind):
    artifact, _ = converted(kind, "int4-sym-g128")
    prompts = [IDS[:7], IDS[7:40], IDS[40:]]
    assert raw_greedy(artifact, prompts, NEW) == [raw_greedy(artifact, [p], NEW)[0] for p in prompts]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_prompt_of_5000_tokens(converted, kind, pipeline):
    artifact, _ = converted(f"long-{kind}", "int4-sym-g128")
    # A prompt whose greedy choices are clear: the pipelines round differently.
    prompt = np.random.default_rng(4).integers(197, 500, 5000).tolist()
    limits = {"MAX_PROMPT_LEN": 5120, "MIN_RESPONSE_LEN": 64} if pipeline == "NPU" else {}
    assert genai_greedy(artifact, pipeline, prompt, 4, **limits) == raw_greedy(artifact, [prompt], 4)[0]
