"""A store of many small runs: what each command takes, and how it grows with their number.

A sweep or a training has thousands of runs. Rows are few and random, so that what is measured is
the work for each run. A few runs are written; the others are copies under other plans.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.pairs import Ratio, ratio_once, seconds
from benchmarks.synthetic import synthetic_run
from lpp.store import Run
from lpp.store.format.commit_record import ObjectRecord, record_bytes
from lpp.store.format.documents import canonical_json
from lpp.store.format.keys import COMMIT_KEY, PLAN_KEY
from lpp.store.format.plan import Series

RUNS: Final = (500, 2000)
SHARDS: Final = 3
PROMPTS: Final = 4
"""Prompts of a shard."""
LENGTH: Final = 10
DIM: Final = 8
WRITTEN: Final = 8
"""Runs with rows of their own."""
STEPS: Final = 20
"""Checkpoints of each training."""
GROWTH: Final = 1.25
"""Most that the time may grow beyond that of the number of runs."""
QUERY: Final = "SELECT run, entropy_floor FROM profiles ORDER BY entropy_floor"
PROFILE: Final = ("lpp-analyze", "profile", "STORE", "--sites", "final")
PAGE: Final = 3_000_000
"""Most bytes of the page."""


def many_runs(root: Path, runs: int) -> Path:
    """A store of `runs` runs of `SHARDS` shards, each a checkpoint of a training of `STEPS`."""
    rows = SHARDS * PROMPTS * LENGTH
    written = [
        synthetic_run(root, rows, DIM, per_shard=PROMPTS, length=LENGTH, model=number + 1)
        for number in range(min(WRITTEN, runs))
    ]
    for number in range(runs - len(written)):
        _copy(written[number % len(written)], number)
    return root


def _copy(run: Run, number: int) -> None:
    """The same rows as those of a checkpoint of a training."""
    training, step = divmod(number, STEPS)
    series = Series(name=f"training-{training}", step=1000 * step)
    model = replace(run.plan.model, id=f"lab/model-{training}", weights=f"{number}", series=series)
    plan = replace(run.plan, model=model)
    source = Path(str(run.path))
    target = source.with_name(plan.run_id)
    shutil.copytree(source, target, copy_function=os.link)
    text = canonical_json(plan.document)
    objects = {**run.commit.objects, PLAN_KEY: ObjectRecord.of([text])}
    records = {target: replace(run.commit, plan=plan.hash, objects=objects)}
    for shard in run.shards:
        copied = target / Path(str(shard.path)).relative_to(source)
        records[copied] = replace(shard.record, plan=plan.hash)
    _replace(target / run.commit.base / PLAN_KEY, text)
    for folder, record in records.items():
        _replace(folder / COMMIT_KEY, record_bytes(record))


def _replace(path: Path, data: bytes) -> None:
    """Another file of this name: the bytes of the old one belong to other runs too."""
    path.unlink()
    path.write_bytes(data)


def measure(folder: Path, runs: tuple[int, int] = RUNS) -> Iterator[Ratio]:
    """Two rows for each command: its seconds at the larger number, and its growth from the
    smaller; then the bytes of the page.
    """
    fewer, more = (many_runs(folder / f"{count}-runs", count) for count in runs)
    for store in (fewer, more):
        _run(PROFILE, store)  # below, everything is kept
    page = folder / "page.html"
    for words, bar in (
        (("lpp-capture", "status", "STORE"), 1.5),
        (PROFILE, 20),
        (("lpp-analyze", "report", "STORE", "-o", str(page)), 10),
        (("lpp-sql", "STORE", QUERY), 0.6),
        (("lpp-analyze", "verify", "STORE"), 30),
    ):
        what = f"`{' '.join(word for word in words[:2] if word != 'STORE')}`"
        small, large = (seconds(partial(_run, words, store)) for store in (fewer, more))
        yield ratio_once(
            f"{what} of {runs[1]:,} runs, in seconds", f"{large:.1f} s", "1 s", large, bar=bar
        )
        yield ratio_once(
            f"{what} of {runs[1]:,} runs / of {runs[0]:,} runs",
            f"{large:.1f} s",
            f"{small:.1f} s",
            large / small,
            bar=GROWTH * runs[1] / runs[0],
        )
    size = page.stat().st_size
    yield ratio_once(
        f"page of {runs[1]:,} runs / {PAGE / 1e6:g} MB",
        f"{size / 1e6:.1f} MB",
        f"{PAGE / 1e6:g} MB",
        size / PAGE,
        bar=1,
    )


def _run(words: Sequence[str], store: Path) -> None:
    program = str(Path(sys.executable).with_name(words[0]))
    rest = [str(store) if word == "STORE" else word for word in words[1:]]
    subprocess.run([program, *rest], check=True, capture_output=True)
