"""Attention sinks of each cell: see `lpp.store.feed.measured`."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lpp.analyze.runs.cells import Cell, Integers, n_tokens
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.runs.rows.wide_block import WideBlock
from lpp.store.feed.measured import sink_positions

Lengths = npt.NDArray[np.float32]
"""(P, T) Euclidean lengths of the rows of each prompt; NaN for no row."""


class PositionNorms:
    """Sinks of every cell, from the length of every row of its prompts, whatever its prefix.

    Memory: 4 bytes for each token of the prompts, in float32.
    """

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._cells = cells
        prompts = max((cell.n_prompts for cell in cells), default=0)
        self._prompt_lengths = reader.lengths[:prompts].astype(np.int64)
        self._start = np.append(0, np.cumsum(self._prompt_lengths))
        self._norms = np.full(self._start[-1], np.nan, np.float32)

    def add(self, block: WideBlock) -> None:
        """Take in the next rows."""
        count = int(np.searchsorted(block.prompt_id, len(self._prompt_lengths)))
        if count == 0:
            return
        first = int(self._start[block.prompt_id[0]] + block.position[0])
        rows = block.values[:count]
        np.sqrt(np.einsum("nd,nd->n", rows, rows), out=self._norms[first : first + count])

    def again(self) -> bool:
        """One read is enough."""
        return False

    def values(self) -> Iterator[tuple[Cell, tuple[Cell, Integers]]]:
        """Each cell whose rows are finite, with the sinks among its prompts, ascending."""
        padded = {n: self._padded(n) for n in {cell.n_prompts for cell in self._cells}}
        sinks = {n: sink_positions(lengths) for n, lengths in padded.items()}
        for cell in self._cells:
            n = cell.n_prompts
            inside = padded[n][:, cell.first_position : cell.prefix]
            if np.isfinite(inside).sum() == n_tokens(self._prompt_lengths, cell):
                yield cell, (cell, sinks[n])

    def _padded(self, n_prompts: int) -> Lengths:
        """(P, T) lengths, NaN beyond the end of a prompt."""
        lengths = self._prompt_lengths[:n_prompts]
        padded = np.full((n_prompts, int(lengths.max(initial=0))), np.nan, np.float32)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = self._norms[: lengths.sum()]
        return padded


def n_sinks(sinks: tuple[Cell, Integers]) -> float:
    """Sinks at positions of the cell."""
    cell, positions = sinks
    return float(np.sum((positions >= cell.first_position) & (positions < cell.prefix)))


def sink_end(sinks: tuple[Cell, Integers]) -> float:
    """One past the last sink, wherever it is; 0 for none."""
    _, positions = sinks
    return float(positions[-1] + 1) if len(positions) else 0.0
