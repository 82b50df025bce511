"""Charts of runs: profiles, entropy, ranks by depth, spectra, trainings, differences, sites.

Each takes the frame of a table and returns an Altair chart, which says why it is empty where it has
no values. One panel fills its container; several stand in `columns`. `runs` are the letters, names
and colours of a page's runs.
"""

from typing import Any, Final

import numpy as np
import polars as pl

from lpp.analyze.charts.frames import (
    SETTING,
    at_largest,
    bars,
    checked,
    fullest,
    label_of,
    measured,
    nothing,
    of_names,
    of_runs,
    plain,
    said,
    settings,
)
from lpp.analyze.charts.marks import by_depth, cells, dots, lines
from lpp.analyze.charts.run_styles import OTHERS, RunStyles, styles_of
from lpp.analyze.charts.theme import alt, beside
from lpp.analyze.metrics.registry import PROFILE, RANKS
from lpp.analyze.quantities.profiles import ENTROPY_NORM
from lpp.analyze.quantities.quantity import Quantity

DIMENSIONS: Final = RANKS[::2]
NUMBERS: Final = {name: PROFILE[name] for name in ("entropy_floor", *DIMENSIONS)}
"""Numbers of a profile, in the order of panels."""
SHARE: Final = Quantity(
    name="share",
    of="site",
    label="share of variance",
    unit="share",
    share_of="variance",
    definition="eigenvalue over the sum of all",
    source="Pearson 1901",
)
CURVE: Final = ("series", "site", "prompt_set")
"""Columns that are constant along a curve of a training, whatever the context."""
_PROFILE: Final = "lpp-analyze profile STORE"


def profile_chart(
    profiles: pl.DataFrame, *, runs: RunStyles | None = None, columns: int = 2
) -> Any:
    """Entropy floor, participation ratio and effective rank of each run with 95 % intervals.

    profiles: the table `profiles`, or rows of `site_profiles` at one site. Each run is shown at
    its longest context and most prompts. runs:
    letters, names and colours of runs. columns: panels per row; with 1 the chart fits a
    telephone. Raises InputError for another table.
    """
    frame = checked(profiles, "profiles", ("run", "site", *SETTING, *NUMBERS))
    chosen, notes = fullest(frame.filter(first_position=0).sort("run"))
    n, sites = chosen["run"].n_unique(), chosen["site"].drop_nulls().unique()
    of = f"{n} run{'s' * (n != 1)}" + (f" at {plain(sites[0])}" if len(sites) == 1 else "")
    every = {name: measured(of_runs(chosen, runs), name) for name in NUMBERS if n}
    panels = [dots(rows, NUMBERS[name], of) for name, rows in every.items()]
    notes += dict.fromkeys(note for rows in every.values() for note in bars(rows))
    none = nothing("profiles", profiles, _PROFILE)
    return beside(panels, f"Profiles of {of}" if n else "Profiles", none, notes, columns)


