"""Comparisons of two models as parts of a page: sentences, numbers of the first screen, charts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.pages.drift_page_tables import (
    DRIFT,
    HISTOGRAM,
    POSITIONS,
    SITES,
    Frames,
    Pair,
    ends,
    numbers_of,
    of_pairs,
    pairs_by_kl,
    sites_of,
)
from lpp.analyze.pages.page import UNKNOWN_FLAG, Chart, Figure, Opening, drawing
from lpp.analyze.pages.table import Shape, Table
from lpp.analyze.pages.words import (
    MISSING,
    Flag,
    Part,
    Ref,
    Run,
    Sentence,
    clause,
    interval,
    listed,
    number,
)
from lpp.analyze.quantities.drift import PREDICTIONS
from lpp.analyze.quantities.flags import MEANING

PAIRS_DRAWN: Final = 8
"""Pairs in a chart: those with the largest KL."""

PAIRS_TOLD: Final = 3
"""With at most this many pairs, each has a sentence of its own."""

_FEW: Final = 4
"""Most pairs whose numbers stand on the first screen; of more, the first and the last."""


def conclusions(frames: Frames) -> Iterator[Sentence]:
    """A sentence for each pair: how far the predictions moved, where the rows begin to move, and
    where they move most.
    """
    pairs = pairs_by_kl(frames)
    for pair in pairs[:PAIRS_TOLD]:
        yield conclusion(frames, pair)
    if more := pairs[PAIRS_TOLD:]:
        counted = f"{len(more)} more pair{'s' * (len(more) > 1)}"
        yield (Ref(counted, DRIFT.name), " of runs changed less, by KL.")


def conclusion(frames: Frames, pair: Pair) -> Sentence:
    """The sentence about one pair."""
    numbers = numbers_of(frames, pair)
    parts: list[Part] = [Run(pair[1]), " differs from ", Run(pair[0]), " by "]
    moved, flips = numbers.get("kl", numbers.get("next_logprob")), numbers.get("flips")
    if not numbers:
        parts = [Run(pair[1]), " and ", Run(pair[0]), " have no predictions to compare"]
        return (*parts, *_where(frames, pair))
    if moved is None or (moved["maximum"] == 0 and not (flips and flips["mean"])):
        return (*parts, Ref("nothing", DRIFT.name), " in any prediction", *_where(frames, pair))
    what = " nats a token" if "kl" in numbers else " nats of ln p a token (no logits, so no KL)"
    sure = f"{number(moved['mean'])}{interval(moved['mean_ci_low'], moved['mean_ci_high'])}"
    parts += ["KL " if "kl" in numbers else "", Ref(sure, DRIFT.name), what]
    if flips:
        share = Ref(f"{number(100 * flips['mean'])} %", DRIFT.name)
        parts += ["; ", share, " of the most likely next tokens flip"]
    return (*parts, *_where(frames, pair))


def _where(frames: Frames, pair: Pair) -> Sentence:
    """Where in depth the rows begin to move, and where they move most; the end of a sentence."""
    sites = sites_of(frames, pair)
    moved = sites.filter(pl.col("relative_distance") > 0)
    if sites.is_empty():
        return (".",)
    if moved.is_empty():
        return ("; no row moves at any site.",)
    skipped = sites["first_position"][0]
    without = f" without the first {skipped} positions" if skipped else ""
    first, most = moved["site"][0], moved.top_k(1, by="relative_distance").row(0, named=True)
    distance = Ref(number(most["relative_distance"]), SITES.name)
    if len(sites) == 1:
        start, end = f"; at {first} the rows{without} move by ", ", and no other site was compared."
    elif _may_begin_before(sites):
        at = f"{first}, the first site compared, or before it, and most at {most['site']}"
        start, end = f"; the rows{without} first move at {at}, by ", "."
    elif first == most["site"]:
        start, end = f"; the rows{without} first move, and most, at {first}, by ", "."
    else:
        at = f"{first} and most at {most['site']}"
        start, end = f"; the rows{without} first move at {at}, by ", "."
    return (start, distance, f" of their length{end}")


def _may_begin_before(sites: pl.DataFrame) -> bool:
    """Whether rows already differ at the first site compared, and the model has earlier ones.

    sites: of one pair, in depth order.
    """
    first = sites[:1].filter((pl.col("relative_distance") > 0) & (pl.col("depth") > 0))
    return not first.is_empty()


def opening(
    frames: Frames, pairs: Sequence[Pair], setting: str = "", sentence: Sentence = ()
) -> Opening:
    """The first screen about `pairs`, in this order: a conclusion, KL, flips and the first site
    that differs.

    setting: by default, that of the first pair. sentence: by default, the one about this pair.
    """
    shown = pairs if len(pairs) <= _FEW else (pairs[0], pairs[-1])
    logits = any("kl" in numbers_of(frames, pair) for pair in shown)
    name = "kl" if logits else "next_logprob"
    head = ("KL" if logits else "ln p(next) moved", PREDICTIONS[name].unit)
    rows = [_figures(frames, pair, name) for pair in shown]
    compared = (of_pairs(frames[shape.name], pairs[:1]) for shape in (DRIFT, SITES))
    n_prompts = max(count for frame in compared for count in frame["n_prompts"].to_list())
    return Opening(
        sentence=sentence or conclusion(frames, pairs[0]),
        setting=setting or f"the first {n_prompts} prompts",
        head=(("run", ""), head, ("flips", "%"), ("first differs at", "")),
        rows=tuple(rows),
        warnings=tuple(_warnings(frames, shown)),
    )


def _warnings(frames: Frames, pairs: Sequence[Pair]) -> Iterator[Sentence]:
    """A line for each flag of the sites of the first screen."""
    sites_by_flag: dict[str, list[str]] = {}
    for pair in pairs:
        for row in ends(sites_of(frames, pair)).iter_rows(named=True):
            for flag in sorted({*row["flags"]} - {"no_error"}):  # the intervals show it
                sites_by_flag.setdefault(flag, []).append(row["site"])
    for flag, sites in sites_by_flag.items():
        meaning = clause(MEANING.get(flag, UNKNOWN_FLAG))
        yield Flag(flag), f" {listed(list(dict.fromkeys(sites)))}: {meaning}."


def _figures(frames: Frames, pair: Pair, name: str) -> tuple[Figure, ...]:
    numbers, sites = numbers_of(frames, pair), sites_of(frames, pair)
    site = sites.filter(pl.col("relative_distance") > 0).head(1)
    before = " or before" if _may_begin_before(sites) else ""
    return (
        Figure(run=pair[1]),
        _figure(numbers.get(name)),
        _figure(numbers.get("flips"), 100),
        *(
            Figure(f"{row['site']}{before}", f"distance {number(row['relative_distance'])}")
            for row in site.iter_rows(named=True)
        ),
        *([Figure("nowhere" if len(sites) else MISSING)] * site.is_empty()),
    )


def _figure(row: Mapping[str, Any] | None, scale: int = 1) -> Figure:
    """The mean of a row of the predictions, with its interval."""
    if row is None:
        return Figure(MISSING)
    mean, low, high = (
        None if row[name] is None else scale * row[name]
        for name in ("mean", "mean_ci_low", "mean_ci_high")
    )
    return Figure(number(mean), interval(low, high).strip(" ()"))


# charts


def charts(
    frames: Frames, tables: Mapping[str, Table], runs: RunStyles, sections: Mapping[str, str]
) -> Iterator[Chart]:
    """Charts of depth, positions and histogram; none if no runs were compared.

    tables: those behind the charts, by name. sections: the section of each chart, by the name of
    its table.
    """
    pairs = pairs_by_kl(frames)
    if not pairs:
        return
    drawn = pairs[:PAIRS_DRAWN]
    of_all = (
        f" The {len(drawn)} of {len(pairs)} pairs with the largest KL."
        if pairs[PAIRS_DRAWN:]
        else ""
    )

    def of_drawn(shape: Shape, draw: str) -> Callable[[], Any]:
        return partial(drawing(draw), of_pairs(frames[shape.name], drawn), runs=runs)

    yield Chart(
        "drift-depth",
        sections[SITES.name],
        tables[SITES.name],
        "Drift by depth",
        "Mean distance of each row of the second run from that of the first, over its length, and "
        f"1 - CKA, with 95 % intervals where there are any, on log axes.{of_all}",
        of_drawn(SITES, "drift_depth_chart"),
        of_drawn(SITES, "drift_depth_panels"),
        opens=True,
    )
    for shape, title, text, draw in (
        (
            POSITIONS,
            "KL by position",
            "Mean KL, from the first run to the second, of the tokens in each band of positions, "
            "with 95 % intervals: whether what changed grows with the context.",
            "drift_positions_chart",
        ),
        (
            HISTOGRAM,
            "KL per token",
            "How the tokens spread: the share of the tokens in each bin of KL, four bins to a "
            "decade. What lies below 1e-9 nats is rounding, and in the first bin.",
            "drift_histogram_chart",
        ),
    ):
        yield Chart(
            shape.name,
            sections[shape.name],
            tables[shape.name],
            title,
            f"{text}{of_all}",
            of_drawn(shape, draw),
        )
