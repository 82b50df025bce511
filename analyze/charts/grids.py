"""Heat maps: differences of runs, pairs of sites."""

from typing import Any, Final

import polars as pl

from lpp.analyze.charts.library import alt
from lpp.analyze.charts.panels import (
    TALL,
    Panels,
    Words,
    distinct,
    heat_map,
    vertical,
)
from lpp.analyze.charts.profiles import NUMBERS
from lpp.analyze.charts.rows import (
    NONE,
    SETTING,
    Row,
    at_largest,
    chart_label,
    checked,
    curves_of,
    from_start,
    listing,
    measured,
    nothing,
    number,
    plain,
    points,
    settings,
)
from lpp.analyze.charts.run_styles import RunStyles, styles_of

SIDE: Final = 240
"""Pixels of the height of a map of every two runs; with twenty runs, a cell has 12."""
BEYOND: Final = "differs from 0"
"""Verdict of a difference whose 95 % interval excludes 0."""

SQUARE: Final = 400
"""Pixels of the height of a square of sites: of 32, each has 12."""

_PAIR: Final = ("run_a", "run_b")
_SITES: Final = ("site", "other_site")
_ALIKE: Final = "Linear CKA"


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
    return _differences(differences, runs).picture(columns)


def difference_panels(
    differences: pl.DataFrame, *, runs: RunStyles | None = None
) -> dict[str, Any]:
    """The maps of `difference_chart`, each as wide as its container, by metric."""
    return _differences(differences, runs).filling()


def _differences(differences: pl.DataFrame, runs: RunStyles | None) -> Panels:
    needed = ("metric", *_PAIR, *SETTING, "difference", "verdict")
    frame = measured(from_start(checked(differences, "of differences", needed)), "difference")
    frame = at_largest(frame, SETTING, "metric", *_PAIR).filter(pl.col("value").is_finite())
    styles = styles_of({*frame["run_a"], *frame["run_b"]}, runs)
    maps = {name: frame.filter(metric=name) for name in NUMBERS}
    return Panels(
        title="Differences of every two runs",
        panels={name: _map(name, part, styles) for name, part in maps.items() if len(part)},
        nothing=nothing("differences", differences, "lpp-analyze profile STORE"),
        numbers=0,
    )


def _map(name: str, frame: pl.DataFrame, styles: RunStyles) -> Any:
    """The grid of one number: a row's run minus a column's run, so a run that differs from all
    others is a line of one colour.
    """
    ends = {"low": -pl.col("high"), "high": -pl.col("low")}
    other = frame.with_columns(value=-pl.col("value"), **ends)
    frame = frame.with_columns(run_a="run_b", run_b="run_a")  # a difference is second - first
    both = pl.concat([frame, other]).drop("site", *SETTING, strict=False)
    shown = {*both["run_a"]}
    labels = {styles.letter(run): chart_label(styles[run]) for run in styles.order if run in shown}
    down, across = ([styles.letter(run) for run in both[column]] for column in _PAIR)
    cells = [
        {
            **row,
            "x": x,
            "y": y,
            "minus": labels[x],
            "label": labels[y],
            "fill": row["value"],
            "beyond": 1 if row["verdict"] == BEYOND else None,
        }
        for x, y, row in zip(across, down, points(both, down), strict=True)
    ]
    largest = sorted((cell for cell in cells if cell["fill"] > 0), key=lambda cell: -cell["fill"])
    parts = [f"{c['label']} minus {c['minus']}: {number(c['fill'])}" for c in largest[:3]]
    most = max(abs(cell["fill"]) for cell in cells) or 1.0
    quantity = NUMBERS[name]
    one_setting = [settings(frame)] if frame.select(SETTING).n_unique() == 1 else []
    words = Words(
        title=quantity.title,
        notes=[*one_setting, "Row minus column. Dot: the 95 % interval leaves out 0."],
        description=(
            f"Differences of every two runs: {quantity.words} ({quantity.axis}), {len(labels)} "
            f"runs. {(frame['verdict'] == BEYOND).sum()} of {len(frame)} differences differ from "
            f"0. {listing(parts)}"
        ),
    )
    return heat_map(
        cells,
        words,
        {"told": "difference"},
        fills=(-most, 0, most),
        order=([*labels], [*labels]),
        height=SIDE / len(labels),
        texts={},
        names={
            key: [{key: letter, field: label} for letter, label in labels.items()]
            for key, field in (("y", "label"), ("x", "minus"))
        },
        legend=alt.Legend(
            title=f"difference ({quantity.axis})",
            orient="bottom",
            direction="horizontal",
            gradientLength=160,
            values=[-plain(most), 0, plain(most)],
            format=".3~g",
        ),
        orient="top",
    )


