"""Recipes: what they store how, what they refuse, what each device is advised."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baichuan_intel.errors import RecipeError
from baichuan_intel.lowbit.recipe import DEFAULT_RECIPE, RECIPES, Format, Recipe
from baichuan_intel.model.config import BaichuanConfig


def config(**changes: Any) -> BaichuanConfig:
    values: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 10,
        "num_attention_heads": 4,
        "vocab_size": 1000,
        "position_embedding": "rope",
        "norm_head": True,
    }
    return BaichuanConfig(**(values | changes))


BAICHUAN2_7B = config(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=125696
)
BAICHUAN2_13B = config(
    hidden_size=5120,
    intermediate_size=13696,
    num_hidden_layers=40,
    num_attention_heads=40,
    vocab_size=125696,
    position_embedding="alibi",
)
INT8 = Format(8, 0, True)


def stored_bytes(recipe: Recipe, model: BaichuanConfig) -> float:
    """Codes, float16 scales and one-byte zero points, or floats."""
    total = 0.0
    for name, shape in model.tensor_shapes().items():
        format, weights = recipe.format_of(name, model), math.prod(shape)
        total += weights * format.bits / 8
        if format.bits < 16:
            group = format.group_size or shape[1]
            total += weights / group * (2 if format.symmetric else 3)
    return total


@pytest.mark.parametrize(
    ("name", "layer", "head", "embedding"),
    [
        ("int4-sym-g128", Format(4, 128, True), INT8, INT8),
        ("int4-asym-g128", Format(4, 128, False), INT8, INT8),
        ("int4-sym-g64", Format(4, 64, True), INT8, INT8),
        ("int4-sym-g32", Format(4, 32, True), INT8, INT8),
        ("int4-sym-channel", Format(4, 0, True), INT8, INT8),
        ("int8", INT8, INT8, INT8),
        ("f16", Format(16, 0, True), Format(16, 0, True), Format(16, 0, True)),
        ("f32", Format(32, 0, True), Format(32, 0, True), Format(32, 0, True)),
    ],
)
def test_named_recipes_store_what_their_name_says(
    name: str, layer: Format, head: Format, embedding: Format
) -> None:
    recipe = Recipe.named(name)
    assert recipe.name == name
    for linear in ("self_attn.W_pack", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
        assert recipe.format_of(f"model.layers.9.{linear}.weight", config()) == layer
    assert recipe.format_of("lm_head.weight", config()) == head
    assert recipe.format_of("model.embed_tokens.weight", config()) == embedding
    for norm in ("model.norm.weight", "model.layers.0.input_layernorm.weight"):
        assert recipe.format_of(norm, config()) == Format(32, 0, True)


def test_every_recipe_is_in_the_tests() -> None:
    assert set(RECIPES) == {
        "int4-sym-g128",
        "int4-asym-g128",
        "int4-sym-g64",
        "int4-sym-g32",
        "int4-sym-channel",
        "int4-mixed",
        "int8",
        "f16",
        "f32",
    }
    assert DEFAULT_RECIPE == "int4-sym-g128"


def test_the_default_recipe_keeps_the_promised_sizes() -> None:
    recipe = Recipe.named(DEFAULT_RECIPE)
    assert stored_bytes(recipe, BAICHUAN2_7B) < 4.4e9
    assert stored_bytes(recipe, BAICHUAN2_13B) < 7.9e9


def test_four_bit_head_and_embedding_take_the_groups_of_the_layers() -> None:
    recipe = Recipe(4, 64, False, lm_head_bits=4, embedding_bits=16)
    assert recipe.format_of("lm_head.weight", config()) == Format(4, 64, False)
    assert recipe.format_of("model.embed_tokens.weight", config()) == Format(16, 0, True)
    assert recipe.name == "int4-asym-g64-head4-embedding16"


@pytest.mark.parametrize("model", [BAICHUAN2_7B, BAICHUAN2_13B, config()])
@pytest.mark.parametrize("ratio", [0.999, 0.8, 0.5, 0.01])
def test_a_mixed_recipe_keeps_its_share_in_8_bits(model: BaichuanConfig, ratio: float) -> None:
    recipe = Recipe(4, 128, True, ratio=ratio)
    linears = {n: math.prod(s) for n, s in model.tensor_shapes().items() if ".layers." in n and len(s) == 2}
    eight = {n for n in linears if recipe.format_of(n, model) == INT8}
    assert {recipe.format_of(n, model) for n in linears.keys() - eight} == {Format(4, 128, True)}
    wanted, share = 1 - ratio, sum(linears[n] for n in eight) / sum(linears.values())
    assert wanted - max(linears.values()) / sum(linears.values()) < share <= wanted


def test_mixed_starts_with_down_proj_at_both_ends() -> None:
    recipe, model = Recipe.named("int4-mixed"), BAICHUAN2_7B
    eight = {n for n in model.tensor_shapes() if ".layers." in n and recipe.format_of(n, model) == INT8}
    # a fifth of 6,476,005,376 linear weights is 28 matrices of 4096 x 11008
    layers = [n for n in range(32) if n not in (14, 15, 16, 17)]
    assert eight == {f"model.layers.{n}.mlp.down_proj.weight" for n in layers}
    more = Recipe(4, 128, True, ratio=0.6)
    assert more.format_of("model.layers.15.mlp.down_proj.weight", model) == INT8
    assert more.format_of("model.layers.0.self_attn.W_pack.weight", model) == INT8
    assert more.format_of("model.layers.0.mlp.up_proj.weight", model) == Format(4, 128, True)


def test_recipes_of_one_name_are_equal() -> None:
    """The name of an unnamed recipe tells every field."""
    recipes = {
        Recipe(bits, group, symmetric, head, embedding, ratio)
        for bits in (4, 8)
        for group in (0, 128)
        for symmetric in (True, False)
        for head in (4, 8)
        for embedding in (8, 16)
        for ratio in ((1.0, 0.8, 0.5) if bits == 4 else (1.0,))
    }
    assert len({recipe.name for recipe in recipes}) == len(recipes) == 64


def test_an_unknown_name_lists_the_names_and_the_nearest() -> None:
    with pytest.raises(RecipeError) as refusal:
        Recipe.named("int4-sym-128")
    assert "did you mean int4-sym-g128?" in str(refusal.value)
    for name in RECIPES:
        assert name in str(refusal.value)
    with pytest.raises(RecipeError) as refusal:
        Recipe.named("what")
    assert "did you mean" not in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((5, 128, True), "bits is 5"),
        ((4.0, 128, True), "bits is 4.0"),
        ((4, 100, True), "group_size is 100"),
        ((4, -1, True), "group_size is -1"),
        ((4, False, True), "group_size is False"),
        ((4, 128, 1), "symmetric is 1"),
        ((16, 128, True), "16-bit floats have no groups"),
        ((32, 0, False), "32-bit floats have no groups"),
        ((4, 128, True, 5), "lm_head_bits is 5"),
        ((4, 128, True, 8, 2), "embedding_bits is 2"),
        ((4, 128, True, 8, 8, 0.0), "ratio is 0.0"),
        ((4, 128, True, 8, 8, 1.5), "ratio is 1.5"),
        ((4, 128, True, 8, 8, math.nan), "ratio is nan"),
        ((4, 128, True, 8, 8, "1"), "ratio is '1'"),
        ((4, 128, True, 8, 8, True), "ratio is True"),
        ((8, 0, True, 8, 8, 0.5), "ratio 0.5 mixes 4 and 8 bits, but bits is 8"),
        ((4, 128, True, 8, 8, 1.0, "gptq"), "method is 'gptq'"),
    ],
)
def test_bad_values_are_refused(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe(*values)
    if len(values) == 3:
        with pytest.raises(RecipeError, match=message):
            Format(*values)


def test_a_tensor_of_another_model_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"no tensor 'model\.layers\.10\.mlp"):
        Recipe.named("int8").format_of("model.layers.10.mlp.up_proj.weight", config())


@pytest.mark.parametrize("name", RECIPES)
def test_released_models_fit_every_recipe(name: str) -> None:
    RECIPES[name].check(BAICHUAN2_7B)
    RECIPES[name].check(BAICHUAN2_13B)


def test_a_width_that_is_not_whole_groups_is_refused_with_what_fits() -> None:
    model = config(intermediate_size=672)
    with pytest.raises(RecipeError) as refusal:
        Recipe.named("int4-sym-g128").check(model)
    message, _, fitting = str(refusal.value).partition("use one of ")
    assert "model.layers.0.mlp.down_proj.weight has rows of 672 weights, not a multiple of 128" in message
    assert fitting.split(", ") == ["int4-sym-g32", "int4-sym-channel", "int8", "f16", "f32"]
    for name in fitting.split(", "):
        Recipe.named(name).check(model)


def test_an_odd_width_has_no_whole_bytes_of_four_bits() -> None:
    model = config(hidden_size=255, num_attention_heads=1, position_embedding="alibi")
    with pytest.raises(
        RecipeError, match=r"rows of 255 weights, not a multiple of 2 .* use one of int8, f16, f32$"
    ):
        Recipe.named("int4-sym-channel").check(model)


@pytest.mark.parametrize(
    ("device", "model", "name", "reason"),
    [
        ("CPU", BAICHUAN2_7B, "int4-sym-g128", "VNNI and AMX"),
        ("GPU", BAICHUAN2_13B, "int4-sym-g128", "XMX"),
        ("gpu.1", BAICHUAN2_7B, "int4-sym-g128", "XMX"),
        ("AUTO", BAICHUAN2_7B, "int4-sym-g128", "VNNI and AMX"),
        ("AUTO:GPU,CPU", BAICHUAN2_7B, "int4-sym-g128", "XMX"),
        ("CPU", config(hidden_size=192), "int4-sym-g64", "VNNI and AMX"),
        ("NPU", BAICHUAN2_7B, "int4-sym-channel", "above 5 billion parameters"),
        ("HETERO:NPU,CPU", BAICHUAN2_13B, "int4-sym-channel", "above 5 billion parameters"),
        ("NPU", config(), "int4-sym-g128", "symmetric 4-bit codes only"),
        ("NPU", config(hidden_size=192), "int4-sym-channel", "symmetric 4-bit codes only"),
    ],
)
def test_a_device_is_advised_a_recipe_it_can_run(
    device: str, model: BaichuanConfig, name: str, reason: str
) -> None:
    advice = Recipe.for_device(device, model)
    assert advice.recipe_name == name
    assert reason in advice.reason
    Recipe.named(name).check(model)
    Recipe.named(name).check_device(device)


@pytest.mark.parametrize("device", ["TPU", "", "GPU,", "CUDA.0"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(RecipeError, match="no recipe is known for device"):
        Recipe.for_device(device, config())
    with pytest.raises(RecipeError, match="no recipe is known for device"):
        RECIPES["int8"].check_device(device)


def test_the_npu_refuses_zero_points_and_mixed_widths() -> None:
    refused = {"int4-asym-g128": "aborts on zero points", "int4-mixed": "mixes 4 and 8 bits"}
    for name, recipe in RECIPES.items():
        for device in ("NPU", "NPU.0", "AUTO:NPU,CPU"):
            if name in refused:
                with pytest.raises(RecipeError, match=refused[name]):
                    recipe.check_device(device)
            else:
                recipe.check_device(device)
        recipe.check_device("CPU")
        recipe.check_device("GPU.1")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_its_dict(name: str) -> None:
    raw = RECIPES[name].to_dict()
    assert Recipe.from_dict(raw) == RECIPES[name]
    for key in raw:
        with pytest.raises(RecipeError, match=key):
            Recipe.from_dict({k: v for k, v in raw.items() if k != key})
    with pytest.raises(RecipeError, match="colour"):
        Recipe.from_dict(raw | {"colour": "red"})
    with pytest.raises(RecipeError, match="method is 'rtn2'"):
        Recipe.from_dict(raw | {"method": "rtn2"})


@given(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=8), st.integers(), max_size=2),
    st.sampled_from(sorted(RECIPES["int8"].to_dict())),
)
def test_a_hostile_dict_is_refused_or_is_a_recipe(value: Any, key: str) -> None:
    for raw in (value, RECIPES["int4-sym-g128"].to_dict() | {key: value}):
        with contextlib.suppress(RecipeError):
            assert Recipe.from_dict(raw).to_dict() == raw
