"""Reading one site's rows in order, stopping where a number of prompts is complete.

Rows come in prompt order, so the first n prompts are complete at one point of the read, and their
numbers are taken there: one read serves every number of prompts.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from lpp.analyze.runs.cells import Cell, Integers, n_tokens
from lpp.store.arrays.reader import ReadAs
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.runs.read import Block, Run

READ_BYTES: Final = 16 << 20
"""Rows read at a time, in bytes of float32. Larger blocks were not faster, only larger: rows wait
in their bands anyway."""


class Sink(Protocol):
    """What takes in rows as they are read."""

    def add(self, block: Block) -> None:
        """Take in some rows, which follow those of the call before."""


@dataclass(frozen=True, slots=True)
class SiteReader:
    """One site of a run; lengths: (P,) tokens of each prompt."""

    run: Run
    site: str
    lengths: Integers

    @property
    def width(self) -> int:
        """Columns d of a row."""
        return self.run.site(self.site).width

    def read(
        self, sizes: Sequence[int], *sinks: Sink, first: int = 0, dtype: ReadAs = "float32"
    ) -> Iterator[int]:
        """Fill `sinks`; yield each of `sizes`, ascending, once its prompts are in, no more.

        first: the prompt to begin with. dtype: of the rows, as for `Run.blocks`.
        """
        ahead = deque(sizes)
        blocks = self.run.blocks(
            self.site, first=first, prompts=sizes[-1], block_bytes=READ_BYTES, dtype=dtype
        )
        for block in _read_ahead(blocks):
            start = 0
            while block.prompt_id[-1] >= ahead[0]:
                end = int(np.searchsorted(block.prompt_id, ahead[0]))
                _add(block, slice(start, end), sinks)
                start = end
                yield ahead.popleft()
            _add(block, slice(start, None), sinks)
        yield from ahead  # the last size, and any that a damaged store has no rows for

    def check(self, cell: Cell, n_rows: int) -> None:
        """Raise FormatError unless the prompts of `cell` have `n_rows` rows."""
        expected = n_tokens(self.lengths, cell)
        if n_rows != expected:
            raise FormatError(
                f"{self.run.path}: {self.site} has {n_rows} rows where its prompts have {expected} "
                f"tokens ({cell.n_prompts} prompts, prefix {cell.prefix}). "
                f"`lpp-analyze verify {self.run.path.parent.parent}` says what was altered.",
                kind=ErrorKind.CORRUPT,
            )


def _add(block: Block, part: slice, sinks: Iterable[Sink]) -> None:
    piece = Block(
        values=block.values[part], prompt_id=block.prompt_id[part], position=block.position[part]
    )
    for sink in sinks:
        sink.add(piece)


def _read_ahead(blocks: Iterator[Block]) -> Iterator[Block]:
    """`blocks`, each read and unpacked on another thread while the one before it is in use."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="lpp-read") as reader:
        coming = reader.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = reader.submit(next, blocks, None)
            yield block
