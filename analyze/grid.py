"""The grid of settings: what each run holds of it, and its profiles there.

Everything comes from one capture of each run; a run that lacks a setting has a row that says why.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from lpp.analyze.agreement import home
from lpp.analyze.analysis import Analysis, ErrorSites, analyze
from lpp.analyze.database import frame_schema
from lpp.analyze.entropy import uncaptured
from lpp.analyze.flags import ERROR_SHARE, SHORT_SHARE
from lpp.analyze.jackknife import ERRORS
from lpp.analyze.keys import RunView, Url
from lpp.analyze.profile import AGGREGATIONS, ENTROPIES, RANKS
from lpp.analyze.select import Selection, listed, select_runs, select_sites
from lpp.store.console import Progress

CONTEXTS: Final = (50, 100, 200, 500)
"""Contexts of the paper's sensitivity analysis, in tokens."""

SIZES: Final = (10, 100, 500, 1000)
"""Numbers of prompts of the paper's sensitivity analysis."""

METRICS: Final = ("entropy_norm", "entropy", *RANKS)

OF_RANKS: Final = frozenset({"collapsed", "not_finite"})
"""Flags that say nothing of an entropy."""

OF_ENTROPIES: Final = frozenset({"padded_vocab", "template"})
"""Flags that say nothing of a rank."""

OF_SHARES: Final = frozenset({"normaliser"})
"""Flags that say nothing of a number that min(N, d) does not divide."""

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


def values(
    url: Url, views: Iterable[RunView], axes: Axes, errors: ErrorSites, progress: Progress
) -> pl.DataFrame:
    """The rows of `SCHEMA`: every run at every setting, every metric in every aggregation."""
    frames = [pl.DataFrame(schema=SCHEMA)]
    for view in views:
        frames += _computed(url, view, axes, errors, progress)
        frames.append(_absent(view, axes))
    return _with_different_prompts(pl.concat(frames))


def _computed(
    url: Url, view: RunView, axes: Axes, errors: ErrorSites, progress: Progress
) -> Iterator[pl.DataFrame]:
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
    held = Selection(runs=[view.run.id], sites=sites, contexts=contexts, prompts=sizes)
    analysis = analyze(url, held, errors=errors, progress=progress)
    for how in AGGREGATIONS:
        profiles = analysis.profiles(entropy=how, ranks=how)
        yield from (_long(profiles, analysis, metric, how) for metric in METRICS)


def _long(
    profiles: pl.DataFrame, analysis: Analysis, metric: str, aggregation: str
) -> pl.DataFrame:
    """One metric of `profiles`, a row each, with the flags that concern it."""
    shorts = analysis.entropy.select("run", "context", "n_prompts", "prefix", "short_prompts")
    found = profiles.select(
        *("run", "site", "context", "n_prompts"),
        pl.lit(metric).alias("metric"),
        pl.lit(aggregation).alias("aggregation"),
        *("model", "corpus", "prompt_set"),
        pl.col(metric).alias("value"),
        pl.col(f"{metric}_prefix").alias("prefix"),
        *(pl.col(f"{metric}_{name}").alias(name) for name in ERRORS),
        "flags",
        pl.lit(None, pl.String).alias("left_out"),
    ).join(shorts, on=["run", "context", "n_prompts", "prefix"], how="left", maintain_order="left")
    others = OF_RANKS | OF_SHARES if metric in ENTROPIES else OF_ENTROPIES
    if not metric.endswith("_norm"):
        others = others | OF_SHARES
    # of the value's own prefix and error; the profile's flag is about any of its numbers
    exact = {
        "short_text": pl.col("short_prompts") > SHORT_SHARE * pl.col("n_prompts"),
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
        if (reason := unanswered(view, site, context, size)) is not None
        for metric in METRICS
        for how in AGGREGATIONS
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


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
