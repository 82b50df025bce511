"""Pointing at a run, at its line, its points or its entry in the legend, dims the others.

A selection of Vega-Lite, which a picture leaves empty: nothing is dim in it. Charts that stand
together share it, so that a run stands out in all of them.
"""

from typing import Any, Final

from lpp.analyze.charts.library import alt

DIM: Final = 0.12
"""Opacity of the runs that are not pointed at."""


_LEGEND: Any = alt.LegendStreamBinding(legend="pointerover")
HOVER: Final = alt.selection_point(
    name="pointed", fields=["label"], on="pointerover", clear="pointerout", bind=_LEGEND
)
"""The rows whose `label` is that of the mark that is pointed at."""


def opacity(usual: float = 1.0) -> Any:
    """`usual`, and dim for what is not pointed at while something is."""
    return alt.when(HOVER).then(alt.value(usual)).otherwise(alt.value(DIM * usual))
