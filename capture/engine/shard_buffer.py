"""Room for one shard while it fills: rows land at their prompt's place, in prompt order."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.capture.plan.backend import Captured
from lpp.store.arrays.layout import NUMPY_DTYPE, Rows
from lpp.store.errors import ErrorKind, MachineError
from lpp.store.format.plan import Plan
from lpp.store.format.quarantine import SetAside, quarantine_table
from lpp.store.format.tables import STATISTICS, TOKENS_SCHEMA


class ShardBuffer:
    """Arrays for the largest shard of a plan, allocated once and filled again and again.

    lengths: tokens of each prompt of the plan. Costs `rows x width x itemsize` bytes for each
    site, 256 MiB in all by default; nothing where the plan keeps no rows.
    """

    def __init__(self, plan: Plan, lengths: npt.NDArray[np.int32]) -> None:
        self._plan = plan
        self._lengths = lengths
        ends = np.append(0, np.cumsum(lengths))
        self._shard_start = ends[list(plan.shards)]
        rows = int(np.diff(self._shard_start).max())
        self._prompt_start = ends
        # of a plan without rows, arrays of none: what comes is checked against them all the same
        room = rows if plan.keeps_rows else 0
        try:
            self._hidden: dict[str, Rows] = {
                site.name: np.empty((room, site.width), NUMPY_DTYPE[plan.stored_dtype])
                for site in plan.sites
            }
        except MemoryError:
            raise MachineError(
                f"out of memory for a shard of {rows} tokens at {len(plan.sites)} sites. "
                "Capture with smaller shards (--shard-mib), or fewer --sites.",
                kind=ErrorKind.NO_MEMORY,
            ) from None
        self._statistics: dict[str, npt.NDArray[Any]] = {
            name: np.empty(rows, TOKENS_SCHEMA.field(name).type.to_pandas_dtype())
            for name in STATISTICS
        }
        self._token_ids = np.empty(rows, np.int32)
        self._asked = np.empty(rows, np.bool_)
        self.begin(0)

    def begin(self, shard: int) -> None:
        """Empty the buffer for `shard`."""
        self.shard = shard
        self.rows = int(self._shard_start[shard + 1] - self._shard_start[shard])
        self._filled = 0
        self._asked[:] = False
        self._set_aside: list[SetAside] = []

    @property
    def empty(self) -> bool:
        """Whether no row of the shard has come yet."""
        return self._filled == 0

    @property
    def full(self) -> bool:
        """Whether every row of the shard has come."""
        return self._filled == self.rows

    def place(self, captured: Captured) -> None:
        """Copy one batch to the places of its prompts.

        Raises ValueError for a batch of other sites, statistics, widths or dtypes than the plan's:
        numpy would convert some and leave what is missing as it was.
        """
        batch = captured.batch
        self._check(captured)
        target = np.empty(len(batch.token_ids), np.int64)  # row of the shard for each flat row
        flat = 0
        for prompt, length in zip(batch.prompt_ids, batch.lengths, strict=True):
            start = int(self._prompt_start[prompt] - self._shard_start[self.shard])
            target[flat : flat + length] = np.arange(start, start + length)
            for site, rows in captured.hidden.items() if self._plan.keeps_rows else ():
                self._hidden[site][start : start + length] = rows[flat : flat + length]
            flat += length
        self._token_ids[target] = batch.token_ids
        asked = target[batch.asked]
        self._asked[asked] = True
        for name, values in captured.statistics.items():
            self._statistics[name][asked] = values
        self._filled += flat

    def set_aside(self, prompts: Iterable[SetAside]) -> None:
        """Of these prompts no row means anything; their statistics will be null."""
        self._set_aside += prompts

    def _check(self, captured: Captured) -> None:
        batch, tokens = captured.batch, len(captured.batch.token_ids)
        if batch.shard != self.shard:
            raise ValueError(f"a batch of shard {batch.shard} came while {self.shard} fills")
        some: list[tuple[str, Mapping[str, Any], Mapping[str, Any], int]] = [
            ("statistics", self._statistics, captured.statistics, len(batch.asked))
        ]
        if self._plan.keeps_rows or not captured.on_device:
            some.append(("sites", self._hidden, captured.hidden, tokens))
        if captured.on_device:
            widths = {site: (tokens, *rows.shape[1:]) for site, rows in self._hidden.items()}
            if {site: tuple(rows.shape) for site, rows in captured.on_device.items()} != widths:
                raise ValueError(f"rows on the device are not those of {sorted(widths)}")
        for what, ours, theirs, rows in some:
            if ours.keys() != theirs.keys():
                raise ValueError(f"{what} are {sorted(theirs)}, not {sorted(ours)}")
            for name, values in theirs.items():
                expected = (rows, *ours[name].shape[1:]), ours[name].dtype
                if (values.shape, values.dtype) != expected:
                    found = (values.shape, values.dtype)
                    raise ValueError(f"{name}: shape and dtype are {found}, not {expected}")

    def hidden(self) -> dict[str, Rows]:
        """Site -> (T, d) of the full shard; views, valid until `begin`. None without rows."""
        kept = self._hidden if self._plan.keeps_rows else {}
        return {site: rows[: self.rows] for site, rows in kept.items()}

    def tokens(self) -> pa.Table:
        """The token table of the full shard, (T, 11)."""
        first, end = self._plan.shards[self.shard], self._plan.shards[self.shard + 1]
        lengths = self._lengths[first:end]
        position = np.arange(self.rows) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        no_next = np.zeros(self.rows, np.bool_)
        no_next[np.cumsum(lengths) - 1] = True
        prompts = np.repeat(np.arange(first, end, dtype=np.int32), lengths)
        missing = ~self._asked[: self.rows]
        missing |= np.isin(prompts, [one.prompt_id for one in self._set_aside])
        columns: list[pa.Array] = [
            pa.array(prompts),
            pa.array(position.astype(np.int32)),
            pa.array(self._token_ids[: self.rows]),
        ]
        for name in STATISTICS:
            mask = missing | no_next if name.startswith("next_") else missing
            columns.append(pa.array(self._statistics[name][: self.rows], mask=mask))
        return pa.Table.from_arrays(columns, schema=TOKENS_SCHEMA)

    def quarantine(self) -> pa.Table:
        """The prompts of the full shard that were set aside, (n, 5)."""
        return quarantine_table(self._set_aside)
