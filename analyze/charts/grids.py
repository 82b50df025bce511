"""Grids: profiles over settings, and correlations of profiles with benchmarks.

Every cell contains its number; the fill shows it too.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.hover import field_of, told, with_tips
from lpp.analyze.charts.library import alt
from lpp.analyze.charts.panels import Words, filling
from lpp.analyze.charts.rows import (
    Row,
    checked,
    data,
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
from lpp.analyze.charts.theme import FILLS, GREY, INK, ON_FILL, heading, shortened
from lpp.analyze.metrics.registry import PROFILE

LINE: Final = 13
"""Pixels of a line of text in a cell."""
FAR: Final = 50.0
"""Per cent of deviation at which the fill is full."""

Benchmark = tuple[str, str, str]
"""Name, metric, source."""


def sensitivity_chart(
    sensitivity: pl.DataFrame,
    metric: str = "effective_rank",
    *,
    aggregation: str | None = None,
    site: str | None = None,
    runs: RunStyles | None = None,
) -> Any:
    """How much a number of a profile changes with context and number of prompts.

    sensitivity: the table `sensitivity`. metric: one of its metrics, in one aggregation over
    prefixes (min of an entropy, max of the rest, by default) and at one site (`final`, or the
    last by name). A row for each run and number of prompts, a column for each context; of a single
    context, a row for each run, a column for each number of prompts. A cell has the value, and by
    how much it differs from that of the run's longest context and most prompts, in per cent; the
    fill repeats that, full at 50 %. runs: the styles of a page's runs.

    An `altair.LayerChart` as wide as its container; without values, a chart that says so. Raises
    InputError for another table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    needed = ("run", "site", "context", "n_prompts", "metric", "aggregation", "value")
    sensitivity = optional(checked(sensitivity, "sensitivity", needed), "stderr")
    chosen_way = aggregation or ("min" if metric.startswith("entropy") else "max")
    known = PROFILE.get(metric)
    named = known.title if known else plain(metric).replace("_", " ").capitalize()
    title = f"{named} by context and prompts"
    of_metric = sensitivity.filter(metric=metric, aggregation=chosen_way)
    sites = sorted(set(of_metric["site"].drop_nulls()))
    where = site or ("final" if "final" in sites or not sites else sites[-1])
    frame = of_metric.filter(site=where)
    found = _deviations(frame, runs)
    if not any(row["value"] is not None for row in found):
        return says(title, _no_grid(sensitivity, metric, chosen_way, where))
    unit = known.unit if known else "of the metric"
    parts = [
        f"{row['n_prompts']} prompts of {row['label']}, context {row['context']}: "
        f"{number(row['value'])}"
        + "".join(f" {part}" for part in (row["second"], row["third"]) if part)
        for row in found
    ]
    words = Words(
        title=title,
        notes=[
            f"{chosen_way} over prefixes at {plain(where)} ({unit}),",
            "± its standard error, and how far it is from the run's longest context and most "
            "prompts.",
        ],
        description=f"{title}, {chosen_way} over prefixes at {plain(where)}. {listing(parts)}",
        x="prompts" if _one_context(frame) else "context (tokens)",
    )
    return _cells(found, words, named, domain=FAR)


