"""The bundled checkpoints: the hub's layout, small, and nothing that could run."""

import json
import struct
from pathlib import Path

import pytest
import sentencepiece

from baichuan_intel.errors import ConfigError
from baichuan_intel.model.config import BaichuanConfig
from baichuan_intel.model.nano import nano_path

KINDS = ("rope", "alibi")
FILES = {
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "tokenizer_config.json",
}


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def safetensors_header(path: Path) -> dict:
    """Parsed by hand: 8 bytes of length, then JSON (https://github.com/huggingface/safetensors)."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return header


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(kind: str) -> Path:
    return nano_path(kind)


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(nano_path(request.param) / "tokenizer.model"))


def test_another_name_is_refused():
    with pytest.raises(ConfigError, match=r"no nano model '\.\./x': use one of rope, alibi"):
        nano_path("../x")  # type: ignore[arg-type]


def test_files_are_those_of_the_hub_without_code_and_small(folder: Path):
    assert {p.name for p in folder.iterdir()} == FILES
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 6_000_000


def test_config_names_the_variant_and_no_code(folder: Path, kind: str):
    raw = read(folder / "config.json")
    assert raw["architectures"] == ["BaichuanForCausalLM"]
    assert (raw["model_type"], raw["torch_dtype"]) == ("baichuan", "bfloat16")
    assert (raw["position_embedding"], raw["norm_head"], raw["model_max_length"]) == (kind, True, 4096)
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in read(folder / name)
    config = BaichuanConfig.from_file(folder)
    assert (config.position_embedding, config.norm_head) == (kind, True)


def test_every_matrix_takes_groups_of_128(folder: Path):
    config = BaichuanConfig.from_file(folder)
    assert config.num_hidden_layers >= 2
    for name, shape in config.tensor_shapes().items():
        assert not any(n % 128 for n in shape), name


def test_shards_hold_every_tensor_in_bfloat16_as_the_index_says(folder: Path):
    index = read(folder / "model.safetensors.index.json")
    found = {}
    for file in sorted(set(index["weight_map"].values())):
        for name, entry in safetensors_header(folder / file).items():
            assert index["weight_map"][name] == file
            found[name] = (entry["dtype"], tuple(entry["shape"]))
    shapes = BaichuanConfig.from_file(folder).tensor_shapes()
    assert found == {name: ("BF16", shape) for name, shape in shapes.items()}
    assert set(index["weight_map"]) == set(shapes)
    assert len(set(index["weight_map"].values())) == 2
    assert index["metadata"]["total_size"] == 2 * BaichuanConfig.from_file(folder).parameters


def test_lm_head_is_raw_so_that_the_norm_head_matters(folder: Path):
    load_file = pytest.importorskip("safetensors.torch").load_file
    norms = load_file(folder / "model-00002-of-00002.safetensors")["lm_head.weight"].float().norm(dim=1)
    assert ((norms - 1).abs() > 0.05).any()


def test_generation_defaults_are_baichuan2s(folder: Path):
    raw = read(folder / "generation_config.json")
    assert {k: raw[k] for k in ("temperature", "top_k", "top_p", "repetition_penalty", "do_sample")} == {
        "temperature": 0.3,
        "top_k": 5,
        "top_p": 0.85,
        "repetition_penalty": 1.05,
        "do_sample": True,
    }
    assert (raw["user_token_id"], raw["assistant_token_id"]) == (195, 196)
    assert (raw["pad_token_id"], raw["bos_token_id"], raw["eos_token_id"]) == (0, 1, 2)
    assert raw["max_new_tokens"] == 256


def test_special_ids_are_the_hubs(tokenizer: sentencepiece.SentencePieceProcessor):
    assert [tokenizer.id_to_piece(n) for n in (0, 1, 2)] == ["<unk>", "<s>", "</s>"]
    assert [tokenizer.id_to_piece(n) for n in range(89, 197)] == [f"<reserved_{n}>" for n in range(108)]
    assert tokenizer.encode("<reserved_106>你<reserved_107>")[0::2] == [195, 196]
    assert tokenizer.id_to_piece(197) == "<0x00>"
    assert tokenizer.is_byte(197)
    assert tokenizer.is_byte(452)


def test_vocabulary_is_the_configs(folder: Path):
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert tokenizer.vocab_size() == BaichuanConfig.from_file(folder).vocab_size


@pytest.mark.parametrize(
    "text",
    [
        "登鹳雀楼->王之涣\n夜雨寄北->",
        " two  spaces and a tab\t",
        "𠮷 😀 é",
        "１２ ①",
        "",
        "\n\n",
        "解释一下“温故而知新”",
    ],
)
def test_text_comes_back_unchanged(tokenizer: sentencepiece.SentencePieceProcessor, text: str):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert 0 not in ids


def test_digits_are_split_and_nothing_is_prepended(tokenizer: sentencepiece.SentencePieceProcessor):
    assert [tokenizer.id_to_piece(n) for n in tokenizer.encode("2024")] == list("2024")
