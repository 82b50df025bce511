"""How the files of one project are read and written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lpp.store.exchange.foreign import Foreign
from lpp.store.exchange.selection import Part, Selection


@dataclass(frozen=True, kw_only=True)
class Files:
    """A reader and, for projects that are exported to, a writer."""

    read: Callable[[Path, int | None], Foreign]
    """Opens a folder; the second argument is the id that fills up samples of one length."""
    part: Callable[[Path, Selection, Part], None] | None = None
    """Writes the files of one part. Called again after a kill, it writes the same bytes."""
    finish: Callable[[Path, Selection], None] | None = None
    """Writes what covers all samples: an index, a manifest, a data set."""
    per_part: Callable[[Selection], int] | None = None
    """Samples of each part; None: as many as fit."""
