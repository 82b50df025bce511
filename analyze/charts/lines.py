"""Panels of lines with points, intervals, and a letter at the end of each line.

A panel has at most ten lines: two of each colour, which differ in shape and dash. More runs are
divided into panels of five, one for each colour, with equal axes. Each panel has the other runs in
grey behind its own.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from lpp.analyze.charts.axes import Axis, column_axis, linear_axis, log_axis, steps_axis
from lpp.analyze.charts.hover import HOVER, field_of, interval, opacity, told, with_tips
from lpp.analyze.charts.library import alt
from lpp.analyze.charts.panels import Words, filling, said, stacked
from lpp.analyze.charts.rows import Row, data, listing, number, plain, says
from lpp.analyze.charts.run_styles import DASHES, PALETTE
from lpp.analyze.charts.theme import GREY, INK, PLOT_HEIGHT, Curve, Series

LINES: Final = 10
"""Lines of one panel, at most."""
LETTER_HEIGHT: Final = 12
LETTER_AT: Final = 14
"""Pixels from the end of a line to its letter."""
LANE: Final = 13
LANES: Final = 8
"""Pixels of a row of signs, and how many rows have that height; more rows share their room."""
GAP: Final = 0.15
"""Gap between the last block and the column of `final`, as a share of the depth."""
_VALID: Final = alt.FieldValidPredicate


class Mark(NamedTuple):
    """A sign below the points at which a field is true."""

    field: str
    sign: str
    meaning: str
    counted: str
    """What a description counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Which fields of a row a panel of lines shows, and how."""

    words: Words
    """The description follows from the rows."""
    series: Series
    x: str
    y: str
    value: str
    """Title of `y` in a tooltip."""
    place: str
    """How the description names a place along `x`: such as `depth {:g}`."""
    lead: str = ""
    """First words of the description; empty: the title."""
    end: str = ""
    """Its last words."""
    of: str = "run"
    """What each colour stands for, in a tooltip."""
    low: str = ""
    """Fields of the ends of a bar; empty: no bars."""
    high: str = ""
    are_intervals: bool = True
    """Whether bars are 95 % intervals."""
    stderr: str = ""
    """Field of the standard error of `y`; empty: none."""
    log_x: bool = False
    """Whether the `x` axis is logarithmic; if an `x` is 0, it is linear up to the smallest other
    one."""
    tight_x: bool = False
    """Whether a linear axis begins at the smallest `x`, not at 0."""
    column: float | None = None
    """The `x` of `final`, which no line leads to; None: there is no `final`."""
    log_y: bool = False
    y_ends: tuple[float, float] | None = None
    """Ends of a linear `y` axis; None: from 0 to the largest value."""
    marks: tuple[Mark, ...] = ()
    lanes: int = 0
    """Rows of signs below the lines, which `line_panels` counts."""

    @property
    def drawn(self) -> tuple[str, ...]:
        """The fields that are drawn along an axis."""
        marked = (mark.field for mark in self.marks)
        return tuple(name for name in (self.x, self.y, self.low, self.high, *marked) if name)


def line_panels(rows: Sequence[Row], lay: Lines, behind: Sequence[Any] = ()) -> dict[str, Any]:
    """One panel, named ""; for more than ten lines, a panel for every five runs: `A to E`, ...

    rows: by run and `x`; `series` (label of the curve) and the fields that `lay` names; without
    rows there is no panel. behind: layers below all others.
    """
    if not rows:
        return {}
    owners = [*lay.series.owners]
    lay = replace(lay, lead=lay.lead or lay.words.title)
    if len(lay.series.curves) <= LINES or len(owners) == 1:
        return {"": _panel(rows, rows, replace(lay, lanes=len(_lanes(rows, lay))), behind)}
    each = math.ceil(len(owners) / math.ceil(len(owners) / len(PALETTE)))
    parts = [owners[start : start + each] for start in range(0, len(owners), each)]
    of_parts = (replace(lay, series=lay.series.only(some)) for some in parts)
    lay = replace(lay, lanes=max(len(_lanes(rows, part)) for part in of_parts))  # equal axes
    found = {}
    for some in parts:
        series = lay.series.only(some)
        own = [row for row in rows if row["series"] in series.labels]
        ends = dict.fromkeys(lay.series.short(some[end]) for end in (0, -1))
        if own:
            words = replace(lay.words, title=f"{lay.words.title}, {'–'.join(ends)}")
            shown = replace(lay, series=series, words=words)
            found[" to ".join(ends)] = _panel(own, rows, shown, [*behind, _others(rows, lay)])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart:
    """Panels of lines: one picture, or each as wide as its container."""

    words: Words
    panels: Mapping[str, Any]
    nothing: str
    """What there is to say without panels."""
    numbers: int = 1
    """How many numbers there are panels of."""

    def picture(self, columns: int = 2) -> Any:
        """All panels, `columns` in a row; a single number's single panel fills its container."""
        panels = [*self.panels.values()]
        if not panels:
            return says(self.words.title, self.nothing)
        if self.numbers == len(panels) == 1:
            return filling(*panels)
        notes = self.words.notes if self.numbers > 1 else []  # panels have the notes
        words = replace(
            self.words, notes=notes, description=" ".join(panel.description for panel in panels)
        )
        return stacked(panels, columns, words, own_legends=len(panels) > self.numbers)

    def filling(self) -> dict[str, Any]:
        """Each panel, as wide as its container."""
        return {name: filling(panel) for name, panel in self.panels.items()}


