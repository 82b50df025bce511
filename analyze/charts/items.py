"""Items of an evaluation: AUROC by depth, reliability, risk against coverage.

Each chart is of one analysis of `lpp-analyze items`: rows with one task, run and setting.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.hover import interval, told, with_tips
from lpp.analyze.charts.library import alt
from lpp.analyze.charts.lines import LineChart, Lines, final_apart, line_panels
from lpp.analyze.charts.panels import Words, filling, stacked
from lpp.analyze.charts.rows import (
    Row,
    bars,
    checked,
    data,
    listing,
    nothing,
    number,
    plain,
    rows,
    says,
    series_of_names,
)
from lpp.analyze.charts.run_styles import PALETTE, RunStyles
from lpp.analyze.charts.theme import GREY, INK, PLOT_HEIGHT, heading, shortened
from lpp.store.errors import ErrorKind, InputError

COMMAND: Final = "lpp-analyze items STORE --task TASK"
_MEANING: Final = "95 % intervals over items"

_KEY: Final = ("task", "run", "source", "filter", "skip_first", "seed")
_ENDS: Final = ("auroc", "ci_low", "ci_high", "shuffled_low", "shuffled_high")


def item_depth_chart(features: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """AUROC of each feature of rows by depth, with its interval and the range of shuffled labels.

    features: rows of the table `item_features` of one analysis; numbers are those within groups
    where there are any. A line for each feature of a site; in grey, behind, where 95 % of the
    shuffles lie. Dashed: the baselines, and the feature of the predictions whose AUROC is farthest
    from 0.5. runs: the styles of a page's runs, for the run's label; colours tell features apart.
    An `altair.LayerChart` as wide as its container; without values, a chart that says so. Raises
    InputError for another table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    needed = ("feature", "site", "depth", "role", *_ENDS, *(f"within_{end}" for end in _ENDS))
    frame = checked(features, "item_features", needed)
    of = _of(frame, runs)
    within = frame["within_auroc"].is_not_null().any()
    title = f"AUROC{' within groups' if within else ''} by depth"
    ends = [pl.col(f"{'within_' if within else ''}{end}").alias(end) for end in _ENDS]
    told = frame.select("feature", "site", "depth", "role", *ends)
    told = told.filter(pl.col("auroc").cast(pl.Float64).is_finite())
    sites = told.drop_nulls("depth").sort("feature", "depth", pl.col("site") == "final")
    if sites.is_empty():
        return says(title, nothing("AUROC by depth", features, COMMAND))
    series, labels = series_of_names(sites["feature"])
    named = [labels[feature] for feature in sites["feature"]]
    found = [
        {"series": label, **row, "shuffled": interval(row["shuffled_low"], row["shuffled_high"])}
        for label, row in zip(named, rows(sites.drop("feature", "role")), strict=True)
    ]
    column = final_apart(found, "depth")
    band = _band(found)
    rules = rows(_rules(told))
    named_rules = [f"{row['feature']} {row['auroc']:.2f}" for row in rules]
    low, high = _range([*found, *band, *rules])
    words = Words(
        title=title,
        notes=[
            *of,
            "Grey: 95 % of draws with shuffled labels.",
            *bars(found, "ci_low", _MEANING),
            *([f"Dashed, from above: {', '.join(named_rules)}."] if rules else []),
        ],
        x="depth (blocks)",
        y="AUROC",
    )
    lay = Lines(
        words=words,
        series=series,
        x="place",
        y="auroc",
        value=f"AUROC{' within groups' if within else ''}",
        place="depth {:g}",
        lead=", ".join([title, *of]),
        end=listing(named_rules),
        of="feature",
        column=column,
        low="ci_low",
        high="ci_high",
        y_ends=(low, high),
    )
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    behind = [*_shuffled(band, column, scale), *_rules_behind(rules, scale)]
    return LineChart(words=words, panels=line_panels(found, lay, behind), nothing="").picture()


