"""The section on what changed between two models: from the database, or of one comparison."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.summaries import by_position
from lpp.analyze.pages.page import Chart, Origin
from lpp.analyze.pages.words import Part, Ref, Run, Sentence, interval, number
from lpp.analyze.report.answers import Answer, Answers
from lpp.analyze.report.charts import page_styles
from lpp.analyze.report.drift_queries import (
    DRIFT,
    DRIFT_HISTOGRAM,
    DRIFT_POSITIONS,
    DRIFT_SITES,
    DRIFT_TOKENS,
)
from lpp.analyze.report.not_computed import Remedy
from lpp.analyze.report.surprises import in_words
from lpp.analyze.runs.groups import clusters_of
from lpp.analyze.tables.database import frame_schema
from lpp.store import open_store
from lpp.store.errors import LppError

SECTION: Final = "drift"
TITLE: Final = "What changed between two models"
LEAD: Final = (
    "Pairs of runs over the same token ids: what changes from the first run to the second. Of the "
    "predictions, over the full vocabulary: KL and other divergences, flips of the most likely "
    "token, ln p of the token that followed; of each site the distance of the rows, CKA and ranks. "
    "Intervals are 95 % jackknife intervals over prompts, which leave the same prompts out of both "
    "runs. The numbers say how much changed, and where; whether that matters is for an evaluation "
    "to say."
)
TABLES: Final = tuple(
    query.name for query in (DRIFT, DRIFT_TOKENS, DRIFT_SITES, DRIFT_POSITIONS, DRIFT_HISTOGRAM)
)
"""Tables that the section shows."""

PAIRS_DRAWN: Final = 8
"""Pairs in a chart: those with the largest KL."""

PAIRS_TOLD: Final = 3
"""With at most this many pairs, each has a sentence of its own."""

Pair = tuple[str, str]
_PAIR: Final = ["run_a", "run_b"]


def pairs_by_kl(answers: Answers) -> list[Pair]:
    """Every compared pair, by descending KL; without a KL, by |ln p(next)|."""
    frame = answers[DRIFT.name].frame
    if frame.is_empty():
        return []
    largest = [
        pl.col("mean").filter(pl.col("number") == name).max().fill_null(-1.0).alias(name)
        for name in ("kl", "next_logprob")
    ]
    found = frame.group_by(_PAIR).agg(largest)
    order = found.sort("kl", "next_logprob", *_PAIR, descending=[True, True, False, False])
    return list(order.select(_PAIR).iter_rows())


def position_answer(url: str, answers: Answers) -> Answer:
    """KL by position of the pairs that are drawn, from the tokens that the database holds."""
    from lpp.sql.database.connect import reading

    pairs = pairs_by_kl(answers)[:PAIRS_DRAWN]
    if not pairs:
        return positions_of({})
    try:
        with reading(url) as connection:

            def positions(pair: Pair) -> pl.DataFrame:
                where = "WHERE run_a = ? AND run_b = ?"
                tokens = connection.sql(
                    f"FROM drift_tokens {where} ORDER BY prompt_id, position", params=pair
                ).pl()
                cluster, *_ = connection.sql(
                    f"SELECT max(cluster) FROM drift_predictions {where}", params=pair
                ).fetchall()[0]
                if cluster is None:
                    return by_position(tokens)
                return by_position(tokens, clusters_of(open_store(url).run(pair[0]), cluster))

            return positions_of({pair: partial(positions, pair) for pair in pairs})
    except LppError as error:
        return Answer(DRIFT_POSITIONS, pl.DataFrame(), str(error).rstrip("."))


def positions_of(pairs: Mapping[Pair, Callable[[], pl.DataFrame]]) -> Answer:
    """KL by position for each pair; pairs are read one after another.

    pairs: a function for each that gives the frame of `by_position`.
    """
    empty = by_position(pl.DataFrame(schema=frame_schema("drift_tokens")))
    key = pl.DataFrame(schema=dict.fromkeys(_PAIR, pl.String))
    frames = [pl.concat([key, empty], how="horizontal")]
    for (a, b), positions in pairs.items():
        frames.append(
            positions().select(pl.lit(a).alias("run_a"), pl.lit(b).alias("run_b"), pl.all())
        )
    return Answer(DRIFT_POSITIONS, pl.concat(frames))


def token_answer(url: str, answers: Answers) -> Answer:
    """The tokens that changed most, as text; reads nothing if no runs were compared."""
    if answers[DRIFT.name].frame.is_empty():
        return Answer(DRIFT_TOKENS, pl.DataFrame())
    return in_words(url, DRIFT_TOKENS, "drift_tokens")


def drift_charts(answers: Answers, runs: RunStyles | None = None) -> Iterator[Chart]:
    """Charts of depth, positions and histogram; none if no runs were compared.

    runs: by default those of `page_styles`.
    """
    every = pairs_by_kl(answers)
    if not every:
        return
    from lpp.analyze.charts import charts as library

    runs = runs or page_styles(answers)
    drawn = every[:PAIRS_DRAWN]
    of_all = (
        f" The {len(drawn)} of {len(every)} pairs with the largest KL."
        if every[PAIRS_DRAWN:]
        else ""
    )

    def frame(name: str) -> pl.DataFrame:
        return _of_pairs(answers[name].frame, drawn)

    sites = frame(DRIFT_SITES.name)
    yield Chart(
        "drift-depth",
        SECTION,
        answers[DRIFT_SITES.name].table(),
        "Drift by depth",
        "Mean distance of each row of the second run from that of the first, over its length, and "
        f"1 - CKA, with 95 % intervals where there are any, on log axes.{of_all}",
        partial(library.drift_depth_chart, sites, runs=runs),
        partial(library.drift_depth_panels, sites, runs=runs),
    )
    for name, title, text, draw, answer in (
        (
            "drift-positions",
            "KL by position",
            "Mean KL, from the first run to the second, of the tokens in each band of positions, "
            "with 95 % intervals: whether what changed grows with the context.",
            library.drift_positions_chart,
            answers[DRIFT_POSITIONS.name],
        ),
        (
            "drift-histogram",
            "KL per token",
            "How the tokens spread: the share of the tokens in each bin of KL, four bins to a "
            "decade. What lies below 1e-9 nats is rounding, and in the first bin.",
            library.drift_histogram_chart,
            answers[DRIFT_HISTOGRAM.name],
        ),
    ):
        rows = _of_pairs(answer.frame, drawn)
        yield Chart(
            name, SECTION, answer.table(), title, f"{text}{of_all}", partial(draw, rows, runs=runs)
        )


def _of_pairs(frame: pl.DataFrame, pairs: list[Pair]) -> pl.DataFrame:
    """The rows of `pairs`, each at its most prompts."""
    if not frame.width:
        return frame
    some = pl.DataFrame(pairs, schema=dict.fromkeys(_PAIR, pl.String), orient="row")
    found = frame.join(some, on=_PAIR, how="semi", maintain_order="left")
    if "n_prompts" not in frame.columns:
        return found
    return found.filter(pl.col("n_prompts") == pl.col("n_prompts").max().over(_PAIR))


def partly_compared(answers: Answers, source: Origin) -> Iterator[Remedy]:
    """The comparisons of pairs that have sites in common without a row of drift."""
    held = {one.run: {*one.sites} for one in source.runs}
    others: dict[str, list[str]] = {}
    for a, b in pairs_by_kl(answers):
        rows = _of_pairs(answers[DRIFT_SITES.name].frame, [(a, b)])
        if held.get(a, set()) & held.get(b, set()) - {*rows["site"]}:
            others.setdefault(a, []).append(b)
    for a, some in others.items():
        against = ["--against"] if len(some) > 1 else []
        command = f"lpp-analyze diff STORE {shlex.join([*against, a, *some])}"
        yield Remedy("What changed at the sites that were not compared", command)


def drift_findings(answers: Answers) -> Iterator[Sentence]:
    """A sentence for each pair: how far the predictions moved, and where the rows moved most."""
    pairs = pairs_by_kl(answers)
    for pair in pairs[:PAIRS_TOLD]:
        yield _told(pair, answers)
    if more := pairs[PAIRS_TOLD:]:
        counted = f"{len(more)} more pair{'s' * (len(more) > 1)}"
        yield (Ref(counted, DRIFT.name), " of runs changed less, by KL.")


def _told(pair: Pair, answers: Answers) -> Sentence:
    rows = _fullest(_of_pairs(answers[DRIFT.name].frame, [pair]))
    by_name = {row["number"]: row for row in rows.iter_rows(named=True)}
    parts: list[Part] = [Run(pair[1]), " differs from ", Run(pair[0]), " by "]
    moved = by_name.get("kl", by_name.get("next_logprob"))
    if moved is None or moved["maximum"] == 0:
        return (*parts, Ref("nothing", DRIFT.name), " in any prediction.")
    what = " nats a token" if "kl" in by_name else " nats of ln p a token (no logits, so no KL)"
    sure = f"{number(moved['mean'])}{interval(moved['mean_ci_low'], moved['mean_ci_high'])}"
    parts += ["KL " if "kl" in by_name else "", Ref(sure, DRIFT.name), what]
    if flips := by_name.get("flips"):
        share = Ref(f"{number(100 * flips['mean'])} %", DRIFT.name)
        parts += ["; ", share, " of the most likely next tokens flip"]
    sites = _of_pairs(answers[DRIFT_SITES.name].frame, [pair])
    sites = sites.filter(pl.col("first_position") == pl.col("first_position").min())
    sites = sites.filter(pl.col("relative_distance").is_finite())
    if len(sites):
        most = sites.sort("relative_distance", descending=True).row(0, named=True)
        distance = Ref(number(most["relative_distance"]), DRIFT_SITES.name)
        if len(sites) == 1:
            parts += [
                f"; at {most['site']} the rows move by ",
                distance,
                " of their length, and no ",
            ]
            return (*parts, "other site was compared.")
        parts += [f"; the rows move most at {most['site']}, by ", distance, " of their length"]
    return (*parts, ".")


def _fullest(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of one pair at its smallest first position, each number over the most tokens."""
    rows = rows.filter(pl.col("first_position") == pl.col("first_position").min())
    size = pl.when(pl.col("n_drawn") == 0).then(1 << 31).otherwise("n_drawn").cast(pl.Int64)
    return rows.filter(size == size.max().over("number"))
