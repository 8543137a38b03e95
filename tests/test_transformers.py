"""The drop-in: Baichuan 2's printed examples, ipex-llm's habits, and what is refused."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import numpy as np
import pytest
import sentencepiece
import torch

import baichuan_intel as bi
from baichuan_intel import errors
from baichuan_intel.artifact.store import open_artifact, verify
from baichuan_intel.checkpoint.hub import Fetched
from baichuan_intel.model.chat import CHAT_TEMPLATE
from baichuan_intel.model.nano import nano_path
from baichuan_intel.transformers import AutoModelForCausalLM, AutoTokenizer
from baichuan_intel.transformers import names as dropin
from fake_backend import EOS, FakeSession, fake_model

ROOT = Path(__file__).resolve().parent.parent
HUB_ID = "baichuan-inc/Baichuan2-7B-Chat"
QUESTION = [{"role": "user", "content": "解释一下“温故而知新”"}]
POEMS = "登鹳雀楼->王之涣\n夜雨寄北->"

# As printed on Baichuan 2's model cards.
CHAT_QUICK_START = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.utils import GenerationConfig
tokenizer = AutoTokenizer.from_pretrained("baichuan-inc/Baichuan2-7B-Chat", use_fast=False, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("baichuan-inc/Baichuan2-7B-Chat", device_map="auto", torch_dtype=torch.bfloat16, trust_remote_code=True)
model.generation_config = GenerationConfig.from_pretrained("baichuan-inc/Baichuan2-7B-Chat")
messages = []
messages.append({"role": "user", "content": "解释一下“温故而知新”"})
response = model.chat(tokenizer, messages)
print(response)
"""  # noqa: E501
BASE_QUICK_START = """
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("baichuan-inc/Baichuan2-7B-Base", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("baichuan-inc/Baichuan2-7B-Base", device_map="auto", trust_remote_code=True)
inputs = tokenizer('登鹳雀楼->王之涣\\n夜雨寄北->', return_tensors='pt')
inputs = inputs.to('cuda:0')
pred = model.generate(**inputs, max_new_tokens=64, repetition_penalty=1.1)
print(tokenizer.decode(pred.cpu()[0], skip_special_tokens=True))
"""  # noqa: E501


def run_printed(code: str, checkpoint: Path) -> dict[str, Any]:
    """Runs a printed example on ``checkpoint`` with one import changed; gives its variables."""
    ours, changed = re.subn(
        r"^from transformers import", "from baichuan_intel.transformers import", code, flags=re.M
    )
    assert changed == 1
    ours = re.sub(r"baichuan-inc/[\w-]+", checkpoint.as_posix(), ours)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(ours, "the printed example", "exec"), namespace)
    return namespace


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """What is converted here is kept here."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAICHUAN_INTEL_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """The nano model, answering greedily, so that two ways to run it can be compared."""
    folder = tmp_path_factory.mktemp("checkpoints") / "nano"
    shutil.copytree(nano_path("rope"), folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"do_sample": False}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def artifact(checkpoint, tmp_path_factory) -> Path:
    return bi.convert(checkpoint, tmp_path_factory.mktemp("artifacts") / "int4").folder


@pytest.fixture(scope="module")
def expected(artifact) -> SimpleNamespace:
    """What `bi.load` answers, without the drop-in."""
    with bi.load(artifact) as model:
        return SimpleNamespace(
            chat=model.chat(QUESTION).text,
            ids=list(model.generate(POEMS, max_new_tokens=8, sampling=bi.Sampling.greedy()).ids),
        )


@pytest.fixture(scope="module")
def opened(artifact):
    model = AutoModelForCausalLM.from_pretrained(artifact)
    yield model
    model.runtime.close()


@pytest.fixture
def model(opened, monkeypatch):
    """An opened model whose settings a test may change."""
    monkeypatch.setattr(opened, "generation_config", SimpleNamespace(**vars(opened.generation_config)))
    return opened


@pytest.fixture(scope="module")
def tokenizer(artifact):
    return AutoTokenizer.from_pretrained(artifact)


@pytest.fixture
def no_convert(monkeypatch):
    """The arguments that `convert` would have been called with."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def convert(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs))
        raise errors.CheckpointError("not converted in this test")

    monkeypatch.setattr(dropin, "convert", convert)
    return calls


