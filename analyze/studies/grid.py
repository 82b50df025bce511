"""The grid of settings: what each run holds of it, and its profiles there.

Everything comes from one capture of each run; a run that lacks a setting has a row that says why.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from lpp.analyze.engine.executor import LOCAL, Executor
from lpp.analyze.numerics.jackknife import ERRORS
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.runs.moments_held import held_sizes, listed_numbers
from lpp.analyze.runs.select import Selection, listed, select_runs, select_sites
from lpp.analyze.runs.texts import text_sets, texts_of
from lpp.analyze.studies.agreement import home
from lpp.analyze.tables.analysis import Analysis, ErrorSites, analyze
from lpp.analyze.tables.database import frame_schema
from lpp.analyze.tables.entropy import SPARSE, uncaptured
from lpp.analyze.tables.flags import ERROR_SHARE, SHORT_SHARE
from lpp.analyze.tables.profile import AGGREGATIONS, ENTROPIES, RANKS
from lpp.store.commands.progress import Progress

CONTEXTS: Final = (50, 100, 200, 500)
"""Contexts of the paper's sensitivity analysis, in tokens."""

SIZES: Final = (10, 100, 500, 1000)
"""Numbers of prompts of the paper's sensitivity analysis."""

METRICS: Final = ("entropy_norm", "entropy", *RANKS)

OF_RANKS: Final = frozenset({"collapsed", "not_finite"})
"""Flags that say nothing of an entropy."""

OF_ENTROPIES: Final = frozenset({"padded_vocab", "template"})
"""Flags that say nothing of a rank."""

SCHEMA: Final = frame_schema("sensitivity")
"""One row per number."""

CELL: Final = ("corpus", "site", "context", "n_prompts")
"""Rows that agree in these are compared with one another."""


@dataclass(frozen=True, slots=True)
class Axes:
    """What the grid is spanned by, beside runs."""

    sites: tuple[str, ...]
    contexts: tuple[int, ...]
    sizes: tuple[int, ...]


def choose(url: Url, selection: Selection) -> tuple[list[RunView], Axes, list[str]]:
    """The runs and axes that `selection` asks for, and a line for each incomplete run.

    Without contexts or numbers of prompts asked for: the paper's, as far as any run holds them,
    and the most that every run holds. Raises InputError for what no run holds.
    """
    views, incomplete = select_runs(url, selection)
    contexts = selection.contexts or _held(CONTEXTS, [v.run.plan.context for v in views])
    sizes = selection.prompts or _held(SIZES, [v.run.n_prompts for v in views])
    sites = select_sites(views, selection)
    return (
        views,
        Axes(tuple(sites), tuple(sorted({*contexts})), tuple(sorted({*sizes}))),
        incomplete,
    )


def _held(published: Sequence[int], held: Sequence[int]) -> set[int]:
    return {n for n in published if n <= max(held)} | {min(held)}


def unanswered(view: RunView, metric: str, site: str, context: int, size: int) -> str | None:
    """Why the run has no such number at a setting; None where it has."""
    run = view.run
    if site not in run.sites:
        return f"no site {site}: captured at {listed(run.sites)}"
    if context > run.plan.context:
        return f"captured at context {run.plan.context}"
    if size > run.n_prompts:
        return f"{run.n_prompts} prompts are committed"
    if metric in ENTROPIES and uncaptured(view, view.prefixes(context)):
        return SPARSE
    return _untold(view, metric, context, size)


def _untold(view: RunView, metric: str, context: int, size: int) -> str | None:
    """Why moments do not tell a number; None where they do, and where there are rows."""
    if not view.rank_sizes([size]):
        return f"keeps moments: of {listed_numbers(held_sizes(view))} prompts"
    of_logits = metric in ENTROPIES and view.rank_prefixes(context)
    if _partial(view, [context]) and not of_logits:
        return f"keeps moments: at prefixes {listed_numbers(view.run.plan.prefixes)}"
    return None


def _partial(view: RunView, contexts: Sequence[int]) -> list[int]:
    """Those of `contexts` whose schedule stored moments tell only a part of."""
    return [c for c in contexts if view.rank_prefixes(c) != view.prefixes(c)]


def values(
    url: Url,
    views: Sequence[RunView],
    axes: Axes,
    *,
    errors: ErrorSites,
    progress: Progress,
    executor: Executor = LOCAL,
) -> pl.DataFrame:
    """The rows of `SCHEMA`: every run at every setting, every metric in every aggregation."""
    frames = [pl.DataFrame(schema=SCHEMA)]
    for view in views:
        frames += _computed(url, view, axes, errors=errors, progress=progress, executor=executor)
        frames.append(_absent(view, axes))
    return _with_different_prompts(pl.concat(frames), views)


def _computed(
    url: Url,
    view: RunView,
    axes: Axes,
    *,
    errors: ErrorSites,
    progress: Progress,
    executor: Executor,
) -> Iterator[pl.DataFrame]:
    """What the run holds of the grid: one read of each site for all of it."""
    sites = [site for site in axes.sites if site in view.run.sites]
    contexts = [context for context in view.contexts(axes.contexts) if view.rank_prefixes(context)]
    sizes = view.rank_sizes(axes.sizes)
    if not (sites and contexts and sizes):
        return
    held = Selection(runs=[view.run.id], sites=sites, contexts=contexts, prompts=sizes)
    analysis = analyze(url, held, errors=errors, progress=progress, executor=executor)
    sparse = [context for context in contexts if uncaptured(view, view.prefixes(context))]
    partial = _partial(view, contexts)
    for how in AGGREGATIONS:
        profiles = analysis.profiles(entropy=how, ranks=how)
        of_ranks = profiles.filter(~pl.col("context").is_in(partial))
        of_logits = profiles.filter(~pl.col("context").is_in(sparse))
        for metric in METRICS:
            some = of_logits if metric in ENTROPIES else of_ranks
            yield _long(some, analysis, metric, how)


