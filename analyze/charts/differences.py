"""Differences of every two runs as heat maps: one for each number of a profile.

A wall of rows, 190 pairs of twenty runs, in one picture: a row minus a column. Each cell is one
pair, so that a run that differs from all others is a line of one colour.
"""

from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.library import alt
from lpp.analyze.charts.panels import Words, filling, said, stacked
from lpp.analyze.charts.profile import AXES
from lpp.analyze.charts.rows import (
    Row,
    chart_label,
    checked,
    data,
    from_start,
    listing,
    nothing,
    number,
    plain,
    rows,
    says,
)
from lpp.analyze.charts.run_styles import RunStyles, styles_of
from lpp.analyze.charts.theme import FILLS, GREY, ON_FILL
from lpp.analyze.charts.tips import interval, told, with_tips

TITLE: Final = "Differences of every two runs"
BEYOND: Final = "beyond its interval"
"""Verdict of a difference whose 95 % interval leaves out 0."""
SIDE: Final = 240
"""Pixels of a map, upright; a cell of twenty runs has 12."""

_PAIR: Final = ("run_a", "run_b")
_SETTING: Final = ("context", "n_prompts")


def difference_chart(
    differences: pl.DataFrame, *, runs: RunStyles | None = None, columns: int = 2
) -> Any:
    """A grid for each number of a profile: a row's run minus a column's, by their letters.

    differences: rows of the saved query `differences`; of each pair the longest context and most
    prompts, from the first position on. The fill is the difference, in the unit of the number; a
    dot marks those whose 95 % interval leaves out 0. Pairs that share no setting are empty. runs:
    the styles of a page's runs. columns: maps beside each other; `difference_panels` gives charts
    that fill what contains them.

    An `altair.ConcatChart`; without values, a chart that says so. Raises InputError for another
    table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    panels = _panels(differences, runs)
    if not panels:
        return says(TITLE, nothing("differences", differences, "lpp-analyze profile STORE"))
    words = Words(
        title=TITLE,
        notes=[],
        description=" ".join(panel.description for panel in panels.values()),
        x="",
    )
    return stacked(list(panels.values()), columns, words, own_legends=True)


def difference_panels(
    differences: pl.DataFrame, *, runs: RunStyles | None = None
) -> dict[str, Any]:
    """The maps of `difference_chart`, each as wide as its container, by metric."""
    return {name: filling(panel) for name, panel in _panels(differences, runs).items()}


def _panels(differences: pl.DataFrame, runs: RunStyles | None) -> dict[str, Any]:
    needed = ("metric", *_PAIR, *_SETTING, "difference", "verdict")
    frame = from_start(checked(differences, "of differences", needed))
    for one in _SETTING:
        frame = frame.filter(pl.col(one) == pl.col(one).max().over("metric", *_PAIR))
    frame = frame.filter(pl.col("difference").cast(pl.Float64).is_finite())
    styles = styles_of({*frame["run_a"], *frame["run_b"]}, runs)
    named = [name for name in AXES if name in frame["metric"]]
    return {name: _map(name, frame.filter(metric=name), styles) for name in named}


def _map(name: str, frame: pl.DataFrame, styles: RunStyles) -> Any:
    """The grid of one number."""
    pairs = list(zip(frame["run_a"], frame["run_b"], rows(frame), strict=True))
    shown = {run for a, b, _ in pairs for run in (a, b)}
    order = [styles.letter(run) for run in styles.order if run in shown]
    cells = [
        cell
        for a, b, row in pairs
        for cell in (_cell(row, styles, (a, b), 1), _cell(row, styles, (b, a), -1))
    ]
    most = max(abs(cell["fill"]) for cell in cells) or 1.0
    title, unit = AXES[name]
    beyond = [cell for cell in cells if cell["verdict"] == BEYOND]
    words = Words(
        title=title,
        notes=["Row minus column. Dot: the 95 % interval leaves out 0."],
        description=(
            f"{TITLE}: {title.lower()} ({unit}), {len(order)} runs. {len(beyond) // 2} of "
            f"{len(pairs)} differences are beyond their 95 % intervals. {_largest(cells)}"
        ),
        x="",
    )
    return _grid(cells, order, most, unit, words)


def _cell(row: Row, styles: RunStyles, pair: tuple[str, str], sign: int) -> Row:
    """One run minus another."""
    first, second = pair
    ends = [row.get(f"difference_ci_{end}") for end in ("low", "high")]
    low, high = (None if end is None else sign * end for end in ends[::sign])
    return {
        "x": styles.letter(second),
        "y": styles.letter(first),
        "label": chart_label(styles[first]),
        "minus": chart_label(styles[second]),
        "fill": sign * row["difference"],
        "value_told": told(sign * row["difference"]),
        "interval": interval(low, high),
        "verdict": row["verdict"],
        **{key: row[key] for key in ("site", *_SETTING, "flags") if key in row},
    }


def _largest(cells: Sequence[Row]) -> str:
    """The pairs that differ most, as sentences."""
    up = sorted((cell for cell in cells if cell["fill"] > 0), key=lambda cell: -cell["fill"])
    return listing([f"{c['label']} minus {c['minus']}: {number(c['fill'])}" for c in up[:3]])


def _grid(cells: Sequence[Row], order: Sequence[str], most: float, unit: str, words: Words) -> Any:
    found, tips = with_tips(cells, {"value_told": "difference"})
    scale = alt.Scale(domain=list(order), paddingInner=0.04)
    axis: dict[str, Any] = {"ticks": False, "domain": False, "grid": False}
    x = alt.X("x:N", title=None, scale=scale, axis=alt.Axis(orient="top", labelAngle=0, **axis))
    y = alt.Y("y:N", title=None, scale=scale, axis=alt.Axis(**axis))
    legend = alt.Legend(
        title=f"difference ({unit})",
        orient="bottom",
        direction="horizontal",
        gradientLength=160,
        values=[-plain(most), 0, plain(most)],
        format=".3~g",
    )
    fill = alt.Fill(
        "fill:Q",
        scale=alt.Scale(domain=[-most, 0, most], range=list(FILLS)),
        legend=legend,
    )
    same = alt.Chart(data([{"x": letter, "y": letter} for letter in order]))
    dots = alt.Chart(data([cell for cell in found if cell["verdict"] == BEYOND]))
    layers = [
        same.mark_rect(fillOpacity=0, stroke=GREY, strokeDash=[2, 3], aria=False).encode(x=x, y=y),
        alt.Chart(data(found)).mark_rect().encode(x=x, y=y, fill=fill, tooltip=tips),
        dots.mark_circle(color=ON_FILL, size=9, opacity=1, aria=False).encode(
            x=x, y=y, tooltip=tips
        ),
    ]
    return alt.layer(*layers).properties(height=SIDE, **said(words))
