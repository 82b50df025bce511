"""The two kinds of panel that charts are made of: dots with intervals, and lines with letters.

A panel fills the width it is given (`width="container"`), which Vega-Lite allows to single and
layered views only: `stacked` gives panels that stand together a width in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from lpp.analyze.charts.library import alt
from lpp.analyze.charts.rows import Row, data, plain, tooltips
from lpp.analyze.charts.run_styles import DASHES
from lpp.analyze.charts.theme import GREY, INK, PLOT_HEIGHT, Series, finished, heading

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


class Mark(NamedTuple):
    """A sign beside the points at which a field is true."""

    field: str
    sign: str
    dy: int
    """Pixels below the point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Which fields of a row a panel of lines shows, and how."""

    series: Series
    x: str
    y: str
    low: str = ""
    """Fields of the interval; empty: there is none."""
    high: str = ""
    log_x: bool = False
    """Where an `x` is 0, the axis is linear up to the smallest other one."""
    tight_x: bool = False
    """Whether a linear axis begins at the smallest `x`, not at 0."""
    log_y: bool = False
    y_ends: tuple[float, float] | None = None
    """Ends of a linear `y` axis; None: from 0 to the largest value."""
    marks: tuple[Mark, ...] = ()

    @property
    def drawn(self) -> tuple[str, ...]:
        """The fields that have a place on an axis."""
        marked = (mark.field for mark in self.marks)
        return tuple(name for name in (self.x, self.y, self.low, self.high, *marked) if name)


def dots(rows: Sequence[Row], series: Series, others: Sequence[str], words: Words) -> Any:
    """A row for each run, `value` with its interval `low` to `high`; `others` grey below, behind.

    rows: `series` (the label), `value`, `low`, `high`, and what a tooltip shows.
    """
    order = [*series.labels, *others]
    x = alt.X("value:Q", title=words.x, axis=alt.Axis(tickCount=4, grid=not others))
    y = alt.Y("series:N", title=None, scale=alt.Scale(domain=order), axis=alt.Axis(ticks=False))
    own = [row for row in rows if row["series"] not in others]
    grey = [row for row in rows if row["series"] in others]
    tips, grey_tips = (tooltips(part) for part in (own, grey))
    own_chart, grey_chart = alt.Chart(data(own)), alt.Chart(data(grey))
    present = _VALID(field="value", valid=True)
    layers = [
        grey_chart.mark_rule(color=GREY, opacity=0.3, aria=False).encode(x=x),
        grey_chart.mark_point(
            color=GREY, shape="diamond", size=50, strokeWidth=1.5, opacity=1
        ).encode(x=x, y=y, tooltip=grey_tips),
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


def lines(rows: Sequence[Row], lay: Lines, words: Words, *, behind: Sequence[Any] = ()) -> Any:
    """A line for each run through its points, with intervals, and its letter at the end.

    rows: by run and `x`; `series` (the label) and the fields that `lay` names. What is the same
    at all points of a run is in the chart once. behind: layers below all others.
    """
    slim, of_series = _parted(rows, lay)
    base = alt.Chart(data(slim)).transform_lookup(
        lookup="series",
        from_=alt.LookupData(data=data(of_series), key="series", fields=list(of_series[0])[1:]),
    )
    along = _along([row[lay.x] for row in rows], lay)
    values = [row.get(name) for row in rows for name in (lay.y, lay.low, lay.high)]
    up = _up([value for value in values if value is not None], lay)
    x = alt.X(f"{lay.x}:Q", title=words.x, **along)
    y = alt.Y(f"{lay.y}:Q", title=words.y, scale=up.scale, axis=up.axis)
    series = lay.series
    color, shape = series.with_legend(series.color), series.with_legend(series.shape)
    tips = tooltips(rows, "series", *(mark.field for mark in lay.marks))
    layers = [
        base.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=color, strokeDash=series.dash),
        base.mark_point(filled=True, size=30 if len(rows) < 200 else 16, opacity=1).encode(
            x=x, y=y, color=color, shape=shape, tooltip=tips
        ),
        alt.Chart(data(_ends(rows, lay, up)))
        .mark_text(align="left", dx=8, color=INK, fontWeight="bold", aria=False)
        .encode(x=x, y=y, text="letter:N"),
    ]
    if lay.low:
        rule = base.transform_filter(_VALID(field=lay.low, valid=True))
        rule = rule.mark_rule(opacity=0.6 if len(rows) < 60 else 0.35, aria=False)
        low = alt.Y(f"{lay.low}:Q", title=words.y, scale=up.scale, axis=up.axis)
        layers.insert(0, rule.encode(x=x, y=low, y2=f"{lay.high}:Q", color=color))
    for field, sign, dy in lay.marks:
        there = base.transform_filter(alt.FieldEqualPredicate(field=field, equal=True))
        there = there.mark_text(text=sign, dy=dy, fontSize=13, fontWeight="bold", color=INK)
        layers.append(there.encode(x=x, y=y, tooltip=tips))
    return alt.layer(*behind, *layers).properties(height=PLOT_HEIGHT, **_said(words))


def stacked(panels: Sequence[Any], columns: int, words: Words) -> Any:
    """Panels as one chart, `columns` of them beside each other; a list of them below each other."""
    sized = [_sized(panel) for panel in panels]
    whole = alt.concat(*sized, columns=columns, spacing=24).resolve_legend("shared")
    return finished(
        whole.properties(title=heading(words.title, words.notes), description=words.description)
    )


def _sized(panel: Any) -> Any:
    if isinstance(panel, list):
        return alt.vconcat(*map(_sized, panel), spacing=24)
    return panel.properties(width=PANEL_WIDTH)


def filling(panel: Any) -> Any:
    """A panel that stands alone: as wide as its container."""
    return finished(panel.properties(width="container"))


def _said(words: Words) -> dict[str, Any]:
    return {"title": heading(words.title, words.notes), "description": words.description}


class Axis(NamedTuple):
    """A scale with its ticks, and where its ends are."""

    scale: Any
    axis: Any
    low: float
    high: float
    log: bool

    def share(self, value: float) -> float:
        """Where `value` lies, from 0 at the low end to 1 at the high end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def at(self, share: float) -> float:
        """The value that lies at `share`."""
        if self.log:
            return float(self.low * (self.high / self.low) ** share)
        return self.low + share * (self.high - self.low)


