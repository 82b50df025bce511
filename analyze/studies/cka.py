"""Linear CKA: how alike two sites of one run are, whatever the rotation and scale of either.

For X and Y, the same N tokens at two sites, columns centred:

    CKA = ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)

1 for equal up to a rotation and a scale, 0 for uncorrelated columns (Kornblith et al. 2019). The
estimate is the plain, biased one: unrelated rows have about d / (N + d), so N belongs beside it.

Rows of two sites are read side by side, a block at a time; what is kept is the cross-scatter
Y^T X and the scatter of one site, whose norm then serves the next pair: 2 N d^2 multiply-adds a
pair of neighbours, each site read twice. Memory: four float64 matrices d x d and two blocks.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from lpp.analyze.numerics.moments import Moments, Rows, Workspace, centre
from lpp.analyze.runs.cells import Cell, n_tokens
from lpp.analyze.runs.keys import RunView, depth
from lpp.analyze.runs.site_reader import BLOCK_BYTES, SiteReader
from lpp.store.commands.progress import SILENT, Progress

SCHEMA = pl.Schema(
    {
        "run": pl.String,
        "prefix": pl.Int32,
        "n_prompts": pl.Int32,
        "site": pl.String,
        "other_site": pl.String,
        "depth": pl.Int32,
        "other_depth": pl.Int32,
        "n_tokens": pl.Int64,
        "cka": pl.Float64,
    }
)
"""One row for each pair of sites, the shallower one first."""


def linear_cka(x: Rows, y: Rows, /) -> float:
    """Linear CKA of (N, d) and (N, e) rows of the same N tokens, between 0 and 1.

    NaN where either has no variance, and for rows that are not finite.

    >>> x = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float32)
    >>> linear_cka(x, 3 * x[:, ::-1])  # a reflection, a scale
    1.0
    >>> round(linear_cka(x, x[:, :1]), 6)  # one of two equal directions: 1 / sqrt(2)
    0.707107
    """
    cross = CrossScatter(x.shape[1], y.shape[1])
    cross.add(x, y)
    norms = [float(np.linalg.norm(Moments.from_rows(rows).scatter)) for rows in (x, y)]
    return cross.alignment(*norms)


class CrossScatter:
    """Sum over tokens of the outer products of two sites' centred rows, merged block by block."""

    def __init__(self, width: int, other_width: int) -> None:
        self.n = 0
        self._mean, self._other_mean = np.zeros(width), np.zeros(other_width)
        self._scatter = np.zeros((width, other_width))

    def add(self, x: Rows, y: Rows) -> None:
        """Take in (n, d) and (n, e) rows of the same tokens."""
        count = len(x)
        if count == 0:
            return
        a, b = np.empty(x.shape), np.empty(y.shape)
        delta = centre(x, out=a) - self._mean
        other_delta = centre(y, out=b) - self._other_mean
        total = self.n + count
        self._scatter += a.T @ b
        self._scatter += np.outer(delta * (self.n * count / total), other_delta)
        self._mean += delta * (count / total)
        self._other_mean += other_delta * (count / total)
        self.n = total

    def alignment(self, norm: float, other_norm: float) -> float:
        """The CKA, given the Frobenius norms of the two sites' own scatter matrices."""
        scale = norm * other_norm
        if scale == 0 or not math.isfinite(scale):
            return float("nan")
        return min(float(np.vdot(self._scatter, self._scatter)) / scale, 1.0)


def pairs_of(sites: Sequence[str], *, every: bool = False) -> list[tuple[str, str]]:
    """Neighbours among `sites`, which are in depth order; every two of them if asked.

    >>> pairs_of(["embed", "block.1", "final"])
    [('embed', 'block.1'), ('block.1', 'final')]
    """
    return list(itertools.combinations(sites, 2) if every else itertools.pairwise(sites))


def cka_rows(
    view: RunView,
    pairs: Sequence[tuple[str, str]],
    cell: Cell,
    *,
    progress: Progress = SILENT,
) -> pl.DataFrame:
    """The CKA of each of `pairs` over the tokens of `cell`: columns `SCHEMA`.

    progress: advances by one for each pair. Raises FormatError: altered bytes.
    """
    norms: dict[str, float] = {}
    found = []
    n_blocks = view.run.plan.model.n_blocks
    tokens = n_tokens(view.lengths, cell)
    for pair in pairs:
        value = _pair(view, pair, cell, norms)
        depths = [depth(site, n_blocks) for site in pair]
        found.append((view.run.id, cell.prefix, cell.n_prompts, *pair, *depths, tokens, value))
        progress.advance()
        progress.note(f"{view.run.id} {pair[0]} and {pair[1]}")
    return pl.DataFrame(found, schema=SCHEMA, orient="row").with_columns(
        pl.col("cka").fill_nan(None)
    )


def _pair(view: RunView, pair: tuple[str, str], cell: Cell, norms: dict[str, float]) -> float:
    """CKA of one pair; the norms of sites that it meets for the first time go into `norms`."""
    readers = [SiteReader(view.run, site, view.lengths) for site in pair]
    widths = [reader.width for reader in readers]
    cross = CrossScatter(*widths)
    new = {
        place: (Moments.empty(widths[place]), Workspace(widths[place]))
        for place, site in enumerate(pair)
        if site not in norms
    }
    # Rows that are not finite give NaN, which says more than a warning would.
    with np.errstate(invalid="ignore", over="ignore"):
        for rows in _side_by_side(view, pair, cell):
            cross.add(*rows)
            for place, (moments, work) in new.items():
                moments.add_rows(rows[place], work)
        readers[0].check(cell, cross.n)
        for place, (moments, _) in new.items():
            norms[pair[place]] = float(np.linalg.norm(moments.scatter))
        return cross.alignment(*(norms[site] for site in pair))


def _side_by_side(view: RunView, pair: tuple[str, str], cell: Cell) -> Iterator[tuple[Rows, Rows]]:
    """Rows of the cell's tokens at both sites, the same tokens at a time.

    Blocks of sites of different width end at different tokens: each is cut where the other ends.
    """
    streams = [
        view.run.blocks(site, prompts=cell.n_prompts, block_bytes=BLOCK_BYTES) for site in pair
    ]
    held: list[Rows] = [np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)]
    while True:
        for place, stream in enumerate(streams):
            while len(held[place]) == 0:
                block = next(stream, None)
                if block is None:
                    return
                held[place] = block.values[block.position < cell.prefix]
        count = min(map(len, held))
        yield held[0][:count], held[1][:count]
        held = [rows[count:] for rows in held]
