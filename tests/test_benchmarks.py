"""The benchmark scripts measure what they say."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

if sys.platform != "linux":
    pytest.skip("the benchmark scripts read /proc", allow_module_level=True)

import baichuan_intel
from benchmarks import checkpoints, convert_full, measure, overhead, start

MB = 1 << 20
# Holds memory of its own, a mapped file and a child with memory of its own, all at once.
TREE = """
import mmap, subprocess, sys, time
own = bytearray(100 << 20)
own[::4096] = b"x" * (len(own) // 4096)  # memory counts once it is touched
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
assert sum(mapped[i] for i in range(0, len(mapped), 4096)) == 0
child = "import time; own = bytearray(60 << 20); own[::4096] = b'x' * (len(own) // 4096); time.sleep(1)"
subprocess.run([sys.executable, "-c", child], check=True)
print("done")
"""


def test_private_memory_of_the_tree_without_mapped_files(tmp_path):
    file = tmp_path / "mapped"
    file.write_bytes(bytes(200 * MB))
    cost = measure.run([sys.executable, "-c", TREE, str(file)])
    assert (cost.returncode, cost.stdout) == (0, "done\n")
    assert 160 * MB < cost.peak_private_bytes < 220 * MB
    assert cost.peak_processes == 2
    assert cost.seconds > 1


def test_failure_is_handed_on():
    cost = measure.run([sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"])
    assert (cost.returncode, cost.stderr) == (3, "why\n")


def test_a_record_names_no_host_and_no_path(tmp_path, capsys):
    import socket

    good, bad = measure.row("a", 1, 2), measure.row("b", 3, 2)
    assert measure.write_record(tmp_path / "good.json", {"rows": [good]})
    assert not measure.write_record(tmp_path / "bad.json", {"rows": [good, bad]})
    assert "FAIL  b: 3 (limit 2)" in capsys.readouterr().out
    text = (tmp_path / "bad.json").read_text(encoding="utf-8")
    assert json.loads(text)["machine"]["packages"]["numpy"]
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert str(Path(sys.prefix)) not in text


def test_committed_records_are_consistent_and_name_no_path():
    for file in (Path(measure.__file__).parent / "results").glob("*.json"):
        text = file.read_text(encoding="utf-8")
        record = json.loads(text)
        assert record["schema"] == measure.SCHEMA, file.name
        assert all(row["pass"] == (row["value"] <= row["limit"]) for row in record["rows"]), file.name
        assert not any(path in text for path in ('"/', "/home/", "/tmp/", "/root/")), file.name


@pytest.mark.parametrize("format", ["bin", "safetensors"])
def test_random_checkpoint_has_the_real_layout(tmp_path, monkeypatch, rope_checkpoint, format):
    monkeypatch.setattr(checkpoints, "NANO", rope_checkpoint.folder)
    monkeypatch.setattr(checkpoints, "BLOCK", 1 << 22)
    monkeypatch.setattr(checkpoints, "SHARD_BYTES", 20_000_000)
    geometry = {"hidden_size": 4096, "intermediate_size": 128, "num_attention_heads": 32, "vocab_size": 1000}
    monkeypatch.setitem(checkpoints.GEOMETRY, "7b", geometry)
    config = checkpoints.write_checkpoint(tmp_path / "out", "7b", format, layers=1)
    index = json.loads(next((tmp_path / "out").glob("*.index.json")).read_text(encoding="utf-8"))
    files = sorted((tmp_path / "out").glob(f"*.{format}"))
    assert len(files) > 1
    read = {}
    for file in files:
        part = load_file(file) if format == "safetensors" else torch.load(file, weights_only=True)
        assert {index["weight_map"][name] for name in part} == {file.name}
        read |= part
    assert {k: tuple(v.shape) for k, v in read.items()} == config.tensor_shapes()
    assert {v.dtype for v in read.values()} == {torch.bfloat16}
    linear = read["model.layers.0.mlp.gate_proj.weight"].float()
    assert linear.std() == pytest.approx(0.02, rel=0.02)
    assert read["model.norm.weight"].eq(1).all()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, alibi_checkpoint):
    out = tmp_path_factory.mktemp("benchmarks") / "out"
    return baichuan_intel.convert(alibi_checkpoint.folder, out, progress=False)


def test_a_baked_table_is_found_in_the_graph(tmp_path, artifact, monkeypatch):
    monkeypatch.setattr(convert_full, "SMALL_CONSTANT_BYTES", 2_000)  # the checkpoint is tiny
    graph = Path(shutil.copy(artifact.folder / "openvino_model.xml", tmp_path))
    recipe = artifact.manifest.recipe
    assert convert_full.foreign_constants(graph, artifact.config, recipe) == []
    mask = '<layer id="999" name="mask" type="Const"><data shape="6, 64, 64" size="98304"/></layer>'
    twin = '<layer id="1000" name="twin" type="Const"><data shape="640, 384" size="245760"/></layer>'
    text = graph.read_text(encoding="utf-8").replace("</layers>", f"{mask}{twin}</layers>")
    graph.write_text(text, encoding="utf-8")
    found = convert_full.foreign_constants(graph, artifact.config, recipe)
    assert [(entry["name"], entry["bytes"]) for entry in found] == [("mask", 98304), ("twin", 245760)]


def test_starts_are_timed_in_fresh_processes(artifact):
    pair = start.measure_pair(artifact.folder, "CPU")
    for times in pair.values():
        parts = times["load_s"] + times["first_token_s"]
        assert times["load_to_first_token_s"] == pytest.approx(parts)
        assert 0 < parts < times["process_s"]


def test_overhead_compares_the_same_tokens(artifact, monkeypatch):
    seconds = overhead.measure(artifact.folder, "CPU", tokens=4, repeats=2)
    assert [len(values) for values in seconds.values()] == [2, 2]
    monkeypatch.setattr(overhead, "bare", lambda artifact, device: lambda count: [7] * count)
    with pytest.raises(SystemExit, match="not give the same"):
        overhead.measure(artifact.folder, "CPU", tokens=4, repeats=2)
