"""A hub on loopback: what its client asks for, a revision's commit, its files, their bytes."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Commits = Mapping[str, Mapping[str, bytes]]
"""Files of a repository, by commit and name."""

PIECE = 1 << 16
"""Bytes that the server sends together."""


@dataclass(frozen=True, kw_only=True)
class HubServer:
    """A running hub."""

    endpoint: str
    requested: list[str] = field(default_factory=list)
    """Paths of the requests so far."""

    def environment(self, home: Path) -> dict[str, str]:
        """Variables with which a process asks this hub only. home: folder of its cache."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        }


@contextmanager
def hub_server(
    repositories: Mapping[str, Commits],
    branches: Mapping[str, str] = {},
    *,
    seconds_per_piece: float = 0,
) -> Iterator[HubServer]:
    """Serves `repositories`, by `datasets/owner/name` or `models/owner/name`, until the block ends.

    branches: commits by name. seconds_per_piece: pause after each `PIECE` of a file. Below
    `/broken` every answer is an error.
    """
    served = {"repositories": repositories, "branches": branches, "pause": seconds_per_piece}
    handler: Any = type("Handler", (HubHandler,), {"requested": [], **served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        endpoint = f"http://127.0.0.1:{running.server_address[1]}"
        yield HubServer(endpoint=endpoint, requested=handler.requested)
        running.shutdown()
        thread.join()


def missing(what: str) -> tuple[int, bytes, dict[str, str]]:
    return 404, b"", {"X-Error-Code": f"{what}NotFound"}


def as_json(document: Any) -> tuple[int, bytes, dict[str, str]]:
    return 200, json.dumps(document).encode(), {"Content-Type": "application/json"}


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class HubHandler(BaseHTTPRequestHandler):
    """Answers one request."""

    requested: list[str]
    repositories: Mapping[str, Commits]
    branches: Mapping[str, str]
    pause: float

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def log_message(self, *args: Any) -> None:
        """Nothing on the test's stderr."""

    def answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.requested.append(path)
        self.send(*self.found(path), body)

    def found(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, content and headers."""
        if path.startswith("/broken/"):
            return 500, b"", {}
        path = path.removeprefix("/api").removeprefix("/")
        if not path.startswith(("datasets/", "models/")):  # the files of a model
            path = f"models/{path}"
        kind, *names = path.split("/", 5)
        repo = "/".join(names[:2])
        commits = self.repositories.get(f"{kind}/{repo}")
        if commits is None:
            return missing("Repo")
        verb, revision, *file = names[2:] or ("revision", "main")
        commit = self.branches.get(revision, revision)
        if commit not in commits:
            return missing("Revision")
        files = commits[commit]
        if verb in ("revision", "tree"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": oid(content)}
                for name, content in files.items()
            ]
            siblings = [{"rfilename": name} for name in files]
            whole = {"id": repo, "sha": commit, "siblings": siblings}
            return as_json(tree if verb == "tree" else whole)
        if file[0] not in files:
            return missing("Entry")
        content = files[file[0]]
        return 200, content, {"ETag": f'"{oid(content)}"', "X-Repo-Commit": commit}

    def send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        for start in range(0, len(content) if body else 0, PIECE):
            self.wfile.write(content[start : start + PIECE])
            time.sleep(self.pause)
