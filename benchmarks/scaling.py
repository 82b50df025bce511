"""What a capture and its analysis take, and what saturates first: a simulator, SCALING.md.

Work flows through stages that run side by side (a forward pass while the shard before is packed and
the one before that is stored), so the slowest stage sets the pace and the others wait for it. Each
stage is a number of bytes or operations per token over a rate. `python -m benchmarks.scaling`
prints the tables of SCALING.md; `python -m benchmarks scaling` holds the same formulas, with
constants measured there and then, against this machine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Keep = Literal["rows", "moments"]

BANDS: Final = 10
"""Position bands, those of the prefix schedule."""
GROUPS: Final = 10
"""Groups of a jackknife, so the fewest shards whose moments give errors."""


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Rates: measured on one core of a server processor (`scaling_check`), or named assumptions."""

    # measured here; SCALING.md says where and when
    row_bytes: float = 2.0
    """Of one number of a row in bfloat16."""
    squeeze: float = 1.48
    """Raw bytes over stored ones, of a real model's states."""
    pack: float = 0.295e9
    """Raw bytes a second of one core: shuffle, zstd, checksum, write."""
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

    # assumed: data sheets, and what such machines are seen to reach
    forward: float = 400e12
    """Operations a second of one card in bfloat16: four tenths of an H100's dense peak, 989e12."""
    card_double: float = 40e12
    """The same in float64 on its tensor cores: six tenths of 67e12."""
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


def moment_bytes(model: Model, shards: int = GROUPS, bands: int = BANDS) -> float:
    """Stored bytes of the moments: count, mean and a triangle of each site, band and shard."""
    d = model.width
    return model.sites * bands * shards * (d * (d + 1) / 2 + d + 1) * 8.0


def equal_tokens(c: Constants, model: Model, shards: int = GROUPS) -> float:
    """Tokens from which on moments are smaller than rows."""
    return moment_bytes(model, shards) / row_bytes(c, model, 1)


def capture_stages(
    c: Constants, model: Model, cards: int, keep: Keep, where: Literal["disk", "bucket"]
) -> dict[str, float]:
    """Seconds per token of each stage, over all cards: the largest is the pace.

    Cards that share one copy of a model are counted as if each ran a part of the tokens.
    """
    machines = -(-cards // c.node)
    raw = model.sites * model.width * c.row_bytes
    double = 2.0 * model.sites * model.width**2
    # a card does one thing at a time: its products in float64 come on top of the forward pass
    products = double / c.card_double if keep == "moments" else 0.0
    stages = {"forward": (2 * model.parameters / c.forward + products) / cards}
    if keep == "moments":
        return stages
    stored = raw / c.squeeze
    stages["PCIe"] = raw / c.lanes / cards
    stages["packing"] = raw / c.pack / (c.cores * cards)
    if where == "disk":
        stages["disk"] = stored / c.disk / machines
    else:
        stages["network"] = stored / c.network / machines
        stages["bucket"] = stored / c.bucket
    return stages


def analysis_seconds(
    c: Constants,
    *,
    rows: float,
    width: int,
    sites: int = 1,
    solves: int = BANDS,
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
    yield "| model | d | sites | rows, bytes per token | moments, bytes in all | equal at tokens |"
    yield "|---|---|---|---|---|---|"
    for m in models:
        yield (
            f"| {m.name} | {m.width:,} | {m.sites} | {row_bytes(c, m, 1):,.0f} | "
            f"{moment_bytes(m) / 1e9:,.1f} GB | {equal_tokens(c, m) / 1e6:.2f} million |"
        )
    yield ""
    yield (
        "| model | cards | forward alone, tokens/s | rows to a disk | rows to a bucket | moments "
        "on the card |"
    )
    yield "|---|---|---|---|---|---|"
    for m in models:
        for cards in (1, 8, 1000):
            bare = 1 / capture_stages(c, m, cards, "rows", "disk")["forward"]
            cells = [
                _pace(capture_stages(c, m, cards, "rows", "disk")),
                _pace(capture_stages(c, m, cards, "rows", "bucket")),
                f"{1 / capture_stages(c, m, cards, 'moments', 'disk')['forward'] / bare:.0%}",
            ]
            yield f"| {m.name} | {cards:,} | {bare:,.0f} | {' | '.join(cells)} |"
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