def entropy_chart(entropy: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Mean entropy of the next token after each prefix, over ln V, with 95 % intervals.

    entropy: the table `entropy`; each run at its longest context and most prompts. runs:
    letters, names and colours of runs. Raises InputError for another table.
    """
    frame = checked(entropy, "entropy", ("run", *SETTING, "prefix", ENTROPY_NORM.name))
    chosen, notes = fullest(frame.sort("run", "prefix"))
    panels = lines(of_runs(chosen, runs), [ENTROPY_NORM], "prefix", notes=notes)
    return beside(panels, "Entropy by prefix", nothing("entropy", entropy, _PROFILE))


def depth_chart(layers: pl.DataFrame, *, runs: RunStyles | None = None, columns: int = 2) -> Any:
    """Participation ratio and effective rank by depth, on log axes, with 95 % intervals.

    layers: the table `layers`; each run at its longest context and most prompts. `final`, after
    the last norm, is to the right of a gap, and no line leads to it. Points of layers with the
    flag `collapsed` or `sink` have a white core. Rows with another `first_position` form a
    second curve of their run. More than ten curves are drawn with five runs in each panel.
    runs: letters, names and colours of runs. columns: panels per row. Raises InputError for
    another table.
    """
    needed = ("run", "site", *SETTING, "relative_depth", "flags", *DIMENSIONS)
    chosen, notes = fullest(checked(layers, "layers", needed))
    frame = by_depth(of_runs(chosen, runs), "relative_depth")
    panels = lines(frame, [PROFILE[name] for name in DIMENSIONS], "relative_depth", log=True)
    none = nothing("layers", layers, "lpp-analyze layers STORE")
    return beside(panels, "Ranks by depth", none, notes, columns)


def spectrum_chart(eigenvalues: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Share of the variance of each eigenvalue by its rank, both axes logarithmic.

    eigenvalues: as `read_eigenvalues` gives them. Each run has one line, at the deepest site
    and longest prefix in the frame: filter the frame for another. Lines are thinned to
    log-spaced ranks, at most 60 points with all of the first five; shares are of the sum before
    thinning. Zeros are not drawn. runs: letters, names and colours of runs. Raises InputError
    for another frame.
    """
    needed = ("run", "site", "depth", *SETTING, "prefix", "rank", "eigenvalue", "share")
    frame = checked(eigenvalues, "of eigenvalues", needed)
    chosen, notes = fullest(frame.filter(first_position=0))
    chosen = at_largest(chosen, ("depth", "prefix"), "run")
    # block.B (before the final norm) and final (after it) have the same depth
    final = pl.col("site") == "final"
    chosen = chosen.filter(final | ~final.any().over("run"), pl.col("share") > 0)
    chosen = thinned(chosen.sort("run", "rank"))
    where = chosen.select("site", "prefix").unique().sort("site", "prefix").head(3)
    notes = [said(where, "{site}, prefix {prefix} tokens"), *notes]
    panels = lines(of_runs(chosen, runs), [SHARE], "rank", log=True, notes=notes)
    return beside(panels, "Share of variance", nothing("eigenvalues", eigenvalues, _PROFILE))


def thinned(spectra: pl.DataFrame, points: int = 60) -> pl.DataFrame:
    """The rows of each run at log-spaced values of `rank`: first and last kept, `points` at most.

    spectra: by run and rank, from 1. A run with at most `points` rows keeps them all, so thinning
    twice changes nothing more.

    >>> spectra = pl.DataFrame({"run": "a", "rank": range(1, 1001)})
    >>> thinned(spectra, 6)["rank"].to_list()
    [1, 4, 16, 63, 251, 1000]
    """
    parts = [
        part[np.unique(np.geomspace(1, len(part), points).round().astype(int)) - 1]
        if len(part) > points
        else part
        for part in spectra.partition_by("run", maintain_order=True)
    ]
    return pl.concat(parts) if parts else spectra


def training_chart(checkpoints: pl.DataFrame, *, columns: int = 2) -> Any:
    """Entropy floor, participation ratio and effective rank by step, with 95 % intervals.

    checkpoints: the table `profiles` with the columns `series` and `step` of `runs`:
    `SELECT profiles.*, series, step FROM profiles JOIN runs USING (run)`. A line for each curve of
    `training_curves`; steps are on a log axis where they span two decades. columns: panels per row.
    Raises InputError for another frame.
    """
    curves = training_curves(checkpoints)
    frame = of_names(curves.rename({"curve": "name"}), "name")
    panels = lines(frame, [*NUMBERS.values()], "step", subject="series", colors=OTHERS)
    none = nothing("checkpoints", checkpoints, _PROFILE)
    title, notes = "Profiles along the training", settings(curves, "site")
    return beside(panels, title, none, notes, columns)


def training_curves(checkpoints: pl.DataFrame) -> pl.DataFrame:
    """The rows of a training that are drawn, by `curve` and step: one row for each step.

    A curve is of runs that read the same prompts at one site, context and number of prompts; of
    several settings, the one with most steps. It has the name of its series; curves of one series
    have their corpus in it too.
    """
    needed = ("run", *CURVE, "corpus", *SETTING, "step", *NUMBERS)
    frame = checked(checkpoints, "of checkpoints", needed)
    frame = frame.filter(first_position=0).drop_nulls(["series", "step"])
    counts = frame.group_by(*CURVE, *SETTING).agg(pl.col("step").n_unique().alias("steps"))
    most = counts.sort("steps", *SETTING).unique(CURVE, keep="last", maintain_order=True)
    frame = frame.join(most, on=[*CURVE, *SETTING], nulls_equal=True)
    # two runs of one step differ in dtype or backend: one of them is enough
    frame = frame.sort("run").unique([*CURVE, "step"], keep="first", maintain_order=True)
    names = frame.select(*CURVE, "corpus").unique(CURVE, keep="first").sort(CURVE)
    index = pl.int_range(1, pl.len() + 1).over("series")
    several = pl.when(pl.len().over("series") > 1)
    name = several.then(pl.format("{}, {} {}", "series", "corpus", index)).otherwise("series")
    names = names.with_columns(curve=name).drop("corpus")
    return frame.join(names, on=CURVE, nulls_equal=True).sort("curve", "step")


def difference_chart(
    differences: pl.DataFrame, *, runs: RunStyles | None = None, columns: int = 2
) -> Any:
    """A map for each number of a profile: a row's run minus a column's, by their letters.

    differences: rows of the saved query `differences`; of each pair the longest context and
    most prompts, from the first position on. The fill is the difference, in the unit of the
    number; a dot marks those whose 95 % interval excludes 0. Pairs without a common setting are
    empty. runs: letters, names and colours of runs. columns: maps per row. Raises InputError
    for another table.
    """
    needed = ("metric", "run_a", "run_b", *SETTING, "difference", "verdict")
    frame = checked(differences, "of differences", needed).filter(first_position=0)
    frame = measured(at_largest(frame, SETTING, "metric", "run_a", "run_b"), "difference")
    frame = frame.filter(pl.col("value").is_finite())
    styles = styles_of({*frame["run_a"], *frame["run_b"]}, runs)
    of_numbers = ((number, frame.filter(metric=name)) for name, number in NUMBERS.items())
    panels = [_differences(number, part, styles) for number, part in of_numbers if len(part)]
    none = nothing("differences", differences, _PROFILE)
    return beside(panels, "Differences of every two runs", none, columns=columns)


def _differences(quantity: Quantity, frame: pl.DataFrame, styles: RunStyles) -> Any:
    """The map of one number: a run that differs from all others is a line of one colour."""
    second = frame.with_columns(run_a="run_b", run_b="run_a")  # a difference is second - first
    first = frame.with_columns(value=-pl.col("value"), low=-pl.col("high"), high=-pl.col("low"))
    both = pl.concat([second, first]).drop("site", *SETTING, strict=False)
    letters = {run: styles.letter(run) for run in styles.order if run in {*both["run_a"]}}
    labels = {run: label_of(styles, run) for run in letters}
    rows = both.with_columns(
        x=pl.col("run_b").replace_strict(letters),
        y=pl.col("run_a").replace_strict(letters),
        label=pl.col("run_a").replace_strict(labels),
        minus=pl.col("run_b").replace_strict(labels),
        fill="value",
        beyond=pl.when(verdict="differs from 0").then(1),
    )
    n, most = frame.filter(verdict="differs from 0").height, max(rows["value"].to_list()) or 1.0
    largest = rows.filter(pl.col("value") > 0).sort("value", descending=True).head(3)
    order, unit = [*letters.values()], quantity.axis
    return cells(
        rows,
        order,
        order,
        title=quantity.title,
        notes=[
            *(settings(frame) if frame.select(SETTING).n_unique() == 1 else []),
            "Row minus column. Dot: the 95 % interval leaves out 0.",
        ],
        description=f"Differences of every two runs: {quantity.words} ({unit}), {len(order)} runs. "
        f"{n} of {len(frame)} differences differ from 0. "
        f"{said(largest, '{label} minus {minus}: {value:.4g}')}",
        told="difference",
        fills=(-most, 0, most),
        height=240 / len(order),
        x=None,
        beyond=True,
        legend=alt.Legend(title=f"difference ({unit})", direction="horizontal", tickCount=3),
        orient="top",
        labelAngle=0,
    )


def cka_chart(cka: pl.DataFrame, *, runs: RunStyles | None = None, columns: int = 2) -> Any:
    """How alike the sites of a run are, in depth order.

    cka: the table `cka`, pairs in depth order; of each run those of its longest prefix and most
    prompts. If each site has one other, such as the next in depth, a row for each run and a
    column for each shallower site, with the number in the cell if there is room; else a square
    for each run. The fill is empty at 0 and full at 1. runs: letters, names and colours of
    runs. columns: squares per row. Raises InputError for another table.
    """
    frame = checked(cka, "cka", ("run", "site", "other_site", "prefix", "n_prompts", "cka"))
    frame = at_largest(frame, ("prefix", "n_prompts"), "run")
    frame = frame.unique(("run", "site", "other_site"), keep="first", maintain_order=True)
    rows = measured(of_runs(frame, runs), "cka").with_columns(x="site", y="label", fill="value")
    parts = rows.partition_by("label", maintain_order=True)
    if rows.select("run", "site").is_unique().all():
        orders = (rows[name].unique(maintain_order=True).to_list() for name in ("x", "y"))
        of = "each site and the next"
        panels = [_alike(rows, rows, *orders, title=of, height=44, text=".2f")]
    else:
        panels = [_square(part, part["label"][0] if parts[1:] else "") for part in parts]
    none = nothing("cka", cka, "lpp-analyze cka STORE")
    return beside(panels if rows["value"].count() else [], "Linear CKA", none, columns=columns)


def _square(pairs: pl.DataFrame, label: str) -> Any:
    """Every two sites of a run. label: of the run, if there are others."""
    pairs = pairs.with_columns(y="other_site")
    sites = [*dict.fromkeys(site for pair in pairs.select("x", "y").rows() for site in pair)]
    both = pl.concat([pairs, pairs.with_columns(x="y", y="x")])
    title = "every two sites" + (f" of {label}" if label else "")
    return _alike(pairs, both, sites, sites, title=title, height=400 / len(sites))


def _alike(
    pairs: pl.DataFrame, rows: pl.DataFrame, across: list[str], down: list[str], **look: Any
) -> Any:
    """A map of `rows`, each of which shows one of `pairs`."""
    used = pairs.select("n_prompts", "prefix").unique().sort("n_prompts", "prefix").head(2)
    least = said(
        pairs.drop_nulls("value").sort("value"), "{site} and {other_site} of {label}: {value:.4g}"
    )
    look["title"] = f"Linear CKA of {look['title']}"
    return cells(
        rows,
        across,
        down,
        notes=[said(used, "{n_prompts} prompts, prefix {prefix}")],
        description=f"{look['title']}, the least alike first: {least}",
        told="CKA",
        fills=(0, 1),
        **look,
    )


def expert_load_chart(experts: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """The share of a router's choices that each expert gets: experts across, routers down.

    experts: the table `expert_load`; a map for each run, of its longest context and most prompts.
    The fill is empty at an equal share, and full at four times it and at a quarter. runs: letters,
    names and colours of runs. Raises InputError for another table.
    """
    needed = ("run", "site", *SETTING, "n_experts", "loads")
    frame, notes = fullest(checked(experts, "expert_load", needed))
    frame = of_runs(frame.unique(("run", "site"), keep="first", maintain_order=True), runs)
    rows = frame.drop_nulls("loads").cast({"loads": pl.List(pl.Float64), "n_experts": pl.Int32})
    rows = rows.with_columns(expert=pl.int_ranges("n_experts")).explode("expert", "loads")
    fill = (pl.col("loads") * pl.col("n_experts")).log(2).clip(-9)  # infinite where none chose it
    rows = rows.with_columns(x=pl.col("expert").cast(pl.String), y="site", value="loads", fill=fill)
    panels = []
    for part in rows.partition_by("label", maintain_order=True):
        across, down = (part[name].unique(maintain_order=True).to_list() for name in ("x", "y"))
        most = part.sort("value", descending=True).unique("y", keep="first", maintain_order=True)
        title = f"Load by expert of {part['label'][0]}"
        each = f"{title}, the largest: {said(most, '{site} expert {x} {value:.2%}')}"
        look: dict[str, Any] = {"told": "share of choices", "fills": (-2, 0, 2), "x": "expert"}
        look |= {"title": title, "notes": notes, "description": each, "height": 14}
        panels.append(cells(part, across, down, **look))
    return beside(panels, "Load", nothing("expert_load", experts, "lpp-analyze layers STORE"))
