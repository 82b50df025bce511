"""The grid of settings: what each run holds of it, and its profiles there.

Everything comes from one capture of each run; a run that lacks a setting has a row that says why.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from lpp.analyze.agreement import home
from lpp.analyze.entropy import uncaptured
from lpp.analyze.keys import RunView, Url
from lpp.analyze.profile import AGGREGATIONS, ENTROPIES, RANKS
from lpp.analyze.select import Selection, listed, select_runs, select_sites
from lpp.analyze.tables import analyze
from lpp.store.console import Progress

CONTEXTS: Final = (50, 100, 200, 500)
"""Contexts of the paper's sensitivity analysis, in tokens."""

SIZES: Final = (10, 100, 500, 1000)
"""Numbers of prompts of the paper's sensitivity analysis."""

METRICS: Final = ("entropy_norm", "entropy", *RANKS)

OF_ENTROPY: Final = frozenset({"padded_vocab", "template"})
"""Flags that say nothing of a rank."""

OF_RANKS: Final = frozenset({"collapsed", "normaliser", "not_finite"})
"""Flags that say nothing of an entropy."""

SCHEMA = pl.Schema(
    {
        "run": pl.String(),
        "site": pl.String(),
        "context": pl.Int32(),
        "n_prompts": pl.Int32(),
        "metric": pl.String(),
        "aggregation": pl.String(),
        "model": pl.String(),
        "corpus": pl.String(),
        "prompt_set": pl.String(),
        "value": pl.Float64(),
        "prefix": pl.Int32(),
        "stderr": pl.Float64(),
        "flags": pl.List(pl.String()),
        "left_out": pl.String(),
    }
)
"""One row per number: key columns first, as the `sensitivity` table has them."""

CELL: Final = ("corpus", "site", "context", "n_prompts")
"""Rows that agree in these are compared with one another."""


@dataclass(frozen=True, slots=True)
class Axes:
    """What the grid is spanned by, beside runs."""

    sites: tuple[str, ...]
    contexts: tuple[int, ...]
    sizes: tuple[int, ...]


def choose(url: Url, selection: Selection) -> tuple[list[RunView], Axes]:
    """The runs and axes that `selection` asks for.

    Without contexts or numbers of prompts asked for: the paper's, as far as any run holds them,
    and the most that every run holds. Raises InputError for what no run holds.
    """
    views = select_runs(url, selection)
    contexts = selection.contexts or _held(CONTEXTS, [v.run.plan.context for v in views])
    sizes = selection.prompts or _held(SIZES, [v.run.n_prompts for v in views])
    return views, Axes(
        tuple(select_sites(views, selection)), tuple(sorted({*contexts})), tuple(sorted({*sizes}))
    )


def _held(published: Sequence[int], held: Sequence[int]) -> set[int]:
    return {n for n in published if n <= max(held)} | {min(held)}


def unanswered(view: RunView, site: str, context: int, size: int) -> str | None:
    """Why the run has no numbers at a setting; None where it has."""
    run = view.run
    if site not in run.sites:
        return f"no site {site}: captured at {listed(run.sites)}"
    if context > run.plan.context:
        return f"captured at context {run.plan.context}"
    if uncaptured(view, view.prefixes(context)):
        return "logit statistics at its own prefixes only (--logit-positions schedule)"
    if size > run.n_prompts:
        return f"{run.n_prompts} prompts are committed"
    return None


def values(url: Url, views: Iterable[RunView], axes: Axes, progress: Progress) -> pl.DataFrame:
    """The rows of `SCHEMA`: every run at every setting, every metric in every aggregation."""
    frames = [pl.DataFrame(schema=SCHEMA)]
    for view in views:
        frames += _computed(url, view, axes, progress)
        frames.append(_absent(view, axes))
    return _with_different_prompts(pl.concat(frames))


def _computed(url: Url, view: RunView, axes: Axes, progress: Progress) -> Iterable[pl.DataFrame]:
    """What the run holds of the grid: one read of each site for all of it."""
    sites = [site for site in axes.sites if site in view.run.sites]
    contexts = [
        context
        for context in axes.contexts
        if context <= view.run.plan.context and not uncaptured(view, view.prefixes(context))
    ]
    sizes = [size for size in axes.sizes if size <= view.run.n_prompts]
    if not (sites and contexts and sizes):
        return
    analysis = analyze(
        url,
        Selection(runs=[view.run.id], sites=sites, contexts=contexts, prompts=sizes),
        progress=progress,
    )
    for how in AGGREGATIONS:
        profiles = analysis.profiles(entropy=how, ranks=how)
        yield from (_long(profiles, metric, how) for metric in METRICS)


def _long(profiles: pl.DataFrame, metric: str, aggregation: str) -> pl.DataFrame:
    others = OF_RANKS if metric in ENTROPIES else OF_ENTROPY
    error = f"{metric}_stderr"
    return profiles.select(
        *("run", "site", "context", "n_prompts"),
        pl.lit(metric).alias("metric"),
        pl.lit(aggregation).alias("aggregation"),
        *("model", "corpus", "prompt_set"),
        pl.col(metric).alias("value"),
        pl.col(f"{metric}_prefix").alias("prefix"),
        (pl.col(error) if error in profiles.columns else pl.lit(None, pl.Float64)).alias("stderr"),
        pl.col("flags").list.set_difference(sorted(others)).list.sort(),
        pl.lit(None, pl.String).alias("left_out"),
    )


def _absent(view: RunView, axes: Axes) -> pl.DataFrame:
    """A row for each number that the run cannot give, with the reason."""
    plan = view.run.plan
    rows: list[tuple[object, ...]] = [
        (view.run.id, site, context, size, metric, how, plan.model.id, plan.corpus.name,
         plan.corpus.prompt_set, None, None, None, [], reason)
        for site in axes.sites
        for context in axes.contexts
        for size in axes.sizes
        if (reason := unanswered(view, site, context, size)) is not None
        for metric in METRICS
        for how in AGGREGATIONS
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _with_different_prompts(frame: pl.DataFrame) -> pl.DataFrame:
    """Flag the values of a setting at which runs read different texts."""
    sets = pl.col("prompt_set").filter(pl.col("left_out").is_null()).n_unique().over(CELL)
    marked = pl.concat_list("flags", pl.lit(["different_prompts"])).list.sort()
    return frame.with_columns(
        pl.when((sets > 1) & pl.col("left_out").is_null())
        .then(marked)
        .otherwise("flags")
        .alias("flags")
    )


def profile_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of `frame` as the profile aggregates: the entropy's minimum, ranks' maxima."""
    homes = pl.col("metric").replace_strict({m: home(m) for m in METRICS})
    return frame.filter(pl.col("aggregation") == homes)
