from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baichuan_intel.artifact.manifest import FileRecord, Manifest, Source
from baichuan_intel.artifact.names import check_name
from baichuan_intel.artifact.provenance import creation_time, tool_versions
from baichuan_intel.artifact.source import describe_source
from baichuan_intel.errors import ArtifactError, ArtifactVersionError

A, B = "a" * 64, "b" * 64
FILES = {"b.bin": FileRecord(bytes=7, sha256=B), "config.json": FileRecord(bytes=2, sha256=A)}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
# The manifest fixture is frozen, so one for all examples is right.
shared = settings(
    max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def test_json_round_trip(manifest: Manifest) -> None:
    whole = dataclasses.replace(manifest, files=FILES, quality={"perplexity": 6.5, "文本": ["唐诗"]})
    assert Manifest.from_json(whole.to_json()) == whole


def test_json_is_what_the_docs_show(manifest: Manifest) -> None:
    text = dataclasses.replace(manifest, files=FILES, quality={"文本": "唐诗"}).to_json()
    raw = json.loads(text)
    assert raw["schema_version"] == 1
    assert raw["recipe"]["name"] == "int4-sym-g128"
    assert raw["recipe"]["group_size"] == 128
    assert raw["config"]["position_embedding"] == "alibi"
    assert raw["files"]["config.json"] == {"bytes": 2, "sha256": A}
    assert raw["source"]["files"]["pytorch_model-00001-of-00002.bin"] == {"bytes": 9934625895, "sha256": None}
    assert "唐诗" in text
    assert text == json.dumps(raw, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def test_json_does_not_depend_on_the_order_of_files(manifest: Manifest) -> None:
    one = dataclasses.replace(manifest, files=FILES)
    other = dataclasses.replace(manifest, files=dict(reversed(FILES.items())))
    assert one.to_json() == other.to_json()
    assert one.artifact_hash == other.artifact_hash


def test_artifact_hash_known_value(manifest: Manifest) -> None:
    # printf 'b.bin\0bb…\nconfig.json\0aa…\n' | sha256sum
    expected = "715c42143641cd3106ba1d865196a0a9bdc31dc50e2493560f041029bcec1b36"
    assert dataclasses.replace(manifest, files=FILES).artifact_hash == expected


@pytest.mark.parametrize(
    "files",
    [
        {**FILES, "b.bin": FileRecord(bytes=7, sha256=A)},
        {"c.bin": FILES["b.bin"], "config.json": FILES["config.json"]},
        {"b.bin": FILES["b.bin"]},
    ],
)
def test_artifact_hash_follows_names_and_content(manifest: Manifest, files: dict[str, FileRecord]) -> None:
    one = dataclasses.replace(manifest, files=FILES).artifact_hash
    assert dataclasses.replace(manifest, files=files).artifact_hash != one


def test_total_bytes(manifest: Manifest) -> None:
    assert dataclasses.replace(manifest, files=FILES).total_bytes == 9


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "openvino_model.bin",
        "模型.bin",
        ".hidden",
        "a b.txt",
        "console.txt",
        "com10",
        "..a",
        "x" * 255,
    ],
)
def test_safe_names(name: str) -> None:
    check_name("files", name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "\\\\server\\x", "C:x", "C:\\x", "x:stream"),
        *(
            "nul",
            "NUL.txt",
            "con .txt",
            "COM1",
            "lpt9.bin",
            "COM¹",
            "a.",
            "a ",
            "a*",
            "a?",
            'a"',
            "<a",
            "a|b",
        ),
        *("a\0b", "a\nb", "\x1b[2J", "\ud800", "a\u202eb", "x" * 256, 3, None),
    ],
)
def test_unsafe_names(manifest: Manifest, name: Any) -> None:
    with pytest.raises(ArtifactError, match="not a safe file name"):
        check_name("files", name)
    with pytest.raises(ArtifactError):
        dataclasses.replace(manifest, files={name: FILES["b.bin"]})
    with pytest.raises(ArtifactError):
        Source(folder="x", files={name: FILES["b.bin"]})


