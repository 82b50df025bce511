"""An S3 server of a folder, which costs little beside what reads from it.

It answers what a feed requests: objects, ranges of objects, and listings. Bodies go from the page
cache to the socket by `sendfile`. moto, which the tests use, takes as much CPU time as the feed
that it serves.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_DATE = "2026-01-01T00:00:00.000Z"


@contextmanager
def bucket(folder: Path, *, latency: float = 0.0) -> Iterator[str]:
    """URL of a bucket whose objects are the files below `folder`. latency: seconds by which each
    answer is late.
    """
    words = [sys.executable, "-m", __name__, str(folder), str(latency)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        settings = {
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
        }
        with mock.patch.dict(os.environ, settings):
            yield f"s3://folder-{server.pid}"  # a process keeps one client for each name
    finally:
        server.terminate()
        server.communicate()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: Path
    latency: float

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""

    def do_GET(self) -> None:
        time.sleep(self.latency)
        split = urlsplit(self.path)
        key, query = unquote(split.path).lstrip("/").partition("/")[2], parse_qs(split.query)
        if not key:
            self._answer(200, self._listing(query.get("prefix", [""])[0], "delimiter" in query))
            return
        try:
            file = os.open(self.folder / key, os.O_RDONLY)
        except OSError:
            self._answer(404, "<Error><Code>NoSuchKey</Code></Error>")
            return
        try:
            size = os.fstat(file).st_size
            first, end = 0, size
            if match := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                first, end = int(match[1]), min(size, int(match[2]) + 1)
            self._head(206 if match else 200, end - first, f"bytes {first}-{end - 1}/{size}")
            self.wfile.flush()
            while first < end and self.command == "GET":
                first += os.sendfile(self.connection.fileno(), file, first, end - first)
        finally:
            os.close(file)

    do_HEAD = do_GET  # noqa: N815

    def _head(self, status: int, length: int, content_range: str = "") -> None:
        self.send_response_only(status)
        for name, value in (
            ("Content-Length", str(length)),
            ("Content-Range", content_range if status == 206 else ""),
            ("ETag", '"1"'),
            ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ):
            if value:
                self.send_header(name, value)
        self.end_headers()

    def _answer(self, status: int, text: str) -> None:
        self._head(status, len(text.encode()))
        self.wfile.write(text.encode())

    def _listing(self, prefix: str, folders: bool) -> str:
        below, parts = self.folder / prefix, list[str]()
        found = sorted(below.iterdir() if folders else below.rglob("*")) if below.is_dir() else []
        for path in found:
            key = escape(str(path.relative_to(self.folder)))
            if path.is_file():
                parts.append(
                    f"<Contents><Key>{key}</Key><Size>{path.stat().st_size}</Size>"
                    f'<LastModified>{_DATE}</LastModified><ETag>"1"</ETag></Contents>'
                )
            elif folders:
                parts.append(f"<CommonPrefixes><Prefix>{key}/</Prefix></CommonPrefixes>")
        body = "".join(parts)
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{body}</ListBucketResult>"


if __name__ == "__main__":
    _Handler.folder, _Handler.latency = Path(sys.argv[1]), float(sys.argv[2])
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
