"""Two Ray nodes on this machine, one of which is killed while there is work on it.

A program of its own, so that nothing of Ray's is left in the process of the tests. The driver is
on the first node; the second is ended by SIGKILL once it holds or does part of the work.

    python ray_nodes.py analysis FOLDER [SPANS]
    python ray_nodes.py capture FOLDER OPTION...
"""

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PATIENCE = 120.0
"""Seconds until work should have reached the second node."""


@contextlib.contextmanager
def two_nodes(cpus: int = 1) -> Iterator[tuple[str, Callable[[], str], Callable[[], None]]]:
    """Address of the cluster, id of its second node, and what kills that node."""
    from ray.cluster_utils import Cluster

    common = {"num_cpus": cpus, "object_store_memory": 100 << 20}
    found = Cluster(initialize_head=True, head_node_args={**common, "include_dashboard": False})
    second = found.add_node(**common)
    try:
        yield (
            found.address,
            lambda: str(second.node_id),
            lambda: found.remove_node(second, allow_graceful=False),
        )
    finally:
        found.shutdown()


def analysis(folder: Path, spans: int = 12) -> dict[str, Any]:
    """The tables of a store by one process and by two nodes with one lost, compared bit by bit."""
    from polars.testing import assert_frame_equal

    from benchmarks.synthetic import synthetic_run
    from lpp.analyze import Selection, analyze
    from lpp.analyze import spans as of_spans
    from lpp.analyze.ray_executor import RayExecutor
    from lpp.store.cluster import cluster

    of_spans.SPAN_CHUNKS = 16  # here alone: the driver cuts, and a worker takes what it is given
    rows, root = spans * 16 * 1024 + 5000, folder / "store"
    synthetic_run(root, rows, 64, sites=("block.1", "final"), per_shard=100)
    asked = Selection(prompts=[rows // 300, rows // 100])
    alone = analyze(root, asked, errors="final")
    shutil.rmtree(root / "analysis")
    told: dict[str, Any] = {"killed": 0, "spans": spans}

    with two_nodes() as (address, second, kill), cluster(address) as ray:

        class Killing(RayExecutor):
            """Ends the second node once something that it made lies there."""

            def __init__(self) -> None:
                super().__init__(ray)
                self.made: list[Any] = []

            def _handed(self, task: Any, *args: Any) -> Any:
                made = super()._handed(task, *args)
                self.made += made if isinstance(made, list) else [made]
                if not told["killed"] and len(self.made) >= 6:
                    wait_until(lambda: second() in holders(ray, self.made))
                    kill()
                    told["killed"] = len(self.made)
                return made

        whole = analyze(root, asked, errors="final", executor=Killing())
        told["alive"] = sum(node["Alive"] for node in ray.nodes())
    for name in ("spectra", "entropy", "metrics"):
        assert_frame_equal(getattr(whole, name), getattr(alone, name), check_exact=True)
    told["rows"] = len(whole.spectra)
    return told


def holders(ray: Any, refs: list[Any]) -> set[str]:
    """Nodes in whose object store any of `refs` lies."""
    found = ray.experimental.get_object_locations(refs)
    return {node for place in found.values() for node in place["node_ids"]}


def wait_until(true: Callable[[], bool]) -> None:
    """Until it is so; an error where it never is."""
    until = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > until:
            raise TimeoutError("the second node got no work")
        time.sleep(0.02)


def main(job: str, folder: str, *rest: str) -> None:
    """Print what was seen as JSON; an error is a traceback and a code."""
    told = analysis(Path(folder), *map(int, rest)) if job == "analysis" else None
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