def panels_by(names: Iterable[str], panels: Callable[[str], Mapping[str, Any]]) -> dict[str, Any]:
    """The panels of each of the numbers `names`, by number and letters of runs."""
    return {
        f"{name} {some}".rstrip(): panel for name in names for some, panel in panels(name).items()
    }


def described(rows: Sequence[Row], lay: Lines) -> str:
    """What a panel shows, in words."""
    counts = (f"{m.counted}: {sum(bool(row.get(m.field)) for row in rows)}." for m in lay.marks)
    parts = (f"{lay.lead}. {ranges(rows, lay)}", *counts, lay.end)
    return " ".join(filter(None, parts))


def mark_notes(rows: Sequence[Row], marks: Iterable[Mark]) -> list[str]:
    """What the signs below the lines mean, where there are any."""
    return [
        f"{mark.sign}: {mark.meaning}."
        for mark in marks
        if any(row.get(mark.field) for row in rows)
    ]


def ranges(found: Sequence[Row], lay: Lines) -> str:
    """A sentence for each line: from where to where, and its extremes."""
    parts = []
    for label in lay.series.labels:
        own = [row for row in found if row["series"] == label]
        if not own:
            parts.append(f"{label}: no value")
            continue
        ends = (own[0], own[-1])
        extremes = [pick(own, key=lambda row: float(row[lay.y])) for pick in (min, max)]
        first, last, low, high = (
            f"{number(row[lay.y])} at {_where(row, lay)}" for row in (*ends, *extremes)
        )
        parts.append(f"{label}: {first}, {last}; smallest {low}, largest {high}")
    return listing(parts)


def _where(row: Row, lay: Lines) -> str:
    return "final" if row[lay.x] == lay.column else lay.place.format(row[lay.x])


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


def _panel(rows: Sequence[Row], every: Sequence[Row], lay: Lines, behind: Sequence[Any]) -> Any:
    """Lines of `rows`, on axes that hold `every` row."""
    words = replace(lay.words, description=described(rows, lay))
    titles = {"told": lay.value, "label": lay.of}
    curves = {curve.label: curve for curve in lay.series.curves}
    rows, tips = with_tips([_told(row, curves[row["series"]], lay) for row in rows], titles)
    slim, of_curves = _parted(rows, lay, [*map(field_of, tips)])
    base = alt.Chart(data(slim)).transform_lookup(
        lookup="curve",
        from_=alt.LookupData(data=data(of_curves), key="curve", fields=list(of_curves[0])[1:]),
    )
    up, (scale, axis) = _up(every, lay), _along(every, lay)
    x = alt.X(f"{lay.x}:Q", title=words.x, scale=scale, axis=axis)
    base = base.encode(x=x, y=up.channel(lay.y, words.y))
    layers = [
        *behind,
        *_bars(base, lay, up, words.y, crowded=len(rows) >= 60),
        *_curves(base, lay),
        _points(base, lay, tips, crowded=len(rows) >= 200),
        *(_letters(rows, lay, up, x, words.y) if lay.series.of_runs else []),
        *_signs(base, lay, _lane_places(rows, lay, up), up.channel("lane", words.y), tips),
    ]
    return alt.layer(*layers).properties(height=PLOT_HEIGHT, **said(words))


def _bars(base: Any, lay: Lines, up: Axis, title: str, *, crowded: bool) -> list[Any]:
    if not lay.low:
        return []
    rule = base.transform_filter(_VALID(field=lay.low, valid=True)).mark_rule(aria=False)
    faint = opacity(0.35 if crowded else 0.6)
    color = lay.series.with_legend(lay.series.color)
    return [
        rule.encode(y=up.channel(lay.low, title), y2=f"{lay.high}:Q", color=color, opacity=faint)
    ]


