"""The sensitivity of a store as text: tables at 80 columns, CSV, JSON."""

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Final

import polars as pl

from lpp.analyze.studies.agreement import Compared, Setting
from lpp.analyze.studies.grid import profile_rows
from lpp.analyze.studies.saving import Saving, total
from lpp.analyze.studies.sensitivity import Sensitivity
from lpp.analyze.text import text
from lpp.analyze.text.names import NAMELESS, Names, legend, with_names
from lpp.analyze.text.text import (
    HEADS,
    Row,
    error,
    explained,
    marks,
    number,
    numbered,
    plain_table,
    rendered,
    wrapped,
)

_FIELDS: Final = {
    "context": "context",
    "n_prompts": "prompts",
    "corpus": "corpus",
    "site": "site",
    "aggregation": "by",
}
_FEW: Final = 5
"""Up to so many models, how often chance alone gives full agreement is worth saying."""


def as_json(found: Sensitivity, names: Names = NAMELESS) -> str:
    """Everything: `values`, `agreement`, `tokens`, `left_out`."""
    document = {
        "values": with_names(found.values, names).to_dicts(),
        "agreement": found.agreement.to_dicts(),
        "tokens": [
            {**asdict(saving), "ratio": saving.ratio, "name": names.get(saving.run)}
            for saving in (*found.savings, total(found.savings))
        ],
        "left_out": list(found.left_out),
    }
    return text.as_json(document)


def grid_text(found: Sensitivity, names: Names = NAMELESS) -> str:
    """The profiles of each run and site, a row per context and number of prompts.

    names: of the runs; the last lines say which run each name stands for.
    """
    out = io.StringIO()
    rows = profile_rows(found.values).filter(pl.col("metric").is_in([*HEADS]))
    numbers = numbered([flag for flags in rows["flags"] for flag in flags])
    print("\nEntropy: its minimum over prefixes; ranks: their maximum.", file=out)
    for group in rows.partition_by("run", "site", maintain_order=True):
        run, corpus, site = (group.item(0, name) for name in ("run", "corpus", "site"))
        out.write("\n" + wrapped(f"{names.get(run, run)} on {corpus} at {site}"))
        out.write(_grid_table(group, numbers))
    out.write(legend(names, rows["run"]))
    out.writelines(f"{line}\n" for line in explained(numbers))
    if found.left_out:
        out.write("\nLeft out:\n" + "".join(wrapped(f"- {line}") for line in found.left_out))
    return out.getvalue()


def _grid_table(group: pl.DataFrame, numbers: Mapping[str, int]) -> str:
    made = plain_table()
    for head in ("context", "prompts", *HEADS.values()):
        made.add_column(head, justify="right", no_wrap=True)
    sure = group["stderr"].is_not_null().any()
    for cell in group.partition_by("context", "n_prompts", maintain_order=True):
        by_metric = {row["metric"]: row for row in cell.iter_rows(named=True)}
        made.add_row(
            *(str(cell.item(0, name)) for name in ("context", "n_prompts")),
            *(_number(by_metric[metric], numbers, sure=sure) for metric in HEADS),
        )
    return rendered(made)


def _number(row: Row, numbers: Mapping[str, int], *, sure: bool) -> str:
    """A number with the marks of its flags, its error below it."""
    mark = marks(row["flags"], numbers)
    value = number(row["value"]) + mark
    return f"{value}\n{error(row['stderr'], '±')}{' ' * len(mark)}" if sure else value


def agreement_text(found: Sensitivity) -> str:
    """Rank agreement of settings that differ in one respect from the fullest setting."""
    models = max((one.agreement.n_models for one in found.compared), default=0)
    if all(one.agreement.kendall_tau is None for one in found.compared):
        reasons = sorted({one.agreement.reason or "" for one in found.compared})
        why = "; ".join(reasons) or "one setting only: nothing to compare it with"
        return "\n" + wrapped(f"Rank agreement: none. {why}.")
    here = fullest(found.compared)
    out = io.StringIO()
    print("\nRank agreement of the models' order: Kendall tau-b, Spearman rho.", file=out)
    out.write(wrapped(f"The rest as in: {here}, or as the profile aggregates."))
    out.write(_agreement_table(found.compared, here))
    if models <= _FEW:
        out.write(
            wrapped(
                f"Of {models} models, chance alone puts two orders alike once in "
                f"{math.factorial(models)}."
            )
        )
    flags = sorted({flag for one in _around(found.compared, here) for flag in one.flags})
    if flags:
        out.write(wrapped(f"Some of these numbers carry flags: {', '.join(flags)}."))
    return out.getvalue()


def fullest(compared: Iterable[Compared]) -> Setting:
    """The setting with the most models, then prompts, context, depth."""
    every: dict[Setting, int] = {}
    for one in compared:
        for setting in (one.a, one.b):
            if one.metric == "participation_ratio" and setting.aggregation == "max":
                every[setting] = max(every.get(setting, 0), one.agreement.n_models)
    deepest_last = reversed(list(every))
    return max(deepest_last, key=lambda s: (every[s], s.n_prompts, s.context))


def _around(compared: Iterable[Compared], here: Setting) -> Iterator[Compared]:
    """Those that differ in one respect, and agree with `here` in every other."""
    for one in compared:
        if len(one.differ) == 1:
            free = {"aggregation", *one.differ}
            rest = [field for field in Setting._fields if field not in free]
            if all(getattr(one.a, field) == getattr(here, field) for field in rest):
                yield one


def _agreement_table(compared: Sequence[Compared], here: Setting) -> str:
    made = plain_table()
    made.add_column("", overflow="fold")
    made.add_column("models", justify="right", no_wrap=True)
    made.add_column("", no_wrap=True)
    for head in HEADS.values():
        made.add_column(head, justify="right", no_wrap=True)
    rows: dict[tuple[str, str], dict[str, Compared]] = {}
    for one in _around(compared, here):
        (field,) = one.differ
        ends = " | ".join(str(getattr(setting, field)) for setting in (one.a, one.b))
        rows.setdefault((field, ends), {})[one.metric] = one
    for field, title in _FIELDS.items():
        for (of_field, ends), by_metric in rows.items():
            if of_field == field:
                shown = [by_metric[m].agreement if m in by_metric else None for m in HEADS]
                fewest = min(one.n_models for one in shown if one is not None)
                cells = [
                    "-\n-"
                    if one is None or one.kendall_tau is None
                    else f"{one.kendall_tau:.2f}\n{one.spearman_rho:.2f}"
                    for one in shown
                ]
                made.add_row(f"{title} {ends}", str(fewest), "tau\nrho", *cells)
    return rendered(made)


def tokens_text(savings: Sequence[Saving], names: Names = NAMELESS) -> str:
    """What the grid costs in tokens, both ways; names: of the runs."""
    out = io.StringIO()
    made = plain_table()
    made.add_column("tokens run for this grid", overflow="fold")
    for head in ("paper's procedure", "one capture", "ratio"):
        made.add_column(head, justify="right", no_wrap=True)
    for saving in (*savings, *([total(savings)] if len(savings) > 1 else [])):
        ratio = f"{saving.ratio:.1f}"
        made.add_row(
            names.get(saving.run, saving.run),
            f"{saving.paper_tokens:,}",
            f"{saving.our_tokens:,}",
            ratio,
        )
    out.write(rendered(made))
    out.write(
        wrapped(
            "The published code runs the model for each number of prompts, context and prefix "
            "(its first version twice); a capture once per prompt."
        )
    )
    return out.getvalue()
