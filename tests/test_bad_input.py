"""Bad input: one line with the cause and the mend, a non-zero exit, and nothing left behind."""

from __future__ import annotations

import collections
import importlib
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from baichuan_intel.artifact.manifest import SCHEMA_VERSION
from factory import make_config, random_weights, write_checkpoint

ROOT = Path(__file__).resolve().parent.parent
DOWN = "model.layers.1.mlp.down_proj.weight"
MARKER = "ran-the-code"


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def fails(cli, tmp_path) -> Callable[..., str]:
    """``fails(arguments, *words)`` runs a command that must fail in one line with these words."""

    def run(arguments: list[object], *words: object, stdin: str = "x", code: int = 1) -> str:
        before = tree(tmp_path)
        done = cli(*arguments, stdin=stdin)
        assert (done.code, done.out) == (code, ""), done
        assert done.err.count("\n") == 1, done.err
        assert done.err.startswith("baichuan-intel: ")
        assert "unexpected" not in done.err
        for word in words:
            assert str(word) in done.err, done.err
        # The cause, then the mend.
        assert re.search(r": | expected ", done.err.removeprefix("baichuan-intel: ")), done.err
        assert tree(tmp_path) == before
        return done.err

    return run


@pytest.fixture
def source(tmp_path, rope_checkpoint) -> Path:
    """A checkpoint that a test may break: one file of safetensors."""
    return shutil.copytree(rope_checkpoint.folder, tmp_path / "in")


@pytest.fixture
def sharded(tmp_path, rope_checkpoint) -> Path:
    return write_checkpoint(tmp_path / "in", rope_checkpoint.config, rope_checkpoint.weights, shards=2)


@pytest.fixture
def rewritten(tmp_path, rope_checkpoint) -> Callable[..., Path]:
    """``rewritten(change)`` is a checkpoint whose weights ``change`` has altered in place."""

    def make(change: Callable[[dict], object], format: str = "safetensors") -> Path:
        weights = {name: tensor.clone() for name, tensor in rope_checkpoint.weights.items()}
        change(weights)
        return write_checkpoint(tmp_path / "in", rope_checkpoint.config, weights, format=format)

    return make


@pytest.fixture
def artifact(tmp_path, nano) -> Path:
    """An artifact that a test may break."""
    return shutil.copytree(nano(), tmp_path / "artifact")


def edit(file: Path, **values: object) -> None:
    """Replaces keys of a json file; None takes one out."""
    raw = json.loads(file.read_text("utf-8")) | values
    kept = {key: value for key, value in raw.items() if value is not None or key not in values}
    file.write_text(json.dumps(kept), "utf-8")


# Checkpoints


def test_the_source_is_no_checkpoint(fails, tmp_path, source):
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    fails(["convert", source / "config.json", out], "is not a folder: give the folder")
    fails(["convert", source / "model.safetensors", out], "is not a folder")
    fails(["convert", tmp_path / "missing", out], "is neither a folder that exists nor a repo id")
    fails(["convert", tmp_path / "empty", out], "config.json does not exist", "give the folder")
    fails(["convert", source, out, "--subfolder", "missing"], "does not exist")
    fails(["convert", source, out, "--subfolder", "../in"], "subfolder '../in' is not a name")
    fails(["convert", source, out, "--revision", "main"], "a local folder, which has no revision")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "model.safetensors"])