def _curves(base: Any, lay: Lines) -> list[Any]:
    """The lines, and wider invisible ones, which are easier to point at.

    Altair keeps a selection in one layer, and Vega-Lite binds it to that layer's legend. Here it
    must be the layer of the wide lines, or they could not be pointed at.
    """
    if lay.column is not None:
        base = base.transform_filter(alt.FieldLTPredicate(field=lay.x, lt=lay.column))
    color = lay.series.with_legend(lay.series.color)
    return [
        base.mark_line(strokeWidth=12, opacity=0, aria=False)
        .encode(color=color, detail="curve:N")
        .add_params(HOVER),
        base.mark_line(strokeWidth=1.8).encode(
            color=color, strokeDash=lay.series.dash, detail="curve:N", opacity=opacity()
        ),
    ]


def _points(base: Any, lay: Lines, tips: Sequence[Any], *, crowded: bool) -> Any:
    series = lay.series
    color, shape = series.with_legend(series.color), series.with_legend(series.shape)
    point = base.mark_point(filled=True, size=16 if crowded else 30)
    return point.encode(color=color, shape=shape, tooltip=list(tips), opacity=opacity())


def _lanes(rows: Sequence[Row], lay: Lines) -> list[tuple[Mark, str]]:
    """The rows of signs from above: each mark of each curve that has it."""
    found = {(mark, row["series"]) for row in rows for mark in lay.marks if row.get(mark.field)}
    return [
        (mark, label) for mark in lay.marks for label in lay.series.labels if (mark, label) in found
    ]


def _lane_height(lay: Lines) -> float:
    return LANE * min(1.0, LANES / max(lay.lanes, 1))


def _lane_places(rows: Sequence[Row], lay: Lines, up: Axis) -> dict[Mark, list[Row]]:
    """For each mark the curves that have it, and the place of their row of signs."""
    found: dict[Mark, list[Row]] = {}
    for place, (mark, label) in enumerate(_lanes(rows, lay), 1):
        share = (lay.lanes + 0.5 - place) * _lane_height(lay) / PLOT_HEIGHT
        lane = {"curve": lay.series.short(label), "lane": plain(up.at(share))}
        found.setdefault(mark, []).append(lane)
    return found


def _signs(
    base: Any, lay: Lines, lanes: Mapping[Mark, Sequence[Row]], y: Any, tips: Sequence[Any]
) -> Iterator[Any]:
    """Signs in the colour of their curve, in rows: beside points they would cover each other."""
    for mark, places in lanes.items():
        of_curves = alt.LookupData(data=data(places), key="curve", fields=["lane"])
        there = base.transform_filter(alt.FieldEqualPredicate(field=mark.field, equal=True))
        there = there.transform_lookup(lookup="curve", from_=of_curves)
        size = max(_lane_height(lay) - 2, 8)
        text = there.mark_text(text=mark.sign, fontSize=size, fontWeight="bold")
        color = lay.series.with_legend(lay.series.color)
        yield text.encode(y=y, color=color, tooltip=list(tips), opacity=opacity())


def _told(row: Row, curve: Curve, lay: Lines) -> Row:
    return {
        **row,
        "label": curve.owner,
        "positions": curve.positions or None,
        "dash": curve.place % len(DASHES),
        "told": told(row[lay.y], row.get(lay.stderr)),
        "interval": interval(row.get(lay.low), row.get(lay.high)) if lay.are_intervals else None,
    }


def _up(rows: Sequence[Row], lay: Lines) -> Axis:
    values = [row.get(name) for row in rows for name in (lay.y, lay.low, lay.high)]
    there = [value for value in values if value is not None]
    below = (lay.lanes + 0.5) * _lane_height(lay) / PLOT_HEIGHT if lay.lanes else 0.0
    if lay.log_y:
        return log_axis(there, below=below)
    return linear_axis(there, lay.y_ends, below=below)


def _along(rows: Sequence[Row], lay: Lines) -> tuple[Any, Any]:
    values = [row[lay.x] for row in rows]
    if lay.column is not None:
        blocks = [value for value in values if value < lay.column]
        return column_axis(blocks or [lay.column / (1 + GAP)], lay.column)
    return steps_axis(values, log=lay.log_x, tight=lay.tight_x)


