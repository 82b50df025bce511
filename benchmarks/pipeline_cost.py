"""What the host reaches when the model costs nothing, beside packing alone and the disk.

The backend copies prepared rows into the shard's memory, which on a GPU the card does by itself;
everything after it is the real thing: finite check, packing, checksums, files, flush, commit. The
rows are bfloat16 activations of the packaged model, those of neighbouring sites side by side where
a wider model is stood in for, so that they compress as a real model's do. Nothing is generated
while time is taken.

Each configuration runs in a process of its own, since what a heap keeps of earlier work helps one
side and not the other.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import numpy as np
import numpy.typing as npt

from benchmarks.pairs import Ratio, ratio_of_times, ratio_once
from benchmarks.setting import capture, prepared, scratch
from benchmarks.sides import Side
from benchmarks.synthetic import prompts_table, synthetic_plan
from lpp.capture.engine.capture import capture_run
from lpp.capture.models.device import KINDS
from lpp.capture.plan.backend import Batch, Captured, Outputs
from lpp.store import Plan, RunWriter, create_store
from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.arrays.layout import PACKINGS, chunk_rows
from lpp.store.arrays.planes import compress_planes as compress
from lpp.store.format.schedule import shard_boundaries
from lpp.store.format.tables import STATISTICS, TOKENS_SCHEMA
from lpp.store.shared.logits import HeadContent

if TYPE_CHECKING:
    import pyarrow as pa

REPEATS: Final = 3
MEMORY: Final = Path("/dev/shm")
"""A file system in memory: a store there takes compression and checksums to their limit."""
TEMPLATE_PROMPTS: Final = 10
"""Of 200 tokens: what a batch of the default size holds."""
TEMPLATE_ROWS: Final = 200
"""Fewest rows that a site has prepared, side by side in memory: a card copies at no cost here."""
FILES: Final = 8
"""Files that the disk alone is given side by side, as many as a flush of the store has."""
FILE_CHUNKS: Final = 4
"""Of each of them: about what a site has."""
BOUND: Final = (
    "beside packing: the copy into the shard, the finite check, checksums, and the kernel's copy "
    "of what is written"
)
"""Why a bar of speed or of CPU time is missed."""

Bits = npt.NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The shape of one capture."""

    width: int
    sites: int
    lengths: tuple[int, ...]
    """Tokens of each prompt."""
    shard_bytes: int = KINDS["cpu"].shard_bytes

    @property
    def token_bytes(self) -> int:
        """Bytes of one token over all sites."""
        return 2 * self.width * self.sites

    @property
    def raw_bytes(self) -> int:
        """Bytes of all rows before compression."""
        return sum(self.lengths) * self.token_bytes

    def __str__(self) -> str:
        ragged = ", prompts of 50 to 350 tokens" if len(set(self.lengths)) > 1 else ""
        return f"d = {self.width:,} at {self.sites} sites{ragged}"


