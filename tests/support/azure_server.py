"""Azure Blob Storage on loopback: Azurite, Microsoft's emulator, in a process of its own.

Azurite compares and writes a blob in one step, so concurrent writers race here as in the cloud.
"""

import base64
import hashlib
import hmac
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from bucket_store import StoreFiles
from node_packages import node_modules
from s3_server import SECRET

ACCOUNT = "lppaccount"
KEY = base64.b64encode(SECRET.encode() * 4).decode()
"""Set in the environment: it must appear in no output."""

VERSION = "2021-12-02"
"""Version of the interface that the headers name."""


@dataclass(frozen=True, kw_only=True)
class Azure(StoreFiles):
    """A fresh container on the server."""

    container: str
    port: int

    @property
    def url(self) -> str:
        """URL at which a store may be created."""
        return f"az://{self.container}/some/store"

    @property
    def environment(self) -> dict[str, str]:
        """Environment with which a command reaches the container."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": endpoint(self.port),
            "AZURE_ALLOW_HTTP": "true",
            "LPP_RETRY_SECONDS": "20",
        }

    def objects(self) -> dict[str, bytes]:
        """Everything in the container, by key."""
        return {key: self.ask("GET", key) for key in self._times()}

    def modified(self, key: str) -> float:
        """Time of an object's last write, in seconds since the epoch, by the server's clock."""
        return parsedate_to_datetime(self._times()[key]).timestamp()

    def _times(self) -> dict[str, str]:
        """Time at which each object was written, in the server's format."""
        found: dict[str, str] = {}
        page: dict[str, str] = {}
        while True:
            text = self.ask("GET", query={"restype": "container", "comp": "list", **page})
            listing = ElementTree.fromstring(text.decode("utf-8-sig"))
            found |= {
                blob.findtext("Name") or "": blob.findtext("Properties/Last-Modified") or ""
                for blob in listing.iterfind("Blobs/Blob")
            }
            if not (marker := listing.findtext("NextMarker")):
                return found
            page = {"marker": marker}

    def put(self, key: str, data: bytes) -> None:
        """Write an object directly, without the code under test."""
        self.ask("PUT", key, data=data, headers={"x-ms-blob-type": "BlockBlob"})

    def fill(self, keys: Iterable[str]) -> None:
        """Write empty objects directly, without the code under test."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: self.put(key, b""), keys))

    def delete(self, key: str) -> None:
        """Remove an object directly, without the code under test."""
        self.ask("DELETE", key)

    def lease(self, key: str) -> None:
        """Lease an object: for a minute nobody else can write or remove it."""
        headers = {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "60"}
        self.ask("PUT", key, query={"comp": "lease"}, headers=headers)

    def make(self) -> None:
        """Create the container."""
        self.ask("PUT", query={"restype": "container"})

    def ask(
        self,
        method: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        data: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """One request directly to the server, without the client under test.

        Signed by the account's key:
        https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
        """
        query = query or {}
        path = quote(f"/{ACCOUNT}/{self.container}" + (f"/{key}" if key else ""))
        sent = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": VERSION, **(headers or {})}
        kind = "application/octet-stream" if method == "PUT" else ""
        length = str(len(data)) if data else ""
        signed = [method, "", "", length, "", kind, "", "", "", "", "", ""]
        signed += [f"{name}:{sent[name]}" for name in sorted(sent)]
        signed += [f"/{ACCOUNT}{path}", *(f"{name}:{query[name]}" for name in sorted(query))]
        digest = hmac.digest(base64.b64decode(KEY), "\n".join(signed).encode(), hashlib.sha256)
        sent["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
        sent |= {"Content-Type": kind} if kind else {}
        url = f"http://127.0.0.1:{self.port}{path}?{urlencode(query)}"
        body = data if method == "PUT" else None
        request = urllib.request.Request(url, data=body, headers=sent, method=method)
        with urllib.request.urlopen(request) as answer:
            found: bytes = answer.read()
        return found


def endpoint(port: int) -> str:
    """URL of an account on a server that holds several."""
    return f"http://127.0.0.1:{port}/{ACCOUNT}"


@contextmanager
def serving() -> Iterator[int]:
    """Azurite's blob service on a free port of loopback, until the block ends."""
    program = node_modules() / "azurite" / "dist" / "src" / "blob" / "main.js"
    node = shutil.which("node")
    assert node, "the tests need node"
    words = [node, str(program), "--blobHost", "127.0.0.1", "--blobPort", "0", "--silent"]
    words += ["--inMemoryPersistence", "--skipApiVersionCheck"]  # newer clients name newer versions
    accounts = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    server = subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, **accounts})
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if found := re.search(rb"listens on http://127\.0\.0\.1:(\d+)", line):
                yield int(found[1])
                break
        else:
            raise AssertionError("Azurite ended before it listened")
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()
