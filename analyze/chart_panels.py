"""The two kinds of panel that charts are made of: dots with intervals, and lines with letters.

A panel fills the width it is given (`width="container"`), which Vega-Lite allows to single and
layered views only: `stacked` gives panels that stand together a width in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from lpp.analyze.chart_library import alt
from lpp.analyze.chart_rows import Row, data, tooltips
from lpp.analyze.chart_theme import GREY, INK, PLOT_HEIGHT, Series, finished, heading

ROW_HEIGHT: Final = 24
PANEL_WIDTH: Final = 190
"""Pixels of a plot that stands with others: with its labels it fits a telephone of 390."""
LETTER_HEIGHT: Final = 12
_VALID: Final = alt.FieldValidPredicate


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a panel says of itself."""

    title: str
    notes: Sequence[str]
    description: str
    x: str
    y: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """How the lines of a panel lie."""

    series: Series
    log_x: bool = False
    log_y: bool = False
    points: bool = True


def dots(rows: Sequence[Row], series: Series, others: Sequence[str], words: Words) -> Any:
    """A row for each run, `value` with its interval `low` to `high`; `others` grey below, behind.

    rows: `series` (the label), `value`, `low`, `high`, and what a tooltip shows.
    """
    order = [*series.labels, *others]
    x = alt.X("value:Q", title=words.x, axis=alt.Axis(tickCount=4, grid=not others))
    y = alt.Y("series:N", title=None, scale=alt.Scale(domain=order), axis=alt.Axis(ticks=False))
    tips = tooltips(rows[0]) if rows else []
    own = [row for row in rows if row["series"] not in others]
    grey = [row for row in rows if row["series"] in others]
    own_chart, grey_chart = alt.Chart(data(own)), alt.Chart(data(grey))
    present = _VALID(field="value", valid=True)
    layers = [
        grey_chart.mark_rule(color=GREY, opacity=0.3, aria=False).encode(x=x),
        grey_chart.mark_point(
            color=GREY, shape="diamond", size=50, strokeWidth=1.5, opacity=1
        ).encode(x=x, y=y, tooltip=tips),
        own_chart.transform_filter(_VALID(field="low", valid=True))
        .mark_rule(strokeWidth=2.5, aria=False)
        .encode(x=alt.X("low:Q", title=words.x), x2="high:Q", y=y, color=series.color),
        own_chart.transform_filter(present)
        .mark_point(filled=True, size=90, opacity=1)
        .encode(x=x, y=y, color=series.color, shape=series.shape, tooltip=tips),
        own_chart.transform_filter(_VALID(field="value", valid=False))
        .mark_text(align="left", color=INK, text="no value", fontStyle="italic")
        .encode(x=alt.value(4), y=y, tooltip=tips),
    ]
    height = ROW_HEIGHT * max(len(order), 1)
    kept = layers if grey else layers[2:]
    return alt.layer(*kept).properties(height=height, **_said(words))


def lines(rows: Sequence[Row], lay: Lines, words: Words, extra: Sequence[Any] = ()) -> Any:
    """A line for each run through its points (`x`, `y`), intervals, and its letter at the end."""
    base = alt.Chart(data(rows))
    along = [row["x"] for row in rows]
    up = [row[name] for row in rows for name in ("y", "low", "high") if row[name] is not None]
    x = alt.X("x:Q", title=words.x, **(_log_axis(along) if lay.log_x else _axis()))
    y = alt.Y("y:Q", title=words.y, **(_log_axis(up) if lay.log_y else _axis()))
    series = lay.series
    tips = tooltips(name for name in rows[0] if name not in ("x", "y"))
    color, shape = series.with_legend(series.color), series.with_legend(series.shape)
    layers = [
        base.transform_filter(_VALID(field="low", valid=True))
        .mark_rule(opacity=0.6, aria=False)
        .encode(x=x, y=alt.Y("low:Q", title=words.y), y2="high:Q", color=color),
        base.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=color, strokeDash=series.dash),
        base.mark_point(filled=True, size=36 if lay.points else 14, opacity=1).encode(
            x=x, y=y, color=color, shape=shape, tooltip=tips
        ),
        alt.Chart(data(_ends(rows, lay.log_y)))
        .mark_text(align="left", dx=8, color=INK, fontWeight="bold", aria=False)
        .encode(x=x, y=y, text="letter:N"),
    ]
    return alt.layer(*layers, *extra).properties(height=PLOT_HEIGHT, **_said(words))


def stacked(panels: Sequence[Any], columns: int, words: Words) -> Any:
    """Panels as one chart, `columns` of them beside each other."""
    sized = [panel.properties(width=PANEL_WIDTH) for panel in panels]
    whole = alt.concat(*sized, columns=columns, spacing=24).resolve_legend("shared")
    return finished(
        whole.properties(title=heading(words.title, words.notes), description=words.description)
    )


def filling(panel: Any) -> Any:
    """A panel that stands alone: as wide as its container."""
    return finished(panel.properties(width="container"))


def _said(words: Words) -> dict[str, Any]:
    return {"title": heading(words.title, words.notes), "description": words.description}


def _axis() -> dict[str, Any]:
    return {"scale": alt.Scale(zero=True), "axis": alt.Axis(tickCount=5)}


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A log scale a little wider than positive `values`, with ticks at 1, 2, 5 or at decades."""
    low, high = min(values) / 1.1, max(values) * 1.1
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
    axis = alt.Axis(
        values=[tick for tick in ticks if low <= tick <= high],
        format="~e" if low < 1e-3 else "~g",
    )
    return {"scale": alt.Scale(type="log", domain=[low, high], nice=False), "axis": axis}


def _ends(rows: Sequence[Row], log: bool) -> list[Row]:
    """The last point of each line with its letter, moved apart where letters would overlap."""
    last: dict[str, Row] = {}
    for row in rows:
        if row["series"] not in last or row["x"] >= last[row["series"]]["x"]:
            last[row["series"]] = row
    place = math.log10 if log else float
    values = [place(row["y"]) for row in rows] + ([] if log else [0.0])
    gap = (max(values) - min(values)) * LETTER_HEIGHT / PLOT_HEIGHT
    found: list[Row] = []
    floor = -math.inf
    for row in sorted(last.values(), key=lambda row: (row["y"], row["series"])):
        floor = max(place(row["y"]), floor + gap)
        letter = row["series"].partition(" ")[0]
        found.append({"x": row["x"], "y": 10**floor if log else floor, "letter": letter})
    return found
