"""The store is packed in one file, which `make quickstart-store` captures and a wheel carries."""

import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from lpp.store.errors import InputError, NotFoundError, first_line

PACKED: Final = Path(__file__).with_name("store.tar")
"""The file. A clone has none until it is made: stores are not committed."""


def unpack(folder: Path) -> None:
    """Unpack the store into `folder`, which must not exist or hold this store.

    Raises InputError where there is no file, or `folder` holds something else.
    """
    if not PACKED.exists():
        raise NotFoundError(
            "This installation carries no store. In a clone of lpp-engine, `make quickstart-store` "
            "captures it in two minutes, and `make demo` captures a larger one."
        )
    with tarfile.open(PACKED) as archive:
        first_run = next(name for name in archive.getnames() if name.count("/") == 1)
        if (folder / first_run).exists():
            return
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=".lpp-", dir=folder.parent) as parts:
                whole = Path(parts, "store")
                archive.extractall(whole, filter="data")
                whole.replace(folder)  # whole, and over an empty folder alone
        except OSError as error:
            if not (folder / first_run).exists():  # else another process unpacked it meanwhile
                raise InputError(
                    f"--store: {folder} holds something else or cannot be made "
                    f"({first_line(error)}). Name a new directory."
                ) from None
