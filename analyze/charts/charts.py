"""Charts of the tables: Polars frames in, Vega-Altair charts out. Needs the extra `report`.

docs/how-to/charts.md shows the use.
"""

from lpp.analyze.charts.drift import (
    drift_depth_chart,
    drift_depth_panels,
    drift_grid_chart,
    drift_histogram_chart,
    drift_positions_chart,
)
from lpp.analyze.charts.export import (
    begin_script,
    chart_script,
    embedded,
    panels_drawn,
    save_chart,
    specification,
)
from lpp.analyze.charts.grids import (
    cka_chart,
    cka_panels,
    difference_chart,
    difference_panels,
)
from lpp.analyze.charts.items import item_depth_chart, reliability_chart, risk_chart, together
from lpp.analyze.charts.probes import probe_depth_chart, probe_reliability_chart
from lpp.analyze.charts.profiles import (
    depth_chart,
    depth_panels,
    entropy_chart,
    entropy_panels,
    profile_chart,
    profile_panels,
    spectrum_chart,
    spectrum_panels,
    training_chart,
    training_curves,
    training_panels,
)

__all__ = [
    "begin_script",
    "chart_script",
    "cka_chart",
    "cka_panels",
    "depth_chart",
    "depth_panels",
    "difference_chart",
    "difference_panels",
    "drift_depth_chart",
    "drift_depth_panels",
    "drift_grid_chart",
    "drift_histogram_chart",
    "drift_positions_chart",
    "embedded",
    "entropy_chart",
    "entropy_panels",
    "item_depth_chart",
    "panels_drawn",
    "probe_depth_chart",
    "probe_reliability_chart",
    "profile_chart",
    "profile_panels",
    "reliability_chart",
    "risk_chart",
    "save_chart",
    "specification",
    "spectrum_chart",
    "spectrum_panels",
    "together",
    "training_chart",
    "training_curves",
    "training_panels",
]
