"""Some rows of a site, widened to float64 once, however many measurements use them."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Final, Protocol, Self

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.reader import to_float32
from lpp.store.runs.read import Block

TILE_BYTES: Final = 1 << 20
"""Rows that are handed on at once, in bytes of float32: they and their float64 copy stay in the
processor's cache while one measurement after another reads them."""


class WideBlock:
    """(n, d) rows in prompt and position order, n at least 1."""

    def __init__(
        self,
        values: npt.NDArray[np.float32],
        prompt_id: npt.NDArray[np.int32],
        position: npt.NDArray[np.int32],
    ) -> None:
        self.values, self.prompt_id, self.position = values, prompt_id, position

    @classmethod
    def tiles(cls, block: Block) -> Iterator[Self]:
        """The rows of `block`, as they are stored, about `TILE_BYTES` at a time."""
        n, width = block.values.shape
        step = max(1, TILE_BYTES // (4 * max(width, 1)))
        for start in range(0, n, step):
            tile = slice(start, start + step)
            values = to_float32(block.values[tile])
            yield cls(values, block.prompt_id[tile], block.position[tile])

    @cached_property
    def wide(self) -> npt.NDArray[np.float64]:
        """(n, d) `values` in float64; read it, do not change it."""
        return self.values.astype(np.float64)

    @cached_property
    def lengths(self) -> npt.NDArray[np.float64]:
        """(n,) Euclidean length of each row."""
        lengths: npt.NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", self.wide, self.wide))
        return lengths


class WideSink(Protocol):
    """What takes in widened rows as they are read."""

    def add(self, block: WideBlock) -> None:
        """Take in some rows, which follow those of the call before."""


class Tiles:
    """Hands rows on to several sinks, a tile at a time: each tile is widened once for all."""

    def __init__(self, sinks: Sequence[WideSink]) -> None:
        self._sinks = sinks

    def add(self, block: Block) -> None:
        """Take in the next rows."""
        for tile in WideBlock.tiles(block):
            for sink in self._sinks:
                sink.add(tile)
