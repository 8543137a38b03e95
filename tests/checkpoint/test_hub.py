"""Downloads, against a local server that speaks the hubs' interfaces."""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path

import pytest
from checkpoint.hub_server import HubServer, Repo

from baichuan_intel.checkpoint.hub import fetch
from baichuan_intel.errors import HubError, MissingDependencyError

ID = "baichuan-inc/Baichuan2-7B-Chat"
NEW, OLD = "a" * 40, "b" * 40
BOTH = ("huggingface", "modelscope")
CACHE = {"huggingface": "hf", "modelscope": "ms"}


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


FILES = {
    "config.json": b'{"model_type": "baichuan"}',
    "generation_config.json": b"{}",
    "tokenizer.model": noise(1000),
    "tokenizer_config.json": b"{}",
    "special_tokens_map.json": b"{}",
    "model-00001-of-00002.safetensors": noise(300_000, 1),
    "model-00002-of-00002.safetensors": noise(200_000, 2),
    "model.safetensors.index.json": b"{}",
    "pytorch_model.bin": noise(500, 3),
    "pytorch_model.bin.index.json": b"{}",
    "modeling_baichuan.py": b"raise SystemExit",
    "tokenization_baichuan.py": b"raise SystemExit",
    "handler.py": b"raise SystemExit",
    "README.md": b"# hello",
    "sub/model.safetensors": noise(100, 4),
    "sub/config.json": b"{}",
    "sub/deeper/model.safetensors": noise(100, 5),
}
FIRST = "model-00001-of-00002.safetensors"
CHOSEN = {n for n in FILES if "/" not in n and n.endswith((".json", ".safetensors", ".model"))} - {
    "pytorch_model.bin.index.json"
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """A running hub with one repo, both libraries pointed at it, their caches in tmp_path."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    hub = HubServer().start()
    commits = {NEW: dict(FILES), OLD: FILES | {FIRST: noise(300_000, 9)}}
    hub.repos[ID] = Repo(commits, {"main": NEW, "master": NEW, "v1": OLD})
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / CACHE["huggingface"]))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(
        constants, "DOWNLOAD_CHUNK_SIZE", 64
    )  # what is kept of a broken download is whole chunks
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    disable_progress_bars()
    _point_modelscope(hub.url, tmp_path, monkeypatch)
    yield hub
    hub.stop()


def _point_modelscope(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelscope_hub import HubConfig, _download, _legacy_api, config

    monkeypatch.setattr(
        config, "_default_config", HubConfig(url, tmp_path / CACHE["modelscope"], tmp_path / "home", token="")
    )
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "false")
    monkeypatch.setattr(_download, "DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0)
    monkeypatch.setattr(_legacy_api, "REPO_TREE_PAGE_MAX_ATTEMPTS", 1)


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def failure(*args, **kw) -> str:
    with pytest.raises(HubError) as caught:
        fetch(*args, **kw)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("hub", BOTH)
def test_a_download_takes_the_listed_files_and_no_code(server: HubServer, hub: str) -> None:
    fetched = fetch(ID, hub=hub)
    assert names(fetched.folder) == CHOSEN
    assert all((fetched.folder / name).read_bytes() == FILES[name] for name in CHOSEN)
    assert not [path for _, path, _ in server.requests if path.endswith((".py", ".bin", ".md"))]
    assert (fetched.repo, fetched.revision) == (ID, NEW if hub == "huggingface" else "master")
    assert fetched.sha256[FIRST] == hashlib.sha256(FILES[FIRST]).hexdigest()


@pytest.mark.parametrize("hub", BOTH)
def test_bin_files_are_taken_where_there_are_no_safetensors(server: HubServer, hub: str) -> None:
    files = {n: b for n, b in FILES.items() if "model-" not in n and n != "model.safetensors.index.json"}
    server.repos[ID].commits[NEW] = files | {"adapter_model.safetensors": b"x"}
    found = names(fetch(ID, hub=hub).folder)
    assert {"pytorch_model.bin", "pytorch_model.bin.index.json", "config.json"} <= found
    assert not {n for n in found if n.endswith((".py", ".safetensors"))}


@pytest.mark.parametrize("hub", BOTH)
def test_a_subfolder_is_a_checkpoint_of_its_own(server: HubServer, hub: str) -> None:
    fetched = fetch(ID, hub=hub, subfolder="sub")
    assert names(fetched.folder) == {"config.json", "model.safetensors"}
    assert fetched.folder.name == "sub"
    assert set(fetched.sha256) >= {"model.safetensors"}
    assert "holds no checkpoint" in failure(ID, hub=hub, subfolder="sub/deeper")


@pytest.mark.parametrize("hub", BOTH)
def test_a_revision_is_downloaded_and_recorded(server: HubServer, hub: str) -> None:
    fetched = fetch(ID, hub=hub, revision="v1")
    assert (fetched.folder / FIRST).read_bytes() == noise(300_000, 9)
    assert fetched.revision == (OLD if hub == "huggingface" else "v1")
    assert "nightly" in failure(ID, hub=hub, revision="nightly")


@pytest.mark.parametrize("hub", BOTH)
def test_a_broken_connection_is_resumed_where_it_broke(server: HubServer, hub: str) -> None:
    server.drop_once[FIRST] = 123_456  # a multiple of 64
    fetched = fetch(ID, hub=hub)
    assert (fetched.folder / FIRST).read_bytes() == FILES[FIRST]
    assert [r for r in server.asked_for(FIRST) if r] == ["bytes=123456-"]


@pytest.mark.parametrize("hub", BOTH)
def test_a_file_with_the_wrong_hash_is_refused_and_removed(
    server: HubServer, hub: str, tmp_path: Path
) -> None:
    wrong = noise(300_000, 7)
    server.served_instead[FIRST] = wrong
    assert FIRST in failure(ID, hub=hub)
    cached = [p for p in (tmp_path / CACHE[hub]).rglob("*") if p.is_file()]
    assert cached
    assert not [p for p in cached if p.read_bytes() == wrong]
    server.served_instead.clear()
    assert (fetch(ID, hub=hub).folder / FIRST).read_bytes() == FILES[FIRST]


def test_a_push_during_the_download_is_noticed(server: HubServer) -> None:
    server.pushed_after_listing["main"] = OLD
    assert "was changed on Hugging Face during the download" in failure(ID)


@pytest.mark.parametrize("hub", BOTH)
def test_a_second_fetch_asks_for_no_file_again(server: HubServer, hub: str) -> None:
    first = fetch(ID, hub=hub)
    server.requests.clear()
    assert fetch(ID, hub=hub) == first
    assert not server.asked_for(".safetensors")


@pytest.mark.parametrize("hub", BOTH)
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_offline_uses_the_cache_and_no_network(
    server: HubServer, hub: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = fetch(ID, hub=hub)
    server.requests.clear()
    if by == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fetched = fetch(ID, hub=hub, offline=by == "argument")
    assert (fetched.folder, fetched.repo, fetched.revision) == (online.folder, ID, online.revision)
    assert server.requests == []


@pytest.mark.parametrize("hub", BOTH)
def test_offline_without_a_cached_copy_says_so(server: HubServer, hub: str) -> None:
    assert "download it once without offline mode" in failure(ID, hub=hub, offline=True)
    fetch(ID, hub=hub, revision="v1")
    assert "is not in the cache" in failure(ID, hub=hub, offline=True)
    fetch(ID, hub=hub, subfolder="sub")
    assert "incomplete" in failure(ID, hub=hub, offline=True)


@pytest.mark.parametrize("hub", BOTH)
def test_an_unknown_repo_is_told_from_a_server_that_fails(server: HubServer, hub: str) -> None:
    assert "has no baichuan-inc/Baichuan9" in failure("baichuan-inc/Baichuan9", hub=hub)
    server.failing = True
    assert "answered 500" in failure(ID, hub=hub)


def test_a_gated_repo_says_how_to_get_access(server: HubServer) -> None:
    server.repos[ID].gated = True
    assert "hf auth login" in failure(ID)


@pytest.mark.parametrize("hub", BOTH)
def test_no_network_names_the_way_out(
    server: HubServer, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    _point_modelscope("http://127.0.0.1:9", tmp_path, monkeypatch)
    message = failure(ID, hub=hub)
    assert "cannot be reached" in message
    assert "HF_HUB_OFFLINE=1" in message


@pytest.mark.parametrize("hub", BOTH)
def test_a_listing_cannot_name_files_outside_the_folder(server: HubServer, hub: str, tmp_path: Path) -> None:
    hostile = [
        "../up.safetensors",
        "..\\back.safetensors",
        "/abs.safetensors",
        "C:drive.safetensors",
        "sub/../x.bin",
    ]
    server.repos[ID].commits[NEW] |= dict.fromkeys(hostile, b"evil")
    assert names(fetch(ID, hub=hub).folder) == CHOSEN
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.read_bytes() == b"evil"]


def test_a_folder_is_returned_as_it_is(tmp_path: Path) -> None:
    assert fetch(tmp_path) == fetch(str(tmp_path), offline=True)
    assert fetch(tmp_path).folder == tmp_path
    assert fetch(tmp_path).repo is None
    assert fetch(tmp_path, subfolder="step_1").folder == tmp_path / "step_1"
    assert "leave 'v1' out" in failure(tmp_path, revision="v1")


@pytest.mark.parametrize(
    "source",
    [
        "./missing",
        "/missing/folder",
        "~/missing",
        "C:\\missing",
        "a/b/c",
        "Baichuan2",
        "",
        "org/..",
        "-a/b",
        "a/b\0",
    ],
)
def test_neither_folder_nor_id_is_explained(source: str) -> None:
    assert "neither a folder that exists nor a repo id" in failure(source)


@pytest.mark.parametrize("name", ["../x", "/etc", "a//b", "a\\b", "", "a/../../b", "x\n"])
def test_a_revision_or_subfolder_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    assert "subfolder" in failure(tmp_path, subfolder=name)
    assert "revision" in failure(ID, revision=name)


def test_an_unknown_hub_is_refused() -> None:
    assert "huggingface, modelscope" in failure(ID, hub="github")


@pytest.mark.parametrize(
    ("hub", "module"), [("huggingface", "huggingface_hub"), ("modelscope", "modelscope_hub")]
)
def test_a_missing_library_prints_its_pip_line(
    hub: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    extra = "hub" if hub == "huggingface" else "modelscope"
    with pytest.raises(MissingDependencyError, match=rf'pip install "baichuan-intel\[{extra}\]"'):
        fetch(ID, hub=hub)
