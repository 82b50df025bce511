"""What runs on each card of a Ray cluster: one model, and the shards that it is handed.

Each actor prepares the request by itself and says which plan came of it, so that nothing is
captured where a machine has other weights, another corpus or another release. Committing is the
store's own protocol: a shard that two actors made is committed once.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lpp.capture.plan.parts import WHOLE, Part
from lpp.capture.plan.request import CaptureRequest
from lpp.store.format.plan import Plan
from lpp.store.objects.place import Place
from lpp.store.progress import Kept, Progress

if TYPE_CHECKING:
    from lpp.capture.engine.heads import KeptHead


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The plan that an actor came to."""

    plan: Plan
    lengths: npt.NDArray[np.int32]
    """(P,) tokens of each prompt."""
    carried: tuple[str, ...] = ()
    """What the prompts carry, a line each."""


@dataclass(frozen=True, kw_only=True)
class LeaseResult:
    """The result of one lease of shards."""

    written: frozenset[int]
    lost_race: frozenset[int]
    """Committed by another process first."""
    notes: list[str] = field(default_factory=list)
    """A line for each."""


class CaptureActor:
    """Load first, then open, then capture as often as there is something to do; close at the end.

    root: the store. name: what `lpp-capture status` calls it. cores: that Ray reserves for it,
    each of which compresses. part: whose continuations it writes first.
    """

    def __init__(
        self, root: Place, request: CaptureRequest, name: str, cores: int, part: Part = WHOLE
    ) -> None:
        self._cores, self._part = cores, part
        self._root, self._request, self._name = root, request, name
        self._end = contextlib.ExitStack()

    def load(self) -> Loaded:
        """Choose the prompts, load the model, make the plan."""
        from lpp.capture.engine.prepare import prepare

        said = Kept()
        self._prepared = prepare(self._request, root=self._root, part=self._part, progress=said)
        self._end.callback(self._prepared.close)
        lengths = self._prepared.prompts["n_tokens"].to_numpy()
        return Loaded(
            plan=self._prepared.plan,
            lengths=lengths,
            carried=(*said.lines, *self._prepared.carried),
        )

    def open(self, plan_hash: str) -> "KeptHead":
        """Make the run, or find it; keep head and vocabulary. plan_hash: of what all capture."""
        from lpp.capture.engine.run import begin_run
        from lpp.store.format.keys import SHARDS_KEY
        from lpp.store.runs.heartbeat import at_work

        ready = self._prepared
        if ready.plan.hash != plan_hash:
            raise ValueError(f"plan {ready.plan.hash[:8]}, not {plan_hash[:8]}")
        self._writer, head = begin_run(self._root, self._request, ready)
        self._end.enter_context(at_work(self._writer.run.path / SHARDS_KEY, self._name))
        return head

    def capture(self, shards: Sequence[int]) -> LeaseResult:
        """Capture those of `shards` that are not committed yet."""
        from lpp.capture.engine.capture import capture_run

        ready, writer, notes = self._prepared, self._writer, _Notes()
        capture_run(
            ready.plan,
            ready.prompts,
            writer,
            ready.backend,
            notes,
            shards=shards,
            encoders=self._cores,
        )
        return LeaseResult(
            written=frozenset(writer.written.intersection(shards)),
            lost_race=frozenset(writer.lost_race.intersection(shards)),
            notes=notes.lines,
        )

    def close(self) -> None:
        """Take the sign away, give the model's memory back."""
        self._end.close()


class _Notes(Progress):
    """A `Progress` that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def remote_actor(ray: Any, gpus: int, cores: int) -> Any:
    """The class for `ray`: so many cards and cores each, on as many machines as there are.

    Ray starts none again by itself: what a lost one had is for the driver to hand out anew.
    """
    return ray.remote(
        num_cpus=cores,
        num_gpus=gpus,
        max_restarts=0,
        max_task_retries=0,
        scheduling_strategy="SPREAD",
    )(CaptureActor)
