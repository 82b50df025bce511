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
    Column("outcome", "VARCHAR", "FAIL where the condition is met"),
    Column("condition", "VARCHAR", "of --fail-if"),
    Column("value", "DOUBLE", "of the number"),
    Column("decisive", "DOUBLE", "what was compared with the threshold"),
    Column("interval", "VARCHAR", "level of the interval whose end decides"),
    Column("site", "VARCHAR", "of the decisive value"),
    Column("why", "VARCHAR", "why the condition is not decided"),
)

_LEAD: Final = (
    "decided by: the end of the interval towards the threshold, or the number itself where it has "
    "none."
)

Verdicts = Mapping[str, Sequence[Verdict]]
"""Verdicts by run."""


def gate_section(verdicts: Verdicts, undecided: Mapping[str, str] = NONE) -> Section:
    """A row for each condition and run. undecided: why runs could not be compared, by run."""
    rows = [_row(run, one) for run, some in verdicts.items() for one in some]
    rows += [
        {"run": run, "outcome": "not decided", "why": why} for run, why in undecided.items() if rows
    ]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    several = len(verdicts) + len(undecided) > 1
    reasons: list[Sentence] = [
        (Run(run), f": {line}") if several else (line,)
        for run, some in verdicts.items()
        for line in not_decided(some)
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
    lead = " ".join((_LEAD, *family_line(one for some in verdicts.values() for one in some)))
    return Section("gate", "Gate", lead, tables=(table,), notes=tuple(reasons))


def _row(run: str, one: Verdict) -> dict[str, Any]:
    level = None if one.level is None else f"{percent(one.level)} %"
    return {
        **{"run": run, "outcome": _fate(one), "condition": one.condition.text},
        **{"value": one.value, "decisive": one.decisive, "interval": level},
        **{"site": one.site, "why": one.why or None},
    }


def conclusion(verdicts: Verdicts, undecided: Mapping[str, str] = NONE) -> Sentence:
    """Whether the gate passes, and why; nothing without conditions."""
    every = [one for some in verdicts.values() for one in some]
    if not every:
        return ()
    counts = {
        "met": sum(one.outcome == "fail" for one in every),
        "not decided": sum(one.outcome == "not decided" for one in every) + len(undecided),
    }
    total = len(every) + len(undecided)
    what = "conditions on all runs" if len(verdicts) + len(undecided) > 1 else "conditions"
    parts = [
        f"{count} {'is' if count == 1 else 'are'} {name}" for name, count in counts.items() if count
    ]
    if not parts:
        return (f"PASS: none of {total} {what} is met. ",)
    return (f"FAIL: of {total} {what} {', '.join(parts)}. ",)


def as_lines(verdicts: Sequence[Verdict], indent: str = "") -> str:
    """A line on each condition, and why some are not decided; each line begins with `indent`."""
    width = max((len(one.condition.text) for one in verdicts), default=0)
    fates = [_fate(one) for one in verdicts]
    first = max(map(len, ("not met", *fates)))
    lines = (
        f"{indent}{fate:{first}}  {one.condition.text:{width}}  {_verdict(one)}\n"
        for fate, one in zip(fates, verdicts, strict=True)
    )
    return "".join(lines) + "".join(wrapped(line, indent) for line in not_decided(verdicts))


def lines_by_run(
    verdicts: Verdicts, names: Mapping[str, str], undecided: Mapping[str, str] = NONE
) -> str:
    """What each condition says of each run; nothing without conditions."""
    every = [one for some in verdicts.values() for one in some]
    if not every:
        return ""
    said = {run: as_lines(some, "  ") for run, some in verdicts.items()}
    said |= {run: wrapped(f"not decided: {why}.", "  ") for run, why in undecided.items()}
    rows = (f"{names.get(run, run)}\n{lines}" for run, lines in said.items())
    return "".join((*rows, *map(wrapped, family_line(every))))


def documents(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Verdicts for programs."""
    return [
        {
            "condition": one.condition.text,
            "value": one.value,
            "decisive": one.decisive,
            "level": one.level,
            "tests": one.tests,
            "site": one.site,
            "outcome": one.outcome,
            "failed": one.failed,
            "why": one.why or None,
        }
        for one in verdicts
    ]


def not_decided(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Why conditions are not decided: a sentence on each reason."""
    reasons: dict[str, list[str]] = {}
    for one in verdicts:
        if one.why:
            reasons.setdefault(one.why, []).append(one.condition.text)
    yield from (f"{', '.join(of)}: not decided, as {why}" for why, of in reasons.items())


def family_line(verdicts: Iterable[Verdict]) -> Iterator[str]:
    """How wide the intervals are, if several share the level of one."""
    if (most := max((one.tests for one in verdicts if one.level), default=1)) > 1:
        yield (
            f"The intervals of all conditions, runs and sites hold together at "
            f"{percent(LEVEL)} % (Bonferroni, of up to {most} tests)."
        )


def _fate(one: Verdict) -> str:
    return one.outcome.replace("fail", "FAIL")


def _verdict(one: Verdict) -> str:
    """The number that a condition is about, and what decided."""
    where = f" at {one.site}" if one.site and one.condition.site is None else ""
    if one.level is None or one.value is None or one.decisive in (None, one.value):
        return f"{number(one.value)}{where}"
    end = "from" if one.decisive < one.value else "up to"
    interval = f"{percent(one.level)} % interval"
    return f"{number(one.value)}{where}, {interval} {end} {number(one.decisive)}"


def percent(level: float) -> str:
    """A level near 1 in percent: two digits of what it leaves out.

    >>> [percent(level) for level in (0.98, 0.99, 1 - 0.02 / 3, 1 - 0.02 / 32, 1 - 0.02 / 768)]
    ['98', '99', '99.33', '99.938', '99.9974']
    """
    left = 100 * (1 - level)
    return f"{100 - float(f'{left:.2g}'):.9g}"
