"""Artifacts that several tests read, converted once a session."""

from __future__ import annotations

import pytest

from baichuan_intel.convert import convert
from factory import Checkpoint, make_config, random_weights, write_checkpoint


@pytest.fixture(scope="session")
def converted(tmp_path_factory, rope_checkpoint, alibi_checkpoint):
    """``converted(kind, recipe)`` is the artifact of the session's random checkpoint of that kind."""
    sources = {"rope": rope_checkpoint, "alibi": alibi_checkpoint, "long-rope": None, "long-alibi": None}
    done = {}

    def source(kind: str) -> Checkpoint:
        if sources[kind] is None:
            config = make_config(kind.removeprefix("long-"), model_max_length=8192)
            weights = random_weights(config, seed=1)
            folder = write_checkpoint(tmp_path_factory.mktemp(kind), config, weights)
            sources[kind] = Checkpoint(folder, config, weights)
        return sources[kind]

    def get(kind: str, recipe: str):
        if (kind, recipe) not in done:
            out = tmp_path_factory.mktemp("artifacts") / f"{kind}-{recipe}"
            done[kind, recipe] = convert(source(kind).folder, out, recipe=recipe, progress=False)
        return done[kind, recipe], source(kind)

    return get
