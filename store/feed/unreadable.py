"""Which rows of a run cannot be fed: found before the first batch, so that all ranks know them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lpp.store.errors import FormatError
from lpp.store.feed.reader import OnDamage, RunSource, SpanReader
from lpp.store.feed.spans import Spans
from lpp.store.progress import SILENT, Progress
from lpp.store.runs.read import Run


@dataclass(frozen=True, kw_only=True)
class Fed:
    """What is fed, and what is not."""

    spans: Spans
    lost: int
    """Kept units that are left out."""
    damage: dict[str, int]
    """What is wrong with shards that are missing or altered, and how many units that costs."""


def readable(
    runs: Sequence[Run],
    sites: Sequence[str],
    spans: Spans,
    on_damage: OnDamage,
    progress: Progress = SILENT,
) -> Fed:
    """`spans` without prompts that any of `runs` set aside and, with "skip", without all that is
    missing or altered; to find these, every row of `sites` is read once.

    Raises FormatError, unless they are skipped, for a shard without a valid record.
    """
    found = [*_unreadable(runs, sites, spans, on_damage, progress)]
    rest, counts = spans.without((first, end) for first, end, _ in found)
    damage: dict[str, int] = {}
    for count, (_, _, why) in zip(counts, found, strict=True):
        if why:
            damage[why] = damage.get(why, 0) + count
    return Fed(spans=rest, lost=sum(counts), damage=damage)


def _unreadable(
    runs: Sequence[Run],
    sites: Sequence[str],
    spans: Spans,
    on_damage: OnDamage,
    progress: Progress,
) -> Iterator[tuple[int, int, str]]:
    """Units from a first up to an end, and why they cannot be read; empty: they were set aside."""
    sources = [RunSource(run, sites) for run in runs]
    for run, source in zip(runs, sources, strict=True):

        def aside(index: int, source: RunSource = source) -> list[int] | str:
            try:
                return source.quarantined(index)
            except FormatError as error:
                if on_damage == "raise":
                    raise
                return str(error)

        edges = run.row_edges if spans.first_rows is None else np.arange(len(run.lengths) + 1)
        for k, of_shard in enumerate(run.directory.map(aside, range(run.plan.n_shards))):
            if isinstance(of_shard, str):
                first, end = edges[[*run.plan.shards[k : k + 2]]].tolist()
                yield first, end, of_shard
            else:
                yield from ((*edges[[prompt, prompt + 1]].tolist(), "") for prompt in of_shard)
    if on_damage == "raise":
        return
    rows = np.diff(spans.rows_at)
    progress.expect(int(rows.sum()))
    reader = SpanReader(sources, spans.rows_at, on_damage)
    try:
        every = ((k, np.arange(n)) for k, n in enumerate(rows.tolist()))
        for k, loaded in enumerate(reader.read(every)):
            if loaded.damage:
                yield int(spans.edges[k]), int(spans.edges[k + 1]), loaded.damage
            progress.advance(int(rows[k]))
    finally:
        reader.close()
