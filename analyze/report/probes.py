"""The section on probes of labels: queries on their tables, and what is said of the rows."""

import shlex
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Final

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.pages.page import Section
from lpp.analyze.probes import page_parts
from lpp.analyze.probes.tables import (
    COMPARISON_KEY,
    KEY,
    PROBE_RELIABILITY,
    PROBE_TESTS,
    PROBES,
)
from lpp.analyze.report.answers import Answers, tables_of
from lpp.analyze.report.not_computed import Remedy
from lpp.analyze.report.queries import Query, whole
from lpp.store import open_store
from lpp.store.format.prompt_columns import FIELD_PREFIX

SECTION: Final = "probes"
NAMED: Final = 6
"""Fields that are named as labels, at most."""

TESTS: Final = replace(
    page_parts.TESTS,
    # of several pairs: the number fits a telephone
    first=("run", "run_b", "probe_auroc_change", "verdict", "label", "probe"),
)
_KEY: Final = ", ".join(KEY)


_SQL: Final = {
    page_parts.LABELS: f"SELECT * FROM probes WHERE is_best\nORDER BY {_KEY}",
    TESTS: f"SELECT * FROM probe_tests\nORDER BY {', '.join(COMPARISON_KEY)}, depth, probe",
    page_parts.SITES: f"SELECT * FROM probes WHERE role = 'site'\nORDER BY {_KEY}, depth, probe",
    page_parts.CONTROLS: f"SELECT * FROM probes WHERE role = 'control'\nORDER BY {_KEY}, probe",
    page_parts.RELIABILITY: "FROM probe_reliability\n"
    f"SEMI JOIN (FROM probes WHERE is_best) USING ({_KEY}, probe)\nORDER BY {_KEY}, bin",
}
"""Tables that the section shows, in order."""

PROBE_QUERIES: Final = (
    *(
        Query(
            **asdict(replace(shape, folded=shape not in (page_parts.LABELS, TESTS))),
            sql=sql,
            command=(PROBE_TESTS if shape is TESTS else PROBES).filled_by,
        )
        for shape, sql in _SQL.items()
    ),
    whole(PROBES.name),
)


def has_probes(answers: Answers) -> bool:
    """Whether some label was probed, or some probe tested on another run."""
    return any(answers[shape.name].frame.height for shape in _SQL)


def section(answers: Answers, runs: RunStyles) -> Section:
    """The section; needs `has_probes`."""
    probes = answers[whole(PROBES.name).name].frame
    bins = answers[page_parts.RELIABILITY.name].frame
    tables = {table.name: table for table in tables_of(answers, tuple(_SQL), page_parts.shaped)}
    frames = {PROBES.name: probes, PROBE_RELIABILITY.name: bins}
    charts = page_parts.probe_charts(frames, tables, runs)
    return Section(
        SECTION,
        "What can be read from the states",
        page_parts.READING,
        tuple(replace(chart, section=SECTION) for chart in charts),
        tuple(tables.values()),
        tuple(page_parts.conclusions(probes, answers[TESTS.name].frame)),
        short="Probes",
        more=page_parts.TESTS_READING if TESTS.name in tables else "",
    )


def not_probed(url: str, answers: Answers) -> Iterator[Remedy]:
    """The command that probes a label, where prompts have fields and none was probed."""
    if has_probes(answers):
        return
    store, fields = open_store(url), dict[str, list[str]]()
    for run in answers["runs"].frame["run"] if answers["runs"].frame.width else ():
        if run in store.runs:
            columns = [column.name for column in store.runs[run].extra_columns]
            names = [c.removeprefix(FIELD_PREFIX) for c in columns if c.startswith(FIELD_PREFIX)]
            fields |= {run: names} if names else {}
    if fields:
        names = [*dict.fromkeys(name for of_run in fields.values() for name in of_run)]
        named = ", ".join(names[:NAMED]) + (", ..." if names[NAMED:] else "")
        run = shlex.quote(next(iter(fields))) if len(fields) == 1 else "RUN"
        yield Remedy(
            f"Probes of labels, such as {named}", f"lpp-analyze probe STORE {run} --label FIELD"
        )
