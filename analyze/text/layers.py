"""Layer-wise ranks as text: a table with bars at 80 columns, JSON."""

import io
from collections.abc import Iterator, Mapping
from typing import Any, Final

import polars as pl

from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.studies.layers import RANKS, SETTING, SURE, Layers, after_sinks
from lpp.analyze.text import text
from lpp.analyze.text.names import NAMELESS, Names, legend, with_names
from lpp.analyze.text.text import (
    bar,
    error,
    explained,
    marks,
    number,
    numbered,
    plain_table,
    rendered,
    wrapped,
)

BAR: Final = 8
"""Columns of the longest bar."""

BARS: Final = "zscore_effective_rank"
"""What the bars show: a collapse leaves nothing of the plain ranks to see."""

_MEANINGS: Final = (
    "top: share of the first eigenvalue. zPR, zER: of z-scored columns. rPR, rER: the five "
    "columns of highest variance clipped. Shares of min(N, d): --format csv."
)


def as_json(found: Layers, names: Names = NAMELESS) -> str:
    """Everything: `layers`, `hourglass`, `left_out`."""
    document = {
        "layers": with_names(found.layers, names).to_dicts(),
        "hourglass": with_names(found.scores, names).to_dicts(),
        "left_out": list(found.left_out),
    }
    return text.as_json(document)


def as_table(found: Layers, names: Names = NAMELESS) -> str:
    """A table of each curve: a row per site, with a bar for `BARS`; a sentence on sinks.

    names: of the runs; the last lines say which run each name stands for.
    """
    out = io.StringIO()
    numbers = numbered([flag for flags in found.layers["flags"] for flag in flags])
    layers = found.layers.sort(SETTING, maintain_order=True)
    for key, rows in layers.group_by(SETTING, maintain_order=True):
        run, context, size, first = key
        start = f", positions from {first} on" if first else ""
        out.write(f"\n{names.get(run, run)}\ncontext {context}, {size} prompts{start}, dimensions")
        bounds = rows["rank_bound"].unique().sort()
        out.write(f" of min(N, d) = {' to '.join(map(str, bounds))}\n")
        out.write(_sites(rows, numbers))
        setting = dict(zip(SETTING, key, strict=True))
        out.writelines(map(wrapped, _scores(found.scores.filter(**setting))))
        if not first and rows["n_sinks"].max():
            others = {name: setting[name] for name in SETTING if name != "first_position"}
            out.write(wrapped(_sinks(rows, found.layers.filter(**others))))
    out.write("\n" + legend(names, layers["run"]) + wrapped(_MEANINGS))
    out.writelines(f"{line}\n" for line in explained(numbers))
    if found.left_out:
        out.write("\nLeft out:\n" + "".join(wrapped(f"- {line}") for line in found.left_out))
    return out.getvalue()


def _sinks(rows: pl.DataFrame, curves: pl.DataFrame) -> str:
    """What attention sinks make of `rows`, a curve of all positions; curves: it and the others."""
    some = rows.filter(pl.col("n_sinks") > 0)
    end = max(rows["sink_end"].drop_nulls(), default=0)
    text = (
        f"{len(some)} of {len(rows)} layers hold attention sinks at the first "
        f"{'position' if end == 1 else f'{end} positions'}: tokens whose states are far larger "
        f"than any other's, so that the ranks there are mostly those of these tokens."
    )
    first = after_sinks(rows)
    after = curves.filter(pl.col("site").is_in(some["site"].to_list()), first_position=first)
    if after.is_empty():
        return text
    with_them, without = (_span(part["participation_ratio"]) for part in (some, after))
    return (
        f"{text} Without the first {first} positions the PR of these layers is {without} instead "
        f"of {with_them}."
    )


def _span(values: pl.Series) -> str:
    """The least and the largest of some numbers."""
    there = values.drop_nulls().to_list() or [None]
    return " to ".join(dict.fromkeys((number(min(there)), number(max(there)))))


def _sites(rows: pl.DataFrame, numbers: Mapping[str, int]) -> str:
    made = plain_table()
    made.collapse_padding = True
    made.add_column("site", no_wrap=True)
    for head in ("depth", *(METRICS[name].short for name in RANKS), "top"):
        made.add_column(head, justify="right", no_wrap=True)
    made.add_column(METRICS[BARS].short, no_wrap=True, width=BAR)
    made.add_column("", no_wrap=True)
    widest = max((value for value in rows[BARS] if value is not None), default=0.0)
    sure = any(rows[f"{name}_stderr"].is_not_null().any() for name in SURE)
    for row in rows.iter_rows(named=True):
        made.add_row(
            row["site"],
            f"{row['relative_depth']:.2f}",
            *(_cell(row, name, sure=sure) for name in RANKS),
            "-" if row["top_share"] is None else f"{row['top_share']:.2f}",
            bar(row[BARS], widest, BAR),
            marks(row["flags"], numbers),
        )
    return rendered(made)


def _cell(row: Mapping[str, Any], name: str, *, sure: bool) -> str:
    """A rank, its error below it."""
    value = number(row[name])
    return f"{value}\n{error(row.get(f'{name}_stderr'), '±')}" if sure else value


def _scores(scores: pl.DataFrame) -> Iterator[str]:
    """A line on each hourglass score, and one on all ranks that lack one for the same reason."""
    alike = ("reason", "n_layers", "n_collapsed", "n_missing")
    for _, some in scores.filter(pl.col("score").is_null()).group_by(alike, maintain_order=True):
        row = some.row(0, named=True)
        labels = ", ".join(METRICS[name].short for name in some["metric"])
        yield f"No hourglass of {labels}: {row['reason']} ({_left(row)})."
    for row in scores.filter(pl.col("score").is_not_null()).iter_rows(named=True):
        ends = ", ".join(f"{name} {number(row[name])}" for name in ("first", "middle", "last"))
        label, score = METRICS[row["metric"]].short, row["score"]
        yield f"Hourglass of {label}: {score:+.2f}, thirds: {ends} ({_left(row)})."


def _left(row: Mapping[str, Any]) -> str:
    """How many layers a score is of, and how many it is not of."""
    left = f"{row['n_layers']} layers, {row['n_collapsed']} collapsed left out"
    return left + (f", {row['n_missing']} without a rank" if row["n_missing"] else "")