def use_script(model, monkeypatch, *script, **config) -> FakeSession:
    """Lets ``model`` play a script instead of running."""
    runtime = fake_model(script, **config)
    monkeypatch.setattr(model, "runtime", runtime)
    monkeypatch.setattr(model, "config", runtime.config)
    return runtime.session


# The printed examples


def test_the_chat_quick_start_runs_as_printed(checkpoint, expected, capsys):
    variables = run_printed(CHAT_QUICK_START, checkpoint)
    assert capsys.readouterr().out == expected.chat + "\n"
    assert "论语" in expected.chat
    assert type(variables["model"].generation_config).__module__.startswith("transformers")


def test_the_base_quick_start_runs_as_printed(checkpoint, capsys):
    run_printed(BASE_QUICK_START, checkpoint)
    assert capsys.readouterr().out.startswith(POEMS + "李商隐")


def test_the_printed_stream_loop_runs(model, tokenizer, expected):
    """cli_demo.py prints what is new in each value of the stream."""
    position, shown, values = 0, "", []
    for response in model.chat(tokenizer, QUESTION, stream=True):
        shown += response[position:]
        position = len(response)
        values.append(response)
    assert shown == values[-1] == expected.chat
    assert len(values) > 10
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(values))


def test_quantize_and_cuda_run_as_printed(checkpoint, capfd):
    model = AutoModelForCausalLM.from_pretrained(
        str(checkpoint), torch_dtype=torch.float16, trust_remote_code=True
    )
    model.generation_config.max_new_tokens = 3
    first = model.runtime
    same = model.quantize(4)
    assert same is model
    model = model.quantize(8).cuda()
    assert model.runtime.session.device == "CPU" or "GPU" in model.runtime.session.device
    assert model.generation_config.max_new_tokens == 3
    assert "int8" in capfd.readouterr().err
    assert len(model.generate([[5, 6]], do_sample=False)[0]) <= 6
    with pytest.raises(errors.BackendError):
        first.generate("春")
    with pytest.raises(errors.RecipeError, match=r"quantize\(3\)"):
        model.quantize(3)


def test_the_pages_examples_run(checkpoint, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "transformers.md").read_text("utf-8")
    examples = re.findall(r"^```py\n(.*?)^```", page, re.M | re.S)
    assert len(examples) >= 3
    monkeypatch.chdir(tmp_path)
    for example in examples:
        exec(re.sub(r"baichuan-inc/[\w-]+", checkpoint.as_posix(), example), {})
    out = capsys.readouterr().out
    assert "论语" in out
    assert "李商隐" in out


# Conversions


def test_a_checkpoint_is_converted_once(checkpoint, tmp_path, monkeypatch, cache, capfd):
    copy = tmp_path / "我的模型 v2"
    shutil.copytree(checkpoint, copy)
    capfd.readouterr()
    first = dropin.Source(str(copy)).artifact(None, "CPU")
    assert first.manifest.recipe.name == "int4-sym-g128"
    assert first.folder.is_relative_to(cache)
    err = capfd.readouterr().err
    assert str(first.folder) in err
    assert "load_in_8bit" in err

    calls = []

    def convert(source, out, **keywords):
        calls.append(out)
        return bi.convert(source, out, **keywords)

    monkeypatch.setattr(dropin, "convert", convert)
    assert dropin.Source(str(copy)).artifact(None, "CPU").folder == first.folder
    assert (calls, capfd.readouterr().err) == ([], "")
    # another recipe, a damaged artifact, a changed checkpoint, and on demand
    dropin.Source(str(copy)).artifact(dropin.Precision(bi.Recipe.named("int8")), "CPU")
    (first.folder / "openvino_model.bin").write_bytes(b"")
    assert dropin.Source(str(copy)).artifact(None, "CPU").folder == first.folder
    os.utime(copy / "model-00001-of-00002.safetensors", (1, 1))
    second = dropin.Source(str(copy)).artifact(None, "CPU")
    dropin.Source(str(copy)).artifact(None, "CPU", again=True)
    assert calls == [first.folder.with_name("int8"), first.folder, second.folder, second.folder]
    assert second.folder != first.folder


