"""A folder of weights as one checkpoint: shards, indexes, and what does not fit together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint.files import assert_same
from safetensors.torch import save_file

from baichuan_intel.checkpoint.reader import open_checkpoint
from baichuan_intel.errors import CheckpointError, TensorError, UnsafeFileError
from factory import make_config, random_weights

FORMATS = ("safetensors", "bin")
STEM = {"safetensors": "model", "bin": "pytorch_model"}
CONFIG = make_config(num_hidden_layers=1)
WEIGHTS = random_weights(CONFIG)


def write(path: Path, weights: dict[str, torch.Tensor]) -> None:
    if path.name.endswith(".safetensors"):
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    else:
        torch.save(weights, path)


def shard_names(format: str, count: int) -> list[str]:
    return [f"{STEM[format]}-{n + 1:05}-of-{count:05}.{format}" for n in range(count)]


def write_index(folder: Path, format: str, places: object) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{STEM[format]}.{format}.index.json").write_text(json.dumps(index), "utf-8")


def write_shards(folder: Path, format: str, weights: dict[str, torch.Tensor], count: int = 2) -> None:
    names = shard_names(format, count)
    places = {name: names[n % count] for n, name in enumerate(weights)}
    for file in names:
        write(folder / file, {name: weights[name] for name, place in places.items() if place == file})
    write_index(folder, format, places)


def refused(folder: Path, error: type[Exception] = CheckpointError) -> str:
    with pytest.raises(error) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shards", [1, 3])
def test_a_checkpoint_is_read_whole(tmp_path: Path, format: str, shards: int) -> None:
    if shards == 1:
        write(tmp_path / f"{STEM[format]}.{format}", WEIGHTS)
    else:
        write_shards(tmp_path, format, WEIGHTS, shards)
    with open_checkpoint(tmp_path) as checkpoint:
        checkpoint.check(CONFIG)
        assert checkpoint.shapes == {name: tuple(w.shape) for name, w in WEIGHTS.items()}
        assert set(checkpoint.dtypes.values()) == {"bf16"}
        assert len(checkpoint.files) == shards
        assert all(file.parent == tmp_path and file.is_file() for file in checkpoint.files)
        for name, tensor in WEIGHTS.items():
            assert_same(checkpoint.rows(name, 0, len(tensor)), tensor)


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    write(tmp_path / "pytorch_model.bin", {"a": torch.zeros(2)})
    write(tmp_path / "model.safetensors", {"a": torch.ones(2)})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.rows("a", 0, 2).tolist() == [1, 1]


def test_types_may_be_mixed(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2).bfloat16(), "b": torch.ones(2).half(), "c": torch.ones(2)}
    write_shards(tmp_path, "bin", weights)
    with open_checkpoint(str(tmp_path)) as checkpoint:
        assert checkpoint.dtypes == {"a": "bf16", "b": "f16", "c": "f32"}


@pytest.mark.parametrize("format", FORMATS)
def test_threads_read_at_once(tmp_path: Path, format: str) -> None:
    matrix = torch.arange(4000 * 16).reshape(4000, 16).float()
    write(tmp_path / f"{STEM[format]}.{format}", {"w": matrix})
    with open_checkpoint(tmp_path) as checkpoint, ThreadPoolExecutor(8) as pool:
        blocks = list(pool.map(lambda start: checkpoint.rows("w", start, start + 10), range(0, 4000, 10)))
    assert np.array_equal(np.concatenate(blocks), matrix.numpy())


def test_rows_outside_are_refused_and_blocks_outlive_the_file(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {"w": torch.ones(4, 2), "scalar": torch.tensor(1.0)})
    with open_checkpoint(tmp_path) as checkpoint:
        block = checkpoint.rows("w", 1, 3)
        for start, stop in ((-1, 2), (3, 2), (0, 5)):
            with pytest.raises(TensorError, match="'w' has 4 rows"):
                checkpoint.rows("w", start, stop)
        with pytest.raises(TensorError, match="'scalar' has 0 rows"):
            checkpoint.rows("scalar", 0, 1)
        with pytest.raises(TensorError, match="no tensor 'v'"):
            checkpoint.rows("v", 0, 1)
    assert block.tolist() == [[1, 1], [1, 1]]
    checkpoint.close()


def test_the_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    write_shards(blobs, "safetensors", WEIGHTS)
    for number, file in enumerate(sorted(blobs.iterdir())):
        blob = file.rename(blobs / f"{number:064}")
        try:
            (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
        except OSError:
            pytest.skip("no symbolic links here")
    with open_checkpoint(snapshot) as checkpoint:
        checkpoint.check(CONFIG)


def test_what_is_no_checkpoint_folder_is_refused(tmp_path: Path) -> None:
    assert "holds no weights (none of model.safetensors" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "missing")
    (tmp_path / "file").touch()
    assert "is not a folder" in refused(tmp_path / "file")


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_shard_is_named(tmp_path: Path, format: str) -> None:
    write_shards(tmp_path, format, WEIGHTS)
    gone = shard_names(format, 2)[1]
    (tmp_path / gone).unlink()
    assert f"names {gone!r}, which is not there" in refused(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_shard_is_named(tmp_path: Path, format: str) -> None:
    write_shards(tmp_path, format, WEIGHTS)
    path = tmp_path / shard_names(format, 2)[1]
    path.write_bytes(path.read_bytes()[:-1000])
    assert f"{path} is damaged or truncated" in refused(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "place",
    [
        "../x{}",
        "/x{}",
        "sub/x{}",
        "..\\x{}",
        "C:x{}",
        "C:\\x{}",
        "x{}\0{}",
        "config.json",
        "..",
        "",
        "x.py",
        "x{}/",
    ],
)
def test_an_index_that_leaves_the_folder_is_refused(tmp_path: Path, format: str, place: str) -> None:
    folder = tmp_path / "inside"
    (folder / "sub").mkdir(parents=True)
    for where in (tmp_path, folder / "sub"):
        write(where / f"x.{format}", WEIGHTS)
    name = place.format(f".{format}", f".{format}")
    write_index(folder, format, dict.fromkeys(WEIGHTS, name))
    assert "beside the index" in refused(folder, UnsafeFileError)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'{"weight_map": {}}',
        b'{"weight_map": {"a": 1}}',
    ],
)
def test_a_broken_index_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    assert "download it again" in refused(tmp_path)


@pytest.mark.parametrize("name", ["\ud800.safetensors", "x" * 5000 + ".safetensors", "\n.safetensors"])
def test_an_index_with_an_impossible_name_is_refused(tmp_path: Path, name: str) -> None:
    write_index(tmp_path, "safetensors", {"a": name})
    assert "is not there" in refused(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_a_tensor_that_no_shard_holds_is_named(tmp_path: Path, format: str) -> None:
    write_shards(tmp_path, format, WEIGHTS)
    shards = shard_names(format, 2)
    write_index(tmp_path, format, dict.fromkeys(WEIGHTS, shards[0]) | {"model.ghost": shards[1]})
    assert "promises tensor 'model.ghost', which no shard holds" in refused(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_a_tensor_in_two_shards_is_named(tmp_path: Path, format: str) -> None:
    first, second = shard_names(format, 2)
    write(tmp_path / first, {"a": torch.ones(2), "b": torch.ones(2)})
    write(tmp_path / second, {"b": torch.zeros(2)})
    write_index(tmp_path, format, {"a": first, "b": second})
    assert "both hold tensor 'b'" in refused(tmp_path)


def check(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    write(folder / "model.safetensors", weights)
    with open_checkpoint(folder) as checkpoint:
        checkpoint.check(CONFIG)


def test_check_names_what_does_not_fit_the_config(tmp_path: Path) -> None:
    norm = "model.norm.weight"
    with pytest.raises(TensorError, match=r"lacks tensor 'model\.norm\.weight': download"):
        check(tmp_path, {name: w for name, w in WEIGHTS.items() if name != norm})
    with pytest.raises(TensorError, match=r"holds tensor 'model\.adapter', which no Baichuan"):
        check(tmp_path, WEIGHTS | {"model.adapter": torch.ones(2)})
    with pytest.raises(TensorError, match=r"'model\.norm\.weight' has shape \[255\] .* asks for \[256\]"):
        check(tmp_path, WEIGHTS | {norm: torch.ones(255)})
    with pytest.raises(TensorError, match=r"\d+ more"):
        check(tmp_path, {"lm_head.weight": WEIGHTS["lm_head.weight"]})


def test_check_ignores_the_rotary_buffers_of_baichuan_1(tmp_path: Path) -> None:
    check(tmp_path, WEIGHTS | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(32)})


MEASURE = """
import sys
from baichuan_intel.checkpoint.reader import open_checkpoint

def private():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("RssAnon")).split()[1]) / 1024

if sys.argv[1].endswith("bin"):
    import torch
before, sums = private(), 0.0
with open_checkpoint(sys.argv[1]) as checkpoint:
    for name, (rows, _) in checkpoint.shapes.items():
        for start in range(0, rows, 128):
            sums += float(checkpoint.rows(name, start, start + 128)[0, 0])
    print(sums, private() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("format", FORMATS)
def test_reading_a_file_takes_no_private_memory(tmp_path: Path, format: str) -> None:
    folder = tmp_path / format
    folder.mkdir()
    write(folder / f"{STEM[format]}.{format}", {f"w{n}": torch.ones(4096, 4096).bfloat16() for n in range(2)})
    done = subprocess.run([sys.executable, "-c", MEASURE, folder], capture_output=True, text=True, check=True)
    sums, grown = map(float, done.stdout.split())
    assert sums == 2 * 4096 / 128
    assert grown < 16  # MiB, of a file of 64: the block and what the allocator keeps
