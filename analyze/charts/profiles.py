"""Profiles side by side, by prefix, by depth, along a training; and spectra."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from lpp.analyze.charts.axes import PREFIX, RANK, RELATIVE_DEPTH, STEP
from lpp.analyze.charts.lines import Lines, Mark, by_depth, line_chart
from lpp.analyze.charts.panels import Panels, Words, dots
from lpp.analyze.charts.rows import (
    SETTING,
    Row,
    at_largest,
    bars,
    checked,
    curves_of,
    from_start,
    fullest,
    listing,
    measured,
    named_curves,
    nothing,
    number,
    plain,
    points,
    settings,
)
from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.metrics.registry import PROFILE, RANKS
from lpp.analyze.quantities.profiles import ENTROPY_NORM
from lpp.analyze.quantities.quantity import Quantity

_DIMENSIONS: Final = RANKS[::2]
NUMBERS: Final = {name: PROFILE[name] for name in ("entropy_floor", *_DIMENSIONS)}
"""Numbers of a profile, in the order of panels."""

_MARKS: Final = (
    Mark("collapsed", "×", "collapsed layer", "Collapsed layers"),
    Mark("sink", "†", "attention sinks at the first positions", "Layers with attention sinks"),
)
"""Flags of ranks that have a sign."""

_SHARE: Final = Quantity(
    name="share",
    of="site",
    label="share of variance",
    unit="share",
    share_of="variance",
    definition="eigenvalue over the sum of all",
    source="Pearson 1901",
)

POINTS: Final = 60
"""Points of a spectrum that are drawn, at most."""

_CURVE: Final = ("series", "site", "prompt_set")
"""Columns that are constant along a curve of a training, whatever the context."""


def profile_chart(
    profiles: pl.DataFrame,
    *,
    runs: RunStyles | None = None,
    columns: int = 2,
) -> Any:
    """Entropy floor, participation ratio and effective rank of each run with 95 % intervals.

    profiles: the table `profiles`, or rows of `site_profiles` at one site. Each run is shown at
    its longest context and most prompts. runs: the styles of a page's runs. columns: panels per
    row; with 1 the chart fits a telephone, and `profile_panels` gives charts that fill whatever
    contains them.

    An `altair.ConcatChart`; without rows, a chart that says so. Raises InputError for a frame
    that is no such table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    return _profiles(profiles, runs).picture(columns)


def profile_panels(
    profiles: pl.DataFrame,
    *,
    runs: RunStyles | None = None,
) -> dict[str, Any]:
    """The panels of `profile_chart`, each as wide as its container, by column of `profiles`."""
    return _profiles(profiles, runs).filling()


def _profiles(profiles: pl.DataFrame, runs: RunStyles | None) -> Panels:
    checked(profiles, "profiles", ("run", "site", *SETTING, *NUMBERS))
    chosen, notes = fullest(from_start(profiles))
    chosen = chosen.sort("run")
    series, labels = curves_of(chosen, runs)
    by_number = {name: points(measured(chosen, name), labels) for name in NUMBERS}
    of = _count(chosen)
    return Panels(
        title=f"Profiles of {of}" if len(chosen) else "Profiles",
        notes=[
            *notes,
            *bars([row for part in by_number.values() for row in part]),
        ],
        panels={
            name: dots(part, series, _words(NUMBERS[name], of, part))
            for name, part in by_number.items()
            if part
        },
        nothing=nothing("profiles", profiles, "lpp-analyze profile STORE"),
        numbers=len(NUMBERS),
    )


def _words(quantity: Quantity, of: str, shown: Sequence[Row]) -> Words:
    title, unit = quantity.title, quantity.axis
    parts = [
        f"{row['series']}: {number(row['value'])}"
        + (f" (95 % {row['interval']})" if row["interval"] else "")
        for row in shown
    ]
    return Words(title=title, description=f"{title} ({unit}) of {of}. {listing(parts)}", x=unit)


