"""Rows behind the pages of `diff` and behind the report.

They are rows of the tables `drift_predictions`, `drift_sites` and `drift_tokens`: those of a
database, or those that `drift.frames` makes of one comparison.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import polars as pl

from lpp.analyze.pages.page import Frames
from lpp.analyze.pages.table import Shape, Table
from lpp.analyze.quantities.drift import SITE_CHANGES
from lpp.sql.schema import TABLES, Column

Pair = tuple[str, str]
"""Ids of the first and the second run."""

_PAIR: Final = ["run_a", "run_b"]

BEYOND: Final = 4
"""Times the distance of a rerun beyond which a site counts as moved. Of a small random model in
float32 whose sums ran in 40 other orders, three models, the widest ratio of two distances at a site
was 2.3."""


def _shape(name: str, title: str, table: str, first: str, *key: str, folded: bool = False) -> Shape:
    """first: columns that a page shows, between blanks. key: by default that of the table."""
    return Shape(
        name=name,
        title=title,
        table=table,
        key=(*_PAIR, *key) if key else TABLES[table].key,
        first=(*_PAIR, *first.split()),
        folded=folded,
    )


DRIFT: Final = _shape(
    "drift_predictions",
    "What changed in the predictions, with 95 % intervals of the mean",
    "drift_predictions",
    "number unit mean median p99 maximum",
)
SITES: Final = _shape(
    "drift_sites",
    "What changed at each site, with 95 % intervals",
    "drift_sites",
    f"site rerun_distance {' '.join(SITE_CHANGES)} flags",
)
POSITIONS: Final = _shape(
    "drift_positions",
    "KL and flips by position in the prompt, with 95 % intervals",
    "drift_tokens",
    "first end kl flips",
    "first",
    folded=True,
)
HISTOGRAM: Final = _shape(
    "drift_histogram",
    "KL per token: how many tokens have how much, four bins to a decade",
    "drift_tokens",
    "kl_from kl_below share n_tokens",
    "kl_from",
    folded=True,
)
FACTS: Final = "comparisons"
"""Name of the rows of `drift.frames.facts`."""
TOKENS: Final = _shape(
    "drift_tokens",
    "The ten tokens of each pair after which the predictions changed most",
    "drift_tokens",
    "kl change at text_so_far came expected_a probability_a expected_b probability_b",
    "source_row",
    "prompt_id",
    "position",
)

COLUMNS: Final = (
    Column("kl_from", "DOUBLE", "least KL of the bin; the bin of KL 0 has none", "nats"),
    Column("kl_below", "DOUBLE", "KL at which the next bin begins", "nats"),
    Column("n_tokens", "BIGINT", "number of compared tokens", "tokens"),
    Column("first", "INTEGER", "first position of the band", "tokens"),
    Column("end", "INTEGER", "first position after the band", "tokens"),
    Column("flips", "DOUBLE", "share of tokens whose likeliest next token differs", "share"),
    Column("at", "VARCHAR", "prompt and position"),
    Column("text_so_far", "VARCHAR", "the text up to this position"),
    Column("came", "VARCHAR", "the token that followed; ␣ is a space"),
    Column("expected_a", "VARCHAR", "the first run's likeliest token at this position"),
    Column("expected_b", "VARCHAR", "the second run's likeliest token at this position"),
    Column(
        "probability_a", "DOUBLE", "the first run's probability of its likeliest token", "share"
    ),
    Column("probability_b", "DOUBLE", "the second run's probability of its likeliest", "share"),
    Column("rerun_distance", "DOUBLE", "relative distance from the first run to its rerun", "1"),
    Column("change", "DOUBLE", "|ln p(next token), second run - first run|", "nats"),
)
"""Columns that no table of the database declares."""


def shaped(shape: Shape, frame: pl.DataFrame, **more: Any) -> Table:
    """The table of `shape` with the rows of `frame`. more: as of `Shape.of`."""
    declared = {column.name: column for column in (*COLUMNS, *TABLES[shape.table].columns)}
    if shape is SITES:  # most models have no routers, and few questions a rerun
        absent = {n for n in ("rerun_distance", "expert_change") if not _has(frame, n)}
        shape = replace(shape, first=tuple(n for n in shape.first if n not in absent))
    own: dict[str, Any] = {"declared": {**declared, **SITE_CHANGES}, "styles": {"sqnr": "decibels"}}
    return shape.of(frame, **own | more)


def _has(frame: pl.DataFrame, column: str) -> bool:
    """Whether any row has a value in `column`."""
    return column in frame.columns and bool(frame[column].count())


def pairs_by_kl(frames: Frames) -> list[Pair]:
    """Every compared pair, by descending KL; without a KL, by |ln p(next)|."""
    if frames[DRIFT.name].is_empty() or not frames[SITES.name].width:  # of an earlier release
        return []
    names = ("kl", "next_logprob")
    means = (pl.col("mean").filter(number=name).max().fill_null(-1.0).alias(name) for name in names)
    by_pair = frames[DRIFT.name].group_by(_PAIR).agg(*means)
    order = by_pair.sort(*names, *_PAIR, descending=[True, True, False, False])
    return list(order.select(_PAIR).iter_rows())


def of_pairs(frame: pl.DataFrame, pairs: Iterable[Pair]) -> pl.DataFrame:
    """The rows of `pairs`, each at its most prompts."""
    if not frame.width:
        return frame
    wanted = pl.DataFrame([*pairs], schema=dict.fromkeys(_PAIR, pl.String), orient="row")
    rows = frame.join(wanted, on=_PAIR, how="semi", maintain_order="left")
    n = pl.col("n_prompts")
    return rows.filter(n == n.max().over(_PAIR)) if "n_prompts" in frame.columns else rows


def numbers_of(frames: Frames, pair: Pair) -> dict[str, dict[str, Any]]:
    """A row for each number of the predictions of a pair, from its first position, over the most
    tokens.
    """
    drawn = pl.when(pl.col("n_drawn") == 0).then(1 << 31).otherwise("n_drawn")
    rows = of_pairs(frames[DRIFT.name], [pair]).sort(
        "first_position", drawn, descending=[True, False]
    )
    return {row["number"]: row for row in rows.iter_rows(named=True)}


def sites_of(frames: Frames, pair: Pair) -> pl.DataFrame:
    """The sites of a pair that have a distance, in depth order: without the first positions where
    those are attention sinks and the pair was compared without them too.
    """
    first = pl.col("first_position")
    rows = of_pairs(frames[SITES.name], [pair])
    sinks = pl.col("flags").list.contains("sink").any().over("first_position")
    if not rows.is_empty() and not rows.select(sinks.all()).item():
        rows = rows.filter(~sinks)
    there = rows.filter(first == first.min(), pl.col("relative_distance").is_finite())
    return there.sort("depth", pl.col("site") == "final")


def moved(sites: pl.DataFrame) -> pl.DataFrame:
    """The sites that differ: with a rerun, by more than `BEYOND` times what it does."""
    distance = pl.col("relative_distance")
    if "rerun_distance" in sites.columns:
        return sites.filter(distance > BEYOND * pl.col("rerun_distance").fill_null(0))
    return sites.filter(distance > 0)


def most_moved(sites: pl.DataFrame) -> pl.DataFrame:
    """The site that moves most."""
    return moved(sites).top_k(1, by="relative_distance")


def ends(sites: pl.DataFrame) -> pl.DataFrame:
    """The first site that differs, the one that moves most, the first router, and the last site."""
    router = sites.filter(pl.col("expert_change") > 0)[:1]
    chosen = pl.concat([moved(sites)[:1], most_moved(sites), router, sites[-1:]])["site"]
    return sites.filter(pl.col("site").is_in(chosen.implode()))
