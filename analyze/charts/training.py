"""Curves over a training: numbers of a profile by the step of the checkpoint."""

from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.curves import MARKS
from lpp.analyze.charts.lines import LineChart, Lines, line_panels, mark_notes, panels_by
from lpp.analyze.charts.panels import Words
from lpp.analyze.charts.profile import AXES, MEANING
from lpp.analyze.charts.rows import (
    absent,
    bars,
    checked,
    from_start,
    nothing,
    optional,
    points,
    series_of_names,
)
from lpp.analyze.charts.theme import Series

_NUMBERS: Final = ("entropy_floor", "participation_ratio", "effective_rank")
_TITLE: Final = "Profiles along the training"
DECADES: Final = 100
"""Ratio of the largest to the smallest positive step from which the step axis is logarithmic."""

_TEXTS: Final = ("series", "site", "prompt_set")
"""Columns that are constant along a curve, whatever the context."""

_SETTING: Final = ("context", "n_prompts")
_NEEDED: Final = ("run", *_TEXTS, "corpus", *_SETTING, "step", *_NUMBERS)


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
    frame = from_start(checked(checkpoints, "of checkpoints", _NEEDED))
    frame = frame.filter(pl.col("series").is_not_null() & pl.col("step").is_not_null())
    counts = frame.group_by(*_TEXTS, *_SETTING).agg(pl.col("step").n_unique().alias("steps"))
    fullest = counts.sort("steps", *_SETTING).unique(_TEXTS, keep="last", maintain_order=True)
    frame = frame.join(fullest, on=[*_TEXTS, *_SETTING], nulls_equal=True)
    # two runs of one step differ in dtype or backend: one of them is enough
    frame = frame.sort("run").unique([*_TEXTS, "step"], keep="first", maintain_order=True)
    names = frame.select(*_TEXTS, "corpus").unique(_TEXTS, keep="first").sort(_TEXTS)
    alike = pl.len().over("series") > 1
    place = pl.int_range(1, pl.len() + 1).over("series").cast(pl.String)
    name = (
        pl.when(alike)
        .then(pl.concat_str("series", pl.lit(", "), "corpus", pl.lit(" "), place))
        .otherwise("series")
    )
    names = names.with_columns(curve=name).drop("corpus")
    return frame.join(names, on=_TEXTS, nulls_equal=True).sort("curve", "step")


def _training(checkpoints: pl.DataFrame) -> LineChart:
    curves = training_curves(checkpoints)
    series, labels = series_of_names(curves["curve"])
    named = [labels[curve] for curve in curves["curve"]]
    return LineChart(
        words=Words(title=_TITLE, notes=_notes(curves)),
        panels=panels_by(_NUMBERS, lambda name: _panels_of(name, curves, series, named)),
        nothing=nothing("checkpoints", checkpoints, "lpp-analyze profile STORE"),
        numbers=len(_NUMBERS),
    )


def _panels_of(
    name: str, curves: pl.DataFrame, series: Series, labels: Sequence[str]
) -> dict[str, Any]:
    """The panels of one number. labels: of the curve of each row."""
    low, high = f"{name}_ci_low", f"{name}_ci_high"
    title, unit = AXES[name].title, AXES[name].axis
    flags = (
        pl.col("flags").cast(pl.List(pl.String))
        if "flags" in curves.columns
        else pl.lit([], pl.List(pl.String))
    )
    marks = MARKS if unit == "dimensions" else ()
    frame = optional(curves, low, high, f"{name}_stderr").with_columns(
        *(flags.list.contains(mark.field).fill_null(False).alias(mark.field) for mark in marks)
    )
    frame = frame.rename({f"{name}_prefix": "prefix"}, strict=False)
    told = [c for c in ("model", "corpus", "flags", "prefix") if c in frame.columns]
    fields = [mark.field for mark in marks]
    frame = frame.select(
        "run", *("step", "site", *_SETTING, *told, name, f"{name}_stderr", low, high, *fields)
    )
    found = points(frame, labels, name)
    log = _spans_decades([row["step"] for row in found])
    words = Words(
        title=f"{title} by step",
        notes=[
            *bars(found, low, MEANING),
            *mark_notes(found, marks),
            *absent(frame, found),
        ],
        x=f"step of the training{' (log)' if log else ''}",
        y=unit,
    )
    lay = Lines(
        words=words,
        series=series,
        x="step",
        y=name,
        value=title.lower(),
        place="step {:,}",
        lead=f"{title} by step of the training",
        of="series",
        low=low,
        high=high,
        stderr=f"{name}_stderr",
        log_x=log,
        tight_x=True,
        marks=marks,
    )
    return line_panels(found, lay)


def _spans_decades(steps: list[int]) -> bool:
    positive = [step for step in steps if step > 0]
    return bool(positive) and max(positive) > DECADES * min(positive)


def _notes(curves: pl.DataFrame) -> list[str]:
    """Which settings are drawn."""
    found = curves.select("site", *_SETTING).unique().sort(_SETTING).rows()
    said = [f"{site}, context {context} tokens, {n} prompts" for site, context, n in found[:3]]
    more = [f"and {len(found) - 3} settings more"] if len(found) > 3 else []
    return ["; ".join([*said, *more])]
