"""Doses measured side by side, each in a process of its own."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import click

from benchmarks.detection.setting import Setting


def measure_all(setting: Setting, names: Sequence[str], jobs: int) -> None:
    """Measure doses side by side, each in one of `jobs` processes."""
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context) as pool:
        pool.submit(prepare, setting).result()
        tasks = [pool.submit(measure_one, setting, name) for name in names]
        for done, task in enumerate(as_completed(tasks), start=1):
            minutes = (time.monotonic() - start) / 60
            click.echo(f"{minutes:5.1f} min, {done} of {len(tasks)}: {task.result()}")


def prepare(setting: Setting) -> None:
    """Capture the base, before several processes want it."""
    from benchmarks.detection.measure import base_of

    base_of(setting)


def measure_one(setting: Setting, name: str) -> str:
    """Measure the dose `name`, in a process of the pool."""
    from benchmarks.detection.damage import doses
    from benchmarks.detection.measure import measured

    return measured(setting, next(dose for dose in doses(setting.n_blocks) if dose.name == name))
