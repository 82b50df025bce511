"""Where a store is: a directory of a disk, a prefix of a bucket, or an address.

A `Place` is only a path: a `pathlib.Path` or a `BucketPath`. Its objects are read and written
through `lpp.store.objects.locate.objects_at`. Imports no client.

An address is a store that a web server publishes as plain files, `https://` and `hf://`. Nothing is
written there. `http://` is for servers of this machine: anyone on the way to another could change
both its bytes and their checksums.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias

from lpp.store.errors import ErrorKind, InputError, MachineError


@dataclass(frozen=True, order=True)
class BucketPath:
    """A key of a bucket, with the part of `pathlib`'s interface that paths need. Sorts by key."""

    root: str
    """The bucket's URL, such as `s3://name`."""
    key: str
    """Without a slash at either end; empty for the bucket itself."""

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root

    def __truediv__(self, name: str) -> "BucketPath":
        return BucketPath(self.root, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "BucketPath":
        """The prefix that contains it."""
        return BucketPath(self.root, self.key.rpartition("/")[0])

    def relative_to(self, other: "BucketPath") -> PurePosixPath:
        """The key below `other`. Raises ValueError if it is not below."""
        if self.root != other.root:
            raise ValueError(f"{self} is not in {other.root}")
        return PurePosixPath(self.key).relative_to(other.key)


SCHEMES: Final = ("https", "http", "hf")

EXAMPLE: Final = "https://server/folder"
"""The form of an address."""

HUB: Final = "https://huggingface.co"
"""The Hugging Face hub; HF_ENDPOINT names another server with its interface."""

_SERVER: Final = re.compile(r"(?P<host>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")
_LOOPBACK: Final = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]")
_FOLDER: Final = re.compile(r"[^\x00-\x1f\x7f\\?#%*\[\]{}^`\"<>|@]+")
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
    if found is None or any(part in (".", "..") or not _FOLDER.fullmatch(part) for part in parts):
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


Place: TypeAlias = Path | BucketPath
"""A directory or a file of a store, wherever it is."""

Url: TypeAlias = str | os.PathLike[str] | BucketPath
"""How users and functions name a store."""

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PART: Final = re.compile(r"[^\x00-\x1f\x7f\\?#%*\[\]{}^`\"<>|~]+")

_UNPROVEN: Final = ("az", "gs")
"""Schemes that obstore supports and this project does not."""


def place(url: Url) -> Place:
    """The place that `url` names. Accesses nothing.

    Raises InputError for an unsupported scheme, and for a URL with more than bucket and prefix:
    credentials belong in the environment. The message never repeats them.
    """
    if isinstance(url, BucketPath):
        return url
    text = os.fspath(url)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme == "file":
        # `Path` turns `./~x` into `~x`, which looks like a user's home; absolute, it does not.
        path = Path(os.path.expanduser(rest if separator else text))
        return path.absolute() if path.parts[:1] and path.parts[0].startswith("~") else path
    if scheme in SCHEMES:
        return address(scheme, rest)
    if scheme != "s3":
        raise _unsupported(scheme)
    return _bucket_path(rest)


def _bucket_path(rest: str) -> BucketPath:
    if "@" in rest or "?" in rest or "#" in rest:
        raise InputError(
            "the s3:// URL of a store holds more than a bucket and a prefix. Credentials and "
            "settings never go there: set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their like "
            "in the environment."
        )
    bucket, _, prefix = rest.partition("/")
    parts = [part for part in prefix.split("/") if part]
    wrong = [part for part in parts if part in (".", "..") or not _PART.fullmatch(part)]
    if not _BUCKET.fullmatch(bucket) or wrong:
        raise InputError(
            "the s3:// URL of a store is not s3://bucket/prefix, of letters, digits, dots, dashes "
            "and underscores.",  # not quoted: the wrong part may be a secret
        )
    return BucketPath(f"s3://{bucket}", "/".join(parts))


def _unsupported(scheme: str) -> InputError:
    text = (
        f"{_plain_scheme(scheme)}:// stores are not supported: give a directory or "
        f"s3://bucket/prefix; to read only, also {EXAMPLE}."
    )
    if scheme in _UNPROVEN:
        text += (
            " No test shows that this object store keeps two writers apart: write to a directory "
            "and copy the finished store into the bucket."
        )
    return InputError(text)


def _plain_scheme(scheme: str) -> str:
    return scheme if re.fullmatch(r"[A-Za-z0-9+.-]{1,20}", scheme) else "such"


def is_read_only(where: Place) -> bool:
    """Whether nothing can be written there because it is an address."""
    return isinstance(where, BucketPath) and is_address(where.root)


def absolute(url: Url) -> Place:
    """The place as an absolute path, which is valid in any working directory."""
    location = place(url)
    return location.absolute() if isinstance(location, Path) else location


def check_regular(path: Path) -> None:
    """Refuse a pipe and a device, links followed: reading a file of strangers might wait for ever.

    Accepts a path where nothing is, so that the caller's own message says so.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(
            f"{path}: a pipe or a device, not a file. Give a file, or remove it from the folder."
        )
