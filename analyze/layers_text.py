"""Layer-wise ranks as text: a table with bars at 80 columns, CSV, JSON."""

import io
import json
from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from lpp.analyze.flags import MEANING
from lpp.analyze.layers import Layers
from lpp.analyze.text import number, plain_table, rendered, wrapped

BAR: Final = 12
"""Columns of the longest bar."""

_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_LABELS: Final = {"participation_ratio": "PR", "effective_rank": "ER"}


def bar(value: float | None, most: float, width: int = BAR) -> str:
    """A bar of `width` columns for `most`, in eighths of a column.

    >>> bar(5.0, 8.0, 2)
    '█▎'
    """
    if value is None or most <= 0:
        return ""
    eighths = round(8 * width * value / most)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def as_json(found: Layers) -> str:
    """Everything: `layers`, `hourglass`, `left_out`."""
    document = {
        "layers": found.layers.to_dicts(),
        "hourglass": found.scores.to_dicts(),
        "left_out": list(found.left_out),
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def as_table(found: Layers) -> str:
    """A table of each run: a row per site, with a bar for the effective rank."""
    out = io.StringIO()
    flags = found.layers["flags"].explode(empty_as_null=False).drop_nulls().unique().sort()
    marks = {flag: chr(ord("a") + place) for place, flag in enumerate(flags)}
    keys = ("run", "context", "n_prompts")
    for (run, context, size), rows in found.layers.group_by(keys, maintain_order=True):
        out.write(f"\n{run}\ncontext {context}, {size} prompts\n")
        out.write(_sites(rows, marks))
        mine = found.scores.filter(run=run, context=context, n_prompts=size)
        for row in mine.iter_rows(named=True):
            out.write(wrapped(_score(row)))
    if marks:
        out.write("\n")
    for flag, letter in marks.items():
        out.write(wrapped(f"{letter} {flag}: {MEANING[flag]}."))
    if found.left_out:
        out.write("\nLeft out:\n" + "".join(wrapped(f"- {line}") for line in found.left_out))
    return out.getvalue()


def _sites(rows: pl.DataFrame, marks: Mapping[str, str]) -> str:
    table = plain_table()
    table.add_column("site", no_wrap=True)
    for head in ("depth", "PR", "PR / r", "ER", "ER / r", "top"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("ER", no_wrap=True, width=BAR)
    table.add_column("", no_wrap=True)
    widest = max((value for value in rows["effective_rank"] if value is not None), default=0.0)
    for row in rows.iter_rows(named=True):
        table.add_row(
            row["site"],
            f"{row['relative_depth']:.2f}",
            *(
                number(row[f"{rank}{form}"], digits)
                for rank in _LABELS
                for form, digits in (("", 4), ("_norm", 3))
            ),
            "-" if row["top_share"] is None else f"{row['top_share']:.3f}",
            bar(row["effective_rank"], widest),
            "".join(marks[flag] for flag in row["flags"]),
        )
    return rendered(table)


def _score(row: Mapping[str, Any]) -> str:
    """One line on an hourglass score."""
    label = f"Hourglass ({_LABELS[row['metric']]}): "
    left = f"{row['n_layers']} layers, {row['n_collapsed']} collapsed left out"
    if row["n_missing"]:
        left += f", {row['n_missing']} without a rank"
    if row["score"] is None:
        return f"{label}none. {row['reason']} ({left})."
    ends = ", ".join(f"{name} {number(row[name])}" for name in ("first", "middle", "last"))
    return f"{label}{row['score']:+.2f} from thirds of {ends} dimensions ({left})."
