"""Curves over a training: numbers of a profile by the step of the checkpoint."""

from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.curves import MARKS, mark_notes
from lpp.analyze.charts.lines import Lines, line_panels, ranges
from lpp.analyze.charts.panels import Words, filling, stacked
from lpp.analyze.charts.profile import AXES, MEANING
from lpp.analyze.charts.rows import (
    Row,
    bars,
    checked,
    from_start,
    nothing,
    optional,
    rows,
    says,
    series_of_names,
)
from lpp.analyze.charts.theme import Series

NUMBERS: Final = ("entropy_floor", "participation_ratio", "effective_rank")
TITLE: Final = "Profiles along the training"
DECADES: Final = 100
"""Ratio of the largest to the smallest positive step from which the step axis is logarithmic."""

_TEXTS: Final = ("series", "site", "prompt_set")
"""Columns that are constant along a curve, whatever the context."""

_SETTING: Final = ("context", "n_prompts")
_NEEDED: Final = ("run", *_TEXTS, "corpus", *_SETTING, "step", *NUMBERS)


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
    panels = _panels(checkpoints)
    if not panels:
        return says(TITLE, nothing("checkpoints", checkpoints, "lpp-analyze profile STORE"))
    words = Words(
        title=TITLE,
        notes=_notes(checkpoints),
        description=" ".join(panel.description for panel in panels.values()),
        x="",
    )
    return stacked(list(panels.values()), columns, words, own_legends=len(panels) > len(NUMBERS))


def training_panels(checkpoints: pl.DataFrame) -> dict[str, Any]:
    """The panels of `training_chart`, each as wide as its container, by column of `profiles`."""
    return {name: filling(panel) for name, panel in _panels(checkpoints).items()}


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


def _panels(checkpoints: pl.DataFrame) -> dict[str, Any]:
    curves = training_curves(checkpoints)
    if curves.is_empty():
        return {}
    series, labels = series_of_names(curves["curve"])
    return {
        f"{name} {some}".rstrip(): panel
        for name in NUMBERS
        for some, panel in _panels_of(name, curves, series, labels).items()
    }


def _panels_of(
    name: str, curves: pl.DataFrame, series: Series, labels: dict[str, str]
) -> dict[str, Any]:
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
        "run",
        *("step", "site", *_SETTING, *told, name, f"{name}_stderr", low, high, *fields),
        curve="curve",
    )
    found = _points(frame, name, labels)
    if not found:
        return {}
    steps = [row["step"] for row in found]
    lay = Lines(
        series=series,
        x="step",
        y=name,
        value=title.lower(),
        of="series",
        low=low,
        high=high,
        stderr=f"{name}_stderr",
        log_x=_spans_decades(steps),
        tight_x=True,
        marks=marks,
    )
    left = len(frame) - len(found)
    words = Words(
        title=f"{title} by step",
        notes=[
            *bars(found, low, MEANING),
            *mark_notes(found),
            *([f"{left} of {len(frame)} points have no value."] if left else []),
        ],
        description="",
        x=f"step of the training{' (log)' if lay.log_x else ''}",
        y=unit,
    )

    def describe(some: Sequence[Row], shown: Lines) -> str:
        return f"{title} by step of the training. {ranges(some, shown, 'step {:,}')}"

    return line_panels(found, lay, words, describe)


def _points(frame: pl.DataFrame, name: str, labels: dict[str, str]) -> list[Row]:
    curves = [labels[curve] for curve in frame["curve"]]
    return [
        {"series": label, **row}
        for label, row in zip(curves, rows(frame.drop("curve")), strict=True)
        if row[name] is not None
    ]


def _spans_decades(steps: list[int]) -> bool:
    positive = [step for step in steps if step > 0]
    return bool(positive) and max(positive) > DECADES * min(positive)


def _notes(checkpoints: pl.DataFrame) -> list[str]:
    """Which settings are drawn."""
    curves = training_curves(checkpoints)
    found = curves.select("site", *_SETTING).unique().sort(_SETTING).rows()
    said = [f"{site}, context {context} tokens, {n} prompts" for site, context, n in found[:3]]
    more = [f"and {len(found) - 3} settings more"] if len(found) > 3 else []
    return ["; ".join([*said, *more])]
