"""How charts look: channels of a series, fills, sizes, configuration, pointing at a run.

Everything but data is drawn in `currentColor`, the colour of the text around the chart, so the same
chart fits a page in dark mode. `run_styles` has the colours of data.

A run that is pointed at, by its line, its points or its entry in the legend, dims the others: a
selection of Vega-Lite, which the panels of one chart share; in a report, page.js gives it to every
chart of the page. In a picture nothing is selected, so nothing is dim.
"""

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from lpp.analyze.charts.library import alt
from lpp.analyze.charts.run_styles import DASHES, OTHERS, PALETTE, SHAPES

INK: Final = "currentColor"
GREY: Final = "#808080"
"""Colour of context: frames, grids and bands."""
FILLS: Final = ("#6FB1DE", "#F4F4F4", "#EFA76A")
"""Fills of cells below, at and above the middle; a number in `ON_FILL` is legible on each."""
ON_FILL: Final = "#111111"

DIM: Final = 0.12
"""Opacity of the runs that are not pointed at."""

_LEGEND: Any = alt.LegendStreamBinding(legend="pointerover")
HOVER: Final = alt.selection_point(
    name="pointed", fields=["label"], on="pointerover", clear="pointerout", bind=_LEGEND
)
"""The rows with the same `label` as the mark that is pointed at."""

_LABELS: Final = alt.Legend(title=None, symbolSize=80, symbolOpacity=1)
"""A legend of runs, one below another; colour and shape share it."""

PLOT_HEIGHT: Final = 260
TITLE_WIDTH: Final = 46
"""Characters in a line of a title, so that it fits a telephone of 390 pixels."""
LABEL_WIDTH: Final = 28


class Curve(NamedTuple):
    """One line or row of a chart, and its run."""

    label: str
    """Distinct in its chart."""
    owner: str
    """Label of its run: curves of one run share its colour and shape."""
    place: int
    """Index of the run on its page."""
    positions: str = ""
    """Positions that its numbers are of, if curves of a chart differ in them."""


@dataclass(frozen=True, slots=True)
class Series:
    """The curves or rows of a chart, in order, and the marks that each of them has."""

    curves: tuple[Curve, ...]
    of_runs: bool = True
    """Whether each curve is of a run, whose letter begins its label. Other curves have no letters,
    and colours of their own."""

    def __getitem__(self, label: str) -> Curve:
        return next(curve for curve in self.curves if curve.label == label)

    def short(self, label: str) -> str:
        """The letter of a run; another label whole. Distinct in its chart."""
        return label.partition(" ")[0] if self.of_runs else label

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the curves."""
        return tuple(curve.label for curve in self.curves)

    @property
    def owners(self) -> dict[str, int]:
        """Labels of the runs, each with its place."""
        return {curve.owner: curve.place for curve in self.curves}

    @property
    def positions(self) -> tuple[str, ...]:
        """Positions that curves are of, in order; empty if they do not differ."""
        return tuple(dict.fromkeys(curve.positions for curve in self.curves if curve.positions))

    @property
    def color(self) -> Any:
        """Colour by the field `label`."""
        scale = self._scale(PALETTE if self.of_runs else OTHERS)
        return alt.Color("label:N", scale=scale, legend=_LABELS)

    @property
    def shape(self) -> Any:
        """Shape by `label`."""
        return alt.Shape("label:N", scale=self._scale(SHAPES), legend=_LABELS)

    @property
    def dash(self) -> Any:
        """Dash by the field `dash`; by `positions`, with a legend, if curves differ in that.

        `dash` is an index into `DASHES`: a dash by `label` would also outline the symbols of the
        legend.
        """
        if not self.positions:
            scale = alt.Scale(domain=list(range(len(DASHES))), range=list(DASHES))
            return alt.StrokeDash("dash:N", scale=scale, legend=None)
        scale = alt.Scale(domain=list(self.positions), range=list(DASHES[: len(self.positions)]))
        # above the plot: beside the legend of the runs it would not fit a telephone
        legend = alt.Legend(
            title=None,
            orient="top",
            columns=len(self.positions),
            symbolType="stroke",
            symbolSize=600,
            symbolStrokeWidth=1.8,
        )
        return alt.StrokeDash("positions:N", scale=scale, legend=legend)

    def only(self, owners: Collection[str]) -> "Series":
        """The curves of the runs `owners`."""
        curves = tuple(curve for curve in self.curves if curve.owner in owners)
        return Series(curves, self.of_runs)

    def _scale(self, values: Sequence[Any]) -> Any:
        cycle = [values[k % len(values)] for k in self.owners.values()]
        return alt.Scale(domain=list(self.owners), range=cycle)


def opacity(usual: float = 1.0) -> Any:
    """`usual`, or less for runs that are not pointed at while another one is."""
    return alt.when(HOVER).then(alt.value(usual)).otherwise(alt.value(DIM * usual))


def shortened(text: str, width: int = LABEL_WIDTH) -> str:
    """A name with its middle left out: names of models differ at the ends.

    >>> shortened("smollm2-135m-instruct-q4-1-untrained")
    'smollm2-135m-…q4-1-untrained'
    """
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def heading(title: str, notes: Sequence[str]) -> Any:
    """A title and the notes below it, broken so that a telephone shows all of it."""
    below = [line for note in notes for line in textwrap.wrap(note, TITLE_WIDTH + 10)]
    lines = textwrap.wrap(title, TITLE_WIDTH)
    return alt.TitleParams(text=lines, subtitle=below) if below else alt.TitleParams(text=lines)


CONFIG: Final[dict[str, Any]] = {
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": GREY,
        "gridOpacity": 0.25,
        "labelFontSize": 11,
        "labelLimit": 190,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {
        "orient": "bottom",
        "columns": 1,
        "labelColor": INK,
        "labelFontSize": 11,
        "labelLimit": 340,
        "titleColor": INK,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titleLimit": 340,
    },
    "title": {
        "anchor": "start",
        "frame": "bounds",
        "offset": 12,
        "color": INK,
        "fontSize": 14,
        "subtitleColor": INK,
        "subtitleFontSize": 11,
    },
}


def finished(chart: Any) -> Any:
    """`chart` with the common settings: colours, fonts, legends; SVG in a notebook and a page."""
    return chart.properties(
        background="transparent",
        usermeta={"embedOptions": {"renderer": "svg", "actions": False}},
        config=CONFIG,
    )
