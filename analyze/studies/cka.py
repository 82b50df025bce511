"""Linear CKA of pairs of sites of one run (`numerics.cka`), with few reads of each site.

Pairs are divided into *tiles*. The sites of a tile are read together, block by block, and every
pair of the tile uses each block. A tile is as large as `memory` allows. If all S sites fit, each is
read once. With g sites in a tile, a site is read 1 + 2 / g times on average for neighbours, and
S / g times for all pairs. The products cost N d^2 multiply-adds per pair in any case.

Several pairs are multiplied at once, with one BLAS thread each, so results have the same bits for
any number of jobs. Memory of a tile with s sites and p pairs of width d: 8 d^2 (p + s + jobs) bytes
of matrices, 24 KiB d s of rows, and the norm of each row. A tile has at least one pair, which needs
24 d^2 bytes.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from lpp.analyze.metrics.row_measures.sinks import Lengths
from lpp.analyze.numerics.cka import BLOCK_ROWS, CrossScatters, alignment
from lpp.analyze.numerics.moments import Rows
from lpp.analyze.quantities.drift import SITE_CHANGES
from lpp.analyze.quantities.tables import columns_of, frame_schema, shared
from lpp.analyze.runs.cells import Cell, n_tokens
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.rows.side_by_side import in_step
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.sql.schema.columns import Column, Merging, Table
from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.feed.measured import sink_positions
from lpp.store.progress import SILENT, Progress

CKA: Final = Table(
    "cka",
    "similarity of two sites of a run: linear CKA over the same tokens",
    "lpp-analyze cka STORE",
    ("run", "first_position", "prefix", "n_prompts", "site", "other_site"),
    (
        *shared("run first_position prefix n_prompts site"),
        Column("other_site", "VARCHAR", "deeper site of the pair"),
        *shared("n_quarantined"),
        Column("depth", "INTEGER", "depth of site", "blocks"),
        Column("other_depth", "INTEGER", "depth of other_site", "blocks"),
        Column("n_tokens", "BIGINT", "N; for unrelated rows cka is about d / (N + d)", "tokens"),
        *columns_of(SITE_CHANGES["cka"], meaning="linear CKA, 0 to 1; null without variance"),
        Column("flags", "VARCHAR[]", "why cka may mislead; empty when none"),
    ),
    merging=Merging(beside=("prefix", "n_prompts")),
)
"""One row for each pair of sites, the shallower one first."""

PAIRS: Final = pl.Schema(
    frame_schema(CKA.columns, without=("n_quarantined", "flags"))
    | {"ratio": pl.Float64(), "n_sinks": pl.Int32(), "sink_end": pl.Int32()}
)
"""ratio: the smaller participation ratio of the two sites over these tokens. n_sinks: the greater
number of sink positions among them. sink_end: the first position after the sinks; 0: none."""

MEMORY: Final = 2 << 30
"""Default bytes of a tile."""

SitePair = tuple[str, str]


def pairs_of(sites: Sequence[str], *, all_pairs: bool = False) -> list[SitePair]:
    """Pairs of neighbours among `sites`, which are in depth order; all pairs if `all_pairs`.

    >>> pairs_of(["embed", "block.1", "final"])
    [('embed', 'block.1'), ('block.1', 'final')]
    """
    return list(itertools.combinations(sites, 2) if all_pairs else itertools.pairwise(sites))


def tiles_of(pairs: Sequence[SitePair], width: int, memory: int, jobs: int) -> list[list[SitePair]]:
    """`pairs` divided into tiles of at most `memory` bytes, or of one pair.

    width: columns of the widest site.

    >>> pairs = [("a", "b"), ("b", "c"), ("c", "d")]
    >>> tiles_of(pairs, 1024, 1 << 30, 1)
    [[('a', 'b'), ('b', 'c'), ('c', 'd')]]
    >>> tiles_of(pairs, 1024, 1, 1)
    [[('a', 'b')], [('b', 'c')], [('c', 'd')]]
    """
    index = {site: k for k, site in enumerate(dict.fromkeys(itertools.chain(*pairs)))}
    tiles: list[list[SitePair]] = []
    for group in range(len(index), 0, -1):
        by_groups: dict[tuple[int, int], list[SitePair]] = defaultdict(list)
        for site, other in pairs:
            by_groups[index[site] // group, index[other] // group].append((site, other))
        tiles = list(by_groups.values())
        if all(_tile_bytes(tile, width, jobs) <= memory for tile in tiles):
            break
    return tiles


def _tile_bytes(tile: Sequence[SitePair], width: int, jobs: int) -> int:
    sites = len({*itertools.chain(*tile)})
    rows = 2 * BLOCK_ROWS * (4 + 8) * width  # in float32, and in float64
    return 8 * width**2 * (len(tile) + sites + jobs) + rows * sites


@dataclass(frozen=True, slots=True)
class _Site:
    """Numbers of a site, known after its rows were read."""

    square: float
    """Squared Frobenius norm of its scatter."""
    ratio: float
    """Participation ratio; NaN without variance."""
    n_sinks: int
    sink_end: int


def cka_rows(
    view: RunView,
    pairs: Sequence[SitePair],
    cell: Cell,
    *,
    jobs: int | None = None,
    memory: int = MEMORY,
    progress: Progress = SILENT,
    name: str = "",
) -> pl.DataFrame:
    """The CKA of each of `pairs` over the tokens of `cell`: columns `PAIRS`.

    jobs: pairs multiplied at once, on one core each; all usable cores by default. memory: bytes of
    a tile. progress: advances by one for each pair, and calls the run `name`, or else by its id.
    Raises FormatError for altered bytes.
    """
    jobs = jobs or usable_cores()
    sites: dict[str, _Site] = {}
    values: dict[SitePair, float] = {}
    width = max(view.run.site(site).width for pair in pairs for site in pair)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(jobs, "lpp-cka") as pool:
        for tile in tiles_of(pairs, width, memory, jobs):
            new_sites, new_values = _pass(view, tile, cell, sites, pool)
            sites |= new_sites
            values |= new_values
            progress.advance(len(tile))
            progress.note(f"{' and '.join(tile[-1])} of {name or view.run.id}")
    key = (view.run.id, cell.first_position, cell.prefix, cell.n_prompts)
    tokens = n_tokens(view.lengths, cell)
    rows = [
        (
            *(*key, *pair),
            *(view.run.plan.depth_of(site) for site in pair),
            *(tokens, values[pair]),
            float(np.fmin.reduce([sites[site].ratio for site in pair])),
            max(sites[site].n_sinks for site in pair),
            max(sites[site].sink_end for site in pair),
        )
        for pair in pairs
    ]
    return pl.DataFrame(rows, schema=PAIRS, orient="row").with_columns(
        pl.col("cka", "ratio").fill_nan(None)
    )


def _pass(
    view: RunView,
    tile: Sequence[SitePair],
    cell: Cell,
    known: dict[str, _Site],
    pool: Executor,
) -> tuple[dict[str, _Site], dict[SitePair, float]]:
    """Read the sites of `tile` once: (sites that were not in `known`, CKA of its pairs)."""
    names = list(dict.fromkeys(itertools.chain(*tile)))
    index = {site: k for k, site in enumerate(names)}
    new = [k for k, site in enumerate(names) if site not in known]
    widths = [view.run.site(site).width for site in names]
    wanted = [(index[site], index[other]) for site, other in tile]
    scatters = CrossScatters(widths, [*((k, k) for k in new), *wanted])
    shape = cell.n_prompts, int(view.lengths[: cell.n_prompts].max(initial=0))
    lengths = {k: np.full(shape, np.nan, np.float32) for k in new}
    sources = [(view.run, site) for site in names]
    for prompt_id, position, rows in in_step(sources, range(cell.n_prompts), block_rows=BLOCK_ROWS):
        for k, block in zip(new, pool.map(_lengths, (rows[k] for k in new)), strict=True):
            lengths[k][prompt_id, position] = block
        inside = (position >= cell.first_position) & (position < cell.prefix)
        scatters.add(rows if inside.all() else [x[inside] for x in rows], pool)
    SiteReader(view.run, names[0], view.lengths).check(cell, scatters.n)
    sites = {}
    for k in new:
        sinks = sink_positions(lengths[k])
        among = sinks[(sinks >= cell.first_position) & (sinks < cell.prefix)]
        ratio = scatters.participation_ratio(k)
        end = int(among.max(initial=-1)) + 1
        sites[names[k]] = _Site(scatters.square(k, k), ratio, len(among), end)
    squares = {site: numbers.square for site, numbers in (known | sites).items()}
    values = {
        pair: alignment(scatters.square(*indices), *(squares[site] for site in pair))
        for pair, indices in zip(tile, wanted, strict=True)
    }
    return sites, values


def _lengths(rows: Rows) -> Lengths:
    with np.errstate(invalid="ignore", over="ignore"):
        lengths: Lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return lengths
