"""How charts look: channels of a series, fills, sizes, configuration.

Everything but data is drawn in `currentColor`, the colour of the text around the chart: a page in
dark mode needs no other chart. `run_styles` has the colours of data.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from lpp.analyze.charts.library import alt
from lpp.analyze.charts.run_styles import DASHES, PALETTE, SHAPES

INK: Final = "currentColor"
GREY: Final = "#808080"
"""What is not the reader's own: published models."""
FILLS: Final = ("#6FB1DE", "#F4F4F4", "#EFA76A")
"""Fill of cells, below, at and above the middle: the number in `ON_FILL` is legible on each."""
ON_FILL: Final = "#111111"

PLOT_HEIGHT: Final = 260
TITLE_WIDTH: Final = 46
"""Letters of a line of title, so that it fits a telephone of 390 pixels."""
LABEL_WIDTH: Final = 28


@dataclass(frozen=True, slots=True)
class Series:
    """The curves or rows of a chart, in order, and the marks that each of them has."""

    labels: tuple[str, ...]
    runs: tuple[int, ...] = ()
    """Place of the run of each label on its page: curves of one run share its colour and shape.
    Empty: a run for each label."""

    @property
    def color(self) -> Any:
        """Colour by the field `series`, without a legend: the shapes have it."""
        return alt.Color("series:N", scale=self._scale(PALETTE), legend=None)

    @property
    def shape(self) -> Any:
        """Shape by `series`."""
        return alt.Shape("series:N", scale=self._scale(SHAPES), legend=None)

    @property
    def dash(self) -> Any:
        """Dash by the field `dash`, a place in `DASHES`: apart from the legend."""
        places = alt.Scale(domain=list(range(len(DASHES))), range=list(DASHES))
        return alt.StrokeDash("dash:N", scale=places, legend=None)

    def with_legend(self, channel: Any) -> Any:
        """`channel` with a legend, one run below another; colour and shape share it."""
        return channel.legend(title=None, symbolSize=80, symbolOpacity=1)

    def _scale(self, values: Sequence[Any]) -> Any:
        cycle = [values[run % len(values)] for run in self.runs or range(len(self.labels))]
        return alt.Scale(domain=list(self.labels), range=cycle)


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
    """`chart` with what all have in common: ink, fonts, legends; SVG in a notebook and a page."""
    return chart.properties(
        background="transparent",
        usermeta={"embedOptions": {"renderer": "svg", "actions": False}},
        config=CONFIG,
    )
