"""Logs of inspect_ai, as its releases write them: `.eval` and `.json`, version 2 of their schema.

A `.json` log is one document. A `.eval` log is a zip file with `header.json`, which is that
document without its samples, and `samples/<id>_epoch_<n>.json`. Later releases compress the
members with Zstandard, which Python's zipfile reads from 3.14 on, so Arrow decompresses them here.
https://inspect.aisi.org.uk/eval-logs.html
"""

import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import pyarrow as pa

from lpp.store.errors import ErrorKind, InputError, first_line

VERSION: Final = 2
"""Version of the schema of inspect_ai since 2024."""

_JSON_LOG: Final = re.compile(rb'\s*\{\s*"version":\s*\d+,\s*"status":')
"""How a `.json` log begins: the schema fixes the order of its fields."""

_ZSTANDARD: Final = 93
"""Number of the method in a zip file; PKWARE's APPNOTE, 4.4.5."""

_LOCAL_HEADER: Final = 30
"""Bytes before the name in the local header of a member; APPNOTE, 4.3.7."""

_MOST_BYTES: Final = 128 << 20
"""Most bytes of one member, unpacked: a sample with its events has some megabytes."""

_MOST_TOGETHER: Final = 256 << 20
_MOST_RATIO: Final = 64
"""Bytes of all members, unpacked: so many, or so many for each byte of the file, whichever is more.
A crafted file of a megabyte may unpack to any size; JSON of real logs packs to a tenth."""

_MOST_MEMBERS: Final = 1 << 20

_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, _ZSTANDARD)
"""Compressions that inspect writes. Python unpacks others, such as bzip2, to any size at once."""

_FIRST_EPOCH: Final = "_epoch_1.json"

