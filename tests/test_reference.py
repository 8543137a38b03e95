"""The reference itself, against transformers' Llama and hand-made rules; and the factory's files."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file

from baichuan_intel.model.config import BaichuanConfig
from factory import TOKENIZER_VOCAB, make_config, random_weights, tokenizer_model, write_checkpoint
from reference import alibi_slopes, greedy, reference_logits

PROMPT = [195, 300, 400, 500, 196]


def llama(config: BaichuanConfig, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Baichuan 2 7B is a Llama once W_pack is split and the head normalised."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attn_implementation="eager",
            dtype=torch.float32,
        )
    )
    state = {}
    for name, value in weights.items():
        if "W_pack" in name:
            for part, rows in zip("qkv", value.float().chunk(3), strict=True):
                state[name.replace("W_pack", f"{part}_proj")] = rows
        else:
            state[name] = value.float()
    if config.norm_head:
        state["lm_head.weight"] = torch.nn.functional.normalize(state["lm_head.weight"])
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize(
    "changes", [{}, {"norm_head": False}, {"rope_theta": 500.0, "num_attention_heads": 2}]
)
def test_rope_is_a_llama(changes):
    config = make_config("rope", **changes)
    weights = random_weights(config, seed=1)
    ids = torch.randint(3, config.vocab_size, (2, 700), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :41] = 0
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        expected = llama(config, weights)(ids, attention_mask=mask, position_ids=positions).logits
    got = reference_logits(config, weights, ids, mask)
    shown = mask.bool()
    assert (got - expected)[shown].norm() / expected[shown].norm() < 1e-5


@pytest.mark.parametrize("kind", ["rope", "alibi"])
def test_left_padding_changes_nothing(kind):
    config = make_config(kind)
    weights = random_weights(config)
    alone = reference_logits(config, weights, PROMPT)
    ids = torch.tensor([[0] * 7 + PROMPT])
    padded = reference_logits(config, weights, ids, (torch.arange(12) >= 7).long()[None])
    torch.testing.assert_close(padded[:, 7:], alone, rtol=0, atol=1e-4)


def test_alibi_slopes_are_those_of_the_paper():
    assert alibi_slopes(8) == [2.0**-k for k in range(1, 9)]
    six = [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]
    assert alibi_slopes(6) == six


def test_alibi_fades_with_distance():
    """With q = k = 0 a head sees its keys in the ratio exp(-slope) from one to the one before."""
    config = make_config("alibi", num_hidden_layers=1, num_attention_heads=2, norm_head=False)
    weights = {k: torch.zeros(v) for k, v in config.tensor_shapes().items()}
    h = config.hidden_size
    weights |= {k: torch.ones_like(v) for k, v in weights.items() if v.dim() == 1}
    weights["model.embed_tokens.weight"][:4, :4] = torch.eye(4) * 100
    weights["model.layers.0.self_attn.W_pack.weight"][2 * h : 2 * h + 4, :4] = torch.eye(4)
    weights["model.layers.0.self_attn.o_proj.weight"][4:8, :4] = torch.eye(4)
    weights["lm_head.weight"][:8, :8] = torch.eye(8)
    seen = reference_logits(config, weights, [0, 1, 2, 3])[0, -1, 4:8]
    torch.testing.assert_close(seen[1:] / seen[:-1], torch.full((3,), math.exp(2.0**-4)))


@pytest.mark.parametrize("kind", ["rope", "alibi"])
def test_every_weight_matters(kind):
    config = make_config(kind)
    weights = random_weights(config)
    logits = reference_logits(config, weights, PROMPT)
    for name, value in weights.items():
        without = reference_logits(config, weights | {name: torch.full_like(value, 1e-3)}, PROMPT)
        assert (without - logits).norm() / logits.norm() > 0.1, name


def test_norm_head_folds():
    config = make_config("alibi")
    weights = random_weights(config)
    head = torch.nn.functional.normalize(weights["lm_head.weight"].float())
    plain = dataclasses.replace(config, norm_head=False)
    folded = reference_logits(plain, weights | {"lm_head.weight": head}, PROMPT)
    torch.testing.assert_close(folded, reference_logits(config, weights, PROMPT))


def test_greedy_takes_the_largest_logit():
    config = make_config("rope")
    weights = random_weights(config)
    answer = greedy(config, weights, PROMPT, 6)
    logits = reference_logits(config, weights, PROMPT + answer)[0]
    assert logits[len(PROMPT) - 1 : -1].argmax(-1).tolist() == answer


def test_tokenizer_has_the_turn_tokens():
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model())
    assert tokenizer.vocab_size() == TOKENIZER_VOCAB
    assert [tokenizer.id_to_piece(i) for i in (0, 1, 2, 195, 196)] == [
        "<unk>",
        "<s>",
        "</s>",
        "<reserved_106>",
        "<reserved_107>",
    ]
    text = "  夜雨寄北  🙂 a  b\t龘"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("format", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_written_checkpoint_reads_back(tmp_path, format, shards, dtype):
    config = make_config("rope", num_hidden_layers=1)
    weights = random_weights(config)
    write_checkpoint(tmp_path, config, weights, format=format, shards=shards, dtype=dtype)
    assert BaichuanConfig.from_file(tmp_path) == config
    suffix = "safetensors" if format == "safetensors" else "bin"
    files = sorted(tmp_path.glob(f"*.{suffix}"))
    read = {}
    for file in files:
        read |= load_file(file) if format == "safetensors" else torch.load(file, weights_only=True)
    assert len(files) == shards
    assert {k: v.shape for k, v in read.items()} == {k: v.shape for k, v in weights.items()}
    assert all(torch.equal(v.float(), weights[k].float()) for k, v in read.items())
    if shards == 2:
        index = json.loads(next(tmp_path.glob("*.index.json")).read_text(encoding="utf-8"))
        assert set(index["weight_map"]) == set(weights)
