"""Two Ray nodes on this machine, one of which is killed during its work.

This is a separate program, so that nothing of Ray's stays in the process of the tests. The driver
is on the first node; the second is killed by SIGKILL once it holds or does part of the work.

    python ray_nodes.py analysis FOLDER
    python ray_nodes.py capture FOLDER MODEL [PROMPTS]

    python ray_nodes.py analysis-worker FOLDER    # kills a process that runs a task
    python ray_nodes.py capture-worker FOLDER MODEL

    python ray_nodes.py drift FOLDER    # kills no node
"""

import contextlib
import faulthandler
import functools
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stored import stored_objects

HANGS_SECONDS = 400
"""Then the stacks are printed, and this program ends."""

SITE = "ray::site_estimates"
"""Title of a process that runs the task of a site."""


@contextlib.contextmanager
def two_nodes(cpus: int = 1) -> Iterator[tuple[str, Any, Callable[[], None]]]:
    """Address of the cluster, its second node, and a function that kills that."""
    from ray.cluster_utils import Cluster

    common: dict[str, Any] = {"num_cpus": cpus, "object_store_memory": 100 << 20}
    noticed = {  # detect a lost node in a second or two, not in a large cluster's minute
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_timeout_ms": 500,
        "health_check_failure_threshold": 2,
    }
    head = {**common, "include_dashboard": False, "_system_config": noticed}
    found = Cluster(initialize_head=True, head_node_args=head)
    second = found.add_node(**common)
    try:
        yield (
            found.address,
            second,
            lambda: found.remove_node(second, allow_graceful=False),
        )
    finally:
        found.shutdown()


def short_spans() -> None:
    """Divide sites into short spans, in this process."""
    from lpp.analyze.engine import accumulate

    accumulate.SPAN_CHUNKS = 16


def lasting_sites() -> None:
    """Short spans, and tasks that last: on a fast node they were through before the other began."""
    from lpp.analyze.engine import ray_executor

    short_spans()
    alone = ray_executor._alone

    @functools.wraps(alone)
    def lasting(*words: Any) -> Any:
        time.sleep(5)
        return alone(*words)

    ray_executor._alone = lasting  # type: ignore[assignment]  # of any arguments


def warmed(ray: Any) -> None:
    """Start a worker on each node, which takes seconds."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def process() -> int:
        return os.getpid()

    task = ray.remote(num_cpus=1)(process)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    pinned = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    ray.get([task.options(scheduling_strategy=one).remote() for one in pinned])


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected; its workers divide sites into short spans too."""
    import ray

    from lpp.store.process.cluster import QUIET, THREADS, cluster

    os.environ.update(QUIET)
    ray.init(
        address=address,
        log_to_driver=False,
        runtime_env={
            "env_vars": dict.fromkeys(THREADS, "1"),
            "worker_process_setup_hook": lasting_sites,
        },
    )
    try:
        with cluster(address) as found:
            yield found
    finally:
        ray.shutdown()


@contextlib.contextmanager
def running(title: str, then: Callable[[int, bytes], bool]) -> Iterator[None]:
    """While open: give `then` each process of this cluster that runs `title`, and its environment,
    until it returns True. Ray names its processes by what they run at the moment.
    """
    token, ended = os.environ["RAY_AUTH_TOKEN"].encode(), threading.Event()

    def look() -> None:
        while not ended.wait(0.002):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if not path.read_bytes().startswith(title.encode()):
                        continue
                    environment = (path.parent / "environ").read_bytes()
                    if token in environment and then(int(path.parent.name), environment):
                        return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def killing(title: str, when: Callable[[], bool]) -> Iterator[list[int]]:
    """While open: kill -9 the first process that is `running` `title`, once `when()`.

    Yields the list of killed ones.
    """
    killed: list[int] = []

    def kill(process: int, _: bytes) -> bool:
        if when():
            os.kill(process, signal.SIGKILL)
            killed.append(process)
        return bool(killed)

    with running(title, kill):
        yield killed


