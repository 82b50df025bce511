"""Memory for one shard, from the first row that a backend writes to the commit.

Rows are stored in the order in which they were captured: each batch has its own range, which the
backend fills. The store needs them in the order of the prompts, so each chunk is gathered just
before it is compressed, into memory that stays in the cache. A chunk that is already in order is
compressed without this copy; if all prompts have the same length, every chunk is.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.capture.backends.finite import set_aside, statistics_not_finite
from lpp.capture.plan.backend import Batch, Captured, Outputs
from lpp.capture.plan.batches import shard_batches
from lpp.store.arrays.finite import rows_not_finite
from lpp.store.arrays.layout import NUMPY_DTYPE, Rows
from lpp.store.errors import ErrorKind, MachineError
from lpp.store.format.plan import Plan
from lpp.store.format.quarantine import IN_LOGITS, quarantine_table
from lpp.store.format.tables import STATISTICS, TOKENS_SCHEMA
from lpp.store.runs.given import given_dtype

Allocate = Callable[[int], npt.NDArray[np.uint8]]

ALIGNMENT: Final = 4096
"""Each site begins at a page boundary: memory is locked and mapped in pages."""


class ShardBuffer:
    """Memory for the largest shard of a plan, reused for every shard. Implements `ShardContent`.

    prompts: of the whole plan, `PROMPTS_SCHEMA`. allocate: returns host memory, as backends do.
    Costs `rows x width x itemsize` bytes for each site.
    """

    def __init__(self, plan: Plan, prompts: pa.Table, allocate: Allocate) -> None:
        self._plan, self._prompts = plan, prompts
        self._lengths: npt.NDArray[np.int32] = prompts["n_tokens"].to_numpy()
        ends = np.append(0, np.cumsum(self._lengths))
        most = int(np.diff(ends[list(plan.shards)]).max())
        self._hidden = self._arrays(most, allocate)
        self._integers = Outputs.of(plan).integers
        self._statistics: dict[str, npt.NDArray[Any]] = {
            name: np.empty(most, TOKENS_SCHEMA.field(name).type.to_pandas_dtype())
            for name in STATISTICS
        }
        self._token_ids = np.empty(most, np.int32)
        self._has_logits = np.empty(most, np.bool_)

    def _arrays(self, rows: int, allocate: Allocate) -> dict[str, Rows]:
        """A (rows, width) array for each site, all in one allocation."""
        types = [np.dtype(NUMPY_DTYPE[given_dtype(self._plan, s)]) for s in self._plan.sites]
        specs = [*zip(self._plan.sites, types, strict=True)]
        sizes = [-(-rows * s.width * t.itemsize // ALIGNMENT) * ALIGNMENT for s, t in specs]
        try:
            memory = allocate(sum(sizes))
        except MemoryError:
            raise MachineError(
                f"out of memory for a shard of {rows} tokens at {len(sizes)} sites: "
                f"{sum(sizes) >> 20} MiB. Capture with smaller shards (--shard-mib), or fewer "
                "--sites.",
                kind=ErrorKind.NO_MEMORY,
            ) from None
        starts = np.cumsum([0, *sizes])
        return {
            site.name: memory[start : start + rows * site.width * dtype.itemsize]
            .view(dtype)
            .reshape(rows, site.width)
            for (site, dtype), start in zip(specs, starts, strict=False)
        }

    def batches(self, shard: int) -> Iterator[Batch]:
        """Begin `shard`; yields its batches, each with the memory for its rows."""
        first, end = self._plan.shards[shard : shard + 2]
        self.shard = shard
        self._prompt_ids = range(first, end)
        self._shard_lengths = self._lengths[first:end]
        # first row of each prompt in the shard, and its position in memory
        self._starts = np.cumsum([0, *self._shard_lengths])
        self._memory_row = np.empty(self.rows, np.int64)
        self._has_logits[:] = False
        self._failed: dict[int, str] = {}
        self._not_finite: dict[str, list[npt.NDArray[np.int64]]] = {}
        self._checked = True
        filled = 0
        for batch in shard_batches(self._plan, self._prompts, shard):
            tokens = len(batch.token_ids)
            part = slice(filled, filled + tokens)
            self._memory_row[self._shard_rows(batch)] = np.arange(part.start, part.stop)
            filled += tokens
            yield replace(batch, hidden={s: rows[part] for s, rows in self._hidden.items()})

    @property
    def rows(self) -> int:
        """Tokens of the shard."""
        return int(self._starts[-1])

    def _shard_rows(self, batch: Batch) -> npt.NDArray[np.int64]:
        """(T,) the shard's row for each flat row of a batch."""
        first = self._prompt_ids[0]
        spans = zip(batch.prompt_ids, batch.lengths, strict=True)
        starts = ((self._starts[prompt - first], length) for prompt, length in spans)
        return np.concatenate([np.arange(start, start + length) for start, length in starts])

    def take(self, captured: Captured) -> None:
        """Take everything of a batch except its rows.

        Raises ValueError for a batch of another shard, or for statistics that the format does not
        have.
        """
        batch = captured.batch
        self._check(captured)
        rows = self._shard_rows(batch)
        logit_rows = rows[batch.logit_rows]
        self._token_ids[rows] = batch.token_ids
        self._has_logits[logit_rows] = True
        for name, values in captured.statistics.items():
            self._statistics[name][logit_rows] = values
        self._failed |= captured.failed
        if captured.not_finite is None:
            self._checked = False
        for site, broken in (captured.not_finite or {}).items():
            self._add_not_finite(site, rows[broken])
        self._add_not_finite(IN_LOGITS, rows[statistics_not_finite(batch, captured.statistics)])

    def _check(self, captured: Captured) -> None:
        batch = captured.batch
        if batch.shard != self.shard:
            raise ValueError(f"a batch of shard {batch.shard} came while {self.shard} fills")
        if captured.statistics.keys() != self._statistics.keys():
            raise ValueError(
                f"statistics are {sorted(captured.statistics)}, not {sorted(self._statistics)}"
            )
        for name, values in captured.statistics.items():
            expected = (len(batch.logit_rows),), self._statistics[name].dtype
            if (values.shape, values.dtype) != expected:
                actual = (values.shape, values.dtype)
                raise ValueError(f"{name}: shape and dtype are {actual}, not {expected}")

    def _add_not_finite(self, site: str, rows: npt.NDArray[np.int64]) -> None:
        if len(rows):
            self._not_finite.setdefault(site, []).append(rows)

    def chunks(self, site: str, chunk_rows: int) -> Iterator[Rows]:
        """The rows of the full shard in prompt order, `chunk_rows` at a time.

        Chunks are views, valid until the next is requested.
        """
        memory, where = self._hidden[site], self._memory_row
        breaks = np.flatnonzero(np.diff(where) != 1) + 1
        scratch = np.empty((min(chunk_rows, self.rows), memory.shape[1]), memory.dtype)
        for start in range(0, self.rows, chunk_rows):
            stop = min(start + chunk_rows, self.rows)
            inside = breaks[np.searchsorted(breaks, start, "right") :]
            if not len(inside) or inside[0] >= stop:
                first = int(where[start])
                chunk = memory[first : first + stop - start]
            else:
                chunk = scratch[: stop - start]
                # "clip" avoids a second buffer; no index is out of bounds
                np.take(memory, where[start:stop], axis=0, out=chunk, mode="clip")
            if not self._checked and site not in self._integers:
                self._add_not_finite(site, rows_not_finite(chunk) + start)
            yield chunk

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """(token table, prompts that are set aside), available once every site was read."""
        order = (*self._plan.site_names, IN_LOGITS)
        not_finite = [
            (s, np.sort(np.concatenate(self._not_finite[s])))
            for s in order
            if s in self._not_finite
        ]
        aside = set_aside(
            list(self._prompt_ids), self._shard_lengths.tolist(), self._failed, not_finite
        )
        return self._tokens([prompt.prompt_id for prompt in aside]), quarantine_table(aside)

    def _tokens(self, set_aside: list[int]) -> pa.Table:
        """(T, 11); the statistics of prompts that are set aside are null."""
        n, lengths = self.rows, self._shard_lengths
        position = np.arange(n) - np.repeat(self._starts[:-1], lengths)
        no_next = np.zeros(n, np.bool_)
        no_next[self._starts[1:] - 1] = True
        prompts = np.repeat(np.array(self._prompt_ids, np.int32), lengths)
        missing = ~self._has_logits[:n] | np.isin(prompts, set_aside)
        columns: list[pa.Array] = [
            pa.array(prompts),
            pa.array(position.astype(np.int32)),
            pa.array(self._token_ids[:n]),
        ]
        for name in STATISTICS:
            mask = missing | no_next if name.startswith("next_") else missing
            columns.append(pa.array(self._statistics[name][:n], mask=mask))
        return pa.Table.from_arrays(columns, schema=TOKENS_SCHEMA)
