"""What the command line prints: tables for people, plain values for --json."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

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
    return Console(stderr=True).status(message)


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
    """A short table of an artifact's facts, on stdout."""
    manifest, config = artifact.manifest, artifact.config
    source = manifest.source
    origin = f"{source.repo} at {source.revision}" if source.repo else source.folder
    table = _facts()
    table.add_row("folder", str(artifact.folder))
    table.add_row("from", origin)
    table.add_row("model", _model_line(config))
    table.add_row("recipe", manifest.recipe.name)
    table.add_row("size", f"{manifest.total_bytes / 1e9:.3f} GB in {len(manifest.files)} files")
    table.add_row("context", f"{config.model_max_length} tokens")
    table.add_row("made", f"{manifest.created} with {_versions(manifest.versions)}")
    _console().print(table)


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
    console = _console()
    console.print(table)
    for finding in missing:
        console.print(f"{finding.device}: {finding.problem}; {finding.mend}", soft_wrap=True, markup=False)


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
        f"Baichuan {config.generation}, {config.parameters / 1e9:.2f} B parameters, "
        f"{config.num_hidden_layers} layers of {config.hidden_size}, {kind}"
    )


def _versions(versions: Mapping[str, str]) -> str:
    names = ("baichuan_intel", "openvino")
    return ", ".join(f"{name} {versions[name]}" for name in names if name in versions)


def _facts() -> Table:
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def _console() -> Console:
    return Console(highlight=False)