def _others(rows: Sequence[Row], lay: Lines) -> Any:
    """All lines in grey, with short names and few digits: every panel repeats these data."""
    slim = [
        {
            "c": lay.series.short(row["series"]),
            "x": _short(row[lay.x], 3),
            "y": _short(row[lay.y], 3),
        }
        for row in rows
        if lay.column is None or row[lay.x] < lay.column
    ]
    grey = alt.Chart(data(slim)).mark_line(color=GREY, opacity=0.35, strokeWidth=1, aria=False)
    up, (scale, axis) = _up(rows, lay), _along(rows, lay)
    return grey.encode(
        x=alt.X("x:Q", title=lay.words.x, scale=scale, axis=axis),
        y=up.channel("y", lay.words.y),
        detail="c:N",
    )


def _short(value: float, digits: int = 4) -> float:
    """`value` to the digits that a pixel shows; bars and grey lines show no numbers."""
    return float(f"{value:.{digits}g}")


def _parted(rows: Sequence[Row], lay: Lines, shown: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """Rows without their constant fields, and one row of these for each curve.

    Nulls are left out, and fields that are neither `lay.drawn` nor `shown`.
    """
    curves: dict[str, list[Row]] = {label: [] for label in lay.series.labels}
    for row in rows:
        curves[row["series"]].append(row)
    kept = [name for name in rows[0] if name in (*lay.drawn, *shown, "dash")]
    constant = [
        name
        for name in kept
        if name not in lay.drawn
        and all(len({row[name] for row in own}) == 1 for own in curves.values() if own)
    ]
    slim = [
        {"curve": lay.series.short(row["series"])}  # every point has it
        | {
            name: _short(row[name]) if name in (lay.low, lay.high) else row[name]
            for name in kept
            if name not in constant and row[name] is not None and row[name] is not False
        }
        for row in rows
    ]
    of_curves = [
        {"curve": lay.series.short(own[0]["series"]), **{name: own[0][name] for name in constant}}
        for own in curves.values()
        if own
    ]
    return slim, of_curves


def _letters(rows: Sequence[Row], lay: Lines, up: Axis, x: Any, title: str) -> list[Any]:
    """The letter of each line beside its last point; a thin line leads to one that was moved."""
    last = {row["series"]: row for row in rows}
    ends = sorted(last.values(), key=lambda row: (row[lay.y], row["series"]))
    gap = min(LETTER_HEIGHT / PLOT_HEIGHT, 1 / len(ends))
    shares = [up.share(row[lay.y]) for row in ends]
    found = [
        {
            lay.x: row[lay.x],
            lay.y: plain(up.at(place)),
            "from": row[lay.y],
            "letter": lay.series.short(row["series"]),
            "label": row["label"],
        }
        for row, place in zip(ends, apart(shares, gap), strict=True)
    ]
    letters = alt.Chart(data(found)).mark_text(
        align="left", dx=LETTER_AT, color=INK, fontWeight="bold", aria=False
    )
    leads = alt.Chart(data(found)).mark_rule(
        color=INK, strokeWidth=0.6, xOffset=4, x2Offset=LETTER_AT - 1, aria=False
    )
    return [
        leads.encode(x=x, x2=lay.x, y=up.channel("from", title), y2=lay.y, opacity=opacity(0.6)),
        letters.encode(x=x, y=up.channel(lay.y, title), text="letter:N", opacity=opacity()),
    ]


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places between 0 and 1, moved as little as possible to be `gap` apart.

    Neighbours that are too close are spread around their mean; a group that would cross an end is
    moved to that end. If there are too many to fit, the lowest are below 0.

    >>> [round(place, 3) for place in apart([0.1, 0.12, 0.5, 0.99, 1.0], 0.05)]
    [0.085, 0.135, 0.5, 0.95, 1.0]
    """
    groups: list[tuple[float, int]] = []  # the lowest place, and how many

    def lowest(mean: float, count: int) -> float:
        length = (count - 1) * gap
        return min(max(mean - length / 2, 0.0), 1.0 - length)

    for place in places:
        groups.append((lowest(place, 1), 1))
        while len(groups) > 1 and _end(groups[-2], gap) > groups[-1][0] + 1e-12:
            (low, below), (high, above) = groups[-2:]
            means = low + (below - 1) * gap / 2, high + (above - 1) * gap / 2
            count = below + above
            groups[-2:] = [(lowest((means[0] * below + means[1] * above) / count, count), count)]
    return [low + k * gap for low, count in groups for k in range(count)]


def _end(group: tuple[float, int], gap: float) -> float:
    """The lowest place that is free above a group."""
    low, count = group
    return low + count * gap
