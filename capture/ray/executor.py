"""One capture on a Ray cluster: an actor for each card, shards from one queue.

The driver loads no model, so it may sit where there is no card: the first actor to load freezes
the plan, and every other must come to the same one. Shards are handed out a few at a time, so that
an actor's forward pass runs while its last shard is written; of an actor that died, those that it
had not committed go back, and another is asked for in its place. The capture ends when every
shard is committed, whoever is still loading then.
"""

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lpp.capture.engine.heads import KeptHead
from lpp.capture.engine.outcome import Outcome
from lpp.capture.engine.run import (
    check_disk,
    describe,
    outcome_of,
    uncommitted_shards,
)
from lpp.capture.engine.run_cache import check_noted, remember, request_key
from lpp.capture.engine.stopping import stoppable
from lpp.capture.models.device import kind_name, kind_of
from lpp.capture.plan.batches import tokens_of
from lpp.capture.plan.parts import WHOLE, Part
from lpp.capture.plan.request import CaptureRequest
from lpp.capture.ray.actor import LeaseResult, Loaded, remote_actor
from lpp.store import Run, create_store
from lpp.store.errors import (
    ConflictError,
    ErrorKind,
    InputError,
    MachineError,
    first_line,
    task_error,
)
from lpp.store.format.keys import RUNS_KEY, SHARDS_KEY
from lpp.store.format.plan import plan_differences
from lpp.store.objects.place import Url, absolute
from lpp.store.process.cluster import cluster
from lpp.store.progress import BLANK, SILENT, Display, Progress
from lpp.store.runs.write import sweep_run
from lpp.store.store import open_if_any
from lpp.store.units import counted

MAX_LEASE: Final = 4
"""Most shards leased to a worker at once: it pauses once per lease, while the last one is written.
Towards the end leases are smaller, so that all workers end together."""

DEATHS: Final = 3
"""Actors in a row, for each wanted, that may die before a shard is committed again."""

POLL_SECONDS: Final = 0.5
NO_WORKER_WARNING_SECONDS: Final = 60.0
"""Without an actor at work, until a line says so."""

CLOSING_SECONDS: Final = 15.0


@dataclass(eq=False)
class _Worker:
    """An actor and the shards leased to it; None while it loads."""

    actor: Any
    lease: tuple[int, ...] | None = None
    ready: bool = False


def capture_on_ray(
    root: Url,
    request: CaptureRequest,
    *,
    part: Part = WHOLE,
    workers: int | None = None,
    address: str | None = None,
    display: Display = BLANK,
) -> Outcome:
    """Capture what `request` asks into the store at `root`, which every machine sees there.

    As `lpp.capture.engine.run.capture_into`; workers: actors, by default as many as the cluster has
    cards for. A first request to end lets the shards under way finish.
    """
    open_if_any(root)
    key = request_key(request)
    check_noted(root, key, request)
    with cluster(address) as ray:
        request, shape = _shape(ray, _found_from_anywhere(request), workers)
        count, pool = shape.count, _Pool(ray, root, request, shape, display)
        try:
            with display.step("prepare", 1, "model") as bar:
                loaded = pool.freeze()
                bar.advance()
            plan = loaded.plan
            display.say("\n  ".join([describe(plan), *loaded.carried]))
            todo = uncommitted_shards(root, plan, part)
            check_disk(request, plan, loaded.lengths, root, todo, display=display)
            store = create_store(root)
            pool.open()
            remember(store, key, plan.run_id, pool.head.directories)
            for line in pool.head.lines:
                display.say(f"  {line}")
            where = store.path / RUNS_KEY / plan.run_id
            display.say(f"  into {where}, {counted(count, 'worker')} of Ray")
            return _capture(pool, Run(where), part, display)
        except ray.exceptions.RayError as error:
            raise task_error(ray, error) from None
        finally:
            pool.close()


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """How many actors, and what each takes of the cluster."""

    count: int
    gpus: int
    cores: int


