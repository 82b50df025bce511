"""Addresses: stores that a web server publishes as plain files, `https://` and `hf://`.

Nothing is written at an address. `http://` is for servers of this machine: anyone on the way
to another could change both its bytes and their checksums.
"""

import os
import re
from typing import Final

from lpp.store.errors import ErrorKind, InputError, MachineError
from lpp.store.objects.bucket_path import BucketPath

SCHEMES: Final = ("https", "http", "hf")

EXAMPLE: Final = "https://server/folder"
"""The form of an address."""

HUB: Final = "https://huggingface.co"
"""The Hugging Face hub; HF_ENDPOINT names another server with its interface."""

_SERVER: Final = re.compile(r"(?P<host>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")
_LOOPBACK: Final = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]")
_PART: Final = re.compile(r"[^\x00-\x1f\x7f\\?#%*\[\]{}^`\"<>|@]+")
_REPOSITORY: Final = re.compile(
    r"datasets/(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<folder>.*))?", re.ASCII
)


def address(scheme: str, rest: str) -> BucketPath:
    """The place of an address, whose server takes the part of a bucket. Accesses nothing.

    `hf://datasets/OWNER/NAME[@REVISION][/folder]` is the address of its files on the hub.
    InputError, without the address, for one that holds more: its other parts may be secrets.
    """
    if scheme == "hf":
        match = _REPOSITORY.fullmatch(rest)
        if match is None:
            raise InputError(
                "the hf:// address of a store is not hf://datasets/OWNER/NAME[@REVISION][/folder]."
            )
        scheme, _, server = _hub().partition("://")
        files = f"datasets/{match['name']}/resolve/{match['revision'] or 'main'}"
        rest = f"{server}/{files}/{match['folder'] or ''}"
    server, _, path = rest.partition("/")
    found = _SERVER.fullmatch(server)
    parts = [part for part in path.replace("%20", " ").split("/") if part]
    if found is None or any(part in (".", "..") or not _PART.fullmatch(part) for part in parts):
        raise InputError(
            f"the {scheme}:// address of a store is not {EXAMPLE}: a server and a folder, without "
            "user, ? or #, and without % but for %20. For a private repository of the Hugging Face "
            "hub set HF_TOKEN in the environment."
        )
    if scheme == "http" and not _LOOPBACK.fullmatch(found["host"]):
        raise InputError(
            "http:// is for a server of this machine, such as http://localhost:8000: elsewhere its "
            "bytes can be changed on the way. Give the https:// address of the store."
        )
    return BucketPath(f"{scheme}://{server}", "/".join(parts))


def is_address(text: str) -> bool:
    """Whether a place, as text, is an address."""
    return text.startswith(("https://", "http://"))


def headers(server: str) -> dict[str, str]:
    """The headers of each request to a server: for the hub, the user's token HF_TOKEN."""
    token = os.environ.get("HF_TOKEN", "").strip()
    return {"Authorization": f"Bearer {token}"} if token and server == _hub() else {}


def read_only(where: object) -> MachineError:
    """The error that nothing can be written at an address."""
    return MachineError(
        f"{where}: a store at an address is read only. Copy it to a disk or a bucket, or name "
        "another store.",
        kind=ErrorKind.READ_ONLY,
    )


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
