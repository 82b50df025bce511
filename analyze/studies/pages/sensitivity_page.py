"""Sensitivity as a page: what changes most, every number on the grid, the order of the models."""

import itertools
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.metrics.registry import PROFILE, RANKS
from lpp.analyze.numerics.jackknife import ERRORS
from lpp.analyze.pages.data import with_names
from lpp.analyze.pages.page import Chart, Figure, Opening, Page, Section, drawing
from lpp.analyze.pages.table import Table, table_of
from lpp.analyze.pages.words import Run, Sentence, hundredths, number
from lpp.analyze.quantities.flags import MEANING
from lpp.analyze.studies.agreement import Compared, Setting
from lpp.analyze.studies.grid import profile_rows
from lpp.analyze.studies.pages.profile_page import HEADINGS
from lpp.analyze.studies.pages.profile_summary import run_warnings
from lpp.analyze.studies.saving import total
from lpp.analyze.studies.sensitivity import Sensitivity

CHARTED: Final = ("entropy_norm", "participation_ratio", "effective_rank")
"""Numbers that have a chart; the last opens the page."""

_SHOWN: Final = ("entropy_norm", *RANKS[::2], *RANKS[1::2])
"""Numbers of the tables."""

_ROWS: Final = 8
"""Most settings that a terminal shows at once."""

SENTENCES: Final = 4
"""Most sentences on runs."""

_FEW: Final = 5
"""Up to so many models, the odds of full agreement by chance are worth saying."""

_FIELDS: Final = {
    "context": "context",
    "n_prompts": "prompts",
    "corpus": "corpus",
    "site": "site",
    "aggregation": "by",
}
_CELL: Final = ("run", "corpus", "site", "context", "n_prompts")
_LABELS: Final = {name: PROFILE[name].heading for name in _SHOWN}


def sensitivity_page(
    url: str, answer: Sensitivity, names: Mapping[str, str], *, part: str | None = None
) -> Page:
    """The page of `answer`, about the store at `url`.

    names: short names by run id. part: `grid` or `agreement`: only this part; None: both.
    """
    run_ids = answer.values["run"].unique(maintain_order=True)
    runs = RunStyles({run: names[run] for run in run_ids})
    profiles = profile_rows(answer.values).filter(pl.col("left_out").is_null())
    orders = list(_orders(answer.compared if part != "grid" else ()))
    changes = list(_changes(profiles, 1 if part == "agreement" else SENTENCES))
    first, *others = [*orders, *(sentence for sentence, _ in changes)]
    values = with_names(answer.values, names)
    sections = [_grid(answer, profiles, runs), _tokens(answer)] * (part != "agreement")
    sections += [_agreement(answer)] * (part != "grid")
    return Page(
        title="How steady profiles are",
        opening=Opening(
            first,
            "the number of each run that changes most between settings",
            (("run", ""), ("number", ""), ("smallest", ""), ("largest", ""), ("settings", "")),
            tuple(figures for _, figures in changes if figures),
            tuple(run_warnings(answer.values)),
        ),
        further=tuple(others),
        sections=(
            *sections,
            Section("left-out", "Left out", notes=tuple((line,) for line in answer.left_out)),
        ),
        meanings=MEANING,
        runs=runs,
        next=(
            f"lpp-sql {shlex.quote(url)} "
            '"SELECT run, context, n_prompts, metric, value FROM sensitivity"',
        ),
        document={
            "values": values.to_dicts(),
            "agreement": answer.agreement.to_dicts(),
            "tokens": [
                {**asdict(saving), "ratio": saving.ratio, "name": names.get(saving.run)}
                for saving in (*answer.savings, total(answer.savings))
            ],
            "left_out": list(answer.left_out),
        },
        csv=answer.agreement if part == "agreement" else values,
        store=url,
    )


def sensitivity_charts(
    values: pl.DataFrame, table: Table, section: str, runs: RunStyles, **more: Any
) -> Iterator[Chart]:
    """A chart for each of `CHARTED`. values: the table `sensitivity`."""
    for metric in CHARTED:
        yield Chart(
            f"sensitivity-{metric}",
            section,
            table,
            f"Sensitivity of the {metric.replace('_norm', '').replace('_', ' ')}",
            "In each cell the value, and how far it is from that of the longest context and most "
            "prompts.",
            partial(drawing("sensitivity_chart"), values, metric, runs=runs),
            **more,
        )