def reliability_chart(reliability: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Share of right items by the mean confidence of a bin, beside the diagonal of calibration.

    reliability: rows of the table `item_reliability` of one analysis. The area of a point is that
    of the items in its bin. runs: the styles of a page's runs. An `altair.LayerChart` as wide as
    its container; without values, a chart that says so. Raises InputError for another table,
    MachineError(NO_PACKAGE) without the extra `report`.
    """
    title = "Reliability of the chosen answer's share"
    ends = ("accuracy_ci_low", "accuracy_ci_high")
    needed = ("bin", "n", "confidence", "accuracy", *ends)
    of = _of(checked(reliability, "item_reliability", needed), runs)
    color = _color(reliability, runs)
    frame = reliability.select(needed)
    found = rows(frame.filter(frame["accuracy"].cast(pl.Float64).is_not_null()).sort("bin"))
    if not found:
        return says(title, nothing("reliability", reliability, COMMAND))
    counts = sorted({row["n"] for row in found})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    told = [
        f"{row['n']} items with mean share {number(row['confidence'])}: "
        f"{number(row['accuracy'])} right"
        for row in found
    ]
    found, tips = with_tips(
        [{**row, "interval": interval(row[ends[0]], row[ends[1]])} for row in found],
        {},
    )
    axis: dict[str, Any] = {
        "scale": alt.Scale(domain=[0, 1], nice=False),
        "axis": alt.Axis(tickCount=5),
    }
    x = alt.X("confidence:Q", title="mean share of the chosen answer", **axis)
    y = alt.Y("accuracy:Q", title="share of right items", **axis)
    base = alt.Chart(data(found))
    diagonal = alt.Chart(data([{"confidence": end, "accuracy": end} for end in (0, 1)]))
    size = alt.Size("n:Q", scale=alt.Scale(domain=[0, counts[-1]], range=[0, 110]), legend=None)
    layers = [
        diagonal.mark_line(color=GREY, strokeDash=[6, 3], aria=False).encode(x=x, y=y),
        base.mark_rule(color=color, strokeWidth=1.8, aria=False).encode(
            x=x, y=alt.Y(f"{ends[0]}:Q", title="share of right items", **axis), y2=f"{ends[1]}:Q"
        ),
        base.mark_point(color=color, filled=True, opacity=1).encode(
            x=x, y=y, size=size, tooltip=tips
        ),
    ]
    notes = [
        *of,
        f"{len(found)} bins, {n} items each.",
        "Below the dashed diagonal the model is too sure.",
        *bars(found, ends[0], _MEANING),
    ]
    return _alone(layers, [title, *of], notes, listing(told))


def risk_chart(risk: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Share of wrong answers among the most confident items, by the share that is answered.

    risk: rows of the table `item_risk` of one analysis. Dashed: the risk if all items are answered;
    a random order has this risk at every coverage. runs: the styles of a page's runs. An
    `altair.LayerChart` as wide as its container; without values, a chart that says so. Raises
    InputError for another table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    title = "Risk against coverage"
    needed = ("n_answered", "coverage", "risk")
    of = _of(checked(risk, "item_risk", needed), runs)
    color = _color(risk, runs)
    frame = risk.select(needed)
    found = rows(frame.filter(frame["risk"].cast(pl.Float64).is_not_null()).sort("n_answered"))
    if not found:
        return says(title, nothing("risk", risk, COMMAND))
    whole = found[-1]["risk"]
    shown = {round(k * (len(found) - 1) / 4) for k in range(5)}
    told = [
        f"{number(row['risk'])} wrong at coverage {row['coverage']:.2g}"
        for place, row in enumerate(found)
        if place in shown
    ]
    top = max(row["risk"] for row in found) or 1.0
    scale = alt.Scale(domain=[0, min(1.0, 1.1 * top)], nice=False)
    x = alt.X(
        "coverage:Q",
        title="coverage: share answered, most confident first",
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=alt.Axis(tickCount=5),
    )
    y = alt.Y("risk:Q", title="risk: share of them wrong", scale=scale, axis=alt.Axis(tickCount=5))
    found, tips = with_tips(found, {})
    rule = alt.Chart(data([{"risk": whole, "text": f"all items: {whole:.3g}"}]))
    base = alt.Chart(data(found))
    layers = [
        rule.mark_rule(color=GREY, strokeDash=[6, 3], aria=False).encode(y=y),
        rule.mark_text(align="left", baseline="bottom", dy=-3, color=INK, aria=False).encode(
            x=alt.value(4), y=y, text="text:N"
        ),
        base.mark_line(color=color, strokeWidth=1.8).encode(x=x, y=y),
        base.mark_point(color=color, filled=True, opacity=1, size=14).encode(
            x=x, y=y, tooltip=tips
        ),
    ]
    return _alone(layers, [title, *of], of, listing(told))


def together(charts: Sequence[Any], title: str) -> Any:
    """Charts of several analyses as one picture, two beside each other; a single one as it is."""
    if len(charts) == 1:
        return charts[0]
    words = Words(
        title=title,
        notes=[],
        description=" ".join(chart.description for chart in charts),
        x="",
    )
    parts = [chart.copy() for chart in charts]
    for part in parts:  # only the whole chart may have these
        part.config = part.background = part.usermeta = alt.Undefined
    return stacked(parts, 2, words)


def _of(frame: pl.DataFrame, runs: RunStyles | None) -> list[str]:
    """A note of the rows' analysis. Raises InputError for rows of several analyses."""
    keys = [name for name in _KEY if name in frame.columns]
    found = frame.select(keys).unique().to_dicts() if keys else []
    if len(found) > 1:
        raise InputError(
            f"rows of {len(found)} analyses: a chart is of one. Filter by {', '.join(keys)}.",
            kind=ErrorKind.INVALID_VALUE,
        )
    key = found[0] if found else {}
    told = [shortened(plain(key["task"]), 46)] if key.get("task") else []
    if run := key.get("run"):
        told.append(shortened(plain(_named(run, runs)), 46))
    if first := key.get("skip_first"):
        told.append(f"without the first {'position' if first == 1 else f'{first} positions'}")
    return [", ".join(told)] if told else []


def _named(run: str, runs: RunStyles | None) -> str:
    """The run as its page calls it; no letter where it is the only one."""
    styles = runs.including([run]) if runs else RunStyles({run: run})
    return styles.label(run) if len(styles.order) > 1 else styles.name(run)


def _color(frame: pl.DataFrame, runs: RunStyles | None) -> str:
    """The colour of the rows' run; without a page's styles, the first one."""
    every = frame["run"].drop_nulls().to_list() if "run" in frame.columns else []
    return runs.including(every[:1]).color(every[0]) if runs and every else PALETTE[0]


def _alone(layers: Sequence[Any], names: Sequence[str], notes: Sequence[str], told: str) -> Any:
    """One chart. names: its title and its analysis, by which a screen reader tells charts apart."""
    said = {"title": heading(names[0], notes), "description": f"{', '.join(names)}. {told}"}
    return filling(alt.layer(*layers).properties(height=PLOT_HEIGHT, **said))


def _band(found: Sequence[Row]) -> list[Row]:
    """The range of the shuffles at each place, over all its features."""
    ends: dict[float, list[Row]] = {}
    for row in found:
        if row["shuffled_low"] is not None:
            ends.setdefault(row["place"], []).append(row)
    return [
        {
            "place": depth,
            "shuffled_low": min(row["shuffled_low"] for row in some),
            "shuffled_high": max(row["shuffled_high"] for row in some),
        }
        for depth, some in sorted(ends.items())
    ]


def _rules(told: pl.DataFrame) -> pl.DataFrame:
    """Baselines, and the one feature of the predictions that is farthest from 0.5."""
    best = (
        told.filter(role="statistic").sort((pl.col("auroc") - 0.5).abs(), descending=True).head(1)
    )
    some = pl.concat([told.filter(role="baseline"), best]).select("feature", "role", "auroc")
    return some.sort("auroc", descending=True)


def _range(found: Sequence[Row]) -> tuple[float, float]:
    """Ends of the axis: multiples of 0.05 around all values and 0.5."""
    values = [0.5, *(row[end] for row in found for end in _ENDS if row.get(end) is not None)]
    return math.floor(20 * min(values) - 0.2) / 20, math.ceil(20 * max(values) + 0.2) / 20


def _shuffled(band: Sequence[Row], column: float | None, scale: Any) -> Iterator[Any]:
    """Where shuffled labels lie: an area along the blocks, a bar at `final`."""
    x = alt.X("place:Q")
    y = alt.Y("shuffled_low:Q", title="AUROC", scale=scale)
    blocks, final = (
        [row for row in band if (row["place"] == column) is there] for there in (False, True)
    )
    grey: dict[str, Any] = {"color": GREY, "opacity": 0.22, "aria": False}
    yield alt.Chart(data(blocks)).mark_area(**grey).encode(x=x, y=y, y2="shuffled_high:Q")
    if final:
        bar = alt.Chart(data(final)).mark_bar(size=10, **grey)
        yield bar.encode(x=x, y=y, y2="shuffled_high:Q")


def _rules_behind(rules: Sequence[Row], scale: Any) -> list[Any]:
    """Dashed rules; the one of the predictions has a label."""
    y = alt.Y("auroc:Q", title="AUROC", scale=scale)
    best = [
        {**row, "text": f"{row['feature']} {row['auroc']:.2f}"}
        for row in rules
        if row["role"] != "baseline"
    ]
    named = [{**row, "label": row["feature"], "told": told(row["auroc"])} for row in rules]
    named, tips = with_tips(named, {"label": "feature", "told": "AUROC"})
    chart = alt.Chart(data(named))
    return [
        chart.mark_rule(color=INK, opacity=0.7, strokeDash=[4, 3], aria=False).encode(
            y=y, tooltip=tips
        ),
        alt.Chart(data(best))
        .mark_text(align="left", baseline="bottom", dy=-2, color=INK, fontSize=10, aria=False)
        .encode(x=alt.value(4), y=y, text="text:N"),
    ]
