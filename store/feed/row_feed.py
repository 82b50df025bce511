"""Feeds of single rows, each copied from the buffer into its batch; and several such feeds in fixed
shares: one model on several corpora, or several models.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lpp.store.errors import InputError
from lpp.store.feed.buffer import Buffer
from lpp.store.feed.epoch import Sections, Share, expected_prompts
from lpp.store.feed.output import Output, worker
from lpp.store.feed.resumable import ResumableFeed
from lpp.store.feed.spans import Spans
from lpp.store.progress import Progress
from lpp.store.runs.read import Run
from lpp.store.settings.arguments import check_numbers_of
from lpp.store.units import counted


class RowFeed(ResumableFeed):
    """An iterator of batches of rows. `rows` makes one and says what it gives."""

    def __init__(self, *args: Any, output: Output, progress: Progress, **options: Any) -> None:
        super().__init__(*args, **options)
        self._output, self._progress = output, progress
        self._begun = False
        self.ids: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        """(n,) the rows of the run in the last batch, counted through the tokens of all prompts."""

    @property
    def mean(self) -> Sequence[npt.NDArray[np.float32]] | None:
        """(d,) subtracted from the rows of each column: site, or run. None without `center`."""
        return self._output.mean

    @property
    def factor(self) -> Sequence[float] | None:
        """By which the rows of each column are then multiplied. None without `scale`."""
        return self._output.factor

    @property
    def batch(self) -> int:
        """Rows of a whole batch."""
        return self._order.batch

    def __str__(self) -> str:
        """What it gives and how well it is mixed, in a line."""
        rows, order, longest = int(self._spans.counts.sum()), self._order, self._spans.longest
        run, sites = self._sources[0]
        share = -(-rows // order.world)
        capacity = min(order.capacity, share)
        prompts, uniform = expected_prompts(
            order.batch,
            Spans(edges=run.row_edges, kept=self._spans.kept).counts,
            1 / order.world,
            Sections(capacity, longest, share),
            longest,
        )
        epochs = "epochs without end" if self._epochs is None else counted(self._epochs, "epoch")
        return (
            f"{rows:,} rows of {', '.join(sites)} in batches of {order.batch:,}, {epochs}; a "
            f"buffer of {capacity:,} rows; about {prompts:,.0f} prompts a batch, {uniform:,.0f} in "
            "a uniform sample"
        )

    def __next__(self) -> Any:
        if self._begun:
            return super().__next__()
        self._begun, start = True, time.monotonic()
        batch = super().__next__()
        self._progress.note(f"{self}; the first came after {time.monotonic() - start:.1f} s")
        return batch

    def __len__(self) -> int:
        """Batches of a pass of all epochs. TypeError without an end."""
        if self._epochs is None:
            raise TypeError("a feed without an end has no length: give epochs=N")
        return self._share(0).batches * self._epochs

    def _share(self, number: int) -> Share:
        return self._order.share(int(self._spans.counts.sum()), worker())

    def _next(self, buffer: Buffer) -> Any:
        left, n = buffer.epoch.share.batches - self._at["batches"], 0
        if left <= 0:
            return None
        size = min(self._order.batch, buffer.left - (left - 1))  # a row for each later batch
        columns = self._output.columns(size, buffer.memory)
        ids = np.empty(size, np.int64)
        while n < size:
            units, slots = buffer.take(size - n)
            ids[n : n + len(units)] = units
            for column, memory in zip(columns, buffer.memory, strict=True):
                # `raise` would buffer all of `out`
                np.take(memory, slots, axis=0, out=column[n : n + len(units)], mode="clip")
            n += len(units)
        self.ids = ids
        return self._output.of(columns)


class MixedRows:
    """An iterator of batches with rows of several feeds, spread evenly over each batch, in fixed
    shares. A last batch that one feed does not fill is cut to these shares.

    It ends with the feed that ends first.
    """

    def __init__(self, feeds: Sequence[RowFeed]) -> None:
        self.feeds = feeds
        """The feed of each run."""

    @property
    def ids(self) -> list[npt.NDArray[np.int64]]:
        """`RowFeed.ids` of each feed."""
        return [feed.ids for feed in self.feeds]

    @property
    def lost(self) -> int:
        """`RowFeed.lost` of all feeds."""
        return sum(feed.lost for feed in self.feeds)

    @property
    def damage(self) -> dict[str, int]:
        """`RowFeed.damage` of all feeds."""
        return {what: rows for feed in self.feeds for what, rows in feed.damage.items()}

    @property
    def mean(self) -> Sequence[npt.NDArray[np.float32]] | None:
        """What is subtracted from the rows of all runs, as `RowFeed.mean`."""
        return self.feeds[0].mean

    @property
    def factor(self) -> Sequence[float] | None:
        """By what they are then multiplied, as `RowFeed.factor`."""
        return self.feeds[0].factor

    def __iter__(self) -> "MixedRows":
        for feed in self.feeds:
            iter(feed)
        return self

    def __str__(self) -> str:
        return "; ".join(map(str, self.feeds))

    def __next__(self) -> Any:
        try:
            batches: Sequence[Any] = [next(feed) for feed in self.feeds]
        except StopIteration:
            for feed in self.feeds:
                feed.end_pass()
            raise
        batches = self._in_shares(batches)
        if not isinstance(batches[0], tuple):
            return _spread(batches)
        return tuple(_spread(columns) for columns in zip(*batches, strict=True))

    def _in_shares(self, batches: Sequence[Any]) -> Sequence[Any]:
        """The first rows of each batch, where one is short, so that all have their shares."""
        sizes = [feed.batch for feed in self.feeds]
        part = min(len(feed.ids) / size for feed, size in zip(self.feeds, sizes, strict=True))
        if part == 1:
            return batches
        cut = list[Any]()
        for feed, size, batch in zip(self.feeds, sizes, batches, strict=True):
            n = max(1, round(size * part))
            feed.ids = feed.ids[:n]
            cut.append(tuple(b[:n] for b in batch) if isinstance(batch, tuple) else batch[:n])
        return cut

    def __len__(self) -> int:
        """Batches of a pass, until the first feed ends. TypeError without an end."""
        return min(map(len, self.feeds))

    def set_epoch(self, epoch: int) -> "MixedRows":
        """Begin the next pass at this epoch of each feed, counted from 0."""
        for feed in self.feeds:
            feed.set_epoch(epoch)
        return self

    def state_dict(self) -> dict[str, Any]:
        """Where each feed is."""
        return {"feeds": [feed.state_dict() for feed in self.feeds]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch at which `state` was taken; raises what a feed's raises."""
        for feed, its in zip(self.feeds, state["feeds"], strict=True):
            feed.load_state_dict(its)

    def close(self) -> None:
        """End the threads and free the buffers; the next batch starts them again."""
        for feed in self.feeds:
            feed.close()


