"""Curves with a letter at the end of each, dots with intervals, maps of cells.

A panel has at most ten curves: two of each colour, which differ in shape and dash. More runs are
divided into panels of five, one for each colour, with equal axes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from lpp.analyze.charts.frames import bars, data, listing, measured, tipped
from lpp.analyze.charts.run_styles import DASHES, PALETTE, SHAPES
from lpp.analyze.charts.theme import FILLS, HOVER, INK, ON_FILL, PLOT_HEIGHT, alt, heading, opacity
from lpp.analyze.quantities.quantity import Quantity

AXES: Final[Mapping[str, str]] = {
    "prefix": "prefix (tokens)",
    "depth": "depth (blocks)",
    "relative_depth": "depth (share of blocks)",
    "step": "step of the training",
    "first": "position, first of the band (log)",
    "rank": "rank of the eigenvalue (log)",
    "kl": "KL of a token in nats (log)",
}
"""Titles of the columns that curves go along."""
LINES: Final = 10
"""Curves of one panel, at most."""
LETTER_HEIGHT: Final = 12
LETTER_AT: Final = 14
"""Pixels from the end of a line to its letter."""
GAP: Final = 0.15
"""Gap between the last block and `final`, as a share of the depth."""
DECADES: Final = 100
"""Ratio of the largest to the smallest positive step from which their axis is logarithmic."""
ROOM: Final = 1.15
"""How far a log axis reaches beyond its values."""
FLAGGED: Final = ("collapsed", "sink")
"""Flags of ranks whose points have a white core."""


def lines(frame: pl.DataFrame, quantities: Sequence[Quantity], along: str, **how: Any) -> list[Any]:
    """The panels of each quantity by `along`, one of `AXES`; those without values are left out.

    frame: rows with a column of each quantity, and with curves of `frames`, sorted by curve and
    `along`. how: as of `_lines`.
    """
    return [panel for quantity in quantities for panel in _lines(frame, quantity, along, **how)]


def _lines(
    frame: pl.DataFrame,
    quantity: Quantity,
    along: str,
    *,
    title: str = "",
    subject: str = "run",
    notes: Sequence[str] = (),
    over: str = "prompts",
    log: bool = False,
    zero: bool = True,
    colors: Sequence[str] = PALETTE,
    behind: Sequence[Any] = (),
) -> list[Any]:
    """title: empty: the quantity by `along`. subject: what colours stand for. notes: below the
    title, and in the description. over: what intervals are over. log: whether the vertical axis is
    logarithmic. zero: whether a linear one begins at 0. colors: those of runs, whose curves have
    letters, or of names. behind: layers below all others.
    """
    every = measured(frame, quantity.name, log=log)
    valued = every.filter(pl.col("value").is_finite()).drop_nulls(along)
    rows = valued.filter(pl.col("value") > 0) if log else valued
    if rows.is_empty():
        return []
    flagged = pl.lit(value=False)
    if quantity.unit == "dimensions":
        flagged = pl.any_horizontal(pl.col("flags").list.contains(flag) for flag in FLAGGED)
    rows = rows.with_columns(flagged=pl.when(flagged).then(1))
    lost, zeros = len(every) - len(valued), len(valued) - len(rows)
    title = title or f"{quantity.title} by {AXES[along].split()[0]}"
    below = [
        *notes,
        *(
            f"-{k}: without the first {k} position{'s' * (k > 1)} of each prompt."
            for k in sorted({*rows["first_position"]} - {0})
        ),
        *["White core: a collapsed layer, or attention sinks."][: rows["flagged"].count()],
        *bars(rows, over),
        *([f"A log axis cannot show 0: {zeros} of {len(every)} points."] if zeros else []),
        *([f"{lost} of {len(every)} points have no value."] if lost else []),
    ]
    x, y = _along(rows, along), _up(rows, quantity, log=log, zero=zero)
    labels = rows.sort("place", maintain_order=True)["label"].unique(maintain_order=True).to_list()
    count = 1 if rows["curve"].n_unique() <= LINES else math.ceil(len(labels) / len(PALETTE))
    each, panels = math.ceil(len(labels) / count), []
    for start in range(0, len(labels), each):
        own = labels[start : start + each]
        part = rows.filter(pl.col("label").is_in(own))
        letters = [label.partition(" ")[0] for label in (own[0], own[-1])]
        name = f"{title}, {'–'.join(dict.fromkeys(letters))}" if count > 1 else title
        layers = [*behind, *_curves(part, along, x, y, colors, value=quantity.words, label=subject)]
        if colors is PALETTE:
            layers += _letters(part, along, x, y)
        said = [f"{name}, {quantity.axis}.", *_said(part, along), *(f"{n}." for n in notes)]
        words = {"title": heading(name, below), "description": " ".join(said)}
        panels.append(alt.layer(*layers).properties(height=PLOT_HEIGHT, **words))
    return panels


def by_depth(frame: pl.DataFrame, depth: str) -> pl.DataFrame:
    """`frame` along its curves, with `final`, which has the depth of the last block, apart."""
    final = pl.col("site") == "final"
    frame = frame.with_columns(pl.col(depth).cast(pl.Float64).fill_nan(None))
    last: Any = frame.filter(~final)[depth].max() or frame[depth].max() or 1
    placed = pl.when(final).then((1 + GAP) * last).otherwise(depth).round(6).alias(depth)
    return frame.with_columns(placed).sort("place", "curve", depth, maintain_order=True)


def _along(rows: pl.DataFrame, along: str) -> Any:
    """The horizontal axis: tight, with a tick `final` where rows are of it."""
    values: list[float] = rows[along].to_list()
    low, high = min(values), max(values) or 1.0
    least = min((value for value in values if value > 0), default=1.0)
    title = AXES[along]
    steps_log = along == "step" and high > DECADES * least
    log = "(log)" in title or steps_log
    scale: dict[str, Any] = {"zero": along != "step"}
    labels: Any = alt.Undefined
    ticks: list[float] = []
    if "depth" in along and (rows["site"] == "final").any():
        last = high / (1 + GAP)
        step = 0.2 if last <= 1 else next(s for s in (1, 2, 5, 10, 20, 50, last) if last <= 6 * s)
        scale = {"domain": [0, 1.04 * high]}
        ticks = [*np.arange(0.0, 1.01 * last, step).round(1).tolist(), high]
        labels = f"datum.value > {last} ? 'final' : datum.label"
    elif log and low > 0:
        scale = {"type": "log", "domain": [low / ROOM, high * ROOM]}
    elif log:
        scale = {"type": "symlog", "constant": least, "domain": [0, high * ROOM]}
        decades = range(math.ceil(math.log10(least)), math.floor(math.log10(ROOM * high)) + 1)
        ticks = sorted({*values})
        ticks = ticks if len(ticks) <= LINES else [0.0, *(10.0**k for k in decades)]
    count: dict[str, Any] = {"values": ticks, "tickCount": len(ticks)} if ticks else {}
    return alt.X(
        f"{along}:Q",
        title=f"{title} (log)" if steps_log else title,
        scale=alt.Scale(nice=False, **scale),
        axis=alt.Axis(format=",.12~g", labelOverlap="greedy", labelExpr=labels, **count),
    )


def _up(rows: pl.DataFrame, quantity: Quantity, *, log: bool, zero: bool) -> dict[str, Any]:
    """The vertical axis, for `alt.Y`: its ends are known, since letters are moved apart on it."""
    parts = [rows[name] for name in ("value", "low", "high")]
    values: list[float] = pl.concat(parts).drop_nulls().to_list()
    low, high = min(values), max(values)
    ends: dict[str, Any] = {"zero": False}
    if log:
        ends = {"domain": [low / ROOM, min(high * ROOM, max(quantity.limits[1], high))]}
    elif zero:
        ends = {"domain": [min(low, 0.0), 1.03 * max(high, 0.0) or 1.0]}
    return {
        "title": f"{quantity.axis} (log)" if log else quantity.axis,
        "scale": alt.Scale(type="log" if log else "linear", nice=not zero, **ends),
        "axis": alt.Axis(format="~e" if log and low < 1e-3 else ",.12~g"),
    }


def _said(rows: pl.DataFrame, along: str) -> list[str]:
    """What a panel shows, in words: for each line from where to where, and its extremes."""
    parts, word = [], AXES[along].split()[0].strip(",")
    for line in rows.partition_by("curve", maintain_order=True):
        sites = line["site"] if "depth" in along else [""] * len(line)
        places = [
            f"{value:.4g} at {'final' if site == 'final' else f'{word} {x:,.6g}'}"
            for value, x, site in zip(line["value"], line[along], sites, strict=True)
        ]
        order = line["value"].arg_sort()
        curve, label = line["curve"][0], line["label"][0]
        who = label if curve == label else f"{curve} {label.partition(' ')[2]}"
        ends = (
            f"{places[0]}, {places[-1]}; smallest {places[order[0]]}, largest {places[order[-1]]}"
        )
        parts.append(f"{who}: {ends}")
    n = rows["flagged"].count()
    more = [f"{n} points are of collapsed layers or attention sinks."] if n else []
    return [listing(parts), *more]


def channels(rows: pl.DataFrame, colors: Sequence[str] = PALETTE) -> tuple[Any, Any]:
    """Colour and shape by `label`."""
    places = dict(rows.select("label", "place").unique().sort("place", "label").rows())

    def scale(values: Sequence[str]) -> Any:
        own = [values[place % len(values)] for place in places.values()]
        return alt.Scale(domain=[*places], range=own)

    legend = alt.Legend(title=None, symbolOpacity=1)
    return (
        alt.Color("label:N", scale=scale(colors), legend=legend),
        alt.Shape("label:N", scale=scale(SHAPES), legend=legend),
    )


def _curves(
    rows: pl.DataFrame,
    along: str,
    x: Any,
    y: Mapping[str, Any],
    colors: Sequence[str],
    **titles: str,
) -> list[Any]:
    """Intervals, lines, points, and the core of flagged points; no line leads to `final`."""
    drawn = (along, "value", "low", "high", "label", "curve", "flagged")
    shown, tips = tipped(rows, drawn, **titles)
    color, shape = channels(rows, colors)
    plain = alt.Chart(data(shown)).encode(x=x, y=alt.Y("value:Q", **y), opacity=opacity())
    base = plain.encode(color=color)
    final: Any = rows.filter(site="final")[along].max() if "depth" in along else None
    joined = base if final is None else base.transform_filter(f"datum.{along} < {final}")
    line = joined.mark_line(strokeWidth=1.8)
    if colors is PALETTE:
        kind = "first_position" if rows["first_position"].n_unique() > 1 else "place"
        of_curve = dict(rows.select("curve", pl.col(kind).rank("dense")).rows())
        dashes = [DASHES[(k - 1) % len(DASHES)] for k in of_curve.values()]
        scale = alt.Scale(domain=[*of_curve], range=dashes)
        line = line.encode(strokeDash=alt.StrokeDash("curve:N", scale=scale, legend=None))
    points = base.mark_point(filled=True, size=16 if len(rows) >= 200 else 30)
    layers = [line, points.encode(shape=shape, tooltip=tips).add_params(HOVER)]
    if rows["low"].count():
        bars = base.transform_filter("isValid(datum.low)").mark_rule(aria=False)
        faint = opacity(0.35 if len(rows) >= 60 else 0.6)
        layers.insert(0, bars.encode(y=alt.Y("low:Q", **y), y2="high:Q", opacity=faint))
    if rows["flagged"].count():
        core = plain.transform_filter("datum.flagged")
        core = core.mark_circle(size=6, color="white", aria=False)
        layers.append(core.encode(tooltip=tips))
    return layers


def _letters(rows: pl.DataFrame, along: str, x: Any, y: Mapping[str, Any]) -> list[Any]:
    """The letter of each line beside its last point; a thin line leads to one that was moved."""
    to, back = (np.log, np.exp) if y["scale"]["type"] == "log" else (np.asarray, np.asarray)
    low, high = to(y["scale"]["domain"])
    last = rows.group_by("curve", maintain_order=True).last().sort("value", "curve")
    shares = (to(last["value"].to_numpy()) - low) / (high - low)
    places = apart(shares, min(LETTER_HEIGHT / PLOT_HEIGHT, 1 / len(last)))
    at = pl.Series(back(low + np.array(places) * (high - low)))
    base = alt.Chart(data(last.select("curve", "label", along, "value", at=at))).encode(x=x)
    lead = base.mark_rule(
        color=INK, strokeWidth=0.6, xOffset=4, x2Offset=LETTER_AT - 1, aria=False
    ).encode(x2=along, y=alt.Y("value:Q", **y), y2="at:Q", opacity=opacity(0.6))
    text = base.mark_text(align="left", dx=LETTER_AT, color=INK, fontWeight="bold", aria=False)
    return [lead, text.encode(y=alt.Y("at:Q", **y), text="curve:N", opacity=opacity())]


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places between 0 and 1, moved as little as possible to be `gap` apart.

    Neighbours that are too close are spread around their mean; a group that would cross an end is
    moved to that end. If there are too many to fit, the lowest are below 0. Places without the gaps
    below them must not fall: isotonic regression by the max-min formula (Barlow et al. 1972).

    >>> [round(share, 3) for share in apart([0.1, 0.12, 0.5, 0.99, 1.0], 0.05)]
    [0.085, 0.135, 0.5, 0.95, 1.0]
    """
    count, gaps = range(len(places)), gap * np.arange(len(places))
    rest = np.array(places) - gaps
    levels = [
        max(min(rest[low : high + 1].mean() for high in count[k:]) for low in count[: k + 1])
        for k in count
    ]
    moved: list[float] = (np.minimum(np.maximum(levels, 0.0), 1.0 - gaps[-1]) + gaps).tolist()
    return moved


