"""Probes, and their tests on another run: the results, and the rows of their tables."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from lpp.analyze.drift.pair import Lost
from lpp.analyze.drift.tables import stores_of
from lpp.analyze.evaluations.analysis import reliability_rows
from lpp.analyze.evaluations.tables import FEW_CLUSTERS, FEW_OF_A_KIND
from lpp.analyze.numerics.linear_probe import CrossFit
from lpp.analyze.numerics.probe_change import ChangeVerdict, ProbeChange, floors
from lpp.analyze.numerics.probe_errors import Estimate, Target
from lpp.analyze.numerics.statistics.auroc import Auroc, Codes
from lpp.analyze.numerics.statistics.calibration import Calibration
from lpp.analyze.numerics.statistics.clusters import even_clusters
from lpp.analyze.numerics.statistics.recall import Recall
from lpp.analyze.probes.inputs import Which
from lpp.analyze.probes.labels import Labels
from lpp.analyze.probes.tables import (
    INFORMATIVE,
    PROBE_RELIABILITY,
    PROBE_SCORES,
    PROBE_TESTS,
    PROBES,
    tells_more,
)
from lpp.analyze.quantities.tables import estimated, frame_schema
from lpp.analyze.questions import LabelProbeSettings, ProbeTestSettings
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.tables.database import put
from lpp.analyze.tables.result import TableResult, frame_method
from lpp.store.objects.place import Place


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProbeResult:
    """The probe of a site, or of a control."""

    name: str
    """The site, or the control."""
    is_control: bool
    """Whether it reads no rows; `embed` does."""
    fitted: CrossFit
    """Without the scores of shuffled labels and random directions."""
    number: Estimate
    """AUROC or R2; of several classes the mean AUROC."""
    recall: Recall | None
    """At 1 % false alarms; None of a number, and of few prompts."""
    mean_difference: float
    """AUROC of the difference of means; NaN for a number."""
    random: tuple[float, float]
    """Mean and largest AUROC of random directions; NaN for a number."""
    chance_q: float = 1.0
    """q of the number's p, over the sites, or over the controls (Benjamini and Hochberg)."""
    control: str = ""
    """The best of the other controls; empty: none varies, or this is one."""
    gain: Estimate | None = None
    """Over that control."""
    q_value: float | None = None
    """Of the gain, over the sites (Benjamini and Hochberg)."""

    @property
    def is_informative(self) -> bool:
        """Whether it predicts the label better than probes of shuffled labels do."""
        return self.chance_q < INFORMATIVE

    @property
    def tells_more(self) -> bool:
        """Whether it predicts the label better than the best control."""
        return tells_more(None if self.gain is None else self.gain.value, self.q_value)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ProbeAnalysis(TableResult):
    """Probes of one label of the prompts of a run."""

    view: RunView
    labels: Labels
    settings: LabelProbeSettings
    which: Which
    sites: tuple[ProbeResult, ...]
    """By depth."""
    all_controls: tuple[ProbeResult, ...]
    """`embed` included, if the run has it."""
    calibrations: Mapping[str, Calibration]
    """Of the best site and its control, by name; empty of a number."""

    @property
    def controls(self) -> tuple[ProbeResult, ...]:
        """Controls that are no site of `sites`."""
        names = [site.name for site in self.sites]
        return tuple(control for control in self.all_controls if control.name not in names)

    @property
    def results(self) -> tuple[ProbeResult, ...]:
        """Sites, then controls."""
        return *self.sites, *self.controls

    @property
    def best(self) -> ProbeResult:
        """The site with the largest number, of those that tell more than controls if there are
        such.
        """
        beyond = [site for site in self.sites if site.tells_more]
        return max(beyond or self.sites, key=lambda site: site.number.value)

    def control_of(self, site: ProbeResult) -> ProbeResult | None:
        """The best of the other controls."""
        return next((result for result in self.all_controls if result.name == site.control), None)

    def is_explained(self, site: ProbeResult) -> bool:
        """Whether its best control predicts the label, and the site no better."""
        control = self.control_of(site)
        return control is not None and control.is_informative and not site.tells_more

    def frames(self) -> dict[str, pl.DataFrame]:
        """Tables `probes`, `probe_scores` and `probe_reliability`, by name: sites by depth, then
        controls. Of a number `probe_reliability` has no rows.
        """
        labels, which = self.labels, self.which
        classes = (labels.classes or ("",))[-1 if labels.target.labels.ndim == 1 else 0 :]
        n = len(labels.prompts)
        position = np.full(n, which) if isinstance(which, int) else labels.ends - 1
        of_rows = {"prompt_id": labels.prompts, "position": position, "fold": labels.target.fold}
        targets = labels.target.labels.reshape(n, -1)
        scores = [
            pl.DataFrame({**of_rows, "target": targets[:, k], "score": of_class}).with_columns(
                pl.lit(name).alias("class"), probe=pl.lit(result.name)
            )
            for result in self.results
            for k, (name, of_class) in enumerate(
                zip(classes, result.fitted.scores.reshape(n, -1).T, strict=True)
            )
        ]
        key = analysis_key(self.view, labels, self.settings)
        rows = [key | _row_of(self, result) for result in self.results]
        with_key = [pl.lit(value).alias(name) for name, value in key.items()]
        schema = frame_schema(PROBE_SCORES.columns)
        bins = [
            {**key, "probe": name, **row}
            for name, calibrated in self.calibrations.items()
            for row in reliability_rows(calibrated)
        ]
        return {
            PROBES.name: pl.DataFrame(rows, schema=frame_schema(PROBES.columns)),
            PROBE_SCORES.name: pl.concat(scores)
            .with_columns(with_key)
            .select(schema.names())
            .cast(schema),
            PROBE_RELIABILITY.name: pl.DataFrame(
                bins, schema=frame_schema(PROBE_RELIABILITY.columns)
            ),
        }

    probes_frame = frame_method(PROBES.name)
    scores_frame = frame_method(PROBE_SCORES.name)
    reliability_frame = frame_method(PROBE_RELIABILITY.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """The prompts of a run on which A's probe is tested."""

    view: RunView
    prompts: Codes
    """(m,) ids, ascending."""
    ends: Codes
    """(m,) tokens of each that count."""
    place: Codes
    """(m,) of the same prompt among A's; -1: none."""
    fold: Codes
    """(m,) that the probe which scores the prompt did not see, or `ALL`."""
    target: Target
    own: bool
    """Whether the labels are the run's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTest:
    """How the probe of a site of A does on the rows of B."""

    site: str
    site_b: str
    number: Estimate
    """AUROC on A, out of fold."""
    tested: Auroc
    """AUROC on the rows of B."""
    change: ProbeChange
    """From the reference."""
    rerun: ProbeChange | None
    """From A to its rerun; None without one."""
    verdict: ChangeVerdict


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ProbeComparison(TableResult):
    """Probes of run A, tested on run B."""

    view: RunView
    labels: Labels
    tested: Tested
    lost: Lost
    """Labelled prompts of A that `--against` does not find in B."""
    n_shared: int
    """Prompts of both runs, of those that could be tested."""
    settings: LabelProbeSettings
    tests: ProbeTestSettings
    sites: tuple[SiteTest, ...]
    """By depth."""

    @property
    def best(self) -> SiteTest:
        """The site whose probe has the largest AUROC on A, whatever its AUROC on B. The verdict on
        this site is the verdict of the comparison.
        """
        return max(self.sites, key=lambda site: site.number.value)

    def frames(self) -> dict[str, pl.DataFrame]:
        """Table `probe_tests`: sites by depth."""
        labels, settings = self.labels, self.settings
        key = {
            **analysis_key(self.view, labels, settings),
            "run_b": self.tested.view.run.id,
            "label_b": (self.tests.test_label or labels.name) if self.tested.own else "",
            "n_prompts": len(self.tested.prompts),
            "margin": self.tests.margin,
            "notes": [*_notes(self)],
            "flags": sorted(probe_flags(labels, settings)),
        }
        depth = self.view.run.plan.depth_of
        rows = [
            key | {"depth": depth(site.site), "is_best": site is self.best} | _row_of_test(site)
            for site in self.sites
        ]
        return {PROBE_TESTS.name: pl.DataFrame(rows, schema=frame_schema(PROBE_TESTS.columns))}

    tests_frame = frame_method(PROBE_TESTS.name)


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
    """Write `analysis.frames()` to the database of `store`; return the file's path. They replace an
    earlier analysis of the same run, label and settings.
    """
    return put(store, analysis.frames())


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


def _notes(comparison: ProbeComparison) -> Iterator[str]:
    """Which prompts one run lacks, or both have."""
    if comparison.lost.n_missing:
        yield f"{comparison.lost.n_missing:,} labelled prompts of A are not in B."
    if comparison.tested.own and comparison.n_shared:
        only = comparison.tests.shared_prompts == "only"
        what = "only these" if only else "these are left out"
        yield f"{comparison.n_shared:,} labelled prompts are in both runs: {what}."


def write_probe_tests(comparison: ProbeComparison) -> Place | None:
    """Write `comparison.frames()` to the database of the store of both runs; return the file's
    path. None if the runs are in two stores: then nothing is written.
    """
    roots = stores_of(comparison.view, comparison.tested.view)
    return None if len(roots) > 1 else put(roots[0], comparison.frames())


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
