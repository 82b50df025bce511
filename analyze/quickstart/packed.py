"""The store is packed in one file, which `make quickstart-store` made: the one store that lies in
the repository.
"""

import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from lpp.store.errors import InputError, first_line

PACKED: Final = Path(__file__).with_name("store.tar")
"""The file, 4 MB."""


def unpack(folder: Path) -> None:
    """Unpack the store into `folder`, which must not exist or hold this store.

    Raises InputError if `folder` holds something else.
    """
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