def cka_chart(cka: pl.DataFrame, *, runs: RunStyles | None = None, columns: int = 2) -> Any:
    """How alike the sites of a run are, in depth order.

    cka: the table `cka`, pairs in depth order; of each run those of its longest prefix and most
    prompts. If each site has one other, such as the next in depth, a row for each run and a column
    for each shallower site, with the number in the cell if there is room; else a square for each
    run. The fill is empty at 0 and full at 1. runs: the styles of a page's runs. columns: squares
    per row; the charts of `cka_panels` fill their container.

    An `altair.LayerChart` as wide as its container, or an `altair.ConcatChart` of several; without
    values, a chart that says so. Raises InputError for another table, MachineError(NO_PACKAGE)
    without the extra `report`.
    """
    return _alike(cka, runs).picture(columns)


def cka_panels(cka: pl.DataFrame, *, runs: RunStyles | None = None) -> dict[str, Any]:
    """The maps of `cka_chart`, each as wide as its container: by run, or one of all runs."""
    return _alike(cka, runs).filling()


def _alike(cka: pl.DataFrame, runs: RunStyles | None) -> Panels:
    checked(cka, "cka", ("run", *_SITES, "prefix", "n_prompts", "cka"))
    frame = at_largest(cka, ("prefix", "n_prompts"), "run")
    frame = frame.unique(("run", *_SITES), keep="first", maintain_order=True)
    _, labels = curves_of(frame, runs)
    cells = [
        {**row, "x": row["site"], "y": row["label"], "fill": row["value"]}
        for row in points(measured(frame, "cka"), labels)
    ]
    one_other = frame.select("run", "site").is_unique().all()
    there = any(cell["value"] is not None for cell in cells)
    return Panels(
        title=_ALIKE,
        panels=(_rows_of_runs(cells) if one_other else _squares(cells)) if there else {},
        nothing=nothing("cka", cka, "lpp-analyze cka STORE"),
    )


def _rows_of_runs(cells: list[Row]) -> dict[str, Any]:
    for cell in cells:
        cell["text"] = NONE if cell["value"] is None else f"{cell['value']:.2f}"
    order = distinct(cells, "x"), distinct(cells, "y")
    of = " of each site and the next"
    return {"cka": _sites_map(cells, cells, order, height=TALL, of=of)}


def _squares(cells: list[Row]) -> dict[str, Any]:
    labels = distinct(cells, "label")
    squares = {}
    for k, label in enumerate(labels, 1):
        of_label = [cell for cell in cells if cell["label"] == label]
        sites = list(dict.fromkeys(cell[end] for cell in of_label for end in _SITES))
        both = [{**c, "x": c[x], "y": c[y]} for c in of_label for x, y in (_SITES, _SITES[::-1])]
        height = SQUARE / len(sites)
        of = " of every two sites" + (f" of {label}" if labels[1:] else "")
        squares[f"cka-{k}"] = _sites_map(of_label, both, (sites, sites), height=height, of=of)
    return squares


def _sites_map(
    pairs: list[Row],
    cells: list[Row],
    order: tuple[list[str], list[str]],
    *,
    height: float,
    of: str,
) -> Any:
    """A map of `cells`, each of which shows one of `pairs`. of: which pairs, for the title."""
    known = sorted((c for c in pairs if c["value"] is not None), key=lambda cell: cell["value"])
    parts = [f"{c['site']} and {c['other_site']} of {c['label']}: {c['told']}" for c in known]
    settings = {(cell["n_prompts"], cell["prefix"]) for cell in pairs}
    words = Words(
        title=f"{_ALIKE}{of}",
        notes=[f"{n} prompts, prefix {prefix}." for n, prefix in sorted(settings)[:2]],
        description=f"{_ALIKE}{of}, the least alike first. {listing(parts)}",
        x="site, by depth",
    )
    return heat_map(
        cells,
        words,
        {"told": "CKA", "site": "site", "other_site": "and"},
        fills=(0, 1),
        order=order,
        height=height,
        texts=vertical(order[0]) if "text" in cells[0] else {},
        labelAngle=-90,
        labelOverlap="greedy",
    )
