"""The root of a store, found without loading the readers of `lpp.store`."""

import json
import os
from pathlib import Path

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.keys import FORMAT_NAME, ROOT_KEY, ROOT_VERSION
from lpp.store.objects.paths import MAX_ROOT_BYTES, read_bounded
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
