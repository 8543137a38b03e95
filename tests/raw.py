"""An artifact run through plain OpenVINO, without GenAI and without the package."""

from __future__ import annotations

import numpy as np
import openvino as ov

# The arithmetic that the figures below are about: float32 throughout.
EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
IDS = np.random.default_rng(3).integers(197, 500, 48).tolist()
KINDS = ("rope", "alibi")


def compiled(artifact):
    return ov.Core().compile_model(artifact.folder / "openvino_model.xml", "CPU", EXACT)


def infer(request, ids, mask=None, past=0):
    """Logits [batch, seq, vocab]; ``mask`` [batch, past + seq] is 0 where there is padding on the left."""
    ids = np.atleast_2d(ids)
    mask = np.ones((ids.shape[0], past + ids.shape[1]), np.int64) if mask is None else mask
    positions = np.maximum(np.cumsum(mask, 1) - 1, 0)[:, past:]
    inputs = {
        "input_ids": ids.astype(np.int64),
        "attention_mask": mask,
        "position_ids": positions,
        "beam_idx": np.arange(ids.shape[0], dtype=np.int32),
    }
    return request.infer(inputs)["logits"].copy()