def dots(rows: pl.DataFrame, quantity: Quantity, of: str) -> Any:
    """A row for each run, its value with its interval. rows: of `measured`, with curves. of: what
    they are, for a description.
    """
    title, x = quantity.title, quantity.axis
    there = rows.drop_nulls("value").select("label", "value", "low", "high").rows()
    values = [
        f"{label}: {value:.4g}" + ("" if low is None else f" (95 % {low:.4g} to {high:.4g})")
        for label, value, low, high in there
    ]
    description = f"{title} ({x}) of {of}: {listing(values) or 'no value'}"
    shown, tips = tipped(rows, ("label", "value", "low", "high"), value=title)
    order = rows.sort("place")["label"].to_list()
    color, shape = (channel.legend(None) for channel in channels(rows))
    y = alt.Y("label:N", title=None, sort=order, axis=alt.Axis(ticks=False))
    plain = alt.Chart(data(shown)).encode(y=y, opacity=opacity())
    base = plain.encode(color=color)
    layers = [
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2.5, aria=False)
        .encode(x=alt.X("low:Q", title=x), x2="high:Q"),
        base.transform_filter("isValid(datum.value)")
        .mark_point(filled=True, size=90)
        .encode(x=alt.X("value:Q", title=x), shape=shape, tooltip=tips)
        .add_params(HOVER),
        plain.transform_filter("!isValid(datum.value)")
        .mark_text(align="left", color=INK, fontStyle="italic", text="no value")
        .encode(x=alt.value(4)),
    ]
    words = {"title": heading(title), "description": description}
    return alt.layer(*layers).properties(height=24 * len(order), **words)


