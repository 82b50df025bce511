"""Where things lie in a store, found without loading the readers of `lpp.store`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.keys import (
    COMMIT_KEY,
    FORMAT_NAME,
    ROOT_KEY,
    ROOT_VERSION,
    RUNS_KEY,
    SHARDS_KEY,
    TOKENS_KEY,
)
from lpp.store.objects.paths import (
    MAX_DOCUMENT_BYTES,
    MAX_ROOT_BYTES,
    plain_directory,
    plain_file,
    read_bounded,
)
from lpp.store.objects.place import Place, Url, place


def store_root(url: Url) -> Place:
    """The absolute directory, or the bucket's prefix, of the store at `url`.

    Raises FormatError: NOT_A_STORE, or UNSUPPORTED_VERSION when a newer release wrote it;
    InputError for a scheme this release does not speak; MachineError of an object store.
    """
    root = place(url)
    if isinstance(root, Path):
        # Absolute, so that DuckDB takes no part of it for a prefix such as `md:`.
        root = Path(os.path.abspath(root))
    document = root / ROOT_KEY
    try:
        if isinstance(root, Path) and not document.is_file():
            raise FileNotFoundError
        home = root.resolve() if isinstance(root, Path) else root
        found = json.loads(read_bounded(home, ROOT_KEY, MAX_ROOT_BYTES))
        name, version = found["format"], found["version"]
    except (FileNotFoundError, NotADirectoryError):
        why = f"it holds no {ROOT_KEY}" if root.exists() else "no such directory"
        raise FormatError(
            f"{root} is not an lpp store: {why}. Give the directory that "
            "`lpp-capture run --store` wrote.",
            kind=ErrorKind.NOT_A_STORE,
        ) from None
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


def token_files(root: Path) -> Iterator[Path]:
    """`tokens.arrow` of every committed shard, by run and shard; one stat per shard.

    A record is read only where the file is not beside it: its attempt is then (SPEC.md section 6).

    Raises FormatError(CORRUPT) for a committed shard whose file is gone.
    """
    for run in _folders(root / RUNS_KEY):
        for shard in _folders(run / SHARDS_KEY):
            if not (shard / COMMIT_KEY).is_file():
                continue
            tokens = TOKENS_KEY
            if not (shard / tokens).exists():
                tokens = f"{_base(shard / COMMIT_KEY)}/{TOKENS_KEY}"
            try:
                yield plain_file(shard, tokens)
            except FileNotFoundError:
                raise FormatError(
                    f"{shard / tokens}: gone, though its shard is committed. "
                    f"See what else is damaged: lpp-analyze verify {root}",
                    kind=ErrorKind.CORRUPT,
                ) from None


def _base(record: Path) -> str:
    """The attempt that a record names; "." where it names none, or nothing that may be one."""
    try:
        base = json.loads(read_bounded(record.parent, record.name, MAX_DOCUMENT_BYTES))["base"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "."
    return base if isinstance(base, str) and base.isalnum() else "."


def _folders(parent: Path) -> list[Path]:
    """Sub-folders in order, without those that writers still fill, whose names begin with a dot."""
    if not parent.is_dir():
        return []
    names = sorted(p for p in plain_directory(parent).iterdir() if not p.name.startswith("."))
    return [plain_directory(path) for path in names if path.is_dir()]
