"""Drift in depth of several runs: a row for each run, a cell for each site.

If there is room, every cell contains its number, rotated to vertical; the fill shows it too.
"""

from collections.abc import Iterable
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.hover import told, with_tips
from lpp.analyze.charts.library import alt
from lpp.analyze.charts.panels import Words, filling
from lpp.analyze.charts.rows import (
    Row,
    checked,
    data,
    listing,
    number,
    plain,
    rows,
    says,
    series_of,
)
from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.charts.theme import FILLS, GREY, INK, ON_FILL, heading
from lpp.analyze.quantities.drift import SITE_CHANGES
from lpp.analyze.quantities.quantity import capital
from lpp.store.errors import ErrorKind, InputError

ROW_HEIGHT: Final = 44
"""Pixels of a row: enough for five characters of vertical text."""
WRITTEN: Final = 40
"""Most sites with numbers in their cells: a cell of a picture then has 9 pixels or more."""

_NUMBERS: Final = {name: one for name, one in SITE_CHANGES.items() if one.needs != "spectra"}
"""Numbers that have a value where nothing changed."""


def drift_grid_chart(
    sites: pl.DataFrame, metric: str = "relative_distance", *, runs: RunStyles | None = None
) -> Any:
    """A number of each site of several runs, all compared with one: depth across, runs down.

    sites: a row for each run and site, with `a`, `b`, `site`, `depth` and the metric, such as
    `drift.against.sites_frame` makes. metric: `relative_distance`, `cosine`, `cka` or `overlap`.
    Runs are in the order of the frame. The fill is empty if nothing changed, and full at the number
    farthest from that. runs: the styles of a page's runs.

    An `altair.LayerChart` as wide as its container; without values, a chart that says so. Raises
    InputError for another table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    checked(sites, "drift_sites", ("a", "b", "site", "depth", metric))
    if metric not in _NUMBERS:
        raise InputError(
            f"no drift in depth of {metric!r}: choose {', '.join(_NUMBERS)}.",
            kind=ErrorKind.INVALID_VALUE,
        )
    number = _NUMBERS[metric]
    title, unchanged = f"{number.title} in depth", number.identity
    note = f"{capital(number.definition)}."
    if sites[metric].drop_nulls().is_empty():
        return says(title, f"No {plain(metric)}: none of {len(sites)} rows has a value.")
    found = _cells(sites, metric, unchanged, runs)
    bases = sorted({str(row["a"]) for row in found})
    words = Words(
        title=title,
        notes=[f"From {base}" for base in bases[:2]] + [note],
        description=f"{title}, from {', '.join(bases)}. {listing(_sentences(found, metric))}",
        x="site, by depth",
    )
    return _grid(found, words, metric.replace("_", " "))


def _cells(sites: pl.DataFrame, metric: str, unchanged: float, runs: RunStyles | None) -> list[Row]:
    """A cell for each run and site, in depth order."""
    label = _labels(sites["b"], runs)
    order = {run: place for place, run in enumerate(dict.fromkeys(sites["b"]))}
    final = pl.col("site") == "final"
    frame = sites.unique(("b", "site"), keep="first", maintain_order=True).sort(
        "depth", final, maintain_order=True
    )
    most = max(abs(value - unchanged) for value in frame[metric].drop_nulls()) or 1.0
    found = []
    for run, row in zip(frame["b"], rows(frame), strict=True):
        value = row[metric]
        found.append(
            {
                **{name: part for name, part in row.items() if part is not None},
                "x": row["site"],
                "y": label[run],
                "place": order[run],
                "fill": None if value is None else plain(abs(value - unchanged) / most),
                "text": "none" if value is None else f"{value:.2g}",
                "label": label[run],
                "told": told(value),
            }
        )
    return found


def _labels(every: Iterable[str], runs: RunStyles | None) -> dict[str, str]:
    """The label of each run.

    Without a page's styles, labels have no letter if they are distinct without it: A and B are the
    runs of a comparison.
    """
    _, label = series_of(every, runs)
    if runs is not None:
        return label
    bare = {run: text.partition(" ")[2] for run, text in label.items()}
    return bare if len({*bare.values()}) == len(bare) else label


def _sentences(found: list[Row], metric: str) -> list[str]:
    """A sentence for each run: where it changed most."""
    parts = []
    for run in dict.fromkeys(row["y"] for row in sorted(found, key=lambda row: row["place"])):
        own = [row for row in found if row["y"] == run and row["fill"] is not None]
        if own:
            most = max(own, key=lambda row: row["fill"])
            parts.append(f"{run}: {number(most[metric])} at {most['x']}, of {len(own)} sites")
        else:
            parts.append(f"{run}: no value")
    return parts


def _grid(found: list[Row], words: Words, value: str) -> Any:
    found, tips = with_tips(found, {"told": value})
    across = list(dict.fromkeys(row["x"] for row in found))
    down = list(dict.fromkeys(row["y"] for row in sorted(found, key=lambda row: row["place"])))
    x = alt.X(
        "x:N",
        title=words.x,
        scale=alt.Scale(domain=across, paddingInner=0.04),
        axis=alt.Axis(ticks=False, domain=False, labelAngle=-90, labelOverlap="greedy"),
    )
    y = alt.Y(
        "y:N",
        title=None,
        scale=alt.Scale(domain=down, paddingInner=0.06),
        axis=alt.Axis(ticks=False, domain=False),
    )
    fill = alt.Fill(
        "fill:Q", scale=alt.Scale(domain=[0, 1], range=list(FILLS[1:]), clamp=True), legend=None
    )
    filled = [row for row in found if row["fill"] is not None]
    empty = [row for row in found if row["fill"] is None]
    layers = [alt.Chart(data(filled)).mark_rect().encode(x=x, y=y, fill=fill, tooltip=tips)]
    if empty:
        frame = alt.Chart(data(empty)).mark_rect(fillOpacity=0, stroke=GREY, strokeDash=[2, 3])
        layers.append(frame.encode(x=x, y=y, tooltip=tips))
    for part, color in ((filled, ON_FILL), (empty, INK)):
        if part and len(across) <= WRITTEN:
            text = alt.Chart(data(part)).mark_text(angle=270, color=color, fontSize=9, aria=False)
            layers.append(text.encode(x=x, y=y, text="text:N", tooltip=tips))
    return filling(
        alt.layer(*layers).properties(
            height=ROW_HEIGHT * len(down),
            title=heading(words.title, words.notes),
            description=words.description,
        )
    )
