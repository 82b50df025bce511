"""Effective rank of single prompts, as in Diff-eRank (Wei et al. 2024, arXiv 2401.17139)."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from lpp.analyze.metrics.row_measures.prompt_parts import mean_over_prompts, slices
from lpp.analyze.numerics.moments import Floats, Rows, centre
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.runs.rows.wide_block import WideBlock

_LOST: Final = 1e-5
"""How small the result of a subtraction may be, relative to its terms: five of sixteen digits are
lost."""


def prompt_entropy(rows: Rows, /) -> float:
    """Entropy in nats of the spectrum of one prompt's (n, d) states, each of length 1.

    As Wei et al. do it: the prompt's own mean is taken off, each row is divided by its length,
    and pi = lambda / sum lambda of Z^T Z / n, with no second centring. Its exponential is the
    prompt's effective rank, 1 to min(n, d). Rows equal to the mean point nowhere and stay 0,
    where the published code divides by 0; NaN when no row differs from the mean.

    n^2 d multiply-adds and an eigensolve of size min(n, d).

    >>> rows = np.array([[3, 0], [-3, 0], [0, 1], [0, -1]], dtype=np.float32)
    >>> round(float(np.exp(prompt_entropy(rows))), 6)  # two directions, whatever the lengths
    2.0
    """
    unit: Floats = np.empty(rows.shape)
    if len(rows):
        centre(rows, out=unit)
    length = np.sqrt(np.einsum("nd,nd->n", unit, unit))
    if not np.isfinite(length.sum()) or not length.any():
        return float("nan")
    unit /= np.where(length > 0, length, 1.0)[:, None]
    small = unit @ unit.T if len(unit) <= unit.shape[1] else unit.T @ unit
    return _entropy(small)


def _entropy(products: Floats) -> float:
    """Entropy in nats of the eigenvalues of a Gram matrix over their sum."""
    share = np.clip(np.linalg.eigvalsh(products), 0.0, None)
    share = share[share > 0] / share.sum()
    return max(float(-(share * np.log(share)).sum()), 0.0)


class PromptRanks:
    """Geometric mean over prompts of their effective rank, for every cell, from one read.

    exp of the mean entropy over prompts: the rank that Diff-eRank subtracts. Prompts whose states
    do not differ among the positions of a cell are left out. One product of a prompt's rows serves
    every prefix. Memory: the states of one prompt, and 9 bytes for each prompt and prefix.
    """

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._lengths = reader.lengths
        windows = sorted({(cell.first_position, cell.prefix) for cell in cells})
        self._windows = {window: column for column, window in enumerate(windows)}
        prompts = max((cell.n_prompts for cell in cells), default=0)
        self._entropy = np.full((prompts, len(windows)), np.nan)
        self._exists = np.zeros((prompts, len(windows)), dtype=bool)
        self._started: list[Rows] = []

    def add(self, block: WideBlock) -> None:
        """Take in the next rows."""
        for prompt, rows in slices(block.prompt_id):
            if prompt < len(self._entropy):
                self._started.append(block.values[rows])
                if sum(map(len, self._started)) == self._lengths[prompt]:
                    self._finish(prompt, np.concatenate(self._started))
                    self._started = []

    def _finish(self, prompt: int, rows: Rows) -> None:
        ranks = _Windows(rows)
        by_window: dict[tuple[int, int], tuple[float, bool]] = {}  # a text may end before a prefix
        for (first, prefix), column in self._windows.items():
            window = first, min(prefix, len(rows))
            if window not in by_window:
                by_window[window] = ranks.entropy(*window), ranks.differ(*window)
            self._entropy[prompt, column], self._exists[prompt, column] = by_window[window]

    def again(self) -> bool:
        """One read is enough."""
        return False

    def values(self) -> Iterator[tuple[Cell, float]]:
        """The number of each cell, in dimensions."""
        for cell in self._cells:
            column = self._windows[cell.first_position, cell.prefix]
            mean = mean_over_prompts(self._entropy[:, column], self._exists[:, column], cell)
            yield cell, float(np.exp(mean))


class _Windows:
    """`prompt_entropy` of rows `first` to `end` of one prompt, from one Gram matrix of them all.

    The Gram matrix of centred rows is that of the rows, centred along both axes. The subtraction
    loses the digits that its terms have beyond its result: where that is more than `_LOST`, and
    where rows are not finite, the plain function computes the window.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        centred = np.empty(rows.shape)
        centre(rows, out=centred)
        self._products = centred @ centred.T if len(rows) <= rows.shape[1] else None

    def differ(self, first: int, end: int) -> bool:
        """Whether the rows are not all equal."""
        rows = self._rows[first:end]
        return bool(len(rows) > 1 and ((rows[-1] != rows[0]).any() or (rows != rows[0]).any()))

    def entropy(self, first: int, end: int) -> float:
        """In nats; NaN where no row differs from the mean."""
        if self._products is not None and first < end:
            products = self._products[first:end, first:end]
            means = products.sum(axis=0) / len(products)
            mean = float(means.sum()) / len(products)
            terms = (np.sqrt(np.diagonal(products)) + max(mean, 0.0) ** 0.5) ** 2
            centred = products - (means - mean)
            centred -= means[:, None]
            squares = np.diagonal(centred)
            if (squares > _LOST * terms).all():  # not where one is NaN
                scale = 1 / np.sqrt(squares)
                centred *= scale
                centred *= scale[:, None]
                return _entropy(centred)
        return prompt_entropy(self._rows[first:end])
