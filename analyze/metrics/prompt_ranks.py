"""Effective rank of single prompts, as Diff-eRank has it (Wei et al. 2024, arXiv 2401.17139)."""

from collections.abc import Iterator, Sequence

import numpy as np

from lpp.analyze.metrics.trajectory import mean_over_prompts
from lpp.analyze.numerics.moments import Floats, Rows, centre
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.site_reader import SiteReader
from lpp.store.read import Block


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
    share = np.clip(np.linalg.eigvalsh(small), 0.0, None)
    share = share[share > 0] / share.sum()
    return max(float(-(share * np.log(share)).sum()), 0.0)


class PromptRanks:
    """Geometric mean over prompts of their effective rank, for every cell, from one read.

    exp of the mean entropy over prompts: the rank that Diff-eRank subtracts. Prompts whose states
    do not differ below the prefix are left out. Memory: the states of one prompt, and 8 bytes for
    each prompt and prefix.
    """

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._lengths = reader.lengths
        self._upper = sorted({cell.prefix for cell in cells})
        prompts = max((cell.n_prompts for cell in cells), default=0)
        self._entropy = np.full((prompts, len(self._upper)), np.nan)
        self._exists = np.zeros((prompts, len(self._upper)), dtype=bool)
        self._started: list[Rows] = []

    def add(self, block: Block) -> None:
        """Take in the next rows."""
        if len(block.values) == 0:
            return
        cuts = np.flatnonzero(np.diff(block.prompt_id)) + 1
        for rows, ids in zip(
            np.split(block.values, cuts), np.split(block.prompt_id, cuts), strict=True
        ):
            self._started.append(rows)
            if sum(map(len, self._started)) == self._lengths[ids[0]]:
                self._finish(int(ids[0]), np.concatenate(self._started))
                self._started = []

    def _finish(self, prompt: int, rows: Rows) -> None:
        if prompt >= len(self._entropy):
            return
        for column, prefix in enumerate(self._upper):
            some = rows[:prefix]
            if column and len(rows) <= self._upper[column - 1]:  # the text ended before
                self._entropy[prompt, column] = self._entropy[prompt, column - 1]
                self._exists[prompt, column] = self._exists[prompt, column - 1]
                continue
            self._entropy[prompt, column] = prompt_entropy(some)
            self._exists[prompt, column] = bool((some != some[0]).any())

    def again(self) -> bool:
        """One read is enough."""
        return False

    def values(self) -> Iterator[tuple[Cell, float]]:
        """The number of each cell, in dimensions."""
        for cell in self._cells:
            column = self._upper.index(cell.prefix)
            mean = mean_over_prompts(self._entropy[:, column], self._exists[:, column], cell)
            yield cell, float(np.exp(mean))
