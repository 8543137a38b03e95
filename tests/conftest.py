"""Checkpoints shared by the tests of a session."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

from factory import Checkpoint, make_config, random_weights, write_checkpoint

torch.set_num_threads(2)
# The same examples at every run, and no clock.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")


def _checkpoint(folder, config) -> Checkpoint:
    weights = random_weights(config)
    return Checkpoint(write_checkpoint(folder, config, weights), config, weights)


@pytest.fixture(scope="session")
def rope_checkpoint(tmp_path_factory) -> Checkpoint:
    """Of the 7B kind."""
    return _checkpoint(tmp_path_factory.mktemp("rope"), make_config("rope"))


@pytest.fixture(scope="session")
def alibi_checkpoint(tmp_path_factory) -> Checkpoint:
    """Of the 13B kind; 6 heads, so that the slopes are interleaved as for 40."""
    config = make_config("alibi", hidden_size=384, num_attention_heads=6)
    return _checkpoint(tmp_path_factory.mktemp("alibi"), config)
