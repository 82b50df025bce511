"""Curvature of the path that the hidden states of one prompt take from token to token."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lpp.analyze.metrics.row_measures.exact_sums import split
from lpp.analyze.metrics.row_measures.prompt_parts import mean_over_prompts
from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.runs.rows.wide_block import WideBlock

Mask = npt.NDArray[np.bool_]


def curvature(rows: Rows, /) -> float:
    """Mean angle between successive differences of (T, d) states of one prompt, in degrees.

    With v_t = x_(t+1) - x_t it is the mean over t of the angle between v_t and v_(t+1): 0 on a
    straight line, 180 for going back and forth, 120 on average for independent states in many
    dimensions (v_t and v_(t+1) share one, with opposite signs). Henaff et al. 2019; Hosseini and
    Fedorenko 2023. Where a state repeats there is no direction, and its two angles are left out;
    NaN when none is left.

    >>> curvature(np.array([[0, 0], [1, 0], [1, 1]], dtype=np.float32))
    90.0
    """
    angles, exists = angles_between(np.diff(rows.astype(np.float64), axis=0))
    return float(angles[exists].mean()) if exists.any() else float("nan")


def angles_between(steps: Floats) -> tuple[Floats, Mask]:
    """(n - 1,) angles in degrees between successive ones of (n, d) steps, and which exist."""
    length = np.sqrt(np.einsum("nd,nd->n", steps, steps))
    products = np.einsum("nd,nd->n", steps[:-1], steps[1:])
    scale = length[:-1] * length[1:]
    exists = scale != 0  # a NaN counts, and stays
    cosines = products / np.where(exists, scale, 1.0)
    return np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))), exists


class Curvatures:
    """Mean over prompts of their curvature, for every cell, from one read of a site's rows.

    Every prompt counts alike, whatever its length; those without an angle among the positions of a
    cell are left out. Memory: 24 bytes for each prompt and band of positions. The sums are exact
    (`exact_sums.split`).
    """

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._cells = cells
        # The angle of states t, t + 1 and t + 2 is counted at t + 2.
        self._edges = np.unique([p for c in cells for p in (c.first_position + 2, c.prefix)])
        self._last = np.zeros((1, reader.width))  # row
        self._step = np.zeros((1, reader.width))  # from the row before it
        prompts = max((cell.n_prompts for cell in cells), default=0)
        self._sums = np.zeros((2, prompts, len(self._edges)))
        self._counts = np.zeros((prompts, len(self._edges)))

    def add(self, block: WideBlock) -> None:
        """Take in the next rows."""
        steps = np.empty((len(block.wide) + 1, block.wide.shape[1]))
        steps[0] = self._step
        np.subtract(block.wide[0], self._last, out=steps[1:2])
        np.subtract(block.wide[1:], block.wide[:-1], out=steps[2:])
        self._last, self._step = block.wide[-1:].copy(), steps[-1:].copy()
        angles, exists = angles_between(steps)
        band = np.searchsorted(self._edges, block.position, side="right") - 1
        counts = (
            exists & (block.position >= 2) & (block.prompt_id < len(self._counts)) & (band >= 0)
        )
        where = block.prompt_id[counts], band[counts]
        for sums, piece in zip(self._sums, split(angles[counts], 8), strict=True):
            np.add.at(sums, where, piece)
        np.add.at(self._counts, where, 1.0)

    def again(self) -> bool:
        """One read is enough."""
        return False

    def values(self) -> Iterator[tuple[Cell, float]]:
        """The number of each cell."""
        for cell in self._cells:
            inside = (self._edges >= cell.first_position + 2) & (self._edges < cell.prefix)
            counts = self._counts[:, inside].sum(axis=1)
            sums = self._sums[:, :, inside].sum(axis=2).sum(axis=0)
            means = sums / np.where(counts > 0, counts, 1.0)
            yield cell, mean_over_prompts(means, counts > 0, cell)