def analysis_worker(folder: Path) -> dict[str, Any]:
    """The tables of a store by one process, and by a cluster that loses a process in a task."""
    from polars.testing import assert_frame_equal

    from benchmarks.synthetic import synthetic_run
    from lpp.analyze import ProfileSettings, analyze
    from lpp.analyze.engine.ray_executor import RayExecutor

    short_spans()
    rows, root = 6 * 16 * 1024 + 5000, folder / "store"
    synthetic_run(root, rows, 64, sites=("block.1", "final"), per_shard=100)
    asked = ProfileSettings(prompts=[rows // 300, rows // 100])
    alone = analyze(root, asked)
    shutil.rmtree(root / "analysis")
    with connected("local") as ray, killing(SITE, lambda: True) as killed:
        whole = analyze(root, asked, executor=RayExecutor(lambda: ray))
    for name in ("spectra", "entropy", "metrics"):
        assert_frame_equal(getattr(whole, name), getattr(alone, name), check_exact=True)
    return {"killed": len(killed), "rows": len(whole.spectra)}


def capture_worker(folder: Path, model: str) -> dict[str, Any]:
    """A store by one process, and by an actor that is killed while it writes its first shards."""
    from lpp.capture.engine.run import capture_into
    from lpp.capture.ray.executor import capture_on_ray

    request = capture_request(folder, model, 48)
    capture_into(folder / "alone", request)

    def begun() -> bool:
        return any((folder / "store").glob("runs/*/shards/*/*/"))

    with killing("ray::CaptureActor.capture", begun) as killed:
        outcome = capture_on_ray(folder / "store", request, workers=1)
    return {
        "killed": len(killed),
        "shards": len(list((folder / "alone").glob("runs/*/shards/*"))),
        "captured": outcome.captured,
        "missing": outcome.missing,
        "same": stored_objects(folder / "store") == stored_objects(folder / "alone"),
    }


def analysis(folder: Path) -> dict[str, Any]:
    """The tables of a store by one process, and by two nodes of which one is lost, compared bit by
    bit.
    """
    from polars.testing import assert_frame_equal

    from benchmarks.synthetic import synthetic_run
    from lpp.analyze import ProfileSettings, analyze
    from lpp.analyze.engine.ray_executor import RayExecutor

    short_spans()
    rows, root = 12 * 16 * 1024 + 5000, folder / "store"
    synthetic_run(root, rows, 64, sites=("block.1", "final"), per_shard=100)
    asked = ProfileSettings(prompts=[rows // 300, rows // 100])
    alone = analyze(root, asked)
    shutil.rmtree(root / "analysis")
    told: dict[str, Any] = {"killed": 0}

    with two_nodes() as (address, second, kill), connected(address) as ray:
        raylet = second.all_processes["raylet"][0].process.pid
        warmed(ray)

        def lose(process: int, environment: bytes) -> bool:
            if f"RAY_RAYLET_PID={raylet}\0".encode() not in environment:
                return False
            time.sleep(3)  # workers that are just starting would outlive their node
            kill()
            told["killed"] = process
            return True

        with running(SITE, lose):
            whole = analyze(root, asked, executor=RayExecutor(lambda: ray))
        until = time.monotonic() + 60
        while (alive := sum(node["Alive"] for node in ray.nodes())) > 1:
            if time.monotonic() > until:
                break
            time.sleep(0.1)  # the analysis may end before the loss is noticed
        told["alive"] = alive
    for name in ("spectra", "entropy", "metrics"):
        assert_frame_equal(getattr(whole, name), getattr(alone, name), check_exact=True)
    told["rows"] = len(whole.spectra)
    return told


def capture(folder: Path, model: str, prompts: int = 48) -> dict[str, Any]:
    """A store by one process, and by two nodes of which one dies during its shards."""
    from lpp.capture.engine.run import capture_into
    from lpp.capture.ray import executor as ray_executor

    request = capture_request(folder, model, prompts)
    capture_into(folder / "alone", request)
    told: dict[str, Any] = {"killed": 0, "lost": 0}

    with two_nodes() as (address, second, kill):

        class Killing(ray_executor._Pool):
            """Kills the second node when its actor has got its second list of shards."""

            hands = 0
            gathered = False

            def idle(self) -> Any:
                found = super().idle()  # a tiny model is through before the second one is loaded
                self.gathered = self.gathered or len(found) == 2
                return found if self.gathered else []

            def lease(self, worker: Any, shards: Any) -> None:
                import ray

                asked = worker.actor.__ray_call__.remote(
                    lambda self: (ray.get_runtime_context().get_node_id(), os.getpid())
                )
                node, process = self.ray.get(asked)
                there = not told["killed"] and node == second.node_id
                super().lease(worker, shards)
                self.hands += there
                if there and self.hands == 2:
                    os.kill(process, signal.SIGKILL)  # its hand is small, and the node ends slowly
                    kill()
                    told["killed"] = len(shards)

            def _lost(self, worker: Any, hand: Any, *rest: Any) -> None:
                told["lost"] += len(hand or ())
                super()._lost(worker, hand, *rest)

        ray_executor._Pool = Killing  # type: ignore[misc]
        outcome = ray_executor.capture_on_ray(folder / "store", request, workers=2, address=address)
    return told | {
        "shards": len(list((folder / "alone").glob("runs/*/shards/*"))),
        "captured": outcome.captured,
        "lost_race": outcome.lost_race,
        "missing": outcome.missing,
        "same": stored_objects(folder / "store") == stored_objects(folder / "alone"),
    }


def capture_request(folder: Path, model: str, prompts: int) -> Any:
    """Prompts that end up in many shards."""
    from lpp.capture.corpus.selection import Selection
    from lpp.capture.models.spec import ModelSpec
    from lpp.capture.plan.request import CaptureRequest, CorpusSpec

    corpus = folder / "texts.jsonl"
    texts = [f"{n} times the quick brown fox jumps over the dog. " * 3 for n in range(prompts)]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return CaptureRequest(
        model=ModelSpec(id=model),
        corpus=CorpusSpec(name=str(corpus)),
        selection=Selection(prompts=prompts, min_bytes=0),
        context=24,
        shard_bytes=60_000,  # two prompts of this model
    )


def drift(folder: Path) -> dict[str, Any]:
    """The drift of two runs by one process and by two nodes, compared bit by bit."""
    from polars.testing import assert_frame_equal

    from lpp.analyze import DiffSettings, diff
    from lpp.analyze.engine.executor import LocalExecutor
    from lpp.analyze.engine.ray_executor import RayExecutor
    from lpp.analyze.logits import two_runs
    from lpp.store.process.cluster import cluster

    two_runs.SPAN_TILES = 2  # type: ignore[misc]  # here alone: the driver cuts, and a worker takes what it is given
    root = folder / "store"
    a, b = two_models(root)
    alone = diff(root, a, b, DiffSettings(errors="all"), executor=LocalExecutor(1))
    shutil.rmtree(root / "analysis")
    with two_nodes() as (address, *_), cluster(address) as ray:

        class Counting(RayExecutor):
            tasks = 0

            def map(self, task: Any, items: Any, **settings: Any) -> Any:
                every = list(items)
                self.tasks += len(every)
                return super().map(task, every, **settings)

        executor = Counting(lambda: ray)
        found = diff(root, a, b, DiffSettings(errors="all"), executor=executor)
    assert_frame_equal(found.tokens, alone.tokens, check_exact=True)
    assert found.sites == alone.sites
    assert found.predictions == alone.predictions
    return {
        "processors": executor.jobs,
        "tasks": executor.tasks,
        "tokens": len(found.tokens),
        "changed": int((found.tokens["kl"] > 0).sum()),
    }


def two_models(root: Path) -> tuple[str, str]:
    """Ids of two runs over the same prompts, with one head."""
    from dataclasses import replace

    import numpy as np

    from benchmarks.synthetic import WIDTH, synthetic_run
    from lpp.store import RunWriter
    from lpp.store.objects.locate import objects_at
    from lpp.store.shared.heads import commit_head
    from lpp.store.shared.logits import HeadContent
    from lpp.store.shared.matrices import Matrix

    sites = ("block.1", "final")
    run = synthetic_run(root, 2500, 16, sites=sites, per_shard=25)
    plan = replace(run.plan, model=replace(run.plan.model, id="model/other"), shards=(0, 25))
    rows = {site: [b.values for b in run.blocks(site, dtype="stored")] for site in sites}
    moved = {site: np.concatenate(some) ^ np.uint16(3) for site, some in rows.items()}
    writer = RunWriter(root, plan, run.prompts())
    writer.write_shard(0, moved, run.tokens().to_table())
    weight = np.random.default_rng(0).normal(size=(WIDTH, 16)).astype(np.float32) / np.float32(40)
    content = HeadContent(matrix=Matrix(dtype="float32", weight=weight))
    for one in (run.plan, plan):
        commit_head(objects_at(root), one, content)
    return run.id, plan.run_id


def main(job: str, folder: str, *rest: str) -> None:
    """Print the result as JSON; an error gives a traceback and an exit code."""
    faulthandler.dump_traceback_later(HANGS_SECONDS, exit=True)
    if job == "analysis":
        told = analysis(Path(folder))
    elif job == "drift":
        told = drift(Path(folder))
    elif job == "analysis-worker":
        told = analysis_worker(Path(folder))
    elif job == "capture-worker":
        told = capture_worker(Path(folder), rest[0])
    else:
        told = capture(Path(folder), rest[0], *map(int, rest[1:]))
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
