"""Everything that changed between two models: predictions, sites, provenance."""

from collections.abc import Sequence
from dataclasses import replace

from lpp.analyze.drift.flags import site_flags
from lpp.analyze.drift.gate.metric_changes import prediction_changes
from lpp.analyze.drift.pair import Pair, pair_of, rerun_of, run_of, store_of
from lpp.analyze.drift.predictions import compared_tokens, computed_tokens, token_drift
from lpp.analyze.drift.sites import common_sites, compared_cell, site_drift, why_missing
from lpp.analyze.drift.summaries import entropy_drift, prediction_drift
from lpp.analyze.drift.tables import Drift
from lpp.analyze.engine.executor import Executor, LocalExecutor
from lpp.analyze.logits.heads import LOSSY_KL, arithmetic
from lpp.analyze.metrics.registry import METRICS, metric_names
from lpp.analyze.quantities.drift import SITE_CHANGES
from lpp.analyze.questions import DiffSettings
from lpp.analyze.runs.keys import Url
from lpp.analyze.runs.select import listed
from lpp.store.progress import SILENT, Progress


def diff(
    store: Url,
    a: str,
    b: str,
    settings: DiffSettings = DiffSettings(),
    *,
    metrics: Sequence[str] = (),
    jobs: int | None = None,
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> Drift:
    """What changed from run `a` to run `b` of the store at `store`.

    a, b: run ids or names, their beginnings, or patterns; `STORE::RUN` for another store.
    Other arguments and errors are those of `drift`. Results are kept under `analysis/` of the store
    of run A (`drift.kept`) and reused. Raises InputError for runs that are not comparable, and says
    what would make them so.
    """
    pair = pair_of(
        run_of(store, a).run, run_of(store, b).run, settings.prompts, cluster=settings.cluster
    )
    return drift(pair, settings, metrics=metrics, jobs=jobs, executor=executor, progress=progress)


def drift(
    pair: Pair,
    settings: DiffSettings = DiffSettings(),
    *,
    metrics: Sequence[str] = (),
    jobs: int | None = None,
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> Drift:
    """Every number of the predictions and the sites of a pair.

    The pair has the prompts and clusters that `settings` ask for. metrics: names or patterns of
    metrics that are compared as well, by the difference B - A (`lpp-analyze metrics`). executor:
    replaces `jobs` threads (one for each usable core by default); the bits are the same. progress:
    advances by `n_steps` in all. Raises InputError for a site that one run lacks and for
    positions at which the runs have no token; FormatError for altered bytes.
    """
    chosen = common_sites(pair, settings.sites)
    first_position = settings.skip_first
    n_tokens = pair.n_tokens(first_position)
    compared = compared_tokens(pair, first_position=first_position, tokens=settings.tokens)
    who = executor or LocalExecutor(jobs)
    rerun = _rerun(pair, settings, who, progress)  # first: what is wrong with it is said at once
    tokens = token_drift(
        pair,
        first_position=first_position,
        tokens=settings.tokens,
        seed=settings.seed,
        executor=who,
        progress=progress,
    )
    further = [METRICS[name] for name in metric_names(metrics) if name not in SITE_CHANGES]
    of_sites = site_drift(
        pair,
        chosen,
        first_position=first_position,
        only=[*SITE_CHANGES, *(metric.name for metric in further if metric.needs != "tokens")],
        errors=settings.errors or "final",
        executor=who,
        progress=progress,
    )
    return Drift(
        pair=pair,
        first_position=first_position,
        seed=None if compared == n_tokens else settings.seed,
        tokens=tokens,
        predictions={
            **prediction_drift(tokens, groups=pair.groups),
            "entropy": entropy_drift(pair, first_position=first_position),
            **prediction_changes(
                pair,
                compared_cell(pair, first_position),
                [metric for metric in further if metric.needs == "tokens"],
            ),
        },
        sites=of_sites,
        flags=site_flags(pair, of_sites, first_position=first_position),
        rerun=rerun,
        no_logits=pair.no_logits,
        arithmetic=arithmetic(pair.runs, who) if pair.no_logits is None else "",
        notes=tuple(_notes(pair, chosen, first_position)),
        settings=replace(settings, prompts=pair.n_prompts),
    )


def n_steps(pair: Pair, settings: DiffSettings) -> int:
    """Units of progress of `drift`: tokens of the predictions, and of each site."""
    first, sites = settings.skip_first, common_sites(pair, settings.sites)
    logits = computed_tokens(pair, first_position=first, tokens=settings.tokens)
    return logits + pair.n_tokens(first) * len(sites) * (1 if settings.rerun is None else 2)


def _rerun(
    pair: Pair, settings: DiffSettings, executor: Executor, progress: Progress
) -> dict[str, float]:
    """`Drift.rerun`: what rounding alone does. Raises InputError as `rerun_of` and `pair_of`."""
    if settings.rerun is None:
        return {}
    a = pair.a.run
    again = rerun_of(store_of(a), settings.rerun, a).run
    moved = site_drift(
        pair_of(a, again, pair.n_prompts),
        common_sites(pair, settings.sites),
        first_position=settings.skip_first,
        errors="none",
        only=["relative_distance"],
        executor=executor,
        progress=progress,
    )
    return {one.site: one.relative_distance.value or 0.0 for one in moved}


def _notes(pair: Pair, sites: Sequence[str], first_position: int) -> list[str]:
    """What is left out, and why."""
    a, b = pair.a.run, pair.b.run
    lines = pair.limits
    for name, run, other in (("A", a, b), ("B", b, a)):
        if alone := [site for site in run.sites if site not in other.sites]:
            lines.append(f"{name} alone holds {listed(alone)}.")
    lossy = [name for name, run in (("A", a), ("B", b)) if run.plan.is_lossy("final")]
    if lossy and pair.no_logits is None:
        lines.append(
            f"Rows of final in {' and '.join(lossy)} were rounded to float8_e4m3 (flag lossy). For "
            f"SmolLM2-135M, rounding one of two equal runs gives a KL of {LOSSY_KL} nats."
        )
    missing = (why_missing(pair, site) for site in sites)
    return [*lines, *dict.fromkeys(why for why in missing if why)]