def correlation_chart(
    correlations: pl.DataFrame, method: str = "spearman", *, source: str | None = None
) -> Any:
    """Correlations of profiles with benchmarks: coefficient, n and q written in each cell.

    correlations: the table `correlations`. method: one of `pearson`, `spearman`, `rank_partial`.
    source: one source of scores; all of them by default, each in rows of its own. A row for each
    benchmark, a column for each number of a profile; n counts models, q is the p value after
    Benjamini and Hochberg; the fill repeats the coefficient.

    An `altair.LayerChart` as wide as its container; without coefficients, a chart that says so.
    Raises InputError for another table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    needed = ("profile_metric", "benchmark", "benchmark_metric", "source", "method")
    checked(correlations, "correlations", (*needed, "n_models", "coefficient", "q_value"))
    title = f"Profiles and benchmarks: {plain(method).replace('_', ' ')} correlation"
    frame = correlations.filter(method=method)
    if source is not None:
        frame = frame.filter(source=source)
    found = _coefficients(frame)
    if not any(row["coefficient"] is not None for row in found):
        return says(title, nothing("correlations", frame, "lpp-analyze correlate STORE"))
    parts = [
        f"{row['x']} and {row['y']}: {row['first']}, n {row['n_models']}, "
        f"q {number(row['q_value'])}"
        for row in found
        if row["coefficient"] is not None
    ]
    words = Words(
        title=title,
        notes=["n: models; q: p corrected for all tests of a source.", "r: min(N, d)."],
        description=f"{title}. {listing(parts)}",
        x="number of the profile",
    )
    return _cells(found, words, "coefficient", domain=1.0)


def _one_context(frame: pl.DataFrame) -> bool:
    return frame["context"].n_unique() == 1


def _deviations(frame: pl.DataFrame, runs: RunStyles | None) -> list[Row]:
    """A cell for each run, context and number of prompts, with its deviation in per cent."""
    frame = frame.sort("run", "n_prompts", "context").unique(
        ("run", "n_prompts", "context"), keep="first", maintain_order=True
    )
    _, label = series_of(frame["run"], runs)
    kept = frame.drop_nulls("value").sort("context", "n_prompts")
    reference = dict(kept.select("run", "value").iter_rows())
    frame = frame.sort(pl.col("run").replace_strict({run: k for k, run in enumerate(label)}))
    one = _one_context(frame)
    found = []
    for run, row in zip(frame["run"], rows(frame), strict=True):
        value, base = row["value"], reference.get(run)
        fill = 100 * (value / base - 1) if value is not None and base else None
        cell = {
            "x": str(row["n_prompts" if one else "context"]),
            "y": label[run] if one else f"{row['n_prompts']} prompts\n{label[run]}",
            "fill": None if fill is None else plain(fill),
            "first": "none" if value is None else f"{value:.3g}",
            "second": "" if row["stderr"] is None else f"± {row['stderr']:.2g}",
            "third": "" if fill is None else f"{round(fill):+d} %".replace("-", "−"),
            "label": label[run],
            "told": told(value, row["stderr"]),
        }
        cell["deviation"] = cell["third"]
        found.append({**row, **cell})
    return found


def _coefficients(frame: pl.DataFrame) -> list[Row]:
    """A cell for each benchmark and number of a profile."""
    several = frame["source"].n_unique() > 1
    order = {name: place for place, name in enumerate(PROFILE)}
    keys = ("source", "benchmark", "benchmark_metric", "profile_metric")
    found = rows(frame.unique(keys, keep="first", maintain_order=True).sort(keys))
    found.sort(key=lambda row: order.get(row["profile_metric"], len(order)))
    names = _benchmark_names(found, several)
    for row in found:
        value, q = row["coefficient"], row["q_value"]
        row |= {
            "x": _short(str(row["profile_metric"])),
            "y": names[_benchmark(row)],
            "fill": value,
            "first": "none" if value is None else f"{value:+.2f}".replace("-", "−"),
            "second": f"n {row['n_models']}",
            "third": "" if q is None else f"q {q:.2g}",
            "told": told(value),
        }
    return found


def _benchmark(row: Mapping[str, Any]) -> Benchmark:
    return str(row["benchmark"]), str(row["benchmark_metric"] or ""), str(row["source"])


def _benchmark_names(found: Sequence[Row], several: bool) -> dict[Benchmark, str]:
    """A name of at most 28 letters for each benchmark, numbered if two would be equal."""
    names: dict[Benchmark, str] = {}
    for benchmark in dict.fromkeys(map(_benchmark, found)):
        parts = [part for part in benchmark[: 3 if several else 2] if part]
        name = shortened(" ".join(parts))
        taken = sum(name == other.partition("\n")[0] for other in names.values())
        names[benchmark] = f"{name}\n({taken + 1})" if taken else name
    return names


def _cells(found: Sequence[Row], words: Words, value: str, *, domain: float) -> Any:
    """A grid of cells with three lines of text each: `first`, `second`, `third`.

    value: the title of `told` in a tooltip.
    """
    told_rows, tips = with_tips(found, {"told": value})
    used = {"x", "y", "fill", "first", "second", "third", *map(field_of, tips)}
    found = [{name: part for name, part in row.items() if name in used} for row in told_rows]
    across = list(dict.fromkeys(row["x"] for row in found))
    across.sort(key=lambda x: int(x) if x.isdecimal() else 0)
    down = list(dict.fromkeys(row["y"] for row in found))
    x = alt.X(
        "x:N",
        title=words.x,
        scale=alt.Scale(domain=across, paddingInner=0.04),
        axis=alt.Axis(labelAngle=0, ticks=False, domain=False),
    )
    y = alt.Y(
        "y:N",
        title=None,
        scale=alt.Scale(domain=down, paddingInner=0.06),
        axis=alt.Axis(ticks=False, domain=False, labelExpr="split(datum.label, '\\n')"),
    )
    fill = alt.Fill(
        "fill:Q",
        scale=alt.Scale(domain=[-domain, 0, domain], range=list(FILLS), clamp=True),
        legend=None,
    )
    filled = [row for row in found if row["fill"] is not None]
    empty = [row for row in found if row["fill"] is None]
    layers = [alt.Chart(data(filled)).mark_rect().encode(x=x, y=y, fill=fill, tooltip=tips)]
    if empty:
        frame = alt.Chart(data(empty)).mark_rect(fillOpacity=0, stroke=GREY, strokeDash=[2, 3])
        layers.append(frame.encode(x=x, y=y, tooltip=tips))
    for place, name in enumerate(("first", "second", "third")):
        dy = LINE * (place - 1)
        for part, color in ((filled, ON_FILL), (empty, INK)):
            if part:
                text = alt.Chart(data(part)).mark_text(
                    dy=dy,
                    color=color,
                    fontSize=11 if place == 0 else 9.5,
                    aria=False,
                    fontWeight="bold" if place == 0 else "normal",
                )
                layers.append(text.encode(x=x, y=y, text=f"{name}:N", tooltip=tips))
    height = (3 * LINE + 12) * len(down)
    chart = alt.layer(*layers).properties(
        height=height, title=heading(words.title, words.notes), description=words.description
    )
    return filling(chart)


def _no_grid(frame: pl.DataFrame, metric: str, aggregation: str, site: str) -> str:
    here = (pl.col("metric") == metric) & (pl.col("aggregation") == aggregation)
    if frame.filter(here, pl.col("site") == site).is_empty() and not frame.is_empty():
        there = plain(sorted(set(frame["metric"].drop_nulls()))[:5]) or "none"
        return f"No {aggregation} of {plain(metric)} at {plain(site)}. Metrics there are: {there}."
    return nothing("sensitivity", frame, "lpp-analyze sensitivity STORE")


def _short(metric: str) -> str:
    known = PROFILE.get(metric)
    return known.heading if known else shortened(metric, 12)
