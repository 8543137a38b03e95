"""A hub on 127.0.0.1 that speaks the part of both hubs' HTTP interfaces which downloads use."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".model")  # kept by git-lfs: hash told, served from another address


@dataclass
class Repo:
    """Files by revision (a commit hash or a name that stands for one) and by path."""

    commits: dict[str, dict[str, bytes]]
    names: dict[str, str]
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        found = self.names.get(revision, revision)
        return found if found in self.commits else None


@dataclass
class HubServer:
    """Start with `start`; ``requests`` is what was asked: method, path, and the Range header."""

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    drop_once: dict[str, int] = field(default_factory=dict)  # path -> bytes before the connection breaks
    served_instead: dict[str, bytes] = field(default_factory=dict)  # path -> wrong bytes of equal length
    pushed_after_listing: dict[str, str] = field(default_factory=dict)  # branch -> the commit it moves to
    failing: bool = False

    def start(self) -> HubServer:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def asked_for(self, name: str) -> list[str | None]:
        """The Range headers of the GET requests for a file."""
        return [r for method, path, r in self.requests if method == "GET" and path.endswith(name)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), {k: v[0] for k, v in parse_qs(url.query).items()}
        shown = query.get("FilePath", path)
        self.server_hub.requests.append((self.command, shown, self.headers.get("Range")))
        if self.server_hub.failing:
            self._json(500, {"error": "broken"})
        elif path.startswith("/api/v1/models/"):
            self._modelscope(path.removeprefix("/api/v1/models/"), query)
        else:
            self._huggingface(path)

    # Hugging Face: repo info, tree, and resolve, which redirects to the large files.

    def _huggingface(self, path: str) -> None:
        patterns = {
            r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?": self._info,
            r"/api/models/([^/]+/[^/]+)/tree/([^/]+)": self._tree,
            r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)": self._resolve,
            r"/large/([^/]+/[^/]+)/([^/]+)/(.+)": self._large,
        }
        for pattern, answer in patterns.items():
            if match := re.fullmatch(pattern, path):
                repo = self.server_hub.repos.get(match[1])
                if repo is None:
                    return self._json(
                        401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
                    )
                commit = repo.commit(match[2] or "main")
                if commit is None:
                    return self._json(404, {"error": "Invalid rev"}, {"X-Error-Code": "RevisionNotFound"})
                return answer(repo, match[1], commit, *match.groups()[2:])
        return self._json(404, {"error": "no such page"})

    def _info(self, repo: Repo, name: str, commit: str) -> None:
        files = repo.commits[commit]
        siblings = [
            {"rfilename": p, "size": len(b), "blobId": "0" * 40} | _lfs(p, b) for p, b in files.items()
        ]
        self._json(200, {"id": name, "sha": commit, "siblings": siblings, "tags": [], "private": False})
        repo.names |= self.server_hub.pushed_after_listing

    def _tree(self, repo: Repo, name: str, commit: str) -> None:
        entries = []
        for path, content in repo.commits[commit].items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
            if lfs := _lfs(path, content).get("lfs"):
                entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": 134}
            entries.append(entry)
        self._json(200, entries)

    def _resolve(self, repo: Repo, name: str, commit: str, path: str) -> None:
        if repo.gated:
            return self._json(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        content = repo.commits[commit].get(path)
        if content is None:
            return self._json(404, {"error": "none"}, {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if not path.endswith(LARGE):
            return self._bytes(path, content, headers)
        headers |= {
            # Another host, as it is in the world: the client takes hash and size from this answer.
            "Location": f"{self.server_hub.url}/large/{name}/{commit}/{path}".replace(
                "127.0.0.1", "localhost"
            ),
            "X-Linked-Etag": f'"{_sha256(content)}"',
            "X-Linked-Size": str(len(content)),
        }
        return self._json(302, {}, headers)

    def _large(self, repo: Repo, name: str, commit: str, path: str) -> None:
        self._bytes(path, repo.commits[commit][path], {})

    # ModelScope: a listing with hashes, and the files.

    def _modelscope(self, rest: str, query: dict[str, str]) -> None:
        match = re.fullmatch(r"([^/]+/[^/]+)(/repo/files|/repo)?", rest)
        repo = self.server_hub.repos.get(match[1]) if match else None
        commit = repo.commit(query.get("Revision", "master")) if repo else None
        if match is None or repo is None or commit is None:
            return self._json(404, {"Code": 10010205001, "Message": "not found", "Success": False})
        files = repo.commits[commit]
        if match[2] == "/repo":
            return self._bytes(query["FilePath"], files[query["FilePath"]], {})
        root = query.get("Root", "")
        entries = [
            {"Path": p, "Name": p.split("/")[-1], "Type": "blob", "Size": len(b), "Sha256": _sha256(b)}
            for p, b in files.items()
            if not root or p.startswith(root + "/")
        ]
        return self._json(200, {"Code": 200, "Data": {"Files": entries}, "Success": True})

    # What both share.

    def _json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _bytes(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        content = self.server_hub.served_instead.get(path, content)
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self._send(206, content[first : last + 1], headers)
        return self._send(200, content, headers, self.server_hub.drop_once.pop(path, None))

    def _send(self, status: int, body: bytes, headers: dict[str, str], drop_after: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:drop_after])
        if drop_after is not None:
            self.wfile.flush()
            self.close_connection = True


def _lfs(path: str, content: bytes) -> dict[str, dict[str, object]]:
    if not path.endswith(LARGE):
        return {}
    return {"lfs": {"sha256": _sha256(content), "size": len(content), "pointerSize": 134}}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
