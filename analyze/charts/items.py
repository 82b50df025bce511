"""Items of an evaluation: AUROC by depth, reliability, risk against coverage.

Each chart is of one analysis of `lpp-analyze items`: rows with one task, run and setting.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import polars as pl

from lpp.analyze.charts.axes import DEPTH
from lpp.analyze.charts.library import alt
from lpp.analyze.charts.lines import Lines, by_depth, final_apart, line_chart
from lpp.analyze.charts.panels import Words, filling, says, stacked
from lpp.analyze.charts.rows import (
    Row,
    bars,
    checked,
    data,
    interval,
    listing,
    measured,
    named_curves,
    nothing,
    number,
    plain,
    points,
    rows,
    told,
    with_tips,
)
from lpp.analyze.charts.run_styles import PALETTE, RunStyles
from lpp.analyze.charts.theme import GREY, INK, PLOT_HEIGHT, shortened
from lpp.analyze.quantities.quantity import Quantity
from lpp.store.errors import InputError

COMMAND: Final = "lpp-analyze items STORE --task TASK"

_KEY: Final = (
    *("label", "task", "run", "source", "filter", "score_filter", "rows", "skip_first"),
    *("group_field", "cluster_field", "folds", "seed"),
)
"""Columns that tell analyses apart, of items and of probes."""

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
    of, _ = analysis_of(frame, runs)
    within = frame["within_auroc"].is_not_null().any()
    ends = {end: pl.col(f"within_{end}" if within else end).cast(pl.Float64) for end in _ENDS}
    frame = frame.select("feature", "site", "depth", "role", **ends)
    frame = frame.filter(pl.col("auroc").is_finite())
    sites = by_depth(frame.drop_nulls("depth"), "feature", "depth")
    far = (pl.col("auroc") - 0.5).abs()
    best = frame.filter(role="statistic").sort(far, descending=True).head(1)
    rules = pl.concat([frame.filter(role="baseline"), best]).sort("auroc", descending=True)
    pairs = rules.select("feature", "auroc").rows()
    named = [f"{plain(name)} {auroc:.2f}" for name, auroc in pairs]
    ends_there = sites.select(_ENDS).unpivot()["value"].drop_nulls().drop_nans()
    values = [0.5, *rules["auroc"], *ends_there]
    low, high = math.floor(20 * min(values) - 0.2) / 20, math.ceil(20 * max(values) + 0.2) / 20
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    auroc = Quantity(
        name="auroc",
        of="item",
        label=f"AUROC{' within groups' if within else ''}",
        unit="AUROC",
        definition="probability that a right item has a larger value than a wrong one",
        source="Hanley and McNeil 1982",
    )
    lines = Lines(
        number=auroc,
        x=DEPTH,
        lead=", ".join([f"{auroc.label} by depth", *of]),
        end=listing(named),
        notes=[
            *of,
            "Grey: 95 % of draws with shuffled labels.",
            *([f"Dashed, from above: {', '.join(named)}."] if named else []),
        ],
        of="feature",
        over="items",
        ends=(low, high),
        behind=[*_shuffled(sites, scale), *_rules(rules, scale)],
    )
    shuffled = [interval(*ends) for ends in sites.select("shuffled_low", "shuffled_high").rows()]
    return line_chart(
        sites.rename({"ci_low": "auroc_ci_low", "ci_high": "auroc_ci_high"}).with_columns(
            shuffled=pl.Series(shuffled, dtype=pl.String)
        ),
        named_curves([*sites["feature"]]),
        [lines],
        nothing("AUROC by depth", features, COMMAND),
    ).picture()


def _shuffled(sites: pl.DataFrame, scale: Any) -> Iterator[Any]:
    """The range of AUROCs with shuffled labels: an area along the blocks, a bar at `final`."""
    ends = pl.min("shuffled_low"), pl.max("shuffled_high")
    band = rows(sites.group_by("site", "depth").agg(ends).sort("depth"))
    column = final_apart(band, "depth")
    x = alt.X("place:Q")
    y = alt.Y("shuffled_low:Q", title="AUROC", scale=scale)
    for of_final, look in ((False, {"type": "area"}), (True, {"type": "bar", "size": 10})):
        part = [
            {name: row[name] for name in ("place", "shuffled_low", "shuffled_high")}
            for row in band
            if row["shuffled_low"] is not None and (row["place"] == column) is of_final
        ]
        if part:
            mark = alt.MarkDef(color=GREY, opacity=0.22, aria=False, **look)
            area = alt.Chart(data(part), mark=mark)
            yield area.encode(x=x, y=y, y2="shuffled_high:Q")


def _rules(rules: pl.DataFrame, scale: Any) -> list[Any]:
    """Dashed: baselines, and the one feature of the predictions, with its name, that is farthest
    from 0.5.
    """
    y = alt.Y("auroc:Q", title="AUROC", scale=scale)
    named = [
        {**row, "label": row["feature"], "told": told(row["auroc"])}
        for row in rows(rules.select("feature", "role", "auroc"))
    ]
    best = [
        {**row, "text": f"{row['feature']} {row['auroc']:.2f}"}
        for row in named
        if row["role"] != "baseline"
    ]
    titles = {"label": "feature", "told": "AUROC"}
    named, tips = with_tips(named, titles, ("feature", "auroc"))
    return [*rules_at(named, y, tooltip=tips), *rule_labels(best, y, fontSize=10, dy=-2)]


def reliability_chart(reliability: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Share of right items by the mean confidence of a bin, beside the diagonal of calibration.

    reliability: rows of the table `item_reliability` of one analysis. The area of a point is that
    of the items in its bin. runs: the styles of a page's runs. An `altair.LayerChart` as wide as
    its container; without values, a chart that says so. Raises InputError for another table,
    MachineError(NO_PACKAGE) without the extra `report`.
    """
    of, color = analysis_of(checked(reliability, "item_reliability", BINS), runs)
    words = ReliabilityWords(
        title="Reliability of the chosen answer's share",
        nothing=nothing("reliability", reliability, COMMAND),
        of="items",
        confidence="mean share",
        x="mean share of the chosen answer",
        y="share of right items",
        right="right",
        below="the model is too sure",
    )
    return of_bins(reliability, of, color, words)


