"""From one number per prefix to one number per model: the profile.

The paper takes the minimum of the mean entropy (the entropy floor) and the maximum of each rank.
Both aggregations and the set of prefixes are settings. The result names the prefixes used, and the
prefix of each minimum and maximum.
"""

from collections.abc import Collection, Sequence
from typing import Final, get_args

import polars as pl

from lpp.analyze.metrics.registry import METRICS, RANKS
from lpp.analyze.numerics.jackknife import error_names
from lpp.analyze.quantities.profiles import ENTROPY_FLOOR
from lpp.analyze.quantities.tables import BESIDE, columns_of, shared
from lpp.analyze.questions import Aggregation
from lpp.analyze.runs.select import every_prefix_dropped
from lpp.sql.schema.columns import ERRORS, Column, Merging, Table, number_columns
from lpp.store.settings.arguments import check_word

AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)

ENTROPIES = ("entropy", "entropy_norm")
"""Columns aggregated by `entropy=`: nats, and nats over ln V."""

_EXTREME: Final = ("prefix", *ERRORS)

_COLUMNS: Final = (
    *shared("run context n_prompts first_position n_quarantined site model corpus prompt_set"),
    Column("prefixes", "INTEGER[]", "prefixes over which the extremes are taken", "tokens"),
    *columns_of(
        ENTROPY_FLOOR, _EXTREME, meaning=f"{ENTROPY_FLOOR.definition}, for any first_position"
    ),
    *number_columns("entropy_floor_bias", "bootstrap estimate of its bias", "share"),
    *(
        column
        for metric in map(METRICS.__getitem__, RANKS)
        for column in columns_of(
            metric, _EXTREME, meaning=f"maximum over the prefixes of {metric.definition}"
        )
    ),
    *shared("flags cluster"),
)

PROFILES: Final = Table(
    "profiles",
    "profile of a run at `final`, or at its deepest site: extremes over prefixes",
    "lpp-analyze profile STORE",
    ("run", "context", "n_prompts", "first_position"),
    _COLUMNS,
)
"""Made from `SITE_PROFILES` in the database."""

SITE_PROFILES: Final = Table(
    "site_profiles",
    "profile of a run at every site: extremes over prefixes",
    "lpp-analyze profile STORE",
    ("run", "context", "n_prompts", "first_position", "site"),
    _COLUMNS,
    merging=Merging(beside=BESIDE),
)


def aggregate(
    frame: pl.DataFrame,
    by: Sequence[str],
    *,
    entropy: Aggregation = "min",
    ranks: Aggregation = "max",
    drop_prefixes: Collection[int] = (),
) -> pl.DataFrame:
    """One row per group of `by`, in order of first appearance.

    frame: a row per group and prefix, with a column `prefix` and any of `ENTROPIES` and `RANKS`,
    with or without their errors. The result has `by`, `prefixes` (those used) and, for each metric
    present, its value and `<metric>_prefix`: the shortest prefix with the minimum or maximum; null
    for a mean or a median. The error is that of the value at this prefix; it does not include that
    the prefix was chosen by the same prompts. A metric that is null or NaN at any prefix is null,
    because an extreme over some of the prefixes is not comparable.

    Raises InputError if `drop_prefixes` drops all prefixes of a group, and for another word.

    >>> table = pl.DataFrame({"model": "m", "prefix": [10, 20], "entropy": [0.3, 0.2]})
    >>> aggregate(table, ["model"]).row(0)
    ('m', [10, 20], 0.2, 20)
    """
    check_word("entropy", entropy, Aggregation)
    check_word("ranks", ranks, Aggregation)
    included = frame.filter(~pl.col("prefix").is_in(list(drop_prefixes)))
    columns = [pl.col("prefix").alias("prefixes")]
    for metric in (*ENTROPIES, *RANKS):
        if metric in frame.columns:
            errors = [name for name in error_names(metric) if name in frame.columns]
            columns += _columns(metric, errors, entropy if metric in ENTROPIES else ranks)
    aggregated = (
        included.sort("prefix", maintain_order=True).group_by(by, maintain_order=True).agg(columns)
    )
    groups = frame.select(by).unique(maintain_order=True)
    if len(aggregated) < len(groups):
        raise every_prefix_dropped(sorted(frame["prefix"].unique()))
    return groups.join(aggregated, on=by, how="inner", nulls_equal=True, maintain_order="left")


def _columns(metric: str, errors: Sequence[str], how: Aggregation) -> list[pl.Expr]:
    value = pl.col(metric).fill_nan(None)
    complete = value.is_not_null().all()
    where = {"min": value.arg_min(), "max": value.arg_max()}.get(how)
    combined: pl.Expr = getattr(value, how)()
    sources = {f"{metric}_prefix": "prefix", **{name: name for name in errors}}
    taken = {
        name: pl.lit(None, dtype=pl.Int32 if source == "prefix" else pl.Float64)
        if where is None
        else pl.col(source).get(where, null_on_oob=True)
        for name, source in sources.items()
    }
    return [
        pl.when(complete).then(combined).alias(metric),
        *(pl.when(complete).then(column).alias(name) for name, column in taken.items()),
    ]
