"""What a gate says: as a section of a page, as lines on standard output, and for programs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import polars as pl

from lpp.analyze.drift.gate.verdicts import LEVEL, Verdict
from lpp.analyze.pages.page import Section
from lpp.analyze.pages.table import table_of
from lpp.analyze.pages.terminal import wrapped
from lpp.analyze.pages.words import Run, Sentence, number
from lpp.sql.schema import Column

NONE: Final[Mapping[str, str]] = MappingProxyType({})
"""No run that should have been compared and could not be: why, by run id."""

_COLUMNS: Final = (
    Column("outcome", "VARCHAR", "FAIL if the condition is met"),
    Column("condition", "VARCHAR", "condition of --fail-if"),
    Column("value", "DOUBLE", "value of the number"),
    Column("decisive", "DOUBLE", "value that was compared with the threshold"),
    Column("interval", "VARCHAR", "confidence level of the interval"),
    Column("site", "VARCHAR", "site of the decisive value"),
    Column("why", "VARCHAR", "why the condition is not decided"),
)

_LEAD: Final = (
    "decided by: the lower end of the interval for >, the upper end for <, or the number itself "
    "if it has no interval."
)

Verdicts = Mapping[str, Sequence[Verdict]]
"""Verdicts by run."""


GATE: Final = pl.Schema(
    {
        "run": pl.String,
        "outcome": pl.String,
        "condition": pl.String,
        "value": pl.Float64,
        "decisive": pl.Float64,
        "level": pl.Float64,
        "tests": pl.Int64,
        "site": pl.String,
        "why": pl.String,
        "failed": pl.Boolean,
    }
)
"""A row for each condition and run; the names are those of `Verdict`."""


def gate_rows(verdicts: Verdicts, undecided: Mapping[str, str] = NONE) -> pl.DataFrame:
    """Rows `GATE`. undecided: why runs could not be compared, by run; a row for each."""
    rows: list[dict[str, Any]] = [
        {name: getattr(v, name) for name in GATE if name not in ("run", "condition", "why")}
        | {"run": run, "condition": v.condition.text, "why": v.why or None}
        for run, of_run in verdicts.items()
        for v in of_run
    ]
    rows += [
        {"run": run, "outcome": "not decided", "why": why, "failed": True}
        for run, why in undecided.items()
        if rows
    ]
    return pl.DataFrame(rows, schema=GATE)


def gate_section(verdicts: Verdicts, undecided: Mapping[str, str] = NONE) -> Section:
    """A row for each condition and run. undecided: why runs could not be compared, by run."""
    level = pl.col("level").map_elements(lambda x: f"{percent(x)} %", pl.String)
    frame = gate_rows(verdicts, undecided).select(
        "run",
        pl.col("outcome").str.replace("fail", "FAIL"),
        *("condition", "value", "decisive"),
        level.alias("interval"),
        *("site", "why"),
    )
    several = len(verdicts) + len(undecided) > 1
    reasons: list[Sentence] = [
        (Run(run), f": {line}") if several else (line,)
        for run, of_run in verdicts.items()
        for line in not_decided(of_run)
    ]
    reasons += [(Run(run), f": not decided: {why}.") for run, why in undecided.items()]
    table = table_of(
        "gate",
        "Conditions under which the comparison fails",
        frame if several else frame.drop("run"),
        {column.name: column for column in _COLUMNS},
        first=[c.name for c in frame if c.name != "why" and c.null_count() < len(frame)],
        labels={"decisive": "decided by"},
        key=("run", "condition") if several else ("condition",),
        code="from lpp.analyze.drift.gate.conditions import parse_condition\n"
        "from lpp.analyze.drift.gate.verdicts import verdict\n\n"
        "verdict(parse_condition(CONDITION), found.predictions, found.sites, "
        "lost=found.pair.lost)  # found: of diff(STORE, RUN_A, RUN_B)",
    )
    lead = " ".join((_LEAD, *family_line(v for of_run in verdicts.values() for v in of_run)))
    return Section("gate", "Gate", lead, tables=(table,), notes=tuple(reasons))


def conclusion(verdicts: Verdicts, undecided: Mapping[str, str] = NONE) -> str:
    """Whether the gate passes, and why; nothing without conditions."""
    all_verdicts = [v for of_run in verdicts.values() for v in of_run]
    if not all_verdicts:
        return ""
    counts = {
        "met": sum(v.outcome == "fail" for v in all_verdicts),
        "not decided": sum(v.outcome == "not decided" for v in all_verdicts) + len(undecided),
    }
    total = len(all_verdicts) + len(undecided)
    what = "conditions on all runs" if len(verdicts) + len(undecided) > 1 else "conditions"
    parts = [
        f"{count} {'is' if count == 1 else 'are'} {name}" for name, count in counts.items() if count
    ]
    if not parts:
        return f"PASS: none of {total} {what} is met. "
    return f"FAIL: of {total} {what} {', '.join(parts)}. "


def as_lines(verdicts: Sequence[Verdict], indent: str = "") -> str:
    """A line on each condition, and why some are not decided; each line begins with `indent`."""
    width = max((len(v.condition.text) for v in verdicts), default=0)
    fates = [_fate(v) for v in verdicts]
    first = max(map(len, ("not met", *fates)))
    lines = (
        f"{indent}{fate:{first}}  {v.condition.text:{width}}  {_verdict(v)}\n"
        for fate, v in zip(fates, verdicts, strict=True)
    )
    return "".join(lines) + "".join(wrapped(line, indent) for line in not_decided(verdicts))


def lines_by_run(
    verdicts: Verdicts, names: Mapping[str, str], undecided: Mapping[str, str] = NONE
) -> str:
    """The verdicts on each run as lines; empty without conditions."""
    all_verdicts = [v for of_run in verdicts.values() for v in of_run]
    if not all_verdicts:
        return ""
    texts = {run: as_lines(of_run, "  ") for run, of_run in verdicts.items()}
    texts |= {run: wrapped(f"not decided: {why}.", "  ") for run, why in undecided.items()}
    rows = (f"{names.get(run, run)}\n{lines}" for run, lines in texts.items())
    return "".join((*rows, *map(wrapped, family_line(all_verdicts))))


def not_decided(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Why conditions are not decided: a sentence on each reason."""
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.why:
            reasons.setdefault(verdict.why, []).append(verdict.condition.text)
    yield from (f"{', '.join(of)}: not decided, as {why}" for why, of in reasons.items())


