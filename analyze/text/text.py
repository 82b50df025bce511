"""What every table on a terminal is made of, numbers, errors, flags, 80 columns; CSV and JSON."""

import io
import json
import re
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from lpp.analyze.metrics.registry import PROFILE
from lpp.analyze.tables.flags import MEANING
from lpp.store.commands.escaping import escape

if TYPE_CHECKING:
    from rich.table import Table

WIDTH: Final = 80
SIDE_BY_SIDE: Final = 3
"""Up to so many runs each have a column; more have a row."""

Row = Mapping[str, Any]

HEADS: Final = {
    name: one.short for name, one in PROFILE.items() if name not in ("entropy", "entropy_floor")
}
"""Numbers of a profile where there is little room."""

HEADS_MEANING: Final = "H: entropy; PR: participation ratio; ER: effective rank; r: min(N, d)."

_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_PLAIN: Final = {"± ": "+-", " ±": "+-", "±": "+-", "─": "-", "█": "#"} | dict(
    zip(_EIGHTHS[1:], "   ####", strict=True)
)
"""In order: what stands for a character in ASCII."""


def number(value: float | None) -> str:
    """Four significant digits; a dash for a number that is not there.

    >>> [number(value) for value in (0.012345, 23.456, 1234.5, 0.0000373, None)]
    ['0.01235', '23.46', '1234', '3.73e-05', '-']
    """
    return "-" if value is None else f"{value:.4g}"


def error(stderr: float | None, mark: str = "± ") -> str:
    """Two digits of a standard error; nothing where there is none.

    >>> error(0.4142), error(None)
    ('± 0.41', '')
    """
    return "" if stderr is None else f"{mark}{stderr:.2g}"


def value_text(row: Row, metric: str, *, parted_by: str = " ") -> str:
    """A number of a profile, its error, and in brackets the prefix it came from.

    parted_by: what stands before the error; a line break makes the column narrow.

    >>> value_text({"x": 0.25, "x_stderr": 0.01, "x_prefix": 40}, "x")
    '0.25 ± 0.01 (40)'
    """
    prefix = row[f"{metric}_prefix"]
    rest = (error(row[f"{metric}_stderr"]), "" if prefix is None else f"({prefix})")
    beside = " ".join(part for part in rest if part)
    return f"{number(row[metric])}{parted_by}{beside}" if beside else number(row[metric])


def bar(value: float | None, most: float, width: int) -> str:
    """A bar of `width` columns for `most`, in eighths of a column.

    >>> bar(5.0, 8.0, 2)
    '█▎'
    """
    if value is None or most <= 0:
        return ""
    eighths = round(8 * width * value / most)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def printable(text: str, encoding: str | None) -> str:
    """`text`, or ASCII of the same width where `encoding` lacks a character of it.

    >>> print(printable("PR  10 ± 0.5  ██▊▏", "ascii"))
    PR  10 +-0.5  ###
    """
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        for unicode, ascii_ in _PLAIN.items():
            text = text.replace(unicode, ascii_)
        text = "\n".join(line.rstrip() for line in text.split("\n"))
        return text.encode("ascii", "replace").decode("ascii")
    return text


def token(text: str) -> str:
    r"""A token so that all of it can be seen.

    >>> token(" the"), token("\n\t"), token("\x1b[31m")
    ('␣the', '\\n\\t', '\\x1b[31m')
    """
    for character, shown in ((" ", "␣"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        text = text.replace(character, shown)
    return escape(text, keep="")


def broken(name: str, width: int = 20) -> str:
    """The name or id of a run in lines, broken after a hyphen or at a space.

    A hash stays whole. A longer word is broken anywhere.

    >>> print(broken("smollm2-135m-4-bits-96cb1169"))
    smollm2-135m-4-bits-
    96cb1169
    >>> print(broken("SmolLM2-135M-Instruct Q4_1"))
    SmolLM2-135M-
    Instruct Q4_1
    """
    lines = [""]
    for part in re.findall(rf"[^- ]{{1,{width - 1}}}[- ]?|[- ]", name):
        if lines[-1] and len(lines[-1]) + len(part.rstrip(" ")) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip(" ") for line in lines)


def numbered(flags: Collection[str]) -> dict[str, int]:
    """The number that stands for each of `flags` where there is no room for its name.

    >>> numbered(["template", "collapsed", "template"])
    {'collapsed': 1, 'template': 2}
    """
    return {flag: place for place, flag in enumerate(sorted(set(flags)), start=1)}


def explained(numbers: Mapping[str, int]) -> Iterator[str]:
    """A line or two on each flag in sight."""
    for flag, place in numbers.items():
        text = f"[{place}] {flag}: {MEANING[flag]}."
        yield from textwrap.wrap(text, WIDTH, subsequent_indent="    ")


def marks(flags: Collection[str], numbers: Mapping[str, int]) -> str:
    """The numbers of `flags` as superscripts, to stand behind a value.

    >>> marks(["template"], {"collapsed": 1, "template": 2})
    '²'
    """
    return "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for flag in flags for digit in str(numbers[flag]))


def plain_table() -> "Table":
    """An empty table in the style of every command."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))


def rendered(table: "Table") -> str:
    """`table` in `WIDTH` columns, as text without control sequences."""
    from rich.console import Console

    console = Console(
        file=io.StringIO(), width=WIDTH, force_terminal=False, markup=False, highlight=False
    )
    with console.capture() as capture:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def wrapped(text: str, indent: str = "") -> str:
    """`text` as lines within `WIDTH` columns, after `indent`; those after the first have two more
    spaces.
    """
    further = f"{indent}  "
    filled = textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=further,
        break_on_hyphens=False,
    )
    return f"{filled}\n"


def as_csv(frame: pl.DataFrame, *, parted_by: str = " ") -> str:
    """One line per row; `parted_by` parts the members of a list."""
    lists = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.List)]
    texts = pl.col(lists).cast(pl.List(pl.String)).list.join(parted_by)
    return frame.with_columns(texts).write_csv()


def as_json(document: Any) -> str:
    """A document, or a frame as a list of objects, one per row."""
    rows = document.to_dicts() if isinstance(document, pl.DataFrame) else document
    return json.dumps(rows, indent=2, allow_nan=False) + "\n"


FORMATS: Final[Mapping[str, Callable[[pl.DataFrame], str]]] = {"csv": as_csv, "json": as_json}
"""Formats that hold every column."""
