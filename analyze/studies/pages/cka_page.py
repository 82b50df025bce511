"""CKA as a page: which sites are least alike, then every pair."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.pages.data import with_names
from lpp.analyze.pages.page import Chart, Figure, Opening, Page, Section, drawing
from lpp.analyze.pages.table import table_of
from lpp.analyze.pages.words import listed, number, run, say
from lpp.analyze.quantities.flags import MEANING
from lpp.analyze.studies.layers_tables import without_sinks
from lpp.analyze.studies.pages.profile_summary import FEW, run_warnings

_ROWS: Final = 12
"""Most pairs that a terminal shows at once."""

_SETTING: Final = ("run", "first_position", "prefix", "n_prompts")


def cka_page(url: str, pairs: pl.DataFrame, names: Mapping[str, str]) -> Page:
    """The page of `pairs`, rows of the table `cka`. names: names by run id."""
    positions = {run: k for k, run in enumerate(pairs["run"].unique(maintain_order=True))}
    order = pl.col("run").replace_strict(positions)
    leading = without_sinks(pairs)
    ranked = pairs.sort(
        order, "first_position", "cka", descending=(False, True, False), nulls_last=True
    )
    each = max(1, _ROWS // len(positions))
    varying = [key for key in _SETTING[1:] if pairs[key].n_unique() > 1]
    table = table_of(
        "cka",
        "Every pair of sites",
        ranked,
        {},
        first=("run", *varying, "site", "other_site", "cka", "flags"),
        labels={"cka": "CKA"},
        key=(*_SETTING, "site", "other_site"),
        code="compute(plan(views, sites)[0])",
        short=ranked.group_by("run", maintain_order=True).head(each),
    )
    runs = RunStyles({run: names[run] for run in positions})
    chart = Chart(
        "cka",
        "pairs",
        table,
        "Sites that are alike",
        "A full cell (CKA 1): the rows of both sites are equal up to a rotation and a scale.",
        drawing("cka_chart", leading, runs=runs),
        opens=True,
    )
    return Page(
        title="Sites that are alike",
        opening=_opening(leading, pairs, list(positions)),
        sections=(
            Section(
                "pairs",
                "Linear CKA of two sites of a run, the least similar first",
                charts=(chart,),
                tables=(table,),
                short="Pairs of sites",
                more="1: the rows of both sites are equal up to a rotation and a scale; unrelated "
                "rows have about d / (tokens + d).",
            ),
        ),
        meanings=MEANING,
        runs=runs,
        next=(f'lpp-sql {shlex.quote(url)} "SELECT run, site, other_site, cka FROM cka"',),
        data={"cka": with_names(pairs, names)},
        store=url,
    )


def _opening(pairs: pl.DataFrame, every: pl.DataFrame, order: Sequence[str]) -> Opening:
    """The pair of each run that is least alike. every: rows with attention sinks as well."""
    known = pairs.drop_nulls("cka").sort("cka")
    ends: dict[tuple[str, str], list[str]] = {}
    rows = []
    for one in order:
        of_run = known.filter(run=one)
        if of_run.is_empty():
            continue
        least, most = of_run.row(0, named=True), of_run.row(-1, named=True)
        sites = least["site"], least["other_site"]
        ends.setdefault(sites, []).append(one)
        rows.append(
            (
                Figure(run=one),
                Figure(" and ".join(sites)),
                *(Figure(number(row["cka"])) for row in (least, most)),
            )
        )
    clauses = [f"{site} and {other} in {_runs(those)}" for (site, other), those in ends.items()]
    if left := len(clauses[FEW:]):
        clauses[FEW:] = [f"other sites in {left} more runs"]
    settings = {_of(row) for row in pairs.iter_rows(named=True)}
    setting = settings.pop() if len(settings) == 1 else "each run's own tokens"
    return Opening(
        say(f"The least similar sites are {'; '.join(clauses)}.")
        if clauses
        else ("No pair of sites has a linear CKA.",),
        f"linear CKA, {setting}",
        (("run", ""), ("least similar", "sites"), ("least", "CKA"), ("most", "CKA")),
        tuple(rows[:FEW]),
        tuple(run_warnings(every)),
    )


def _runs(runs: Sequence[str]) -> str:
    more = [f"{len(runs) - FEW} more"] if runs[FEW:] else []
    return listed([*map(run, runs[:FEW]), *more])


def _of(row: Mapping[str, Any]) -> str:
    skipped = f", positions from {row['first_position']} on" if row["first_position"] else ""
    return (
        f"{row['n_tokens']:,} tokens: {row['n_prompts']} prompts, prefix {row['prefix']}{skipped}"
    )
