"""Drift between two models: by depth, by position in the prompt, and how it spreads over tokens.

A line for each pair of runs. All axes of drift are logarithmic: quantising to eight bits and to
three differ by orders of magnitude. Such an axis has no 0: a note says which values are exactly 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.axes import DEPTH, POSITION, Along
from lpp.analyze.charts.lines import Lines, by_depth, line_chart
from lpp.analyze.charts.panels import (
    TALL,
    Panels,
    Words,
    distinct,
    filling,
    heat_map,
    says,
    vertical,
)
from lpp.analyze.charts.rows import (
    Curves,
    Row,
    chart_label,
    checked,
    curves_of,
    listing,
    measured,
    nothing,
    number,
    owned_curves,
    plain,
    points,
)
from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.quantities.quantity import Quantity, capital
from lpp.store.errors import InputError

COMMAND: Final = "lpp-analyze diff STORE RUN_A RUN_B"

_KL: Final = PREDICTIONS["kl"]
_BY_DEPTH: Final = (SITE_CHANGES["relative_distance"], SITE_CHANGES["cka"])

_TOKENS: Final = Quantity(
    name="share",
    of="pair",
    unit="share",
    share_of="tokens",
    label="share of tokens",
    definition="tokens with a KL in a bin, over all tokens of a pair",
    source="this project",
)

_GRIDS: Final = {name: change for name, change in SITE_CHANGES.items() if change.needs != "spectra"}
"""Numbers of which a grid has a fill: those that are a distance from where nothing changed."""

_ROUNDING: Final = 1e-12
"""A number that is closer than this to where nothing changed is drawn as unchanged."""

_PAIR: Final = ["run_a", "run_b"]


def drift_depth_chart(
    sites: pl.DataFrame, *, runs: RunStyles | None = None, columns: int = 2
) -> Any:
    """Relative distance and 1 - CKA by depth on log axes, with 95 % intervals.

    sites: the table `drift_sites`; a line for each pair and first position. runs: the styles of a
    page's runs; without them, the first run of all pairs is A. columns: panels per row;
    `drift_depth_panels` gives charts that fill their container. An `altair.ConcatChart`; without
    values, a chart that says so. Raises InputError for another table, MachineError(NO_PACKAGE)
    without the extra `report`.
    """
    return _depth(sites, runs).picture(columns)


def drift_depth_panels(sites: pl.DataFrame, *, runs: RunStyles | None = None) -> dict[str, Any]:
    """The panels of `drift_depth_chart`, each as wide as its container, by name."""
    return _depth(sites, runs).filling()


def _depth(sites: pl.DataFrame, runs: RunStyles | None) -> Panels:
    columns = (f"{change.name}{end}" for change in _BY_DEPTH for end in ("", "_ci_low", "_ci_high"))
    needed = (*_PAIR, "n_prompts", "first_position", "site", "depth", "n_tokens", *columns)
    frame = by_depth(_pairs(sites, "drift_sites", needed), *_PAIR, DEPTH.field)
    curves, notes = _curves(frame, runs)
    lines = []
    for change in _BY_DEPTH:
        number, frame = _from_unchanged(change, frame)
        lines.append(Lines(number=number, x=DEPTH, log=True, notes=notes))
    none = nothing("drift_sites", sites, COMMAND)
    return line_chart(frame, curves, lines, none, title="Drift by depth", notes=notes)


def _from_unchanged(number: Quantity, frame: pl.DataFrame) -> tuple[Quantity, pl.DataFrame]:
    """How far `number` is from its value where nothing changed, and `frame` with that."""
    if not number.identity:
        return number, frame
    name = f"one_minus_{number.name}"
    value, low, high = (
        number.identity - pl.col(f"{number.name}{end}") for end in ("", "_ci_high", "_ci_low")
    )
    frame = frame.with_columns(
        pl.when(value.abs() < _ROUNDING).then(0.0).otherwise(value).alias(name),
        low.alias(f"{name}_ci_low"),
        high.alias(f"{name}_ci_high"),
    )
    least, most = (number.identity - limit for limit in reversed(number.limits))
    label = f"{number.identity:g} - {number.heading}"
    return replace(number, name=name, label=label, bounds=(least, most)), frame


def drift_positions_chart(positions: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Mean KL of each band of positions in the prompt, both axes logarithmic, with 95 % intervals.

    positions: rows of `by_position` with columns `run_a` and `run_b`. runs: as in
    `drift_depth_chart`. An `altair.LayerChart` as wide as its container; without values, a chart
    that says so. Raises InputError for another frame, MachineError(NO_PACKAGE) without the extra
    `report`.
    """
    needed = (*_PAIR, POSITION.field, "end", "n_tokens", "kl", "kl_ci_low", "kl_ci_high")
    frame = _pairs(positions, "of drift by position", needed)
    curves, notes = _curves(frame, runs)
    title = "KL by position in the prompt"
    lines = Lines(number=_KL, x=POSITION, title=title, log=True, notes=notes)
    return line_chart(frame, curves, [lines], nothing("KL", positions, COMMAND)).picture()


