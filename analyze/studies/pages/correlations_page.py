"""Correlations as a page: what survives the correction, and each source's tests."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.metrics.registry import PROFILE
from lpp.analyze.pages.page import Figure, Opening, Page, Section
from lpp.analyze.pages.table import Table, table_of
from lpp.analyze.pages.words import Sentence, clause, ends, flag, probability, say, signed
from lpp.analyze.quantities.correlations import MEANING
from lpp.analyze.studies.pages.profile_page import HEADINGS

METHODS: Final = {"pearson": "Pearson", "spearman": "Spearman", "rank_partial": "partial Spearman"}
"""Words for each method."""

CONCLUSION: Final = "spearman"
"""The method of the conclusion."""

BELOW: Final = 0.05
"""q below which the conclusion counts a test."""

_ROWS: Final = 12
"""Rank correlations of a source that a terminal shows at once, the smallest q first."""

_OPENING: Final = 3
"""Rank correlations beside the conclusion."""

_LABELS: Final = {
    "profile_metric": "profile",
    "benchmark_metric": "metric",
    "n_models": "n",
    "coefficient": "coef.",
    "p_value": "p",
    "q_value": "q",
}


def correlations_page(url: str, tests: pl.DataFrame, names: Mapping[str, str]) -> Page:
    """The page of `tests`, rows of the table `correlations`. names: names by run id."""
    of_sources = tests.partition_by("source", maintain_order=True)
    models = tests["models"].explode().unique(maintain_order=True).drop_nulls()
    ranked = bool(tests["coefficient"].is_not_null().any())
    return Page(
        title="Profiles and benchmarks",
        opening=_opening(of_sources[0]),
        findings=tuple(map(_conclusion, of_sources[1:])),
        sections=tuple(_sections(tests)),
        meanings=MEANING,
        runs=RunStyles({}),
        next=(f"lpp-sql {shlex.quote(url)} --run correlations",) * ranked,
        data={
            "correlations": tests,
            "runs": pl.DataFrame(
                [(run, names[run]) for run in models if run in names],
                schema={"run": pl.String, "name": pl.String},
                orient="row",
            ),
        },
        parted_by="; ",
        store=url,
    )


def _opening(tests: pl.DataFrame) -> Opening:
    """What the tests of one source say, and its rank correlations with the smallest q."""
    shown = _ranked(tests).head(_OPENING)
    rows = [
        (
            Figure(_words(row["profile_metric"])),
            Figure(row["benchmark"]),
            Figure(signed(row["coefficient"]), interval=_ends(row).strip(" ()")),
            Figure(probability(row["q_value"])),
        )
        for row in shown.iter_rows(named=True)
    ]
    row = tests.row(0, named=True)
    setting = (
        f"{row['site']}, context {row['context']}, {row['n_prompts']} prompts; q: p-value "
        f"corrected for {' or '.join(map(str, sorted({*tests['family_size']})))} tests"
    )
    heads = (("profile", ""), ("benchmark", ""), ("Spearman", ""), ("q", ""))
    flags = sorted({flag for row in shown["flags"] for flag in row})
    warnings = tuple(say(f"{flag(name)}: {clause(MEANING[name])}.") for name in flags)
    sentence = _conclusion(tests)
    return Opening(sentence, setting, heads, tuple(rows), warnings) if rows else Opening(sentence)


def _ranked(tests: pl.DataFrame) -> pl.DataFrame:
    """The rank correlations that have a coefficient, the smallest q first."""
    made = tests.filter(pl.col("coefficient").is_not_null(), method=CONCLUSION)
    return made.sort("q_value", maintain_order=True)


def _words(metric: str) -> str:
    return PROFILE[metric].words if metric in PROFILE else metric


def _conclusion(tests: pl.DataFrame) -> Sentence:
    """What the rank correlations of one source say."""
    source, made = tests.item(0, "source"), _ranked(tests)
    if made.is_empty():
        most = max(tests["n_models"], default=0)
        return (f"No correlation with the scores of {source}: at most {most} models have both.",)
    below = made.filter(pl.col("q_value") < BELOW).height
    row = made.row(0, named=True)
    return (
        f"Of {made.height} rank correlations with the scores of {source}, {below or 'none'} "
        f"{'has' if below < 2 else 'have'} q below {BELOW}. The smallest q is "
        f"{probability(row['q_value'])}, of {_words(row['profile_metric'])} and "
        f"{row['benchmark']}: {signed(row['coefficient'])}{_ends(row)} over {row['n_models']} "
        "models.",
    )


def _ends(row: Mapping[str, Any]) -> str:
    return f" {ends(row['ci_low'], row['ci_high']) or '(no interval)'}"


def _sections(tests: pl.DataFrame) -> Iterator[Section]:
    """Each source: its rank correlations by q where there are many tests, and every test."""
    for index, of_source in enumerate(tests.partition_by("source", maintain_order=True)):
        row = of_source.row(0, named=True)
        sizes = " or ".join(map(str, sorted({*of_source["family_size"]})))
        name = "source" if index == 0 else f"source-{index + 1}"
        whole = _table(f"{name}-tests", of_source)
        yield Section(
            name,
            f"Scores of {row['source']}{_same(of_source)}",
            f"Profiles at {row['site']}, context {row['context']}, {row['n_prompts']} prompts.",
            tables=(whole,),
            more=f"q: Benjamini-Hochberg over {sizes} tests of a method. Partial Spearman holds "
            f"model size constant. Intervals: 95 %. {HEADINGS}",
        )


def _table(name: str, tests: pl.DataFrame) -> Table:
    headings = {name: quantity.heading for name, quantity in PROFILE.items()}
    shown = tests.with_columns(
        pl.col("profile_metric").replace(headings),
        pl.col("method").replace(METHODS),
    ).rename({"ci_low": "coefficient_ci_low", "ci_high": "coefficient_ci_high"})
    varying = [c for c in ("benchmark", "benchmark_metric") if tests[c].n_unique() > 1]
    return table_of(
        name,
        "Every test",
        shown,
        {},
        first=(
            *("profile_metric", *varying, "method", "n_models", "coefficient"),
            *("p_value", "q_value", "flags"),
        ),
        styles={"coefficient": "signed", "p_value": "probability", "q_value": "probability"},
        labels=_LABELS,
        key=("profile_metric", "benchmark", "benchmark_metric", "source", "method"),
        code="correlate(STORE, settings)",
        short=shown.filter(method=METHODS[CONCLUSION]).sort("q_value", nulls_last=True).head(_ROWS),
    )


def _same(tests: pl.DataFrame) -> str:
    """`: Bench, score`, as far as all tests are of one benchmark, or of one metric."""
    columns = (tests[name].unique() for name in ("benchmark", "benchmark_metric"))
    same = [str(column[0]) for column in columns if len(column) == 1]
    return f": {', '.join(same)}" if same else ""
