"""Durations, counts, sizes and long lines as a command prints them."""

import textwrap
from typing import Final

DAY: Final = 86400
HOUR: Final = 3600
MINUTE: Final = 60


def duration(seconds: float) -> str:
    """Two units at most.

    >>> [duration(s) for s in (0.4, 75, 3700, 180000)]
    ['0 s', '1 min 15 s', '1 h 1 min', '2 d 2 h']
    """
    whole = max(0, round(seconds))
    for unit, name, smaller, small in (
        (DAY, "d", HOUR, "h"),
        (HOUR, "h", MINUTE, "min"),
        (MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {small}"
    return f"{whole} s"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """A number of things. plural: by default the singular with an s.

    >>> counted(1, "site"), counted(2, "site"), counted(2, "part has", "parts have")
    ('1 site', '2 sites', '2 parts have')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def short_count(count: int) -> str:
    """Three digits and a letter.

    >>> [short_count(n) for n in (950, 24000, 1_234_567, 115_600_000_000)]
    ['950', '24.0k', '1.23M', '116G']
    """
    value, letter = float(count), ""
    for letter in ("", "k", "M", "G", "T"):  # noqa: B007
        if value < 999.5:
            break
        value /= 1000
    return f"{value:.3g}" if not letter else f"{value:#.3g}".rstrip(".") + letter


def short_bytes(count: int) -> str:
    """The same in bytes.

    >>> short_bytes(1_234_567_890)
    '1.23 GB'
    """
    text = short_count(count)
    return f"{text} B" if text[-1].isdigit() else f"{text[:-1]} {text[-1]}B"


def fold(line: str, indent: str, width: int = 80) -> list[str]:
    """A line in lines of `width` columns where its words allow, with `indent` from the second on.

    >>> fold("on disk: 9 MB, 9 MB, 1.5 GB free", "  ", 24)
    ['on disk: 9 MB, 9 MB, 1.5', '  GB free']
    """
    if len(line) <= width:
        return [line]
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