def test_a_hub_id_is_fetched_once_and_then_needs_no_network(checkpoint, monkeypatch, tokenizer):
    asked = []

    def fetch(name, **keywords):
        asked.append((name, keywords))
        return Fetched(folder=checkpoint, repo=name, revision="0" * 40)

    def no_network(name, **keywords):
        raise errors.HubError("no network")

    module = sys.modules["baichuan_intel.convert"]  # bi.convert is the function
    monkeypatch.setattr(module, "fetch", fetch)
    keywords = {"revision": "v2.0", "subfolder": "step-220B", "model_hub": "modelscope"}
    model = AutoModelForCausalLM.from_pretrained(HUB_ID, local_files_only=True, **keywords)
    model.runtime.close()
    assert asked == [
        (HUB_ID, {"revision": "v2.0", "subfolder": "step-220B", "hub": "modelscope", "offline": True})
    ]
    monkeypatch.setattr(module, "fetch", no_network)
    monkeypatch.setattr(dropin, "fetch", no_network)
    again = AutoModelForCausalLM.from_pretrained(HUB_ID, **keywords)
    again.runtime.close()
    assert AutoTokenizer.from_pretrained(HUB_ID, **keywords).encode("春眠") == tokenizer.encode("春眠")
    # another revision is another model
    for auto in (AutoModelForCausalLM, AutoTokenizer):
        with pytest.raises(errors.HubError, match="no network"):
            auto.from_pretrained(HUB_ID, **keywords | {"revision": "v1.0"})


@pytest.mark.parametrize(
    ("keywords", "recipe"),
    [
        ({}, "int4-sym-g128"),
        ({"load_in_4bit": True}, "int4-sym-g128"),
        ({"load_in_4bit": True, "device": "NPU"}, "int4-sym-channel"),
        ({"device": "NPU"}, "int4-sym-channel"),
        ({"load_in_8bit": True}, "int8"),
        ({"load_in_low_bit": "sym_int4"}, "int4-sym-g64"),
        ({"load_in_low_bit": "asym_int4"}, "int4-asym-g64-head8-embedding8"),
        ({"load_in_low_bit": "sym_int8"}, "int8"),
        ({"load_in_low_bit": "fp16"}, "f16"),
        ({"load_in_low_bit": "bf16"}, "f16"),
        ({"load_in_low_bit": "int4-sym-g32"}, "int4-sym-g32"),
        ({"load_in_low_bit": "sym_int8", "load_in_4bit": True}, "int8"),
    ],
)
def test_keywords_choose_the_recipe(checkpoint, no_convert, keywords, recipe):
    with pytest.raises(errors.CheckpointError):
        AutoModelForCausalLM.from_pretrained(checkpoint, force_download=True, **keywords)
    [(args, given)] = no_convert
    assert args[0] == str(checkpoint)
    assert given["recipe"].name == recipe
    assert given["device"] == keywords.get("device", "CPU")


def test_the_device_map_names_the_device(checkpoint, no_convert):
    for device_map, device in (("auto", "AUTO"), ("xpu", "GPU"), (torch.device("cpu"), "CPU"), (None, "CPU")):
        with pytest.raises(errors.CheckpointError):
            AutoModelForCausalLM.from_pretrained(checkpoint, device_map=device_map, force_download=True)
        assert no_convert[-1][1]["device"] == device


