"""From a store to numbers: lazy tables, spectra, profiles, the database. No model, no torch.

docs/how-to/ shows the use. Names load on first use, so that
`lpp-analyze --help` costs no Polars.
"""

import importlib
from typing import TYPE_CHECKING, Any

if __name__ != "lpp.analyze":
    raise ImportError(
        f"import this package as lpp.analyze, not as {__name__}: two copies would not share types"
    )

if TYPE_CHECKING:
    from lpp.analyze.charts.charts import cka_chart as cka_chart
    from lpp.analyze.charts.charts import depth_chart as depth_chart
    from lpp.analyze.charts.charts import difference_chart as difference_chart
    from lpp.analyze.charts.charts import drift_depth_chart as drift_depth_chart
    from lpp.analyze.charts.charts import drift_grid_chart as drift_grid_chart
    from lpp.analyze.charts.charts import drift_histogram_chart as drift_histogram_chart
    from lpp.analyze.charts.charts import drift_positions_chart as drift_positions_chart
    from lpp.analyze.charts.charts import entropy_chart as entropy_chart
    from lpp.analyze.charts.charts import item_depth_chart as item_depth_chart
    from lpp.analyze.charts.charts import probe_depth_chart as probe_depth_chart
    from lpp.analyze.charts.charts import probe_reliability_chart as probe_reliability_chart
    from lpp.analyze.charts.charts import profile_chart as profile_chart
    from lpp.analyze.charts.charts import reliability_chart as reliability_chart
    from lpp.analyze.charts.charts import risk_chart as risk_chart
    from lpp.analyze.charts.charts import save_chart as save_chart
    from lpp.analyze.charts.charts import spectrum_chart as spectrum_chart
    from lpp.analyze.charts.charts import training_chart as training_chart
    from lpp.analyze.drift.against import diff_against as diff_against
    from lpp.analyze.drift.drift import diff as diff
    from lpp.analyze.drift.tables import scan_drift_sites as scan_drift_sites
    from lpp.analyze.drift.tables import scan_drift_tokens as scan_drift_tokens
    from lpp.analyze.drift.tables import write_drift as write_drift
    from lpp.analyze.evaluations.analysis import items as items
    from lpp.analyze.evaluations.flip_analysis import flipped_items as flipped_items
    from lpp.analyze.evaluations.tables import write_items as write_items
    from lpp.analyze.exports.targets import export_targets as export_targets
    from lpp.analyze.metrics.metric import Metric as Metric
    from lpp.analyze.metrics.registry import METRICS as METRICS
    from lpp.analyze.numerics.cka import linear_cka as linear_cka
    from lpp.analyze.numerics.moments import Moments as Moments
    from lpp.analyze.numerics.spectrum import effective_rank as effective_rank
    from lpp.analyze.numerics.spectrum import eigenvalues as eigenvalues
    from lpp.analyze.numerics.spectrum import participation_ratio as participation_ratio
    from lpp.analyze.numerics.spectrum import top_share as top_share
    from lpp.analyze.probes.against import probe_against as probe_against
    from lpp.analyze.probes.against_tables import write_probe_tests as write_probe_tests
    from lpp.analyze.probes.analysis import probe as probe
    from lpp.analyze.probes.direction import write_direction as write_direction
    from lpp.analyze.probes.tables import write_probes as write_probes
    from lpp.analyze.questions import CkaSettings as CkaSettings
    from lpp.analyze.questions import CorrelateSettings as CorrelateSettings
    from lpp.analyze.questions import DiffSettings as DiffSettings
    from lpp.analyze.questions import ItemsSettings as ItemsSettings
    from lpp.analyze.questions import LabelProbeSettings as LabelProbeSettings
    from lpp.analyze.questions import LayersSettings as LayersSettings
    from lpp.analyze.questions import ProbeTestSettings as ProbeTestSettings
    from lpp.analyze.questions import ProfileSettings as ProfileSettings
    from lpp.analyze.questions import ScoreSettings as ScoreSettings
    from lpp.analyze.questions import Selection as Selection
    from lpp.analyze.questions import TargetSettings as TargetSettings
    from lpp.analyze.report.report import write_report as write_report
    from lpp.analyze.scores.correlations import correlate as correlate
    from lpp.analyze.scores.scores import add_benchmarks as add_benchmarks
    from lpp.analyze.studies.layers import layers as layers
    from lpp.analyze.tables.analysis import analyze as analyze
    from lpp.analyze.tables.build import build_database as build_database
    from lpp.analyze.tables.eigenvalues import read_eigenvalues as read_eigenvalues
    from lpp.analyze.tables.entropy import scan_entropy as scan_entropy
    from lpp.analyze.tables.metrics import scan_metrics as scan_metrics
    from lpp.analyze.tables.profile import aggregate as aggregate
    from lpp.analyze.tables.spectra import scan_spectra as scan_spectra
    from lpp.analyze.tables.tokens import scan_tokens as scan_tokens

_HOME = {
    "METRICS": "metrics.registry",
    "Metric": "metrics.metric",
    "Moments": "numerics.moments",
    "CorrelateSettings": "questions",
    "CkaSettings": "questions",
    "DiffSettings": "questions",
    "ItemsSettings": "questions",
    "LayersSettings": "questions",
    "LabelProbeSettings": "questions",
    "ProbeTestSettings": "questions",
    "ProfileSettings": "questions",
    "Selection": "questions",
    "ScoreSettings": "questions",
    "TargetSettings": "questions",
    "add_benchmarks": "scores.scores",
    "aggregate": "tables.profile",
    "analyze": "tables.analysis",
    "build_database": "tables.build",
    "correlate": "scores.correlations",
    "cka_chart": "charts.charts",
    "depth_chart": "charts.charts",
    "difference_chart": "charts.charts",
    "diff": "drift.drift",
    "diff_against": "drift.against",
    "drift_depth_chart": "charts.charts",
    "drift_grid_chart": "charts.charts",
    "drift_histogram_chart": "charts.charts",
    "drift_positions_chart": "charts.charts",
    "effective_rank": "numerics.spectrum",
    "eigenvalues": "numerics.spectrum",
    "entropy_chart": "charts.charts",
    "export_targets": "exports.targets",
    "flipped_items": "evaluations.flip_analysis",
    "item_depth_chart": "charts.charts",
    "items": "evaluations.analysis",
    "layers": "studies.layers",
    "linear_cka": "numerics.cka",
    "participation_ratio": "numerics.spectrum",
    "probe": "probes.analysis",
    "probe_against": "probes.against",
    "profile_chart": "charts.charts",
    "read_eigenvalues": "tables.eigenvalues",
    "probe_depth_chart": "charts.charts",
    "probe_reliability_chart": "charts.charts",
    "reliability_chart": "charts.charts",
    "risk_chart": "charts.charts",
    "save_chart": "charts.charts",
    "scan_drift_sites": "drift.tables",
    "scan_drift_tokens": "drift.tables",
    "scan_entropy": "tables.entropy",
    "scan_metrics": "tables.metrics",
    "scan_spectra": "tables.spectra",
    "scan_tokens": "tables.tokens",
    "spectrum_chart": "charts.charts",
    "training_chart": "charts.charts",
    "top_share": "numerics.spectrum",
    "write_direction": "probes.direction",
    "write_drift": "drift.tables",
    "write_items": "evaluations.tables",
    "write_probe_tests": "probes.against_tables",
    "write_probes": "probes.tables",
    "write_report": "report.report",
}
__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"lpp.analyze.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lpp.analyze' has no attribute {name!r}")
