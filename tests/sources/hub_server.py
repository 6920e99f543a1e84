"""A small Hugging Face Hub on loopback, for tests: real HTTP, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Fault:
    """What happens to the next ``times`` requests of a method to paths that contain ``path``.

    With ``status``, that is the answer. With ``cut``, so many bytes of the body are sent and the connection ends.
    """

    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = -1
    times: int = 1
    method: str = ""


class HubServer:
    """Repositories with branches, each a commit of named files."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.tokens: list[str] = []
        self.lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        """Make a commit with these files, and have the branch point to it; gives the commit."""
        content = json.dumps([repo, branch, *((name, _etag(data)) for name, data in sorted(files.items()))])
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.files[repo, sha] = dict(files)
        self.branches.setdefault(repo, {})[branch] = sha
        return sha

    def fail(self, path: str, **fault: Any) -> None:
        self.faults.append(Fault(path, **fault))

    def downloads(self) -> Counter[str]:
        """How often each file was asked for with GET, by name."""
        return Counter(
            path.rpartition("/")[2] for method, path in self.requests if method == "GET" and "/resolve/" in path
        )

    def pick_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.path in path and fault.method in {"", method}:
                    fault.times -= 1
                    return fault
        return None

    @contextmanager
    def running(self):
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server_hub, unquote(urlsplit(self.path).path)
        with hub.lock:
            hub.requests.append((self.command, path))
            hub.tokens.append(self.headers.get("authorization", ""))
        fault = hub.pick_fault(self.command, path)
        if fault is not None and fault.status:
            self._send(fault.status, b"", fault.headers)
            return
        status, body, headers = self._content(path)
        self._send(status, body, headers, cut=fault.cut if fault is not None else -1)

    def _content(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        if path.startswith("/api/models/"):
            return self._api(path.removeprefix("/api/models/"))
        repo, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        sha = self._commit(repo, revision)
        if sha is None:
            return self._missing(repo)
        data = self.server_hub.files[repo, sha].get(name)
        if data is None:
            return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}
        headers = {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if name.endswith((".safetensors", ".bin")):
            headers |= {"X-Linked-ETag": f'"{_etag(data)}"', "X-Linked-Size": str(len(data))}
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes="):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return 206, data[start:], headers
        return 200, data, headers

    def _api(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        hub = self.server_hub
        repo, _, rest = path.partition("/revision/")
        if path.endswith("/refs"):
            repo = path.removesuffix("/refs")
            if repo not in hub.branches:
                return self._missing(repo)
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
                for name, sha in hub.branches[repo].items()
            ]
            return 200, json.dumps({"branches": branches, "converts": [], "tags": []}).encode(), {}
        repo, tree, rest = path.partition("/tree/") if "/tree/" in path else (repo, "", rest)
        sha = self._commit(repo, rest or "main")
        if sha is None:
            return self._missing(repo)
        if tree:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                for name, data in hub.files[repo, sha].items()
            ]
            return 200, json.dumps(entries).encode(), {}
        siblings = [{"rfilename": name, "size": len(data)} for name, data in hub.files[repo, sha].items()]
        return 200, json.dumps({"id": repo, "modelId": repo, "sha": sha, "siblings": siblings}).encode(), {}

    def _commit(self, repo: str, revision: str) -> str | None:
        hub = self.server_hub
        if (repo, revision) in hub.files:
            return revision
        return hub.branches.get(repo, {}).get(revision)

    def _missing(self, repo: str) -> tuple[int, bytes, dict[str, str]]:
        code = "RevisionNotFound" if repo in self.server_hub.branches else "RepoNotFound"
        return 404, b"{}", {"X-Error-Code": code}

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, cut: int = -1) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut >= 0:
            self.wfile.write(body[:cut])
            self.close_connection = True
            return
        self.wfile.write(body)


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
