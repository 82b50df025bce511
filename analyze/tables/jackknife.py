"""Numbers without each group of prompts, for the error of a difference of two runs.

If two runs read the same prompts, let d be their difference, and d_g the difference without group g
of the prompts. The standard error of d is sqrt((G - 1) / G sum (d_g - mean d)^2), as in
`numerics.jackknife`. The saved query `differences` computes it from the table `jackknife`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import polars as pl

from lpp.analyze.metrics.spectral import PAPER
from lpp.analyze.numerics.jackknife import student
from lpp.analyze.quantities.tables import shared
from lpp.analyze.tables import spectra
from lpp.sql.schema.columns import Column, Merging, Table

OF_NUMBER: Final = ("run", "site", "context", "n_prompts", "first_position", "metric", "prefix")
"""Key columns of a number: those of the table without `prompt_group`."""

JACKKNIFE: Final = Table(
    "jackknife",
    "numbers of profiles without one group of prompts, for errors of differences",
    "lpp-analyze profile STORE",
    (*OF_NUMBER, "prompt_group"),
    (
        *shared("run site context n_prompts first_position"),
        Column("metric", "VARCHAR", "column of site_profiles"),
        *shared("prefix"),
        Column("prompt_group", "INTEGER", "group of prompts left out, from 0"),
        Column("value", "DOUBLE", "the number without that group", "of the metric"),
        Column("student_t", "DOUBLE", "97.5 % quantile, groups - 1 degrees of freedom", "errors"),
        *shared("cluster"),
    ),
    merging=Merging(replaced=OF_NUMBER),
)

SOURCES: Final[Mapping[str, str]] = {"entropy_floor": "entropy_norm"}
"""Column of profiles -> its name in the tables by prefix, if that differs."""


def without_groups(parts: Sequence[spectra.SiteEstimates]) -> pl.DataFrame:
    """A row for each key of `parts` and each metric of the paper with an error.

    Columns: those of `OF_NUMBER` that the spectra table has, the metric, and its (G,) values
    without each group.
    """
    schema = {name: type_ for name, type_ in spectra.SPECTRA_SCHEMA.items() if name in OF_NUMBER}
    rows = [
        (*key, metric.name, list(estimate.groups))
        for keys, estimates in parts
        for key, cell in zip(keys.select(*schema).iter_rows(), spectra.cells(keys), strict=True)
        for metric in PAPER
        if (estimate := estimates.get((cell, metric.name))) is not None and estimate.groups
    ]
    values = {"metric": pl.String(), "value": pl.List(pl.Float64())}
    return pl.DataFrame(rows, schema=schema | values, orient="row")


def jackknife_rows(
    profiles: pl.DataFrame, metrics: Collection[str], values: Collection[pl.DataFrame]
) -> pl.DataFrame:
    """Rows of the table `jackknife`: `metrics` at the deepest site of each run, at every prefix: a
    difference is at the prefix of the extreme of another run.

    profiles: sites of a run by depth. values: frames as of `without_groups`. A frame without the
    column `site` applies to all sites.
    """
    frames = []
    at = profiles.filter(pl.col("site") == pl.col("site").last().over("run")).select(
        *(name for name in OF_NUMBER if name in profiles.columns)
    )
    for metric in metrics:
        for frame in values:
            of_metric = frame.filter(metric=SOURCES.get(metric, metric)).drop("metric")
            on = [name for name in OF_NUMBER if name in at.columns and name in of_metric.columns]
            frames.append(at.join(of_metric, on=on).with_columns(metric=pl.lit(metric)))
    rows = pl.concat(frames, how="diagonal_relaxed")
    size = pl.col("value").list.len()
    quantiles = {
        n: student(0.0, 1.0, n - 1).ci_high for n in rows.select(size.unique()).to_series()
    }
    return rows.with_columns(
        *([] if "first_position" in rows.columns else [pl.lit(0).alias("first_position")]),
        size.replace_strict(quantiles, return_dtype=pl.Float64).alias("student_t"),
        pl.int_ranges(size).alias("prompt_group"),
    ).explode("value", "prompt_group")
