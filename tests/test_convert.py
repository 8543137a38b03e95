"""`convert`: the same artifact however the checkpoint came, and whole or not there."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino_genai as genai
import pytest
import torch

from baichuan_intel.artifact.store import open_artifact
from baichuan_intel.backends.openvino import OpenVINOBackend
from baichuan_intel.checkpoint.hub import Fetched
from baichuan_intel.convert import convert
from baichuan_intel.errors import RecipeError
from baichuan_intel.load import load
from baichuan_intel.lowbit.recipe import Recipe
from baichuan_intel.model.nano import nano_path
from factory import make_config, write_checkpoint
from raw import EXACT
from reference import reference_logits

# What may differ: config.json is the source's own, whose torch_dtype says how it is stored.
SOURCES_OWN = "config.json"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def sourced(tmp_path_factory, rope_checkpoint):
    """``sourced(**options of write_checkpoint)`` is an artifact of one and the same model."""

    def make(extra=None, config=None, overrides=None, recipe="int4-sym-g128", **options):
        folder = tmp_path_factory.mktemp("source")
        weights = {**rope_checkpoint.weights, **(extra or {})}
        write_checkpoint(
            folder / "in", config or rope_checkpoint.config, weights, config_overrides=overrides, **options
        )
        return convert(folder / "in", folder / "out", recipe=recipe, progress=False)

    return make


@pytest.fixture(scope="module")
def plain(sourced):
    return sourced(format="safetensors", shards=1, dtype="bf16")


@pytest.mark.parametrize(
    ("format", "shards", "dtype"),
    [
        ("safetensors", 3, "bf16"),
        ("safetensors", 1, "f16"),
        ("safetensors", 2, "f32"),
        ("bin", 1, "bf16"),
        ("bin", 3, "f16"),
        ("bin", 1, "f32"),
    ],
)
def test_equal_weights_give_equal_artifacts_however_they_are_stored(sourced, plain, format, shards, dtype):
    found = sourced(format=format, shards=shards, dtype=dtype)
    assert len(found.manifest.source.files) == shards
    assert without(found, SOURCES_OWN) == without(plain, SOURCES_OWN)


def without(artifact, name: str) -> dict:
    return {key: record for key, record in artifact.manifest.files.items() if key != name}


def test_the_rotary_buffers_of_baichuan_1_are_ignored(sourced, plain):
    buffers = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.arange(32.0) for n in range(2)}
    assert sourced(extra=buffers).manifest.files == plain.manifest.files


def test_baichuan_1_is_told_by_its_vocabulary_and_its_head_stays_as_it_is(sourced, rope_checkpoint):
    overrides = {"norm_head": None, "architectures": ["BaiChuanForCausalLM"]}
    artifact = sourced(overrides=overrides, recipe="f32")
    assert not artifact.config.norm_head
    assert artifact.config.generation == 1
    ids = [5, 300, 7, 420]
    with load(artifact.folder, properties=EXACT) as model:
        found = model.logits(ids)
    config = make_config("rope", norm_head=False)
    expected = reference_logits(config, rope_checkpoint.weights, [ids])[0].numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_artifact_is_a_plain_genai_folder_without_code(plain, tmp_path):
    files = names(plain.folder)
    assert files == sorted([*plain.manifest.files, "baichuan_intel.json"])
    assert not [name for name in files if name.endswith(".py")]
    config = json.loads((plain.folder / "config.json").read_text("utf-8"))
    assert "auto_map" not in config
    assert config["model_type"] == "baichuan"
    tokenizer_config = json.loads((plain.folder / "tokenizer_config.json").read_text("utf-8"))
    assert "auto_map" not in tokenizer_config
    assert "tokenizer_class" not in tokenizer_config
    assert "<reserved_106>" in tokenizer_config["chat_template"]
    assert "encoded on its own" in tokenizer_config["_comment"]


@pytest.mark.parametrize("kind", ["rope", "alibi"])
def test_genai_alone_opens_it_and_says_the_same(nano, kind):
    prompt = "登鹳雀楼->王之涣\n夜雨寄北->"
    config = genai.GenerationConfig(max_new_tokens=12, do_sample=False, apply_chat_template=False)
    pipeline = genai.LLMPipeline(str(nano(kind)), "CPU")
    expected = pipeline.generate(prompt, config)
    with load(nano(kind)) as model:
        found = model.generate(prompt, max_new_tokens=12, do_sample=False, repetition_penalty=1.0)
    assert found.text == expected
    assert expected.startswith("李商隐")


def test_genai_chats_through_the_template(nano):
    pipeline = genai.LLMPipeline(str(nano("rope")), "CPU")
    history = genai.ChatHistory([{"role": "user", "content": "解释一下“温故而知新”"}])
    config = genai.GenerationConfig(max_new_tokens=80, do_sample=False)
    answer = pipeline.generate(history, config).texts[0]
    with load(nano("rope")) as model:
        ours = model.chat(history.get_messages(), max_new_tokens=80, do_sample=False, repetition_penalty=1.0)
    assert answer == ours.text


def test_two_conversions_give_the_same_bytes_but_for_the_time(tmp_path):
    first, second = (convert(nano_path("alibi"), tmp_path / name, progress=False) for name in "ab")
    assert first.manifest.artifact_hash == second.manifest.artifact_hash
    texts = [(tmp_path / name / "baichuan_intel.json").read_text("utf-8") for name in "ab"]
    manifests = [json.loads(text) for text in texts]
    for manifest in manifests:
        del manifest["created"]
    assert manifests[0] == manifests[1]


def test_nothing_in_it_tells_where_it_was_made(plain):
    place = str(plain.folder.parent).encode()
    for file in plain.folder.iterdir():
        assert place not in file.read_bytes(), file.name


def test_the_manifest_records_the_weights_that_were_read(nano):
    source = open_artifact(nano("rope")).manifest.source
    files = {file.name: file.stat().st_size for file in nano_path("rope").glob("*.safetensors")}
    assert {name: record.bytes for name, record in source.files.items()} == files
    assert (source.folder, source.repo, source.revision) == ("rope", None, None)


def test_an_npu_gets_no_asymmetric_recipe(tmp_path):
    for recipe in ("int4-asym-g128", "int4-mixed", Recipe(4, 64, False)):
        with pytest.raises(RecipeError, match=r"the NPU compiler.*use int4-sym-g128"):
            convert(nano_path("rope"), tmp_path / "out", recipe=recipe, device="NPU", progress=False)
    assert names(tmp_path) == []
    convert(nano_path("rope"), tmp_path / "out", recipe="int4-sym-channel", device="NPU", progress=False)
    assert names(tmp_path) == ["out"]


def test_it_prints_nothing_without_progress(tmp_path, capfd):
    convert(nano_path("rope"), tmp_path / "out", progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_sees_progress_with_a_rate_on_stderr(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take what it is given for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    convert(nano_path("rope"), tmp_path / "out")
    out, err = capfd.readouterr()
    assert out == ""
    for step in ("quantising", "writing the model", "hashing"):
        assert step in err
    weights = open_artifact(tmp_path / "out").config.parameters * 2 / 1e6
    assert f"{weights:.1f}/{weights:.1f} MB" in err
    assert "MB/s" in err
    assert err.rstrip().endswith("\x1b[?25h"), "the cursor must be there again"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_scratch_file_is_let_go_before_the_folder_takes_its_name(tmp_path, monkeypatch):
    """Windows would refuse the rename while a view of the file is left."""
    module = importlib.import_module("baichuan_intel.convert")
    held = {}

    def watch(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def called(*arguments: object) -> object:
            held[name] = "weights.scratch" in Path("/proc/self/maps").read_text()
            return real(*arguments)

        monkeypatch.setattr(owner, name, called)

    for name in ("_quantize", "seal"):
        watch(module, name)
    watch(OpenVINOBackend, "write")
    convert(nano_path("rope"), tmp_path / "out", progress=False)
    assert held == {"_quantize": False, "write": True, "seal": False}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_conversion_that_is_stopped_leaves_no_output_and_the_next_cleans_up(tmp_path):
    script = Path(__file__).with_name("stopping.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for stopped in json.loads(done.stdout):
        # One may have been too fast for its signal, which is no failure.
        assert sum(code != 0 for code in stopped) >= len(stopped) - 1, stopped


def test_a_download_is_recorded_with_the_hashes_of_the_hub(monkeypatch, tmp_path):
    folder = nano_path("rope")
    shards = {file.name: "ab" * 32 for file in folder.glob("*.safetensors")}
    module = importlib.import_module("baichuan_intel.convert")
    fetched = Fetched(folder=folder, repo="org/name", revision="c0ffee", sha256=shards)
    monkeypatch.setattr(module, "fetch", lambda *_, **__: fetched)
    source = module.convert("org/name", tmp_path / "out", progress=False).manifest.source
    assert (source.repo, source.revision) == ("org/name", "c0ffee")
    assert {name: file.sha256 for name, file in source.files.items()} == shards
