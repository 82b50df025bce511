"""CKA as a page: which sites are least alike, then every pair."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.pages.data import with_names
from lpp.analyze.pages.page import Opening, Page, Section
from lpp.analyze.pages.table import Table, table_of
from lpp.analyze.pages.words import Run, Sentence, number
from lpp.analyze.quantities.flags import MEANING

_ROWS: Final = 36
"""Most pairs that a terminal shows at once."""

_SETTING: Final = ("run", "first_position", "prefix", "n_prompts")


def cka_page(url: str, pairs: pl.DataFrame, names: Mapping[str, str]) -> Page:
    """The page of `pairs`, rows of the table `cka`. names: short names by run id."""
    first, *others = _conclusions(pairs)
    whole = _table("cka", "Every pair of sites", pairs, brief=pairs.height <= _ROWS)
    tables = [whole]
    if not whole.brief:
        each = max(1, _ROWS // 2 // pairs["run"].n_unique())
        least = pairs.sort("cka", nulls_last=True).group_by("run", maintain_order=True).head(each)
        least = least.sort(pl.col("run").replace_strict(_places(pairs)), maintain_order=True)
        tables = [_table("least", "Pairs that are least alike", least), whole]
    return Page(
        title="Sites that are alike",
        opening=Opening(first),
        findings=tuple(others),
        sections=(
            Section(
                "pairs",
                "Linear CKA of two sites of a run",
                "1: the rows of both sites are equal up to a rotation and a scale; unrelated rows "
                "have about d / (tokens + d).",
                tables=tuple(tables),
            ),
        ),
        meanings=MEANING,
        runs=RunStyles({run: names[run] for run in _places(pairs)}),
        next=(f'lpp-sql {shlex.quote(url)} "SELECT run, site, other_site, cka FROM cka"',),
        document=with_names(pairs, names).to_dicts(),
        csv=with_names(pairs, names),
        store=url,
    )


def _places(pairs: pl.DataFrame) -> dict[str, int]:
    return {run: place for place, run in enumerate(pairs["run"].unique(maintain_order=True))}


def _conclusions(pairs: pl.DataFrame) -> Iterator[Sentence]:
    """A sentence on each run: the pair that is least alike, and of what tokens."""
    for rows in pairs.partition_by(*_SETTING, maintain_order=True):
        some = rows.row(0, named=True)
        skipped = f", positions from {some['first_position']}" if some["first_position"] else ""
        of = (
            f"{some['n_tokens']:,} tokens: {some['n_prompts']} prompts, prefix {some['prefix']}"
            f"{skipped}."
        )
        there = rows.drop_nulls("cka").sort("cka")
        if there.is_empty():
            yield Run(some["run"]), f": no pair of sites has a linear CKA of {of}"
            continue
        least, most = there.row(0, named=True), there.row(-1, named=True)
        of_pairs = f" of {there.height} pairs" if there.height > 1 else ""
        until = f", the most {number(most['cka'])}" if there.height > 1 else ""
        yield (
            Run(some["run"]),
            f":{of_pairs} {least['site']} and {least['other_site']} are least alike, CKA "
            f"{number(least['cka'])}{until}. Linear CKA of {of}",
        )


def _table(name: str, title: str, pairs: pl.DataFrame, *, brief: bool = True) -> Table:
    kept = [key for key in _SETTING[1:] if pairs[key].n_unique() > 1]
    return table_of(
        name,
        title,
        pairs,
        {},
        first=("run", *kept, "site", "other_site", "cka", "flags"),
        labels={"cka": "CKA"},
        key=(*_SETTING, "site", "other_site"),
        code="compute(plan(views, sites)[0])",
        brief=brief,
    )
