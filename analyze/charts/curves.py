"""Curves: entropy by prefix, ranks by depth, spectra by rank of the eigenvalue."""

from typing import Any, Final

import numpy as np
import polars as pl

from lpp.analyze.charts.lines import (
    LineChart,
    Lines,
    Mark,
    final_apart,
    line_panels,
    mark_notes,
    panels_by,
)
from lpp.analyze.charts.panels import Words
from lpp.analyze.charts.rows import (
    Row,
    absent,
    bars,
    checked,
    curves_of,
    first_positions,
    from_start,
    fullest,
    nothing,
    optional,
    points,
    without_first,
)
from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.charts.theme import Series
from lpp.analyze.metrics.registry import PROFILE

_RANKS: Final = {name: PROFILE[name].title for name in ("participation_ratio", "effective_rank")}
MARKS: Final = (
    Mark("collapsed", "×", "collapsed layer", "Collapsed layers"),
    Mark("sink", "†", "attention sinks at the first positions", "Layers with attention sinks"),
)
"""Flags of a layer that have a sign in the chart."""

POINTS: Final = 60
"""Points of a spectrum that are drawn, at most."""


def entropy_chart(entropy: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Mean entropy of the next token after each prefix, over ln V, with 95 % intervals.

    entropy: the table `entropy`; each run at its longest context and most prompts. runs: the styles
    of a page's runs; without them, letters follow the sorted ids.

    Returns an `altair.LayerChart` as wide as its container; for more than ten runs, an
    `altair.ConcatChart` with five runs in each panel; without values, a chart that says so. Raises
    InputError for another table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    return _entropy(entropy, runs).picture()


def entropy_panels(entropy: pl.DataFrame, *, runs: RunStyles | None = None) -> dict[str, Any]:
    """The panels of `entropy_chart`, each as wide as its container; the name of a single one is
    empty.
    """
    return _entropy(entropy, runs).filling()


def _entropy(entropy: pl.DataFrame, runs: RunStyles | None) -> LineChart:
    title = "Entropy of the next token by prefix"
    checked(entropy, "entropy", ("run", *_SETTING, "prefix", "entropy_norm"))
    low, high, stderr = (f"entropy_norm_{end}" for end in ("ci_low", "ci_high", "stderr"))
    chosen, notes = fullest(optional(entropy, low, high, stderr))
    found, series, missing = _points(chosen.sort("run", "prefix"), "prefix", "entropy_norm", runs)
    words = Words(
        title=title,
        notes=[*notes, *bars(found, low, "95 % intervals over prompts"), *missing],
        x="prefix (tokens)",
        y="mean entropy over ln V (share)",
    )
    lay = Lines(
        words=words,
        series=series,
        x="prefix",
        y="entropy_norm",
        value="entropy over ln V",
        place="prefix {:g}",
        lead=f"{title}, as a share of ln V",
        low=low,
        high=high,
        stderr=stderr,
    )
    return LineChart(
        words=words,
        panels=line_panels(found, lay),
        nothing=nothing("entropy", entropy, "lpp-analyze profile STORE"),
    )


def depth_chart(layers: pl.DataFrame, *, runs: RunStyles | None = None, columns: int = 2) -> Any:
    """Participation ratio and effective rank by depth, on log axes, collapsed layers crossed.

    layers: the table `layers`; each run at its longest context and most prompts. `final`, after the
    last norm, is to the right of a gap, and no line leads to it. Below the lines, in a row for each
    curve, a cross marks a collapsed layer, whose participation ratio is within 1 % of 1, and a
    dagger a layer with the flag `sink`. Rows
    with another `first_position` form a second, dashed curve of their run, without the first
    positions. Bars are one standard error. More than ten curves are drawn with five runs in each
    panel. runs: the styles of a page's runs. columns: panels per row; the charts of `depth_panels`
    fill their container.

    Returns an `altair.ConcatChart`; without values, a chart that says so. Raises InputError for
    another table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    return _depth(layers, runs).picture(columns)


def depth_panels(layers: pl.DataFrame, *, runs: RunStyles | None = None) -> dict[str, Any]:
    """The panels of `depth_chart`, each as wide as its container, by column of `layers`.

    If a panel does not have all runs, its name has the letters of its own.
    """
    return _depth(layers, runs).filling()


def spectrum_chart(eigenvalues: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Share of the variance of each eigenvalue by its rank, both axes logarithmic.

    eigenvalues: as `read_eigenvalues` gives them. Each run has one line, at the deepest site and
    longest prefix in the frame: filter the frame for another. Lines are thinned to log-spaced
    ranks, at most 60 points with all of the first five, so that a page with a chart for every site
    and prefix stays small. Shares are of the sum before thinning. Zeros are not drawn: the axis is
    logarithmic. runs: the styles of a page's runs.

    Returns an `altair.LayerChart` as wide as its container; for more than ten runs, an
    `altair.ConcatChart` with five runs in each panel; without values, a chart that says so. Raises
    InputError for another frame, MachineError(NO_PACKAGE) without the extra `report`.
    """
    return _spectrum(eigenvalues, runs).picture()


def spectrum_panels(eigenvalues: pl.DataFrame, *, runs: RunStyles | None = None) -> dict[str, Any]:
    """The panels of `spectrum_chart`, each as wide as its container; the name of a single one is
    empty.
    """
    return _spectrum(eigenvalues, runs).filling()


def _spectrum(eigenvalues: pl.DataFrame, runs: RunStyles | None) -> LineChart:
    title = "Spectrum: share of variance by eigenvalue"
    needed = ("run", "site", "depth", *_SETTING, "prefix", "rank", "eigenvalue", "share")
    chosen, notes = fullest(from_start(checked(eigenvalues, "of eigenvalues", needed)))
    for column in ("depth", "prefix"):
        chosen = chosen.filter(pl.col(column) == pl.col(column).max().over("run"))
    # block.B (before the final norm) and final (after it) have the same depth.
    chosen = chosen.filter(
        (pl.col("site") == "final") | ~(pl.col("site") == "final").any().over("run")
    )
    positive = thinned(chosen.filter(pl.col("share") > 0).sort("run", "rank"))
    found, series, _ = _points(positive, "rank", "share", runs)
    where = sorted({f"{row['site']}, prefix {row['prefix']} tokens" for row in found})
    words = Words(
        title=title,
        notes=["; ".join(where[:3]), *notes],
        x="rank of the eigenvalue (log)",
        y="share of variance (log)",
    )
    lay = Lines(
        words=words,
        series=series,
        x="rank",
        y="share",
        value="share of variance",
        place="rank {:g}",
        lead=f"{title}, log axes",
        log_x=True,
        log_y=True,
    )
    return LineChart(
        words=words,
        panels=line_panels(found, lay),
        nothing=nothing("eigenvalues", eigenvalues, "lpp-analyze profile STORE"),
    )


def thinned(spectra: pl.DataFrame, points: int = POINTS) -> pl.DataFrame:
    """The rows of each run at log-spaced values of `rank`: first and last kept, `points` at most.

    spectra: by run and rank, from 1. A run with at most `points` rows keeps them all, so thinning
    twice changes nothing more.

    >>> spectra = pl.DataFrame({"run": "a", "rank": range(1, 1001)})
    >>> thinned(spectra, 6)["rank"].to_list()
    [1, 4, 16, 63, 251, 1000]
    """
    kept = [_log_spaced(part, points) for part in spectra.partition_by("run", maintain_order=True)]
    return pl.concat(kept) if kept else spectra


def _log_spaced(spectrum: pl.DataFrame, points: int) -> pl.DataFrame:
    if len(spectrum) <= points:
        return spectrum
    wanted = np.unique(np.geomspace(1, len(spectrum), points).round().astype(int))
    return spectrum[wanted - 1]


_SETTING: Final = ("context", "n_prompts")


def _depth(layers: pl.DataFrame, runs: RunStyles | None) -> LineChart:
    checked(layers, "layers", ("run", "site", *_SETTING, "relative_depth", "flags", *_RANKS))
    chosen, notes = fullest(layers)
    return LineChart(
        words=Words(title="Ranks by depth", notes=notes),
        panels=panels_by(_RANKS, lambda name: _panels_of(name, chosen, runs)),
        nothing=nothing("layers", layers, "lpp-analyze layers STORE"),
        numbers=len(_RANKS),
    )


def _panels_of(name: str, layers: pl.DataFrame, runs: RunStyles | None) -> dict[str, Any]:
    """The panels of one rank, by the letters of their runs."""
    frame = _layers(name, layers)
    found, series, missing = _points(frame, "relative_depth", name, runs)
    title = f"{_RANKS[name]} by depth"
    words = Words(
        title=title,
        notes=[
            *without_first(frame),
            *mark_notes(found, MARKS),
            *bars(found, "bar_low", "one standard error over prompts"),
            *missing,
        ],
        x="depth (share of blocks)",
        y="dimensions (log)",
    )
    lay = Lines(
        words=words,
        series=series,
        x="place",
        y=name,
        value=_RANKS[name].lower(),
        place="depth {:.2g}",
        lead=f"{title}, in dimensions",
        low="bar_low",
        high="bar_high",
        are_intervals=False,
        stderr=f"{name}_stderr",
        column=final_apart(found, "relative_depth"),
        log_y=True,
        marks=MARKS,
    )
    return line_panels(found, lay)


def _layers(name: str, layers: pl.DataFrame) -> pl.DataFrame:
    """Layers with a positive value or none, with their bars and flags, in order."""
    stderr = f"{name}_stderr"
    flags = pl.col("flags").cast(pl.List(pl.String))
    keys = ("run", "site", *_SETTING, "relative_depth", "flags")
    shown = ("n_tokens", "first_position")
    frame = optional(layers, stderr).select(
        *keys,
        *(column for column in shown if column in layers.columns),
        name,
        stderr,
        pl.when(pl.col(stderr) < pl.col(name)).then(pl.col(name) - pl.col(stderr)).alias("bar_low"),
        (pl.col(name) + pl.col(stderr)).alias("bar_high"),
        *(flags.list.contains(mark.field).fill_null(False).alias(mark.field) for mark in MARKS),
    )
    frame = frame.filter(pl.col(name).is_null() | (pl.col(name) > 0))
    first = first_positions(frame)
    return frame.sort("run", first, "relative_depth", pl.col("site") == "final")


def _points(
    frame: pl.DataFrame, x: str, y: str, runs: RunStyles | None
) -> tuple[list[Row], Series, list[str]]:
    """Rows that have an `x` and a `y`, with `series`; the series; a note of the others."""
    series, labels = curves_of(frame, runs)
    found = points(frame, labels, x, y)
    return found, series, absent(frame, found)
