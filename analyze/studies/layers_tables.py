"""The tables of `layers`: columns, and which of their rows a reader sees first."""

from typing import Final

import polars as pl

from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.quantities.tables import BESIDE, columns_of, shared
from lpp.analyze.tables import spectra
from lpp.sql.schema.columns import ERRORS, Column, Merging, Table, number_columns

FAMILIES: Final = ("", "zscore_", "robust_")
"""Prefixes of rank names: plain, and the two outlier-resistant variants."""

RANKS: Final = tuple(
    f"{family}{rank}" for family in FAMILIES for rank in ("participation_ratio", "effective_rank")
)
"""Ranks of every layer, in dimensions."""

SCORED: Final = "zscore_effective_rank"
"""The rank of the hourglass score: a collapse leaves nothing of the plain ranks to see."""

SURE: Final = tuple(name for name in RANKS if not METRICS[name].no_error)
"""Ranks for which the jackknife gives an error."""

SETTING: Final = ("run", "context", "n_prompts", "first_position")
"""Layers with equal values of these columns form a curve, which has one score."""


def _columns(rank: str) -> tuple[Column, ...]:
    """Columns of a rank in dimensions, divided by its bound, and of its error."""
    value, *errors = columns_of(METRICS[rank], ERRORS if rank in SURE else ())
    return value, *columns_of(METRICS[f"{rank}_norm"]), *errors


LAYERS: Final = Table(
    "layers",
    "ranks of the whole context through the depth of the model",
    "lpp-analyze layers STORE",
    ("run", "site", "context", "n_prompts", "first_position"),
    (
        *shared("run site context n_prompts first_position n_quarantined depth"),
        Column("relative_depth", "DOUBLE", "depth / blocks of the model", "share"),
        *shared("n_tokens rank_bound"),
        *spectra.SINK_COLUMNS,
        *(column for rank in RANKS[:2] for column in _columns(rank)),
        *columns_of(METRICS["top_share"]),
        *(column for rank in RANKS[2:] for column in _columns(rank)),
        *shared("flags"),
    ),
    merging=Merging(beside=BESIDE),
)
"""One row per curve and site."""

HOURGLASS: Final = Table(
    "hourglass",
    "whether both ends of a model use more dimensions than its middle",
    "lpp-analyze layers STORE",
    (*SETTING, "metric"),
    (
        *shared("run context n_prompts first_position"),
        Column("metric", "VARCHAR", "name of a rank, in dimensions"),
        *shared("n_quarantined"),
        *number_columns("score", "above 0: narrow middle; null: see reason", "-1 to 1"),
        *number_columns("first", "geometric mean over the first third", "dimensions"),
        *number_columns("middle", "geometric mean over the middle third", "dimensions"),
        *number_columns("last", "geometric mean over the last third", "dimensions"),
        Column("n_layers", "INTEGER", "layers in the means", "layers"),
        Column("n_collapsed", "INTEGER", "layers left out: PR within 1 % of 1", "layers"),
        Column("n_missing", "INTEGER", "layers left out: no rank", "layers"),
        Column("reason", "VARCHAR", "why there is no score; null: there is one"),
        *shared("flags"),
    ),
    merging=Merging(covers=("n_layers", "n_collapsed", "n_missing")),
)
"""One row per curve."""

EXPERT_LOAD: Final = Table(
    "expert_load",
    "how evenly a router divides its choices among the experts",
    "lpp-analyze layers STORE",
    ("run", "site", "context", "n_prompts", "first_position"),
    (
        *shared("run site context n_prompts first_position depth"),
        Column("n_tokens", "BIGINT", "tokens that the router read", "tokens"),
        Column("n_experts", "INTEGER", "largest id in any router of the run, plus 1", "experts"),
        *number_columns("load_imbalance", "deviation of loads / mean; 0: equal", "1", ERRORS),
        *number_columns("largest_load", "largest load", "share"),
        Column("n_unused", "INTEGER", "experts that no token chose", "experts"),
        Column("loads", "DOUBLE[]", "share of all choices of each expert, by id", "share"),
    ),
    merging=Merging(),
)


def after_sinks(layers: pl.DataFrame) -> int:
    """The first position of the second curve of one run; 0 if there are no sinks.

    It leaves out the sinks and one position more. A sink is a position whose *median* state is
    huge; in some prompts the next state is huge too (SmolLM2: in 2 % of them), and these few have
    most of the variance.
    """
    ends = layers.filter(first_position=0)["sink_end"]
    end: int = max(ends.drop_nulls(), default=0)
    return end + 1 if end else 0


def without_sinks(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that a reader sees first: of a run whose rows from position 0 on hold attention
    sinks, those without the first positions, where there are any.

    rows: of `layers` or `cka`, with `run`, `first_position` and `flags`.
    """
    first = pl.col("first_position")
    sinks = (pl.col("flags").list.contains("sink") & (first == 0)).any().over("run")
    return rows.filter(~sinks | (first == first.max().over("run")))
