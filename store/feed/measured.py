"""What a feed knows of a site before training starts: lengths of rows, sinks, mean.

Each takes one pass over the rows, at the pace of the disk, and is kept under `analysis/feed/`.
"""

import io
import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.reader import to_float32
from lpp.store.errors import LppError
from lpp.store.feed.reader import Loaded, OnDamage, RunSource, SpanReader
from lpp.store.feed.sinks import sink_positions
from lpp.store.feed.spans import Spans
from lpp.store.format.commit_record import checksum
from lpp.store.format.keys import ANALYSIS_KEY
from lpp.store.format.rows import positions
from lpp.store.objects.locate import objects_at
from lpp.store.progress import SILENT, Progress
from lpp.store.runs.read import Run

_MOST_BYTES: Final = 1 << 36
"""Largest kept array: lengths of 16 billion rows."""

_log = logging.getLogger("lpp.store")


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

        return self._kept("lengths", compute)

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

        return self._kept(f"mean {spans.digest}", compute).astype(np.float32)

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

        kind = f"mean length {spans.digest} {'' if mean is None else checksum(mean.tobytes())}"
        return float(self._kept(kind, compute)[0])

    @property
    def _width(self) -> int:
        return self._run.site(self._site).width

    def _pass(self, spans: Spans | None) -> Iterator[Loaded]:
        """Kept rows of all spans, in order, less those of prompts that were set aside."""
        spans = spans or Spans.of_rows(self._run, (self._site,), None)
        reader = SpanReader([RunSource(self._run, [self._site])], spans.edges, self._on_damage)
        self._progress.expect(int(spans.counts.sum()))
        try:
            for loaded in reader.read((k, spans.units(k)) for k in range(len(spans.counts))):
                yield loaded
                self._damaged |= bool(loaded.damage)
                self._progress.advance(len(loaded.rows))
        finally:
            reader.close()

    def _kept(self, kind: str, compute: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """An array that an earlier feed of the same rows left, or that is computed and left now.

        It is a file of NumPy whose name has a checksum of its bytes. A damaged one is ignored.
        """
        run = self._run
        objects = objects_at(run.directory.root).below(f"{ANALYSIS_KEY}/feed")
        name = checksum(f"{run.id} {run.fingerprint} {self._site} {kind}".encode())[:16]
        try:
            for entry in objects.entries():
                if entry.name.startswith(name):
                    data = objects.get(entry.name, _MOST_BYTES)
                    if entry.name == _file_name(name, data):
                        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
        except (OSError, ValueError, LppError) as error:
            _log.warning("%s: computing again (%s)", objects.place, error)
        values = compute()
        if self._damaged:  # the records, and so the name, stay when the shard is repaired
            return values
        memory = io.BytesIO()
        np.save(memory, values)
        try:
            objects.put(_file_name(name, memory.getvalue()), memory.getvalue(), lasting=False)
        except (OSError, LppError) as error:
            _log.warning("%s: results are not kept (%s)", objects.place, error)
        return values


def _file_name(name: str, data: bytes) -> str:
    return f"{name}-{checksum(name.encode() + data)}.npy"


def _lengths(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n,) Euclidean lengths."""
    lengths: npt.NDArray[np.float32] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return lengths