def _changes(profiles: pl.DataFrame, most: int) -> Iterator[tuple[Sentence, tuple[Figure, ...]]]:
    """A sentence on each of the first runs, and its figures: the number that changes most over the
    grid.
    """
    if profiles.is_empty():
        yield ("No run has a number on this grid.",), ()
    groups = profiles.group_by("run", "site", maintain_order=True)
    for (run, site), rows in itertools.islice(groups, most):
        settings = rows.select("context", "n_prompts").n_unique()
        if settings == 1:
            yield (Run(str(run)), f" has one setting at {site}: nothing to compare it with."), ()
            continue
        ends = {
            metric: (low, high)
            for metric in CHARTED
            if (low := _end(rows, metric, descending=False))
            and (high := _end(rows, metric, descending=True))
            and low["value"] > 0
        }
        if not ends:
            yield (Run(str(run)), f" has no number at {site}."), ()
            continue
        metric = max(ends, key=lambda name: ends[name][1]["value"] / ends[name][0]["value"])
        words = f"{PROFILE[metric].words} at {site}"
        from_, to = (f"{number(end['value'])} ({_where(end)})" for end in ends[metric])
        yield (
            (
                Run(str(run)),
                f" changes most in {words}: from {from_} to {to}, over {settings} settings.",
            ),
            (
                Figure(run=str(run)),
                Figure(words),
                *(Figure(number(end["value"])) for end in ends[metric]),
                Figure(f"{settings}"),
            ),
        )


def _end(rows: pl.DataFrame, metric: str, *, descending: bool) -> dict[str, Any] | None:
    known = rows.filter(pl.col("value").is_finite(), metric=metric)
    return known.sort("value", descending=descending).row(0, named=True) if len(known) else None


def _where(row: Mapping[str, Any]) -> str:
    return f"context {row['context']}, {row['n_prompts']} prompts"


def _orders(compared: Iterable[Compared]) -> Iterator[Sentence]:
    """Where the order of the models changes most, if orders are compared."""
    known = [
        (c.agreement.kendall_tau, c)
        for c in _around(list(compared))
        if c.agreement.kendall_tau is not None and c.metric in CHARTED
    ]
    if not known:
        return
    tau, least = min(known, key=lambda pair: pair[0])
    models = f"The order of {least.agreement.n_models} models"
    if tau == 1:
        yield (f"{models} is the same wherever one setting changes: Kendall tau 1.",)
        return
    (field,) = least.differ
    ends = " and ".join(str(getattr(setting, field)) for setting in (least.a, least.b))
    yield (
        f"{models} changes most in {PROFILE[least.metric].words} between {_FIELDS[field]} {ends}: "
        f"Kendall tau {hundredths(tau)}.",
    )


def _grid(answer: Sensitivity, profiles: pl.DataFrame, runs: RunStyles) -> Section:
    """A row for each setting of each run and site, and every number with its own flags."""
    numbers = profiles.filter(pl.col("metric").is_in(_SHOWN))
    parts = ("value", *ERRORS)
    wide = numbers.pivot("metric", index=_CELL, values=parts, maintain_order=True)
    wide = wide.rename(
        {
            name: f"{metric}_{part}" if part != "value" else metric
            for part in parts
            for metric in _SHOWN
            if (name := f"{part}_{metric}") in wide.columns
        }
    )
    flags = numbers.group_by(_CELL).agg(
        pl.col("flags").explode(empty_as_null=False).unique().sort()
    )
    wide = wide.join(flags, on=_CELL, how="left", maintain_order="left")
    varying = [name for name in _CELL[1:3] if wide[name].n_unique() > 1]
    grid = table_of(
        "grid",
        "Profiles by context and prompts",
        wide,
        PROFILE,
        first=("run", *varying, "context", "n_prompts", *_SHOWN, "flags"),
        labels=_LABELS,
        key=_CELL,
        code="sensitivity(STORE, settings).values",
        brief=wide.height <= _ROWS,
    )
    values = table_of(
        "values",
        "Every number of the grid, with its own flags",
        answer.values.rename({name: f"value_{name}" for name in (*ERRORS, "prefix")}),
        {},
        first=("run", *varying, "context", "n_prompts", "metric", "value", "aggregation", "flags"),
        key=(*_CELL, "metric", "aggregation"),
        code="sensitivity(STORE, settings).values",
        folded=True,
        brief=False,
    )
    *folded, opening = sensitivity_charts(answer.values, grid, "grid", runs)
    return Section(
        "grid",
        "The grid of settings",
        "Entropy: its minimum over prefixes; ranks: their maximum.",
        (replace(opening, opens=True), *(replace(chart, folded=True) for chart in folded)),
        (grid, values),
        more=HEADINGS,
    )


