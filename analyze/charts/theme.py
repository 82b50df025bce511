"""How charts look, and the only import of Vega-Altair.

Everything but data is drawn in `currentColor`, the colour of the text around the chart, so the same
chart fits a page in dark mode; `run_styles` has the colours of data. Nothing else in the package
imports Altair, so analysis works without the extra.
"""

import textwrap
import warnings
from collections.abc import Sequence
from typing import Any, Final

from lpp.store.errors import ErrorKind, MachineError
from lpp.store.process.packages import install_command

try:
    import altair as alt
    import vl_convert
    from altair.utils.schemapi import debug_mode
except ImportError as error:
    raise MachineError(
        f"charts need the package {(error.name or '').partition('.')[0]}, which is not installed. "
        f"Install it: {install_command('report')}",
        kind=ErrorKind.NO_PACKAGE,
    ) from None

__all__ = ["alt", "beside", "debug_mode", "finished", "heading", "opacity", "says", "vl_convert"]

INK: Final = "currentColor"
GREY: Final = "#808080"
"""Colour of context: frames, grids and bands."""
FILLS: Final = ("#6FB1DE", "#F4F4F4", "#EFA76A")
"""Fills of cells below, at and above the middle; a number in `ON_FILL` is legible on each."""
ON_FILL: Final = "#111111"

PLOT_HEIGHT: Final = 260
PANEL_WIDTH: Final = 190
"""Pixels of a panel beside others: with its labels it fits a telephone of 390."""
TITLE_WIDTH: Final = 46
"""Characters in a line of a title, so that it fits a telephone of 390 pixels."""

HOVER: Final = alt.selection_point(
    "pointed", fields=["label"], on="pointerover", clear="pointerout"
)
"""The rows with the `label` of the point that is pointed at: in its chart, others are dim."""
DIM: Final = 0.12

_WORDS: Final = {
    **{"labelColor": INK, "labelFontSize": 11},
    **{"titleColor": INK, "titleFontSize": 12, "titleFontWeight": "normal"},
}
CONFIG: Final[dict[str, Any]] = {
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        **_WORDS,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": GREY,
        "gridOpacity": 0.25,
        "labelLimit": 190,
    },
    "axisQuantitative": {"tickCount": 5},
    "legend": {**_WORDS, "orient": "bottom", "columns": 1, "labelLimit": 340, "symbolSize": 80},
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


def opacity(usual: float = 1.0) -> Any:
    """`usual`, or less for runs that are not pointed at while another one is."""
    return alt.when(HOVER).then(alt.value(usual)).otherwise(alt.value(DIM * usual))


def heading(title: str, notes: Sequence[str] = ()) -> Any:
    """A title and the notes below it, broken so that a telephone shows all of it."""
    below = [line for note in notes for line in textwrap.wrap(note, TITLE_WIDTH + 10)]
    return alt.TitleParams(textwrap.wrap(title, TITLE_WIDTH), subtitle=below or alt.Undefined)


def finished(chart: Any) -> Any:
    """`chart` with the common settings: colours, fonts, legends; SVG in a notebook and a page."""
    return chart.properties(
        background="transparent",
        usermeta={"embedOptions": {"renderer": "svg", "actions": False}},
        config=CONFIG,
    )


def says(title: str, why: str) -> Any:
    """A chart without data that says what is missing."""
    lines = textwrap.wrap(why, TITLE_WIDTH, break_on_hyphens=False)
    text = alt.Chart(alt.InlineData(values=[{"text": "\n".join(lines)}]))
    text = text.mark_text(align="left", baseline="top", color=INK, fontSize=12, lineBreak="\n")
    text = text.encode(x=alt.value(0), y=alt.value(8), text="text:N")
    words = {"title": heading(title), "description": f"{title}. {why}"}
    return finished(text.properties(height=16 * len(lines) + 24, width="container", **words))


def beside(
    panels: Sequence[Any], title: str, none: str = "", notes: Sequence[str] = (), columns: int = 2
) -> Any:
    """Panels as one chart, `columns` in a row; a single one fills its container.

    none: what the chart says without panels.
    """
    if len(panels) < 2:
        return finished(panels[0].properties(width="container")) if panels else says(title, none)
    parts = [panel.properties(width=PANEL_WIDTH) for panel in panels]
    for part in parts:  # only the whole chart may have these
        part.config = part.background = part.usermeta = alt.Undefined
    with warnings.catch_warnings():
        # panels share one selection on purpose: a run that is pointed at stands out in all
        warnings.filterwarnings("ignore", message="Automatically deduplicated selection")
        whole = alt.concat(*parts, columns=columns, spacing=24)
    whole = whole.resolve_scale(color="independent", shape="independent", fill="independent")
    description = " ".join(panel.description for panel in panels)
    return finished(whole.properties(title=heading(title, notes), description=description))
