import json
import math
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baichuan_intel.errors import ConfigError
from baichuan_intel.model.config import BaichuanConfig, read_json

# config.json of baichuan-inc/Baichuan2-13B-Chat, as published.
CHAT_13B = {
    "_from_model_config": True,
    "architectures": ["BaichuanForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_baichuan.BaichuanConfig",
        "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM",
    },
    "tokenizer_class": "BaichuanTokenizer",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "gradient_checkpointing": False,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "initializer_range": 0.02,
    "intermediate_size": 13696,
    "model_max_length": 4096,
    "model_type": "baichuan",
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.29.2",
    "use_cache": True,
    "vocab_size": 125696,
}
# The 7B geometry; its configs carry max_position_embeddings, which the 13B ones lack.
CHAT_7B = CHAT_13B | {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "max_position_embeddings": 4096,
}
V1_7B = {k: v for k, v in CHAT_7B.items() if k != "model_max_length"} | {
    "architectures": ["BaiChuanForCausalLM"],
    "vocab_size": 64000,
}
V1_13B = CHAT_13B | {"vocab_size": 64000}


@pytest.mark.parametrize(
    ("raw", "position", "generation", "billions"),
    [
        (CHAT_7B, "rope", 2, 7.51),
        (CHAT_13B, "alibi", 2, 13.90),
        (V1_7B, "rope", 1, 7.00),
        (V1_13B, "alibi", 1, 13.26),
    ],
    ids=["2-7b", "2-13b", "1-7b", "1-13b"],
)
def test_released_models(raw, position, generation, billions):
    config = BaichuanConfig.from_dict(raw)
    assert config.position_embedding == position
    assert config.norm_head is (generation == 2)
    assert config.generation == generation
    assert config.head_dim == 128
    assert config.model_max_length == 4096
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 0)
    assert config.rms_norm_eps == 1e-6
    assert config.rope_theta == 10000
    assert round(config.parameters / 1e9, 2) == billions


def test_size_of_the_published_13b_index():
    # "total_size" of its pytorch_model.bin.index.json: bytes of bfloat16.
    config = BaichuanConfig.from_dict(CHAT_13B)
    assert 2 * config.parameters == 27_793_336_320
    assert len(config.tensor_shapes()) == 40 * 7 + 3


def test_tensor_shapes():
    config = BaichuanConfig.from_dict(CHAT_7B | {"num_hidden_layers": 2})
    layer = {
        "input_layernorm.weight": (4096,),
        "self_attn.W_pack.weight": (12288, 4096),
        "self_attn.o_proj.weight": (4096, 4096),
        "post_attention_layernorm.weight": (4096,),
        "mlp.gate_proj.weight": (11008, 4096),
        "mlp.up_proj.weight": (11008, 4096),
        "mlp.down_proj.weight": (4096, 11008),
    }
    assert config.tensor_shapes() == {
        "model.embed_tokens.weight": (125696, 4096),
        **{f"model.layers.{n}.{name}": shape for n in range(2) for name, shape in layer.items()},
        "model.norm.weight": (4096,),
        "lm_head.weight": (125696, 4096),
    }


SMALL = {
    "model_type": "baichuan",
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 640,
}


@pytest.mark.parametrize(
    ("keys", "position"),
    [
        ({"hidden_size": 4096}, "rope"),
        ({"hidden_size": 5120}, "alibi"),
        ({"hidden_size": 5120, "max_position_embeddings": 4096}, "alibi"),
        ({"max_position_embeddings": 4096}, "rope"),
        ({"model_max_length": 4096}, "alibi"),
        ({}, "alibi"),
        ({"hidden_size": 4096, "position_embedding": "alibi"}, "alibi"),
        ({"hidden_size": 5120, "position_embedding": "rope"}, "rope"),
        # Never by the number of layers.
        ({"hidden_size": 4096, "num_hidden_layers": 40}, "rope"),
        ({"hidden_size": 5120, "num_hidden_layers": 32}, "alibi"),
    ],
)
def test_position_embedding(keys, position):
    assert BaichuanConfig.from_dict(SMALL | keys).position_embedding == position


@pytest.mark.parametrize(
    ("keys", "norm_head"),
    [
        ({"vocab_size": 125696}, True),
        ({"vocab_size": 125700}, True),
        ({"vocab_size": 64000}, False),
        ({"vocab_size": 64000, "norm_head": True}, True),
        ({"vocab_size": 125696, "norm_head": False}, False),
    ],
)
def test_norm_head(keys, norm_head):
    assert BaichuanConfig.from_dict(SMALL | keys).norm_head is norm_head


