"""An S3 server on loopback, and a proxy that counts requests, and fails or drops them on command.

The server is moto's, in a process of its own. All requests go through the proxy, which also
serialises conditional puts, because moto checks and writes in two steps.
"""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from bucket_store import StoreFiles

SECRET = "kJ7SECRETx9Qn2"
"""Set in every place that may hold a secret: it must appear in no output."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """The fault of one request."""

    kind: Literal["answer", "delay", "cut request", "cut answer", "lose answer"]
    status: int = 500
    code: str = "InternalError"
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request that the proxy received."""

    method: str
    key: str
    """Key in the bucket, and the query if there is one."""
    status: int
    received: int
    """Bytes of the answer's body."""


Rule = Callable[[str, str], Fault | None]
"""Maps method and key to a fault, or to None."""


class Proxy:
    """Forwards requests to `upstream`, except those that `rule` gives a fault."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.rule: Rule = lambda _method, _key: None
        self.strip_conditions = False
        self.seen: list[Seen] = []
        self.deciding = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def read(self, part: str = "") -> int:
        """Bytes that were read of objects whose key contains `part`."""
        return sum(s.received for s in self.seen if s.method == "GET" and part in s.key)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the error: some tests disconnect the client."""


class _Handler(BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing on stderr."""

    def handle_one(self) -> None:
        split = urlsplit(self.path)
        key = unquote(split.path).lstrip("/").partition("/")[2]
        key = f"{key}?{split.query}" if split.query else key
        fault = self.owner.rule(self.command, key)
        length = int(self.headers.get("Content-Length") or 0)
        if fault is not None and fault.kind == "cut request":
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if fault is not None and fault.kind == "answer":
            self._refuse(fault, key)
            return
        if fault is not None and fault.kind == "delay":
            time.sleep(fault.seconds)
        status, headers, data = self._pass_on(body)
        self.owner.seen.append(
            Seen(method=self.command, key=key, status=status, received=len(data))
        )
        if fault is not None and fault.kind == "lose answer":
            self.close_connection = True
            return
        cut = fault is not None and fault.kind == "cut answer"
        self._answer(status, headers, data, cut=cut)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815

    def _pass_on(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        conditional = {"if-none-match", "if-match"}
        if self.owner.strip_conditions:
            headers = {k: v for k, v in headers.items() if k.lower() not in conditional}
        decides = self.command == "PUT" and conditional & {k.lower() for k in headers}
        upstream = http.client.HTTPConnection("127.0.0.1", self.owner.upstream, timeout=60)
        with self.owner.deciding if decides else threading.Lock():
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
            data = answer.read()
        upstream.close()
        return answer.status, dict(answer.getheaders()), data

    def _answer(self, status: int, headers: Mapping[str, str], data: bytes, *, cut: bool) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        lengths = (value for name, value in headers.items() if name.lower() == "content-length")
        length = next(lengths, None) if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _refuse(self, fault: Fault, key: str) -> None:
        """An error in S3's format, with what a careless server may repeat."""
        text = (
            f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>of a test"
            f"</Message><AWSSecret>{SECRET}</AWSSecret></Error>"
        ).encode()
        self.owner.seen.append(Seen(method=self.command, key=key, status=fault.status, received=0))
        self._answer(fault.status, {"Content-Type": "application/xml"}, text, cut=False)


@dataclass(frozen=True, kw_only=True)
class S3(StoreFiles):
    """A fresh bucket on the server, seen through the proxy."""

    bucket: str
    proxy: Proxy
    server: int

    @property
    def url(self) -> str:
        """URL at which a store may be created."""
        return f"s3://{self.bucket}/some/store"

    @property
    def environment(self) -> dict[str, str]:
        """Environment with which a command reaches the bucket."""
        return {
            "AWS_ACCESS_KEY_ID": "AKTEST",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": f"token-{SECRET}",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}",
            "LPP_RETRY_SECONDS": "20",
        }

    def objects(self) -> dict[str, bytes]:
        """Everything in the bucket by key, directly from the server."""
        client = client_of(self.server)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}

    def put(self, key: str, data: bytes) -> None:
        """Write an object directly, without the code under test."""
        client_of(self.server).put_object(Bucket=self.bucket, Key=key, Body=data)

    def fill(self, keys: list[str]) -> None:
        """Write empty objects, several at once."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: self.put(key, b""), keys))

    def delete(self, key: str) -> None:
        """Remove an object directly, without the code under test."""
        client_of(self.server).delete_object(Bucket=self.bucket, Key=key)

    def modified(self, key: str) -> float:
        """Time of an object's last write, in seconds since the epoch, by the server's clock."""
        head = client_of(self.server).head_object(Bucket=self.bucket, Key=key)
        return float(head["LastModified"].timestamp())


@cache
def client_of(server: int) -> Any:
    """A client that is not under test and uses the server directly."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{server}",
        aws_access_key_id="behind",
        aws_secret_access_key="everyones-back",
        region_name="us-east-1",
    )


@contextmanager
def serving() -> Iterator[int]:
    """Moto's server on a free port of loopback, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, server)
        yield port
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(1200):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/data.json") as answer:
                json.load(answer)
                return
        except OSError:
            assert server.poll() is None, "moto's server ended"
            time.sleep(0.05)
    raise TimeoutError("moto's server did not start")


def make_bucket(server: int, name: str) -> None:
    """Create a bucket directly on the server."""
    request = urllib.request.Request(f"http://127.0.0.1:{server}/{name}", method="PUT")
    with urllib.request.urlopen(request):
        pass


def some(fault: Fault, *, every: int, method: str = "", part: str = "") -> Rule:
    """A rule that fails every `every`-th matching request, the first included."""
    count, lock = 0, threading.Lock()

    def rule(of: str, key: str) -> Fault | None:
        nonlocal count
        if method not in ("", of) or part not in key:
            return None
        with lock:
            count += 1
            return fault if count % every == 1 else None

    return rule


def always(fault: Fault, *, method: str = "", part: str = "") -> Rule:
    """A rule that fails every matching request."""

    def rule(of: str, key: str) -> Fault | None:
        return fault if method in ("", of) and part in key else None

    return rule
