"""Tables of a page about comparisons of two models, and their rows.

The report reads the rows from the database of a store; the page of one comparison makes them from
its `Drift`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.drift.drift import Drift
from lpp.analyze.drift.summaries import by_position
from lpp.analyze.drift.tables import drift_tables
from lpp.analyze.numerics.kl_histogram import kl_histogram
from lpp.analyze.pages.table import Declared, Shape, Table
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.runs.groups import Groups
from lpp.sql.schema import TABLES, Column

Pair = tuple[str, str]
"""Ids of the first and the second run."""

Frames = Mapping[str, pl.DataFrame]
"""Rows of comparisons by name of their `Shape`."""

_PAIR: Final = ["run_a", "run_b"]


DRIFT: Final = Shape(
    name="drift",
    title="What changed in the predictions, with 95 % intervals of the mean",
    table="drift_predictions",
    key=TABLES["drift_predictions"].key,
    first=("run_a", "run_b", "number", "unit", "mean", "median", "p99", "maximum"),
)
SITES: Final = Shape(
    name="drift-sites",
    title="What changed at each site, with 95 % intervals",
    table="drift_sites",
    key=TABLES["drift_sites"].key,
    first=("run_a", "run_b", "site", *SITE_CHANGES, "flags"),
)
POSITIONS: Final = Shape(
    name="drift-positions",
    title="KL and flips by position in the prompt, with 95 % intervals",
    table="drift_tokens",
    key=("run_a", "run_b", "first"),
    first=("run_a", "run_b", "first", "end", "kl", "flips"),
    folded=True,
)
HISTOGRAM: Final = Shape(
    name="drift-histogram",
    title="KL per token: how many tokens have how much, four bins to a decade",
    table="drift_tokens",
    key=("run_a", "run_b", "kl_from"),
    first=("run_a", "run_b", "kl_from", "kl_below", "share", "n_tokens"),
    folded=True,
)
TOKENS: Final = Shape(
    name="drift-tokens",
    title="The ten tokens of each pair after which the predictions changed most",
    table="drift_tokens",
    key=("run_a", "run_b", "source_row", "prompt_id", "position"),
    # a comparison without logits has `change` in place of `kl`
    first=(
        *("run_a", "run_b", "kl", "change", "at", "text_so_far", "came"),
        *("expected_a", "probability_a", "expected_b", "probability_b"),
    ),
)

COLUMNS: Final = (
    Column("kl_from", "DOUBLE", "of tokens from this KL on; none: 0", "nats"),
    Column("kl_below", "DOUBLE", "to below this one", "nats"),
    Column("n_tokens", "BIGINT", "compared", "tokens"),
    Column("first", "INTEGER", "first position of the band", "tokens"),
    Column("end", "INTEGER", "first position after the band", "tokens"),
    Column("flips", "DOUBLE", "tokens whose likeliest next token differs", "share"),
    Column("at", "VARCHAR", "prompt and position"),
    Column("text_so_far", "VARCHAR", "the text up to this position"),
    Column("came", "VARCHAR", "the token that followed; ␣ is a space"),
    Column("expected_a", "VARCHAR", "the likeliest token there, of the first run"),
    Column("expected_b", "VARCHAR", "the likeliest token there, of the second run"),
    Column("probability_a", "DOUBLE", "of the first expected token in the first run", "share"),
    Column("probability_b", "DOUBLE", "of the second expected token in the second run", "share"),
    Column("change", "DOUBLE", "|ln p of what followed, second run - first|", "nats"),
)
"""Columns that no table of the database declares."""


def shaped(shape: Shape, frame: pl.DataFrame, **more: Any) -> Table:
    """The table of `shape` with the rows of `frame`. more: as of `Shape.of`."""
    columns = (*COLUMNS, *TABLES[shape.table].columns)
    declared: dict[str, Declared] = {column.name: column for column in columns}
    return shape.of(frame, **{"declared": {**declared, **SITE_CHANGES}} | more)


def frames_of(drift: Drift) -> dict[str, pl.DataFrame]:
    """Predictions, sites, positions and histogram of one comparison."""
    pair = drift.pair.a.run.id, drift.pair.b.run.id
    return frames_without_tokens(drift) | frames_of_tokens(
        {pair: lambda: (drift.tokens, drift.pair.groups)}
    )


def frames_without_tokens(drift: Drift) -> dict[str, pl.DataFrame]:
    """Predictions, with errors named as those of the mean, and sites of one comparison."""
    tables = drift_tables(drift)
    errors = {name: f"mean_{name}" for name in ("stderr", "ci_low", "ci_high")}
    more = [name for name, prediction in PREDICTIONS.items() if "median" in prediction.statistics]
    means = pl.when(pl.col("number").is_in(more)).then(pl.col("median", "p99", "maximum"))
    predictions = tables[DRIFT.table].rename(errors).with_columns(means)
    return {DRIFT.name: predictions, SITES.name: tables[SITES.table]}


def frames_of_tokens(
    pairs: Mapping[Pair, Callable[[], tuple[pl.DataFrame, Groups]]],
) -> dict[str, pl.DataFrame]:
    """Positions and histogram of pairs, whose tokens are read one pair after another.

    pairs: a function for each that gives its rows of `drift_tokens` and its jackknife groups.
    """
    by_shape: dict[str, list[pl.DataFrame]] = {POSITIONS.name: [], HISTOGRAM.name: []}
    for pair, read in pairs.items():
        tokens, groups = read()
        names = [pl.lit(run).alias(name) for name, run in zip(_PAIR, pair, strict=True)]
        frames = by_position(tokens, groups), kl_histogram(tokens)
        for rows, frame in zip(by_shape.values(), frames, strict=True):
            rows.append(frame.select(*names, pl.all()))
    return {name: pl.concat(rows) if rows else pl.DataFrame() for name, rows in by_shape.items()}


def pairs_by_kl(frames: Frames) -> list[Pair]:
    """Every compared pair, by descending KL; without a KL, by |ln p(next)|."""
    frame = frames[DRIFT.name]
    if frame.is_empty():
        return []
    largest = [
        pl.col("mean").filter(pl.col("number") == name).max().fill_null(-1.0).alias(name)
        for name in ("kl", "next_logprob")
    ]
    by_pair = frame.group_by(_PAIR).agg(largest)
    order = by_pair.sort("kl", "next_logprob", *_PAIR, descending=[True, True, False, False])
    return list(order.select(_PAIR).iter_rows())


def of_pairs(frame: pl.DataFrame, pairs: Sequence[Pair]) -> pl.DataFrame:
    """The rows of `pairs`, each at its most prompts."""
    if not frame.width:
        return frame
    wanted = pl.DataFrame(pairs, schema=dict.fromkeys(_PAIR, pl.String), orient="row")
    rows = frame.join(wanted, on=_PAIR, how="semi", maintain_order="left")
    if "n_prompts" not in frame.columns:
        return rows
    return rows.filter(pl.col("n_prompts") == pl.col("n_prompts").max().over(_PAIR))


def numbers_of(frames: Frames, pair: Pair) -> dict[str, dict[str, Any]]:
    """A row for each number of the predictions of a pair, each over the most tokens."""
    rows = _from_first(of_pairs(frames[DRIFT.name], [pair]))
    size = pl.when(pl.col("n_drawn") == 0).then(1 << 31).otherwise("n_drawn").cast(pl.Int64)
    rows = rows.filter(size == size.max().over("number"))
    return {row["number"]: row for row in rows.iter_rows(named=True)}


def sites_of(frames: Frames, pair: Pair) -> pl.DataFrame:
    """The sites of a pair that have a distance, in depth order: without the first positions where
    those are attention sinks and the pair was compared without them too.
    """
    rows = of_pairs(frames[SITES.name], [pair])
    sinks = pl.col("flags").list.contains("sink").any().over("first_position")
    sites = _from_first(
        rows if rows.is_empty() or rows.select(sinks.all()).item() else rows.filter(~sinks)
    )
    return sites.filter(pl.col("relative_distance").is_finite()).sort(
        "depth", pl.col("site") == "final"
    )


def _from_first(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows at the smallest first position."""
    return rows.filter(pl.col("first_position") == pl.col("first_position").min())


def ends(sites: pl.DataFrame) -> pl.DataFrame:
    """The first site of a pair that differs, the one that moves most, and the last.

    sites: of one pair, in depth order.
    """
    moved = sites.filter(pl.col("relative_distance") > 0)
    most = moved.top_k(1, by="relative_distance")
    names = [*moved["site"].head(1), *most["site"], *sites["site"].tail(1)]
    return sites.filter(pl.col("site").is_in(names))
