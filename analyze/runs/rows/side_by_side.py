"""Rows of the same tokens at several sites, of one run or of two, in step.

Blocks of sites of different width, and of runs of different shards, end at different tokens.
`in_step` cuts each block where the first of them ends; `RowQueue` gives as many rows of a site as
are asked for.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from lpp.analyze.numerics.moments import Rows
from lpp.analyze.runs.cells import Integers
from lpp.analyze.runs.rows.site_reader import READ_BYTES
from lpp.store.arrays.reader import ReadAs
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.runs.read import Block, Run

NOBODY: Final[Integers] = np.empty(0, np.int32)


class Step(NamedTuple):
    """Some tokens, and their rows at each site."""

    prompt_id: Integers
    """(n,)"""
    position: Integers
    """(n,)"""
    rows: list[Rows]
    """(n, d) of each site; d may differ."""


def in_step(
    sources: Sequence[tuple[Run, str]],
    prompts: range,
    *,
    block_rows: int,
    excluded: Integers = NOBODY,
    dtype: ReadAs = "float32",
) -> Iterator[Step]:
    """Rows of the tokens of `prompts` at each of `sources`, a run and a site, in order.

    The runs have read the same prompts. block_rows: rows at a time, at most. excluded: ids of
    prompts whose rows are skipped: without them the sources hold the same tokens. dtype: of the
    rows, as for `Run.blocks`. Ends where the first source ends, so the caller compares the number
    of rows with what there should be. Memory: a block of each source, as many rows or one chunk.
    """
    streams = [
        _without(
            run.blocks(
                site,
                first=prompts.start,
                prompts=prompts.stop,
                block_bytes=4 * run.site(site).width * block_rows,
                dtype=dtype,
            ),
            excluded,
        )
        for run, site in sources
    ]
    blocks = [next(stream, None) for stream in streams]
    used = [0] * len(blocks)
    while (held := [block for block in blocks if block is not None]) and len(held) == len(blocks):
        left = (len(block.values) - start for block, start in zip(held, used, strict=True))
        count = min(block_rows, *left)
        first, begin = held[0], used[0]
        yield Step(
            first.prompt_id[begin : begin + count],
            first.position[begin : begin + count],
            [block.values[start : start + count] for block, start in zip(held, used, strict=True)],
        )
        for k, block in enumerate(held):
            used[k] += count
            if used[k] == len(block.values):
                blocks[k], used[k] = next(streams[k], None), 0


def _without(blocks: Iterator[Block], excluded: Integers) -> Iterator[Block]:
    """`blocks` less the rows of the prompts in `excluded`; none is empty."""
    for block in blocks:
        rest = block.without(excluded)
        if len(rest.values):
            yield rest


class RowQueue:
    """The rows of a site in order, as many at a time as are asked for; a block is held."""

    def __init__(self, run: Run, site: str, n_prompts: int) -> None:
        self._blocks = run.blocks(site, prompts=n_prompts, block_bytes=READ_BYTES)
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
