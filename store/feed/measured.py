"""What a feed knows of a site before training starts: lengths of rows, attention sinks, mean.

Each takes one pass over the rows, at the pace of the disk, and is kept (`store.shared.kept_files`).

Sinks are positions whose rows are many times longer than all others: some models give the first one
or two tokens of every prompt activations a hundred times larger than those of any other token (Xiao
et al. 2023, arXiv 2309.17453; Sun et al. 2024, arXiv 2402.17762). They alone then make the
participation ratio about 1.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from lpp.store.arrays.reader import to_float32
from lpp.store.feed.reader import Loaded, OnDamage, RunSource, SpanReader
from lpp.store.feed.spans import Spans
from lpp.store.format.rows import positions
from lpp.store.progress import SILENT, Progress
from lpp.store.runs.read import Run
from lpp.store.shared.kept_files import KeptFiles, name_of

SINK_FACTOR: Final = 10.0
"""At a sink, the median length is more than this many times that of all other rows."""


def sink_positions(
    lengths: npt.NDArray[np.float32], factor: float = SINK_FACTOR, /
) -> npt.NDArray[np.int64]:
    """Positions that are sinks, (S,) ascending, of (P, T) Euclidean lengths of the rows of P
    prompts.

    NaN: the prompt is shorter, or the row is not finite. Position p is a sink when the median of
    `lengths[:, p]` exceeds `factor` times the median of all lengths at other positions.

    >>> sink_positions(np.array([[900, 8, 9], [700, 7, np.nan]], dtype=np.float32)).tolist()
    [0]
    """
    there = np.isfinite(lengths)
    counts = there.sum(axis=0)
    ordered = np.sort(lengths[there])
    positions = []
    for p in np.flatnonzero(counts):
        median = np.median(lengths[there[:, p], p])
        others = len(ordered) - int(counts[p])
        # The median of the others is at least this: a cheap test that few positions pass.
        if others == 0 or median <= factor * ordered[(others - 1) // 2]:
            continue
        elsewhere = there.copy()
        elsewhere[:, p] = False
        if median > factor * np.median(lengths[elsewhere]):
            positions.append(int(p))
    return np.array(positions, dtype=np.int64)


class SiteMeasures:
    """Numbers of one site of a run. on_damage: as for the feed. progress: counts the rows of each
    pass.
    """

    def __init__(
        self, run: Run, site: str, on_damage: OnDamage = "raise", progress: Progress = SILENT
    ) -> None:
        self._run, self._site, self._progress = run, site, progress
        self._on_damage: OnDamage = on_damage
        self._damaged = False

    @cached_property
    def lengths(self) -> npt.NDArray[np.float32]:
        """(rows of the run,) Euclidean length of each row; NaN for prompts that were set aside and
        shards that cannot be read.
        """

        def compute() -> npt.NDArray[np.float32]:
            lengths = np.full(int(self._run.lengths.sum()), np.nan, np.float32)
            for loaded in self._pass(None):
                lengths[loaded.rows] = _lengths(to_float32(loaded.values[0]))
            return lengths

        return self._kept("lengths", pl.Float32, compute)

    @cached_property
    def sinks(self) -> npt.NDArray[np.bool_]:
        """(rows of the run,) whether the position of each row is a sink (METRICS.md)."""
        n = self._run.lengths
        position = positions(n)
        padded = np.full((len(n), int(n.max(initial=0))), np.nan, np.float32)
        padded[np.repeat(np.arange(len(n)), n), position] = self.lengths
        return np.isin(position, sink_positions(padded))

    @cached_property
    def median_length(self) -> npt.NDArray[np.float32]:
        """(rows of the run,) the median of `lengths`, everywhere."""
        return np.full(len(self.lengths), np.nanmedian(self.lengths), np.float32)

    def mean(self, spans: Spans) -> npt.NDArray[np.float32]:
        """(d,) mean of the kept rows."""

        def compute() -> npt.NDArray[np.float64]:
            total, count = np.zeros(self._width), 0
            for loaded in self._pass(spans):
                total += to_float32(loaded.values[0]).sum(axis=0, dtype=np.float64)
                count += len(loaded.rows)
            return total / max(count, 1)

        return self._kept(f"mean-{spans.digest}", pl.Float64, compute).astype(np.float32)

    def mean_length(self, spans: Spans, mean: npt.NDArray[np.float32] | None) -> float:
        """Mean Euclidean length of the kept rows, less `mean` if it is given."""

        def compute() -> npt.NDArray[np.float64]:
            total, count = 0.0, 0
            for loaded in self._pass(spans):
                rows = to_float32(loaded.values[0])
                lengths = _lengths(rows if mean is None else rows - mean)
                total += float(lengths.sum(dtype=np.float64))
                count += len(lengths)
            return np.array([total / max(count, 1)])

        kind = f"mean_length-{name_of(spans.digest, None if mean is None else mean.tobytes())}"
        return float(self._kept(kind, pl.Float64, compute)[0])

    @property
    def _width(self) -> int:
        return self._run.site(self._site).width

    def _pass(self, spans: Spans | None) -> Iterator[Loaded]:
        """Kept rows of all spans, in order, less those of prompts that were set aside."""
        spans = spans or Spans.of_rows([self._run], [self._site], None)
        reader = SpanReader([RunSource(self._run, [self._site])], spans.rows_at, self._on_damage)
        self._progress.expect(int(spans.counts.sum()))
        try:
            for loaded in reader.read((k, spans.units(k)) for k in range(len(spans.counts))):
                yield loaded
                self._damaged |= bool(loaded.damage)
                self._progress.advance(len(loaded.rows))
        finally:
            reader.close()

    def _kept(
        self, kind: str, dtype: type[pl.DataType], compute: Callable[[], npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        """An array that an earlier feed of the same rows left, or that is computed and left now."""
        run, schema = self._run, pl.Schema({"value": dtype})
        files = KeptFiles(run.directory.root, "feed")
        group = name_of(run.id, run.fingerprint, self._site)
        for kept in files.frames(group, kind, schema):
            return kept["value"].to_numpy()
        values = compute()
        if not self._damaged:  # the records, and so the name, stay when the shard is repaired
            files.put(group, kind, pl.DataFrame({"value": values}, schema))
        return values


def _lengths(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n,) Euclidean lengths."""
    lengths: npt.NDArray[np.float32] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return lengths