def shares_of(runs: Sequence[Run], weights: Sequence[float]) -> list[float]:
    """The share of each run in a batch. InputError unless each has a weight above 0."""
    numbers = check_numbers_of("weights", weights, len(runs), "run")
    return [weight / sum(numbers) for weight in numbers]


def counts_of(batch: int, shares: Sequence[float]) -> list[int]:
    """Rows of each run in a batch: as its share says, to within one. InputError if one has none."""
    ends = np.rint(np.cumsum([0.0, *shares]) * batch).astype(int)
    counts: list[int] = np.diff(ends).tolist()
    if min(counts) < 1:
        raise InputError(
            f"batch={batch}: a run with a share of {min(shares):.2g} has no row in it. Give a "
            "larger batch, or other weights."
        )
    return counts


def _spread(batches: Sequence[Any]) -> Any:
    """The rows of arrays (n, ...) as one array, those of each at even distances."""
    counts = list(map(len, batches))
    places = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
    at = np.empty(len(places), np.int64)
    at[np.argsort(places, kind="stable")] = np.arange(len(places))
    shape = (len(places), *batches[0].shape[1:])
    if isinstance(batches[0], np.ndarray):
        out = np.empty(shape, batches[0].dtype)
    else:
        out = batches[0].new_empty(shape)
    for values, slots in zip(batches, np.split(at, np.cumsum(counts)[:-1]), strict=True):
        out[slots] = values
    return out