_BROKEN: Final = (
    *(ValueError, LookupError, TypeError, AttributeError, RecursionError, EOFError),
    *(NotImplementedError, OSError, RuntimeError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, pa.ArrowException),
)
"""What a damaged log may raise; all of it becomes one InputError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectLog:
    """A log of a finished evaluation."""

    path: Path
    where: str
    """For messages."""
    header: Mapping[str, Any]
    """The log without its samples."""

    def samples(self) -> list[Mapping[str, Any]]:
        """The samples of the first epoch, in the data set's order, without their events.

        Raises InputError where the log has none, or one that cannot be read.
        """
        try:
            first_epoch = [_lean(sample) for sample in _samples(self.path) if sample["epoch"] == 1]
            ordered = _in_order(first_epoch, self.header)
        except _BROKEN as error:
            _refuse(self.where, f"a sample of it cannot be read ({_error_text(error)})")
        if not ordered:
            raise InputError(
                f"{self.where}: the log has no samples. `inspect eval` keeps them without "
                "--no-log-samples; the scores alone are added without --items.",
                kind=ErrorKind.NOT_FOUND,
            )
        return ordered


def begins_as_inspect_log(start: bytes) -> bool:
    """Whether a `.json` file is a log of inspect, by its first 256 bytes."""
    return _JSON_LOG.match(start) is not None


def open_inspect_log(path: Path, where: str) -> InspectLog:
    """The log at `path`.

    Raises InputError for another file, another version of the schema, and an evaluation that did
    not finish.
    """
    try:
        header = _header(path)
        version, status = int(header["version"]), str(header["status"])
    except _BROKEN as error:
        _refuse(where, _error_text(error))
    if version != VERSION:
        advice = (
            f"`inspect log convert {path} --to eval --output-dir DIR` brings it up to date."
            if version < VERSION
            else "Install a newer lpp-engine."
        )
        raise InputError(
            f"{where}: version {version} of inspect's log, this release reads version {VERSION}. "
            f"{advice}",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )
    if status != "success":
        why = header.get("error")
        cause = first_line(str(why.get("message"))) if isinstance(why, dict) else ""
        raise InputError(
            f"{where}: the evaluation did not finish (status {status}{cause and f': {cause}'}), so "
            f"its scores are those of some samples. `inspect eval-retry {path}` finishes it.",
            kind=ErrorKind.INCOMPLETE,
        )
    if not isinstance(header.get("eval"), dict):
        _refuse(where, "it has no object `eval`")
    return InspectLog(path=path, where=where, header=header)


def _header(path: Path) -> Mapping[str, Any]:
    if path.suffix.lower() != ".eval":
        document = json.loads(path.read_bytes())
        return {key: value for key, value in document.items() if key != "samples"}
    with _opened(path) as archive:
        if "header.json" in archive.namelist():
            return dict(json.loads(_member(archive, "header.json")))
        start = json.loads(_member(archive, "_journal/start.json"))
        return {**start, "status": "started"}


def _samples(path: Path) -> Iterator[Mapping[str, Any]]:
    """The samples of a log; of a zip file only the first epoch is unpacked."""
    if path.suffix.lower() != ".eval":
        yield from json.loads(path.read_bytes()).get("samples") or ()
        return
    with _opened(path) as archive:
        for info in archive.infolist():
            _go_to(archive, info)  # a damaged name would hide a sample
        for name in archive.namelist():
            if name.startswith("samples/") and name.endswith(_FIRST_EPOCH):
                yield json.loads(_member(archive, name))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file whose members have different names and a size that its own size explains."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        most = max(_MOST_TOGETHER, _MOST_RATIO * path.stat().st_size)
        if len(members) > _MOST_MEMBERS:
            raise ValueError(f"{len(members)} members")
        if len({info.filename for info in members}) < len(members):
            raise ValueError("two members have one name")
        if (together := sum(info.file_size for info in members)) > most:
            raise ValueError(f"its members have {together} bytes together, more than {most}")
        yield archive


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The unpacked bytes of a member, checked against their CRC-32."""
    info = archive.getinfo(name)
    if info.file_size > _MOST_BYTES:
        raise ValueError(f"{name} has {info.file_size} bytes, more than {_MOST_BYTES}")
    if info.compress_type not in _METHODS:
        raise ValueError(f"{name} is compressed with method {info.compress_type}")
    if info.compress_type != _ZSTANDARD:
        with archive.open(info) as file:
            return file.read(info.file_size + 1)  # not `read()`, which unpacks what is there
    packed = _go_to(archive, info).read(info.compress_size)
    data = pa.Codec("zstd").decompress(packed, info.file_size, asbytes=True)
    if zlib.crc32(data) != info.CRC:
        raise zipfile.BadZipFile(f"{name} has another CRC-32")
    return bytes(data)


def _go_to(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """The file of `archive`, where the packed bytes of a member begin."""
    file = archive.fp
    if file is None or info.flag_bits & 1:
        raise ValueError(f"{info.filename} is encrypted")
    file.seek(info.header_offset)
    local = file.read(_LOCAL_HEADER)
    # name and extra field are as long as the local header says; the directory may say otherwise
    name = file.read(int.from_bytes(local[26:28], "little"))
    if local[:4] != b"PK\x03\x04" or name != info.orig_filename.encode():
        raise zipfile.BadZipFile(f"{info.filename} is not where the directory says")
    file.seek(int.from_bytes(local[28:30], "little"), 1)
    return file


def _lean(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sample without what is large and not read here."""
    return {key: sample[key] for key in sample if key not in ("events", "events_data", "store")}


def _in_order(
    samples: list[Mapping[str, Any]], header: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """`samples` in the order of the data set's ids; without them by id, numbers first."""
    ids = header["eval"].get("dataset", {}).get("sample_ids") or []
    position = {identity: index for index, identity in enumerate(ids)}
    if all(sample["id"] in position for sample in samples):
        return sorted(samples, key=lambda sample: position[sample["id"]])
    return sorted(samples, key=lambda sample: (isinstance(sample["id"], str), sample["id"]))


def _error_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _refuse(where: str, why: str) -> NoReturn:
    raise InputError(
        f"{where}: not a log of inspect: {why}. `inspect eval TASK --log-dir DIR ...` writes one, "
        "DIR/<time>_<task>_<id>.eval.",
        kind=ErrorKind.INVALID_VALUE,
    ) from None