def test_force_download_converts_again(checkpoint, no_convert, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(dropin, "convert", bi.convert)
        AutoModelForCausalLM.from_pretrained(checkpoint).runtime.close()
    AutoModelForCausalLM.from_pretrained(checkpoint).runtime.close()
    with pytest.raises(errors.CheckpointError):
        AutoModelForCausalLM.from_pretrained(checkpoint, force_download=True)


def test_an_asymmetric_recipe_of_ipex_llm_converts_and_answers(checkpoint):
    model = AutoModelForCausalLM.from_pretrained(checkpoint, load_in_low_bit="asym_int4", optimize_model=True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    inputs = tokenizer.encode(POEMS, return_tensors="pt")
    output = model.generate(inputs, max_new_tokens=8)
    assert tokenizer.decode(output[0], skip_special_tokens=True).startswith(POEMS + "李商隐")
    model.runtime.close()


@pytest.mark.parametrize("name", ["nf4", "fp8", "q4_k_m", "INT4"])
def test_an_unknown_precision_is_refused_with_the_list(artifact, name):
    with pytest.raises(errors.RecipeError, match=r"sym_int4, asym_int4, .*int4-sym-g128"):
        AutoModelForCausalLM.from_pretrained(artifact, load_in_low_bit=name)


def test_contradicting_precisions_are_refused(artifact):
    for keywords in ({"load_in_4bit": True}, {"load_in_low_bit": "sym_int4"}):
        with pytest.raises(errors.RecipeError, match="give one of them"):
            AutoModelForCausalLM.from_pretrained(artifact, load_in_8bit=True, **keywords)


@pytest.mark.parametrize("low_bit", [None, "sym_int4", "int4-sym-g128"])
def test_an_artifact_of_the_precision_asked_for_is_opened(artifact, low_bit):
    asked = dropin.asked_precision(low_bit is None, False, low_bit, "CPU")
    assert dropin.Source(str(artifact)).artifact(asked, "CPU").folder == artifact


@pytest.mark.parametrize("low_bit", [None, "asym_int4", "sym_int8", "int4-sym-g64", "fp16"])
def test_an_artifact_of_another_precision_is_refused(artifact, low_bit):
    asked = dropin.asked_precision(False, low_bit is None, low_bit, "CPU")
    with pytest.raises(errors.RecipeError, match="holds int4-sym-g128, which cannot become"):
        dropin.Source(str(artifact)).artifact(asked, "CPU")


# Keywords and names


def test_harmless_keywords_are_accepted(artifact):
    model = AutoModelForCausalLM.from_pretrained(
        artifact, trust_remote_code=True, torch_dtype="auto", dtype=torch.bfloat16, low_cpu_mem_usage=True,
        optimize_model=False, cpu_embedding=True, use_cache=True, use_safetensors=True, device="CPU",
        properties={"INFERENCE_NUM_THREADS": 1},
    )  # fmt: skip
    assert model.eval() is model.half() is model
    model.runtime.close()


@pytest.mark.parametrize("auto", [AutoModelForCausalLM, AutoTokenizer])
def test_an_unknown_keyword_is_named(auto, artifact):
    with pytest.raises(TypeError, match="'attn_implementation'"):
        auto.from_pretrained(artifact, attn_implementation="eager")


@pytest.mark.parametrize("auto", [AutoModelForCausalLM, AutoTokenizer])
def test_a_name_that_is_nothing_is_refused_in_one_line(auto, tmp_path):
    for name in ("", "no-such-folder", tmp_path / "nothing"):
        with pytest.raises(errors.HubError, match="neither a folder that exists nor a repo id") as error:
            auto.from_pretrained(name)
        assert "\n" not in str(error.value)


def test_a_revision_of_a_folder_is_refused(artifact):
    with pytest.raises(errors.HubError, match="no revision"):
        AutoModelForCausalLM.from_pretrained(artifact, revision="main")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("cpu", "CPU"),
        (torch.device("cpu"), "CPU"),
        ("auto", "AUTO"),
        ("cuda", "AUTO"),
        (torch.device("cuda:0"), "AUTO"),
        ("xpu", "GPU"),
        ("xpu:0", "GPU"),
        (torch.device("xpu:1"), "GPU.1"),
        ("gpu.1", "GPU.1"),
        ("NPU", "NPU"),
        ("AUTO:CPU", "AUTO:CPU"),
        ("AUTO:GPU,CPU", "AUTO:GPU,CPU"),
    ],
)
def test_device_names(given, name):
    assert dropin.device_name(given) == name


def test_to_a_device_that_is_not_here_leaves_the_model_as_it_is(model, tokenizer, expected):
    for device in ("xpu:7", torch.device("xpu:7"), "GPU.7", "quantum"):
        with pytest.raises(errors.DeviceError):
            model.to(device)
    assert model.to(torch.float16) is model.to(device="cpu") is model
    assert model.chat(tokenizer, QUESTION) == expected.chat


