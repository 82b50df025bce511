"""The grid of settings of a sensitivity study, and the profiles of each run on it.

All settings come from one capture of each run. If a run lacks a setting, a row says why.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from lpp.analyze.engine.executor import LOCAL, Executor
from lpp.analyze.metrics.registry import RANKS
from lpp.analyze.quantities.flags import flags_of
from lpp.analyze.quantities.tables import frame_schema, shared
from lpp.analyze.questions import ErrorSites, ProfileSettings, Selection
from lpp.analyze.runs.comparable import prompt_sets, with_prompt_sets
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.moments_held import held_sizes, listed_numbers
from lpp.analyze.runs.named import names_of
from lpp.analyze.runs.select import listed, select_sites
from lpp.analyze.studies.agreement import profile_aggregation
from lpp.analyze.tables.analysis import Analysis, analyze_views
from lpp.analyze.tables.entropy import uncaptured, why_uncaptured
from lpp.analyze.tables.profile import AGGREGATIONS, ENTROPIES
from lpp.sql.schema.columns import ERRORS, Column, Merging, Table, number_columns
from lpp.store.progress import Progress

CONTEXTS: Final = (50, 100, 200, 500)
"""Contexts of the paper's sensitivity analysis, in tokens."""

SIZES: Final = (10, 100, 500, 1000)
"""Numbers of prompts of the paper's sensitivity analysis."""

METRICS: Final = ("entropy_norm", "entropy", *RANKS)

CELL: Final = ("corpus", "site", "context", "n_prompts")
"""Rows of different runs are compared if these columns are equal."""

SENSITIVITY: Final = Table(
    "sensitivity",
    "profiles over the grid of settings, one row per number",
    "lpp-analyze sensitivity STORE",
    ("run", "site", "context", "n_prompts", "metric", "aggregation"),
    (
        *shared("run site context n_prompts"),
        Column(
            "metric",
            "VARCHAR",
            "such as effective_rank; entropy_norm is over ln V",
            part="name",
            number="value",
        ),
        Column("aggregation", "VARCHAR", "over prefixes: min, max, mean or median"),
        *shared("model corpus prompt_set n_quarantined"),
        *number_columns(
            "value", "null: see left_out, or flags", "of the metric", ("prefix", *ERRORS), prefix=""
        ),
        Column("flags", "VARCHAR[]", "why value may mislead; empty when none"),
        Column("left_out", "VARCHAR", "why this run has no value here; null: it has one"),
    ),
    merging=Merging(beside=(*CELL, "left_out IS NULL")),
)

_SCHEMA: Final = frame_schema(SENSITIVITY.columns)


@dataclass(frozen=True, slots=True)
class Axes:
    """The axes of the grid, in addition to the runs."""

    sites: tuple[str, ...]
    contexts: tuple[int, ...]
    sizes: tuple[int, ...]


def grid_axes(views: Sequence[RunView], selection: Selection) -> Axes:
    """The axes of `selection` for the runs `views`.

    Default contexts and numbers of prompts: those of the paper that some run has, and the largest
    one that every run has. Raises InputError for a site that no run has.
    """
    contexts = selection.contexts or _default_axis(CONTEXTS, [v.run.plan.context for v in views])
    sizes = selection.prompts or _default_axis(SIZES, [v.run.n_prompts for v in views])
    return Axes(
        tuple(select_sites(views, selection)), tuple(sorted({*contexts})), tuple(sorted({*sizes}))
    )


def _default_axis(published: Sequence[int], captured: Sequence[int]) -> set[int]:
    return {n for n in published if n <= max(captured)} | {min(captured)}


def why_absent(view: RunView, metric: str, site: str, context: int, size: int) -> str | None:
    """Why the run has no number of this metric at a setting; None if it has."""
    run = view.run
    if site not in run.activation_sites:
        return f"no site {site}: captured at {listed(run.activation_sites)}"
    if context > run.plan.context:
        return f"captured at context {run.plan.context}"
    if size > run.n_prompts:
        return f"{run.n_prompts} prompts are committed"
    if metric in ENTROPIES and uncaptured(view, view.prefixes(context)):
        return why_uncaptured(view)
    return _why_no_moments(view, metric, context, size)


