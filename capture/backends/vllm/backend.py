"""Capture inside vLLM: its scheduler and kernels, our statistics, one pass for both.

A batch's prompts are handed to the engine together, and the engine runs them in as few steps as
fit, usually one; each step's rows are taken in the worker and brought here. Prompts are known by
their token ids, and a batch is complete when each of its prompts was seen once: a row that is
missing, or comes twice, cannot pass.

While the engine runs the next batch, the one before is compressed and written elsewhere
(`engine.capture_run`). Memory on the host is two batches of rows, on the device one site's rows
and a tile of logits at a time beside vLLM's own.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from lpp.capture.backends.vllm.engine import PROBE_TOKENS, VllmEngine
from lpp.capture.backends.vllm.handover import Arrays, Receiver
from lpp.capture.backends.vllm.match import prompt_key
from lpp.capture.backends.vllm.recorder import SLOTS, Taken
from lpp.capture.plan.backend import Backend, Batch, Captured
from lpp.store.errors import ErrorKind, InputError, MachineError
from lpp.store.format.plan import StoredDtype

if TYPE_CHECKING:
    from lpp.store.arrays.layout import Rows

ROUNDING: Final = 16
"""Units of the dtype's epsilon by which one computation in two kernels may differ."""

EPSILON: Final = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}


@dataclass(frozen=True, kw_only=True)
class EngineModel:
    """What a model inside vLLM looks like, proven by running it. Has the sites of a `Plan`."""

    n_blocks: int
    hidden_size: int
    final_size: int
    final_norm: bool
    attention: str
    """Names of vLLM's attention kernels."""

    @property
    def names(self) -> tuple[str, ...]:
        """("embed", "block.1", ..., "block.B", "final")."""
        return ("embed", *(f"block.{k}" for k in range(1, self.n_blocks + 1)), "final")

    def width(self, name: str) -> int:
        """Columns of a site's rows."""
        return self.final_size if name == "final" else self.hidden_size


class VllmBackend:
    """Runs a model in vLLM. Implements `lpp.capture.plan.backend.Backend`.

    wanted: sites, in any order. logits_width: V. Uses `engine` alone from `capture` to its end.
    """

    def __init__(
        self,
        engine: VllmEngine,
        wanted: Sequence[str],
        stored_dtype: StoredDtype,
        logits_width: int,
    ) -> None:
        self._engine = engine
        self._wanted = tuple(wanted)
        self._dtype = stored_dtype
        self._width = logits_width
        self._receiver = Receiver()

    def capture(self, batches: Iterable[Batch]) -> Iterator[Captured]:
        """Yield each batch as soon as the engine has finished it.

        Raises MachineError(ENGINE_DIED or NO_MEMORY) when vLLM stops, InputError for a model that
        is not called on token ids.
        """
        self._engine.call("lpp_start", self._wanted, self._dtype, self._width, os.getpid())
        try:
            for number, batch in enumerate(batches):
                yield self._run(batch, number % SLOTS)
        except BaseException:
            with suppress(MachineError):  # of an engine that died: the first word counts
                self._engine.call("lpp_stop")
            raise
        self._engine.call("lpp_stop")

    def _run(self, batch: Batch, slot: int) -> Captured:
        assembly = Assembly(batch)
        self._engine.call("lpp_expect", slot, assembly.awaited)
        for finished in self._engine.run(assembly.prompts):
            taken = self._engine.call("lpp_take", finished)
            if taken is not None:
                assembly.add(taken, self._receiver.take(slot, taken.hidden))
        return assembly.captured()


