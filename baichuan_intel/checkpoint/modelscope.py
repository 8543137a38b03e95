"""The ModelScope hub, through modelscope-hub: what a repo holds, and files out of it.

That package is the download client that `modelscope` itself calls, without the rest of it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from baichuan_intel.errors import HubError, MissingDependencyError

NAME = "ModelScope"
_DEFAULT_BRANCH = "master"


def listing(repo: str, revision: str | None) -> tuple[str, dict[str, str | None]]:
    """The branch or tag, and the repo's files with their sha256.

    ModelScope does not tell which commit a branch is at: the sha256 say what was downloaded.

    Raises:
        HubError: no such repo or revision, no access to it, or the hub does not answer.
    """
    hub = _library()
    branch = revision or _DEFAULT_BRANCH
    try:
        found = hub.HubApi().list_repo_files(repo, "model", revision=branch)
    except Exception as error:  # the library passes on its HTTP client's own errors
        raise HubError(_explained(hub, error, repo, revision)) from error
    return branch, {f.path: f.sha256 for f in found if not f.is_dir}


def download(repo: str, revision: str | None, files: Iterable[str]) -> tuple[Path, str]:
    """Downloads ``files`` into ModelScope's cache; gives the snapshot's folder and its branch or tag.

    Files that broke off are continued, also by a later call; files that are there are not asked
    for again.

    Raises:
        HubError: no access, no network, no space on the disk, or a file with the wrong hash.
    """
    hub = _library()
    branch = revision or _DEFAULT_BRANCH
    try:
        folder = hub.HubApi().download_repo(repo, "model", revision=branch, allow_patterns=list(files))
    except Exception as error:
        raise HubError(_explained(hub, error, repo, revision)) from error
    return Path(folder), branch


def cached(repo: str, revision: str | None) -> tuple[Path, str]:
    """The snapshot that an earlier `download` left, without the network.

    Raises:
        HubError: there is none.
    """
    hub = _library()
    branch = revision or _DEFAULT_BRANCH
    try:
        folder = hub.HubApi().download_repo(repo, "model", revision=branch, local_files_only=True)
    except hub.CacheNotFound as error:
        raise HubError(
            f"{repo} is not in the cache of {NAME}: download it once without offline mode"
        ) from error
    return Path(folder), branch


def _library() -> Any:
    try:
        import modelscope_hub
    except ImportError:
        raise MissingDependencyError("modelscope-hub", "modelscope", f"downloading from {NAME}") from None
    return modelscope_hub


def _explained(hub: Any, error: BaseException, repo: str, revision: str | None) -> str:
    if isinstance(error, hub.FileDownloadError) and error.failed_files:
        path, cause = next(iter(error.failed_files.items()))
        if isinstance(cause, hub.FileIntegrityError):
            return f"{repo}: {path!r} has the wrong size or sha256 and was not kept: download it again"
        return _explained(hub, cause, repo, revision)
    if isinstance(error, hub.NotExistError):
        at = f" at revision {revision!r}" if revision else ""
        return f"{NAME} has no {repo}{at}, or it is private: check the spelling, or run 'ms login'"
    if isinstance(error, (hub.AuthenticationError, hub.PermissionDeniedError)):
        return f"{NAME} refuses access to {repo}: run 'ms login', or set MODELSCOPE_API_TOKEN"
    if getattr(error, "errno", None) == errno.ENOSPC:
        return (
            f"the disk is full while downloading {repo}: free space, or set MODELSCOPE_CACHE to another disk"
        )
    if isinstance(error, hub.APIError) and error.status_code:
        return f"{NAME} answered {error.status_code} for {repo}: try again later"
    reason = " ".join(str(error).split())[:200]
    return (
        f"{NAME} cannot be reached for {repo} ({type(error).__name__}: {reason}): check the network and "
        "MODELSCOPE_ENDPOINT, or set HF_HUB_OFFLINE=1 to use what was downloaded before"
    )
