"""Profiles as a page: which run is more certain, and which uses more dimensions."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.metrics.registry import PROFILE, RANKS
from lpp.analyze.pages.data import with_names
from lpp.analyze.pages.page import Chart, Opening, Page, Section, drawing
from lpp.analyze.pages.table import Table, table_of
from lpp.analyze.pages.terminal import SIDE_BY_SIDE
from lpp.analyze.pages.words import Sentence, listed, rough, run, say
from lpp.analyze.quantities.flags import MEANING
from lpp.analyze.questions import Aggregation
from lpp.analyze.studies.pages.profile_summary import Numbers, summary
from lpp.sql.schema.columns import ERRORS

EXTREMES: Final = ("min", "max")
"""Aggregates of entropy and ranks over prefixes: those of the database."""

FEW_PROMPTS: Final = 100
"""With fewer prompts the page states the bias of the floor; else it is below .005 of ln V."""

LEAST_BIAS: Final = 5e-4
"""The page states no smaller bias of an entropy floor."""

LOGITS: Final = "logits"
"""The site of metrics of the logits."""

BRIEF: Final = 3
"""Settings that a terminal shows at once."""

_ROWS: Final = 40
"""Most rows of metrics that a terminal shows at once."""

_SETTING: Final = ("context", "n_prompts", "first_position")

_LABELS: Final = {
    **dict.fromkeys(("entropy_floor", "entropy_norm"), "entropy / ln V"),
    "participation_ratio_norm": "PR / min(N, d)",
    "effective_rank_norm": "ER / min(N, d)",
    "prompt_set": "prompt set",
}
"""Headings that fit beside three runs."""

HEADINGS: Final = "H: entropy; PR: participation ratio; ER: effective rank; r: min(N, d)."


def profile_page(
    url: str,
    tables: Mapping[str, pl.DataFrame],
    shown: pl.DataFrame,
    names: Mapping[str, str],
    *,
    aggregates: tuple[Aggregation, Aggregation] = EXTREMES,
    query: str = "",
    database_note: Sentence = (),
) -> Page:
    """The page of the profiles `shown` of the store at `url`.

    tables: those of the database that these numbers fill, by name; if aggregates are `EXTREMES`,
    `profiles` and `differences` are among them. shown: rows as of `site_profiles`, those of the
    base run first. names: names by run id. aggregates: of entropy and ranks over prefixes.
    query: SQL of the differences. database_note: what the database has.
    """
    runs = RunStyles({run: names[run] for run in shown["run"].unique(maintain_order=True)})
    groups = shown.partition_by(*_SETTING, maintain_order=True)
    sections = [_section(index, group, tables, aggregates) for index, group in enumerate(groups)]
    if len(groups) == 1 and aggregates == EXTREMES:  # the opening has the setting
        sections = [replace(sections[0], title=f"Value{sections[0].title.partition(': value')[2]}")]
    cluster = next(iter(tables["spectra"]["cluster"]), None)
    data = {
        "profiles": with_names(
            shown if cluster is None else shown.with_columns(cluster=pl.lit(cluster)), names
        )
    }
    if aggregates == EXTREMES:
        differences = data["differences"] = tables["differences"]
        chart = profile_chart_of(tables["profiles"], sections[0].tables[0], runs, opens=True)
        sections[0] = replace(sections[0], charts=(chart,))
        numbers = Numbers(
            profiles=tables["profiles"],
            differences=differences,
            layers=tables["spectra"].filter(pl.col("prefix") == pl.col("context")),
            entropy=tables["entropy"],
        )
        opening = summary(numbers, runs.order, MEANING)
        if not differences.is_empty():
            sections.append(_differences(differences, query))
    else:
        opening = Opening(
            (
                f"Entropy is its {aggregates[0]} over prefixes, ranks their {aggregates[1]}; the "
                "database has the least entropy and the largest ranks.",
            )
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
        data=data,
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


def _section(
    index: int,
    profiles: pl.DataFrame,
    tables: Mapping[str, pl.DataFrame],
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
    cluster = next(iter(tables["spectra"]["cluster"]), None)
    over = "prompts" if cluster is None else f"prompts, by {cluster}"
    table = _profiles("profiles" if index == 0 else f"profiles-{index + 1}", profiles)
    headings = "" if profiles.height <= SIDE_BY_SIDE else f" {HEADINGS}"
    metrics = _metrics(index, row, sites, tables["metrics"], entropies=index == 0 or not first)
    return Section(
        table.name,
        f"{at} {row['context']}, {row['n_prompts']} prompts{begins}: value ± standard error over "
        f"{over} (prefix)",
        tables=(table, *metrics),
        more=f"Entropy: {aggregates[0]} over prefixes; ranks: {aggregates[1]}. Prefixes "
        f"{', '.join(map(str, row['prefixes']))}.{skipped}{headings}",
        brief=index < BRIEF,
    )


def _profiles(name: str, profiles: pl.DataFrame) -> Table:
    """A row for each run and site."""
    texts = ["prompt_set"] * (profiles["prompt_set"].n_unique() > 1)
    sites = ["site"] * (profiles["site"].n_unique() > 1)
    ranks = [rank for rank in RANKS[::2] if profiles[rank].count()]  # not normalised
    few = profiles.height <= SIDE_BY_SIDE
    share = "entropy_floor" if "entropy_floor" in profiles.columns else "entropy_norm"
    entropies = [share, "entropy"][: 1 + few]
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
    metrics: pl.DataFrame,
    *,
    entropies: bool,
) -> Iterator[Table]:
    """The metrics of one setting at its longest prefix. entropies: whether those of the logits,
    which skip no position, are among them.
    """
    of_logits = (pl.col("site") == LOGITS) & pl.lit(entropies)
    here = metrics.filter(context=row["context"], n_prompts=row["n_prompts"]).filter(
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


def _differences(differences: pl.DataFrame, query: str) -> Section:
    """Every two runs; of many, the base and each other run."""
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
        code=query,
        language="SQL",
    )
    return Section(
        table.name, table.title, HEADINGS, tables=(table,), short="differences", brief=False
    )


def _biases(profiles: pl.DataFrame) -> Iterator[Sentence]:
    """A sentence on each setting at which entropy floors are noticeably too low."""
    if "entropy_floor_bias" not in profiles.columns:
        return
    few = (pl.col("n_prompts") < FEW_PROMPTS) & (pl.col("entropy_floor_bias") <= -LEAST_BIAS)
    keys = ["context", "n_prompts"]
    rows = profiles.filter(few).unique(["run", *keys], maintain_order=True)
    for group in rows.partition_by(*keys, maintain_order=True):
        row = group.row(0, named=True)
        biases = group.select("run", "entropy_floor_bias").iter_rows()
        each = listed([f"{rough(-bias)} ({run(one)})" for one, bias in biases])
        yield say(
            f"At context {row['context']}, the entropy floor is the least of "
            f"{len(row['prefixes'])} means over only {row['n_prompts']} prompts, so it is too low, "
            f"by about {each} of ln V (bootstrap)."
        )