def _count(frame: pl.DataFrame) -> str:
    runs = frame["run"].n_unique()
    sites = sorted(set(frame["site"].drop_nulls()))
    where = f" at {plain(sites[0])}" if len(sites) == 1 else ""
    return f"{runs} run{'s' * (runs != 1)}{where}"


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


def _entropy(entropy: pl.DataFrame, runs: RunStyles | None) -> Panels:
    checked(entropy, "entropy", ("run", *SETTING, PREFIX.field, ENTROPY_NORM.name))
    chosen, notes = fullest(entropy.sort("run", PREFIX.field))
    return line_chart(
        chosen,
        curves_of(chosen, runs),
        [Lines(number=ENTROPY_NORM, x=PREFIX, notes=notes)],
        nothing("entropy", entropy, "lpp-analyze profile STORE"),
    )


def depth_chart(layers: pl.DataFrame, *, runs: RunStyles | None = None, columns: int = 2) -> Any:
    """Participation ratio and effective rank by depth, on log axes, with 95 % intervals.

    layers: the table `layers`; each run at its longest context and most prompts. `final`, after the
    last norm, is to the right of a gap, and no line leads to it. In a strip below the plot, in a
    row for each curve, a cross marks a collapsed layer, whose participation ratio is within 1 % of
    1, and a dagger a layer with the flag `sink`. Rows with another `first_position` form a second,
    dashed curve of their run, without the first positions. More than ten curves are drawn with five
    runs in each panel. runs: the styles of a page's runs. columns: panels per row; the charts of
    `depth_panels` fill their container.

    Returns an `altair.ConcatChart`; without values, a chart that says so. Raises InputError for
    another table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    return _depth(layers, runs).picture(columns)


def depth_panels(layers: pl.DataFrame, *, runs: RunStyles | None = None) -> dict[str, Any]:
    """The panels of `depth_chart`, each as wide as its container, by column of `layers`.

    If a panel does not have all runs, its name has the letters of its own.
    """
    return _depth(layers, runs).filling()


def _depth(layers: pl.DataFrame, runs: RunStyles | None) -> Panels:
    depth = RELATIVE_DEPTH.field
    checked(layers, "layers", ("run", "site", *SETTING, depth, "flags", *_DIMENSIONS))
    chosen, notes = fullest(layers)
    chosen = by_depth(chosen, "run", depth)
    return line_chart(
        chosen,
        curves_of(chosen, runs),
        [
            Lines(number=PROFILE[name], x=RELATIVE_DEPTH, log=True, marks=_MARKS)
            for name in _DIMENSIONS
        ],
        nothing("layers", layers, "lpp-analyze layers STORE"),
        title="Ranks by depth",
        notes=notes,
    )


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


def _spectrum(eigenvalues: pl.DataFrame, runs: RunStyles | None) -> Panels:
    needed = ("run", "site", "depth", *SETTING, "prefix", RANK.field, "eigenvalue", _SHARE.name)
    chosen, notes = fullest(from_start(checked(eigenvalues, "of eigenvalues", needed)))
    chosen = at_largest(chosen, ("depth", "prefix"), "run")
    # block.B (before the final norm) and final (after it) have the same depth
    final = pl.col("site") == "final"
    chosen = chosen.filter(final | ~final.any().over("run"), pl.col(_SHARE.name) > 0)
    chosen = thinned(chosen.sort("run", RANK.field))
    where = chosen.select("site", "prefix").unique().sort("site", "prefix").rows()[:3]
    of = "; ".join(f"{plain(site)}, prefix {prefix} tokens" for site, prefix in where)
    return line_chart(
        chosen,
        curves_of(chosen, runs),
        [Lines(number=_SHARE, x=RANK, log=True, notes=[of, *notes])],
        nothing("eigenvalues", eigenvalues, "lpp-analyze profile STORE"),
    )


def thinned(spectra: pl.DataFrame, points: int = POINTS) -> pl.DataFrame:
    """The rows of each run at log-spaced values of `rank`: first and last kept, `points` at most.

    spectra: by run and rank, from 1. A run with at most `points` rows keeps them all, so thinning
    twice changes nothing more.

    >>> spectra = pl.DataFrame({"run": "a", "rank": range(1, 1001)})
    >>> thinned(spectra, 6)["rank"].to_list()
    [1, 4, 16, 63, 251, 1000]
    """
    parts = [_log_spaced(part, points) for part in spectra.partition_by("run", maintain_order=True)]
    return pl.concat(parts) if parts else spectra


def _log_spaced(spectrum: pl.DataFrame, points: int) -> pl.DataFrame:
    if len(spectrum) <= points:
        return spectrum
    wanted = np.unique(np.geomspace(1, len(spectrum), points).round().astype(int))
    return spectrum[wanted - 1]


def training_chart(checkpoints: pl.DataFrame, *, columns: int = 2) -> Any:
    """Entropy floor, participation ratio and effective rank by step, with 95 % intervals.

    checkpoints: the table `profiles` with the columns `series` and `step` of `runs`:
    `SELECT profiles.*, series, step FROM profiles JOIN runs USING (run)`. A line for each series,
    of runs that read the same prompts at one site, context and number of prompts; of several
    settings, the one with most steps. Steps are on a log axis where they span two decades.
    columns: panels per row; `training_panels` gives charts that fill their container.

    An `altair.ConcatChart`; without rows, a chart that says so. Raises InputError for another
    frame, MachineError(NO_PACKAGE) without the extra `report`.
    """
    return _training(checkpoints).picture(columns)


def training_panels(checkpoints: pl.DataFrame) -> dict[str, Any]:
    """The panels of `training_chart`, each as wide as its container, by column of `profiles`."""
    return _training(checkpoints).filling()


def training_curves(checkpoints: pl.DataFrame) -> pl.DataFrame:
    """The rows that are drawn, by curve and step, with their `curve`: one row for each step.

    A curve has the name of its series; curves of one series have their corpus in it too.
    """
    needed = ("run", *_CURVE, "corpus", *SETTING, STEP.field, *NUMBERS)
    frame = from_start(checked(checkpoints, "of checkpoints", needed)).drop_nulls(
        ["series", "step"]
    )
    counts = frame.group_by(*_CURVE, *SETTING).agg(pl.col("step").n_unique().alias("steps"))
    most = counts.sort("steps", *SETTING).unique(_CURVE, keep="last", maintain_order=True)
    frame = frame.join(most, on=[*_CURVE, *SETTING], nulls_equal=True)
    # two runs of one step differ in dtype or backend: one of them is enough
    frame = frame.sort("run").unique([*_CURVE, "step"], keep="first", maintain_order=True)
    names = frame.select(*_CURVE, "corpus").unique(_CURVE, keep="first").sort(_CURVE)
    alike = pl.len().over("series") > 1
    index = pl.int_range(1, pl.len() + 1).over("series").cast(pl.String)
    name = (
        pl.when(alike)
        .then(pl.concat_str("series", pl.lit(", "), "corpus", pl.lit(" "), index))
        .otherwise("series")
    )
    names = names.with_columns(curve=name).drop("corpus")
    return frame.join(names, on=_CURVE, nulls_equal=True).sort("curve", "step")


def _training(checkpoints: pl.DataFrame) -> Panels:
    curves = training_curves(checkpoints)
    return line_chart(
        curves,
        named_curves([*curves["curve"]]),
        [
            Lines(
                number=PROFILE[name],
                x=STEP,
                of="series",
                marks=_MARKS if name in _DIMENSIONS else (),
            )
            for name in NUMBERS
        ],
        nothing("checkpoints", checkpoints, "lpp-analyze profile STORE"),
        title="Profiles along the training",
        notes=[settings(curves, "site")],
    )