def drift_histogram_chart(bins: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Share of the tokens in each bin of KL, on a log axis; a note has the tokens with a KL of 0.

    bins: rows with `run_a`, `run_b`, the ends of a bin `kl_from` and `kl_below` (null: exactly 0),
    `n_tokens` and `share`. runs: as in `drift_depth_chart`. An `altair.LayerChart` as wide as its
    container; without values, a chart that says so. Raises InputError for another frame,
    MachineError(NO_PACKAGE) without the extra `report`.
    """
    needed = (*_PAIR, "kl_from", "kl_below", "n_tokens", "share")
    frame = _pairs(bins, "of bins", needed)
    (_, labels), notes = _curves(frame, runs)
    lines = Lines(
        number=_TOKENS,
        x=Along("kl", f"KL of a token in {_KL.unit}", f"{{:.1g}} {_KL.unit}", "log"),
        title="KL per token",
        notes=[*notes, *_zeros(frame, labels)],
    )
    frame = frame.drop_nulls("kl_from").with_columns(
        kl=(pl.col("kl_from") * pl.col("kl_below")).sqrt()
    )
    curves, _ = _curves(frame, runs)
    return line_chart(frame, curves, [lines], nothing("KL", bins, COMMAND)).picture()


def drift_grid_chart(
    sites: pl.DataFrame, metric: str = "relative_distance", *, runs: RunStyles | None = None
) -> Any:
    """A number of each site of several runs, all compared with one: depth across, runs down.

    sites: a row for each run and site, with `a`, `b`, `site`, `depth` and the metric, such as
    `drift.against.sites_frame` makes. metric: `relative_distance`, `cosine`, `cka` or `overlap`.
    Runs are in the order of the frame. The fill is empty if nothing changed, and full at the number
    farthest from that. If there is room, a cell has its number, rotated to vertical. runs: the
    styles of a page's runs.

    An `altair.LayerChart` as wide as its container; without values, a chart that says so. Raises
    InputError for another table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    checked(sites, "drift_sites", ("a", "b", "site", "depth", metric))
    if metric not in _GRIDS:
        raise InputError(
            f"no drift in depth of {metric!r}: choose {', '.join(_GRIDS)}.",
        )
    quantity = _GRIDS[metric]
    title = f"{quantity.title} in depth"
    if sites[metric].drop_nulls().is_empty():
        return says(title, f"No {metric}: none of {len(sites)} rows has a value.")
    cells, down = _cells(sites, quantity, runs)
    across = distinct(cells, "x")
    bases = sorted({str(cell["a"]) for cell in cells})
    words = Words(
        title=title,
        notes=[*(f"From {base}" for base in bases[:2]), f"{capital(quantity.definition)}."],
        description=f"{title}, from {', '.join(bases)}. {listing([*_farthest(cells, down)])}",
        x="site, by depth",
    )
    grid = heat_map(
        cells,
        words,
        {"told": quantity.words},
        fills=(0, 1),
        order=(across, down),
        height=TALL,
        texts=vertical(across),
        labelAngle=-90,
        labelOverlap="greedy",
    )
    return filling(grid)


def _cells(
    sites: pl.DataFrame, quantity: Quantity, runs: RunStyles | None
) -> tuple[list[Row], list[str]]:
    """A cell for each run and site, in depth order; and the labels of the runs, in order.

    Without a page's styles, labels have no letter if they are distinct without it: A and B are the
    runs of a comparison.
    """
    frame = sites.unique(("b", "site"), keep="first", maintain_order=True)
    _, labels = curves_of(frame.rename({"b": "run"}), runs)
    bare = [label.partition(" ")[2] for label in labels]
    if runs is None and len({*bare}) == len({*labels}):
        labels = bare
    frame = measured(frame, quantity.name).with_columns(label=pl.Series(labels))
    frame = frame.sort("depth", pl.col("site") == "final", maintain_order=True)
    cells, unchanged = points(frame, [*frame["label"]]), quantity.identity or 0.0
    moved = [abs(row["value"] - unchanged) for row in cells if row["value"] is not None]
    for row in cells:
        value = row["value"]
        row |= {
            "x": row["site"],
            "y": row["label"],
            "fill": None if value is None else plain(abs(value - unchanged) / (max(moved) or 1.0)),
            "text": "none" if value is None else f"{value:.2g}",
        }
    return cells, list(dict.fromkeys(labels))


def _farthest(cells: Sequence[Row], down: Sequence[str]) -> Iterator[str]:
    """A sentence for each run: where it changed most."""
    for run in down:
        of_run = [row for row in cells if row["y"] == run and row["fill"] is not None]
        if of_run:
            most = max(of_run, key=lambda row: row["fill"])
            yield f"{run}: {number(most['value'])} at {most['x']}, of {len(of_run)} sites"
        else:
            yield f"{run}: no value"


def _pairs(frame: pl.DataFrame, table: str, needed: Sequence[str]) -> pl.DataFrame:
    """The rows of `frame`, checked, that name both runs."""
    return checked(frame, table, needed).drop_nulls(_PAIR)


def _curves(frame: pl.DataFrame, runs: RunStyles | None) -> tuple[Curves, list[str]]:
    """A curve for each pair and first position, and a note that names the only first run.

    A pair has the style of its second run, and also its name if all pairs have the same first run.
    Without the styles of a page, first runs of pairs have the first letters.
    """
    run_ids = [*sorted({*frame["run_a"]}), *sorted({*frame["run_b"]})]
    styles = RunStyles.of_ids(run_ids) if runs is None else runs.including(run_ids)
    names = {run: chart_label(styles[run]).partition(" ")[::2] for run in run_ids}
    firsts = {*frame["run_a"]}
    owners = []
    for a, b in zip(frame["run_a"], frame["run_b"], strict=True):
        (before, from_), (letter, name) = names[a], names[b]
        both = f"{before}→{letter} {from_} to {name}"
        owner = f"{letter} {name}" if len(firsts) == 1 else both
        owners.append(((styles[b].place, styles[a].place), owner))
    notes = [f"Compared with {', '.join(names[run])}." for run in firsts if len(firsts) == 1]
    return owned_curves(owners, frame), notes


def _zeros(bins: pl.DataFrame, labels: Sequence[str]) -> list[str]:
    """A note of the tokens whose KL is exactly 0, which no log axis shows."""
    zeros = [
        f"{label.partition(' ')[0]} {100 * share:.1f} %"
        for label, low, share in zip(labels, bins["kl_from"], bins["share"], strict=True)
        if low is None and share is not None
    ]
    return [f"Of the tokens a KL of exactly 0, not shown: {listing(zeros)}"] if zeros else []
