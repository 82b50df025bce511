"""Profiles side by side: one panel for each number, a row for each run."""

from typing import Any, Final

import polars as pl

from lpp.analyze.charts.hover import interval, told
from lpp.analyze.charts.panels import Words, dots, filling, stacked
from lpp.analyze.charts.rows import (
    Row,
    bars,
    checked,
    from_start,
    fullest,
    listing,
    nothing,
    number,
    optional,
    plain,
    rows,
    says,
    series_of,
)
from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.charts.theme import Series, shortened
from lpp.analyze.metrics.registry import PROFILE, RANKS

AXES: Final = {name: PROFILE[name] for name in ("entropy_floor", *RANKS[1::2], *RANKS[::2])}
"""Numbers of a profile, in the order of panels."""

MEANING: Final = "95 % intervals over prompts"
NEEDED: Final = ("run", "site", "context", "n_prompts", *AXES)


def profile_chart(
    profiles: pl.DataFrame,
    published: pl.DataFrame | None = None,
    *,
    runs: RunStyles | None = None,
    columns: int = 2,
) -> Any:
    """Entropy floor, participation ratio and effective rank of each run with 95 % intervals.

    profiles: the table `profiles`, or rows of `site_profiles` at one site. Each run is shown at
    its longest context and most prompts; the normalised ranks are over min(N, d). published: the
    table `published`, drawn in grey behind and below the runs where it has the number. runs: the
    styles of a page's runs. columns: panels per row; with 1 the chart fits a telephone,
    and `profile_panels` gives charts that fill whatever contains them.

    An `altair.ConcatChart`; without rows, a chart that says so. Raises InputError for a frame
    that is no such table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    panels = _panels(profiles, published, runs)
    if not panels:
        return says("Profiles", nothing("profiles", profiles, "lpp-analyze profile STORE"))
    chosen, notes = fullest(from_start(profiles))
    words = Words(
        title=f"Profiles of {_count(chosen)}",
        notes=[*notes, *_bars(chosen), *_mark(published)],
        description=" ".join(panel.description for panel in panels.values()),
        x="",
    )
    return stacked(list(panels.values()), columns, words)


def profile_panels(
    profiles: pl.DataFrame,
    published: pl.DataFrame | None = None,
    *,
    runs: RunStyles | None = None,
) -> dict[str, Any]:
    """The panels of `profile_chart`, each as wide as its container, by column of `profiles`."""
    panels = _panels(profiles, published, runs)
    return {name: filling(panel) for name, panel in panels.items()}


def _panels(
    profiles: pl.DataFrame, published: pl.DataFrame | None, runs: RunStyles | None
) -> dict[str, Any]:
    checked(profiles, "profiles", NEEDED)
    chosen, _ = fullest(from_start(profiles))
    if chosen.is_empty():
        return {}
    series, label = series_of(chosen["run"], runs)
    return {name: _panel(name, chosen, series, label, published) for name in AXES}


def _panel(
    name: str,
    profiles: pl.DataFrame,
    series: Series,
    label: dict[str, str],
    published: pl.DataFrame | None,
) -> Any:
    low, high = f"{name}_ci_low", f"{name}_ci_high"
    keys = [c for c in ("model", "corpus", "flags") if c in profiles.columns]
    errors = (f"{name}_prefix", f"{name}_stderr", low, high)
    frame = optional(profiles, *errors).select(
        "run", "site", "context", "n_prompts", *keys, name, *errors
    )
    frame = frame.sort("run")
    pairs = zip(frame["run"], rows(frame), strict=True)
    values = [_as_dot(row, name, label[run]) for run, row in pairs]
    others = _published(name, published)
    axis, unit = AXES[name].title, AXES[name].axis
    parts = [_sentence(row) for row in values]
    parts += [f"Published {row['model']}: {number(row['value'])}" for row in others]
    words = Words(
        title=axis,
        notes=[],
        description=f"{axis} ({unit}) of {_count(profiles)}. {listing(parts)}",
        x=unit,
    )
    return dots([*values, *others], series, [row["series"] for row in others], words)


def _as_dot(row: Row, name: str, label: str) -> Row:
    value, low, high = row.pop(name), row.pop(f"{name}_ci_low"), row.pop(f"{name}_ci_high")
    if value is None or low is None or high is None:
        low = high = None
    rest = {key.removeprefix(f"{name}_"): part for key, part in row.items()}
    texts = {"told": told(value, rest.get("stderr")), "interval": interval(low, high)}
    ends = {"value": value, "low": low, "high": high}
    return {"series": label, "label": label, **rest, **ends, **texts}


def _published(name: str, published: pl.DataFrame | None) -> list[Row]:
    """Rows of the published models that have `name`, marked with a star."""
    if published is None or name not in published.columns:
        return []
    frame = checked(published, "published", ("model",)).filter(pl.col(name).is_not_null())
    keys = [c for c in ("corpus", "context", "n_prompts", "citation") if c in frame.columns]
    found = rows(frame.select("model", *keys, pl.col(name).alias("value")))
    return [_as_star(row) for row in found]


def _as_star(row: Row) -> Row:
    label = f"* {shortened(plain(row['model'].rpartition('/')[2]))}"
    return {
        "series": label,
        "label": label,
        **row,
        "told": told(row["value"]),
    }


def _sentence(row: Row) -> str:
    interval = (
        f" (95 % {number(row['low'])} to {number(row['high'])})" if row["low"] is not None else ""
    )
    return f"{row['series']}: {number(row['value'])}{interval}"


def _bars(profiles: pl.DataFrame) -> list[str]:
    lows = [f"{name}_ci_low" for name in AXES if f"{name}_ci_low" in profiles.columns]
    found = profiles.select(lows).to_dicts()
    return next((note for low in lows if (note := bars(found, low, MEANING))), [])


def _mark(published: pl.DataFrame | None) -> list[str]:
    if published is None:
        return []
    return ["Grey, with a star: published models, on other texts: a reference, no comparison."]


def _count(frame: pl.DataFrame) -> str:
    runs = frame["run"].n_unique()
    sites = sorted(set(frame["site"].drop_nulls()))
    where = f" at {plain(sites[0])}" if len(sites) == 1 else ""
    return f"{runs} run{'s' * (runs != 1)}{where}"
