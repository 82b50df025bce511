"""Numbers that need every logit, for the tokens of two runs, in this process or on a cluster.

The rows of `final` of both runs are read in step, and each run's head computes logits of one tile
of them at a time (`logits.tiles`). In this process both heads are in memory once, and threads
compute tiles in parallel.

On a cluster the tokens are divided into one span for each processor. Spans end where a tile ends,
so every product has the same shape, and the same bits, as in one process. A task with one thread
computes a span: it reads the rows of its own tokens and both heads, so each processor reads and
holds both matrices, up to 4 V (d + d') bytes. A span has at least `SPAN_TILES` tiles, so that
reading the heads costs less than multiplying with them.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from lpp.analyze.engine.executor import Executor
from lpp.analyze.engine.workers import Workers
from lpp.analyze.logits.divergences import Columns, joined_columns
from lpp.analyze.logits.heads import head_of, place_for, why_foreign
from lpp.analyze.logits.products import check_place, products
from lpp.analyze.logits.tiles import MEMORY, rows_drift, rows_of_tile
from lpp.analyze.numerics.moments import Rows
from lpp.analyze.runs.cells import Integers
from lpp.analyze.runs.keys import RunView
from lpp.store import Run
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.progress import SILENT, Progress
from lpp.store.shared.heads import head_name

SPAN_TILES: Final = 16
"""Fewest tiles of a span, except the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Some tokens of two runs, and the numbers wanted of their logits."""

    a: RunView
    b: RunView
    prompt_id: Integers
    """(n,), ascending."""
    position: Integers
    """(n,), ascending in each prompt."""
    names: frozenset[str]
    """Columns of `divergences.logit_drift`."""
    places: tuple[str, str]
    """Where the products with the heads of A and of B are computed (`products.place_of`)."""
    tile_rows: int

    def part(self, start: int, end: int) -> "Span":
        """The span of its tokens from `start` to below `end`."""
        tokens = slice(start, end)
        return replace(self, prompt_id=self.prompt_id[tokens], position=self.position[tokens])


def logit_columns(
    views: tuple[RunView, RunView],
    frame: pl.DataFrame,
    names: Collection[str],
    executor: Executor,
    progress: Progress = SILENT,
) -> Columns:
    """Columns `names` of `divergences.logit_drift` of the tokens of `frame`, (n,) each.

    frame: has prompt_id and position, in order, and at least one row. progress: advances by the
    tokens of a tile, or of a span. Raises FormatError for altered bytes, a head of another width
    and logits that give NaN; MachineError if a machine of the cluster cannot multiply as this one
    does.
    """
    a, b = views
    prompt_id, position = (frame[name].to_numpy() for name in ("prompt_id", "position"))
    whole = Span(
        a=a,
        b=b,
        prompt_id=prompt_id,
        position=position,
        names=frozenset(names),
        places=(place_for(a.run, executor), place_for(b.run, executor)),
        tile_rows=rows_of_tile(a.run.plan.model.logits_width),
    )
    if executor.remote:
        parts = []
        for part in executor.map(_of_span, _spans(whole, executor.jobs), item_bytes=MEMORY):
            parts.append(part)
            progress.advance(len(next(iter(part.values()))))
        columns = joined_columns(parts)
    else:
        columns = _drift(whole, executor.jobs, progress)
    bad = np.logical_or.reduce([np.isnan(values) for values in columns.values()])
    if bad.any():
        first_bad = int(bad.argmax())
        raise FormatError(
            f"the logits of {a.run.id} or {b.run.id} after position {position[first_bad]} of "
            f"prompt {prompt_id[first_bad]} are no finite numbers, and so are those of {bad.sum()} "
            "tokens in all. `lpp-analyze verify` says whether bytes were altered.",
            kind=ErrorKind.CORRUPT,
        )
    return columns


def _spans(whole: Span, count: int) -> Iterator[Span]:
    """`whole` in at most `count` parts of similar size, which end where a tile ends."""
    size = whole.tile_rows
    tiles = -(-len(whole.position) // size)
    step = size * max(SPAN_TILES, -(-tiles // count))
    for start in range(0, len(whole.position), step):
        yield whole.part(start, start + step)


def _of_span(span: Span, _: Workers) -> Columns:
    """The task of one span, in any process."""
    for place in span.places:
        check_place(place)
    return _drift(span, 1, SILENT)


def _drift(span: Span, jobs: int, progress: Progress) -> Columns:
    a, b = span.a.run, span.b.run
    head = head_of(a)
    of_a = of_b = products(head, span.places[0])
    same = a.directory.root == b.directory.root and head_name(a.plan) == head_name(b.plan)
    if not same or why_foreign(b, head):
        of_b = products(head_of(b), span.places[1])
    return rows_drift(
        [_chosen_rows(run, span) for run in (a, b)],
        [of_a, of_b],
        head.vocabulary,
        span.names,
        jobs=jobs,
        tile_rows=span.tile_rows,
        progress=progress,
    )


def _chosen_rows(run: Run, span: Span) -> Iterator[Rows]:
    """The rows of `final` of the tokens of `span`, in order, one block at a time."""
    first, end = int(span.prompt_id[0]), int(span.prompt_id[-1]) + 1
    beyond = int(span.position.max()) + 1
    chosen = np.zeros((end - first, beyond + 1), bool)  # the last column is of no token
    chosen[span.prompt_id - first, span.position] = True
    count = 0
    for block in run.blocks("final", first=first, prompts=end):
        wanted = chosen[block.prompt_id - first, np.minimum(block.position, beyond)]
        rows = block.values if wanted.all() else block.values[wanted]
        count += len(rows)
        yield rows
    if count != len(span.position):
        raise FormatError(
            f"run {run.id} has {count} rows of `final` for {len(span.position)} tokens. "
            f"`lpp-analyze verify {run.directory.root}` says what was altered.",
            kind=ErrorKind.CORRUPT,
        )
