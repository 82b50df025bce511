"""From a store to numbers: lazy tables, spectra, profiles, the database. No model, no torch.

README.md beside this file shows the use. Names load on first use, so that
`lpp-analyze --help` costs no Polars.
"""

import importlib
from typing import TYPE_CHECKING, Any

if __name__ != "lpp.analyze":
    raise ImportError(
        f"import this package as lpp.analyze, not as {__name__}: two copies would not share types"
    )

if TYPE_CHECKING:
    from lpp.analyze.agreement import rank_agreement as rank_agreement
    from lpp.analyze.analysis import analyze as analyze
    from lpp.analyze.benchmarks import add_benchmarks as add_benchmarks
    from lpp.analyze.charts import correlation_chart as correlation_chart
    from lpp.analyze.charts import depth_chart as depth_chart
    from lpp.analyze.charts import entropy_chart as entropy_chart
    from lpp.analyze.charts import profile_chart as profile_chart
    from lpp.analyze.charts import save_chart as save_chart
    from lpp.analyze.charts import sensitivity_chart as sensitivity_chart
    from lpp.analyze.charts import spectrum_chart as spectrum_chart
    from lpp.analyze.cka import linear_cka as linear_cka
    from lpp.analyze.correlations import Question as Question
    from lpp.analyze.correlations import correlate as correlate
    from lpp.analyze.eigenvalue_table import read_eigenvalues as read_eigenvalues
    from lpp.analyze.entropy import scan_entropy as scan_entropy
    from lpp.analyze.metric import Metric as Metric
    from lpp.analyze.metric_table import scan_metrics as scan_metrics
    from lpp.analyze.metrics import METRICS as METRICS
    from lpp.analyze.moments import Moments as Moments
    from lpp.analyze.profile import aggregate as aggregate
    from lpp.analyze.report import write_report as write_report
    from lpp.analyze.select import Selection as Selection
    from lpp.analyze.spectra import scan_spectra as scan_spectra
    from lpp.analyze.spectrum import effective_rank as effective_rank
    from lpp.analyze.spectrum import eigenvalues as eigenvalues
    from lpp.analyze.spectrum import participation_ratio as participation_ratio
    from lpp.analyze.spectrum import top_share as top_share
    from lpp.analyze.tables import build_database as build_database
    from lpp.analyze.tokens import scan_tokens as scan_tokens

_HOME = {
    "METRICS": "metrics",
    "Metric": "metric",
    "Moments": "moments",
    "Question": "correlations",
    "Selection": "select",
    "add_benchmarks": "benchmarks",
    "aggregate": "profile",
    "analyze": "analysis",
    "build_database": "tables",
    "correlate": "correlations",
    "correlation_chart": "charts",
    "depth_chart": "charts",
    "effective_rank": "spectrum",
    "eigenvalues": "spectrum",
    "entropy_chart": "charts",
    "linear_cka": "cka",
    "participation_ratio": "spectrum",
    "profile_chart": "charts",
    "rank_agreement": "agreement",
    "read_eigenvalues": "eigenvalue_table",
    "save_chart": "charts",
    "scan_entropy": "entropy",
    "scan_metrics": "metric_table",
    "scan_spectra": "spectra",
    "scan_tokens": "tokens",
    "sensitivity_chart": "charts",
    "spectrum_chart": "charts",
    "top_share": "spectrum",
    "write_report": "report",
}
__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"lpp.analyze.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lpp.analyze' has no attribute {name!r}")