BINS: Final = ("bin", "n", "confidence", "accuracy", "accuracy_ci_low", "accuracy_ci_high")
"""Columns of a table of bins by confidence."""


class ReliabilityWords(NamedTuple):
    """How a reliability chart speaks of its bins."""

    title: str
    nothing: str
    """What there is to say without bins."""
    of: str
    """What bins hold, such as items."""
    confidence: str
    """In a description, before the mean confidence of a bin."""
    x: str
    y: str
    right: str
    """In a description, after the share of a bin."""
    below: str
    """What a point below the diagonal means."""


def of_bins(frame: pl.DataFrame, of: Sequence[str], color: str, words: ReliabilityWords) -> Any:
    """The reliability chart of a table with the columns `BINS`. of: notes."""
    frame = measured(frame.select(BINS).sort("bin"), "accuracy")
    bins = points(frame.drop_nulls("value"), [""] * frame["value"].count())
    if not bins:
        return says(words.title, words.nothing)
    counts = sorted({row["n"] for row in bins})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    parts = [
        f"{row['n']} {words.of} with {words.confidence} {number(row['confidence'])}: {row['told']} "
        f"{words.right}"
        for row in bins
    ]
    notes = [
        *of,
        f"{len(bins)} bins, {n} {words.of} each.",
        f"Below the dashed diagonal {words.below}.",
        *bars(bins, words.of),
    ]
    bins, tips = with_tips(bins, {"told": f"{words.right} (share)", "n": words.of}, BINS)
    x = _share("confidence", words.x, alt.X)
    y, low = (_share(field, words.y, alt.Y) for field in ("accuracy", BINS[4]))
    base = alt.Chart(data(bins))
    diagonal = alt.Chart(data([{"confidence": end, "accuracy": end} for end in (0, 1)]))
    size = alt.Size("n:Q", scale=alt.Scale(domain=[0, counts[-1]], range=[0, 110]), legend=None)
    layers = [
        diagonal.mark_line(color=GREY, strokeDash=[6, 3], aria=False).encode(x=x, y=y),
        base.mark_rule(color=color, strokeWidth=1.8, aria=False).encode(
            x=x, y=low, y2=f"{BINS[5]}:Q"
        ),
        base.mark_point(color=color, filled=True, opacity=1).encode(
            x=x, y=y, size=size, tooltip=tips
        ),
    ]
    return _alone(layers, [words.title, *of], notes, parts)


