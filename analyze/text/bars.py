"""Profiles in characters: a section per number, a line per run, its value, error and bar.

Bars begin at zero and share one scale within a section, so that lengths compare as values do. A
length is told by the value beside it, and nothing by colour.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Final

from lpp.analyze.text.names import NAMELESS, Names
from lpp.analyze.text.text import Row, bar, broken, value_text

BAR: Final = 22
"""Columns of the longest bar."""

_LABEL: Final = 30
_VALUE: Final = 22
_CELL: Final = _VALUE + 2 + BAR
"""Columns beside the label."""


def bar_sections(
    rows: Sequence[Row], heads: Mapping[str, str], names: Names = NAMELESS
) -> Iterator[str]:
    """Lines that compare `rows`, profiles of one context and number of prompts.

    heads: what stands above each metric, in order of the sections. names: of the runs.
    """
    for metric, head in heads.items():
        most = max((row[metric] for row in rows if row[metric] is not None), default=0.0)
        yield f"\n{head}\n"
        texts = [(value_text(row, metric), bar(row[metric], most, BAR)) for row in rows]
        yield from _lines(rows, [f"{text:>{_VALUE}}  {drawn}" for text, drawn in texts], names)
    if len({row["prompt_set"] for row in rows}) > 1:
        yield "\nprompt set\n"
        yield from _lines(rows, [row["prompt_set"][:8] for row in rows], names)
    if any(row["flags"] for row in rows):
        yield "\nflags\n"
        words = [", ".join(row["flags"]) or "none" for row in rows]
        yield from _lines(rows, ["\n".join(textwrap.wrap(text, _CELL)) for text in words], names)
    yield "\n"


def _lines(rows: Sequence[Row], cells: Sequence[str], names: Names) -> Iterator[str]:
    """A line per row, its cell behind its label: the run, or with several sites the site."""
    several = len({row["site"] for row in rows}) > 1
    before = None
    for row, cell in zip(rows, cells, strict=True):
        name = names.get(row["run"], row["run"])
        if several and row["run"] != before:
            yield f"  {name}\n"
            before = row["run"]
        labels = [f"  {row['site']}"] if several else broken(name, _LABEL).split("\n")
        for label, text in zip_longest(labels, cell.split("\n"), fillvalue=""):
            yield f"  {label:<{_LABEL}} {text}".rstrip() + "\n"