def test_a_file_is_missing(fails, source, tmp_path, name):
    (source / name).unlink()
    fails(["convert", source, tmp_path / "out"], name)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
            ["another model", "LlamaForCausalLM"],
        ),
        ({"hidden_size": None}, ["lacks hidden_size"]),
        ({"num_hidden_layers": -1}, ["num_hidden_layers is -1"]),
        ({"hidden_size": "256"}, ["hidden_size is '256'"]),
        ({"num_attention_heads": 7}, ["is not a multiple of num_attention_heads 7"]),
        ({"num_hidden_layers": 10**30}, ["num_hidden_layers"]),
        ({"tie_word_embeddings": True}, ["tie_word_embeddings"]),
        ({"num_hidden_layers": 3}, ["lacks tensors", "'model.layers.2."]),
        ({"num_hidden_layers": 1}, ["holds tensors", "'model.layers.1."]),
        ({"intermediate_size": 512}, ["has shape [384, 256]", "asks for [512, 256]"]),
    ],
)
def test_the_config_is_another_models_or_wrong(fails, source, tmp_path, values, words):
    edit(source / "config.json", **values)
    fails(["convert", source, tmp_path / "out"], *words)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", '{"a": NaN', "[" * 10_000])
def test_the_config_is_not_json(fails, source, tmp_path, text):
    (source / "config.json").write_text(text)
    fails(["convert", source, tmp_path / "out"], "config.json")


def test_the_generation_config_is_wrong(fails, source, tmp_path):
    edit(source / "generation_config.json", temperature="hot")
    fails(["convert", source, tmp_path / "out"], "generation_config.json: temperature is 'hot'")


def test_the_tokenizer_is_damaged_or_anothers(fails, source, tmp_path):
    file = source / "tokenizer.model"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    fails(["convert", source, tmp_path / "out"], "is not a SentencePiece model", "download it again")
    file.write_bytes(whole)
    edit(source / "config.json", vocab_size=599)
    fails(["convert", source, tmp_path / "out"], "has 600 tokens but the model only 599")


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.3, 0.999999])
def test_a_shard_is_truncated(fails, source, tmp_path, share):
    file = source / "model.safetensors"
    os.truncate(file, int(file.stat().st_size * share))
    fails(
        ["convert", source, tmp_path / "out"],
        "model.safetensors is damaged or truncated",
        "download it again",
    )


@pytest.mark.parametrize("byte", [0, 6, 8, 9, 60])
def test_a_bit_of_a_header_is_flipped(fails, source, tmp_path, byte):
    flip(source / "model.safetensors", byte)
    fails(["convert", source, tmp_path / "out"], "model.safetensors")


def flip(file: Path, byte: int, bit: int = 6) -> None:
    data = bytearray(file.read_bytes())
    data[byte] ^= 1 << bit
    file.write_bytes(data)


def test_a_bit_of_the_data_makes_an_inf(fails, source, tmp_path):
    """Other flips of data cannot be told from weights without the hub's hashes."""
    file = source / "model.safetensors"
    (length,) = struct.unpack("<Q", file.read_bytes()[:8])
    header = json.loads(file.read_bytes()[8 : 8 + length])
    start = 8 + length + header[DOWN]["data_offsets"][0]
    data = bytearray(file.read_bytes())
    data[start : start + 2] = b"\x80\x3f"  # bfloat16 1.0, one bit from Inf
    data[start + 1] ^= 0x40
    file.write_bytes(data)
    fails(["convert", source, tmp_path / "out"], DOWN, "row 0", "NaN or Inf")


