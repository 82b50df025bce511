"""How much a block changes its input: block influence (ShortGPT, Men et al. 2024)."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lpp.analyze.metrics.row_measures.anisotropy import inverse
from lpp.analyze.metrics.row_measures.exact_sums import split
from lpp.analyze.metrics.row_measures.prompt_parts import Parts
from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.rows.side_by_side import RowQueue
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.runs.rows.wide_block import WideBlock


def block_influence(before: Rows, after: Rows, /) -> float:
    """1 - mean cosine of the (N, d) input and output rows of a block, 0 to 2.

    0 where a block only scales its rows. Rows of length 0 on either side are left out; NaN for no
    others.

    >>> before = np.array([[1, 0], [0, 2]], dtype=np.float32)
    >>> block_influence(before, np.array([[3, 0], [1, 0]], dtype=np.float32))  # cosines 1 and 0
    0.5
    """
    sides = [
        WideBlock(rows, np.zeros(len(rows), np.int32), np.zeros(len(rows), np.int32))
        for rows in (before, after)
    ]
    cosines, exists = _cosines(*sides)
    return 1 - float(cosines[exists].mean()) if exists.any() else float("nan")


def input_site(site: str) -> str | None:
    """The site whose rows go into the block that `site` is the output of; None for no block.

    >>> [input_site(site) for site in ("embed", "block.1", "block.7", "final")]
    [None, 'embed', 'block.6', None]
    """
    if not site.startswith("block."):
        return None
    k = int(site.removeprefix("block."))
    return f"block.{k - 1}" if k > 1 else "embed"


class BlockInfluence:
    """The number of every cell, from one read of a block's input and output rows, side by side.

    No cell has a number where the input was not captured. Memory: a block of rows of the input,
    and 24 bytes for each part. The sums are exact (`exact_sums.split`).
    """

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._parts = Parts(cells)
        self._sums = np.zeros((2, self._parts.count + 1))  # the last is of no cell
        self._counts = np.zeros(self._parts.count + 1)
        before = input_site(reader.site)
        self._inputs = None
        if before in reader.run.sites and reader.run.site(before).width == reader.width:
            self._inputs = RowQueue(reader.run, before, max(cell.n_prompts for cell in cells))

    def add(self, block: WideBlock) -> None:
        """Take in the next rows."""
        if self._inputs is None:
            return
        rows = self._inputs.take(len(block.values))
        cosines, exists = _cosines(WideBlock(rows, block.prompt_id, block.position), block)
        part = self._parts.of(block.prompt_id, block.position)[exists]
        size = len(self._counts)
        self._sums += [np.bincount(part, piece, size) for piece in split(cosines[exists], 0)]
        self._counts += np.bincount(part, minlength=size)

    def again(self) -> bool:
        """One read is enough."""
        return False

    def values(self) -> Iterator[tuple[Cell, float]]:
        """The number of each cell."""
        for cell in self._cells if self._inputs is not None else ():
            inside = np.flatnonzero(self._parts.inside(cell))
            n = self._counts[inside].sum()
            yield (
                cell,
                1 - float(self._sums[:, inside].sum(axis=1).sum() / n) if n else float("nan"),
            )


def _cosines(before: WideBlock, after: WideBlock) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(n,) cosine of the rows of each token, and whether it has one."""
    products = np.einsum("nd,nd->n", before.wide, after.wide)
    scale = inverse(before.lengths) * inverse(after.lengths)
    return np.minimum(products * scale, 1.0), (before.lengths != 0) & (after.lengths != 0)
