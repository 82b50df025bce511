"""Drift as tables: of the database of a store, and lazy ones, of which a query computes only the
sites and columns that it needs.

A million tokens of `drift_tokens` take 55 MB of the database. Writing them takes 200 MB of memory
beside their frame. Every command that writes copies them to its new file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import polars as pl

from lpp.analyze.drift.flags import prediction_flags
from lpp.analyze.drift.pair import Pair, pair_of, run_of
from lpp.analyze.drift.predictions import DRIFT_TOKENS, TOKEN_DRIFT, compared_tokens, token_drift
from lpp.analyze.drift.sites import (
    DRIFT_SITES,
    SITE_KEYS,
    SITES_SCHEMA,
    SiteDrift,
    common_sites,
    site_drift,
    site_frame,
)
from lpp.analyze.drift.summaries import OF_TOKENS, Summary
from lpp.analyze.logits.divergences import EVERYTHING
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.numerics.jackknife import error_names
from lpp.analyze.quantities.drift import OF_ROWS, PREDICTIONS, SITE_CHANGES
from lpp.analyze.quantities.tables import frame_schema, shared
from lpp.analyze.questions import DiffSettings, ErrorSites
from lpp.analyze.runs.cells import Cell, n_tokens
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.tables.database import put
from lpp.analyze.tables.lazy import ROWS, LazySource, scan
from lpp.analyze.tables.result import TableResult, frame_method
from lpp.sql.schema.columns import ERRORS, Column, Merging, Table, number_columns
from lpp.store.objects.place import Place
from lpp.store.settings.arguments import check_word

_KEY: Final = ("run_a", "run_b", "n_prompts", "first_position", "n_drawn", "number")

DRIFT_PREDICTIONS: Final = Table(
    "drift_predictions",
    "change of the predictions from the first run to the second",
    "lpp-analyze diff STORE RUN_A RUN_B",
    _KEY,
    (
        *shared("run_a run_b n_prompts first_position"),
        Column("n_drawn", "INTEGER", "size of the random sample; 0: all tokens", "tokens"),
        Column(
            "number", "VARCHAR", "such as kl, flips or log_perplexity", part="name", number="mean"
        ),
        Column("unit", "VARCHAR", "unit of the number", part="unit", number="mean"),
        *number_columns("mean", "mean over tokens", "of the number"),
        Column("median", "DOUBLE", "median over tokens", "of the number"),
        Column("p99", "DOUBLE", "99th percentile over tokens", "of the number"),
        Column("maximum", "DOUBLE", "maximum over tokens", "of the number"),
        *number_columns("mean", "mean over tokens", "of the number", ERRORS, prefix="")[1:],
        Column("n_tokens", "BIGINT", "tokens that have the number", "tokens"),
        *shared("flags cluster"),
    ),
    merging=Merging(replaced=_KEY),
)


@dataclass(frozen=True, kw_only=True, repr=False)
class Drift(TableResult):
    """How run B differs from run A over the same tokens."""

    pair: Pair
    first_position: int
    """Only tokens at positions from this one on are compared."""
    seed: int | None
    """Seed of the draw of tokens; None if all are compared."""
    tokens: pl.DataFrame
    """A row for each compared token, as in `token_drift`."""
    predictions: Mapping[str, Summary]
    sites: Sequence[SiteDrift]
    """In depth order."""
    flags: Sequence[Sequence[str]]
    """Flags of each of `sites` (`site_flags`)."""
    rerun: Mapping[str, float]
    """Relative distance from run A to its rerun, by site; empty without one."""
    no_logits: str | None
    """Why there are no numbers that need every logit; None if there are."""
    arithmetic: str
    """How logits were computed from rows; empty if none were."""
    notes: tuple[str, ...]
    """What is left out and why, one line each."""
    settings: DiffSettings
    """Those that compare the same prompts again."""

    @property
    def is_nothing(self) -> bool:
        """Whether every number is the one of a run compared with itself: exactly 0, or exactly
        1.
        """
        moved = pl.col("next_logprob_a").ne_missing(pl.col("next_logprob_b")).any()
        if self.tokens.select(moved).item():
            return False
        if any(s.relative_distance.value != 0 for s in self.sites if not s.router):  # or not finite
            return False
        changed = [
            end
            for name, summary in self.predictions.items()
            for end in (summary.mean, summary.median, summary.max)
            if end not in (None, PREDICTIONS[name].identity if name in PREDICTIONS else 0.0)
        ]
        return not changed and all(
            site[name].value in (None, SITE_CHANGES[name].identity)
            for site in self.sites
            for name in SITE_CHANGES
        )

    def frames(self) -> dict[str, pl.DataFrame]:
        """Tables `drift_predictions`, `drift_sites` and `drift_tokens`, by name.

        A number of the predictions that no token has gets no row. Flags of a site: `flags`.
        """
        tables = {
            DRIFT_PREDICTIONS: _predictions(self),
            DRIFT_SITES: _sites(self),
            DRIFT_TOKENS: self.tokens,
        }
        a, b = (view.run.id for view in (self.pair.a, self.pair.b))
        same = {
            "run_a": pl.lit(a),
            "run_b": pl.lit(b),
            "cluster": pl.lit(self.pair.cluster, pl.String),
        }
        return {
            table.name: frame.with_columns(**same).select(frame_schema(table.columns).names())
            for table, frame in tables.items()
        }

    predictions_frame = frame_method(DRIFT_PREDICTIONS.name)
    sites_frame = frame_method(DRIFT_SITES.name)
    tokens_frame = frame_method(DRIFT_TOKENS.name)


def write_drift(drift: Drift) -> Place | None:
    """Write `drift.frames()` to the database of the store of both runs; return the file's path.

    Rows of earlier comparisons stay as long as both of their runs are unchanged. Writes nothing and
    returns None if the runs are in two stores, or if a run is compared with itself. Raises what
    `lpp.sql.build` raises.
    """
    if drift.pair.of_one_run or len(stores(drift.pair)) > 1:
        return None
    return put(stores(drift.pair)[0], drift.frames())


def stores(pair: Pair) -> list[Place]:
    """The stores that hold the runs of `pair`: one or two, however their paths are written."""
    return stores_of(pair.a, pair.b)


def stores_of(*views: RunView) -> list[Place]:
    """The stores that hold these runs, each once, however their paths are written."""
    roots = (view.run.directory.root for view in views)
    return list(
        {root.resolve() if isinstance(root, Path) else root: root for root in roots}.values()
    )


def _setting(drift: Drift) -> dict[str, int]:
    return {"n_prompts": drift.pair.n_prompts, "first_position": drift.first_position}


def _predictions(drift: Drift) -> pl.DataFrame:
    drawn = 0 if drift.seed is None else len(drift.tokens)
    flags = prediction_flags(drift.pair, drift.predictions)
    rows = [
        {
            **_setting(drift),
            "n_drawn": drawn if name in OF_TOKENS else 0,
            "number": name,
            "unit": (METRICS if name in METRICS else PREDICTIONS)[name].unit,
            "mean": summary.mean,
            "median": summary.median,
            "p99": summary.p99,
            "maximum": summary.max,
            "stderr": summary.stderr,
            "ci_low": summary.ci_low,
            "ci_high": summary.ci_high,
            "n_tokens": summary.n_tokens,
            "flags": flags[name],
        }
        for name, summary in drift.predictions.items()
        if summary.n_tokens
    ]
    return pl.DataFrame(rows, schema=frame_schema(DRIFT_PREDICTIONS.columns))


def _sites(drift: Drift) -> pl.DataFrame:
    setting = [pl.lit(value, pl.Int32).alias(name) for name, value in _setting(drift).items()]
    frame = site_frame(drift.sites).with_columns(setting)
    return frame.with_columns(flags=pl.Series(drift.flags, dtype=pl.List(pl.String)))


def scan_drift_tokens(
    store: Url,
    a: str,
    b: str,
    *,
    prompts: int | None = None,
    first_position: int = 0,
    tokens: int | None = None,
    seed: int = 0,
) -> pl.LazyFrame:
    """What changed after each token from run `a` to run `b`: columns `predictions.TOKEN_DRIFT`.

    a, b, prompts: as for `diff`; first_position, tokens, seed: as for `token_drift`. Values are
    computed on collection, and stored. Only requested columns are computed: without `kl`,
    `kl_reverse`, `js` and `tv` no divergences; if `flip` and `top10` are not requested either, no
    logits. A filter on rows does not reduce the computation. Raises InputError for runs that are
    not comparable, FormatError for altered bytes.
    """

    def opened() -> Pair:
        return pair_of(run_of(store, a).run, run_of(store, b).run, prompts)

    def compute(pair: Pair, _: pl.DataFrame, columns: frozenset[str]) -> Iterator[pl.DataFrame]:
        yield token_drift(
            pair,
            first_position=first_position,
            tokens=tokens,
            seed=seed,
            only=EVERYTHING & columns,
        )

    def keys(pair: Pair) -> pl.DataFrame:
        count = compared_tokens(pair, first_position=first_position, tokens=tokens)
        return pl.DataFrame({ROWS: [count]})

    opened()
    return scan(
        LazySource(
            name="LPP DRIFT TOKENS", schema=TOKEN_DRIFT, opened=opened, keys=keys, compute=compute
        )
    )


def scan_drift_sites(
    store: Url,
    a: str,
    b: str,
    *,
    prompts: int | None = None,
    first_position: int = 0,
    errors: ErrorSites = "final",
) -> pl.LazyFrame:
    """How each site changed from run `a` to run `b`: columns `SITES_SCHEMA`.

    a, b, prompts: as for `diff`; errors: as for `site_drift`, whatever sites are requested. Values
    are computed on collection, and stored. Filters on site and depth and the selection of columns
    limit the computation: a query for one site reads one site, `relative_distance` and `cosine`
    alone need no matrix products, and errors are computed only if their columns are requested.
    Raises InputError for runs that are not comparable, FormatError for altered bytes.
    """
    check_word("errors", errors, ErrorSites)

    def opened() -> Pair:
        return pair_of(run_of(store, a).run, run_of(store, b).run, prompts)

    def keys(pair: Pair) -> pl.DataFrame:
        context = min(view.run.plan.context for view in (pair.a, pair.b))
        count = n_tokens(pair.lengths, Cell(pair.n_prompts, context, first_position=first_position))
        plan = pair.a.run.plan
        rows = [(site, plan.depth_of(site), count) for site in common_sites(pair)]
        return pl.DataFrame(rows, schema=SITE_KEYS, orient="row")

    def compute(
        pair: Pair, chosen: pl.DataFrame, columns: frozenset[str]
    ) -> Iterator[pl.DataFrame]:
        only = _numbers(columns)
        if not only:
            yield _without_numbers(chosen)
            return
        products = set(only).difference(OF_ROWS)
        has_errors = any(columns.intersection(error_names(number)) for number in products)
        sure = {"all": common_sites(pair), "final": common_sites(pair)[-1:], "none": []}[errors]
        for with_errors, sites in groupby(chosen["site"], lambda site: has_errors and site in sure):
            yield site_frame(
                site_drift(
                    pair,
                    [*sites],
                    first_position=first_position,
                    errors="all" if with_errors else "none",
                    only=only,
                )
            )

    opened()
    return scan(
        LazySource(
            name="LPP DRIFT SITES", schema=SITES_SCHEMA, opened=opened, keys=keys, compute=compute
        )
    )


def _numbers(columns: frozenset[str]) -> list[str]:
    """The numbers that `columns` belong to."""
    return [n for n in SITE_CHANGES if columns.intersection((n, *error_names(n)))]


def _without_numbers(keys: pl.DataFrame) -> pl.DataFrame:
    return keys.with_columns(
        pl.lit(None, dtype=kind).alias(name)
        for name, kind in SITES_SCHEMA.items()
        if name not in SITE_KEYS
    )
