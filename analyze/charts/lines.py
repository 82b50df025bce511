"""Panels of lines with points, intervals, and a letter at the end of each line.

A panel has at most ten lines: two of each colour, which differ in shape and dash. More runs are
divided into panels of five, one for each colour, with equal axes. Each panel has the other runs in
grey behind its own.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from lpp.analyze.charts.axes import Along, Axis, along_axis, column_axis, linear_axis, log_axis
from lpp.analyze.charts.library import alt
from lpp.analyze.charts.panels import VALID, Panels, Words
from lpp.analyze.charts.rows import (
    Curves,
    Row,
    bars,
    data,
    first_positions,
    joined,
    listing,
    measured,
    number,
    plain,
    points,
    with_tips,
)
from lpp.analyze.charts.run_styles import DASHES, PALETTE
from lpp.analyze.charts.theme import GREY, HOVER, INK, PLOT_HEIGHT, Series, opacity
from lpp.analyze.quantities.quantity import Quantity

LINES: Final = 10
"""Lines of one panel, at most."""
LETTER_HEIGHT: Final = 12
LETTER_AT: Final = 14
"""Pixels from the end of a line to its letter."""
LANE: Final = 13
LANES: Final = 8
"""Pixels of a row of signs in the strip below the plot, and how many rows have that height; more
rows share their room."""
GAP: Final = 0.15
"""Gap between the last block and the column of `final`, as a share of the depth."""


class Mark(NamedTuple):
    """A sign in the strip below the plot, at the points that have a flag."""

    flag: str
    sign: str
    meaning: str
    counted: str
    """Name of the points that a description counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """A number, and how panels of lines show it."""

    number: Quantity
    """Its value is in the column of its name; its error and interval, if any, beside that."""
    x: Along
    title: str = ""
    """Empty: the number by `x`."""
    lead: str = ""
    """First words of the description; empty: title and unit."""
    end: str = ""
    """Last words of the description."""
    notes: Sequence[str] = ()
    of: str = "run"
    """What each colour stands for, in a tooltip."""
    over: str = "prompts"
    """What intervals are over."""
    log: bool = False
    """Whether the `y` axis is logarithmic."""
    ends: tuple[float, float] | None = None
    """Ends of a linear `y` axis; None: from 0 to the largest value."""
    marks: tuple[Mark, ...] = ()
    behind: Sequence[Any] = ()
    """Layers below all others."""

    @property
    def heading(self) -> str:
        """The title of a panel."""
        return self.title or f"{self.number.title} by {self.x.name}"

    @property
    def y(self) -> str:
        """The title of the `y` axis."""
        return f"{self.number.axis}{' (log)' if self.log else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """The lines of some runs, on axes that several panels may share."""

    lines: Lines
    series: Series
    rows: Sequence[Row]
    """By curve and `x`: those of `points`, with what tells curves apart."""
    field: str
    """The field along the `x` axis."""
    x: Any
    """The channel of that field."""
    up: Axis
    end: float
    """The `x` that no line reaches: that of `final`, or infinity."""
    lane: float
    """Pixels of a row of signs in the strip below the plot."""

    def y(self, field: str) -> Any:
        """The vertical channel of `field`."""
        return self.up.channel(field, self.lines.y)


def line_chart(
    frame: pl.DataFrame,
    curves: Curves,
    numbers: Sequence[Lines],
    nothing: str,
    *,
    title: str = "",
    notes: Sequence[str] = (),
) -> Panels:
    """The panels of one or several numbers; those of several have the number in their names.

    frame: by curve and `x`. nothing: what there is to say without values. title, notes: of several
    numbers.
    """
    panels = {
        f"{lines.number.name if len(numbers) > 1 else ''} {letters}".strip(): panel
        for lines in numbers
        for letters, panel in _panels(frame, curves, lines).items()
    }
    title = title or numbers[0].heading
    return Panels(title=title, panels=panels, nothing=nothing, notes=notes, numbers=len(numbers))


def by_depth(frame: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """`frame` in the order of curves by depth. keys: its runs, then the depth."""
    *runs, depth = keys
    return frame.sort(*runs, first_positions(frame), depth, pl.col("site") == "final")


def _panels(frame: pl.DataFrame, curves: Curves, lines: Lines) -> dict[str, Any]:
    """One panel, named ""; for more than ten lines, a panel for every five runs: `A to E`, ...

    Without values there is no panel.
    """
    series, labels = curves
    frame = measured(frame, lines.number.name, log=lines.log)
    valued = [
        row
        for row in points(frame, labels)
        if row["value"] is not None and row[lines.x.field] is not None
    ]
    rows = [row for row in valued if row["value"] > 0 or not lines.log]
    if not rows:
        return {}
    field, end, axis = _along(rows, lines)
    for row in rows:
        curve = series[row["series"]]
        flags = (row.get("flags") or "").split(", ")
        row |= {
            "curve": series.short(curve.label),
            "label": curve.owner,
            "positions": curve.positions,
            "dash": curve.place % len(DASHES),
            "where": "final" if row[field] == end else lines.x.place.format(row[field]),
            **{mark.flag: True for mark in lines.marks if mark.flag in flags},
        }
    owners = [*series.owners]
    count = 1 if len(series.curves) <= LINES else math.ceil(len(owners) / len(PALETTE))
    each = math.ceil(len(owners) / count)
    parts = [series.only(owners[start : start + each]) for start in range(0, len(owners), each)]
    lanes = max(len(_lanes(rows, part, lines.marks)) for part in parts)
    lane = LANE * min(1.0, LANES / max(lanes, 1))
    if lanes:
        axis["axis"].offset = round((lanes + 0.5) * lane)
    values = [row[name] for row in rows for name in ("value", "low", "high")]
    values = [value for value in values if value is not None]
    whole = _Panel(
        lines=lines,
        series=series,
        rows=rows,
        field=field,
        x=alt.X(f"{field}:Q", **axis),
        up=log_axis(values, lines.number.limits[1])
        if lines.log
        else linear_axis(values, lines.ends),
        end=end,
        lane=lane,
    )
    notes = _notes(rows, valued, frame, lines)
    if len(parts) == 1:
        return {"": _drawn(whole, Words(title=lines.heading, notes=notes), lines.behind)}
    behind, panels = [*lines.behind, _others(whole)], {}
    for part in parts:
        part_rows = [row for row in rows if row["label"] in part.owners]
        letters = list(dict.fromkeys(part.short([*part.owners][end]) for end in (0, -1)))
        words = Words(title=f"{lines.heading}, {'–'.join(letters)}", notes=notes)
        if part_rows:
            panel = replace(whole, series=part, rows=part_rows)
            panels[" to ".join(letters)] = _drawn(panel, words, behind)
    return panels


def _notes(
    rows: Sequence[Row], valued: Sequence[Row], frame: pl.DataFrame, lines: Lines
) -> list[str]:
    """Notes on the panels. rows: the drawn rows. valued: rows of `frame` with a value."""
    zeros, lost = sum(row["value"] == 0 for row in valued if lines.log), len(frame) - len(valued)
    return [
        *lines.notes,
        *(
            f"-{k}: without the first {k} position{'s' * (k > 1)} of each prompt."
            for k in sorted({*first_positions(frame)} - {0})
        ),
        *(f"{m.sign}: {m.meaning}." for m in lines.marks if any(m.flag in row for row in rows)),
        *bars(rows, lines.over),
        *([f"{zeros} of {len(frame)} points are 0: not on a log axis."] if zeros else []),
        *([f"{lost} of {len(frame)} points have no value."] if lost else []),
    ]


def _along(rows: Sequence[Row], lines: Lines) -> tuple[str, float, dict[str, Any]]:
    """The field along the `x` axis, the `x` that no line reaches, and the settings of the axis."""
    x = lines.x
    column = final_apart(rows, x.field) if x.has_final else None
    field = "place" if x.has_final else x.field
    values = [row[field] for row in rows]
    if column is None:
        scale, axis = along_axis(values, x)
    else:
        blocks = [value for value in values if value < column]
        scale, axis = column_axis(blocks or [column / (1 + GAP)], column)
    title = f"{x.title}{' (log)' if x.is_log(values) else ''}"
    return field, column or math.inf, {"title": title, "scale": scale, "axis": axis}


def final_apart(rows: Sequence[Row], depth: str) -> float | None:
    """Give every row its `place` along the axis of `depth`: `final` has a column of its own.

    `final`, after the last norm, has the depth of the last block. Returns the place of the column;
    None where no row is of `final`.
    """
    blocks = [row[depth] for row in rows if row["site"] != "final"]
    last = max(blocks or [row[depth] for row in rows], default=0) or 1
    column = plain((1.0 + GAP) * last)
    for row in rows:
        row["place"] = column if row["site"] == "final" else row[depth]
    return column if len(blocks) < len(rows) else None


def _lanes(rows: Sequence[Row], series: Series, marks: Sequence[Mark]) -> list[tuple[Mark, str]]:
    """The rows of signs from above: each mark of each curve that has it."""
    present = {(mark, row["curve"]) for row in rows for mark in marks if mark.flag in row}
    lanes = ((mark, series.short(label)) for mark in marks for label in series.labels)
    return [lane for lane in lanes if lane in present]


def _described(panel: _Panel, title: str) -> str:
    """What a panel shows, in words: for each line from where to where, and its extremes."""
    lines, parts = panel.lines, []
    for label in panel.series.labels:
        line = [row for row in panel.rows if row["series"] == label]
        if not line:
            parts.append(f"{label}: no value")
            continue
        extremes = [pick(line, key=lambda row: float(row["value"])) for pick in (min, max)]
        first, last, low, high = (
            f"{number(row['value'])} at {row['where']}" for row in (line[0], line[-1], *extremes)
        )
        parts.append(f"{label}: {first}, {last}; smallest {low}, largest {high}")
    lead = lines.lead or f"{title}, {lines.y}"
    counts = (f"{m.counted}: {sum(m.flag in row for row in panel.rows)}." for m in lines.marks)
    return " ".join(filter(None, (f"{lead}. {listing(parts)}", *counts, lines.end)))


def _drawn(panel: _Panel, words: Words, behind: Sequence[Any]) -> Any:
    lines, series = panel.lines, panel.series
    drawn = {panel.field, "value", "low", "high", *(mark.flag for mark in lines.marks)}
    rows, tips = with_tips(
        panel.rows,
        {"told": lines.number.words, "label": lines.of},
        {*drawn, "curve", "dash"},
    )
    slim, of_curves = _parted(rows, drawn)
    base = joined(alt.Chart(data(slim)), "curve", of_curves).encode(x=panel.x, y=panel.y("value"))
    point = base.mark_point(filled=True, size=16 if len(rows) >= 200 else 30)
    layers = [
        *behind,
        *_bars(base, panel),
        *_curves(base, panel),
        point.encode(
            color=series.color,
            shape=series.shape,
            tooltip=tips,
            opacity=opacity(),
        ),
        *(_letters(panel) if series.of_runs else []),
        *_signs(base, panel, tips),
    ]
    words = replace(words, description=_described(panel, words.title))
    return alt.layer(*layers).properties(height=PLOT_HEIGHT, **words.properties)


def _bars(base: Any, panel: _Panel) -> Iterator[Any]:
    if any(row["low"] is not None for row in panel.rows):
        faint = opacity(0.35 if len(panel.rows) >= 60 else 0.6)
        rule = base.transform_filter(VALID(field="low", valid=True)).mark_rule(aria=False)
        yield rule.encode(y=panel.y("low"), y2="high:Q", color=panel.series.color, opacity=faint)


def _curves(base: Any, panel: _Panel) -> list[Any]:
    """The lines, and wider invisible ones, which are easier to point at.

    Altair keeps a selection in one layer, and Vega-Lite binds it to that layer's legend. Here it
    must be the layer of the wide lines, or they could not be pointed at.
    """
    if panel.end < math.inf:
        base = base.transform_filter(alt.FieldLTPredicate(field=panel.field, lt=panel.end))
    base = base.encode(color=panel.series.color, detail="curve:N")
    return [
        base.mark_line(strokeWidth=12, opacity=0, aria=False).add_params(HOVER),
        base.mark_line(strokeWidth=1.8).encode(strokeDash=panel.series.dash, opacity=opacity()),
    ]


def _signs(base: Any, panel: _Panel, tips: Sequence[Any]) -> Iterator[Any]:
    """Signs in the colour of their curve, in rows: beside points they would cover each other.

    Their strip lies between the plot and its `x` axis, which was moved down.
    """
    of_marks: dict[Mark, list[Row]] = {}
    for k, (mark, curve) in enumerate(_lanes(panel.rows, panel.series, panel.lines.marks)):
        middle = plain(PLOT_HEIGHT + (k + 0.75) * panel.lane)
        of_marks.setdefault(mark, []).append({"curve": curve, "lane": middle})
    y = alt.Y("lane:Q", scale=None, title=panel.lines.y)
    for mark, lanes in of_marks.items():
        there = base.transform_filter(alt.FieldEqualPredicate(field=mark.flag, equal=True))
        text = joined(there, "curve", lanes).mark_text(
            text=mark.sign, fontSize=max(panel.lane - 2, 8), fontWeight="bold"
        )
        yield text.encode(y=y, color=panel.series.color, tooltip=tips, opacity=opacity())


def _others(panel: _Panel) -> Any:
    """All lines in grey, with short names and few digits: every panel repeats these data."""
    slim = [
        {
            "curve": row["curve"],
            panel.field: _short(row[panel.field], 3),
            "value": _short(row["value"], 3),
        }
        for row in panel.rows
        if row[panel.field] < panel.end
    ]
    grey = alt.Chart(data(slim)).mark_line(color=GREY, opacity=0.35, strokeWidth=1, aria=False)
    return grey.encode(x=panel.x, y=panel.y("value"), detail="curve:N")


def _short(value: float, digits: int = 4) -> float:
    """`value` to the digits that a pixel shows; bars and grey lines show no numbers."""
    return float(f"{value:.{digits}g}")


def _parted(rows: Sequence[Row], drawn: Collection[str]) -> tuple[list[Row], list[Row]]:
    """Rows without nulls and the fields that are constant along every curve, and a row of these
    for each curve. drawn: fields that every row keeps.
    """
    curves: dict[str, list[Row]] = {}
    for row in rows:
        curves.setdefault(row["curve"], []).append(row)
    constant = [
        name
        for name in rows[0]
        if name not in drawn
        and all(len({row[name] for row in curve}) == 1 for curve in curves.values())
    ]
    slim = [
        {
            name: _short(value) if name in ("low", "high") else value
            for name, value in row.items()
            if (name == "curve" or name not in constant) and value is not None
        }
        for row in rows
    ]
    return slim, [{name: curve[0][name] for name in constant} for curve in curves.values()]


def _letters(panel: _Panel) -> list[Any]:
    """The letter of each line beside its last point; a thin line leads to one that was moved."""
    last = {row["series"]: row for row in panel.rows}
    ends = sorted(last.values(), key=lambda row: (row["value"], row["series"]))
    gap = min(LETTER_HEIGHT / PLOT_HEIGHT, 1 / len(ends))
    shares = apart([panel.up.share(row["value"]) for row in ends], gap)
    rows = [
        {
            panel.field: row[panel.field],
            "value": plain(panel.up.at(share)),
            "from": row["value"],
            "letter": row["curve"],
            "label": row["label"],
        }
        for row, share in zip(ends, shares, strict=True)
    ]
    base = alt.Chart(data(rows)).encode(x=panel.x)
    leads = base.mark_rule(
        color=INK, strokeWidth=0.6, xOffset=4, x2Offset=LETTER_AT - 1, aria=False
    )
    letters = base.mark_text(align="left", dx=LETTER_AT, color=INK, fontWeight="bold", aria=False)
    return [
        leads.encode(x2=panel.field, y=panel.y("from"), y2="value", opacity=opacity(0.6)),
        letters.encode(y=panel.y("value"), text="letter:N", opacity=opacity()),
    ]


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places between 0 and 1, moved as little as possible to be `gap` apart.

    Neighbours that are too close are spread around their mean; a group that would cross an end is
    moved to that end. If there are too many to fit, the lowest are below 0. Places without the gaps
    below them must not fall: isotonic regression by the max-min formula (Barlow et al. 1972).

    >>> [round(share, 3) for share in apart([0.1, 0.12, 0.5, 0.99, 1.0], 0.05)]
    [0.085, 0.135, 0.5, 0.95, 1.0]
    """
    count = range(len(places))
    gaps = gap * np.arange(len(places))
    rest = np.array(places) - gaps
    levels = [
        max(min(rest[low : high + 1].mean() for high in count[k:]) for low in count[: k + 1])
        for k in count
    ]
    moved: list[float] = (np.minimum(np.maximum(levels, 0.0), 1.0 - gaps[-1]) + gaps).tolist()
    return moved