def test_the_manifest_does_not_list_itself(manifest: Manifest) -> None:
    with pytest.raises(ArtifactError, match="itself"):
        dataclasses.replace(manifest, files={"baichuan_intel.json": FILES["b.bin"]})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("backend", 3, "backend is 3"),
        ("backend", "a\nb", "backend"),
        ("schema_version", "1", "schema_version"),
        ("schema_version", True, "schema_version"),
        ("schema_version", 0, "schema_version"),
        ("source", [], "source is a list"),
        ("source.repo", 1, "source.repo"),
        ("source.files", None, "source.files"),
        ("source.path", "/x", "unknown"),
        ("config", "x", "config is a str"),
        ("config.hidden_size", "256", "hidden_size"),
        ("config.rope_theta", 10**400, "rope_theta"),
        ("config.x", 1, "unknown"),
        ("recipe", None, "recipe"),
        ("recipe.bits", 3, "bits is 3"),
        ("recipe.x", 3, "unknown"),
        ("recipe.name", None, "recipe.name"),
        ("versions", ["1"], "versions"),
        ("versions.python", 3.11, "versions.python"),
        ("created", "yesterday", "created"),
        ("created", None, "created"),
        ("files", [], "files is a list"),
        ("files.a", "x", "files.a is a str"),
        ("files.a", {"bytes": -1, "sha256": A}, "bytes are -1"),
        ("files.a", {"bytes": True, "sha256": A}, "bytes are True"),
        ("files.a", {"bytes": 1.0, "sha256": A}, "bytes are 1.0"),
        ("files.a", {"bytes": 1, "sha256": A.upper()}, "sha256"),
        ("files.a", {"bytes": 1, "sha256": A[1:]}, "sha256"),
        ("files.a", {"bytes": 1, "sha256": None}, "no sha256"),
        ("files.a", {"bytes": 1}, "lacks"),
        ("files.a", {"bytes": 1, "sha256": A, "mode": 1}, "unknown"),
        ("quality", 3, "quality"),
        ("extra", 1, "unknown"),
    ],
)
def test_wrong_values_are_refused(manifest: Manifest, path: str, value: Any, message: str) -> None:
    raw = json.loads(manifest.to_json())
    *parents, last = path.split(".")
    inner = raw
    for key in parents:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(ArtifactError, match=message) as caught:
        Manifest.from_json(json.dumps(raw))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["backend", "source", "config", "recipe", "versions", "created", "files", "quality"]
)
def test_missing_keys_are_refused(manifest: Manifest, key: str) -> None:
    raw = json.loads(manifest.to_json())
    del raw[key]
    with pytest.raises(ArtifactError, match=f"lacks.*{key}"):
        Manifest.from_json(json.dumps(raw))


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", '"\\ud800"', "[" * 100_000])
def test_what_could_not_be_written_again_is_refused(manifest: Manifest, value: str) -> None:
    text = manifest.to_json().replace('"quality": null', f'"quality": {{"x": {value}}}')
    with pytest.raises(ArtifactError, match="not JSON"):
        Manifest.from_json(text)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "9" * 5000])
def test_text_that_is_no_manifest(text: str) -> None:
    with pytest.raises(ArtifactError):
        Manifest.from_json(text)


def test_unfinished() -> None:
    with pytest.raises(ArtifactError, match="did not finish"):
        Manifest.from_json("{}")


def test_newer_schema_names_its_writer_before_anything_else() -> None:
    raw = {"schema_version": 2, "versions": {"baichuan_intel": "7.8.9"}, "a key of the future": None}
    with pytest.raises(ArtifactVersionError, match=r"7\.8\.9 with schema 2.*reads up to 1.*--upgrade"):
        Manifest.from_json(json.dumps(raw))


@pytest.mark.parametrize("versions", [None, [], {}, {"baichuan_intel": 3}, {"baichuan_intel": "1\n\x1b[2J"}])
def test_newer_schema_of_an_unknown_writer(versions: Any) -> None:
    with pytest.raises(ArtifactVersionError, match="of unknown version") as caught:
        Manifest.from_json(json.dumps({"schema_version": 10**30, "versions": versions}))
    assert str(caught.value).isprintable()


def test_quality_must_be_json(manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        dataclasses.replace(manifest, quality={"perplexity": float("nan")}).to_json()


def test_write_and_read(manifest: Manifest, tmp_path: Path) -> None:
    manifest.write(tmp_path)
    newer = dataclasses.replace(manifest, quality={"perplexity": 6.7})
    newer.write(tmp_path)
    assert Manifest.read(tmp_path) == newer
    assert [file.name for file in tmp_path.iterdir()] == ["baichuan_intel.json"]
    assert b"\r" not in (tmp_path / "baichuan_intel.json").read_bytes()


@pytest.mark.parametrize("data", [b"\xff\xfe", b"{", None])
def test_read_names_the_file(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "baichuan_intel.json").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"baichuan_intel\.json"):
        Manifest.read(tmp_path)