def _shape(ray: Any, request: CaptureRequest, workers: int | None) -> tuple[CaptureRequest, _Shape]:
    """The request as an actor gets it, and what actors take."""
    if request.model.device_map is not None:
        raise InputError(
            "--executor ray gives each worker its own cards: it cannot follow --device-map. "
            "Use --tensor-parallel, or --executor local."
        )
    kind = kind_name(request.model.device)
    if kind_of(kind).on_host:
        if workers is None:
            raise InputError(
                "--executor ray on processors needs --workers N: each loads the model into memory "
                "and takes one processor. --device cuda takes the cards of the cluster."
            )
        return request, _Shape(count=workers, gpus=0, cores=1)
    cards = int(ray.cluster_resources().get("GPU", 0))
    gpus = request.tensor_parallel
    if cards < gpus:
        raise MachineError(
            f"the Ray cluster has {cards} cards, a worker needs {gpus}. See `ray status`, or use "
            "--device cpu.",
            kind=ErrorKind.NO_DEVICE,
        )
    # Ray shows each actor its own cards, counted from 0
    return (
        replace(request, model=replace(request.model, device=kind)),
        _Shape(
            count=workers or (cards // gpus), gpus=gpus, cores=cores_for_cards(ray.nodes(), gpus)
        ),
    )


def cores_for_cards(nodes: Iterable[Mapping[str, Any]], gpus: int) -> int:
    """Cores that come with so many cards on every machine of a cluster, at least one: an actor
    that takes them finds room wherever there are cards.

    nodes: as `ray.nodes()` lists them.

    >>> cores_for_cards([{"Alive": True, "Resources": {"CPU": 64.0, "GPU": 8.0}}], 2)
    16
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    shares = [
        int(resources.get("CPU", 0) * gpus // resources["GPU"])
        for resources in alive
        if resources.get("GPU")
    ]
    return max(1, min(shares, default=1))


def _found_from_anywhere(request: CaptureRequest) -> CaptureRequest:
    """The same with files by their whole paths: an actor starts in another folder."""

    def whole(name: str) -> str:
        path = Path(name).expanduser()
        return str(path.absolute()) if name and path.exists() else name

    counter = request.selection.count_with
    return replace(
        request,
        model=replace(request.model, id=whole(request.model.id)),
        corpus=replace(request.corpus, name=whole(request.corpus.name)),
        selection=replace(
            request.selection, count_with=None if counter is None else whole(counter)
        ),
    )


class _Pool:
    """The actors and the shards leased to each; a lost actor is replaced."""

    def __init__(
        self, ray: Any, root: Url, request: CaptureRequest, shape: _Shape, display: Display
    ) -> None:
        self._display = display
        self.ray, self.count, self._cores = ray, shape.count, shape.cores
        self._class, self._request = remote_actor(ray, shape.gpus, shape.cores), request
        self._root = absolute(root)
        self._made = self._deaths = 0
        self._pending: dict[Any, _Worker] = {}
        self._waiting: list[_Worker] = []
        self.opened = False
        self.head = KeptHead()
        """Result of writing the head, from the first actor that made the run."""
        self.loaded: Loaded | None = None
        for _ in range(shape.count):
            self._start()

    def freeze(self) -> Loaded:
        """The plan of the first actor to load."""
        while self.loaded is None:
            self.turn(SILENT)
        return self.loaded

    def open(self) -> None:
        """Have those that are loaded make the run; others will find it as they load."""
        self.opened = True
        for worker in [w for w in self._waiting if not w.ready]:
            self._open(worker)
        while not self.idle():
            self.turn(SILENT)

    def idle(self) -> list[_Worker]:
        """Actors that are ready for a lease."""
        return [worker for worker in self._waiting if worker.ready]

    def lease(self, worker: _Worker, shards: Sequence[int]) -> None:
        """Have `worker` capture `shards`."""
        self._waiting.remove(worker)
        worker.lease = tuple(shards)
        self._pending[worker.actor.capture.remote(worker.lease)] = worker

    @property
    def at_work(self) -> bool:
        """Whether any shard is under way."""
        return any(worker.lease is not None for worker in self._pending.values())

    def turn(self, progress: Progress) -> list[tuple[tuple[int, ...], LeaseResult | None]]:
        """Wait a moment; returns each lease that ended with its result, None if its actor died."""
        ready, _ = self.ray.wait(list(self._pending), num_returns=1, timeout=POLL_SECONDS)
        ended: list[tuple[tuple[int, ...], LeaseResult | None]] = []
        for ref in ready:
            worker = self._pending.pop(ref)
            lease, worker.lease = worker.lease, None
            try:
                result = self.ray.get(ref)
            except self.ray.exceptions.RayTaskError:
                raise
            except self.ray.exceptions.RayError as error:
                self._lost(worker, lease, error, progress)
                if lease is not None:
                    ended.append((lease, None))
                continue
            self._waiting.append(worker)
            if isinstance(result, Loaded):
                self._compare(result)
                if self.opened:
                    self._open(worker)
            elif isinstance(result, KeptHead):
                worker.ready = True
                self.head = self.head if self.head.directories else result
            elif lease is not None:
                self._deaths = 0
                ended.append((lease, result))
        return ended

    def close(self) -> None:
        """Let those that can tidy up do so, then end all of them."""
        closing = [worker.actor.close.remote() for worker in self._waiting]
        if closing:
            self.ray.wait(closing, num_returns=len(closing), timeout=CLOSING_SECONDS)
        for worker in (*self._waiting, *self._pending.values()):
            self.ray.kill(worker.actor)

    def _start(self) -> None:
        # the part of the continuations, if there are any
        part = Part(self._made % self.count, self.count)
        self._made += 1
        name = f"ray worker {self._made}"
        actor = self._class.remote(self._root, self._request, name, self._cores, part)
        self._pending[actor.load.remote()] = _Worker(actor)

    def _open(self, worker: _Worker) -> None:
        assert self.loaded is not None
        self._waiting.remove(worker)
        self._pending[worker.actor.open.remote(self.loaded.plan.hash)] = worker

    def _compare(self, loaded: Loaded) -> None:
        if self.loaded is None:
            self.loaded = loaded
        elif loaded.plan.hash != self.loaded.plan.hash:
            fields = "\n  ".join(plan_differences(loaded.plan, self.loaded.plan))
            raise ConflictError(
                "the machines of the cluster do not come to the same plan, so nothing more is "
                f"captured. What differs:\n  {fields}\n"
                "Give all of them the same files and the same releases.",
                kind=ErrorKind.PLAN_DIFFERS,
            )

    def _lost(
        self, worker: _Worker, lease: tuple[int, ...] | None, error: Exception, lines: Progress
    ) -> None:
        self.ray.kill(worker.actor)  # cut off is not dead, and would keep its card
        self._deaths += 1
        why = first_line(error).rstrip(".")
        if self._deaths > DEATHS * self.count:
            raise MachineError(
                f"{self._deaths} workers died one after the other and none captured a shard "
                f"between: {why}. What is committed stays: the same command "
                "resumes. --debug shows what the workers print.",
                kind=ErrorKind.ENGINE_DIED,
            )
        doing = "while it loaded" if lease is None else f"with {len(lease)} shards"
        self._display.say(f"a worker died {doing}; another is asked for ({why})")
        self._start()


def _capture(pool: _Pool, run: Run, part: Part, display: Display) -> Outcome:
    assert pool.loaded is not None
    plan, lengths = pool.loaded.plan, pool.loaded.lengths

    def tokens(shards: Iterable[int]) -> int:
        return tokens_of(plan, lengths, shards)

    mine = part.shards(plan.n_shards)
    queue = deque(run.uncommitted(mine))
    todo, start = len(queue), time.monotonic()
    written: set[int] = set()
    lost_race: set[int] = set()
    bar = display.step("capture", tokens(mine), "tokens")
    with stoppable(plan.n_shards, display=display) as stop, bar as lines:
        lines.advance(tokens(mine) - tokens([*queue]))
        at_work_at = time.monotonic()
        while (queue and not stop.requested) or pool.at_work:
            for worker in pool.idle():
                lease = _lease(queue, pool.count)
                if lease and stop.begin(lease[-1]):
                    pool.lease(worker, lease)
                else:
                    queue.extendleft(reversed(lease))
            if pool.at_work:
                at_work_at = time.monotonic()
            elif time.monotonic() - at_work_at > NO_WORKER_WARNING_SECONDS:
                display.say("no worker is ready; see `ray status` for what the cluster lacks")
                at_work_at = time.monotonic()
            for lease, result in pool.turn(lines):
                if result is None:
                    lost = run.uncommitted(lease)
                    queue.extendleft(reversed(lost))
                    written |= {*lease} - {*lost}
                    lines.advance(tokens({*lease} - {*lost}))
                    continue
                written |= result.written
                lost_race |= result.lost_race
                lines.advance(tokens(lease))
                for text in result.notes:
                    lines.note(text)
    run = Run(run.path)
    run.directory.below(SHARDS_KEY).sweep()  # of those that died
    if written and not run.missing_shards:
        sweep_run(run, beside=True)  # its workers are idle
    seconds = time.monotonic() - start if todo else 0.0
    return outcome_of(run, part, written, lost_race, seconds)


def _lease(queue: deque[int], workers: int) -> tuple[int, ...]:
    """The next shards for one worker: half of its share of what is left, `MAX_LEASE` at most."""
    size = min(MAX_LEASE, -(-len(queue) // (2 * workers)))
    return tuple(queue.popleft() for _ in range(size))