def test_to_another_device_opens_the_model_there(model, monkeypatch):
    loaded = []

    def load(folder, device, **keywords):
        loaded.append((folder, device, keywords))
        return fake_model("x")

    before = fake_model("x")
    monkeypatch.setattr(model, "runtime", before)
    monkeypatch.setattr(model, "_device", "CPU")
    monkeypatch.setattr("baichuan_intel.transformers.model.load", load)
    assert model.to("cpu") is model
    assert loaded == []
    assert model.to("xpu") is model.to("xpu") is model
    assert loaded == [(model._artifact.folder, "GPU", {"properties": None})]
    assert before.session.closed
    assert not model.runtime.session.closed


# generate


@pytest.mark.parametrize(
    "make",
    [
        lambda ids: [ids],
        lambda ids: np.array([ids], np.int32),
        lambda ids: torch.tensor([ids]),
    ],
    ids=["list", "numpy", "torch"],
)
def test_generate_returns_the_kind_that_it_got(model, tokenizer, expected, make):
    prompt = tokenizer.encode(POEMS)
    given = make(prompt)
    output = model.generate(given, max_new_tokens=8, repetition_penalty=1.0)
    assert type(output) is type(given)
    assert getattr(output, "dtype", None) == getattr(given, "dtype", None)
    ended = [EOS] if len(expected.ids) < 8 else []
    rows = output if isinstance(output, list) else output.tolist()
    assert rows == [prompt + expected.ids + ended]


def test_masked_padding_is_kept_but_not_read(model, monkeypatch):
    session = use_script(model, monkeypatch, 7, EOS)
    output = model.generate(torch.tensor([[0, 0, 5, 6]]), torch.tensor([[0, 0, 1, 1]]))
    assert output.tolist() == [[0, 0, 5, 6, 7, EOS]]
    assert session.prompts == [[5, 6]]


def test_the_end_token_is_returned_where_it_ended_the_answer(model, monkeypatch):
    use_script(model, monkeypatch, 7, 8, EOS)
    assert model.generate([[5, 6]]) == [[5, 6, 7, 8, EOS]]
    assert model.generate([[5, 6]], max_new_tokens=2) == [[5, 6, 7, 8]]
    assert model.generate([[5, 6]], eos_token_id=8) == [[5, 6, 7, 8]]
    assert model.generate([[5, 6]], eos_token_id=[EOS, 9]) == [[5, 6, 7, 8]]


def test_lengths(model, monkeypatch):
    session = use_script(model, monkeypatch, *range(10, 30), model_max_length=100)
    asked = lambda: session.samplings[-1].max_new_tokens  # noqa: E731
    model.generation_config = {"max_new_tokens": 64}
    model.generate([[5, 6]])
    assert asked() == 64
    model.generate([[5] * 90])  # a length nobody asked for gives way
    assert asked() == 10
    model.generate([[5] * 90], max_length=95)
    assert asked() == 5
    model.generate([[5] * 90], max_length=95, max_new_tokens=3)
    assert asked() == 3
    with pytest.raises(errors.ContextLengthError, match="54 more"):
        model.generate([[5] * 90], max_new_tokens=64)
    with pytest.raises(errors.ContextLengthError):
        model.generate([[5] * 100])


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[1], [2]], None, "2 rows"),
        (torch.ones(3, 2, dtype=torch.long), None, "3 rows"),
        ([1, 2], None, "no rows"),
        (torch.tensor([1, 2]), None, "no rows"),
        (None, None, "no rows"),
        ([], None, "0 rows"),
        ([[]], None, "empty"),
        ([[1, 2]], [[1]], "1 values for 2"),
        ([[1.5]], None, "whole numbers"),
        ([["春"]], None, "whole numbers"),
        ([QUESTION], None, "whole numbers"),
        ([[10**6]], None, "vocabulary"),
    ],
)
def test_wrong_ids_are_refused(model, ids, mask, message):
    with pytest.raises(errors.PromptError, match=message):
        model.generate(ids, mask)


def test_what_generate_cannot_do_is_refused(model, tokenizer):
    with pytest.raises(TypeError, match="'logits_processor'"):
        model.generate([[5]], logits_processor=[])
    for keywords in (
        {"num_beams": 4},
        {"streamer": object()},
        {"stop_strings": ["。"]},
        {"min_new_tokens": 5},
    ):
        [name] = keywords
        with pytest.raises(errors.PromptError, match=f"{name}=.* is not supported"):
            model.generate([[5]], **keywords)
        with pytest.raises(errors.PromptError, match=f"{name}=.* is not supported"):
            model.chat(tokenizer, QUESTION, generation_config=keywords)


