"""The section on items of evaluations: what tells right answers from wrong ones."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.evaluations.measure import FEWEST_ITEMS, FEWEST_OF_A_KIND
from lpp.analyze.evaluations.verdict import Q, Verdict, named, verdict
from lpp.analyze.pages.page import Chart
from lpp.analyze.pages.words import Code, Part, Ref, Run, Sentence
from lpp.analyze.report.answers import Answer, Answers
from lpp.analyze.report.charts import page_styles
from lpp.analyze.report.item_queries import (
    EVERY_FEATURE,
    ITEM_ANALYSES,
    ITEM_CONTROLS,
    ITEM_EVALUATED,
    ITEM_FEATURES,
    ITEM_MISTAKES,
    ITEM_RELIABILITY,
    ITEM_RISK,
    ITEM_SITES,
    OF_ANALYSIS,
)
from lpp.analyze.report.surprises import in_words
from lpp.store import open_store
from lpp.store.errors import FormatError
from lpp.store.items import read_items

SECTION: Final = "items"
TITLE: Final = "What tells right answers from wrong ones"
LEAD: Final = (
    "Items of evaluated tasks. AUROC: the probability that a right item has the larger value of a "
    "feature than a wrong one; 0.5 says nothing, 0.3 tells as much as 0.7. Within: among items of "
    "one group alone. q: Benjamini and Hochberg over the features of an analysis, without those of "
    "the gold answer, which use the label. A feature has to tell more than the baselines, which "
    "know nothing of what the model computed. An AUROC does not say that the model uses the "
    "feature, or that it holds for another task."
)
TABLES: Final = tuple(
    query.name
    for query in (
        *(ITEM_ANALYSES, ITEM_FEATURES, ITEM_SITES, ITEM_CONTROLS),
        *(ITEM_RELIABILITY, ITEM_RISK, ITEM_MISTAKES),
    )
)
"""Tables that the section shows."""

DRAWN: Final = 8
"""Analyses in a chart, at most: a panel each."""

TOLD: Final = 3
"""Analyses that are described in full; for others, only how many items were right."""

_CHARTS: Final = (
    (
        "items-depth",
        "AUROC by depth",
        "Each feature of the rows, at each site, with its 95 % interval, within groups where there "
        "are any. Grey: where 95 % of draws with shuffled labels lie. Dashed: the baselines, and "
        "the best feature of the predictions.",
        ITEM_SITES.name,
    ),
    (
        "items-reliability",
        "Reliability",
        "How often the model is right, by the mean share of the chosen answer among the answers, "
        "in bins of equally many items. On the diagonal it is as often right as the share says; "
        "below it, it is too sure.",
        ITEM_RELIABILITY.name,
    ),
    (
        "items-risk",
        "Risk against coverage",
        "The share of wrong answers when the model answers only the items it is most confident of. "
        "Dashed: all items answered; an order by chance stays there.",
        ITEM_RISK.name,
    ),
)


def evaluated_answer(url: str) -> Answer:
    """Evaluated tasks of the store: how many of their items are right or wrong."""
    try:
        items = pl.DataFrame(pl.from_arrow(read_items(open_store(url).path)))
    except FormatError as error:
        return Answer(ITEM_EVALUATED, pl.DataFrame(), str(error).rstrip("."))
    right = pl.col("correct")
    found = items.drop_nulls(("run", "correct")).group_by(ITEM_EVALUATED.key)
    counts = found.agg(n_items=pl.len(), n_right=right.sum(), n_wrong=(~right).sum())
    return Answer(ITEM_EVALUATED, counts.sort(ITEM_EVALUATED.key))


def mistake_answer(url: str, answers: Answers) -> Answer:
    """The most confident mistakes, as text; reads nothing if no items were evaluated."""
    if answers[ITEM_EVALUATED.name].frame.is_empty():
        return Answer(ITEM_MISTAKES, pl.DataFrame())
    return in_words(url, ITEM_MISTAKES, "confident_mistakes")


def has_items(answers: Answers) -> bool:
    """Whether some task was analysed, or evaluated."""
    asked = (ITEM_ANALYSES.name, ITEM_EVALUATED.name)
    return any(answers[name].frame.height for name in asked)


def item_charts(answers: Answers, runs: RunStyles | None = None) -> Iterator[Chart]:
    """Charts of depth, reliability and risk, with a panel for each analysis that has data.

    runs: by default those of `page_styles`.
    """
    if answers[ITEM_ANALYSES.name].frame.is_empty():
        return
    from lpp.analyze.charts import charts as library

    runs = runs or page_styles(answers)
    sources = {
        "items-depth": (library.item_depth_chart, EVERY_FEATURE.name, pl.col("depth")),
        "items-reliability": (library.reliability_chart, ITEM_RELIABILITY.name, pl.col("bin")),
        "items-risk": (library.risk_chart, ITEM_RISK.name, pl.col("risk")),
    }
    for name, title, text, table in _CHARTS:
        draw, source, needed = sources[name]
        every = _by_analysis(answers[source].frame)
        some = [rows for rows in every if rows.select(needed.is_not_null().any()).item()]
        if not some:
            continue
        more = f" The first {DRAWN} of {len(some)} analyses." if some[DRAWN:] else ""
        panels = partial(_panels, draw, some[:DRAWN], runs)
        yield Chart(
            name,
            SECTION,
            answers[table].table(),
            title,
            f"{text}{more}",
            partial(_picture, panels, title),
            panels,
        )


def _panels(
    draw: Callable[..., Any], some: list[pl.DataFrame], runs: RunStyles
) -> Mapping[str, Any]:
    names = [""] if len(some) == 1 else [str(place) for place in range(len(some))]
    return {name: draw(rows, runs=runs) for name, rows in zip(names, some, strict=True)}


def _picture(panels: Callable[[], Mapping[str, Any]], title: str) -> Any:
    from lpp.analyze.charts.charts import together

    return together(list(panels().values()), title)


def _by_analysis(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """The rows of each analysis, by task, run and setting."""
    if frame.is_empty():
        return []
    key = [name for name in OF_ANALYSIS if name in frame.columns]
    return frame.sort(key, maintain_order=True).partition_by(key, maintain_order=True)


def item_findings(answers: Answers) -> Iterator[Sentence]:
    """Sentences for each evaluated task: how many items are right, what tells right from wrong, and
    the calibration.

    Of several settings, only the one that leaves out the fewest positions is described.
    """
    analyses = answers[ITEM_ANALYSES.name].frame
    if analyses.width:
        analyses = analyses.unique(ITEM_EVALUATED.key, keep="first", maintain_order=True)
    features = answers[EVERY_FEATURE.name].frame
    for place, row in enumerate(analyses.iter_rows(named=True)):
        yield _accuracy(row)
        if place < TOLD:
            own = features.filter(
                pl.all_horizontal(pl.col(name) == row[name] for name in OF_ANALYSIS)
            )
            yield from _telling(verdict(own, within=row["n_within"] > 0))
            yield from _calibration(row)


def _accuracy(row: Mapping[str, Any]) -> Sentence:
    n = row["n_right"] + row["n_wrong"]
    return (
        Run(row["run"]),
        " answers ",
        Ref(f"{row['n_right']:,} of {n:,} items", ITEM_ANALYSES.name),
        " of ",
        Code(row["task"]),
        " correctly: accuracy ",
        _share(row["accuracy"], row["accuracy_ci_low"], row["accuracy_ci_high"]),
        ".",
    )


def _telling(said: Verdict) -> Iterator[Sentence]:
    where = ", within groups" if said.within else ""
    n = f"{len(said.tested):,} features"
    if said.best is None:
        yield (
            "No feature tells right answers from wrong ones beyond chance: of ",
            Ref(n, ITEM_FEATURES.name),
            f" none has q below {Q}{where}.",
        )
        return
    told = f"{len(said.telling):,} of {n}"
    verb = "tells" if len(said.telling) == 1 else "tell"
    parts: list[Part] = [
        Ref(told, ITEM_FEATURES.name),
        f" {verb} right answers from wrong ones (q below {Q}{where})",
    ]
    if said.baseline is not None:
        baseline = f"{said.baseline['feature']} ({said.number(said.baseline)[0]:.2f})"
        n_beyond = f"{len(said.beyond):,}" if said.beyond else "none"
        parts.append(
            f"; {n_beyond} of them tell more than the best baseline, {baseline}, by a paired test "
            f"(q below {Q})"
        )
    table = ITEM_SITES.name if said.best["site"] else ITEM_FEATURES.name
    value = _share(*said.number(said.best))
    parts += [f". The best is {named(said.best)}, AUROC ", Ref(value, table), "."]
    yield tuple(parts)


def _calibration(row: Mapping[str, Any]) -> Iterator[Sentence]:
    if row["ece"] is None:
        return
    beyond = "more" if row["ece"] > row["ece_by_chance"] else "no more"
    yield (
        "The chosen answer's share is off by ",
        Ref(_share(row["ece"], row["ece_ci_low"], row["ece_ci_high"]), ITEM_ANALYSES.name),
        f" on average (expected calibration error), {beyond} than chance gives a calibrated model "
        f"on as many items (up to {row['ece_by_chance']:.2f}).",
    )


def not_analysed(answers: Answers, store: str) -> Iterator[Sentence]:
    """A sentence for each evaluated task without an analysis, with the command to run."""
    evaluated = answers[ITEM_EVALUATED.name].frame
    if evaluated.is_empty():
        return
    analyses = answers[ITEM_ANALYSES.name].frame
    key = list(ITEM_EVALUATED.key)
    if analyses.height:
        evaluated = evaluated.join(analyses.select(key), on=key, how="anti", maintain_order="left")
    for row in evaluated.iter_rows(named=True):
        parts: list[Part] = [Code(row["task"]), " of ", Run(row["run"])]
        if row["n_items"] < FEWEST_ITEMS or min(row["n_right"], row["n_wrong"]) < FEWEST_OF_A_KIND:
            counts = f"{row['n_right']:,} right and {row['n_wrong']:,} wrong items"
            yield (*parts, f" has {counts}: too few to rank features.")
            continue
        words = ["lpp-analyze", "items", store, "--task", row["task"], "--run", row["run"]]
        words += ["--source", row["source"]]
        if row["filter"] != "none":
            words += ["--filter", row["filter"]]
        yield (*parts, " was evaluated and not analysed: ", Code(shlex.join(words)))


def _share(value: float, low: float | None, high: float | None) -> str:
    """A value to two decimal places, with its interval.

    >>> _share(0.8541, 0.804, 0.893), _share(1.0, None, None)
    ('0.85 [0.80, 0.89]', '1.00')
    """
    ends = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"{value:.2f}{ends}"
