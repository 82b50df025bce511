"""Panels of dots with intervals, heat maps, and what all panels have in common; `lines` has more.

A panel fills the width it is given (`width="container"`). Vega-Lite allows this to single and
layered views only, so `stacked` gives each of its panels a width in pixels.
"""

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lpp.analyze.charts.library import alt
from lpp.analyze.charts.rows import Row, data, joined, with_tips
from lpp.analyze.charts.theme import (
    FILLS,
    GREY,
    HOVER,
    INK,
    ON_FILL,
    TITLE_WIDTH,
    Series,
    finished,
    heading,
    opacity,
)

ROW_HEIGHT: Final = 24
LINE: Final = 13
"""Pixels of a line of text in a cell."""
LINES: Final[Mapping[str, Mapping[str, Any]]] = {
    "first": {"dy": -LINE, "fontSize": 11, "fontWeight": "bold"},
    "second": {"dy": 0, "fontSize": 9.5},
    "third": {"dy": LINE, "fontSize": 9.5},
}
"""Fields of three lines of text in a cell, and how they look."""
TALL: Final = 44
"""Pixels of a row of cells with vertical text."""
_WRITTEN: Final = 9
"""Least pixels of the width of a cell with vertical text."""
PANEL_WIDTH: Final = 190
"""Pixels of a panel beside others: with its labels it fits a telephone of 390."""
VALID: Final = alt.FieldValidPredicate


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Title, notes, description and titles of the axes of a panel."""

    title: str
    notes: Sequence[str] = ()
    description: str = ""
    x: str = ""
    y: str = ""

    @property
    def properties(self) -> dict[str, Any]:
        """Title and description, as properties of a chart."""
        return {"title": heading(self.title, self.notes), "description": self.description}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """The panels of a chart, by name: one picture, or each as wide as its container."""

    title: str
    panels: Mapping[str, Any]
    nothing: str
    """What there is to say without panels."""
    notes: Sequence[str] = ()
    numbers: int = 1
    """How many panels share one legend; more panels have legends of their own."""

    def picture(self, columns: int = 2) -> Any:
        """All panels, `columns` in a row; a single number's single panel fills its container."""
        panels = [*self.panels.values()]
        if not panels:
            return says(self.title, self.nothing)
        if self.numbers == len(panels) == 1:
            return filling(*panels)
        description = " ".join(panel.description for panel in panels)
        words = Words(title=self.title, notes=self.notes, description=description)
        return stacked(panels, columns, words, own_legends=len(panels) > self.numbers)

    def filling(self) -> dict[str, Any]:
        """Each panel, as wide as its container."""
        return {name: filling(panel) for name, panel in self.panels.items()}


def dots(rows: Sequence[Row], series: Series, words: Words) -> Any:
    """A row for each run, its value with its interval. rows: those of `points`, with `label`."""
    order = [*series.labels]
    x = alt.X("value:Q", title=words.x, axis=alt.Axis(tickCount=4))
    y = alt.Y("series:N", title=None, scale=alt.Scale(domain=order), axis=alt.Axis(ticks=False))
    titles, drawn = {"told": words.title}, ("series", "value", "low", "high")
    run_rows, tips = with_tips(rows, titles, drawn)
    color = series.color.legend(None)
    run_chart = alt.Chart(data(run_rows))
    layers = [
        run_chart.transform_filter(VALID(field="low", valid=True))
        .mark_rule(strokeWidth=2.5, aria=False)
        .encode(
            x=alt.X("low:Q", title=words.x),
            x2="high:Q",
            y=y,
            color=color,
            opacity=opacity(),
        ),
        run_chart.transform_filter(VALID(field="value", valid=True))
        .mark_point(filled=True, size=90)
        .encode(
            x=x, y=y, color=color, shape=series.shape.legend(None), tooltip=tips, opacity=opacity()
        )
        .add_params(HOVER),
        run_chart.transform_filter(VALID(field="value", valid=False))
        .mark_text(align="left", color=INK, text="no value", fontStyle="italic")
        .encode(x=alt.value(4), y=y, tooltip=tips),
    ]
    return alt.layer(*layers).properties(height=ROW_HEIGHT * len(order), **words.properties)


