"""The graph's logits against the float32 torch reference."""

from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
import torch

from baichuan_intel.backends.openvino.graph import alibi_slopes
from baichuan_intel.lowbit.quantize import quantize
from baichuan_intel.lowbit.recipe import Recipe
from raw import IDS, KINDS, compiled, infer
from reference import alibi_slopes as reference_slopes
from reference import reference_logits


def relative_error(ours, reference) -> float:
    reference = np.asarray(reference)
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def dequantized(checkpoint, recipe: Recipe) -> dict[str, torch.Tensor]:
    """The checkpoint's weights as the codes stand for them, the head normalised before."""
    weights = {}
    for name, tensor in checkpoint.weights.items():
        array = tensor.float()
        if name == "lm_head.weight":
            array = torch.nn.functional.normalize(array)
        form = recipe.format_of(name, checkpoint.config)
        if array.dim() == 2 and not form.is_float:
            array = torch.from_numpy(quantize(array.numpy(), form).dequantize())
        weights[name] = array
    return weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("recipe", "limit"), [("f16", 1e-3), ("f32", 1e-5)])
def test_float_logits_match_the_reference(converted, kind, recipe, limit):
    artifact, checkpoint = converted(kind, recipe)
    ours = infer(compiled(artifact).create_infer_request(), IDS)
    assert relative_error(ours, reference_logits(checkpoint.config, checkpoint.weights, IDS)) <= limit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "recipe",
    [
        "int4-sym-g128",
        "int4-asym-g128",
        "int4-sym-g64",
        "int4-sym-g32",
        "int4-sym-channel",
        "int4-mixed",
        "int8",
    ],
)
def test_low_bit_logits_match_the_reference_over_the_dequantized_weights(converted, kind, recipe):
    artifact, checkpoint = converted(kind, recipe)
    weights = dequantized(checkpoint, Recipe.named(recipe))
    # The head is already at unit length up to rounding; normalising again would hide an error there.
    config = type(checkpoint.config)(**{**vars(checkpoint.config), "norm_head": False})
    ours = infer(compiled(artifact).create_infer_request(), IDS)
    assert relative_error(ours, reference_logits(config, weights, IDS)) <= 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_in_steps_gives_the_logits_of_one_pass(converted, kind):
    artifact, _ = converted(kind, "int4-sym-g128")
    model = compiled(artifact)
    whole = infer(model.create_infer_request(), IDS)
    request = model.create_infer_request()
    steps = [infer(request, IDS[:30])]
    steps += [infer(request, [id_], past=30 + n) for n, id_ in enumerate(IDS[30:])]
    assert relative_error(np.concatenate(steps, axis=1), whole) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_left_padding_changes_nothing(converted, kind):
    artifact, checkpoint = converted(kind, "f32")
    short, long = IDS[:11], IDS[11:48]
    pad = len(long) - len(short)
    mask = np.ones((2, len(long)), np.int64)
    mask[0, :pad] = 0
    batch = infer(compiled(artifact).create_infer_request(), [[0] * pad + short, long], mask)
    alone = reference_logits(checkpoint.config, checkpoint.weights, short)
    assert relative_error(batch[:1, pad:], alone) <= 1e-5
    assert relative_error(batch[1:], reference_logits(checkpoint.config, checkpoint.weights, long)) <= 1e-5


@pytest.mark.parametrize("heads", [1, 4, 6, 32, 40])
def test_alibi_slopes(heads):
    np.testing.assert_allclose(alibi_slopes(heads), reference_slopes(heads), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_holds_the_weights_and_no_table(converted, kind):
    artifact, checkpoint = converted(kind, "int4-sym-g128")
    model = ov.Core().read_model(artifact.folder / "openvino_model.xml")
    allowed = set(checkpoint.weights)
    for op in model.get_ops():
        name = op.get_friendly_name()
        owner = name.removesuffix("/scale").removesuffix("/zero_point")
        if op.get_type_name() == "Constant" and owner not in allowed:
            assert op.output(0).get_tensor().size <= 4 * checkpoint.config.hidden_size, name