def _axis(values: Sequence[float], log: bool) -> Axis:
    """From 0, or a little wider than positive `values` with ticks at 1, 2, 5 or at decades."""
    if not log:
        low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
        high = high + 0.03 * (high - low) if high > low else 1.0
        scale = alt.Scale(domain=[low, high], nice=False)
        return Axis(scale, alt.Axis(tickCount=5), low, high, log=False)
    low, high = min(values) / 1.15, max(values) * 1.15
    axis = alt.Axis(values=_log_ticks(low, high), format="~e" if low < 1e-3 else "~g")
    return Axis(alt.Scale(type="log", domain=[low, high], nice=False), axis, low, high, log=True)


def _up(values: Sequence[float], lay: Lines) -> Axis:
    """Scale and axis of `y`."""
    if lay.y_ends is None:
        return _axis(values, lay.log_y)
    scale = alt.Scale(domain=list(lay.y_ends), nice=False, zero=False)
    return Axis(scale, alt.Axis(tickCount=5), *lay.y_ends, log=False)


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 or decades between two positive ends."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = (float(f"{step}e{decade}") for decade in decades for step in steps)
    return [tick for tick in ticks if low <= tick <= high]


def _along(values: Sequence[float], lay: Lines) -> dict[str, Any]:
    """Scale and axis of `x`."""
    low, high = min(values), max(values)
    if not lay.log_x:
        scale = _axis(values, log=False).scale
        if lay.tight_x and high > low:
            pad = 0.03 * (high - low)
            scale = alt.Scale(domain=[low - pad, high + pad], nice=False, zero=False)
        return {"scale": scale, "axis": alt.Axis(tickCount=5)}
    if low > 0:
        found = _axis(values, log=True)
        return {"scale": found.scale, "axis": found.axis}
    least = min(value for value in values if value > 0)
    high *= 1.15
    scale = alt.Scale(type="symlog", constant=least, domain=[0, high], nice=False)
    ticks = [0, *_log_ticks(least, high)]
    return {"scale": scale, "axis": alt.Axis(values=ticks, format=",d", labelOverlap="greedy")}


def _parted(rows: Sequence[Row], lay: Lines) -> tuple[list[Row], list[Row]]:
    """Rows without what is null or the same for a whole run, and one row of that for each run."""
    runs: dict[str, list[Row]] = {label: [] for label in lay.series.labels}
    for row in rows:
        runs[row["series"]].append(row)
    constant = [
        name
        for name in rows[0]
        if name != "series"
        and name not in lay.drawn
        and all(len({row[name] for row in own}) == 1 for own in runs.values() if own)
    ]
    slim = [
        {k: v for k, v in row.items() if k not in constant and v is not None and v is not False}
        for row in rows
    ]
    of_series = [
        {"series": label, "dash": place % len(DASHES), **{name: own[0][name] for name in constant}}
        for place, (label, own) in enumerate(runs.items())
        if own
    ]
    return slim, of_series


def _ends(rows: Sequence[Row], lay: Lines, up: Axis) -> list[Row]:
    """The letter of each line beside its last point, moved where letters would overlap."""
    last = {row["series"]: row for row in rows}
    ends = sorted(last.values(), key=lambda row: (row[lay.y], row["series"]))
    gap = min(LETTER_HEIGHT / PLOT_HEIGHT, 1 / len(ends))
    places = apart([up.share(row[lay.y]) for row in ends], gap)
    return [
        {lay.x: row[lay.x], lay.y: plain(up.at(place)), "letter": row["series"].partition(" ")[0]}
        for row, place in zip(ends, places, strict=True)
    ]


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places between 0 and 1, moved up and then down until `gap` is between any two.

    >>> [round(place, 3) for place in apart([0.1, 0.12, 0.99, 1.0], 0.05)]
    [0.1, 0.15, 0.95, 1.0]
    """
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + gap) if found else place)
    ceiling = 1.0
    for index in reversed(range(len(found))):
        found[index] = min(found[index], ceiling)
        ceiling = found[index] - gap
    return found
