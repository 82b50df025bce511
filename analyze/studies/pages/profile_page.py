"""Profiles as a page: which run is more certain, and which uses more dimensions."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.metrics.registry import PROFILE, RANKS
from lpp.analyze.numerics.jackknife import ERRORS
from lpp.analyze.pages.data import with_names
from lpp.analyze.pages.page import Chart, Opening, Page, Section, drawing, explained
from lpp.analyze.pages.table import Table, table_of
from lpp.analyze.pages.terminal import SIDE_BY_SIDE
from lpp.analyze.pages.words import Part, Run, Sentence, number
from lpp.analyze.quantities.flags import MEANING
from lpp.analyze.questions import Aggregation
from lpp.analyze.studies.pages.profile_summary import Numbers, summary
from lpp.analyze.tables.analysis import Analysis
from lpp.analyze.tables.build import Compared
from lpp.analyze.tables.metrics import LOGITS

EXTREMES: Final = ("min", "max")
"""Aggregates of entropy and ranks over prefixes: those of the database."""

FEW_PROMPTS: Final = 100

LEAST_BIAS: Final = 5e-4
"""A smaller bias of an entropy floor is not told."""
"""With fewer prompts the page states the bias of the floor; else it is below .005 of ln V."""

BRIEF: Final = 3
"""Settings that a terminal shows at once."""

_ROWS: Final = 40
"""Most rows of metrics that a terminal shows at once."""

_SETTING: Final = ("context", "n_prompts", "first_position")

_LABELS: Final = {
    "entropy_norm": "entropy / ln V",
    "participation_ratio_norm": "PR / min(N, d)",
    "effective_rank_norm": "ER / min(N, d)",
    "prompt_set": "prompt set",
}
"""Headings that fit beside three runs."""

HEADINGS: Final = "H: entropy; PR: participation ratio; ER: effective rank; r: min(N, d)."


def profile_page(
    url: str,
    analysis: Analysis,
    shown: pl.DataFrame,
    names: Mapping[str, str],
    *,
    aggregates: tuple[Aggregation, Aggregation] = EXTREMES,
    compared: Compared | None = None,
    database_note: Sentence = (),
) -> Page:
    """The page of the profiles `shown`, which `analysis` gives, about the store at `url`.

    names: short names by run id. aggregates: of entropy and ranks over prefixes. compared: the
    tables `profiles` and `differences` of these numbers; needed if aggregates are `EXTREMES`.
    database_note: what the database has.
    """
    first = pl.col("run") == analysis.base
    shown = pl.concat([shown.filter(first), shown.filter(~first)])
    runs = RunStyles({run: names[run] for run in shown["run"].unique(maintain_order=True)})
    groups = shown.partition_by(*_SETTING, maintain_order=True)
    sections = [_section(index, group, analysis, aggregates) for index, group in enumerate(groups)]
    if compared is not None:
        chart = profile_chart_of(compared.profiles, sections[0].tables[0], runs, opens=True)
        sections[0] = replace(sections[0], charts=(chart,))
        opening = _opening(analysis, compared, runs, sections)
        if not compared.differences.is_empty():
            sections.append(_differences(compared))
    else:
        opening = Opening(
            (
                f"Entropy is its {aggregates[0]} over prefixes, ranks their {aggregates[1]}; the "
                "database has the least entropy and the largest ranks.",
            )
        )
    more = {} if compared is None else {"differences": compared.differences}
    data = with_names(
        shown if analysis.cluster is None else shown.with_columns(cluster=pl.lit(analysis.cluster)),
        names,
    )
    return Page(
        title="Profiles",
        opening=opening,
        findings=tuple(_biases(shown)),
        further=tuple(filter(None, (database_note,))),
        sections=tuple(sections),
        meanings=MEANING,
        runs=runs,
        next=(f"lpp-sql {shlex.quote(url)} --run profiles",),
        data={"profiles": data, **more},
        store=url,
    )


def profile_chart_of(
    profiles: pl.DataFrame, table: Table, runs: RunStyles, note: str = "", **more: Any
) -> Chart:
    """The chart of `profiles`, rows of the table of this name. note: what follows its text."""
    return Chart(
        "profiles",
        "profiles",
        table,
        "Profiles",
        f"One row per run with its 95 % interval.{note}",
        drawing("profile_chart", profiles, runs=runs),
        **more,
    )


def _opening(
    analysis: Analysis,
    compared: Compared,
    runs: RunStyles,
    sections: Sequence[Section],
) -> Opening:
    tables = (table for section in sections for table in section.tables)
    numbers = Numbers(
        profiles=compared.profiles,
        differences=compared.differences,
        layers=analysis.spectra.filter(pl.col("prefix") == pl.col("context")),
        entropy=analysis.entropy,
    )
    return summary(numbers, runs.order, explained(tables, MEANING))


def _section(
    index: int,
    profiles: pl.DataFrame,
    analysis: Analysis,
    aggregates: tuple[Aggregation, Aggregation],
) -> Section:
    """The profiles of one setting, and the declared metrics at its longest prefix.

    index: from 0, in the order of the page.
    """
    row = profiles.row(0, named=True)
    first = row["first_position"]
    sites = profiles["site"].unique(maintain_order=True)
    at = f"At {sites[0]}, context" if len(sites) == 1 else "Context"
    begins = f", ranks from position {first} on" if first else ""
    skipped = f" Ranks of rows from position {first} on; entropy of all." if first else ""
    over = "prompts" if analysis.cluster is None else f"prompts, by {analysis.cluster}"
    table = _profiles("profiles" if index == 0 else f"profiles-{index + 1}", profiles, analysis)
    headings = "" if profiles.height <= SIDE_BY_SIDE else f" {HEADINGS}"
    metrics = _metrics(index, row, sites, analysis, entropies=index == 0 or not first)
    return Section(
        table.name,
        f"{at} {row['context']}, {row['n_prompts']} prompts{begins}: value ± standard error over "
        f"{over} (prefix)",
        tables=(table, *metrics),
        more=f"Entropy: {aggregates[0]} over prefixes; ranks: {aggregates[1]}. Prefixes "
        f"{', '.join(map(str, row['prefixes']))}.{skipped}{headings}",
        brief=index < BRIEF,
    )


def _profiles(name: str, profiles: pl.DataFrame, analysis: Analysis) -> Table:
    """A row for each run and site."""
    texts = ["prompt_set"] * (profiles["prompt_set"].n_unique() > 1)
    sites = ["site"] * (profiles["site"].n_unique() > 1)
    ranks = [rank for rank in RANKS[::2] if rank in analysis.computed]  # not normalised
    few = profiles.height <= SIDE_BY_SIDE
    entropies = ["entropy_norm", "entropy"][: 1 + few]
    return table_of(
        name,
        "Profiles",
        profiles.with_columns(pl.col("prompt_set").str.slice(0, 8)),
        PROFILE,
        first=("run", *sites, *entropies, *ranks, *texts, "flags"),
        labels=_LABELS if few else {name: quantity.heading for name, quantity in PROFILE.items()},
        key=("run", *_SETTING, "site"),
        code="analyze(STORE, settings).profiles()",
        compared=True,
    )


def _metrics(
    index: int,
    row: Mapping[str, Any],
    sites: pl.Series,
    analysis: Analysis,
    *,
    entropies: bool,
) -> Iterator[Table]:
    """The metrics of one setting at its longest prefix. entropies: whether those of the logits,
    which skip no position, are among them.
    """
    of_logits = (pl.col("site") == LOGITS) & pl.lit(entropies)
    here = analysis.metrics.filter(context=row["context"], n_prompts=row["n_prompts"]).filter(
        (
            pl.col("site").is_in(sites.to_list())
            & (pl.col("first_position") == row["first_position"])
        )
        | of_logits
    )
    here = here.filter(pl.col("prefix") == pl.col("prefix").max())
    if here.is_empty():
        return
    several = ["site"] * (here["site"].n_unique() > 1)
    yield table_of(
        "metrics" if index == 0 else f"metrics-{index + 1}",
        f"Declared metrics at prefix {here.item(0, 'prefix')}",
        here.rename({name: f"value_{name}" for name in ERRORS}),
        {},
        first=("run", *several, "metric", "unit", "value", "flags"),
        key=("run", *_SETTING, "site", "metric"),
        code="analyze(STORE, settings).metrics",
        brief=here.height <= _ROWS,
    )


def _differences(compared: Compared) -> Section:
    """Every two runs; of many, the base and each other run."""
    differences = compared.differences
    runs = ("run_a", "run_b") if differences.select("run_a", "run_b").n_unique() > 1 else ()
    headings = {name: quantity.heading for name, quantity in PROFILE.items()}
    table = table_of(
        "differences",
        "Differences between two runs, second - first, each with its 95 % interval",
        differences.filter(~pl.col("metric").is_in(RANKS[1::2])).with_columns(
            pl.col("metric").replace(headings)
        ),
        {},
        first=(*runs, "metric", "prefix", "difference", "verdict", "flags"),
        key=("run_a", "run_b", *_SETTING, "metric"),
        code=compared.sql,
        language="SQL",
    )
    return Section(
        table.name, table.title, HEADINGS, tables=(table,), short="differences", brief=False
    )


def _biases(profiles: pl.DataFrame) -> Iterator[Sentence]:
    """A sentence on each setting at which entropy floors are noticeably too low."""
    few = (pl.col("n_prompts") < FEW_PROMPTS) & (pl.col("entropy_norm_bias") <= -LEAST_BIAS)
    keys = ["context", "n_prompts"]
    rows = profiles.filter(few).unique(["run", *keys], maintain_order=True)
    for group in rows.partition_by(*keys, maintain_order=True):
        row = group.row(0, named=True)
        parts: list[Part] = [
            f"At context {row['context']}, the entropy floor, the least of {len(row['prefixes'])} "
            f"means over {row['n_prompts']} prompts, is too low by about"
        ]
        for k, (run, bias) in enumerate(group.select("run", "entropy_norm_bias").iter_rows()):
            parts += [", " if k else " ", f"{number(-bias)} (", Run(run), ")"]
        yield (*parts, " of ln V (bootstrap).")