@pytest.mark.parametrize(
    ("keys", "length"),
    [
        ({"model_max_length": 512}, 512),
        ({"max_position_embeddings": 2048}, 2048),
        ({"model_max_length": 512, "max_position_embeddings": 2048}, 512),
        ({"model_max_length": None, "max_position_embeddings": 2048}, 2048),
        ({}, 4096),
    ],
)
def test_model_max_length(keys, length):
    assert BaichuanConfig.from_dict(SMALL | keys).model_max_length == length


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"model_type": "llama"}, "another model .*'llama'"),
        ({"architectures": ["LlamaForCausalLM"]}, "another model .*LlamaForCausalLM"),
        ({"model_type": None}, "another model"),
        ({"model_type": "baichuan\n\x1b[2J" * 99}, r"another model .*\\n"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"hidden_size": "256"}, "hidden_size is '256'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": 256.0}, "hidden_size is 256.0"),
        ({"hidden_size": 258}, "258 is not a multiple of num_attention_heads 4"),
        ({"hidden_size": 12, "position_embedding": "rope"}, "head_dim is 3"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"vocab_size": 1 << 40}, "vocab_size"),
        ({"vocab_size": 10**5000}, "oversized int"),
        ({"num_hidden_layers": 1 << 20}, "num_hidden_layers"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"model_max_length": 0}, "model_max_length"),
        ({"eos_token_id": -2}, "eos_token_id"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps is nan"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ({"rope_theta": math.inf}, "rope_theta is inf"),
        ({"rope_theta": 1e308}, "rope_theta"),
        ({"position_embedding": "learned"}, "position_embedding is 'learned'"),
        ({"position_embedding": ["rope"]}, "position_embedding"),
        ({"norm_head": 1}, "norm_head is 1"),
    ],
)
def test_refused(keys, says):
    with pytest.raises(ConfigError, match=says) as caught:
        BaichuanConfig.from_dict(SMALL | keys)
    assert_one_line(caught.value)


@pytest.mark.parametrize(
    "key", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
)
def test_missing_key_is_named(key):
    with pytest.raises(ConfigError, match=f"lacks {key}"):
        BaichuanConfig.from_dict({k: v for k, v in SMALL.items() if k != key})


def test_unknown_keyword():
    with pytest.raises(TypeError):
        BaichuanConfig(**SMALL, position_embedding="rope", norm_head=True)  # model_type is no field


numbers = st.one_of(
    st.integers(min_value=-(10**500), max_value=10**500),
    st.sampled_from([0, 1, 2, 4, 64, 256, 4096, 5120, 125696]),
    st.floats(),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(st.sampled_from([*CHAT_7B, "position_embedding", "norm_head", "rope_theta"]), anything)
)
def test_only_config_error_comes_out(changes):
    for base in ({}, {"model_type": "baichuan"}, SMALL, CHAT_7B):
        try:
            config = BaichuanConfig.from_dict(base | changes)
        except ConfigError as error:
            assert_one_line(error)
        else:
            # What is accepted can be used.
            assert config.parameters > 0
            assert config.head_dim * config.num_attention_heads == config.hidden_size


def test_from_file_takes_the_folder_or_the_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CHAT_13B), encoding="utf-8")
    expected = BaichuanConfig.from_dict(CHAT_13B)
    assert BaichuanConfig.from_file(tmp_path) == expected
    assert BaichuanConfig.from_file(str(tmp_path / "config.json")) == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read as JSON"),
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b"[1]", "holds a list"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"a": 1' + b"0" * 10_000 + b"}", None),
    ],
)
def test_read_json_refuses(tmp_path, content, says):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    if says is None and not hasattr(sys, "set_int_max_str_digits"):
        pytest.skip("this Python reads numbers of any length")
    with pytest.raises(ConfigError, match=says) as caught:
        read_json(tmp_path)
    assert_one_line(caught.value)


def test_read_json_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json does not exist"):
        read_json(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        read_json(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_json("a\0b")


def test_read_json_too_large(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(ConfigError, match="over 16 MiB"):
        read_json(tmp_path)


def test_read_json_of_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(ConfigError, match="Permission denied"):
        read_json(tmp_path)


def assert_one_line(error):
    message = str(error)
    assert message.isprintable()
    assert len(message) < 400