class Assembly:
    """Puts the rows of one batch together from the steps that made them."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._starts = np.cumsum([0, *batch.lengths])
        bounds = np.searchsorted(batch.asked, self._starts)
        self._asked = bounds.tolist()
        ids = [batch.token_ids[a:b] for a, b in zip(self._starts, self._starts[1:], strict=False)]
        self.prompts: list[list[int]] = [one.tolist() for one in ids]
        self.awaited = [
            (prompt_key(one), tuple((batch.asked[first:end] - start).tolist()))
            for one, start, first, end in zip(ids, self._starts, bounds, bounds[1:], strict=False)
        ]
        if len(set(self.awaited)) != len({key for key, _ in self.awaited}):
            raise ValueError("equal prompts of a batch are asked for statistics at different rows")
        self._seen: list[int] = []
        self._hidden: dict[str, Rows] = {}
        self._statistics: dict[str, npt.NDArray[Any]] = {}

    def add(self, taken: Taken, hidden: Arrays) -> None:
        """Rows of some of the prompts, in the order `taken.order`."""
        self._seen += taken.order
        if taken.order == tuple(range(len(self._batch.lengths))):
            # one step ran it all, in order: the rows are the batch as they are
            self._hidden, self._statistics = dict(hidden), dict(taken.statistics)
            return
        rows = self._places(self._starts, taken.order)
        asked = self._places(np.asarray(self._asked), taken.order)
        total, statistics = len(self._batch.token_ids), len(self._batch.asked)
        _scatter(self._hidden, hidden, rows, total)
        _scatter(self._statistics, taken.statistics, asked, statistics)

    @staticmethod
    def _places(starts: npt.NDArray[Any], order: Sequence[int]) -> npt.NDArray[np.int64]:
        """Rows of the batch that the prompts of `order` take up, one after the other."""
        parts = [np.arange(starts[place], starts[place + 1]) for place in order]
        return np.concatenate(parts).astype(np.int64)

    def captured(self) -> Captured:
        """The batch. Raises MachineError where a prompt was not seen exactly once."""
        if sorted(self._seen) != list(range(len(self._batch.lengths))):
            lost = len(set(range(len(self._batch.lengths))) - set(self._seen))
            raise MachineError(
                f"vLLM finished a batch of {len(self._batch.lengths)} prompts in shard "
                f"{self._batch.shard}, but {lost} of them never passed through its model whole. "
                "Nothing of this shard was kept. Capture this model with --backend torch.",
                kind=ErrorKind.ENGINE_DIED,
            )
        return Captured(batch=self._batch, hidden=self._hidden, statistics=self._statistics)


def _scatter(into: dict[str, Any], rows: Arrays, places: npt.NDArray[np.int64], total: int) -> None:
    for name, values in rows.items():
        if name not in into:
            into[name] = np.empty((total, *values.shape[1:]), values.dtype)
        into[name][places] = values


def probe_engine(
    engine: VllmEngine, name: str, *, n_blocks: int, hidden_size: int, logits_width: int
) -> EngineModel:
    """Run a few tokens and hold what is captured against the model; once after loading.

    Checked: the final norm of block.B is `final`; no token changes a state before it; the logits
    are as wide as the configuration says. Raises InputError(UNSUPPORTED_MODEL).
    """
    ids = (np.arange(3, 3 + PROBE_TOKENS) % logits_width).astype(np.int32)
    known = engine.call("lpp_watch", n_blocks, hidden_size)
    list(engine.run([ids.tolist()]))
    seen = engine.call("lpp_watched")
    found = EngineModel(
        n_blocks=n_blocks,
        hidden_size=hidden_size,
        final_size=seen["final_size"],
        final_norm=seen["final_norm"],
        attention="+".join(known["attention"]) or "none",
    )
    if seen["difference"] > ROUNDING:
        raise _unmapped(name, "the norm of its last block's output is not its final state")
    if seen["logits_width"] != logits_width:
        raise _unmapped(
            name, f"its logits have {seen['logits_width']} columns there, not {logits_width}"
        )
    backend = VllmBackend(engine, found.names, "float32", logits_width)
    _check_causal(backend, name, ids, EPSILON[seen["dtype"]])
    return found


def _check_causal(backend: Backend, name: str, ids: npt.NDArray[np.int32], epsilon: float) -> None:
    """Run `ids` with two endings; no row before the ending may tell them apart.

    The passes have the same shapes, so that what does not depend on the last token is computed
    alike. Columns are compared by their own size: a few are a thousand times larger than the rest.
    """
    other = ids.copy()
    other[-1] = ids[0]
    one, two = (dict(c.hidden) for c in backend.capture(_batch(i) for i in (ids, other)))
    for site, rows in one.items():
        before, size = rows[:-1], np.abs(rows[:-1]).max(axis=0)
        changed = np.abs(before - two[site][:-1])[:, size > 0] / size[size > 0]
        if changed.mean() > 4 * epsilon:
            raise _unmapped(name, f"a later token changes {site}: its attention is not causal")


def _batch(ids: npt.NDArray[np.int32]) -> Batch:
    return Batch(
        shard=0,
        prompt_ids=(0,),
        lengths=(len(ids),),
        token_ids=ids,
        asked=np.zeros(1, np.int64),
    )


def _unmapped(name: str, why: str) -> InputError:
    return InputError(
        f"{name} cannot be captured inside vLLM: {why}. Capture it with --backend torch.",
        kind=ErrorKind.UNSUPPORTED_MODEL,
    )
