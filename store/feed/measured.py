"""What a feed knows of a site before training starts: lengths of rows, sinks, mean.

Each takes one pass over the rows, at the pace of the disk, and is kept (`store.shared.kept_files`).
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from lpp.store.arrays.reader import to_float32
from lpp.store.feed.attention_sinks import sink_positions
from lpp.store.feed.reader import Loaded, OnDamage, RunSource, SpanReader
from lpp.store.feed.spans import Spans
from lpp.store.format.rows import positions
from lpp.store.progress import SILENT, Progress
from lpp.store.runs.read import Run
from lpp.store.shared.kept_files import KeptFiles, name_of


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
