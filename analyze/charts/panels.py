"""Panels of dots with intervals, and what all panels have in common; `lines` has those of lines.

A panel fills the width it is given (`width="container"`). Vega-Lite allows this to single and
layered views only, so `stacked` gives each of its panels a width in pixels.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from lpp.analyze.charts.hover import HOVER, opacity, with_tips
from lpp.analyze.charts.library import alt
from lpp.analyze.charts.rows import Row, data
from lpp.analyze.charts.theme import GREY, INK, Series, finished, heading

ROW_HEIGHT: Final = 24
PANEL_WIDTH: Final = 190
"""Pixels of a panel beside others: with its labels it fits a telephone of 390."""
_VALID: Final = alt.FieldValidPredicate


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Title, notes, description and titles of the axes of a panel."""

    title: str
    notes: Sequence[str] = ()
    description: str = ""
    x: str = ""
    y: str = ""


def dots(rows: Sequence[Row], series: Series, others: Sequence[str], words: Words) -> Any:
    """A row for each run, `value` with its interval `low` to `high`; `others` grey below, behind.

    rows: `series` and `label` (of the run), `value`, `low`, `high`, and what a tooltip shows.
    """
    order = [*series.labels, *others]
    x = alt.X("value:Q", title=words.x, axis=alt.Axis(tickCount=4, grid=not others))
    y = alt.Y("series:N", title=None, scale=alt.Scale(domain=order), axis=alt.Axis(ticks=False))
    titles = {"told": words.title}
    own, tips = with_tips([row for row in rows if row["series"] not in others], titles)
    of_grey = [row for row in rows if row["series"] in others]
    grey, grey_tips = with_tips(of_grey, titles, but=("label",))
    own_chart, grey_chart = alt.Chart(data(own)), alt.Chart(data(grey))
    present = _VALID(field="value", valid=True)
    layers = [
        grey_chart.mark_rule(color=GREY, opacity=0.3, aria=False).encode(x=x),
        grey_chart.mark_point(
            color=GREY, shape="diamond", size=50, strokeWidth=1.5, opacity=1
        ).encode(x=x, y=y, tooltip=grey_tips),
        own_chart.transform_filter(_VALID(field="low", valid=True))
        .mark_rule(strokeWidth=2.5, aria=False)
        .encode(
            x=alt.X("low:Q", title=words.x),
            x2="high:Q",
            y=y,
            color=series.color,
            opacity=opacity(),
        ),
        own_chart.transform_filter(present)
        .mark_point(filled=True, size=90)
        .encode(
            x=x,
            y=y,
            color=series.color,
            shape=series.shape,
            tooltip=tips,
            opacity=opacity(),
        )
        .add_params(HOVER),
        own_chart.transform_filter(_VALID(field="value", valid=False))
        .mark_text(align="left", color=INK, text="no value", fontStyle="italic")
        .encode(x=alt.value(4), y=y, tooltip=tips),
    ]
    height = ROW_HEIGHT * max(len(order), 1)
    kept = layers if grey else layers[2:]
    return alt.layer(*kept).properties(height=height, **said(words))


def stacked(panels: Sequence[Any], columns: int, words: Words, *, own_legends: bool = False) -> Any:
    """Panels as one chart, `columns` in each row.

    own_legends: whether each panel has a legend, of its own runs or unit; else they share one.
    """
    with warnings.catch_warnings():
        # panels share one selection on purpose: a run that is pointed at is highlighted in all
        warnings.filterwarnings("ignore", message="Automatically deduplicated selection")
        sized = [panel.properties(width=PANEL_WIDTH) for panel in panels]
        whole = alt.concat(*sized, columns=columns, spacing=24)
    if own_legends:
        whole = whole.resolve_scale(color="independent", shape="independent", fill="independent")
    else:
        whole = whole.resolve_legend("shared")
    return finished(
        whole.properties(title=heading(words.title, words.notes), description=words.description)
    )


def filling(panel: Any) -> Any:
    """`panel`, as wide as its container."""
    return finished(panel.properties(width="container"))


def said(words: Words) -> dict[str, Any]:
    """Title and description of a panel."""
    return {"title": heading(words.title, words.notes), "description": words.description}
