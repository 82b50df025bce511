"""The name that a user chooses for a run, `--name`."""

from contextlib import suppress

from lpp.store.errors import FormatError, InputError
from lpp.store.objects.place import Url
from lpp.store.runs.add_fields import rename
from lpp.store.store import open_if_any


def name_run(root: Url, run: str, name: str | None) -> None:
    """Give the run with the id `run` this name, if the store at `root` has the run; None: none.

    Raises InputError if another run has the name, ConflictError as `rename`.
    """
    store = None if name is None else open_if_any(root)
    if store is None or name is None:
        return
    for other, called in store.names.items():
        if other != run and name.casefold() in (other, called.casefold()):
            raise InputError(
                f"--name {name}: run {other} of {store.path} is called so. Choose another name.",
            )
    if run in store.runs:
        with suppress(FormatError):  # a damaged record is written again, with the name
            rename(store.runs[run], name)