# generation_config


def test_settings_come_in_layers(model, tokenizer, monkeypatch):
    from transformers.generation.utils import GenerationConfig

    session = use_script(model, monkeypatch, 7, EOS)
    # what a config leaves out is as in transformers
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.7, max_new_tokens=9)
    model.chat(tokenizer, QUESTION)
    assert session.samplings[-1] == bi.Sampling(
        max_new_tokens=9, do_sample=True, temperature=0.7, top_k=50, top_p=1.0, repetition_penalty=1.0
    )
    # the call's config over the model's, keywords over both, None is nothing
    model.chat(tokenizer, QUESTION, generation_config=GenerationConfig(top_k=7, max_new_tokens=8))
    asked = session.samplings[-1]
    assert (asked.top_k, asked.temperature, asked.max_new_tokens) == (7, 0.7, 8)
    model.generate(
        [[5]],
        generation_config=GenerationConfig(top_k=7, top_p=0.5),
        top_p=0.6, temperature=None, seed=11, use_cache=True, pad_token_id=0, num_beams=1,
    )  # fmt: skip
    assert session.samplings[-1] == bi.Sampling(
        max_new_tokens=9, temperature=0.7, top_k=7, top_p=0.6, repetition_penalty=1.0, seed=11
    )
    model.generate([[5]], do_sample=False, temperature=0.0)
    assert not session.samplings[-1].do_sample
    with pytest.raises(errors.PromptError, match="temperature"):
        model.generate([[5]], do_sample=True, temperature=0.0)


def test_the_settings_of_transformers_4_are_understood(model, monkeypatch):
    """Its GenerationConfig has a value for everything."""
    session = use_script(model, monkeypatch, 7, EOS)
    model.generation_config = SimpleNamespace(
        max_length=20, max_new_tokens=None, min_length=0, do_sample=False, num_beams=1, temperature=1.0,
        top_k=50, top_p=1.0, typical_p=1.0, repetition_penalty=1.0, no_repeat_ngram_size=0,
        num_return_sequences=1, eos_token_id=2, pad_token_id=0, bad_words_ids=None,
    )  # fmt: skip
    model.generate([[5]])
    assert session.samplings[-1] == bi.Sampling.greedy(
        temperature=1.0, top_k=50, top_p=1.0, max_new_tokens=2048
    )


def test_a_config_without_an_end_has_the_models(model, monkeypatch):
    session = use_script(model, monkeypatch, 7, 8, 9)
    monkeypatch.setattr(model.runtime, "sampling", bi.Sampling(eos_token_ids=(8,), max_new_tokens=77))
    model.generation_config = None
    assert model.generate([[5]]) == [[5, 7, 8]]
    assert session.samplings[-1].max_new_tokens == 77


def test_the_models_own_settings_are_its_files_and_can_be_changed(model, tokenizer, monkeypatch):
    assert (model.generation_config.user_token_id, model.generation_config.top_k) == (195, 5)
    session = use_script(model, monkeypatch, 7, EOS)
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.9
    model.chat(tokenizer, QUESTION)
    expected = bi.Sampling.from_folder(nano_path("rope")).replace(temperature=0.9)
    assert session.samplings[-1] == expected


def test_wrong_messages_are_refused_when_chat_is_called(model, tokenizer):
    for messages in ([], "春", [5, 6], [{"role": "tool", "content": ""}]):
        for stream in (False, True):
            with pytest.raises(errors.PromptError):
                model.chat(tokenizer, messages, stream=stream)


# Saving