def _tokens(answer: Sensitivity) -> Section:
    """What the grid costs in tokens, both ways."""
    savings = [*answer.savings, *([total(answer.savings)] if len(answer.savings) > 1 else [])]
    rows = [
        (saving.run, saving.paper_tokens, saving.our_tokens, saving.ratio) for saving in savings
    ]
    heads = ("run", "paper_tokens", "capture_tokens", "ratio")
    frame = pl.DataFrame(rows, schema=heads, orient="row")
    table = table_of(
        "tokens",
        "Tokens run for this grid",
        frame,
        {},
        labels={"paper_tokens": "paper's procedure", "capture_tokens": "one capture"},
        key=("run",),
        code="sensitivity(STORE, settings).savings",
    )
    return Section(
        "tokens",
        "Tokens run for this grid",
        "The published code runs the model for each number of prompts, context and prefix (its "
        "first version twice); a capture once per prompt.",
        tables=(table,),
        brief=False,
    )


def _agreement(answer: Sensitivity) -> Section:
    """Rank agreement of settings that differ in one respect from the fullest setting."""
    title = "Rank agreement of the models' order"
    known = [c for c in answer.compared if c.agreement.kendall_tau is not None]
    if not known:
        reasons = sorted({c.agreement.reason or "" for c in answer.compared})
        why = "; ".join(reasons) or "one setting only: nothing to compare it with"
        return Section("agreement", title, notes=((f"Rank agreement: none. {why}.",),))
    models = max(c.agreement.n_models for c in answer.compared)
    chance = (
        f"Of {models} models, chance alone puts two orders alike once in {math.factorial(models)}."
    )
    each = [
        {
            "change": _change(c),
            "metric": PROFILE[c.metric].heading,
            "n_models": c.agreement.n_models,
            "kendall_tau": c.agreement.kendall_tau,
            "spearman_rho": c.agreement.spearman_rho,
            "flags": list(c.flags),
        }
        for c in _around(answer.compared)
    ]
    return Section(
        "agreement",
        title,
        "Kendall's tau-b; 1: the same order.",
        more=f"The rest as in {fullest(answer.compared)}, or as the profile aggregates. {HEADINGS}",
        tables=(
            _agreement_table(answer.compared),
            table_of(
                "agreement-all",
                "Every two settings that differ in one respect",
                pl.DataFrame(each),
                {},
                styles={"kendall_tau": "hundredths", "spearman_rho": "hundredths"},
                labels={"n_models": "models"},
                key=("change", "metric"),
                code="sensitivity(STORE, settings).agreement",
                folded=True,
                brief=False,
            ),
        ),
        notes=((chance,),) if models <= _FEW else (),
    )


def fullest(compared: Iterable[Compared]) -> Setting:
    """The setting with the most models, then prompts, context, depth."""
    n_models: dict[Setting, int] = {}
    for comparison in compared:
        for setting in (comparison.a, comparison.b):
            if comparison.metric == "participation_ratio" and setting.aggregation == "max":
                n_models[setting] = max(n_models.get(setting, 0), comparison.agreement.n_models)
    deepest_last = reversed(list(n_models))
    return max(deepest_last, key=lambda s: (n_models[s], s.n_prompts, s.context))


def _around(compared: Iterable[Compared]) -> Iterator[Compared]:
    """Pairs that differ in one respect, and agree with the fullest setting in every other."""
    compared = list(compared)
    here = fullest(compared) if compared else None
    for comparison in compared:
        if len(comparison.differ) == 1:
            free = {"aggregation", *comparison.differ}
            rest = [field for field in Setting._fields if field not in free]
            if all(getattr(comparison.a, field) == getattr(here, field) for field in rest):
                yield comparison


def _change(comparison: Compared) -> str:
    """`context 50 | 100`: the respect in which two settings differ."""
    (field,) = comparison.differ
    return f"{_FIELDS[field]} {getattr(comparison.a, field)} | {getattr(comparison.b, field)}"


def _agreement_table(compared: Iterable[Compared]) -> Table:
    """A row for each change, with tau of each number."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for comparison in _around(compared):
        if comparison.metric not in _SHOWN:
            continue
        change, models = _change(comparison), comparison.agreement.n_models
        empty = {"change": change, "n_models": models, "flags": []} | dict.fromkeys(_SHOWN)
        row = rows.setdefault((comparison.differ[0], change), empty)
        row[comparison.metric] = comparison.agreement.kendall_tau
        row["flags"] = sorted({*row["flags"], *comparison.flags})
        row["n_models"] = min(row["n_models"], models)
    order = list(_FIELDS)
    chosen = sorted(rows.items(), key=lambda item: order.index(item[0][0]))
    frame = pl.DataFrame(
        [row for _, row in chosen],
        schema_overrides={**dict.fromkeys(_SHOWN, pl.Float64), "flags": pl.List(pl.String)},
    )
    return table_of(
        "agreement",
        "Where one setting changes",
        frame,
        {},
        first=("change", "n_models", *_SHOWN, "flags"),
        styles=dict.fromkeys(_SHOWN, "hundredths"),
        labels={**_LABELS, "n_models": "models"},
        key=("change",),
        code="sensitivity(STORE, settings).agreement",
        brief=frame.height <= 2 * _ROWS,
    )
