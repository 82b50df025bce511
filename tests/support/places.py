"""Places that hold objects, read and changed without the code under test."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import xxhash
from s3_server import S3, Proxy

from lpp.store.format.commit_record import ObjectRecord
from lpp.store.objects.locate import objects_at
from lpp.store.objects.protocol import Objects

COMMIT = "COMMIT.json"


class DiskPlace:
    """A directory, through pathlib."""

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root)

    @property
    def objects(self) -> Objects:
        """The place under test."""
        return objects_at(self.url)

    def held(self) -> dict[str, bytes]:
        """Every file, by key."""
        paths = [path for path in self.root.rglob("*") if path.is_file()]
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in paths}

    def put(self, key: str, data: bytes) -> None:
        """Write an object directly, without the code under test."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def remove(self, key: str) -> None:
        """Remove an object directly, without the code under test."""
        (self.root / key).unlink()

    def written(self, key: str) -> float:
        """Time at which the object was written, by the clock of the place."""
        return os.path.getmtime(self.root / key)


class BucketPlace:
    """A prefix of a bucket, through a client of its own, not the one under test."""

    BASE = "some/store/"

    def __init__(self, s3: S3) -> None:
        self.s3, self.url = s3, s3.url

    @property
    def objects(self) -> Objects:
        """The place under test."""
        return objects_at(self.url)

    @property
    def proxy(self) -> Proxy:
        """The proxy between client and server of an S3 bucket: it fails on command."""
        return self.s3.proxy

    def held(self) -> dict[str, bytes]:
        """Every object, by key."""
        return {key.removeprefix(self.BASE): data for key, data in self.s3.objects().items()}

    def put(self, key: str, data: bytes) -> None:
        """Write an object directly, without the code under test."""
        self.s3.put(self.BASE + key, data)

    def remove(self, key: str) -> None:
        """Remove an object directly, without the code under test."""
        self.s3.delete(self.BASE + key)

    def written(self, key: str) -> float:
        """Time at which the object was written, by the clock of the place."""
        return float(self.s3.modified(self.BASE + key))


Behind = DiskPlace | BucketPlace

BUCKET = pytest.param("bucket", marks=pytest.mark.slow)
"""A kind of place that starts a server."""


def place_of(kind: str, request: pytest.FixtureRequest) -> Behind:
    """A fresh place of that kind."""
    if kind == "disk":
        return DiskPlace(request.getfixturevalue("tmp_path") / "some" / "store")
    return BucketPlace(request.getfixturevalue("s3"))


def records(held: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Every record, by its folder."""
    return {
        key.removesuffix(COMMIT): json.loads(data)
        for key, data in held.items()
        if key.endswith(f"/{COMMIT}")
    }


def committed(held: Mapping[str, bytes]) -> dict[str, Any]:
    """Each committed object by its logical key, without the attempt's name; and the records,
    without what differs between attempts.

    Raises KeyError for a record whose object is missing.
    """
    found: dict[str, Any] = {key: data for key, data in held.items() if key == "lpp.json"}
    for folder, record in records(held).items():
        base = f"{record['base']}/" if record.get("base") else ""
        found |= {f"{folder}{key}": held[f"{folder}{base}{key}"] for key in record["objects"]}
        same = {k: v for k, v in record.items() if k not in ("base", "self_xxh3_128")}
        found[f"{folder}{COMMIT}"] = same
    return found


def strays(held: Mapping[str, bytes]) -> set[str]:
    """Keys that no record lists."""
    expected = {"lpp.json"}
    for folder, record in records(held).items():
        base = f"{record['base']}/" if record.get("base") else ""
        expected |= {f"{folder}{COMMIT}", *(f"{folder}{base}{key}" for key in record["objects"])}
    return set(held) - expected


def recorded(data: bytes) -> ObjectRecord:
    """A record's entry for an object with these bytes."""
    return ObjectRecord(bytes=len(data), xxh3_128=xxhash.xxh3_128_hexdigest(data))


def part(objects: Objects, key: str, start: int, end: int, **how: Any) -> bytes:
    """Bytes `start` to `end` of the object `key`."""
    buffer = bytearray(end - start)
    with objects.open(key, **how) as source:
        source.read_into(memoryview(buffer), start)
    return bytes(buffer)
