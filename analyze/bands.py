"""Spectra of one site from one read of its rows, for any prefixes and numbers of prompts.

X(L) is nested: the rows below a prefix are those of its position bands. Each row goes to its band
once; a prefix is the merge of the bands below it. Rows come in prompt order, so the first n
prompts are complete at one point of the read, and their numbers are taken there: one read serves
every number of prompts as well.

Memory for b bands of width d, whatever the number of prompts: a float64 scatter (8 d^2 bytes) and
up to max(d, 1024) waiting float32 rows (4 d of them) per band, two d^2 matrices to merge and
multiply in, two blocks of rows (one being read ahead) and the eigensolve's own copy. Ten bands:
63 MB at d = 576, 2.0 GB at d = 3,584. Rows wait so that a product is worth its d x d addition, and
because a prefix with N < d rows is still whole among them: its N x N Gram matrix costs less.
"""

import itertools
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from lpp.analyze.cells import Cell, Integers, n_tokens
from lpp.analyze.moments import Gram, Moments, Rows, Spread, Workspace, chunk_rows
from lpp.analyze.summary import Demand, Summary, summarize
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.run import Block, Run

BLOCK_BYTES: Final = 16 << 20
"""Rows read at a time, in bytes of float32. Larger blocks were not faster, only larger: rows wait
in their bands anyway."""


def site_summaries(
    run: Run, site: str, wanted: Mapping[Cell, Demand], lengths: Integers
) -> dict[Cell, Summary]:
    """The summary that is wanted of each cell of `site`, from one read of its rows.

    lengths: (P,), tokens of each prompt. Raises FormatError when the rows are not those that
    the prompts say.
    """
    sizes: dict[int, list[Cell]] = defaultdict(list)
    for cell in sorted(wanted):
        sizes[cell.n_prompts].append(cell)
    if not sizes:
        return {}
    width = next(spec.width for spec in run.plan.sites if spec.name == site)
    bands = Bands(width, sorted({cell.prefix for cell in wanted}), lengths[: max(sizes)])
    found: dict[Cell, Summary] = {}
    # Rows that are not finite give NaN, which says more than a warning would.
    with np.errstate(invalid="ignore", over="ignore"):
        for n_prompts in _read_by_size(run, site, sorted(sizes), bands):
            for prefix, spread in bands.spreads({cell.prefix for cell in sizes[n_prompts]}):
                cell = Cell(n_prompts, prefix)
                _check_rows(run, site, cell, spread.n, n_tokens(lengths, cell))
                found[cell] = summarize(spread, wanted[cell])
    return found


def _read_by_size(run: Run, site: str, sizes: Sequence[int], bands: "Bands") -> Iterator[int]:
    """Fill `bands` from the site's rows; yield each size once its prompts are in, no more."""
    ahead = deque(sizes)
    for block in _read_ahead(run.blocks(site, prompts=sizes[-1], block_bytes=BLOCK_BYTES)):
        start = 0
        while block.prompt_id[-1] >= ahead[0]:
            end = int(np.searchsorted(block.prompt_id, ahead[0]))
            bands.add(block.values[start:end], block.position[start:end])
            start = end
            yield ahead.popleft()
        bands.add(block.values[start:], block.position[start:])
    yield from ahead  # the last size, and any that a damaged store has no rows for


def _read_ahead(blocks: Iterator[Block]) -> Iterator[Block]:
    """`blocks`, each read and unpacked on another thread while the one before it is in use."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="lpp-read") as reader:
        coming = reader.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = reader.submit(next, blocks, None)
            yield block


def _check_rows(run: Run, site: str, cell: Cell, found: int, expected: int) -> None:
    if found != expected:
        raise FormatError(
            f"{run.path}: {site} has {found} rows where its prompts have {expected} tokens "
            f"({cell.n_prompts} prompts, prefix {cell.prefix}). "
            f"`lpp-analyze verify {run.path.parent.parent}` says what was altered.",
            kind=ErrorKind.CORRUPT,
        )


class Bands:
    """Rows of one site sorted into position bands, as moments and waiting rows.

    upper: band b holds positions `upper[b - 1] <= position < upper[b]`.
    lengths: (P,) tokens of the prompts to come, for the sizes of the buffers.
    """

    def __init__(self, dim: int, upper: Sequence[int], lengths: Integers) -> None:
        self._dim = dim
        self._upper = np.array(upper)
        counts = np.diff([n_tokens(lengths, Cell(len(lengths), e)) for e in (0, *upper)])
        self._bands = [_Band(dim, int(count)) for count in counts]
        self._work = Workspace(dim, max_rows=int(counts.max(initial=0)))

    def add(self, values: Rows, position: Integers) -> None:
        """Take in rows (n, d) at `position`, (n,); those beyond the last band are left out."""
        band = np.searchsorted(self._upper, position, side="right").astype(np.uint16)
        order = np.argsort(band, kind="stable")  # sixteen bits: a radix sort
        bounds = np.searchsorted(band[order], np.arange(len(self._bands) + 1))
        for b, (start, end) in enumerate(itertools.pairwise(bounds)):
            self._bands[b].add(values, order[start:end], self._work)

    def spreads(self, prefixes: Iterable[int]) -> Iterator[tuple[int, Spread]]:
        """Each of `prefixes`, ascending, with the spread of its rows so far.

        Valid until the next is taken: one running merge serves them all.
        """
        running, merged = Moments.empty(self._dim), 0
        for prefix in sorted(prefixes):
            below = self._bands[: int(np.searchsorted(self._upper, prefix)) + 1]
            if sum(band.n for band in below) < self._dim:
                yield prefix, Gram.from_rows(np.concatenate([band.waiting for band in below]))
                continue
            for band in below[merged:]:
                if band.moments is not None:
                    running.add(band.moments)
                running.add_rows(band.waiting, self._work)
            merged = len(below)
            yield prefix, running


class _Band:
    """Rows at some positions: those that wait for a product, and the moments of the others.

    A band of fewer than `dim` rows has no moments: all its rows wait.
    """

    def __init__(self, dim: int, expected: int) -> None:
        self._rows: Rows = np.empty((max(1, min(expected, chunk_rows(dim))), dim), np.float32)
        self._filled = 0
        self.moments: Moments | None = None

    @property
    def n(self) -> int:
        """Rows so far."""
        return self._filled + (self.moments.n if self.moments else 0)

    @property
    def waiting(self) -> Rows:
        """Rows that `moments` does not hold yet, (k, d)."""
        return self._rows[: self._filled]

    def add(self, values: Rows, which: Integers, work: Workspace) -> None:
        """Take in `values[which]`."""
        while len(which):
            if self._filled == len(self._rows):
                self._multiply(work)
            some = which[: len(self._rows) - self._filled]
            to = self._rows[self._filled : self._filled + len(some)]
            np.take(
                values, some, axis=0, out=to, mode="clip"
            )  # "raise" would copy through a buffer
            self._filled += len(some)
            which = which[len(some) :]

    def _multiply(self, work: Workspace) -> None:
        if self.moments is None:
            self.moments = Moments.empty(self._rows.shape[1])
        self.moments.add_rows(self.waiting, work)
        self._filled = 0
