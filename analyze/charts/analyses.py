"""Charts of comparisons and of analyses: drift of two models, items of an evaluation, probes.

Each takes the frame of a table and returns an Altair chart, which says why it is empty where it has
no values. `runs` are the letters, names and colours of a page's runs. All axes of drift are
logarithmic: quantising to eight bits and to three differ by orders of magnitude.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.frames import (
    bars,
    checked,
    data,
    measured,
    nothing,
    of_names,
    of_pairs,
    of_runs,
    plain,
    said,
    shortened,
    tipped,
)
from lpp.analyze.charts.marks import by_depth, cells, lines
from lpp.analyze.charts.run_styles import OTHERS, PALETTE, RunStyles
from lpp.analyze.charts.theme import GREY, INK, PLOT_HEIGHT, alt, beside, heading
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.quantities.probes import PROBE_NUMBERS
from lpp.analyze.quantities.quantity import Quantity, capital
from lpp.store.errors import InputError

_DIFF: Final = "lpp-analyze diff STORE RUN_A RUN_B"
_ITEMS: Final = "lpp-analyze items STORE --task TASK"
_PROBE: Final = "lpp-analyze probe STORE --label FIELD"

_PAIR: Final = ("run_a", "run_b")
_GRIDS: Final = {n: c for n, c in SITE_CHANGES.items() if c.needs != "spectra" and c.unit != "dB"}
"""Numbers of which a grid has a fill: those that are a distance from where nothing changed."""
_ROUNDING: Final = 1e-12
"""A 1 - CKA that is closer to 0 than this is drawn as 0."""
_SHARE: Final = Quantity(
    name="share",
    of="pair",
    unit="share",
    share_of="tokens",
    label="share of tokens",
    definition="tokens with a KL in a bin, over all tokens of a pair",
    source="this project",
)
_KEY: Final = (
    *("label", "task", "run", "source", "filter", "score_filter", "rows", "skip_first"),
    *("group_field", "cluster_field", "folds", "seed"),
)
"""Columns that tell analyses apart, of items and of probes."""
_BINS: Final = ("bin", "n", "confidence", "accuracy", "accuracy_ci_low", "accuracy_ci_high")
"""Columns of a table of bins by confidence."""


def drift_depth_chart(
    sites: pl.DataFrame, *, runs: RunStyles | None = None, columns: int = 2
) -> Any:
    """Relative distance and 1 - CKA by depth on log axes, with 95 % intervals.

    sites: the table `drift_sites`; a line for each pair and first position. runs: letters,
    names and colours of runs; without them, the first run of all pairs is A. columns: panels
    per row. Raises InputError for another table.
    """
    distance, cka = SITE_CHANGES["relative_distance"], SITE_CHANGES["cka"]
    numbers = [f"{n.name}{end}" for n in (distance, cka) for end in ("", "_ci_low", "_ci_high")]
    needed = (*_PAIR, "n_prompts", "first_position", "site", "depth", "n_tokens", *numbers)
    frame, notes = of_pairs(checked(sites, "drift_sites", needed).drop_nulls(_PAIR), runs)
    away = 1 - pl.col("cka")
    frame = by_depth(frame, "depth").with_columns(
        apart=pl.when(away.abs() < _ROUNDING).then(0.0).otherwise(away),
        apart_ci_low=1 - pl.col("cka_ci_high"),
        apart_ci_high=1 - pl.col("cka_ci_low"),
    )
    apart = replace(cka, name="apart", label=f"1 - {cka.heading}", bounds=(0.0, 1.0))
    panels = lines(frame, [distance, apart], "depth", log=True, notes=notes)
    none = nothing("drift_sites", sites, _DIFF)
    return beside(panels, "Drift by depth", none, columns=columns)


def drift_positions_chart(positions: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Mean KL of each band of positions in the prompt, both axes logarithmic, with 95 % intervals.

    positions: rows of `by_position` with columns `run_a` and `run_b`. runs: letters, names and
    colours of runs. Raises InputError for another frame.
    """
    needed = (*_PAIR, "first", "end", "n_tokens", "kl", "kl_ci_low", "kl_ci_high")
    frame = checked(positions, "of drift by position", needed).drop_nulls(_PAIR)
    frame, notes = of_pairs(frame, runs)
    title = "KL by position in the prompt"
    panels = lines(frame, [PREDICTIONS["kl"]], "first", title=title, log=True, notes=notes)
    return beside(panels, title, nothing("KL", positions, _DIFF))


