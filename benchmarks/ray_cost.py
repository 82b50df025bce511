"""What a second Ray worker gains on analysis.

Both sides are Ray on this machine, with one processor or with two, started and warm: what is timed
is the analysis alone, from the store to the tables, nothing cached. Every task has one thread of
BLAS on both sides. The driver hands out and waits.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

from benchmarks.pairs import Ratio, ratio_of_times
from benchmarks.setting import scratch
from benchmarks.sides import Side
from benchmarks.synthetic import synthetic_run

SITES: Final = ("embed", *(f"block.{k}" for k in range(1, 7)), "final")
DIM: Final = 768
ROWS: Final = 40_000
REPEATS: Final = 3


def measure(rows: int = ROWS) -> Iterator[Ratio]:
    """Many sites, each a task."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with scratch() as folder:
        synthetic_run(folder / "sites", rows, DIM, sites=SITES, per_shard=200)
        yield _gain(
            folder / "sites", f"analysis of {len(SITES)} sites, {rows:,} rows of width {DIM}"
        )


def _gain(store: Path, what: str) -> Ratio:
    with ExitStack() as stack:
        one, two = (stack.enter_context(closing(Side(analysing, store, n))) for n in (1, 2))
        one.seconds(), two.seconds()  # workers start, libraries load
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(REPEATS):
            times[0].append(two.seconds())
            times[1].append(one.seconds())
    return ratio_of_times(
        f"two local Ray workers / one, {what}",
        times,
        bar=1.7,
        direction="at least",
        inverted=True,
        bound="one worker reads ahead on the second core, which a second worker then lacks",
    )


def analysing(store: Path, workers: int) -> Callable[[], object]:
    """The spectra of the whole store on so many workers."""
    import ray

    from lpp.analyze import ProfileSettings, analyze
    from lpp.analyze.engine.ray_executor import RayExecutor
    from lpp.store.process.cluster import THREADS

    own = store.with_name(f"{store.name}-{workers}")  # a cache of its own beside the same rows
    shutil.copytree(store, own, copy_function=os.link)
    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": dict.fromkeys(THREADS, "1")},
    )
    executor = RayExecutor(lambda: ray)

    def run() -> None:
        shutil.rmtree(own / "analysis", ignore_errors=True)
        analyze(own, ProfileSettings(errors="none"), executor=executor)

    return run
