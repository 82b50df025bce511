"""Drift of two runs as lazy tables: a query computes only the sites and columns it needs."""

from collections.abc import Iterator
from itertools import groupby

import polars as pl

from lpp.analyze.drift.pair import Pair, pair_of, run_of
from lpp.analyze.drift.predictions import TOKEN_DRIFT, compared_tokens, token_drift
from lpp.analyze.drift.sites import SITE_KEYS, SITES, common_sites, site_drift, site_frame
from lpp.analyze.numerics.jackknife import error_names
from lpp.analyze.numerics.logit_drift import EVERYTHING
from lpp.analyze.quantities.drift import OF_ROWS, SITE_CHANGES
from lpp.analyze.runs.cells import Cell, n_tokens
from lpp.analyze.runs.keys import Url, depth
from lpp.analyze.tables.analysis import ErrorSites
from lpp.analyze.tables.lazy import ROWS, Source, scan


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
        Source(
            name="LPP DRIFT TOKENS",
            schema=TOKEN_DRIFT,
            opened=opened,
            keys=keys,
            compute=compute,
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
    """How each site changed from run `a` to run `b`: columns `SITES`.

    a, b, prompts: as for `diff`; errors: as for `site_drift`, whatever sites are requested. Values
    are computed on collection, and stored. Filters on site and depth and the selection of columns
    limit the computation: a query for one site reads one site, `relative_distance` and `cosine`
    alone need no matrix products, and errors are computed only if their columns are requested.
    Raises InputError for runs that are not comparable, FormatError for altered bytes.
    """

    def opened() -> Pair:
        return pair_of(run_of(store, a).run, run_of(store, b).run, prompts)

    def keys(pair: Pair) -> pl.DataFrame:
        context = min(view.run.plan.context for view in (pair.a, pair.b))
        count = n_tokens(pair.lengths, Cell(pair.n_prompts, context, first_position=first_position))
        n_blocks = pair.a.run.plan.model.n_blocks
        rows = [(site, depth(site, n_blocks), count) for site in common_sites(pair)]
        return pl.DataFrame(rows, schema=SITE_KEYS, orient="row")

    def compute(
        pair: Pair, chosen: pl.DataFrame, columns: frozenset[str]
    ) -> Iterator[pl.DataFrame]:
        only = _numbers(columns)
        if not only:
            yield _without_numbers(chosen)
            return
        products = set(only).difference(OF_ROWS)
        asked = any(columns.intersection(error_names(number)) for number in products)
        sure = {"all": common_sites(pair), "final": common_sites(pair)[-1:], "none": []}[errors]
        for with_errors, sites in groupby(chosen["site"], lambda site: asked and site in sure):
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
        Source(name="LPP DRIFT SITES", schema=SITES, opened=opened, keys=keys, compute=compute)
    )


def _numbers(columns: frozenset[str]) -> list[str]:
    """The numbers that `columns` belong to."""
    return [n for n in SITE_CHANGES if columns.intersection((n, *error_names(n)))]


def _without_numbers(keys: pl.DataFrame) -> pl.DataFrame:
    return keys.with_columns(
        pl.lit(None, dtype=kind).alias(name)
        for name, kind in SITES.items()
        if name not in SITE_KEYS
    )
