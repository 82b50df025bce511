"""A folder that a web server on loopback publishes, which counts bytes and fails on command."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Rule = Callable[[str], str | None]
"""Maps the key of a request to a fault: a status, or one of the words in `Handler.do_GET`."""


@dataclass(kw_only=True)
class ServedFolder:
    """A folder of this machine as a server of plain files."""

    folder: Path
    port: int = 0
    rule: Rule = lambda _key: None
    seen: list[tuple[str, dict[str, str], int]] = field(default_factory=list)
    """Key, headers, and bytes of the answer's body, of each request."""

    @property
    def url(self) -> str:
        """The address of the store `lpp` in the folder."""
        return f"http://127.0.0.1:{self.port}/lpp"

    @property
    def sent(self) -> int:
        """Bytes of all answers."""
        return sum(n for _, _, n in self.seen)

    def once(self, fault: str, part: str) -> None:
        """One request whose key contains `part` meets this fault."""
        left = [fault]
        self.rule = lambda key: left.pop() if left and part in key else None

    def always(self, fault: str, part: str = "") -> None:
        """Each request whose key contains `part` meets this fault."""
        self.rule = lambda key: fault if part in key else None


@contextmanager
def served_folder(folder: Path) -> Iterator[ServedFolder]:
    """Serve `folder` until the block ends."""
    served = ServedFolder(folder=folder)
    handler: Any = type("Handler", (Handler,), {"served": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    served.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    """Answers GET, with a range if one is asked for."""

    served: ServedFolder
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: Any) -> None:
        """Nothing on the test's stderr."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        key = unquote(urlsplit(self.path).path).lstrip("/")
        fault = self.served.rule(key) or ""
        path = self.served.folder / key.removeprefix("elsewhere/")
        if fault == "drop":
            self.close_connection = True
        elif fault == "elsewhere" and not key.startswith("elsewhere/"):
            # another host for the client, with a secret in the address
            there = f"http://localhost:{self.served.port}/elsewhere{self.path}?sig=SECRET"
            self.answer(key, 302, b"", {"Location": there})
        elif fault.isdigit() or not path.is_file():
            self.answer(key, int(fault or 404), b"of a test: SECRET", {"Retry-After": "1"})
        else:
            self.send(key, path.read_bytes(), fault)

    def send(self, key: str, data: bytes, fault: str) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        headers = {"ETag": 'W/"1"' if fault == "weak" else '"1"'}
        if fault in ("weak", "restless") and "If-Match" in self.headers:
            self.answer(key, 412, b"", headers)
            return
        if wanted is None or fault == "no ranges":
            self.answer(key, 200, data, headers, fault)
            return
        start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
        if start >= end:
            self.answer(key, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        if fault == "short range":
            end = (start + end) // 2
        first = start + (fault == "other range")
        headers |= {"Content-Range": f"bytes {first}-{first + end - start - 1}/{len(data)}"}
        self.answer(key, 206, data[start:end], headers, fault)

    def answer(
        self, key: str, status: int, data: bytes, headers: dict[str, str], fault: str = ""
    ) -> None:
        body = b"" if self.command == "HEAD" else data
        self.served.seen.append((key, dict(self.headers.items()), len(body)))
        self.send_response_only(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            if fault != "no length" or name != "Content-Length":
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        if fault in ("cut", "no length"):
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
