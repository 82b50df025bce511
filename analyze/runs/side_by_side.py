"""Rows of two sites of one run, the same tokens at a time.

Blocks of sites of different width end at different tokens, so one site is read block by block and
the other is asked for as many rows.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.site_reader import BLOCK_BYTES
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.read import Run

Rows = npt.NDArray[np.float32]


class RowQueue:
    """The rows of a site in order, as many at a time as are asked for; a block is held."""

    def __init__(self, run: Run, site: str, n_prompts: int) -> None:
        self._blocks = run.blocks(site, prompts=n_prompts, block_bytes=BLOCK_BYTES)
        self._where = f"{run.path}: {site}"
        self._rows: Rows | None = None

    def take(self, count: int) -> Rows:
        """The next (count, d) rows. FormatError where the site has no more."""
        parts: list[Rows] = []
        while count:
            if self._rows is None or len(self._rows) == 0:
                block = next(self._blocks, None)
                if block is None:
                    raise FormatError(
                        f"{self._where} has fewer rows than another site of its run. "
                        "`lpp-analyze verify` says what was altered.",
                        kind=ErrorKind.CORRUPT,
                    )
                self._rows = block.values
            parts.append(self._rows[:count])
            count -= len(parts[-1])
            self._rows = self._rows[len(parts[-1]) :]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def side_by_side(run: Run, site: str, other: str, cell: Cell) -> Iterator[tuple[Rows, Rows]]:
    """Rows of the tokens of a whole cell at both sites, (n, d) and (n, e)."""
    blocks = run.blocks(site, prompts=cell.n_prompts, block_bytes=BLOCK_BYTES)
    others = RowQueue(run, other, cell.n_prompts)
    for block in blocks:
        inside = (block.position >= cell.first_position) & (block.position < cell.prefix)
        yield block.values[inside], others.take(len(block.values))[inside]
