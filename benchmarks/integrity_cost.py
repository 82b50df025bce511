"""What never being wrong costs: checksums while capturing, verifying, stopping and going on."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.setting import capture, prepared, scratch
from lpp.capture.engine.capture import capture_run
from lpp.capture.engine.prepare import Prepared
from lpp.capture.plan.parts import Part
from lpp.store import Run, RunWriter, create_store
from lpp.store.format.commit_record import checksum

PROMPTS = 100
SHARD_BYTES = 64 << 20
"""Smaller than the default: about twelve shards, so that a run can stop between two."""
REPEATS = 5
CAPTURES = 3
PIECE = 1 << 20


def measure(run: Run, ready: Prepared | None = None) -> Iterator[Ratio]:
    """run: a capture to verify. ready: what to capture, again and again, in several shards."""
    files = [path for path in Path(str(run.path)).rglob("*") if path.is_file()]
    yield ratio_of_times(
        "verify a run / read the same bytes, in the page cache",
        timed_pairs(lambda: _whole(run), lambda: _read(files), REPEATS),
        bar=2,
        bound="what each object costs beside its bytes: its name, its document, Python's lock",
    )
    ready = ready or prepared(PROMPTS, shard_bytes=SHARD_BYTES)
    with scratch() as folder:
        names = (folder / str(number) for number in itertools.count())
        yield _checksums(ready, names)
        yield ratio_of_times(
            "capture stopped halfway and gone on with / undisturbed, the model loaded",
            timed_pairs(_in_two(ready, names), lambda: capture(ready, next(names)), CAPTURES),
            bar=1.05,
            bound="the first batch waits for no one, and the last shard is written after it",
        )


def _whole(run: Run) -> None:
    if problems := Run(run.path).verify():
        raise RuntimeError(str(problems[0]))


def _read(files: list[Path]) -> None:
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(PIECE):
                pass


def _checksums(ready: Prepared, names: Iterator[Path]) -> Ratio:
    """Time to hash every stored byte, from memory, as a share of the capture that stores them."""
    path = capture(ready, next(names)).path
    stored = [file.read_bytes() for file in Path(str(path)).rglob("*") if file.is_file()]

    def hashed() -> None:
        for data in stored:
            checksum(data)

    return ratio_of_times(
        "checksums of all that is stored / the capture that stores it",
        timed_pairs(hashed, lambda: capture(ready, next(names)), CAPTURES),
        bar=0.02,
    )


def _in_two(ready: Prepared, names: Iterator[Path]) -> Callable[[], None]:
    """Half of the shards, then the rest by a writer that finds them there."""

    def run() -> None:
        root = create_store(next(names)).path
        for part in (Part(0, 2), Part(0, 1)):
            writer = RunWriter(root, ready.plan, ready.prompts)
            shards = part.shards(ready.plan.n_shards)
            capture_run(ready.plan, ready.prompts, writer, ready.backend, shards=shards)

    return run
