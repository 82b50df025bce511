"""Drift between two models: by depth, by position in the prompt, and how it spreads over tokens.

A line for each pair of runs. All axes of drift are logarithmic: quantising to eight bits and to
three differ by orders of magnitude. Such an axis has no 0: a note says which values are exactly 0.
"""

from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.lines import LineChart, Lines, final_apart, line_panels, panels_by
from lpp.analyze.charts.panels import Words
from lpp.analyze.charts.rows import (
    Row,
    absent,
    bars,
    chart_label,
    checked,
    curve,
    first_positions,
    listing,
    nothing,
    points,
    without_first,
)
from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.charts.theme import Series

COMMAND: Final = "lpp-analyze diff STORE RUN_A RUN_B"
_MEANING: Final = "95 % intervals over prompts"
_TITLE: Final = "Drift by depth"

PANELS: Final = {
    "relative_distance": ("Relative distance of the rows by depth", "|b - a| / |a| (log)"),
    "one_minus_cka": ("1 - CKA by depth", "1 - CKA (log)"),
}

_ROUNDING: Final = 1e-12
"""A CKA that is closer to 1 than this is drawn as 1."""

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


def drift_positions_chart(positions: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Mean KL of each band of positions in the prompt, both axes logarithmic, with 95 % intervals.

    positions: rows of `by_position` with columns `run_a` and `run_b`. runs: as in
    `drift_depth_chart`. An `altair.LayerChart` as wide as its container; without values, a chart
    that says so. Raises InputError for another frame, MachineError(NO_PACKAGE) without the extra
    `report`.
    """
    title = "KL by position in the prompt"
    needed = (*_PAIR, "first", "end", "n_tokens", "kl", "kl_ci_low", "kl_ci_high")
    frame = _with_bars(_pairs(positions, "of drift by position", needed), "kl")
    found, series, notes = _points(frame, "kl", "bands", runs)
    log = any(row["first"] for row in found)
    words = Words(
        title=title,
        notes=[*_compared_with(frame, runs), *bars(found, "bar_high", _MEANING), *notes],
        x=f"first position of the band{' (log)' if log else ''}",
        y="mean KL in nats (log)",
    )
    lay = Lines(
        words=words,
        series=series,
        x="first",
        y="kl",
        value="mean KL (nats)",
        place="position {:g}",
        lead=f"{title}, in nats, log axes",
        low="bar_low",
        high="bar_high",
        log_x=log,
        log_y=True,
    )
    return _of_kl(words, found, lay, positions)


def drift_histogram_chart(bins: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Share of the tokens in each bin of KL, on a log axis; a note has the tokens with a KL of 0.

    bins: rows with `run_a`, `run_b`, the ends of a bin `kl_from` and `kl_below` (null: exactly 0),
    `n_tokens` and `share`. runs: as in `drift_depth_chart`. An `altair.LayerChart` as wide as its
    container; without values, a chart that says so. Raises InputError for another frame,
    MachineError(NO_PACKAGE) without the extra `report`.
    """
    title = "KL per token"
    needed = (*_PAIR, "kl_from", "kl_below", "n_tokens", "share")
    frame = _pairs(bins, "of bins", needed).with_columns(
        kl=(pl.col("kl_from") * pl.col("kl_below")).sqrt()
    )
    found, series, _ = _points(frame, "kl", "bins", runs)
    words = Words(
        title=title,
        notes=[*_compared_with(frame, runs), *_zeros(frame, runs)],
        x="KL of a token in nats (log)",
        y="share of tokens in a bin",
    )
    lay = Lines(
        words=words,
        series=series,
        x="kl",
        y="share",
        value="share of tokens",
        place="{:.1g} nats",
        lead=f"{title}, log axis: share of tokens",
        log_x=True,
    )
    return _of_kl(words, found, lay, bins)


def _of_kl(words: Words, found: list[Row], lay: Lines, frame: pl.DataFrame) -> Any:
    none = nothing("KL", frame, COMMAND)
    return LineChart(words=words, panels=line_panels(found, lay), nothing=none).picture()


def _depth(sites: pl.DataFrame, runs: RunStyles | None) -> LineChart:
    columns = (
        f"{name}{end}"
        for name in ("relative_distance", "cka")
        for end in ("", "_ci_low", "_ci_high")
    )
    needed = (*_PAIR, "n_prompts", "first_position", "site", "depth", "n_tokens", *columns)
    low, high = 1 - pl.col("cka_ci_high"), 1 - pl.col("cka_ci_low")
    distance = 1 - pl.col("cka")
    frame = _pairs(sites, "drift_sites", needed).with_columns(
        one_minus_cka=pl.when(distance.abs() < _ROUNDING).then(0.0).otherwise(distance),
        one_minus_cka_ci_low=low,
        one_minus_cka_ci_high=high,
    )
    return LineChart(
        words=Words(title=_TITLE, notes=_compared_with(frame, runs)),
        panels=panels_by(PANELS, lambda name: _panels_of(name, frame, runs)),
        nothing=nothing("drift_sites", sites, COMMAND),
        numbers=len(PANELS),
    )


def _panels_of(name: str, sites: pl.DataFrame, runs: RunStyles | None) -> dict[str, Any]:
    """The panels of one number, by the letters of their runs."""
    title, unit = PANELS[name]
    shown = ("site", "depth", "n_prompts", "first_position", "n_tokens")
    frame = _with_bars(sites, name).select(*_PAIR, *shown, name, "bar_low", "bar_high")
    frame = frame.sort(*_PAIR, "first_position", "depth", pl.col("site") == "final")
    found, series, notes = _points(frame, name, "sites", runs)
    words = Words(
        title=title,
        notes=[
            *_compared_with(frame, runs),
            *without_first(frame),
            *bars(found, "bar_high", _MEANING),
            *notes,
        ],
        x="depth (blocks)",
        y=unit,
    )
    lay = Lines(
        words=words,
        series=series,
        x="place",
        y=name,
        value=title.removesuffix(" by depth"),
        place="depth {:g}",
        lead=f"{title}, log axis",
        low="bar_low",
        high="bar_high",
        column=final_apart(found, "depth"),
        log_y=True,
    )
    return line_panels(found, lay)


def _pairs(frame: pl.DataFrame, table: str, needed: Sequence[str]) -> pl.DataFrame:
    """The rows of `frame`, checked, that name both runs."""
    return checked(frame, table, needed).drop_nulls(_PAIR)


def _with_bars(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """`frame` with the ends of the interval of `name`, if both are positive."""
    low, high = pl.col(f"{name}_ci_low"), pl.col(f"{name}_ci_high")
    there = (low > 0) & high.is_finite()
    return frame.with_columns(
        bar_low=pl.when(there).then(low), bar_high=pl.when(there).then(high)
    ).drop(f"{name}_ci_low", f"{name}_ci_high")


def _points(
    frame: pl.DataFrame, name: str, what: str, runs: RunStyles | None
) -> tuple[list[Row], Series, list[str]]:
    """Rows in which `name` is positive, with `series`; the series; a note of the others."""
    series, labels = _curves(frame, runs)
    there = points(frame, labels, name)
    found = [row for row in there if row[name] > 0]
    zeros = frame.filter(pl.col(name) == 0).height
    notes = [f"{zeros} of {len(frame)} {what} are 0: not on a log axis."] if zeros else []
    return found, series, [*notes, *absent(frame, there, what)]


def _curves(frame: pl.DataFrame, runs: RunStyles | None) -> tuple[Series, list[str]]:
    """A series for each pair and first position, and the label of each row.

    A pair has the style of its second run, and also its name if all pairs have the same first run.
    """
    styles = _styles(frame, runs)
    one = frame["run_a"].n_unique() == 1
    keys = list(zip(frame["run_a"], frame["run_b"], first_positions(frame), strict=True))
    place = {run: k for k, run in enumerate(styles.order)}
    cut = any(first for *_, first in keys)
    curves = {}
    for a, b, first in sorted({*keys}, key=lambda key: (place[key[1]], place[key[0]], key[2])):
        owner = chart_label(styles[b])
        if not one:
            (_, _, before), (letter, _, name) = (
                chart_label(styles[a]).partition(" "),
                owner.partition(" "),
            )
            owner = f"{styles.letter(a)}→{letter} {before} to {name}"
        curves[a, b, first] = curve(owner, place[b], first, cut=cut)
    return Series(tuple(curves.values())), [curves[key].label for key in keys]


def _styles(frame: pl.DataFrame, runs: RunStyles | None) -> RunStyles:
    """Styles of every run; without those of a page, first runs of pairs have the first letters."""
    every = [*sorted({*frame["run_a"]}), *sorted({*frame["run_b"]})]
    return RunStyles.of_ids(every) if runs is None else runs.including(every)


def _compared_with(frame: pl.DataFrame, runs: RunStyles | None) -> list[str]:
    """A note that names the first run, if all pairs have the same one."""
    first = frame["run_a"].unique().to_list()
    if len(first) != 1:
        return []
    letter, _, name = chart_label(_styles(frame, runs)[first[0]]).partition(" ")
    return [f"Compared with {letter}, {name}."]


def _zeros(bins: pl.DataFrame, runs: RunStyles | None) -> list[str]:
    """A note of the tokens whose KL is exactly 0, which no log axis shows."""
    _, labels = _curves(bins, runs)
    letters = [label.partition(" ")[0] for label in labels]
    zeros = [
        f"{letter} {100 * share:.1f} %"
        for letter, low, share in zip(letters, bins["kl_from"], bins["share"], strict=True)
        if low is None and share is not None
    ]
    return [f"Of the tokens a KL of exactly 0, not shown: {listing(zeros)}"] if zeros else []
