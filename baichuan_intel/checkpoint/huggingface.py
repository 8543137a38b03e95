"""The Hugging Face hub, through huggingface_hub: what a repo holds, and files out of it."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from baichuan_intel.errors import HubError, MissingDependencyError

NAME = "Hugging Face"


def listing(repo: str, revision: str | None) -> tuple[str, dict[str, str | None]]:
    """The commit hash of ``revision``, and the repo's files with their sha256 (large files only).

    Raises:
        HubError: no such repo or revision, no access to it, or the hub does not answer.
    """
    hub = _library()
    try:
        info = hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
        files = {f.rfilename: f.lfs.sha256 if f.lfs else None for f in info.siblings or ()}
    except Exception as error:  # the library passes on its HTTP client's own errors
        raise HubError(_explained(hub, error, repo, revision)) from error
    if not info.sha:
        raise HubError(f"{NAME} gave no commit hash for {repo}: check HF_ENDPOINT")
    return info.sha, files


def download(repo: str, revision: str | None, files: Iterable[str]) -> tuple[Path, str]:
    """Downloads ``files`` into the hub's cache; gives the snapshot's folder and its commit hash.

    A connection that breaks is continued where it broke, by the library; files that are there are
    not asked for again. A file that was cut off by the end of the process starts anew.

    Raises:
        HubError: no access, no network, or no space on the disk.
    """
    hub = _library()
    try:
        # The name of the branch, not the hash: only so is it remembered for offline use.
        folder = hub.snapshot_download(repo, revision=revision, allow_patterns=list(files))
    except Exception as error:
        raise HubError(_explained(hub, error, repo, revision)) from error
    return Path(folder), Path(folder).name


def cached(repo: str, revision: str | None) -> tuple[Path, str]:
    """The snapshot that an earlier `download` left, without the network.

    Raises:
        HubError: there is none.
    """
    hub = _library()
    try:
        folder = hub.snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[])
    except hub.errors.LocalEntryNotFoundError as error:
        raise HubError(
            f"{repo} is not in the cache of {NAME}: download it once without offline mode"
        ) from error
    return Path(folder), Path(folder).name


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise MissingDependencyError("huggingface_hub", "hub", f"downloading from {NAME}") from None
    return huggingface_hub


def _explained(hub: Any, error: Exception, repo: str, revision: str | None) -> str:
    errors = hub.errors
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: accept its terms on its page at {NAME}, then run 'hf auth login'"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{NAME} has no {repo}, or it is private: check the spelling, or run 'hf auth login'"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}: look at its branches and tags at {NAME}"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        mend = "run 'hf auth login'" if status in (401, 403) else "try again later"
        return f"{NAME} answered {status} for {repo}: {mend}"
    if getattr(error, "errno", None) == errno.ENOSPC:
        return f"the disk is full while downloading {repo}: free space, or set HF_HOME to another disk"
    reason = " ".join(str(error).split())[:200]
    return (
        f"{NAME} cannot be reached for {repo} ({type(error).__name__}: {reason}): check the network and "
        "HF_ENDPOINT, use ModelScope, or set HF_HUB_OFFLINE=1 to use what was downloaded before"
    )
