"""Drift as tables of the database of a store, beside those of earlier comparisons.

A million tokens of `drift_tokens` take 55 MB of the file. Writing them takes 200 MB of memory
beside their frame. Every command that writes copies them to its new file.
"""

from pathlib import Path
from typing import Final

import polars as pl

from lpp.analyze.drift.drift import Drift
from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.predictions import DRIFT_TOKENS
from lpp.analyze.drift.sites import DRIFT_SITES, site_frame
from lpp.analyze.quantities.drift import PREDICTIONS
from lpp.analyze.quantities.tables import frame_schema, shared
from lpp.analyze.tables.database import put
from lpp.sql.schema.columns import ERRORS, Column, Merging, Table, number
from lpp.store.objects.place import Place

_KEY: Final = ("run_a", "run_b", "n_prompts", "first_position", "n_drawn", "number")

DRIFT_PREDICTIONS: Final = Table(
    "drift_predictions",
    "what changed in the predictions from the first run to the second",
    "lpp-analyze diff STORE RUN_A RUN_B",
    _KEY,
    (
        *shared("run_a run_b n_prompts first_position"),
        Column("n_drawn", "INTEGER", "size of the random sample; 0: all tokens", "tokens"),
        Column(
            "number", "VARCHAR", "such as kl, flips or log_perplexity", part="name", number="mean"
        ),
        Column("unit", "VARCHAR", "of the number", part="unit", number="mean"),
        *number("mean", "over tokens", "of the number"),
        Column("median", "DOUBLE", "over tokens", "of the number"),
        Column("p99", "DOUBLE", "99th percentile over tokens", "of the number"),
        Column("maximum", "DOUBLE", "over tokens", "of the number"),
        *number("mean", "over tokens", "of the number", ERRORS, prefix="")[1:],
        Column("n_tokens", "BIGINT", "tokens that have the number", "tokens"),
        *shared("cluster"),
    ),
    merging=Merging(replaced=_KEY),
)


def drift_tables(found: Drift) -> dict[str, pl.DataFrame]:
    """Tables `drift_predictions`, `drift_sites` and `drift_tokens` of one comparison, by name.

    A number of the predictions that no token has gets no row. Flags of a site: `Drift.flags`.
    Raises FormatError for altered bytes.
    """
    tables = {
        DRIFT_PREDICTIONS: _predictions(found),
        DRIFT_SITES: _sites(found),
        DRIFT_TOKENS: found.tokens,
    }
    a, b = (view.run.id for view in (found.pair.a, found.pair.b))
    same = {
        "run_a": pl.lit(a),
        "run_b": pl.lit(b),
        "cluster": pl.lit(found.pair.cluster, pl.String),
    }
    return {
        table.name: frame.with_columns(**same).select(frame_schema(table.columns).names())
        for table, frame in tables.items()
    }


def write_drift(found: Drift) -> Place | None:
    """Write `drift_tables` to the database of the store of both runs; return the file's path.

    Rows of earlier comparisons stay as long as both of their runs are unchanged. Writes nothing and
    returns None if the runs are in two stores, or if a run is compared with itself. Raises what
    `lpp.sql.build` raises.
    """
    if found.pair.of_one_run or len(stores(found.pair)) > 1:
        return None
    return put(stores(found.pair)[0], drift_tables(found))


def stores(pair: Pair) -> list[Place]:
    """The stores that hold the runs of `pair`: one or two, however their paths are written."""
    roots = (view.run.directory.root for view in (pair.a, pair.b))
    return list(
        {root.resolve() if isinstance(root, Path) else root: root for root in roots}.values()
    )


def _setting(found: Drift) -> dict[str, int]:
    return {"n_prompts": found.pair.n_prompts, "first_position": found.first_position}


def _predictions(found: Drift) -> pl.DataFrame:
    drawn = 0 if found.seed is None else len(found.tokens)
    rows = [
        {
            **_setting(found),
            "n_drawn": 0 if PREDICTIONS[name].value is None else drawn,
            "number": name,
            "unit": PREDICTIONS[name].unit,
            "mean": one.mean,
            "median": one.median,
            "p99": one.p99,
            "maximum": one.max,
            "stderr": one.stderr,
            "ci_low": one.ci_low,
            "ci_high": one.ci_high,
            "n_tokens": one.n_tokens,
        }
        for name, one in found.predictions.items()
        if one.n_tokens
    ]
    return pl.DataFrame(rows, schema=frame_schema(DRIFT_PREDICTIONS.columns))


def _sites(found: Drift) -> pl.DataFrame:
    setting = [pl.lit(value, pl.Int32).alias(name) for name, value in _setting(found).items()]
    frame = site_frame(found.sites).with_columns(setting)
    return frame.with_columns(flags=pl.Series(found.flags, dtype=pl.List(pl.String)))