def drift_histogram_chart(bins: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Share of the tokens in each bin of KL, on a log axis; a note has the tokens with a KL of 0.

    bins: rows with `run_a`, `run_b`, the ends of a bin `kl_from` and `kl_below` in nats (null:
    exactly 0), `n_tokens` and `share`. runs: letters, names and colours of runs. Raises
    InputError for another frame.
    """
    needed = (*_PAIR, "kl_from", "kl_below", "n_tokens", "share")
    frame, notes = of_pairs(checked(bins, "of bins", needed).drop_nulls(_PAIR), runs)
    zeros = frame.filter(pl.col("kl_from").is_null()).drop_nulls("share")
    if len(zeros):
        notes += [
            f"Of the tokens a KL of exactly 0, not shown: {said(zeros, '{curve} {share:.1%}')}"
        ]
    middle = (pl.col("kl_from") * pl.col("kl_below")).sqrt()
    frame = frame.drop_nulls("kl_from").with_columns(kl=middle)
    panels = lines(frame, [_SHARE], "kl", title="KL per token", notes=notes)
    return beside(panels, "KL per token", nothing("KL", bins, _DIFF))


def drift_grid_chart(
    sites: pl.DataFrame, metric: str = "relative_distance", *, runs: RunStyles | None = None
) -> Any:
    """A number of each site of several runs, all compared with one: depth across, runs down.

    sites: a row for each run and site, with `a`, `b`, `site`, `depth` and the metric; runs are in
    its order. metric: `relative_distance`, `cosine`, `cka` or `overlap`. The fill is empty if
    nothing changed, and full at the number farthest from that. If there is room, a cell has its
    number. runs: letters, names and colours of runs. Raises InputError for another table or metric.
    """
    if metric not in _GRIDS:
        raise InputError(f"no drift in depth of {metric!r}: choose {', '.join(_GRIDS)}.")
    panels = _drift_grid(sites, metric, runs)
    return beside(panels, f"{_GRIDS[metric].title} in depth", nothing(metric, sites, _DIFF))


def drift_steps_chart(
    predictions: pl.DataFrame, sites: pl.DataFrame, *, runs: RunStyles | None = None
) -> Any:
    """What changes along a training: KL and flips by step, and the distance of every site.

    predictions: the table `drift_predictions` with the column `step` of run B; a line for each run
    A. sites: of `drift_grid_chart`. runs: letters, names and colours of runs. Raises InputError for
    another table.
    """
    needed = ("run_a", "step", "number", "mean", "mean_ci_low", "mean_ci_high")
    frame = checked(predictions, "drift_predictions", needed).rename({"run_a": "run"})
    frame = of_runs(frame, runs).sort("curve", "step")
    panels = []
    for name in ("kl", "flips"):
        ends = {f"mean{end}": f"{name}{end}" for end in ("", "_ci_low", "_ci_high")}
        rows = frame.filter(number=name).rename(ends)
        panels += lines(rows, [PREDICTIONS[name]], "step", subject="from")
    panels += _drift_grid(sites, "relative_distance", runs)
    return beside(panels, "Drift along the training", nothing("drift", predictions, _DIFF))


def _drift_grid(sites: pl.DataFrame, metric: str, runs: RunStyles | None) -> list[Any]:
    """The panel of `drift_grid_chart`; none without values."""
    frame = checked(sites, "drift_sites", ("a", "b", "site", "depth", metric))
    frame = frame.drop_nulls("b").unique(("b", "site"), keep="first", maintain_order=True)
    frame = measured(of_runs(frame.rename({"b": "run"}), runs), metric)
    quantity = _GRIDS[metric]
    away = (pl.col("value") - (quantity.identity or 0.0)).abs()
    rows = frame.drop_nulls("value").sort("depth", pl.col("site") == "final", maintain_order=True)
    rows = rows.with_columns(x="site", y="label", fill=(away / away.max()).fill_nan(0.0))
    far = rows.sort("fill", descending=True).unique("label", keep="first", maintain_order=True)
    title, bases = f"{quantity.title} in depth", ", ".join(sorted({*map(plain, rows["a"])}))
    grid = cells(
        rows,
        rows["site"].unique(maintain_order=True).to_list(),
        frame["label"].unique(maintain_order=True).to_list(),
        title=title,
        notes=[f"From {shortened(bases, 60)}", f"{capital(quantity.definition)}."],
        description=f"{title}, from {bases}: {said(far, '{label}: {value:.4g} at {site}')}",
        told=quantity.words,
        fills=(0, 1),
        height=44,
        text=".2~g",
    )
    return [grid] if len(rows) else []


def item_depth_chart(features: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """AUROC of each feature of rows by depth, with its interval and the range of shuffled labels.

    features: rows of the table `item_features` of one analysis; numbers are those within groups
    where there are any. A line for each feature of a site; in grey, behind, where 95 % of the
    shuffles lie. Dashed: the baselines, and the feature of the predictions whose AUROC is
    farthest from 0.5. runs: letters, names and colours of runs. Raises InputError for another
    table.
    """
    names = ("auroc", "ci_low", "ci_high", "shuffled_low", "shuffled_high")
    needed = ("feature", "site", "depth", "role", *names, *(f"within_{name}" for name in names))
    frame = checked(features, "item_features", needed)
    of, _ = analysis_of(frame, runs)
    within = "within_" if frame["within_auroc"].count() else ""
    frame = frame.with_columns(pl.col(f"{within}{n}").cast(pl.Float64).alias(n) for n in names)
    frame = frame.rename({"ci_low": "auroc_ci_low", "ci_high": "auroc_ci_high"})
    frame = frame.filter(pl.col("auroc").is_finite()).drop("flags", "run", strict=False)
    sites = by_depth(of_names(frame.drop_nulls("depth"), "feature"), "depth")
    far = frame.filter(role="statistic").sort((pl.col("auroc") - 0.5).abs(), descending=True)
    best = far.head(1).with_columns(text=pl.format("{} {}", "feature", pl.col("auroc").round(2)))
    rules = pl.concat([frame.filter(role="baseline"), best], how="diagonal")
    rules = rules.sort("auroc", descending=True).select("text", name="feature", value="auroc")
    band = sites.group_by("depth").agg(pl.min("shuffled_low"), pl.max("shuffled_high"))
    grey = alt.Chart(data(band.drop_nulls().sort("depth")))
    grey = grey.mark_rule(color=GREY, opacity=0.25, strokeWidth=9, aria=False)
    y = alt.Y("shuffled_low:Q", title="AUROC")
    label = f"AUROC{' within groups' * bool(within)}"
    auroc = replace(PROBE_NUMBERS["probe_auroc"], name="auroc", unit="AUROC", label=label)
    panels = lines(
        sites,
        [auroc],
        "depth",
        notes=[*of, "Grey: 95 % of draws with shuffled labels", *_named("Dashed", rules)],
        subject="feature",
        over="items",
        colors=OTHERS,
        zero=False,
        behind=[grey.encode(x="depth:Q", y=y, y2="shuffled_high:Q"), *_rules(rules, "AUROC")],
    )
    return beside(panels, "AUROC by depth", nothing("AUROC by depth", features, _ITEMS))


def probe_depth_chart(probes: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """AUROC or R2 of each site by depth, with its interval, and a band for each control.

    probes: rows of the table `probes` of one analysis. A band is the 95 % interval of a
    control, a dashed line its value. `final` is to the right of a gap. runs: letters, names and
    colours of runs. Raises InputError for another table.
    """
    names = [name for name in ("probe_auroc", "probe_r2") if name in probes.columns]
    needed = ("probe", "role", "depth", "label", *(names[:1] or ("probe_auroc",)))
    frame = checked(probes, "probes", needed)
    of, _ = analysis_of(frame, runs)
    quantity = PROBE_NUMBERS[next((name for name in names if frame[name].count()), names[0])]
    frame = measured(frame, quantity.name).drop_nulls("value")
    sites = frame.filter(role="site").with_columns(site="probe", of="label")
    controls = frame.filter(role="control").sort("value", descending=True)
    rules = controls.select("value", name="probe", text="probe")
    band = alt.Chart(data(controls.select("low", "high").drop_nulls()))
    band = band.mark_rect(color=GREY, opacity=0.16, aria=False)
    panels = lines(
        by_depth(of_names(sites, "of"), "depth"),
        [quantity],
        "depth",
        notes=[*of, *_named("Grey: controls", rules)],
        subject="label",
        colors=OTHERS,
        zero=False,
        behind=[
            band.encode(y=alt.Y("low:Q", title=quantity.axis), y2="high:Q"),
            *_rules(rules, quantity.axis),
        ],
    )
    return beside(panels, "Probes by depth", nothing("probes", probes, _PROBE))


def _named(what: str, rules: pl.DataFrame) -> list[str]:
    """A note of values across the plot, if there are any."""
    return [f"{what}, from above: {said(rules, '{name} {value:.2f}')}"] if len(rules) else []


def _rules(rules: pl.DataFrame, title: str) -> list[Any]:
    """Dashed: each `value` across the plot. Its `text`, if any, stands above it, beside those of
    others: controls at chance are close.
    """
    y = alt.Y("value:Q", title=title)
    tips = [
        alt.Tooltip("name:N", title="dashed"),
        alt.Tooltip("value:Q", title=title, format=".4~g"),
    ]
    rule = alt.Chart(data(rules.select("name", "value")))
    rule = rule.mark_rule(color=INK, opacity=0.7, strokeDash=[4, 3], aria=False)
    texts = rules.drop_nulls("text").with_row_index().with_columns(at=4 + 60 * pl.col("index"))
    text = alt.Chart(data(texts.select("text", "value", "at")))
    text = text.mark_text(
        align="left", baseline="bottom", color=INK, fontSize=10, dy=-2, aria=False
    )
    where = alt.X("at:Q", scale=None)  # pixels
    return [rule.encode(y=y, tooltip=tips), text.encode(x=where, y=y, text="text:N")]


def reliability_chart(reliability: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Share of right items by the mean confidence of a bin, beside the diagonal of calibration.

    reliability: rows of the table `item_reliability` of one analysis. A point's area grows with the
    number of items in its bin. runs: letters, names and colours of runs. Raises InputError for
    another table.
    """
    frame = checked(reliability, "item_reliability", _BINS)
    of, color = analysis_of(frame, runs)
    title = "Reliability of the chosen answer's share"
    x, y = "mean share of the chosen answer", "share of right items"
    below = "the model is too sure"
    none = nothing("reliability", reliability, _ITEMS)
    return beside(
        _bins(frame, of, color, title=title, items="items", x=x, y=y, below=below), title, none
    )


def probe_reliability_chart(reliability: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Share of prompts of the second class by the mean probability that the probe gives, in bins.

    reliability: rows of the table `probe_reliability` of one probe. runs: letters, names and
    colours of runs. Raises InputError for another table.
    """
    frame = checked(reliability, "probe_reliability", ("probe", *_BINS))
    of, color = analysis_of(frame, runs)
    of = [f"{note}, {plain(probe)}" for note in of for probe in frame["probe"].head(1)]
    title = "Reliability of the probe"
    x, y = "mean probability of the second class", "share of the second class"
    below = "the probability is too high"
    none = nothing("reliability", reliability, _PROBE)
    return beside(
        _bins(frame, of, color, title=title, items="prompts", x=x, y=y, below=below), title, none
    )


def _bins(
    frame: pl.DataFrame,
    analysis: Sequence[str],
    color: str,
    *,
    title: str,
    items: str,
    x: str,
    y: str,
    below: str,
) -> list[Any]:
    """Points of bins, with intervals, and the diagonal. items: what bins hold. below: what a point
    below the diagonal means.
    """
    rows = measured(frame.select(_BINS).sort("bin"), "accuracy").drop_nulls("value")
    if rows.is_empty():
        return []
    drawn = ("confidence", "value", "low", "high", "n")
    shown, tips = tipped(rows, drawn, value=y, confidence=x, n=items)
    scale = alt.Scale(domain=[0, 1])
    size = alt.Size("n:Q", scale=alt.Scale(domainMin=0, range=[0, 110]), legend=None)
    diagonal = alt.Chart(data(pl.DataFrame({"confidence": [0, 1], "value": [0, 1]})))
    up = alt.Y("value:Q", title=y, scale=scale)
    base = alt.Chart(data(shown)).encode(alt.X("confidence:Q", title=x, scale=scale), up)
    layers = [
        diagonal.mark_line(color=GREY, strokeDash=[6, 3], aria=False).encode(
            x="confidence:Q", y=up
        ),
        base.mark_rule(color=color, aria=False).encode(alt.Y("low:Q", title=y), alt.Y2("high")),
        base.mark_point(color=color, filled=True, opacity=1).encode(size=size, tooltip=tips),
    ]
    sizes = dict.fromkeys((rows["n"].min(), rows["n"].max()))
    notes = [
        f"{len(rows)} bins, {' to '.join(map(str, sizes))} {items} each.",
        f"Below the dashed diagonal {below}.",
        *bars(rows, items),
    ]
    each = said(rows, f"{{n}} {items} of {x} {{confidence:.4g}}: {{value:.4g}}")
    return [_alone(layers, title, analysis, notes, each)]


def risk_chart(risk: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Share of wrong answers among the most confident items, by the share that is answered.

    risk: rows of the table `item_risk` of one analysis. Dashed: the risk if all items are
    answered; a random order has this risk at every coverage. runs: letters, names and colours
    of runs. Raises InputError for another table.
    """
    title, y = "Risk against coverage", "risk: share of them wrong"
    frame = checked(risk, "item_risk", ("n_answered", "coverage", "risk"))
    of, color = analysis_of(frame, runs)
    rows = measured(frame, "risk").drop_nulls("value").sort("n_answered")
    drawn = ("coverage", "value", "n_answered")
    shown, tips = tipped(rows, drawn, value="wrong (share)", n_answered="answered (items)")
    x = alt.X("coverage:Q", title="coverage: share answered, most confident first")
    base = alt.Chart(data(shown)).encode(
        x.scale(domain=[0, 1]), alt.Y("value:Q", title=y, scale=alt.Scale(nice=False))
    )
    value = pl.col("value").round(3)
    every = rows.tail(1).select("value", name=pl.lit("all"), text=pl.format("all items: {}", value))
    layers = [
        *_rules(every, y),
        base.mark_line(color=color, strokeWidth=1.8),
        base.mark_point(color=color, filled=True, opacity=1, size=14).encode(tooltip=tips),
    ]
    some = rows.gather_every(max(len(rows) // 5, 1))
    each = said(some, "{value:.4g} wrong at coverage {coverage:.2g}")
    panels = [_alone(layers, title, of, [], each)] if len(rows) else []
    return beside(panels, title, nothing("risk", risk, _ITEMS))


def _alone(
    layers: Sequence[Any], title: str, analysis: Sequence[str], notes: Sequence[str], each: str
) -> Any:
    """The only panel of a chart. A screen reader tells charts apart by their analyses."""
    description = f"{', '.join([title, *analysis])}: {each}"
    words = {"title": heading(title, [*analysis, *notes]), "description": description}
    return alt.layer(*layers).properties(height=PLOT_HEIGHT, **words)


def analysis_of(frame: pl.DataFrame, runs: RunStyles | None) -> tuple[list[str], str]:
    """A note of the rows' analysis, and the colour of its run. InputError for rows of several.

    The note names the run as its page does, and leaves the letter out if there is one run alone.
    """
    keys = [name for name in _KEY if name in frame.columns]
    analyses = frame.select(keys).unique().to_dicts() if keys else []
    if len(analyses) > 1:
        raise InputError(
            f"rows of {len(analyses)} analyses: a chart is of one. Filter by {', '.join(keys)}."
        )
    key, color = analyses[0] if analyses else {}, PALETTE[0]
    parts = [shortened(key[name], 46) for name in ("label", "task") if key.get(name)]
    if run := key.get("run"):
        styles = (runs or RunStyles({})).including([run])
        color = styles.color(run)
        name = styles.label(run) if len(styles.order) > 1 else styles.name(run)
        parts.append(shortened(name, 46))
    if key.get("rows", "last") != "last":
        parts.append(f"rows: {plain(key['rows'])}")
    if first := key.get("skip_first"):
        parts.append(f"without the first {'position' if first == 1 else f'{first} positions'}")
    return [", ".join(parts)] if parts else [], color
