"""Numbers that need every logit, for the tokens of two runs, in this process or on a cluster.

The rows of `final` of both runs are read in step, and each run's head computes logits of one tile
of them at a time (`drift.tiles`). In this process both heads are in memory once, and threads
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

from lpp.analyze.drift.pair import KEYS, Pair
from lpp.analyze.drift.products import check_place, described, place_of, products
from lpp.analyze.drift.tiles import MEMORY, rows_drift, rows_of_tile
from lpp.analyze.engine.executor import Executor
from lpp.analyze.engine.kept_files import name_of
from lpp.analyze.engine.workers import Workers
from lpp.analyze.numerics.logit_drift import Columns, joined
from lpp.analyze.numerics.moments import Rows
from lpp.analyze.runs.cells import Integers
from lpp.store import Run
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.keys import HEADS_KEY
from lpp.store.progress import SILENT, Progress
from lpp.store.shared.heads import head_name
from lpp.store.shared.logits import Head

SPAN_TILES: Final = 16
"""Fewest tiles of a span, except the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Some tokens of a pair, and the numbers wanted of their logits."""

    pair: Pair
    prompt_id: Integers
    """(n,), ascending."""
    position: Integers
    """(n,), ascending in each prompt."""
    names: frozenset[str]
    """Columns of `numerics.logit_drift`."""
    places: tuple[str, str]
    """Where the products with the heads of A and of B are computed (`products.place_of`)."""
    tile_rows: int

    def part(self, start: int, end: int) -> "Span":
        """The span of its tokens from `start` to below `end`."""
        some = slice(start, end)
        return replace(self, prompt_id=self.prompt_id[some], position=self.position[some])


def logit_columns(
    pair: Pair,
    frame: pl.DataFrame,
    names: Collection[str],
    executor: Executor,
    progress: Progress = SILENT,
) -> Columns:
    """Columns `names` of `numerics.logit_drift` of the tokens of `frame`, (n,) each.

    frame: has prompt_id and position, in order, and at least one row. progress: advances by the
    tokens of a tile, or of a span. Raises FormatError for altered bytes, a head of another width
    and logits that give NaN; MachineError if a machine of the cluster cannot multiply as this one
    does.
    """
    prompt_id, position = (frame[name].to_numpy() for name in KEYS[:2])
    whole = Span(
        pair=pair,
        prompt_id=prompt_id,
        position=position,
        names=frozenset(names),
        places=places(pair, executor),
        tile_rows=rows_of_tile(pair.a.run.plan.model.logits_width),
    )
    if executor.remote:
        parts = []
        for found in executor.map(_of_span, _spans(whole, executor.jobs), item_bytes=MEMORY):
            parts.append(found)
            progress.advance(len(next(iter(found.values()))))
        columns = joined(parts)
    else:
        columns = _drift(whole, executor.jobs, progress)
    bad = np.logical_or.reduce([np.isnan(values) for values in columns.values()])
    if bad.any():
        place = int(bad.argmax())
        raise FormatError(
            f"the logits of {pair.a.run.id} or {pair.b.run.id} after position {position[place]} of "
            f"prompt {prompt_id[place]} are no finite numbers, and so are those of {bad.sum()} "
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
    a, b = _heads(span.pair)
    of_a = products(a, span.places[0])
    of_b = of_a if a is b else products(b, span.places[1])
    return rows_drift(
        [_chosen_rows(view.run, span) for view in (span.pair.a, span.pair.b)],
        [of_a, of_b],
        a.vocabulary,
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


# heads


def places(pair: Pair, executor: Executor) -> tuple[str, str]:
    """Where `executor` computes the products with the heads of A and B (`products.place_of`)."""
    a, b = (place_of(head.dtype, cluster=executor.remote) for head in pair.head_records)
    return a, b


def setting_of(pair: Pair, executor: Executor, *draw: object) -> str:
    """Name of everything but the pair that decides the bits of `logit_columns`."""
    heads = (
        part
        for head in pair.head_records
        for part in (head.matrix, head.dtype, head.divisor, head.scale, head.softcap)
    )
    tile_rows = rows_of_tile(pair.a.run.plan.model.logits_width)
    return name_of(*heads, *places(pair, executor), tile_rows, *draw)


def arithmetic(pair: Pair, executor: Executor) -> str:
    """One line: the library that multiplies, and the dtypes it rounds to; empty without logits.

    It names rows that were stored in another dtype than the model's: the model computed its own
    logits from other rows.
    """
    if pair.no_logits is not None:
        return ""
    lines = []
    runs = (pair.a.run, pair.b.run)
    for run, head, place in zip(runs, pair.head_records, places(pair, executor), strict=True):
        dtype, stored = head.dtype, run.plan.stored_dtype
        other = "" if stored == dtype else f", of rows stored as {stored}"
        lines.append(described(place, dtype) + other)
    return "; ".join(dict.fromkeys(lines))


def _heads(pair: Pair) -> tuple[Head, Head]:
    """The heads of A and B; one object if both runs are of one model in one store."""
    a, b = pair.a.run, pair.b.run
    head = head_of(a)
    same = a.directory.root == b.directory.root and head_name(a.plan) == head_name(b.plan)
    return head, head if same and head.width == b.site("final").width else head_of(b)


def head_of(run: Run) -> Head:
    """The head of a run whose store holds it, its matrix in memory.

    FormatError for altered bytes, and for a head of another width.
    """
    head = run.head()
    assert head is not None, "asked without `no_logits`"
    if head.width != run.site("final").width:
        raise FormatError(
            f"{run.directory.root}/{HEADS_KEY}/{head.name}: its matrix has {head.width} columns, "
            f"final has {run.site('final').width}, so it is not the head of run {run.id}. Remove "
            "that directory and repeat the `lpp-capture run` command.",
            kind=ErrorKind.CORRUPT,
        )
    return head
