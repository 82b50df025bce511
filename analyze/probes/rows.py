"""Probes, and their tests on another run, as rows of their tables."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from lpp.analyze.drift.tables import stores_of
from lpp.analyze.evaluations.analysis import reliability_rows
from lpp.analyze.evaluations.tables import FEW_CLUSTERS, FEW_OF_A_KIND
from lpp.analyze.numerics.probe_change import floors
from lpp.analyze.numerics.statistics.clusters import even_clusters
from lpp.analyze.probes.against import ProbeComparison, SiteTest
from lpp.analyze.probes.analysis import ProbeAnalysis, ProbeResult
from lpp.analyze.probes.labels import Labels
from lpp.analyze.probes.tables import PROBE_RELIABILITY, PROBE_SCORES, PROBE_TESTS, PROBES
from lpp.analyze.quantities.tables import estimated, frame_schema
from lpp.analyze.questions import LabelProbeSettings
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.tables.database import put
from lpp.store.objects.place import Place


def probe_tables(analysis: ProbeAnalysis) -> dict[str, pl.DataFrame]:
    """Tables `probes`, `probe_scores` and `probe_reliability`, by name: sites by depth, then
    controls. Of a number `probe_reliability` has no rows.
    """
    labels, which = analysis.labels, analysis.which
    classes = (labels.classes or ("",))[-1 if labels.target.labels.ndim == 1 else 0 :]
    n = len(labels.prompts)
    position = np.full(n, which) if isinstance(which, int) else labels.ends - 1
    of_rows = {"prompt_id": labels.prompts, "position": position, "fold": labels.target.fold}
    targets = labels.target.labels.reshape(n, -1)
    scores = [
        pl.DataFrame({**of_rows, "target": targets[:, k], "score": of_class}).with_columns(
            pl.lit(name).alias("class"), probe=pl.lit(result.name)
        )
        for result in analysis.results
        for k, (name, of_class) in enumerate(
            zip(classes, result.fitted.scores.reshape(n, -1).T, strict=True)
        )
    ]
    key = analysis_key(analysis.view, labels, analysis.settings)
    rows = [key | _row_of(analysis, result) for result in analysis.results]
    with_key = [pl.lit(value).alias(name) for name, value in key.items()]
    schema = frame_schema(PROBE_SCORES.columns)
    bins = [
        {**key, "probe": name, **row}
        for name, calibrated in analysis.calibrations.items()
        for row in reliability_rows(calibrated)
    ]
    return {
        PROBES.name: pl.DataFrame(rows, schema=frame_schema(PROBES.columns)),
        PROBE_SCORES.name: pl.concat(scores)
        .with_columns(with_key)
        .select(schema.names())
        .cast(schema),
        PROBE_RELIABILITY.name: pl.DataFrame(bins, schema=frame_schema(PROBE_RELIABILITY.columns)),
    }


def analysis_key(view: RunView, labels: Labels, settings: LabelProbeSettings) -> dict[str, Any]:
    """The columns that identify the probes of a label: the key of `PROBES` without the probe."""
    return {
        "run": view.run.id,
        "label": labels.name,
        "task": settings.task or "",
        "source": settings.source or "",
        "score_filter": settings.filter or "",
        "rows": settings.rows,
        "skip_first": settings.skip_first,
        "group_field": settings.group or "",
        "cluster_field": settings.cluster or "",
        "folds": settings.folds,
        "seed": settings.seed,
    }


def write_probes(store: Url, analysis: ProbeAnalysis) -> Place:
    """Write `probe_tables` to the database of `store`; return the file's path. They replace an
    earlier analysis of the same run, label and settings.
    """
    return put(store, probe_tables(analysis))


def probe_flags(labels: Labels, settings: LabelProbeSettings) -> Iterator[str]:
    """Flags of every probe of an analysis, of `MEANING`."""
    target = labels.target
    if labels.duplicates:
        yield "duplicates"
    if even_clusters(target.clusters) < FEW_CLUSTERS:
        yield "few_clusters"
    if target.classes and min(np.bincount(labels.codes.astype(int))) < FEW_OF_A_KIND:
        yield "few_prompts"
    if settings.rows == "mean" and not settings.skip_first:
        yield "first_positions"
    if target.is_heavy:
        yield "heavy_tail"
    if not labels.errors_by:
        yield "independent_prompts"
    if labels.left_out:
        yield "prompts_left_out"


def _row_of(analysis: ProbeAnalysis, result: ProbeResult) -> dict[str, Any]:
    labels, plan = analysis.labels, analysis.view.run.plan
    number = "probe_auroc" if labels.classes else "probe_r2"
    shuffled = result.number.shuffled
    flags = list(probe_flags(labels, analysis.settings))
    site = result.name in [site.name for site in analysis.sites]
    if site and plan.is_lossy(result.name):
        flags.append("lossy")
    row: dict[str, Any] = {
        "probe": result.name,
        "role": "site" if site else "control",
        "is_best": result.name == analysis.best.name,
        "depth": None if result.is_control else plan.depth_of(result.name),
        "n_prompts": len(labels.prompts),
        "classes": labels.classes,
        "n_second": int(labels.codes.sum()) if labels.two_classes else None,
        **estimated(number, result.number.value, result.number.interval),
        "p_value": result.number.p_value,
        "chance_q": result.chance_q,
        "mean_difference": _known(result.mean_difference),
        "shuffled_mean": float(shuffled.mean()),
        "shuffled_high": float(np.quantile(shuffled, 0.95)),
        "random_mean": _known(result.random[0]),
        "random_high": _known(result.random[1]),
        "control": result.control,
        "q_value": result.q_value,
        "strength": float(np.median(result.fitted.strengths)),
        **{"examples": labels.of, "errors_by": labels.errors_by, "n_clusters": labels.n_clusters},
        "notes": [f"{n:,} {labels.of} are left out: {why}." for why, n in labels.left_out.items()],
    }
    if result.recall is not None:
        row |= estimated("probe_recall", result.recall.value, result.recall.interval)
    if (calibrated := analysis.calibrations.get(result.name)) is not None:
        row |= estimated("probe_ece", calibrated.ece, calibrated.interval)
        row["ece_by_chance"] = calibrated.calibrated[1]
    if result.gain is not None:
        row |= estimated("probe_gain", result.gain.value, result.gain.interval)
        row["gain_p_value"] = result.gain.p_value
        if analysis.is_explained(result):
            flags.append("explained")
    return row | {"flags": sorted(flags)}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def tests_frame(comparison: ProbeComparison) -> pl.DataFrame:
    """Table `probe_tests`: sites by depth."""
    labels, settings = comparison.labels, comparison.settings
    key = {
        **analysis_key(comparison.view, labels, settings),
        "run_b": comparison.tested.view.run.id,
        "label_b": (comparison.tests.test_label or labels.name) if comparison.tested.own else "",
        "n_prompts": len(comparison.tested.prompts),
        "margin": comparison.tests.margin,
        "notes": [*_notes(comparison)],
        "flags": sorted(probe_flags(labels, settings)),
    }
    depth = comparison.view.run.plan.depth_of
    rows = [
        key | {"depth": depth(site.site), "is_best": site is comparison.best} | _row_of_test(site)
        for site in comparison.sites
    ]
    return pl.DataFrame(rows, schema=frame_schema(PROBE_TESTS.columns))


def _notes(comparison: ProbeComparison) -> Iterator[str]:
    """Which prompts one run lacks, or both have."""
    if comparison.lost.n_missing:
        yield f"{comparison.lost.n_missing:,} labelled prompts of A are not in B."
    if comparison.tested.own and comparison.n_shared:
        only = comparison.tests.shared_prompts == "only"
        what = "only these" if only else "these are left out"
        yield f"{comparison.n_shared:,} labelled prompts are in both runs: {what}."


def write_probe_tests(comparison: ProbeComparison) -> Place | None:
    """Write `tests_frame` to the database of the store of both runs; return the file's path. None
    if the runs are in two stores: then nothing is written.
    """
    roots = stores_of(comparison.view, comparison.tested.view)
    return None if len(roots) > 1 else put(roots[0], {PROBE_TESTS.name: tests_frame(comparison)})


def _row_of_test(site: SiteTest) -> dict[str, Any]:
    change = site.change
    floor = (None, None) if site.rerun is None else floors(site.rerun)
    return {
        **estimated("probe_auroc", site.number.value, site.number.interval),
        **estimated("tested_auroc", site.tested.value, site.tested.interval),
        **estimated("probe_auroc_change", change.auroc.value, change.auroc.interval),
        **estimated("probe_flagged_change", change.flagged.difference, change.flagged.interval),
        **{"probe": site.site, "site_b": site.site_b, "verdict": site.verdict},
        "reference_flagged": change.flagged.first,
        "flagged": change.flagged.second,
        "flagged_p_value": change.flagged.p_value,
        **{f"reference_{name}": rate for name, rate in change.reference._asdict().items()},
        **change.probe._asdict(),
        **dict(zip(("auroc_floor", "flagged_floor"), floor, strict=True)),
    }
