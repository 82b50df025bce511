"""The first paragraphs: which values differ, by the interval of their difference.

Runs are compared only at one site, context and number of prompts, and on the same prompts. The
interval of a difference is that of a paired jackknife: each group of prompts is left out of both
runs at once.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import polars as pl

from lpp.analyze.pages.words import (
    Part,
    Ref,
    Run,
    Sentence,
    from_to,
    interval,
    label,
    listed,
    number,
)
from lpp.analyze.report.answers import Answers
from lpp.analyze.studies.pages.profile_summary import (
    ABSENT,
    AXES,
    DIFFERS,
    MAY_BE_EQUAL,
    SETTING,
    UNITS,
    UNKNOWN,
    NamedRow,
)

PAIRS_IN_FULL: Final = 3
"""With more pairs, only the number of those that differ is given."""

SETTINGS: Final = 3
"""Most settings described, those with most runs first; the table has all."""

_RULE: Final = "two runs differ if the interval of their difference leaves out 0"


def findings(answers: Answers) -> list[Sentence]:
    """Sentences of the first paragraph, from the tables of profiles and differences."""
    profiles = answers["profiles"].frame
    if profiles.is_empty():
        return [("There are no profiles, so there is nothing to compare.",)]
    if profiles["run"].n_unique() == 1:
        runs = answers["runs"].frame.height
        only = "There is one run" if runs <= 1 else f"Of {runs} runs one has a profile"
        return [(f"{only}, so there is nothing to compare it with.",), *_alone(profiles)]
    differences = answers["differences"].frame
    settings = [(keys, rows) for keys, rows in differences.group_by(*SETTING, maintain_order=True)]
    settings.sort(key=lambda item: (-item[1].height, item[0][3], -item[0][1], -item[0][2]))
    out: list[Sentence] = []
    for (site, context, n_prompts, first), rows in settings[:SETTINGS]:
        without = f", without the first {first} positions" if first else ""
        out += _setting(f"At {site}, context {context}, {n_prompts} prompts{without}", rows)
    if len(settings) > SETTINGS:
        rest = f" holds {len(settings) - SETTINGS} more settings."
        out.append(("The table of ", Ref("differences", "differences"), rest))
    if not settings:
        out.append(("No two runs share a site, a context and the same prompts.",))
    if apart := answers["apart"].frame.height:
        pairs = "1 pair of runs shares" if apart == 1 else f"{apart} pairs of runs share"
        out.append((Ref(pairs, "apart"), " no such setting and cannot be compared."))
    return out


def _alone(profiles: pl.DataFrame) -> Iterator[Sentence]:
    for row in profiles.head(SETTINGS).iter_rows(named=True):
        parts: list[Part] = [
            Run(row["run"]),
            f" at {row['site']}, context {row['context']}, {row['n_prompts']} prompts: ",
        ]
        for k, metric in enumerate(AXES):
            parts.append(", " if k else "")
            ends = interval(row[f"{metric}_ci_low"], row[f"{metric}_ci_high"])
            parts += [f"{label(metric)} ", Ref(number(row[metric]) + ends, "profiles")]
            parts.append(f" {UNITS[metric]}")
        yield (*parts, ".")


def _setting(where: str, rows: pl.DataFrame) -> Iterator[Sentence]:
    """Sentences on the pairs of one setting."""
    shown = rows.filter(pl.col("metric").is_in(AXES))
    pairs = list(shown.group_by("run_a", "run_b", maintain_order=True))
    if len(pairs) <= PAIRS_IN_FULL:
        yield (f"{where}, on the same prompts; {_RULE}:",)
        for _, of_pair in pairs:
            yield _pair({row["metric"]: row for row in of_pair.iter_rows(named=True)})
        return
    yield (f"{where}, on the same prompts, the runs make {len(pairs)} pairs; {_RULE}.",)
    for metric in AXES:
        yield _counted(metric, shown.filter(pl.col("metric") == metric))
    yield (
        "Of pairs that are equal, about 1 in 20 differs by chance: the intervals are not "
        "corrected for the number of pairs.",
    )


def _pair(by_metric: Mapping[str, NamedRow]) -> Sentence:
    """The sentence on a pair, with a clause for each verdict."""
    row = by_metric[AXES[0]]
    parts: list[Part] = [Run(row["run_a"], short=True), " and ", Run(row["run_b"], short=True)]
    before = " "
    for verdict, words in (
        (DIFFERS, "differ in "),
        (MAY_BE_EQUAL, "may be equal in "),
        (UNKNOWN, "have no interval of the difference in "),
        (ABSENT, "lack a value of "),
    ):
        metrics = [name for name in AXES if by_metric[name]["verdict"] == verdict]
        if not metrics:
            continue
        parts.append(f"{before}{words}")
        before = "; they "
        for k, name in enumerate(metrics):
            if k:
                parts.append(" and " if k == len(metrics) - 1 else ", ")
            parts += _compared(name, by_metric[name])
    return (*parts, ".")


def _compared(metric: str, row: NamedRow) -> Iterator[Part]:
    yield f"{label(metric)} ("
    if row["verdict"] != ABSENT:
        ends = interval(row["difference_ci_low"], row["difference_ci_high"])
        values = f"{number(row['value_a'])} and {number(row['value_b'])}, difference "
        yield values
        yield Ref(f"{number(row['difference'])}{ends}", "differences")
        yield f" {UNITS[metric]}{_apart(row)}"
    else:
        yield f"{number(row['value_a'])} and {number(row['value_b'])} {UNITS[metric]}"
    yield ")"


def _apart(row: NamedRow) -> str:
    """Whether the two values of a difference come from different prefixes, in words."""
    return ", at different prefixes" if "different_prefixes" in (row["flags"] or ()) else ""


def _counted(metric: str, pairs: pl.DataFrame) -> Sentence:
    """The sentence on a metric: how many pairs differ, and its smallest and largest value."""
    counts = dict(pairs["verdict"].value_counts().iter_rows())
    counted = [f"{counts.get(DIFFERS, 0)} differ"]
    counted += [
        f"{counts[verdict]} {words}"
        for verdict, words in (
            (MAY_BE_EQUAL, "may be equal"),
            (UNKNOWN, "have no interval"),
            (ABSENT, "lack a value"),
        )
        if verdict in counts
    ]
    out: tuple[Part, ...] = (
        f"In {label(metric)}, ",
        Ref(listed(counted), "differences"),
    )
    sides = [
        pairs.select(run=f"run_{side}", value=f"value_{side}").drop_nulls("value") for side in "ab"
    ]
    values = pl.concat(sides).filter(pl.col("value").is_finite()).unique().sort("value", "run")
    if values.is_empty():
        return (*out, ".")
    low, high = ((number(value), run) for run, value in (values.row(0), values.row(-1)))
    return (*out, "; it ranges", *from_to(low, high, f" {UNITS[metric]}"), ".")