def test_a_bin_file_is_truncated(fails, rewritten, tmp_path):
    file = rewritten(lambda weights: None, "bin") / "pytorch_model.bin"
    os.truncate(file, file.stat().st_size // 2)
    fails(["convert", file.parent, tmp_path / "out"], "pytorch_model.bin is damaged or truncated")


@pytest.mark.parametrize(
    ("shard", "words"),
    [
        ("model-00003-of-00003.safetensors", ["'model-00003-of-00003.safetensors', which is not there"]),
        ("../secret.safetensors", ["'../secret.safetensors'", "beside the index"]),
        ("/etc/passwd", ["'/etc/passwd'"]),
        ("..\\secret.safetensors", ["secret.safetensors'"]),
        ("C:secret.safetensors", ["'C:secret.safetensors'"]),
        ("model.bin", ["'model.bin'"]),
        ("", ["''"]),
        (5, ["no weight_map"]),
    ],
)
def test_the_index_names_a_wrong_file(fails, sharded, tmp_path, shard, words):
    shutil.copy(sharded / "model-00001-of-00002.safetensors", tmp_path / "secret.safetensors")
    index = sharded / "model.safetensors.index.json"
    places = json.loads(index.read_text("utf-8"))["weight_map"]
    edit(index, weight_map=places | {DOWN: shard})
    fails(["convert", sharded, tmp_path / "out"], *words)


def test_the_index_does_not_fit_its_shards(fails, sharded, tmp_path):
    index = sharded / "model.safetensors.index.json"
    places = json.loads(index.read_text("utf-8"))["weight_map"]
    edit(index, weight_map=places | {"model.more": "model-00001-of-00002.safetensors"})
    fails(["convert", sharded, tmp_path / "out"], "promises tensor 'model.more', which no shard holds")
    index.write_text("[]")
    fails(["convert", sharded, tmp_path / "out"], "no weight_map")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop(DOWN), ["lacks tensor", DOWN]),
        (lambda w: w.update({"lora.weight": torch.ones(2, 2)}), ["holds tensor 'lora.weight'"]),
        (lambda w: w.update({DOWN: w[DOWN].T.contiguous()}), [DOWN, "shape [384, 256]"]),
        (lambda w: w.update({DOWN: w[DOWN].flatten()}), [DOWN, "shape [98304]"]),
        (lambda w: w[DOWN].__setitem__((200, 7), torch.nan), [DOWN, "row 200", "NaN or Inf"]),
        (lambda w: w[DOWN].__setitem__((0, 0), -torch.inf), [DOWN, "row 0", "NaN or Inf"]),
        (lambda w: w["lm_head.weight"].__setitem__((639, 255), torch.nan), ["lm_head.weight, row 639"]),
        (lambda w: w["model.norm.weight"].__setitem__(3, torch.inf), ["model.norm.weight, row 3"]),
        (lambda w: w[DOWN].__setitem__((5, 5), 1e30), [DOWN, "row 5", "too large for float16"]),
    ],
)
@pytest.mark.parametrize("format", ["safetensors", "bin"])
def test_a_tensor_is_missing_extra_misshaped_or_not_a_number(
    fails, rewritten, tmp_path, change, words, format
):
    fails(["convert", rewritten(change, format), tmp_path / "out"], *words)


def test_a_tensor_is_of_integers(fails, rewritten, tmp_path):
    folder = rewritten(lambda w: w.update({DOWN: torch.ones(256, 384)}))
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights[DOWN] = weights[DOWN].to(torch.int8)
    save_file(weights, folder / "model.safetensors")
    fails(["convert", folder, tmp_path / "out"], DOWN, "dtype 'I8'", "use the float checkpoint")