def _why_no_moments(view: RunView, metric: str, context: int, size: int) -> str | None:
    """Why a run that keeps moments has no such number; None if it has, or keeps rows."""
    if not view.rank_sizes([size]):
        return f"keeps moments: only for {listed_numbers(held_sizes(view))} prompts"
    of_logits = metric in ENTROPIES and view.rank_prefixes(context)
    if _partial(view, [context]) and not of_logits:
        return f"keeps moments: only at prefixes {listed_numbers(view.moment_ends)}"
    return None


def _partial(view: RunView, contexts: Sequence[int]) -> list[int]:
    """The `contexts` for which stored moments give only some prefixes."""
    return [c for c in contexts if view.rank_prefixes(c) != view.prefixes(c)]


def values(
    views: Sequence[RunView],
    axes: Axes,
    *,
    comparable_among: Sequence[RunView],
    errors: ErrorSites,
    progress: Progress,
    executor: Executor = LOCAL,
) -> pl.DataFrame:
    """The rows of `SENSITIVITY`: every run at every setting, every metric in every aggregation.

    comparable_among: every run of the store.
    """
    names = names_of(views)
    frames = [pl.DataFrame(schema=_SCHEMA).drop("prompt_set", "flags")]
    for view in views:
        sites = [site for site in axes.sites if site in view.run.activation_sites]
        contexts = [c for c in view.contexts(axes.contexts) if view.rank_prefixes(c)]
        sizes = view.rank_sizes(axes.sizes)
        if sites and contexts and sizes:
            settings = ProfileSettings(contexts=contexts, prompts=sizes, errors=errors)
            analysis = analyze_views(
                [view],
                sites,
                settings,
                comparable_among=(),
                names=names,
                progress=progress,
                executor=executor,
            )
            frames += _of_run(view, analysis)
    sets = prompt_sets(comparable_among, axes.sizes)
    numbers = with_prompt_sets(pl.concat(frames, how="diagonal"), sets, beside=CELL)
    numbers = numbers.with_columns(flags=flags_of(numbers))
    absent = pl.concat([_absent(view, axes) for view in views])
    absent = with_prompt_sets(absent.drop("prompt_set"), sets, beside=CELL)
    order = {view.run.id: k for k, view in enumerate(views)}
    rows = pl.concat([numbers.select(_SCHEMA.names()), absent.select(_SCHEMA.names())])
    return rows.sort(pl.col("run").replace_strict(order), maintain_order=True)


def _of_run(view: RunView, analysis: Analysis) -> Iterator[pl.DataFrame]:
    """Facts about every number of one run, and the other columns of `SENSITIVITY`."""
    contexts = analysis.entropy["context"].unique().to_list()
    sparse = [context for context in contexts if uncaptured(view, view.prefixes(context))]
    partial = _partial(view, contexts)
    for how in AGGREGATIONS:
        profiles = analysis.aggregated(entropy=how, ranks=how)
        for metric, facts in analysis.facts(profiles).items():
            without = sparse if metric in ENTROPIES else partial
            yield facts.with_columns(
                profiles["model"],
                profiles["corpus"],
                *(profiles[f"{metric}_{name}"].alias(name) for name in ERRORS),
                metric=pl.lit(metric),
                aggregation=pl.lit(how),
                left_out=pl.lit(None, pl.String),
            ).filter(~pl.col("context").is_in(without))


def _absent(view: RunView, axes: Axes) -> pl.DataFrame:
    """A row for each number that the run does not have, with the reason."""
    plan = view.run.plan
    rows = [
        {
            **{"run": view.run.id, "site": site, "context": context, "n_prompts": size},
            **{"metric": metric, "aggregation": how, "flags": [], "left_out": reason},
            **{"model": plan.model.id, "corpus": plan.corpus.name},
        }
        for site in axes.sites
        for context in axes.contexts
        for size in axes.sizes
        for metric in METRICS
        if (reason := why_absent(view, metric, site, context, size)) is not None
        for how in AGGREGATIONS
    ]
    return pl.DataFrame(rows, schema=_SCHEMA)


def profile_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of `frame` that are aggregated as in profiles: minimum of entropy, else maximum."""
    homes = pl.col("metric").replace_strict({m: profile_aggregation(m) for m in METRICS})
    return frame.filter(pl.col("aggregation") == homes)
