"""Where a store is: a directory of a disk, a prefix of a bucket, or an address.

A `Place` is only a path: a `pathlib.Path` or a `BucketPath`. Its objects are read and written
through `lpp.store.objects.locate.objects_at`. Imports no client.
"""

import os
import re
from pathlib import Path
from typing import Final, TypeAlias

from lpp.store.errors import InputError
from lpp.store.objects.address import EXAMPLE, SCHEMES, address, is_address
from lpp.store.objects.bucket_path import BucketPath

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
