"""What the command line prints: tables for people, plain values for --json."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from baichuan_intel.artifact.store import Artifact
    from baichuan_intel.backends.base import Device, Generation
    from baichuan_intel.hardware.drivers import Finding


def plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as what json can write."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def status(message: str) -> AbstractContextManager[Any]:
    """A spinner on stderr while something takes long; silent where stderr is no terminal."""
    return Console(stderr=True).status(Text(message))


def artifact_facts(artifact: Artifact) -> dict[str, Any]:
    """What `info --json` prints."""
    manifest, config = artifact.manifest, artifact.config
    return {
        "folder": str(artifact.folder),
        "recipe": manifest.recipe.name,
        "parameters": config.parameters,
        "bytes": manifest.total_bytes,
        "artifact_hash": manifest.artifact_hash,
        **plain(manifest),
    }


def artifact(artifact: Artifact) -> None:
    """An artifact's facts, on stdout."""
    manifest, config = artifact.manifest, artifact.config
    source = manifest.source
    facts = {
        "folder": str(artifact.folder),
        "from": f"{source.repo} at {source.revision}" if source.repo else source.folder,
        "model": _model_line(config),
        "recipe": manifest.recipe.name,
        "size": f"{_amount(manifest.total_bytes)}B in {len(manifest.files)} files",
        "context": f"{config.model_max_length} tokens",
        "made": f"{manifest.created} with {_versions(manifest.versions)}",
    }
    for name, value in facts.items():
        print(f"{name:<8} {value}")


def devices(found: Iterable[Device], missing: Iterable[Finding]) -> None:
    """The devices, then what is missing and its mend."""
    table = Table(box=None, header_style="bold")
    for header in ("device", "name", "architecture", "memory", "capabilities"):
        table.add_column(header)
    for device in found:
        memory = "" if device.memory_bytes is None else f"{device.memory_bytes / 1e9:.1f} GB"
        table.add_row(
            device.name, device.full_name, device.architecture or "", memory, " ".join(device.capabilities)
        )
    # Names from drivers are text, not rich's markup.
    Console(highlight=False, markup=False, emoji=False).print(table)
    for finding in missing:
        print(f"{finding.device}: {finding}")


def generation_facts(answer: Generation) -> dict[str, Any]:
    """An answer with its derived rates."""
    return {
        **plain(answer),
        "new_tokens": answer.new_tokens,
        "prefill_tokens_per_s": answer.prefill_tokens_per_s,
        "decode_tokens_per_s": answer.timing.decode_tokens_per_s,
    }


def speeds(answer: Generation) -> None:
    """One line on stderr: what the answer cost."""
    print(speed_line(answer), file=sys.stderr)


def speed_line(answer: Generation) -> str:
    """Tokens, time to first token, decode rate, memory."""
    rate = answer.timing.decode_tokens_per_s
    parts = [
        f"{answer.prompt_tokens} prompt + {answer.new_tokens} new tokens",
        f"first token {answer.timing.first_token_s * 1000:.0f} ms",
        f"{rate:.1f} tokens/s" if rate else "",
        f"load {answer.timing.load_s:.2f} s",
        f"memory {answer.memory.rss / 1e9:.2f} GB",
        answer.finish_reason,
    ]
    return "[" + ", ".join(part for part in parts if part) + "]"


def _model_line(config: Any) -> str:
    kind = "rotary" if config.position_embedding == "rope" else "ALiBi"
    return (
        f"Baichuan {config.generation}, {_amount(config.parameters)} parameters, "
        f"{config.num_hidden_layers} layers of {config.hidden_size}, {kind}"
    )


def _versions(versions: Mapping[str, str]) -> str:
    names = ("baichuan_intel", "openvino")
    return ", ".join(f"{name} {versions[name]}" for name in names if name in versions)


def _amount(number: float) -> str:
    """Three digits and a unit: 7.51 G, 2.70 M."""
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} G"
