"""A checkpoint by name: a folder as it is, or weights, tokenizer and json from a hub; never code."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from baichuan_intel.checkpoint import huggingface, modelscope
from baichuan_intel.errors import HubError

_HUBS = {"huggingface": huggingface, "modelscope": modelscope}
_SAFETENSORS = ("*.safetensors", "*.safetensors.index.json")
_TORCH_BIN = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
_SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A checkpoint folder and where it came from.

    ``repo`` and ``revision`` are None for a local folder. ``revision`` is the commit hash on
    Hugging Face, the branch or tag on ModelScope. ``sha256`` holds the verified hash, by file name
    in ``folder``, of each file whose hash the hub told; it is empty offline.
    """

    folder: Path
    repo: str | None = None
    revision: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)


def fetch(
    source: str | Path,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    hub: str = "huggingface",
    offline: bool = False,
) -> Fetched:
    """The folder of ``source``: a path that exists, or a repo id ``org/name`` to download.

    Downloads go to the hub library's own cache and are compared with the hub's sha256. With
    ``offline``, or with HF_HUB_OFFLINE set, only the cache is used, of either hub.

    Raises:
        HubError: neither a folder nor a repo; no access; no network; a file with the wrong hash.
        MissingDependencyError: the hub's library is not installed.
    """
    local = Path(os.path.expanduser(source))
    _check_names(revision, subfolder)
    if source and os.path.exists(local):
        if revision:
            raise HubError(f"{source} is a local folder, which has no revision: leave {revision!r} out")
        return Fetched(folder=local / (subfolder or ""))
    repo = str(source)
    _check_repo(repo)
    service = _HUBS.get(hub)
    if service is None:
        raise HubError(f"no hub {hub!r}: use one of {', '.join(_HUBS)}")
    if offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        root, revision = service.cached(repo, revision)
        folder = root / (subfolder or "")
        if not os.path.isfile(folder / "config.json"):
            raise HubError(f"the cached copy of {repo} is incomplete: download it once without offline mode")
        return Fetched(folder=folder, repo=repo, revision=revision)

    listed, files = service.listing(repo, revision)
    wanted = {path: files[path] for path in _wanted(files, repo, subfolder)}
    root, downloaded = service.download(repo, revision, wanted)
    if downloaded != listed:
        raise HubError(f"{repo} was changed on {service.NAME} during the download: start it again")
    hashes = {path: sha256 for path, sha256 in wanted.items() if sha256}
    _verify(root, hashes, repo)
    return Fetched(
        folder=root / (subfolder or ""),
        repo=repo,
        revision=downloaded,
        sha256={PurePosixPath(path).name: sha256 for path, sha256 in hashes.items()},
    )


def _check_names(revision: str | None, subfolder: str | None) -> None:
    """Both become parts of paths and addresses."""
    for what, value in (("revision", revision), ("subfolder", subfolder)):
        if value is not None and not re.fullmatch(rf"{_PART}(/{_PART})*", value):
            raise HubError(
                f"{what} {value!r} is not a name, or names joined by '/': give it as the hub shows it"
            )


def _check_repo(repo: str) -> None:
    if re.fullmatch(f"{_PART}/{_PART}", repo) and ".." not in repo and "--" not in repo:
        return
    raise HubError(
        f"{repo!r} is neither a folder that exists nor a repo id: give the path of a checkpoint, "
        "or an id such as baichuan-inc/Baichuan2-7B-Chat"
    )


def _wanted(files: Iterable[str], repo: str, subfolder: str | None) -> list[str]:
    """The files to download out of a listing: directly in ``subfolder``, on the list, one kind of weights."""
    parent = PurePosixPath(subfolder or "")
    here = (f for f in files if PurePosixPath(f).parent == parent)
    # A name that is not plain could leave the folder on some system; no checkpoint has one.
    names = {PurePosixPath(f).name: f for f in here if re.fullmatch(_PART, PurePosixPath(f).name)}
    has_safetensors = "model.safetensors" in names or "model.safetensors.index.json" in names
    weights = [n for n in names if _matches(n, _SAFETENSORS if has_safetensors else _TORCH_BIN)]
    if not weights or "config.json" not in names:
        where = f"{repo} (subfolder {subfolder})" if subfolder else repo
        raise HubError(
            f"{where} holds no checkpoint (config.json and weights): check the repo and its subfolders"
        )
    return sorted(names[n] for n in names if n in weights or n in _SMALL)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _verify(root: Path, hashes: Mapping[str, str], repo: str) -> None:
    """Compares each file with the hub's sha256, several at once; removes one that differs."""
    with ThreadPoolExecutor() as pool:
        found = dict(zip(hashes, pool.map(lambda path: _sha256(root / path), hashes), strict=True))
    wrong = [path for path, sha256 in hashes.items() if found[path] != sha256]
    for path in wrong:
        # In the cache of Hugging Face a link to the bytes: both, or a retry finds the bytes again.
        (root / path).resolve().unlink(missing_ok=True)
        (root / path).unlink(missing_ok=True)
    if wrong:
        raise HubError(
            f"{repo}: {wrong[0]!r} does not have the sha256 that the hub promises, and was removed: "
            "download it again"
        )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
