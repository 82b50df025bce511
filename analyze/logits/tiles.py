"""Logits of the same tokens of two models, reduced one tile of rows at a time.

Only a few tiles are in memory, whatever the number of tokens and V, the number of columns. Tiles
are computed in parallel, one thread each; the bits are the same for any number of jobs.
"""

import queue
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np

from lpp.analyze.logits.divergences import Columns, Reduction, joined_columns, logit_drift
from lpp.analyze.logits.products import Products, one_thread_each
from lpp.analyze.numerics.moments import Rows
from lpp.store.progress import SILENT, Progress
from lpp.store.shared.logits import LOGIT_TILE_BYTES

TILE_ROWS: Final = 256
"""Rows of a tile, if `LOGIT_TILE_BYTES` hold them: 128 for 262,144 columns. A head's matrix is read
once for each tile; with fewer rows that read would take longer than the product."""

MEMORY: Final = 2 << 30
"""Bytes of logits in progress, whatever the number of jobs; at least two tiles."""


def rows_of_tile(vocabulary: int) -> int:
    """Rows that are multiplied together, for V columns. The last bits of a product depend on it."""
    return max(1, min(TILE_ROWS, LOGIT_TILE_BYTES // (4 * vocabulary)))


def rows_drift(
    rows: Sequence[Iterable[Rows]],
    heads: Sequence[Products],
    vocabulary: int,
    only: Collection[str],
    *,
    jobs: int,
    tile_rows: int | None = None,
    progress: Progress = SILENT,
) -> Columns:
    """Columns `only` of `logit_drift`, (n,) each, from two models' rows of the same n tokens.

    rows, heads: of model A and of B; blocks of (m, d) rows, which may end at different tokens.
    vocabulary: V. jobs: tiles in parallel, as far as `MEMORY` allows. tile_rows: `rows_of_tile` by
    default. progress: advances by the tokens of a tile. Raises ValueError if one model has more
    rows.
    """
    size = tile_rows or rows_of_tile(vocabulary)
    at_once = max(1, min(jobs, MEMORY // (2 * 4 * size * vocabulary)))
    slots: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
    for _ in range(at_once):
        slots.put(_Slot(heads, size, vocabulary, only))

    def drift(tiles: tuple[Rows, ...]) -> Columns:
        slot = slots.get()
        try:
            return slot.drift(tiles)
        finally:
            slots.put(slot)

    nothing = np.empty((0, vocabulary), np.float32)
    parts = [logit_drift(nothing, nothing, only)]
    under_way: deque[Future[Columns]] = deque()

    def take() -> None:
        parts.append(under_way.popleft().result())
        progress.advance(len(next(iter(parts[-1].values()))))

    with one_thread_each(), ThreadPoolExecutor(at_once, "lpp-drift") as pool:
        try:
            for tiles in zip(*(_tiles(blocks, size) for blocks in rows), strict=True):
                under_way.append(pool.submit(drift, tiles))
                if len(under_way) > at_once:
                    take()
            while under_way:
                take()
        finally:
            for waiting in under_way:
                waiting.cancel()
    return joined_columns(parts)


class _Slot:
    """Memory for one tile of both models, and for its reduction."""

    def __init__(
        self, heads: Sequence[Products], size: int, vocabulary: int, only: Collection[str]
    ) -> None:
        self._reduction = Reduction(vocabulary, only)
        self._tiles = [head(size, self._reduction.rows) for head in heads]

    def drift(self, rows: tuple[Rows, ...]) -> Columns:
        """Columns for the tokens of one tile, from (n, d) rows of both models."""
        made = (tile(of_model) for tile, of_model in zip(self._tiles, rows, strict=True))
        return joined_columns([self._reduction.drift(p, q) for p, q in zip(*made, strict=True)])


def _tiles(blocks: Iterable[Rows], size: int) -> Iterator[Rows]:
    """The rows of `blocks` as (size, d) tiles, the last one shorter.

    >>> [len(tile) for tile in _tiles([np.ones((3, 1)), np.ones((4, 1))], 2)]
    [2, 2, 2, 1]
    """
    waiting: list[Rows] = []
    count = 0
    for block in blocks:
        rest = block
        while count + len(rest) >= size:
            yield np.concatenate([*waiting, rest[: size - count]])
            waiting, rest, count = [], rest[size - count :], 0
        if len(rest):
            waiting.append(rest)
            count += len(rest)
    if waiting:
        yield np.concatenate(waiting)
