"""Where things lie in a store, found without loading the readers of `lpp.store`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.keys import (
    COMMIT_KEY,
    FORMAT_NAME,
    ROOT_KEY,
    ROOT_VERSION,
    RUNS_KEY,
    SHARDS_KEY,
    TOKENS_KEY,
)
from lpp.store.paths import MAX_ROOT_BYTES, plain_directory, plain_file, read_bounded


def store_root(url: str | os.PathLike[str]) -> Path:
    """The absolute directory of the store at `url`.

    Raises FormatError: NOT_A_STORE, or UNSUPPORTED_VERSION when a newer release wrote it;
    InputError for a scheme this release does not speak.
    """
    root = _local(os.fspath(url))
    document = root / ROOT_KEY
    if not document.is_file():
        why = f"it holds no {ROOT_KEY}" if root.exists() else "no such directory"
        raise FormatError(
            f"{root} is not an lpp store: {why}. Give the directory that "
            "`lpp-capture run --store` wrote.",
            kind=ErrorKind.NOT_A_STORE,
        )
    try:
        found = json.loads(read_bounded(root.resolve(), ROOT_KEY, MAX_ROOT_BYTES))
        name, version = found["format"], found["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FormatError(
            f"{document}: damaged, or not of an lpp store: expected "
            f'{{"format": "{FORMAT_NAME}", "version": {ROOT_VERSION}}}.',
            kind=ErrorKind.NOT_A_STORE,
        ) from None
    if name != FORMAT_NAME:
        raise FormatError(
            f"{document}: format {name!r}, not {FORMAT_NAME!r}.", kind=ErrorKind.NOT_A_STORE
        )
    if not isinstance(version, int) or not 1 <= version <= ROOT_VERSION:
        raise FormatError(
            f"{root}: store format {version}, this release reads 1 to {ROOT_VERSION}. "
            "Install a newer one: `pip install --upgrade lpp-engine`.",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )
    return root


def _local(text: str) -> Path:
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "file":
        raise InputError(
            f"{scheme}:// stores are not supported by this release, which reads local directories. "
            "Give a directory, such as one on a shared file system.",
            kind=ErrorKind.INVALID_VALUE,
        )
    # Absolute, so that DuckDB takes no part of it for a prefix such as `md:`.
    return Path(os.path.abspath(os.path.expanduser(rest if separator else text)))


def token_files(root: Path) -> Iterator[Path]:
    """`tokens.arrow` of every committed shard, by run and shard; one stat per shard.

    Raises FormatError(CORRUPT) for a committed shard whose file is gone.
    """
    for run in _folders(root / RUNS_KEY):
        for shard in _folders(run / SHARDS_KEY):
            if not (shard / COMMIT_KEY).is_file():
                continue
            try:
                yield plain_file(shard, TOKENS_KEY)
            except FileNotFoundError:
                raise FormatError(
                    f"{shard / TOKENS_KEY}: gone, though its shard is committed. "
                    f"See what else is damaged: lpp-analyze verify {root}",
                    kind=ErrorKind.CORRUPT,
                ) from None


def _folders(parent: Path) -> list[Path]:
    """Sub-folders in order, without those that writers still fill, whose names begin with a dot."""
    if not parent.is_dir():
        return []
    names = sorted(p for p in plain_directory(parent).iterdir() if not p.name.startswith("."))
    return [plain_directory(path) for path in names if path.is_dir()]
