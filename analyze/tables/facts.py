"""The facts that flags use: profiles and metrics, joined with the tables they come from."""

from collections.abc import Collection, Sequence

import polars as pl

from lpp.analyze.metrics.registry import METRICS, RANKS
from lpp.analyze.runs.keys import RunView
from lpp.analyze.tables.profile import ENTROPIES

_RUN = ("run", "context", "n_prompts")
_SITE = (*_RUN, "first_position", "site")
_LOGITS = ("logits_width", "tokenizer_size")


def profile_facts(
    profiles: pl.DataFrame,
    metric: str,
    *,
    spectra: pl.DataFrame,
    entropy: pl.DataFrame,
    runs: pl.DataFrame,
    computed: Collection[str],
) -> pl.DataFrame:
    """The facts about one metric, a row for each of `profiles`.

    profiles: as of `aggregate`. spectra (`with_lossy`), entropy: the rows from which they were
    aggregated. Facts
    are those at the prefix that the number came from; for a mean or a median, the worst over all
    prefixes. computed: names of the requested ranks.
    """
    value = pl.col(metric)
    facts = profiles.select(
        *_SITE,
        *(name for name in ("n_quarantined", "n_prompt_sets") if name in profiles.columns),
        value.alias("value"),
        pl.col(f"{metric}_stderr").alias("stderr"),
        pl.col(f"{metric}_prefix").alias("prefix"),
        *([] if metric in ENTROPIES else _rank_columns(metric)),
        at=pl.when(value.is_not_null()).then(pl.col(f"{metric}_prefix").fill_null(0)),
    )
    of_prefix = [pl.col("short_prompts").max(), pl.col("n_duplicates").max()]
    if metric in ENTROPIES:
        of_prefix.append(pl.col("distinct_prefixes").min())
        facts = _joined(facts, runs.select("run", *_LOGITS), ["run"])
        return _joined(facts, _at(entropy, _RUN, of_prefix), [*_RUN, "at"])
    facts = _joined(facts, _at(entropy, _RUN, of_prefix), [*_RUN, "at"])
    of_rows = [pl.col("n_tokens").min(), pl.col("dim").min(), pl.col("n_sinks").max()]
    of_rows.append(pl.col("lossy").max())
    facts = _joined(facts, _at(spectra, _SITE, of_rows), [*_SITE, "at"])
    missing = [pl.col(name).null_count() for name in RANKS if name in computed]
    missing_ranks = spectra.group_by(_SITE).agg(
        missing_ranks=pl.sum_horizontal(missing or [pl.lit(0)])
    )
    return _joined(facts, missing_ranks, _SITE)


def _rank_columns(metric: str) -> list[pl.Expr]:
    undivided = METRICS[metric].normalises
    return [
        pl.col(METRICS[metric].ratio).alias("ratio"),
        pl.lit(bool(undivided)).alias("normalised"),
        pl.col(f"{undivided or metric}_prefix").alias("rank_prefix"),
    ]


def _at(frame: pl.DataFrame, by: Sequence[str], worst: Sequence[pl.Expr]) -> pl.DataFrame:
    """The facts `worst` at each prefix (column `at`), and over all prefixes (`at` = 0)."""
    each = frame.group_by(*by, "prefix").agg(worst).rename({"prefix": "at"})
    over = frame.group_by(by).agg(worst).with_columns(at=pl.lit(0, pl.Int32))
    return pl.concat([each, over.select(each.columns)])


def _joined(frame: pl.DataFrame, other: pl.DataFrame, on: Sequence[str]) -> pl.DataFrame:
    return frame.join(other, on=on, how="left", maintain_order="left")


def metric_facts(
    metrics: pl.DataFrame, *, spectra: pl.DataFrame, entropy: pl.DataFrame, runs: pl.DataFrame
) -> pl.DataFrame:
    """The facts about each row of `metrics`, the metrics table with `n_prompt_sets`.

    spectra (`with_lossy`), entropy: rows with the same prefixes.
    """
    keys = [*_RUN, "prefix"]
    rows = [*keys, "first_position", "site"]
    declared = pl.DataFrame(
        [(name, metric.ratio, bool(metric.normalises)) for name, metric in METRICS.items()],
        schema={"metric": pl.String, "of": pl.String, "normalised": pl.Boolean},
        orient="row",
    )
    facts = _joined(metrics, declared, ["metric"])
    facts = _joined(facts, entropy.select(*keys, "short_prompts", "n_duplicates"), keys)
    of_rows = ("n_tokens", "dim", "n_sinks", "lossy")
    facts = _joined(facts, spectra.select(*rows, *of_rows, of_site=pl.lit(value=True)), rows)
    facts = _joined(facts, _ratios(metrics, spectra, rows), [*rows, "of"])
    of_site, missing = pl.col("of_site").is_not_null(), pl.col("ratio").is_null()
    facts = facts.with_columns(missing_ranks=(of_site & missing).cast(pl.UInt32))
    facts = _joined(facts, runs.select("run", *_LOGITS), ["run"])
    return facts.with_columns(pl.when(~of_site).then(pl.col(name)).alias(name) for name in _LOGITS)


def with_lossy(keys: pl.DataFrame, views: Sequence[RunView]) -> pl.DataFrame:
    """`keys`, rows of the spectra table, with `lossy`, whether the rows of a site are."""
    rounded = {
        (view.run.id, site)
        for view in views
        for site in view.run.sites
        if view.run.plan.is_lossy(site)
    }
    lossy = [key in rounded for key in keys.select("run", "site").iter_rows()]
    return keys.with_columns(pl.Series("lossy", lossy, dtype=pl.Boolean))


def _ratios(metrics: pl.DataFrame, spectra: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Every participation ratio: its value `ratio`, `keys`, and its name `of`."""
    named = {metric.ratio for metric in METRICS.values()}
    of_metrics = metrics.filter(pl.col("metric").is_in(named))
    return pl.concat(
        [
            spectra.select(
                *keys, of=pl.lit("participation_ratio"), ratio=pl.col("participation_ratio")
            ),
            of_metrics.select(*keys, of="metric", ratio="value"),
        ]
    )