def cells(
    rows: pl.DataFrame,
    across: Sequence[str],
    down: Sequence[str],
    *,
    title: str,
    notes: Sequence[str],
    description: str,
    told: str,
    fills: Sequence[float],
    height: float,
    x: str | None = "site, by depth",
    text: str = "",
    beyond: bool = False,
    legend: Any = None,
    **x_axis: Any,
) -> Any:
    """A map of cells, a column for each of `across`, a row for each of `down`; one without a value
    is empty.

    rows: `x`, `y`, `value`, `fill`. told: title of the value in a tooltip. fills: values of `fill`:
    without colour and in full colour, or in full colour, without and in full colour. height: of a
    row, in pixels. text: format of the number in a cell, which is vertical and hidden where cells
    are narrow. beyond: whether a dot marks the cells whose `beyond` is true. legend: of the fill.
    x_axis: settings.
    """
    drawn = ("x", "y", "value", "fill", *(["beyond"] if beyond else []))
    shown, tips = tipped(rows.drop_nulls("value"), drawn, value=told)
    axis = {"ticks": False, "domain": False, "labelAngle": -90, "labelOverlap": "greedy"}
    base = alt.Chart(data(shown)).encode(
        tooltip=tips,
        x=alt.X(
            "x:N",
            title=x,
            scale=alt.Scale(domain=[*across], paddingInner=0.04),
            axis=alt.Axis(**{**axis, **x_axis}),
        ),
        y=alt.Y(
            "y:N",
            title=None,
            scale=alt.Scale(domain=[*down], paddingInner=0.06),
            axis=alt.Axis(ticks=False, domain=False),
        ),
    )
    scale = alt.Scale(domain=[*fills], range=[*FILLS[-len(fills) :]], clamp=True)
    layers = [base.mark_rect().encode(fill=alt.Fill("fill:Q", scale=scale, legend=legend))]
    if text:
        room = alt.expr(f"width < {9 * len(across)} ? 0 : 1")
        words = base.mark_text(color=ON_FILL, angle=270, fontSize=9, opacity=room, aria=False)
        layers.append(words.encode(text=alt.Text("value:Q", format=text)))
    if beyond:
        dot = base.transform_filter("datum.beyond")
        layers.append(dot.mark_circle(color=ON_FILL, size=9, opacity=1, aria=False))
    return alt.layer(*layers).properties(
        height=round(height * len(down)), title=heading(title, notes), description=description
    )