def heat_map(
    cells: Sequence[Row],
    words: Words,
    titles: Mapping[str, str],
    *,
    fills: Sequence[float],
    order: tuple[Sequence[str], Sequence[str]] | None = None,
    height: float = 3 * LINE + 12,
    texts: Mapping[str, Mapping[str, Any]] = LINES,
    names: Mapping[str, Sequence[Row]] | None = None,
    legend: Any = None,
    **x_axis: Any,
) -> Any:
    """A grid of cells; one without a fill has a dashed frame.

    cells: `x`, `y`, `fill`, `told`, and what a tooltip shows; a dot marks those with `beyond`.
    titles: of fields in a tooltip. fills: `fill` where the colour is full and where it is none.
    order: each `x` and `y`; lines of a `y` are separated by newlines. height: of a row, in pixels.
    texts: fields that are written in a cell. names: further fields of cells, by `x` and by `y`.
    x_axis: settings.
    """
    names = names or {}
    tip_rows, tips = with_tips(cells, titles, {"x", "y", "fill", "beyond", *texts})
    by_name = {field for values in names.values() for field in values[0]} - {"x", "y"}
    across, down = order or (
        sorted(distinct(cells, "x"), key=lambda x: int(x) if x.isdecimal() else 0),
        distinct(cells, "y"),
    )
    x = alt.X(
        "x:N",
        title=words.x or None,
        scale=alt.Scale(domain=list(across), paddingInner=0.04),
        axis=alt.Axis(**{"ticks": False, "domain": False, "labelAngle": 0, **x_axis}),
    )
    y = alt.Y(
        "y:N",
        title=None,
        scale=alt.Scale(domain=list(down), paddingInner=0.06),
        axis=alt.Axis(ticks=False, domain=False, labelExpr="split(datum.label, '\\n')"),
    )
    scale = alt.Scale(domain=list(fills), range=list(FILLS[-len(fills) :]), clamp=True)
    fill = alt.Fill("fill:Q", scale=scale, legend=legend)
    frame: dict[str, Any] = {"fillOpacity": 0, "stroke": GREY, "strokeDash": [2, 3]}
    there = {(cell["x"], cell["y"]) for cell in cells}
    gaps = [{"x": x, "y": y} for y in down for x in across if (x, y) not in there]
    layers = []
    if gaps:
        layers.append(alt.Chart(data(gaps)).mark_rect(aria=False, **frame).encode(x=x, y=y))
    for has_fill, color in ((True, ON_FILL), (False, INK)):
        part = [
            {k: v for k, v in cell.items() if k not in by_name and v is not None}
            for cell in tip_rows
            if (cell["fill"] is not None) is has_fill
        ]
        if not part:
            continue
        base = alt.Chart(data(part)).encode(x=x, y=y, tooltip=tips)
        for key, values in names.items():
            base = joined(base, key, values)
        layers.append(base.mark_rect().encode(fill=fill) if has_fill else base.mark_rect(**frame))
        if any("beyond" in cell for cell in part):
            beyond = base.transform_filter(alt.FieldEqualPredicate(field="beyond", equal=1))
            layers.append(beyond.mark_circle(color=color, size=9, opacity=1, aria=False))
        layers += [
            base.mark_text(color=color, aria=False, **look).encode(text=f"{name}:N")
            for name, look in texts.items()
        ]
    return alt.layer(*layers).properties(height=round(height * len(down)), **words.properties)


def vertical(columns: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """The field `text` of cells, of five characters, vertical; hidden where `columns` are too
    narrow for it.
    """
    room = alt.expr(f"width < {_WRITTEN * len(columns)} ? 0 : 1")
    return {"text": {"angle": 270, "fontSize": 9, "opacity": room}}


def distinct(cells: Sequence[Row], field: str) -> list[str]:
    """Values of `field`, in order."""
    return list(dict.fromkeys(cell[field] for cell in cells))


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
    return finished(whole.properties(**words.properties))


def filling(panel: Any) -> Any:
    """`panel`, as wide as its container."""
    return finished(panel.properties(width="container"))


def says(title: str, why: str) -> Any:
    """A chart without data that says what is missing."""
    lines = textwrap.wrap(why, TITLE_WIDTH, break_on_hyphens=False)
    text = alt.Chart(data([{"text": "\n".join(lines)}]), height=16 * len(lines) + 24)
    text = text.mark_text(align="left", baseline="top", color=INK, fontSize=12, lineBreak="\n")
    words = Words(title=title, description=f"{title}. {why}")
    return filling(
        text.encode(x=alt.value(0), y=alt.value(8), text="text:N").properties(**words.properties)
    )
