"""Tables of a document that are made of results: they lie between marks, the words are written."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

_TABLE: Final = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """The document with every marked table made again. KeyError for one that `tables` lacks.

    >>> filled("<!-- table: sums -->\\nold\\n<!-- end -->", {"sums": lambda: "new"})
    '<!-- table: sums -->\\nnew\\n<!-- end -->'
    """
    return _TABLE.sub(lambda mark: f"{mark[1]}{tables[mark[2]]()}\n{mark[3]}", text)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