def test_save_and_load_low_bit(model, tokenizer, artifact, expected, tmp_path):
    folder = tmp_path / "saved" / "低比特"
    model.save_low_bit(folder)
    assert tokenizer.save_pretrained(folder) == (str(folder / "tokenizer.model"),)
    assert all(check.ok for check in verify(folder))
    assert open_artifact(folder).manifest == open_artifact(artifact).manifest
    other = AutoModelForCausalLM.load_low_bit(str(folder), trust_remote_code=True, optimize_model=True)
    assert other.chat(AutoTokenizer.from_pretrained(str(folder)), QUESTION) == expected.chat
    other.runtime.close()
    with pytest.raises(errors.ArtifactExistsError):
        model.save_low_bit(folder)
    with pytest.raises(errors.ArtifactError, match="overlap"):
        model.save_low_bit(artifact / "inside")
    assert not (artifact / "inside").exists()


def test_a_changed_artifact_is_not_saved(artifact, tmp_path):
    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(artifact, copy)
    model = AutoModelForCausalLM.load_low_bit(copy)
    file = copy / "tokenizer.model"
    file.write_bytes(bytes(b ^ 1 for b in file.read_bytes()))
    with pytest.raises(errors.ArtifactCorruptError, match="was changed"):
        model.save_pretrained(out)
    model.runtime.close()
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_load_low_bit_takes_artifacts_alone(checkpoint, tmp_path):
    with pytest.raises(errors.ArtifactError, match="is a checkpoint"):
        AutoModelForCausalLM.load_low_bit(checkpoint)
    with pytest.raises(errors.ArtifactError, match="does not exist"):
        AutoModelForCausalLM.load_low_bit(tmp_path / "nothing")


def test_the_tokenizer_overwrites_no_other(tokenizer, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"another")
    with pytest.raises(errors.ArtifactExistsError):
        tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == b"another"
    [file] = tokenizer.save_pretrained(tmp_path / "a" / "b")
    assert AutoTokenizer.from_pretrained(Path(file).parent).encode("春") == tokenizer.encode("春")
    with pytest.raises(errors.TokenizerError, match="cannot write"):
        tokenizer.save_pretrained(tmp_path / "tokenizer.model" / "x")


# The tokenizer


@pytest.fixture(scope="module")
def pieces():
    return sentencepiece.SentencePieceProcessor(model_file=str(nano_path("rope") / "tokenizer.model"))


def test_encode_and_decode(tokenizer, pieces):
    text = "春眠不觉晓, spring  sleep 🐦\n"
    ids = pieces.encode(text)
    assert tokenizer.encode(text) == ids
    assert tokenizer.encode(text, add_special_tokens=True) == ids
    for kind in (list, np.array, torch.tensor):
        assert tokenizer.decode(kind(ids)) == text
    assert tokenizer.decode(ids[0]) == tokenizer.decode(torch.tensor(ids)[0]) == pieces.decode(ids[0])
    assert tokenizer.batch_decode(torch.tensor([ids, ids]), skip_special_tokens=True) == [text, text]
    assert tokenizer.vocab_size == pieces.vocab_size()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (pieces.bos_id(), pieces.eos_id())
    assert (tokenizer.unk_token_id, tokenizer.model_max_length) == (pieces.unk_id(), 4096)


def test_special_tokens_are_shown_or_skipped(tokenizer, pieces):
    ids = [1, *pieces.encode("春"), 2, 0, *pieces.encode("晓"), 2]
    assert tokenizer.decode(ids) == "<s>春</s><unk>晓</s>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "春晓"
    assert (
        tokenizer.decode(torch.tensor([195, 196]), skip_special_tokens=True) == "<reserved_106><reserved_107>"
    )


def test_the_encoding_of_a_text(tokenizer, pieces):
    ids = pieces.encode(POEMS)
    flat = tokenizer(POEMS)
    assert flat == {"input_ids": ids, "attention_mask": [1] * len(ids)}
    assert flat.input_ids is flat["input_ids"]
    assert not hasattr(flat, "token_type_ids")
    assert flat.to("cuda:0") is flat.to(torch.device("xpu")) is flat
    two = tokenizer([POEMS, "春"])
    assert two.input_ids == [ids, pieces.encode("春")]
    for rows in (tokenizer(POEMS, return_tensors="pt"), tokenizer([POEMS], return_tensors="pt")):
        assert rows.input_ids.dtype is rows.attention_mask.dtype is torch.int64
        assert rows.input_ids.tolist() == [ids]
        assert rows.attention_mask.tolist() == [[1] * len(ids)]
    array = tokenizer.encode(POEMS, return_tensors="np")
    assert (type(array), array.dtype, array.tolist()) == (np.ndarray, np.int64, [ids])
    nothing = tokenizer("", return_tensors="pt").input_ids
    assert (nothing.shape, nothing.dtype) == ((1, 0), torch.int64)