def risk_chart(risk: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Share of wrong answers among the most confident items, by the share that is answered.

    risk: rows of the table `item_risk` of one analysis. Dashed: the risk if all items are answered;
    a random order has this risk at every coverage. runs: the styles of a page's runs. An
    `altair.LayerChart` as wide as its container; without values, a chart that says so. Raises
    InputError for another table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    title = "Risk against coverage"
    needed = ("n_answered", "coverage", "risk")
    of, color = analysis_of(checked(risk, "item_risk", needed), runs)
    there = pl.col("risk").cast(pl.Float64).is_not_null()
    curve = rows(risk.select(needed).filter(there).sort("n_answered"))
    if not curve:
        return says(title, nothing("risk", risk, COMMAND))
    shown = sorted({round(k * (len(curve) - 1) / 4) for k in range(5)})
    parts = [
        f"{number(curve[k]['risk'])} wrong at coverage {curve[k]['coverage']:.2g}" for k in shown
    ]
    whole = curve[-1]["risk"]
    all_items = [{"risk": whole, "text": f"all items: {whole:.3g}"}]
    top = min(1.0, 1.1 * (max(row["risk"] for row in curve) or 1.0))
    curve, tips = with_tips(curve, {}, needed)
    x = _share("coverage", "coverage: share answered, most confident first", alt.X)
    y = _share("risk", "risk: share of them wrong", alt.Y, top)
    base = alt.Chart(data(curve))
    layers = [
        alt.Chart(data(all_items)).mark_rule(color=GREY, strokeDash=[6, 3], aria=False).encode(y=y),
        *rule_labels(all_items, y, dy=-3),
        base.mark_line(color=color, strokeWidth=1.8).encode(x=x, y=y),
        base.mark_point(color=color, filled=True, opacity=1, size=14).encode(
            x=x, y=y, tooltip=tips
        ),
    ]
    return _alone(layers, [title, *of], of, parts)


def _share(field: str, title: str, channel: Any, top: float = 1.0) -> Any:
    """An axis of shares, from 0."""
    scale = alt.Scale(domain=[0, top], nice=False)
    return channel(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))


def rules_at(values: Sequence[Row], y: Any, **encoded: Any) -> list[Any]:
    """A dashed rule across the plot for each row."""
    rule = alt.Chart(data(values)).mark_rule(color=INK, opacity=0.7, strokeDash=[4, 3], aria=False)
    return [rule.encode(y=y, **encoded)] if values else []


def rule_labels(values: Sequence[Row], y: Any, apart: int = 0, **look: Any) -> list[Any]:
    """The `text` of each row, written above its rule. apart: pixels between rows, from the left."""
    look = {"align": "left", "baseline": "bottom", "color": INK, "aria": False, **look}
    return [
        alt.Chart(data([row]))
        .mark_text(**look)
        .encode(x=alt.value(4 + apart * k), y=y, text="text:N")
        for k, row in enumerate(values)
    ]


def _alone(
    layers: Sequence[Any], names: Sequence[str], notes: Sequence[str], parts: Sequence[str]
) -> Any:
    """One chart. names: its title and its analysis, by which a screen reader tells charts apart."""
    description = f"{', '.join(names)}. {listing(parts)}"
    words = Words(title=names[0], notes=notes, description=description)
    return filling(alt.layer(*layers).properties(height=PLOT_HEIGHT, **words.properties))


def together(charts: Sequence[Any], title: str) -> Any:
    """Charts of several analyses as one picture, two beside each other; a single one as it is."""
    if len(charts) == 1:
        return charts[0]
    words = Words(title=title, description=" ".join(chart.description for chart in charts))
    parts = [chart.copy() for chart in charts]
    for part in parts:  # only the whole chart may have these
        part.config = part.background = part.usermeta = alt.Undefined
    return stacked(parts, 2, words)


def analysis_of(frame: pl.DataFrame, runs: RunStyles | None) -> tuple[list[str], str]:
    """A note of the rows' analysis, and the colour of its run. InputError for rows of several.

    The run is called as on its page; without a letter where it is the only one.
    """
    keys = [name for name in _KEY if name in frame.columns]
    analyses = frame.select(keys).unique().to_dicts() if keys else []
    if len(analyses) > 1:
        raise InputError(
            f"rows of {len(analyses)} analyses: a chart is of one. Filter by {', '.join(keys)}.",
        )
    key, color = analyses[0] if analyses else {}, PALETTE[0]
    parts = [shortened(plain(key[name]), 46) for name in ("label", "task") if key.get(name)]
    if run := key.get("run"):
        styles = (runs or RunStyles({})).including([run])
        color = styles.color(run)
        name = styles.label(run) if len(styles.order) > 1 else styles.name(run)
        parts.append(shortened(plain(name), 46))
    if key.get("rows", "last") != "last":
        parts.append(f"rows: {plain(key['rows'])}")
    if first := key.get("skip_first"):
        parts.append(f"without the first {'position' if first == 1 else f'{first} positions'}")
    return [", ".join(parts)] if parts else [], color
