"""Differences of every two runs as heat maps: one for each number of a profile.

The 190 pairs of twenty runs fit in one picture. A cell is its row's run minus its column's run, so
a run that differs from all others is a line of one colour.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.hover import interval, told, with_tips
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

_TITLE: Final = "Differences of every two runs"
BEYOND: Final = "differs from 0"
"""Verdict of a difference whose 95 % interval excludes 0."""
SIDE: Final = 240
"""Pixels of a map's height; with twenty runs, a cell has 12."""

_PAIR: Final = ("run_a", "run_b")
_SETTING: Final = ("context", "n_prompts")


def difference_chart(
    differences: pl.DataFrame, *, runs: RunStyles | None = None, columns: int = 2
) -> Any:
    """A grid for each number of a profile: a row's run minus a column's, by their letters.

    differences: rows of the saved query `differences`; of each pair the longest context and most
    prompts, from the first position on. The fill is the difference, in the unit of the number; a
    dot marks those whose 95 % interval excludes 0. Pairs without a common setting are empty. runs:
    the styles of a page's runs. columns: maps per row; the charts of `difference_panels` fill their
    container.

    An `altair.ConcatChart`; without values, a chart that says so. Raises InputError for another
    table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    panels = _panels(differences, runs)
    if not panels:
        return says(_TITLE, nothing("differences", differences, "lpp-analyze profile STORE"))
    words = Words(
        title=_TITLE,
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
    labels = {styles.letter(run): chart_label(styles[run]) for run in styles.order if run in shown}
    cells = [
        cell
        for a, b, row in pairs
        for cell in (_cell(row, styles, (a, b), 1), _cell(row, styles, (b, a), -1))
    ]
    most = max(abs(cell["fill"]) for cell in cells) or 1.0
    title, unit = AXES[name].title, AXES[name].axis
    beyond = [cell for cell in cells if cell["beyond"]]
    words = Words(
        title=title,
        notes=[*_settings(frame), "Row minus column. Dot: the 95 % interval leaves out 0."],
        description=(
            f"{_TITLE}: {title.lower()} ({unit}), {len(labels)} runs. {len(beyond) // 2} of "
            f"{len(pairs)} differences differ from 0. {_largest(cells, labels)}"
        ),
        x="",
    )
    return _grid(cells, labels, most, unit, words)


def _settings(frame: pl.DataFrame) -> list[str]:
    """A note of the setting, if all differences have the same one."""
    found = frame.select(_SETTING).unique().rows()
    return [f"context {context} tokens, {n} prompts" for context, n in found if len(found) == 1]


def _cell(row: Row, styles: RunStyles, pair: tuple[str, str], sign: int) -> Row:
    """One run minus another."""
    first, second = pair
    ends = [row.get(f"difference_ci_{end}") for end in ("low", "high")]
    low, high = (None if end is None else sign * end for end in ends[::sign])
    return {
        "x": styles.letter(second),
        "y": styles.letter(first),
        "fill": sign * row["difference"],
        "told": told(sign * row["difference"]),
        "interval": interval(low, high),
        "beyond": 1 if row["verdict"] == BEYOND else None,
        "flags": row.get("flags"),
    }


def _largest(cells: Sequence[Row], labels: Mapping[str, str]) -> str:
    """The pairs that differ most, as sentences."""
    up = sorted((cell for cell in cells if cell["fill"] > 0), key=lambda cell: -cell["fill"])
    return listing(
        [f"{labels[c['y']]} minus {labels[c['x']]}: {number(c['fill'])}" for c in up[:3]]
    )


def _grid(
    cells: Sequence[Row], labels: Mapping[str, str], most: float, unit: str, words: Words
) -> Any:
    named = [{**cell, "label": labels[cell["y"]], "minus": labels[cell["x"]]} for cell in cells]
    found, tips = with_tips(named, {"told": "difference"})
    slim = [
        {k: part for k, part in cell.items() if k not in {"label", "minus"} and part is not None}
        for cell in found
    ]
    scale = alt.Scale(domain=list(labels), paddingInner=0.04)
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
    same = alt.Chart(data([{"x": letter, "y": letter} for letter in labels]))
    cells_of = alt.Chart(data(slim)).encode(x=x, y=y, tooltip=tips)
    for axis_of, name in (("y", "label"), ("x", "minus")):
        rows_of = data([{axis_of: letter, name: label} for letter, label in labels.items()])
        names = alt.LookupData(data=rows_of, key=axis_of, fields=[name])
        cells_of = cells_of.transform_lookup(lookup=axis_of, from_=names)
    beyond = cells_of.transform_filter(alt.FieldEqualPredicate(field="beyond", equal=1))
    layers = [
        same.mark_rect(fillOpacity=0, stroke=GREY, strokeDash=[2, 3], aria=False).encode(x=x, y=y),
        cells_of.mark_rect().encode(fill=fill),
        beyond.mark_circle(color=ON_FILL, size=9, opacity=1, aria=False),
    ]
    return alt.layer(*layers).properties(height=SIDE, **said(words))