def test_wrong_arguments_of_the_tokenizer(tokenizer):
    with pytest.raises(errors.PromptError, match="'tf' is not supported"):
        tokenizer("春", return_tensors="tf")
    with pytest.raises(errors.PromptError, match="different length"):
        tokenizer(["春", "春眠不觉晓"], return_tensors="np")
    with pytest.raises(errors.PromptError, match="expected a string"):
        tokenizer([5])
    with pytest.raises(TypeError, match="padding"):
        tokenizer("春", padding=True)
    for ids in ([[5, 6]], torch.ones(2, 2), [1.5], "春"):
        with pytest.raises(errors.PromptError, match="one row of token ids"):
            tokenizer.decode(ids)


def test_without_torch_the_extra_is_named(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(errors.MissingDependencyError, match=re.escape('pip install "baichuan-intel[bin]"')):
        tokenizer("春", return_tensors="pt")
    assert tokenizer("春", return_tensors="np").input_ids.shape == (1, len(tokenizer.encode("春")))


def test_an_artifact_runs_without_torch_and_transformers(artifact, expected):
    code = """
import sys
from baichuan_intel.transformers import AutoModelForCausalLM, AutoTokenizer
assert not {"torch", "transformers", "openvino"} & set(sys.modules)
sys.modules["torch"] = sys.modules["transformers"] = None
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
inputs = tokenizer("春", return_tensors="np")
assert model.generate(**inputs, max_new_tokens=1).shape == (1, inputs.input_ids.shape[1] + 1)
sys.stdout.buffer.write(model.chat(tokenizer, [{"role": "user", "content": sys.argv[2]}]).encode())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(artifact), QUESTION[0]["content"]], capture_output=True
    )
    assert done.stdout.decode() == expected.chat, done.stderr.decode()


CONVERSATION = [
    {"role": "system", "content": "你是诗人。"},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "您好！"},
    {"role": "user", "content": "春眠"},
]


def test_the_chat_template_is_the_prompt_of_chat(model, tokenizer, pieces, monkeypatch):
    texts = [pieces.encode(message["content"]) for message in CONVERSATION]
    ids = [*texts[0], 195, *texts[1], 196, *texts[2], 195, *texts[3]]
    assert tokenizer.apply_chat_template(CONVERSATION) == ids
    prompt = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True)
    assert prompt == [*ids, 196]
    session = use_script(model, monkeypatch, 7, EOS)
    model.chat(tokenizer, CONVERSATION)
    assert session.prompts[-1] == prompt
    # an answer that is begun is continued
    begun = tokenizer.apply_chat_template(CONVERSATION[:3], add_generation_prompt=True)
    assert begun == tokenizer.apply_chat_template(CONVERSATION[:3]) == ids[: len(begun)]


def test_kinds_of_chat_templates(tokenizer):
    ids = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True)
    tensor = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True, return_tensors="pt")
    assert tensor.tolist() == [ids]
    rows = tokenizer.apply_chat_template(CONVERSATION, return_tensors="np", return_dict=True)
    assert rows.input_ids.tolist() == [ids[:-1]]
    assert rows.attention_mask.sum() == len(ids) - 1
    text = tokenizer.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    rendered = jinja2.Template(CHAT_TEMPLATE).render(messages=CONVERSATION, add_generation_prompt=True)
    assert text == rendered


def test_the_chat_template_cuts_history_as_chat_does(tokenizer):
    long = [{"role": role, "content": "春眠不觉晓" * 40} for _ in range(20) for role in ("user", "assistant")]
    messages = [*long, CONVERSATION[-1]]
    short = tokenizer.apply_chat_template(messages, add_generation_prompt=True, max_new_tokens=4000)
    full = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert short == [195, *tokenizer.encode("春眠"), 196]
    assert 4096 - 256 - 500 < len(full) <= 4096 - 256
    with pytest.raises(errors.PromptError, match="messages is empty"):
        tokenizer.apply_chat_template([])
