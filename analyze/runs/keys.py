"""Which rows the spectra and entropy tables of a store have: cheap, from plans and prompts."""

import itertools
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from lpp.store import open_store
from lpp.store.errors import LppError, MachineError, first_line
from lpp.store.format.schedule import prefix_schedule
from lpp.store.objects.place import Url, absolute
from lpp.store.runs.read import Run

NO_STATISTICS: Final = "no statistics of logits: they were not captured"
"""Why a run of `lpp.store.sink`, or of rows alone, has no entropy, no surprisal and no KL."""

__all__ = ["RunView", "Url", "views"]


class RunView:
    """A run together with what the tables need of its prompts, read once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._duplicates: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: what was read of the run, but for its prompts' texts."""
        lengths, set_aside, _ = self.lengths, self.set_aside, (self.run.shards, self.run.branches)
        return {"run": self.run, "_duplicates": {}, "lengths": lengths, "set_aside": set_aside}

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(P,) tokens of each prompt that can be analysed; 0 for one that is left out."""
        return self.run.analysed_lengths

    @cached_property
    def problem(self) -> str | None:
        """Why the plan of the run cannot be read; None if it can."""
        try:
            _ = self.run.plan
        except MachineError:
            raise
        except (LppError, PermissionError) as error:
            return first_line(error)
        return None

    @property
    def excluded(self) -> npt.NDArray[np.int32]:
        """Ids of prompts that are no part of any table, ascending: those that were set aside, and
        branches, which are answers to a prompt and have no beginning of their own.
        """
        branches = np.flatnonzero(self.run.branch_of[: self.run.n_prompts] >= 0)
        return np.union1d(self.set_aside, branches.astype(np.int32))

    @cached_property
    def set_aside(self) -> npt.NDArray[np.int32]:
        """Ids of prompts that capture set aside, ascending: they have no rows."""
        ids = self.run.quarantined
        return ids[ids < self.run.n_prompts]

    def quarantined(self, size: int) -> int:
        """How many of the first `size` prompts were set aside."""
        return int(np.searchsorted(self.set_aside, size))

    def duplicates(self, size: int) -> int:
        """How many of the first `size` prompts have the token ids of another of them; those that
        were set aside do not count.
        """
        if size not in self._duplicates:
            hashes = self.prompts["sha256"].head(size)
            times = Counter(itertools.compress(hashes, self.lengths[:size] > 0))
            self._duplicates[size] = sum(count for count in times.values() if count > 1)
        return self._duplicates[size]

    def short(self, size: int, prefix: int) -> int:
        """How many of the first `size` prompts end before `prefix`."""
        lengths = self.lengths[:size]
        return int(np.sum((lengths > 0) & (lengths < prefix)))

    @cached_property
    def prompts(self) -> pl.DataFrame:
        """The prompts of the committed shards before the first missing one."""
        table = pl.DataFrame(pl.from_arrow(self.run.prompts()))
        return table.head(self.run.n_prompts)

    def contexts(self, requested: Sequence[int] | None) -> list[int]:
        """The contexts of `requested` that this run holds; the captured one by default."""
        captured = self.run.plan.context
        if requested is None:
            return [captured]
        return sorted({context for context in requested if 1 <= context <= captured})

    def sizes(self, requested: Sequence[int] | None) -> list[int]:
        """The numbers of prompts of `requested` that this run holds; all its prompts by default."""
        committed = self.run.n_prompts
        sizes = {committed} if requested is None else {n for n in requested if n <= committed}
        return sorted(n for n in sizes if n >= 1)

    def prefixes(self, context: int) -> tuple[int, ...]:
        """The schedule of `context`: the run's own for the captured context."""
        plan = self.run.plan
        return plan.prefixes if context == plan.context else prefix_schedule(context)


def views(url: Url) -> list[RunView]:
    """Every committed run of the store at `url`, by id; they can be sent to another machine."""
    return [RunView(run) for run in open_store(absolute(url)).runs.values()]
