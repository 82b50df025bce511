"""What every table on a terminal is made of, numbers, errors, flags, 80 columns; CSV and JSON."""

import io
import json
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from lpp.analyze.tables.flags import MEANING
from lpp.store.commands.escaping import escape

if TYPE_CHECKING:
    from rich.table import Table

WIDTH: Final = 80
Row = Mapping[str, Any]

_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


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


def bar(value: float | None, most: float, width: int) -> str:
    """A bar of `width` columns for `most`, in eighths of a column.

    >>> bar(5.0, 8.0, 2)
    '█▎'
    """
    if value is None or most <= 0:
        return ""
    eighths = round(8 * width * value / most)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


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


def as_json(document: Any) -> str:
    """A document, or a frame as a list of objects, one per row."""
    rows = document.to_dicts() if isinstance(document, pl.DataFrame) else document
    return json.dumps(rows, indent=2, allow_nan=False) + "\n"