def _long(
    profiles: pl.DataFrame, analysis: Analysis, metric: str, aggregation: str
) -> pl.DataFrame:
    """One metric of `profiles`, a row each, with the flags that concern it."""
    keys = ["run", "context", "n_prompts", "prefix"]
    found = profiles.select(
        *("run", "site", "context", "n_prompts"),
        pl.lit(metric).alias("metric"),
        pl.lit(aggregation).alias("aggregation"),
        *("model", "corpus", "prompt_set", "n_quarantined"),
        pl.col(metric).alias("value"),
        pl.col(f"{metric}_prefix").alias("prefix"),
        *(pl.col(f"{metric}_{name}").alias(name) for name in ERRORS),
        "flags",
        pl.lit(None, pl.String).alias("left_out"),
        _bounded_by_rows(profiles, analysis, metric).alias("normaliser"),
    ).join(
        analysis.entropy.select(*keys, "short_prompts"), on=keys, how="left", maintain_order="left"
    )
    others = OF_RANKS if metric in ENTROPIES else OF_ENTROPIES
    # of the value's own prefix and error; the profile's flag is about any of its numbers
    exact = {
        "normaliser": pl.col("normaliser"),
        "short_text": pl.col("short_prompts") > SHORT_SHARE * pl.col("n_prompts"),
        "no_error": pl.col("stderr").is_null() & pl.col("value").is_not_null(),
        "small_sample": (pl.col("n_prompts") < 2)
        | (pl.col("stderr") > ERROR_SHARE * pl.col("value").abs()),
    }
    drops = [
        pl.when(~holds.fill_null(value=name == "short_text"))
        .then(pl.lit([name]))
        .otherwise(pl.lit([], pl.List(pl.String)))
        for name, holds in exact.items()
    ]
    kept = pl.col("flags").list.set_difference(pl.concat_list(pl.lit(sorted(others)), *drops))
    return found.with_columns(kept.list.sort()).select(SCHEMA.names())


def _bounded_by_rows(profiles: pl.DataFrame, analysis: Analysis, metric: str) -> pl.Series:
    """Whether min(N, d) moved `metric` of each profile: N was below d, or the peak is elsewhere.

    Of a mean or a median, N at any prefix. False for what min(N, d) does not divide.
    """
    rank = metric.removesuffix("_norm")
    if rank == metric or metric in ENTROPIES:
        return pl.repeat(value=False, n=len(profiles), dtype=pl.Boolean, eager=True)
    keys = ["run", "context", "n_prompts", "site"]
    few = analysis.spectra.select(*keys, "prefix", few=pl.col("n_tokens") < pl.col("dim"))
    there = few.rename({"prefix": f"{metric}_prefix"})
    anywhere = few.group_by(keys).agg(any_few=pl.col("few").any())
    joined = profiles.join(
        there, on=[*keys, f"{metric}_prefix"], how="left", maintain_order="left"
    ).join(anywhere, on=keys, how="left", maintain_order="left")
    elsewhere = pl.col(f"{rank}_prefix") != pl.col(f"{metric}_prefix")
    moved = elsewhere.fill_null(value=False) | pl.coalesce("few", "any_few")
    return joined.select(moved & pl.col(metric).is_not_null()).to_series()


def _absent(view: RunView, axes: Axes) -> pl.DataFrame:
    """A row for each number that the run cannot give, with the reason."""
    plan = view.run.plan
    rows = [
        {
            **{"run": view.run.id, "site": site, "context": context, "n_prompts": size},
            **{"metric": metric, "aggregation": how, "flags": [], "left_out": reason},
            **{"model": plan.model.id, "corpus": plan.corpus.name},
            "prompt_set": plan.corpus.prompt_set,
        }
        for site in axes.sites
        for context in axes.contexts
        for size in axes.sizes
        for metric in METRICS
        if (reason := unanswered(view, metric, site, context, size)) is not None
        for how in AGGREGATIONS
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def _with_different_prompts(frame: pl.DataFrame, views: Iterable[RunView]) -> pl.DataFrame:
    """Flag the values of a setting at which runs read different texts."""
    texts = texts_of(views)
    named = [
        (run, size, name)
        for size in frame["n_prompts"].unique()
        for run, name in text_sets(texts, size).items()
    ]
    schema = pl.Schema({"run": pl.String, "n_prompts": pl.Int32, "texts": pl.String})
    beside = pl.DataFrame(named, schema=schema, orient="row")
    held = pl.col("left_out").is_null()
    sets = pl.col("texts").filter(held).n_unique().over(CELL)
    marked = pl.concat_list("flags", pl.lit(["different_prompts"])).list.sort()
    return (
        frame.join(beside, on=["run", "n_prompts"], how="left", maintain_order="left")
        .with_columns(flags=pl.when((sets > 1) & held).then(marked).otherwise("flags"))
        .drop("texts")
    )


def profile_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of `frame` as the profile aggregates: the entropy's minimum, ranks' maxima."""
    homes = pl.col("metric").replace_strict({m: home(m) for m in METRICS})
    return frame.filter(pl.col("aggregation") == homes)
