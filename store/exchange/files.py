"""How the files of one project are read and written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lpp.store.exchange.foreign import Foreign
from lpp.store.exchange.selection import Part, Selection


@dataclass(frozen=True, kw_only=True)
class Files:
    """A reader and a writer."""

    read: Callable[[Path], Foreign]
    """Opens a folder."""
    part: Callable[[Path, Selection, Part], None]
    """Writes the files of one part. Called again after a kill, it writes the same bytes."""
    finish: Callable[[Path, Selection], None] | None = None
    """Writes what covers all samples: a data set."""