def setup(width: int, sites: int, shards: int, *, ragged: bool = False) -> Setup:
    """A capture of about so many full shards. ragged: prompts of 50 to 350 tokens, 200 on average,
    whose rows have to be gathered from their batches; of 200 otherwise.
    """
    prompts = round(shards * max(1, KINDS["cpu"].shard_bytes // (2 * width * sites * 200)))
    lengths = np.full(prompts, 200)
    if ragged:
        lengths = np.random.default_rng(0).integers(50, 351, prompts)
    return Setup(width=width, sites=sites, lengths=tuple(lengths.tolist()))


SHARDS: Final = 8
"""Of 256 MiB: more than twice those that are under way at once."""
SETUPS: Final = (
    setup(576, 32, SHARDS),
    setup(576, 32, SHARDS, ragged=True),
    setup(3584, 30, SHARDS),
    setup(8192, 80, SHARDS),
)
"""The packaged model, a model of 7B, and one of 70B: 58,000 tokens, 9,600 and 1,600."""
FEW, MANY = 100, 1000
"""Prompts whose peak memory is compared."""
MEMORY_SHARD: Final = 64 << 20
"""Smaller than the default, so that the fewer prompts too fill every slot several times."""


def measure(
    folder: Path,
    setups: Sequence[Setup] = SETUPS,
    template: Bits | None = None,
    *,
    prompts: tuple[int, int] = (FEW, MANY),
    repeats: int = REPEATS,
) -> Iterator[Ratio]:
    """folder: on the disk that is measured, with room for two gigabytes. template: as
    `real_rows` gives it, which is made when there is none.
    """
    rows = folder / "template.npy"
    np.save(rows, real_rows(folder) if template is None else template)
    for one in setups:
        with _alone() as process:
            timed = process.submit(side_by_side, one, rows, folder, repeats).result()
        yield from _speeds(one, timed)
    yield from _cores(setups[0], rows, repeats)
    yield _peaks(setups[0], rows, folder, prompts)


def real_rows(folder: Path) -> Bits:
    """(tokens, sites x width) activations of the packaged model, site beside site."""
    run = capture(prepared(TEMPLATE_PROMPTS), folder / "template")
    sites = (run.blocks(site, dtype="stored") for site in run.sites)
    values = [np.concatenate([block.values for block in blocks]) for blocks in sites]
    return np.concatenate(values, axis=1)


class TemplateBackend:
    """Copies prepared rows where a model's would go. Implements `plan.backend.Backend`.

    template: (tokens, columns); each site takes columns of its own, as far as there are enough.
    """

    model: Any = None  # only making a plan would ask for these five
    sites: Any = None
    reuses: Any = None
    compute: Any = None
    write: Any = None

    def __init__(self, template: Bits, setup: Setup) -> None:
        spare = template.shape[1] - setup.width + 1
        step = template.shape[1] // setup.sites
        self.first_columns = [site * step % spare for site in range(setup.sites)]
        # more rows than a chunk has, or rows would repeat in it
        rows = template[: max(TEMPLATE_ROWS, 2 * chunk_rows(setup.width, 2))]
        self._sites = [
            np.ascontiguousarray(rows[:, column : column + setup.width])
            for column in self.first_columns
        ]

    def allocate(self, size: int) -> npt.NDArray[np.uint8]:
        """Memory of this process."""
        return np.empty(size, np.uint8)

    def capture(self, batches: Iterable[Batch], outputs: Outputs) -> Iterator[Captured]:
        """Fill each batch as soon as it is asked for."""
        for batch in batches:
            self.fill(batch.hidden.values())
            yield Captured(batch=batch, statistics=_statistics(len(batch.logit_rows)))

    def fill(self, sites: Iterable[npt.NDArray[Any]]) -> None:
        """Write the (tokens, width) rows of every site, in depth order."""
        for kept, rows in zip(self._sites, sites, strict=True):
            for start in range(0, len(rows), len(kept)):
                part = rows[start : start + len(kept)]
                np.copyto(part, kept[: len(part)])

    def head(self) -> HeadContent | str:
        """None: it has no model."""
        return "it has none"

    def close(self) -> None:
        """Nothing is held."""


def _statistics(rows: int) -> dict[str, npt.NDArray[Any]]:
    return {
        name: np.ones(rows, TOKENS_SCHEMA.field(name).type.to_pandas_dtype()) for name in STATISTICS
    }


class Pipeline:
    """One configuration, ready to be captured again and again."""

    def __init__(self, setup: Setup, template: Bits) -> None:
        rng = np.random.default_rng(0)
        ids = [rng.integers(0, 1000, length, dtype=np.int32) for length in setup.lengths]
        self.prompts: pa.Table = prompts_table(ids)
        names = ("embed", *(f"block.{k}" for k in range(1, setup.sites - 1)), "final")
        shards = shard_boundaries(setup.lengths, setup.token_bytes, setup.shard_bytes)
        self.plan: Plan = synthetic_plan(
            self.prompts, max(setup.lengths), dim=setup.width, sites=names, shards=shards
        )
        self.backend = TemplateBackend(template, setup)

    def run(self, root: Path) -> None:
        """Capture into a new store."""
        writer = RunWriter(create_store(root).path, self.plan, self.prompts)
        capture_run(self.plan, self.prompts, writer, self.backend)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds of one call."""

    wall: float
    cpu: float
    """User and system time of all threads of this process."""


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """What one configuration took, a `Spent` for each repeat."""

    on_disk: list[Spent]
    in_memory: list[Spent]
    earlier: list[Spent]
    """`on_disk`, packed as earlier releases packed."""
    packing: list[Spent]
    """The same chunks on all cores."""
    disk: list[Spent]
    """As many compressed bytes, written and flushed."""
    squeeze: float
    """Raw bytes over compressed ones."""


def side_by_side(setup: Setup, template: Path, folder: Path, repeats: int) -> SideBySide:
    """Time the four sides in turn. In a process of its own."""
    pipeline = Pipeline(setup, np.load(template))
    chunks, shards = _chunks(setup, pipeline), pipeline.plan.n_shards
    packed = [compress(chunk) for chunk in chunks]
    sides: dict[str, tuple[Path, Callable[[Path], object]]] = {
        "on_disk": (folder, pipeline.run),
        "earlier": (folder, lambda path: as_earlier(lambda: pipeline.run(path))),
        "in_memory": (MEMORY, pipeline.run),
        "packing": (folder, lambda _: compress_all(chunks * shards)),
        "disk": (folder, lambda path: write_files(packed * shards, path)),
    }
    found: dict[str, list[Spent]] = {name: [] for name in sides}
    for number in range(-1, repeats):  # the first does not count
        for name in sides if number % 2 == 0 else reversed(sides):
            where, call = sides[name]
            with scratch(where) as own:
                taken = spent(lambda: call(own / name))  # noqa: B023 - called at once
            if number >= 0:
                found[name].append(taken)
    squeeze = setup.raw_bytes / shards / sum(map(len, packed))
    return SideBySide(**found, squeeze=squeeze)


def as_earlier(call: Callable[[], object]) -> None:
    """Call with the packing of earlier releases: Blosc's own, of zstd level 1."""
    with mock.patch("lpp.store.runs.write.PACKINGS", PACKINGS[1:]):
        call()


def spent(call: Callable[[], object]) -> Spent:
    """Time one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Spent(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def _chunks(setup: Setup, pipeline: Pipeline) -> list[Bits]:
    """The chunks of a shard of average size, the last of each site filled up as the store does."""
    tokens = sum(setup.lengths) // pipeline.plan.n_shards
    step = min(chunk_rows(setup.width, 2), tokens)
    filled_up = -(-tokens // step) * step
    sites = np.zeros((setup.sites, filled_up, setup.width), np.uint16)
    pipeline.backend.fill(sites[:, :tokens])
    return [rows[start : start + step] for rows in sites for start in range(0, filled_up, step)]


def compress_all(chunks: Sequence[npt.NDArray[Any]]) -> None:
    """Compress chunks on every core."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in pool.map(compress, chunks):
            pass


def write_files(parts: Sequence[bytes], folder: Path) -> None:
    """Write files of a few chunks each, several side by side, and flush them."""
    folder.mkdir()

    def write(number: int) -> None:
        with (folder / str(number)).open("xb", buffering=0) as file:
            for part in parts[number * FILE_CHUNKS : (number + 1) * FILE_CHUNKS]:
                file.write(part)
            os.fsync(file.fileno())

    with ThreadPoolExecutor(FILES) as pool:
        for _ in pool.map(write, range(-(-len(parts) // FILE_CHUNKS))):
            pass


def _alone() -> ProcessPoolExecutor:
    """One process, new, without what this one has loaded."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _speeds(setup: Setup, timed: SideBySide) -> Iterator[Ratio]:
    """The rows of one configuration."""
    cores = usable_cores()
    packing = f"packing alone on {cores} cores" if cores > 1 else "packing alone"
    slower = "packing" if _median(timed.packing) > _median(timed.disk) else "the disk"
    either = [
        max(one.wall, other.wall) for one, other in zip(timed.packing, timed.disk, strict=True)
    ]
    what = f"{setup} (rows compress {timed.squeeze:.2f}-fold)"
    yield _rates(
        f"pipeline into a store on disk / the same packed as by earlier releases, {what}",
        setup,
        [one.wall for one in timed.on_disk],
        [one.wall for one in timed.earlier],
        bar=1.7,
    )
    yield _rates(
        f"pipeline into a store on disk / the slower of {packing} and the disk alone (here "
        f"{slower}), {what}",
        setup,
        [one.wall for one in timed.on_disk],
        either,
        bar=0.7,
    )
    yield _rates(
        f"pipeline into a store in memory / {packing}, {what}",
        setup,
        [one.wall for one in timed.in_memory],
        [one.wall for one in timed.packing],
        bar=0.75,
    )
    yield ratio_of_times(
        f"CPU seconds of the pipeline into a store on disk / of packing alone, {what}",
        ([one.cpu for one in timed.on_disk], [one.cpu for one in timed.packing]),
        bar=1.4,
        bound=BOUND,
    )


def _rates(
    what: str,
    setup: Setup,
    ours: list[float],
    other: list[float],
    *,
    bar: float,
    bound: str = BOUND,
) -> Ratio:
    """Raw bytes a second."""
    found = ratio_of_times(
        what, (ours, other), bar=bar, direction="at least", inverted=True, bound=bound
    )
    rates = (f"{setup.raw_bytes / statistics.median(s) / 1e6:,.0f} MB/s" for s in (ours, other))
    return replace(found, ours=next(rates), other=next(rates))


def _median(calls: Sequence[Spent]) -> float:
    return statistics.median(one.wall for one in calls)


def _cores(setup: Setup, template: Path, repeats: int) -> Iterator[Ratio]:
    """Two cores, four and so on beside one, into a store in memory, where no disk limits them."""
    numbers = [1]
    while 2 * numbers[-1] <= usable_cores():
        numbers.append(2 * numbers[-1])
    with ExitStack() as stack:
        sides = {
            number: stack.enter_context(closing(Side(OnCores(setup), template, number)))
            for number in numbers
        }
        times: dict[int, list[float]] = {number: [] for number in numbers}
        for turn in range(-1, repeats):  # the first does not count
            for number in numbers if turn % 2 == 0 else reversed(numbers):
                seconds = sides[number].seconds()
                if turn >= 0:
                    times[number].append(seconds)
    for number in numbers[1:]:
        yield _rates(
            f"pipeline into a store in memory, {number} cores / one, {setup}",
            setup,
            times[number],
            times[1],
            bar=0.9 * number,
            bound="memory bandwidth, and the one thread that copies",
        )


@dataclass(frozen=True)
class OnCores:
    """Makes a run on some of the cores that this process may use: `sides.Make`."""

    setup: Setup

    def __call__(self, template: Path, cores: int) -> Callable[[], object]:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        pipeline = Pipeline(self.setup, np.load(template))

        def run() -> None:
            with scratch(MEMORY) as folder:
                pipeline.run(folder / "store")

        return run


def _peaks(setup: Setup, template: Path, folder: Path, prompts: tuple[int, int]) -> Ratio:
    """Peak memory by number of prompts, each in a process of its own."""
    peaks = []
    for count in prompts:
        some = replace(setup, lengths=setup.lengths[:1] * count, shard_bytes=MEMORY_SHARD)
        with _alone() as process:
            peaks.append(process.submit(peak, some, template, folder).result())
    few, many = peaks
    return ratio_once(
        f"peak memory of the pipeline, {prompts[1]:,} prompts / {prompts[0]}, {setup}, shards of "
        f"{MEMORY_SHARD >> 20} MiB",
        f"{many / 1024:.0f} MiB",
        f"{few / 1024:.0f} MiB",
        many / few,
        bar=1.1,
    )


def peak(setup: Setup, template: Path, folder: Path) -> int:
    """Peak resident KiB of this process after one capture."""
    with scratch(folder) as own:
        Pipeline(setup, np.load(template)).run(own / "store")
    # not ru_maxrss, which a process inherits from the one that started it
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
