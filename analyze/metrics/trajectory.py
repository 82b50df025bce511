"""Curvature of the path that the hidden states of one prompt take from token to token."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.site_reader import SiteReader
from lpp.store.read import Block

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
    angles, exists = turning_angles(rows)
    return float(angles[exists].mean()) if exists.any() else float("nan")


def turning_angles(rows: Rows) -> tuple[Floats, Mask]:
    """(T - 2,) angles in degrees at the inner states of (T, d), and (T - 2,) which exist."""
    steps = np.diff(rows.astype(np.float64), axis=0)
    length = np.sqrt(np.einsum("nd,nd->n", steps, steps))
    products = np.einsum("nd,nd->n", steps[:-1], steps[1:])
    scale = length[:-1] * length[1:]
    exists = scale != 0  # a NaN counts, and stays
    cosines = products / np.where(exists, scale, 1.0)
    return np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))), exists


class Curvatures:
    """Mean over prompts of their curvature, for every cell, from one read of a site's rows.

    Every prompt counts alike, whatever its length; those without an angle below the prefix are
    left out. Memory: 16 bytes for each prompt and prefix.
    """

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._upper = np.array(sorted({cell.prefix for cell in cells}))
        prompts = max((cell.n_prompts for cell in cells), default=0)
        self._sums = np.zeros((prompts, len(self._upper)))
        self._counts = np.zeros((prompts, len(self._upper)))
        self._before = Block(  # the last two rows, whose angles come with the next
            values=np.empty((0, reader.width), np.float32),
            prompt_id=np.empty(0, np.int32),
            position=np.empty(0, np.int32),
        )

    def add(self, block: Block) -> None:
        """Take in the next rows."""
        block = _joined(self._before, block)
        self._before = Block(
            values=block.values[-2:].copy(),
            prompt_id=block.prompt_id[-2:],
            position=block.position[-2:],
        )
        angles, exists = turning_angles(block.values)
        prompt, position = block.prompt_id[2:], block.position[2:]  # an angle needs its third state
        band = np.searchsorted(self._upper, position, side="right")
        counts = exists & (block.prompt_id[:-2] == prompt)
        counts &= (band < len(self._upper)) & (prompt < len(self._sums))
        where = prompt[counts], band[counts]
        np.add.at(self._sums, where, angles[counts])
        np.add.at(self._counts, where, 1.0)

    def again(self) -> bool:
        """One read is enough."""
        return False

    def values(self) -> Iterator[tuple[Cell, float]]:
        """The number of each cell."""
        sums, counts = self._sums.cumsum(axis=1), self._counts.cumsum(axis=1)
        means = sums / np.where(counts > 0, counts, 1.0)
        for cell in self._cells:
            column = int(np.searchsorted(self._upper, cell.prefix))
            yield cell, mean_over_prompts(means[:, column], counts[:, column] > 0, cell)


def mean_over_prompts(values: Floats, exists: Mask, cell: Cell) -> float:
    """Mean of `values`, (P,), over the prompts of `cell` where `exists`; NaN without any."""
    first, end = cell.gap
    chosen = exists[: cell.n_prompts].copy()
    chosen[first:end] = False
    return float(values[: cell.n_prompts][chosen].mean()) if chosen.any() else float("nan")


def _joined(before: Block, block: Block) -> Block:
    return Block(
        values=np.concatenate([before.values, block.values]),
        prompt_id=np.concatenate([before.prompt_id, block.prompt_id]),
        position=np.concatenate([before.position, block.position]),
    )
