"""Sentences, first screen and charts of comparisons, from rows alone."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.pages.drift_page_tables import (
    DRIFT,
    HISTOGRAM,
    POSITIONS,
    SITES,
    Pair,
    ends,
    most_moved,
    moved,
    numbers_of,
    of_pairs,
    pairs_by_kl,
    sites_of,
)
from lpp.analyze.pages.page import UNKNOWN_FLAG, Chart, Figure, Frames, Opening, drawing
from lpp.analyze.pages.table import Shape, Table
from lpp.analyze.pages.words import (
    MISSING,
    Flag,
    Sentence,
    clause,
    interval,
    listed,
    number,
    ref,
    rough,
    rough_percent,
    run,
    say,
)
from lpp.analyze.quantities.drift import PREDICTIONS
from lpp.analyze.quantities.flags import MEANING

PAIRS_DRAWN: Final = 8
"""Most pairs in a chart."""

PAIRS_SAID: Final = 3
"""Most pairs with a sentence each."""

FEW_PAIRS: Final = 4
"""Most pairs on the first screen."""


def conclusions(frames: Frames) -> Iterator[Sentence]:
    """A sentence for each of the first pairs."""
    pairs = pairs_by_kl(frames)
    yield from (say(conclusion(frames, pair)) for pair in pairs[:PAIRS_SAID])
    if more := len(pairs[PAIRS_SAID:]):
        counted = ref(f"{more} more pair{'s' * (more > 1)}", DRIFT.name)
        yield say(f"{counted} of runs differ less, by KL.")


def conclusion(frames: Frames, pair: Pair) -> str:
    """How far the predictions differ, and where hidden states first and most differ."""
    (a, b), numbers = map(run, pair), numbers_of(frames, pair)
    where = _where(sites_of(frames, pair))
    change, flips = numbers.get("kl", numbers.get("next_logprob")), numbers.get("flips")
    if not numbers:
        return f"{b} and {a} have no predictions to compare.{where}"
    if change is None or (change["maximum"] == 0 and not (flips and flips["mean"])):
        return f"{b} makes {ref('the same predictions', DRIFT.name)} as {a}.{where}"
    mean = ref(rough(change["mean"]), DRIFT.name)
    by = f"KL {mean} nats a token"
    if "kl" not in numbers:
        by = f"{mean} nats in ln p(next) on average (there is no KL without logits)"
    if flips:
        share = ref(rough_percent(flips["mean"]), DRIFT.name)
        by += f", and the most likely next token changes at {share} of the tokens"
    return f"{b} differs from {a} by {by}.{where}"


def _where(sites: pl.DataFrame) -> str:
    """A further sentence: where hidden states differ."""
    if sites.is_empty():
        return ""
    skipped = sites["first_position"][0]
    states = "Hidden states" + f" after the first {skipped} positions" * bool(skipped)
    beyond = " by more than the rerun" * ("rerun_distance" in sites.columns)
    if moved(sites).is_empty():
        return f" {states} do not differ{beyond} at any site."
    first = moved(sites)["site"][0]
    most, distance = most_moved(sites).select("site", "relative_distance").row(0)
    by = f"by {ref(rough_percent(distance), SITES.name)} of their norm"
    if len(sites) == 1:
        return f" {states} differ at {first}, {by}; no other site was compared."
    where = f"first differ{beyond} at {first}"
    if _or_before(sites):
        where = f"already differ{beyond} at {first}, the earliest site compared"
    return f" {states} {where}, and differ most {'there' if first == most else 'at ' + most}, {by}."


def _or_before(sites: pl.DataFrame) -> str:
    """Whether the first site compared already differs, and the model has earlier ones."""
    return " or before" if len(moved(sites[:1]).filter(pl.col("depth") > 0)) else ""


def opening(
    frames: Frames, pairs: Sequence[Pair], setting: str = "", sentence: str = ""
) -> Opening:
    """The first screen about `pairs`: a conclusion, KL, flips and the first site that differs."""
    shown = pairs if len(pairs) <= FEW_PAIRS else (pairs[0], pairs[-1])
    logits = any("kl" in numbers_of(frames, pair) for pair in shown)
    name = "kl" if logits else "next_logprob"
    compared = (of_pairs(frames[shape.name], pairs[:1]) for shape in (DRIFT, SITES))
    n_prompts = max(pl.concat(frame["n_prompts"] for frame in compared))
    head = "KL" if logits else "ln p(next) change"
    return Opening(
        say(sentence or conclusion(frames, pairs[0])),
        setting or f"the first {n_prompts} prompts",
        (("run", ""), (head, PREDICTIONS[name].unit), ("flips", "%"), ("first differs at", "")),
        tuple(_figures(frames, pair, name) for pair in shown),
        tuple(_warnings(frames, shown)),
        repeated=True,
    )


def _figures(frames: Frames, pair: Pair, name: str) -> tuple[Figure, ...]:
    def figure(row: Mapping[str, Any] | None, scale: int = 1) -> Figure:
        if row is None:
            return Figure(MISSING)
        mean, *both = (row[c] and scale * row[c] for c in ("mean", "mean_ci_low", "mean_ci_high"))
        return Figure(number(mean), interval(*both).strip(" ()"))

    numbers, sites = numbers_of(frames, pair), sites_of(frames, pair)
    where = Figure("nowhere" if len(sites) else MISSING)
    for row in moved(sites)[:1].iter_rows(named=True):
        site = f"{row['site']}{_or_before(sites)}"
        where = Figure(site, f"distance {number(row['relative_distance'])}")
    return Figure(run=pair[1]), figure(numbers.get(name)), figure(numbers.get("flips"), 100), where


def _warnings(frames: Frames, pairs: Iterable[Pair]) -> Iterator[Sentence]:
    """A line for each flag of the sites of the first screen."""
    rows = pl.concat(ends(sites_of(frames, pair)).select("site", "flags") for pair in pairs)
    flags = rows.explode("flags", empty_as_null=False).filter(pl.col("flags") != "no_error")
    for (flag,), of_flag in flags.group_by("flags", maintain_order=True):
        sites = listed(of_flag["site"].unique(maintain_order=True).to_list())
        yield Flag(flag), f" ({sites}): {clause(MEANING.get(flag, UNKNOWN_FLAG))}."


def charts(
    frames: Frames, tables: Mapping[str, Table], runs: RunStyles, section: str = ""
) -> Iterator[Chart]:
    """Charts of depth, positions and histogram. section: that has them all; by default depth is in
    `sites`, the others are in `predictions`.
    """
    pairs = pairs_by_kl(frames)
    drawn = pairs[:PAIRS_DRAWN]
    left = f" The {PAIRS_DRAWN} of {len(pairs)} pairs with the largest KL." * (pairs != drawn)

    def chart(shape: Shape, title: str, text: str, function: str) -> Chart:
        at_sites = shape is SITES
        name, home = (
            ("drift-depth", "sites") if at_sites else (shape.name.replace("_", "-"), "predictions")
        )
        return Chart(
            name,
            section or home,
            tables[shape.name],
            title,
            f"{text}{left}",
            drawing(function, of_pairs(frames[shape.name], drawn), runs=runs),
            opens=at_sites,
        )

    if not pairs:
        return
    yield chart(
        SITES,
        "Drift by depth",
        "Relative distance, the mean of |x - a| / |a| over rows x of the second run and a of the "
        "first, and 1 - CKA, with 95 % intervals where there are any, on log axes.",
        "drift_depth_chart",
    )
    yield chart(
        POSITIONS,
        "KL by position",
        "Mean KL, from the first run to the second, of the tokens in each band of positions, with "
        "95 % intervals. Does the change grow with the context?",
        "drift_positions_chart",
    )
    yield chart(
        HISTOGRAM,
        "KL per token",
        "The share of the tokens in each bin of KL, four bins to a decade. KL below 1e-9 nats is "
        "rounding, and counted in the first bin.",
        "drift_histogram_chart",
    )
