from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from baichuan_intel.artifact.manifest import FileRecord, Manifest, Source
from baichuan_intel.artifact.store import seal, writing
from baichuan_intel.lowbit.recipe import Recipe
from baichuan_intel.model.config import BaichuanConfig

CONTENT = {"config.json": b"{}", "openvino_model.bin": bytes(range(256)) * 40}
Make = Callable[..., Path]


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        backend="openvino",
        source=Source(
            folder="Baichuan2-7B-Chat",
            repo="baichuan-inc/Baichuan2-7B-Chat",
            revision="ea66ced17780ca3db39bc9f8aa601d8463db3da5",
            files={"pytorch_model-00001-of-00002.bin": FileRecord(bytes=9_934_625_895)},
        ),
        config=BaichuanConfig(
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=1000,
            position_embedding="alibi",
            norm_head=True,
        ),
        recipe=Recipe.named("int4-sym-g128"),
        versions={"baichuan_intel": "0.1.0", "python": "3.11.7"},
        created="2026-11-23T12:00:00Z",
    )


@pytest.fixture
def make(manifest: Manifest) -> Make:
    """Writes an artifact of ``content`` at ``out``."""

    def write(
        out: Path,
        content: Mapping[str, bytes] = CONTENT,
        *,
        overwrite: bool = False,
        backend: str = "openvino",
    ) -> Path:
        with writing(out, overwrite=overwrite) as partial:
            for name, data in content.items():
                (partial / name).write_bytes(data)
            seal(partial, dataclasses.replace(manifest, backend=backend))
        return out

    return write
