"""Probes of a label: AUROC or R2 by depth beside controls, and reliability.

Each chart is of one analysis of `lpp-analyze probe`.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.axes import DEPTH
from lpp.analyze.charts.items import (
    BINS,
    ReliabilityWords,
    analysis_of,
    of_bins,
    rule_labels,
    rules_at,
)
from lpp.analyze.charts.library import alt
from lpp.analyze.charts.lines import Lines, by_depth, line_chart
from lpp.analyze.charts.rows import (
    checked,
    data,
    listing,
    named_curves,
    nothing,
    plain,
    rows,
)
from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.charts.theme import GREY
from lpp.analyze.quantities.probes import PROBE_NUMBERS

COMMAND: Final = "lpp-analyze probe STORE --label FIELD"

_LABEL: Final = 60
"""Pixels of the name of a control."""


def probe_depth_chart(probes: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """AUROC or R2 of each site by depth, with its interval, and a band for each control.

    probes: rows of the table `probes` of one analysis. A band is the 95 % interval of a control, a
    dashed line its value. `final` is to the right of a gap. runs: the styles of a page's runs. An
    `altair.LayerChart` as wide as its container; without values, a chart that says so. Raises
    InputError for another table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    numbers = [name for name in ("probe_auroc", "probe_r2") if name in probes.columns]
    needed = ("probe", "role", "depth", "label", *(numbers[:1] or ("probe_auroc",)))
    frame = checked(probes, "probes", needed)
    of, _ = analysis_of(frame, runs)
    name = next((name for name in numbers if frame[name].count()), numbers[0])
    ends = [f"{name}_ci_low", f"{name}_ci_high"]
    columns = [pl.col(column).cast(pl.Float64) for column in (name, *ends)]
    frame = frame.select("probe", "role", "depth", "label", *columns).drop_nulls(name)
    sites = frame.filter(role="site").rename({"probe": "site"})
    bands = frame.filter(role="control").sort(name, descending=True)
    values = frame.select(name, *ends).unpivot()["value"].drop_nulls()
    chance = 0.5 if name == "probe_auroc" else 0.0
    low = math.floor(20 * min([chance, *values]) - 0.2) / 20
    high = min(math.ceil(20 * max([chance, *values]) + 0.2) / 20, 1.0)
    named = [f"{plain(k)} {v:.2f}" for k, v in bands.select("probe", name).rows()]
    lines = Lines(
        number=PROBE_NUMBERS[name],
        x=DEPTH,
        lead=", ".join([f"{PROBE_NUMBERS[name].title} by depth", *of]),
        end=listing(named),
        notes=[*of, *([f"Grey: controls, from above: {', '.join(named)}."] if named else [])],
        of="label",
        ends=(low, high),
        behind=[*_bands(bands, name, alt.Scale(domain=[low, high], nice=False, zero=False))],
    )
    sites = by_depth(sites, "label", "depth")
    curves = named_curves([*sites["label"]])
    return line_chart(sites, curves, [lines], nothing("probes", probes, COMMAND)).picture()


def _bands(controls: pl.DataFrame, name: str, scale: Any) -> Iterator[Any]:
    """The interval of each control along the whole axis, and a dashed line with its name."""
    parts = rows(controls.rename({f"{name}_ci_low": "low", f"{name}_ci_high": "high"}))
    y = {field: alt.Y(f"{field}:Q", title=None, scale=scale) for field in (name, "low")}
    whole = [row for row in parts if row["low"] is not None]
    if whole:
        band = alt.Chart(data(whole)).mark_rect(color=GREY, opacity=0.16, aria=False)
        yield band.encode(y=y["low"], y2="high:Q")
    yield from rules_at(parts, y[name])
    named = [{**row, "text": row["probe"]} for row in parts]
    # beside each other: controls at chance are close
    yield from rule_labels(named, y[name], _LABEL, fontSize=10, dy=-2)


def probe_reliability_chart(reliability: pl.DataFrame, *, runs: RunStyles | None = None) -> Any:
    """Share of prompts of the second class by the mean probability that the probe gives, in bins.

    reliability: rows of the table `probe_reliability` of one probe. runs: the styles of a page's
    runs. An `altair.LayerChart` as wide as its container; without values, a chart that says so.
    Raises InputError for another table, MachineError(NO_PACKAGE) without the extra `report`.
    """
    frame = checked(reliability, "probe_reliability", ("probe", *BINS))
    of, color = analysis_of(frame, runs)
    of = [f"{note}, {plain(probe)}" for note in of for probe in frame["probe"].head(1)]
    words = ReliabilityWords(
        title="Reliability of the probe",
        nothing=nothing("reliability", reliability, COMMAND),
        of="prompts",
        confidence="mean probability",
        x="mean probability of the second class",
        y="share of the second class",
        right="of the second class",
        below="the probability is too high",
    )
    return of_bins(frame, of, color, words)