def family_line(verdicts: Iterable[Verdict]) -> Iterator[str]:
    """How wide the intervals are, if several share the level of one."""
    if (most := max((v.tests for v in verdicts if v.level), default=1)) > 1:
        yield (
            f"The intervals of all conditions, runs and sites hold together at "
            f"{percent(LEVEL)} % (Bonferroni, of up to {most} tests)."
        )


def _fate(verdict: Verdict) -> str:
    return verdict.outcome.replace("fail", "FAIL")


def _verdict(verdict: Verdict) -> str:
    """The number that a condition tests, and the end of its interval if that decides."""
    where = f" at {verdict.site}" if verdict.site and verdict.condition.site is None else ""
    if verdict.level is None or verdict.value is None or verdict.decisive in (None, verdict.value):
        return f"{number(verdict.value)}{where}"
    end = "from" if verdict.decisive < verdict.value else "up to"
    interval = f"{percent(verdict.level)} % interval"
    return f"{number(verdict.value)}{where}, {interval} {end} {number(verdict.decisive)}"


def percent(level: float) -> str:
    """A level near 1 in percent: two digits of what it leaves out.

    >>> [percent(level) for level in (0.98, 0.99, 1 - 0.02 / 3, 1 - 0.02 / 32, 1 - 0.02 / 768)]
    ['98', '99', '99.33', '99.938', '99.9974']
    """
    left = 100 * (1 - level)
    return f"{100 - float(f'{left:.2g}'):.9g}"
