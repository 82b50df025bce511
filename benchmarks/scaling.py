"""What a capture and its analysis take, and what saturates first: a simulator, SCALING.md.

A capture is a pipeline: while one shard fills from the forward pass, another is compressed on every
core, and another is flushed to the disk. `SLOTS` shards are under way, each in memory of its own.
So the slowest stage sets the pace, and the forward pass waits for it. Each stage is a number of
bytes or operations per token over a rate. `python -m benchmarks.scaling` prints the tables of
SCALING.md. `python -m benchmarks scaling` compares the same formulas, with constants measured
there and then, with this machine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from lpp.capture.models.device import KINDS
from lpp.capture.plan.sizes import SLOTS
from lpp.store.format.schedule import prefix_schedule

CONTEXT: Final = 200
"""Tokens of a prompt."""
PREFIXES: Final = len(prefix_schedule(CONTEXT))
"""Prefixes of the schedule: a site has an eigen-decomposition for each."""


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Rates of one core that were measured (`scaling_check`), and rates that were not."""

    # measured; SCALING.md says where and when
    row_bytes: float = 2.0
    """Of one number of a row in bfloat16."""
    squeeze: float = 1.46
    """Raw bytes over stored ones, of a real model's states."""
    encode: float = 0.33e9
    """Raw bytes a second of one core: shuffle, zstd, checksums, files. Provisional, SCALING.md."""
    unpack: float = 0.42e9
    """The same, read, to float32."""
    product: float = 115e9
    """Operations a second of one core on a float64 rank-k update."""
    handle: float = 0.15e9
    """Numbers a second of one core through widening, sorting into bands and centring."""
    solve: float = 11e9
    """d^3 a second of one core, of the eigenvalues of a symmetric matrix."""

    spare: float = 0.0
    """Share of one more core that products leave free; it unpacks the next block meanwhile."""

    # not measured: from data sheets
    forward: float = 400e12
    """Operations a second of one card in bfloat16: four tenths of an H100's dense peak, 989e12."""
    lanes: float = 50e9
    """Bytes a second from a card to its host: PCIe 5 x16 gives 64e9 at best."""
    cores: int = 16
    """Of the host, for each card."""
    node: int = 8
    """Cards of one machine."""
    disk: float = 5e9
    """Bytes a second written to one machine's own NVMe disks."""
    network: float = 12.5e9
    """Bytes a second of one machine's link: 100 Gbit/s."""
    bucket: float = 100e9
    """Bytes a second that an object store takes from one account before it must be asked."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What of a model the times depend on."""

    name: str
    parameters: float
    width: int
    sites: int


MODELS: Final = (
    Model(name="1.5B", parameters=1.5e9, width=1536, sites=30),
    Model(name="8B", parameters=8e9, width=4096, sites=34),
    Model(name="70B", parameters=70e9, width=8192, sites=82),
)
"""Sizes of families in use; every block, `embed` and `final`."""


def row_bytes(c: Constants, model: Model, tokens: float) -> float:
    """Stored bytes of every row of every site."""
    return tokens * model.sites * model.width * c.row_bytes / c.squeeze


def host_bytes(cards: int) -> int:
    """Host memory of the shards under way, for so many processes of one card each."""
    return SLOTS * KINDS["cuda"].shard_bytes * cards


def capture_stages(
    c: Constants, model: Model, cards: int, where: Literal["disk", "bucket"]
) -> dict[str, float]:
    """Seconds per token of each stage, over all cards.

    Cards that share one copy of a model are counted as if each ran a part of the tokens.
    """
    machines = -(-cards // c.node)
    raw = model.sites * model.width * c.row_bytes
    # an encoder takes a whole site, and sites of two shards are encoded at a time
    encoders = min(c.cores, (SLOTS - 1) * model.sites)
    encoding = raw / (c.encode * encoders) / cards
    forward = 2 * model.parameters / c.forward / cards
    stored = raw / c.squeeze
    stages = {"forward": forward, "copy": raw / c.lanes / cards, "encoding": encoding}
    if where == "disk":
        stages["disk"] = stored / c.disk / machines
    else:
        stages["network"] = stored / c.network / machines
        stages["bucket"] = stored / c.bucket
    return stages


def seconds_per_token(stages: dict[str, float]) -> float:
    """Of a capture: its slowest stage."""
    return max(stages.values())


def analysis_seconds(
    c: Constants,
    *,
    rows: float,
    width: int,
    sites: int = 1,
    solves: int = PREFIXES,
    cores: int = 1,
) -> dict[str, float]:
    """Seconds of each part of an analysis from rows, on so many cores.

    solves: eigen-decompositions of a site.
    """
    numbers = rows * width * sites / cores
    reading = numbers * c.row_bytes / c.unpack
    adding = numbers / c.handle + 2.0 * numbers * width / c.product
    return {
        "reading": max(0.0, reading - c.spare * adding),
        "products": adding,
        "solves": solves * sites * width**3 / c.solve / cores,
    }


def first_to_saturate(stages: dict[str, float]) -> tuple[str, float]:
    """The slowest stage, and how much slower than the forward pass it makes everything."""
    slowest = max(stages, key=lambda name: stages[name])
    return slowest, stages[slowest] / stages["forward"]


def tables(c: Constants, models: Sequence[Model] = MODELS) -> Iterator[str]:
    """The Markdown tables of SCALING.md."""
    yield "| model | d | sites | rows, bytes per token |"
    yield "|---|---|---|---|"
    for m in models:
        yield f"| {m.name} | {m.width:,} | {m.sites} | {row_bytes(c, m, 1):,.0f} |"
    yield ""
    yield "| model | cards | forward pass, tokens/s | rows to a disk | rows to a bucket |"
    yield "|---|---|---|---|---|"
    for m in models:
        for cards in (1, 8, 1000):
            to_disk, to_bucket = (capture_stages(c, m, cards, w) for w in ("disk", "bucket"))
            pace = f"{_pace(to_disk)} | {_pace(to_bucket)}"
            yield f"| {m.name} | {cards:,} | {1 / to_disk['forward']:,.0f} | {pace} |"
    yield ""
    yield "| model | reading, core-s | products, core-s | ten solves a site, core-s |"
    yield "|---|---|---|---|"
    for m in models:
        found = analysis_seconds(c, rows=1e6, width=m.width, sites=m.sites)
        yield f"| {m.name} | {' | '.join(f'{s:,.0f}' for s in found.values())} |"


def _pace(stages: dict[str, float]) -> str:
    name, slower = first_to_saturate(stages)
    return f"{1 / slower:.0%}, {name}" if name != "forward" else "100%"


if __name__ == "__main__":
    print("\n".join(tables(Constants())))