def test_read_refuses_a_huge_file(tmp_path: Path) -> None:
    with open(tmp_path / "baichuan_intel.json", "wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(ArtifactError, match="16 MiB"):
        Manifest.read(tmp_path)


@given(text=st.text())
@shared
def test_any_text_gives_an_artifact_error(text: str) -> None:
    with pytest.raises(ArtifactError):
        Manifest.from_json(text)


@given(data=st.data())
@shared
def test_any_change_is_refused_or_understood(manifest: Manifest, data: st.DataObject) -> None:
    """A value or key anywhere in a manifest is replaced: ArtifactError, or a manifest that is whole."""
    raw = json.loads(dataclasses.replace(manifest, files=FILES).to_json())
    places: list[tuple[dict[str, Any], str]] = []

    def collect(node: dict[str, Any]) -> None:
        for key, value in node.items():
            places.append((node, key))
            if isinstance(value, dict):
                collect(value)

    collect(raw)
    node, key = data.draw(st.sampled_from(places))
    value = data.draw(JSON)
    if data.draw(st.booleans()):
        node[data.draw(st.text())] = node.pop(key)
    else:
        node[key] = value
    before = copy.deepcopy(raw)
    understood, error = None, ""
    try:
        understood = Manifest.from_json(json.dumps(raw))
    except ArtifactError as refusal:
        error = str(refusal)
    assert "\n" not in error
    assert len(error) < 500
    if understood:
        after = json.loads(understood.to_json())
        before["recipe"]["name"] = after["recipe"]["name"]
        assert after == before


def test_tool_versions_are_those_of_the_modules() -> None:
    import platform

    import numpy

    import baichuan_intel

    versions = tool_versions()
    assert versions["numpy"] == numpy.__version__
    assert versions["python"] == platform.python_version()
    assert versions["baichuan_intel"] == baichuan_intel.__version__
    assert versions.keys() >= {"openvino", "openvino_genai", "openvino_tokenizers"}


def test_new_fills_in_versions_and_time(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = Manifest.new("openvino", manifest.source, manifest.config, manifest.recipe)
    assert made.created == "2023-11-14T22:13:20Z"
    assert made.versions == tool_versions()
    assert made.quality is None
    assert Manifest.from_json(made.to_json()) == made


def test_creation_time_is_now_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import datetime, timedelta, timezone

    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    now = datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0)
    made = datetime.strptime(creation_time(), "%Y-%m-%dT%H:%M:%SZ")
    assert timedelta(0) <= made - now < timedelta(minutes=5)


@pytest.mark.parametrize("epoch", ["tomorrow", "1.5", "9" * 30])
def test_bad_source_date_epoch(monkeypatch: pytest.MonkeyPatch, epoch: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(ArtifactError, match="SOURCE_DATE_EPOCH"):
        creation_time()


def test_describe_source(tmp_path: Path) -> None:
    import hashlib

    folder = tmp_path / "Baichuan2\x1b模型"
    folder.mkdir()
    small, large = folder / "config.json", folder / "model.safetensors"
    small.write_bytes(b"{}")
    with open(large, "wb") as file:
        file.truncate((64 << 20) + 1)
    source = describe_source(folder, [small, large], repo="a/b", revision="main")
    assert source.folder == "Baichuan2?模型"
    assert (source.repo, source.revision) == ("a/b", "main")
    assert source.files["config.json"] == FileRecord(bytes=2, sha256=hashlib.sha256(b"{}").hexdigest())
    assert source.files["model.safetensors"] == FileRecord(bytes=(64 << 20) + 1)


def test_a_hash_that_is_known_is_recorded_unread(tmp_path: Path) -> None:
    large = tmp_path / "model.safetensors"
    with open(large, "wb") as file:
        file.truncate((64 << 20) + 1)
    source = describe_source(tmp_path, [large], sha256={large.name: "ab" * 32, "other": "cd" * 32})
    assert source.files == {large.name: FileRecord(bytes=(64 << 20) + 1, sha256="ab" * 32)}
