"""baichuan_intel.json: what an artifact is made of, from what, by what."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from baichuan_intel.artifact.names import check_name, short
from baichuan_intel.artifact.provenance import CREATED_FORMAT, creation_time, tool_versions
from baichuan_intel.errors import ArtifactError, ArtifactVersionError, BaichuanError
from baichuan_intel.lowbit.recipe import Recipe
from baichuan_intel.model.config import BaichuanConfig

MANIFEST_NAME = "baichuan_intel.json"
# Raise it whenever a key is added, removed or changes its meaning: older versions then say so.
SCHEMA_VERSION = 1
_LIMIT_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file: its size in bytes and its SHA-256 in lower-case hex, None where it was not computed.

    Raises:
        ArtifactError: a value is of the wrong type or impossible.
    """

    bytes: int
    sha256: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.bytes, bool) or not isinstance(self.bytes, int) or self.bytes < 0:
            raise ArtifactError(f"a file's bytes are {short(self.bytes)}, expected a whole number from 0")
        if self.sha256 is not None and not _is_sha256(self.sha256):
            raise ArtifactError(f"a file's sha256 is {short(self.sha256)}, expected 64 lower-case hex digits")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The checkpoint that an artifact was made from.

    ``folder`` is the folder's name alone, never its path; ``repo`` and ``revision`` are the hub's,
    None for a local checkpoint; ``files`` are the checkpoint's files by name.

    Raises:
        ArtifactError: a value is of the wrong type, or a file name is unsafe.
    """

    folder: str
    repo: str | None = None
    revision: str | None = None
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_text("source.folder", self.folder)
        for name in ("repo", "revision"):
            if getattr(self, name) is not None:
                _check_text(f"source.{name}", getattr(self, name))
        _check_files("source.files", self.files)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of baichuan_intel.json.

    ``versions`` are the tools' (baichuan_intel, openvino, python, ...); ``created`` is UTC as
    2026-11-23T12:00:00Z; ``files`` every file of the artifact but the manifest, by name, filled in
    by `store.seal`; ``quality`` is what an evaluation measured, None before one.

    Raises:
        ArtifactError: a value is of the wrong type, or a file name is unsafe.
        ArtifactVersionError: the schema is newer than this version's.
    """

    backend: str
    source: Source
    config: BaichuanConfig
    recipe: Recipe
    versions: Mapping[str, str]
    created: str
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    quality: Mapping[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _check_schema(self.schema_version, self.versions)
        _check_text("backend", self.backend)
        _check_object("versions", self.versions)
        for tool, version in self.versions.items():
            _check_text("a tool's name", tool)
            _check_text(f"versions.{tool}", version)
        _check_created(self.created)
        _check_files("files", self.files)
        for name, record in self.files.items():
            if record.sha256 is None:
                raise ArtifactError(f"files.{name} has no sha256")
        if self.quality is not None:
            _check_object("quality", self.quality)

    @classmethod
    def new(cls, backend: str, source: Source, config: BaichuanConfig, recipe: Recipe) -> Manifest:
        """Of an artifact that is being made by this version, now; `store.seal` adds its files.

        Raises:
            ArtifactError: a value is wrong, or SOURCE_DATE_EPOCH is no time.
        """
        return cls(
            backend=backend,
            source=source,
            config=config,
            recipe=recipe,
            versions=tool_versions(),
            created=creation_time(),
        )

    @property
    def artifact_hash(self) -> str:
        """SHA-256, in hex, over the sorted names and hashes of ``files``: equal for equal content."""
        lines = sorted(f"{name}\0{record.sha256}\n" for name, record in self.files.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def total_bytes(self) -> int:
        """Size of all ``files``."""
        return sum(record.bytes for record in self.files.values())

    def to_json(self) -> str:
        """The manifest as text, the same for equal manifests.

        Raises:
            ValueError: ``quality`` holds NaN, Inf, or what JSON cannot say.
        """
        raw = {item.name: getattr(self, item.name) for item in fields(self)}
        raw |= {
            "source": asdict(self.source),
            "config": asdict(self.config),
            "recipe": {"name": self.recipe.name, **self.recipe.to_dict()},
            "files": {name: asdict(record) for name, record in self.files.items()},
        }
        return json.dumps(raw, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Back from `to_json`. Nothing is guessed: a missing or unknown key is an error.

        Raises:
            ArtifactError: not a manifest, or a value is wrong.
            ArtifactVersionError: written by a newer schema.
        """
        raw = _parse(text)
        if not raw:
            raise ArtifactError("the conversion did not finish: run baichuan-intel convert again")
        # First, because a newer schema may have other keys.
        _check_schema(raw.get("schema_version"), raw.get("versions"))
        _check_keys("the manifest", raw, cls)
        try:
            return cls(**{**raw, **_nested(raw)})
        except ArtifactError:
            raise
        # A config or recipe of values that its own type refuses.
        except (BaichuanError, TypeError, ValueError) as error:
            raise ArtifactError(str(error)[:200]) from None

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads the manifest of ``folder``.

        Raises:
            ArtifactError: missing, unreadable, or not a manifest; the message has the file's path.
            ArtifactVersionError: written by a newer schema.
        """
        file = folder / MANIFEST_NAME
        try:
            if file.stat().st_size > _LIMIT_BYTES:
                raise ArtifactError(f"{file} is over 16 MiB: not a manifest")
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{file} cannot be read ({error}): convert the checkpoint again") from None
        try:
            return cls.from_json(text)
        except ArtifactError as error:
            raise type(error)(f"{file}: {error}") from None

    def write(self, folder: Path) -> None:
        """Writes the manifest into ``folder``: a reader sees the old one or the new one, whole.

        Raises:
            OSError: it cannot be written.
            ValueError: see `to_json`.
        """
        temporary = folder / f"{MANIFEST_NAME}.tmp"
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(self.to_json())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / MANIFEST_NAME)


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _check_text(what: str, value: object) -> None:
    if not (isinstance(value, str) and value and value.isprintable()):
        raise ArtifactError(f"{what} is {short(value)}, expected a line of text")


def _check_object(what: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise ArtifactError(f"{what} is a {type(value).__name__}, expected an object")


def _check_files(what: str, files: Mapping[str, FileRecord]) -> None:
    _check_object(what, files)
    for name in files:
        check_name(what, name)
        if name == MANIFEST_NAME:
            raise ArtifactError(f"{what} names {MANIFEST_NAME} itself")


def _check_created(created: object) -> None:
    try:
        datetime.strptime(created, CREATED_FORMAT)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ArtifactError(f"created is {short(created)}, expected a time as 2026-11-23T12:00:00Z") from None


def _check_schema(schema: object, versions: object) -> None:
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise ArtifactError(f"schema_version is {short(schema)}, expected a whole number from 1")
    if schema > SCHEMA_VERSION:
        writer = versions.get("baichuan_intel") if isinstance(versions, Mapping) else None
        known = isinstance(writer, str) and writer.isprintable() and len(writer) < 40
        raise ArtifactVersionError(
            f"written by baichuan-intel {writer if known else 'of unknown version'} "
            f"with schema {short(schema)}, this version reads up to {SCHEMA_VERSION}: "
            "pip install --upgrade baichuan-intel"
        )


def _check_keys(what: str, raw: Mapping[str, Any], kind: type) -> None:
    known = {item.name for item in fields(kind)}
    for problem, names in (("lacks", known - raw.keys()), ("has unknown", raw.keys() - known)):
        if names:
            raise ArtifactError(f"{what} {problem} {short(sorted(names))}")


def _parse(text: str) -> dict[str, Any]:
    try:
        raw = json.loads(text, parse_constant=_refuse_constant)
        # 1e999 is read as Inf, and lone surrogates can be neither shown nor written.
        json.dumps(raw, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not JSON ({error}): convert the checkpoint again") from None
    if not isinstance(raw, dict):
        raise ArtifactError(f"holds a {type(raw).__name__}, expected an object")
    return raw


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _nested(raw: Mapping[str, Any]) -> dict[str, Any]:
    source = raw["source"]
    for what in ("source", "config", "recipe"):
        _check_object(what, raw[what])
    _check_keys("source", source, Source)
    _check_keys("config", raw["config"], BaichuanConfig)
    # The name is for readers of the file: it follows from the values.
    _check_text("recipe.name", raw["recipe"].get("name"))
    recipe = {key: value for key, value in raw["recipe"].items() if key != "name"}
    _check_keys("recipe", recipe, Recipe)
    return {
        "source": Source(**{**source, "files": _records("source.files", source["files"])}),
        "config": BaichuanConfig(**raw["config"]),
        "recipe": Recipe.from_dict(recipe),
        "files": _records("files", raw["files"]),
    }


def _records(what: str, raw: Any) -> dict[str, FileRecord]:
    _check_object(what, raw)
    for name, record in raw.items():
        check_name(what, name)
        _check_object(f"{what}.{name}", record)
        _check_keys(f"{what}.{name}", record, FileRecord)
    return {name: FileRecord(**record) for name, record in raw.items()}