class Code:
    """A pickle that runs a command when it is opened by plain pickle."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (torch.save, lambda file: torch.load(file, weights_only=False)),
        (
            lambda value, file: file.write_bytes(pickle.dumps(value)),
            lambda file: pickle.loads(file.read_bytes()),
        ),
    ],
    ids=["torch", "pickle"],
)
def test_a_pickle_with_code_is_refused_and_never_run(fails, rewritten, tmp_path, write, read):
    file = rewritten(lambda weights: None, "bin") / "pytorch_model.bin"
    weights = torch.load(file, weights_only=True)
    write({**weights, "evil": Code(tmp_path / MARKER)}, file)
    fails(["convert", file.parent, tmp_path / "out"], "pytorch_model.bin", "code", "use")
    assert MARKER not in os.listdir(tmp_path)
    read(file)
    assert MARKER in os.listdir(tmp_path), "the file must be one that runs its code where it may"


def test_a_width_is_not_divisible_by_the_group(fails, tmp_path):
    config = make_config("rope", hidden_size=320, num_attention_heads=5)
    folder = write_checkpoint(tmp_path / "in", config, random_weights(config))
    error = fails(["convert", folder, tmp_path / "out"], "rows of 320 weights, not a multiple of 128")
    assert "use one of int4-sym-g64, int4-sym-g32, int4-sym-channel" in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "int4-sym-g256"], ["no recipe 'int4-sym-g256'", "use one of int4-sym-g128"]),
        (["--lm-head-bits", "5"], ["lm_head_bits is 5", "expected one of 4, 8, 16, 32"]),
        (["--device", "NPU", "--recipe", "int4-asym-g128"], ["the NPU compiler", "use int4-sym-g128"]),
        (["--device", "XPU"], ["device 'XPU'", "use CPU, GPU, NPU or AUTO"]),
    ],
)
def test_the_recipe_is_unknown_or_does_not_suit_the_device(fails, source, tmp_path, options, words):
    error = fails(["convert", source, tmp_path / "out", *options], words[0])
    assert all(word in error for word in words)


# The output


def test_the_output_cannot_be_written(fails, source, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    fails(["convert", source, tmp_path / "file"], "is a file: choose another output")
    fails(["convert", source, tmp_path / "other"], "exists: choose another output")
    fails(["convert", source, tmp_path / "other", "--overwrite"], "holds other files than an artifact's")
    fails(["convert", source, source / "out"], "overlap: choose an output outside it")
    fails(["convert", source, source], "exists: choose another output")
    fails(["convert", source, source, "--overwrite"], "holds other files than an artifact's")
    fails(["convert", source, tmp_path / "out.partial"], "cannot be an output")
    fails(["convert", source, tmp_path / "file" / "out"], "cannot write", "file")


def test_what_can_be_known_is_refused_before_the_download(fails, tmp_path, artifact, monkeypatch):
    def download(*_: object, **__: object) -> None:
        raise AssertionError("downloaded")

    module = importlib.import_module("baichuan_intel.convert")
    monkeypatch.setattr(module, "fetch", download)
    fails(["convert", "org/name", artifact], "exists: choose another output or pass --overwrite")
    fails(["convert", "org/name", tmp_path / "out", "--recipe", "int5"], "no recipe 'int5'")
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    fails(["convert", "org/name", tmp_path / "out"], "converting needs protobuf: pip install")


def test_the_disk_has_too_little_room(fails, source, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1 << 30, 1 << 30, 1000))
    fails(["convert", source, tmp_path / "out"], "bytes are needed: free", "or choose another disk")


@pytest.mark.skipif(os.name != "posix", reason="sets a limit on the size of files")
@pytest.mark.parametrize("limit", [1 << 20, 4 << 20])
def test_a_file_cannot_grow(source, tmp_path, limit):
    code = f"""
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        sys.argv = ["baichuan-intel", "convert", "in", "out", "--recipe", "f32"]
        from baichuan_intel.cli import main
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, encoding="utf-8", cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "has no room for" in done.stderr
    assert os.listdir(tmp_path) == ["in"]


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A disk that holds the scratch file but not the model beside it, and says that it is large."""
    mount = tmp_path / "disk"
    mount.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)]
    if not shutil.which("mount") or subprocess.run(size, capture_output=True).returncode:
        pytest.skip("may not mount a small disk")
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1 << 40, 0, 1 << 40))
    yield mount
    # Lazily: the traceback of the failure still holds the scratch file.
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_the_disk_fills_up_while_openvino_writes(fails, source, small_disk):
    scratch = sum(tensor.numel() for tensor in random_weights(make_config("rope")).values()) * 4
    assert scratch < 8 << 20 < 2 * scratch, "the disk must be full in the middle of the model"
    fails(["convert", source, small_disk / "out", "--recipe", "f32"], "is the disk full?")


# Artifacts


def test_the_folder_is_no_artifact(fails, tmp_path, source):
    (tmp_path / "empty").mkdir()
    for verb in ("info", "verify", "chat"):
        fails([verb, tmp_path / "missing"], "does not exist: make it with baichuan-intel convert")
        fails([verb, tmp_path / "empty"], "holds no baichuan_intel.json, so it is not an artifact")
        fails([verb, source], "is a checkpoint, not an artifact: run baichuan-intel convert")
        fails([verb, source / "config.json"], "is a file: give the artifact's folder")


def test_a_byte_was_changed(fails, artifact):
    """Sizes are checked at each load, hashes by verify."""
    flip(artifact / "openvino_model.bin", 100_000)
    error = fails(["verify", artifact], "openvino_model.bin has sha256", "convert the checkpoint again")
    assert "config.json" not in error


def test_a_file_is_missing_or_has_another_size(fails, artifact):
    file = artifact / "openvino_model.bin"
    size = file.stat().st_size
    os.truncate(file, size - 1)
    for verb in ("info", "verify", "chat"):
        fails([verb, artifact], f"openvino_model.bin has {size - 1:,} bytes instead of {size:,}")
    file.unlink()
    for verb in ("info", "verify", "chat"):
        fails([verb, artifact], "openvino_model.bin is missing", "convert the checkpoint again")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"schema_version": SCHEMA_VERSION + 1, "new": 1},
            [f"schema {SCHEMA_VERSION + 1}", "pip install --upgrade"],
        ),
        ({"schema_version": "1"}, ["schema_version is '1'"]),
        ({"backend": "cuda"}, ["no backend 'cuda': use one of openvino"]),
        ({"config": None}, ["lacks", "config"]),
        ({"files": {"../../etc/passwd": {"bytes": 1, "sha256": "0" * 64}}}, ["../../etc/passwd"]),
        ({"extra": 1}, ["has unknown", "extra"]),
    ],
)
def test_the_manifest_is_newer_or_wrong(fails, artifact, values, words):
    edit(artifact / "baichuan_intel.json", **values)
    fails(["chat", artifact], *words)


def test_the_manifest_is_not_json(fails, artifact):
    for text in ("", "{", "[]", "{}", "\x00" * 50):
        (artifact / "baichuan_intel.json").write_text(text)
        fails(["info", artifact], "baichuan_intel.json")


def test_a_changed_file_of_the_same_size_is_refused_where_it_is_read(fails, artifact):
    for name in ("tokenizer.model", "generation_config.json"):
        size = (artifact / name).stat().st_size
        whole = (artifact / name).read_bytes()
        (artifact / name).write_bytes(b"\xff" * size)
        fails(["chat", artifact], name)
        (artifact / name).write_bytes(whole)
    xml = artifact / "openvino_model.xml"
    xml.write_bytes(b"<" * xml.stat().st_size)
    fails(["chat", artifact], "OpenVINO cannot open")


# Running


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("XPU", ["unknown device 'XPU': use CPU, GPU, GPU.1, NPU, AUTO"]),
        ("CPU.7", ["unknown device 'CPU.7'"]),
        ("GPU.99", ["no device GPU.99"]),
        ("", ["unknown device ''"]),
        ("GPU;rm", ["unknown device 'GPU;rm'"]),
    ],
)
def test_the_device_is_unknown(fails, nano, device, words):
    fails(["generate", nano(), "x", "--device", device], *words)


@pytest.mark.parametrize("device", ["GPU", "NPU"])
def test_the_device_has_no_driver(fails, nano, device):
    import openvino

    if any(name.startswith(device) for name in openvino.Core().available_devices):
        pytest.skip(f"this machine has a {device}")
    fails(["generate", nano(), "x", "--device", device], f"no device {device} (here: ", "http")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", ["property 'nonsense' is not KEY=VALUE"]),
        ("=1", ["property '=1' is not KEY=VALUE"]),
        ("NO_SUCH_PROPERTY=1", ["NO_SUCH_PROPERTY", "Unsupported"]),
        ("INFERENCE_NUM_THREADS=many", ["INFERENCE_NUM_THREADS", "non negative"]),
    ],
)
def test_a_property_is_nonsense_or_refused_by_openvino(fails, nano, text, words):
    fails(["generate", nano(), "x", "--property", text], *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-n", "0"], ["max_new_tokens is 0", "from 1 to"]),
        (["--temperature", "0"], ["temperature is 0.0", "greedy"]),
        (["--top-p", "1.5"], ["top_p is 1.5"]),
        (["--top-k", "-1"], ["top_k is -1"]),
        (["--seed", "-1"], ["seed is -1"]),
        (["--repetition-penalty", "nan"], ["repetition_penalty is nan"]),
        (["--stop", ""], ["a stop string is ''"]),
    ],
)
def test_a_sampling_value_is_out_of_range(fails, tmp_path, options, words):
    # Before the folder is looked at: loading a model takes its time.
    for verb in (["generate", tmp_path / "missing", "x"], ["chat", tmp_path / "missing"]):
        fails([*verb, *options], *words)


def test_the_prompt_is_longer_than_the_context(fails, nano):
    error = fails(["generate", nano(), "-"], "more than the context of 4096", "shorten", stdin="日" * 5000)
    assert "5000 prompt tokens and 1 new ones are 905 more" in error
    fails(["generate", nano(), "日" * 4000, "-n", "100"], "4 more than the context", "ask for fewer")


def test_chat_cuts_a_message_that_is_longer_than_the_context(cli, nano):
    done = cli("chat", nano(), "-n", "4", "--greedy", "--json", stdin="日" * 5000)
    assert done.code == 0
    assert json.loads(done.out)["prompt_tokens"] == 4096 - 4


@pytest.mark.parametrize("text", ["", "\n", "\r\n\n"])
def test_the_input_is_empty(fails, tmp_path, text):
    fails(["chat", tmp_path / "missing"], "the input is empty: pipe some text in", stdin=text)
    fails(["generate", tmp_path / "missing", "-"], "the input is empty", stdin=text)


def test_the_prompt_is_empty(fails, nano):
    fails(["generate", nano(), ""], "the prompt is empty: give at least one token")


def test_the_input_is_not_text(fails, tmp_path):
    error = "the input is not UTF-8 (byte 0): convert it"
    fails(["chat", tmp_path / "missing"], error, stdin="你好".encode("gbk"))


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ([], "messages is empty"),
        ([{"role": "bot", "content": "x"}], "messages[0] has role 'bot', expected one of system, user"),
        ([{"role": "user"}], "messages[0] has no content"),
        ([{"content": "x"}], "messages[0] has no role"),
        ([{"role": "user", "content": None}], "messages[0] has a NoneType as content"),
        ([{"role": "user", "content": ["x"]}], "messages[0] has a list as content"),
        ([{"role": "system", "content": "x"}], "with nothing after it: add a user message"),
        (
            [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}],
            "messages[1] is a system message: only the first message may be one",
        ),
        ([{"role": "user", "content": "\ud800"}], "lone surrogate"),
        ("x", "messages is a str"),
        (None, "messages is a NoneType"),
    ],
)
def test_messages_are_wrong(messages, word):
    from baichuan_intel.errors import PromptError
    from fake_backend import EOS, fake_model

    model = fake_model([EOS])
    with pytest.raises(PromptError) as error:
        model.chat(messages)
    assert word in str(error.value)
    assert "\n" not in str(error.value)


# Through the interpreter: what a shell or a service sees.


@pytest.mark.parametrize(
    "arguments", [["info", "missing"], ["convert", "missing", "out"], ["generate", "missing", "x"]]
)
def test_a_process_ends_with_one_line_and_code_1(tmp_path, arguments):
    command = [sys.executable, "-m", "baichuan_intel", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, cwd=tmp_path, stdin=subprocess.DEVNULL, env=environment
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"baichuan-intel: ")
    assert os.listdir(tmp_path) == []
