"""Numbers and sentences of a page, the same in every format."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final, Literal, TypeAlias

MISSING: Final = "–"
"""Shown in place of a missing number."""


CERTAIN_DIGITS: Final = 4
"""Most digits behind the point that tell a share from 1."""

_FOUR: Final = Context(prec=4, rounding=ROUND_HALF_UP)
_TWO: Final = Context(prec=2, rounding=ROUND_HALF_UP)
"""Significant digits of numbers, and of their errors."""


@dataclass(frozen=True, slots=True)
class Ref:
    """Words that link to the query they came from."""

    text: str
    query: str


@dataclass(frozen=True, slots=True)
class Code:
    """A run id or a command, shown unchanged as code."""

    text: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run, shown by its letter and name."""

    text: str
    """Its id."""
    short: bool = False
    """Whether its letter alone is shown."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag, linked to its meaning."""

    flag: str

    @property
    def text(self) -> str:
        """Its name."""
        return self.flag


Part: TypeAlias = str | Ref | Code | Run | Flag
Sentence: TypeAlias = tuple[Part, ...]


def plain(sentence: Sentence) -> str:
    """The words alone.

    >>> plain(("Rank ", Ref("3", "profiles"), " of ", Code("a")))
    'Rank 3 of a'
    """
    return "".join(part if isinstance(part, str) else part.text for part in sentence)


def run(run_id: str, *, short: bool = False) -> str:
    """A run inside a text of `say`."""
    return f"\ue000{'r' if short else 'R'}{run_id}\ue001"


def ref(text: str, query: str) -> str:
    """Words of a text of `say` that link to the table they came from."""
    return f"\ue000#{query}\ue002{text}\ue001"


def code(text: str) -> str:
    """A run id or a command inside a text of `say`, shown unchanged."""
    return f"\ue000!{text}\ue001"


def flag(name: str) -> str:
    """A flag inside a text of `say`, linked to its meaning."""
    return f"\ue000^{name}\ue001"


def say(text: str) -> Sentence:
    """A text with marks as a sentence.

    >>> plain(say(f"{run('b')} moved by {ref('3', 'drift')}."))
    'b moved by 3.'
    """
    parts: list[Part] = []
    for k, part in enumerate(re.split("\ue000(.*?)\ue001", text, flags=re.DOTALL)):
        kind, rest = part[:1], part[1:]
        if k % 2 == 0:
            parts += [part] if part else []
        elif kind == "#":
            query, _, shown = rest.partition("\ue002")
            parts.append(Ref(shown, query))
        elif kind in "!^":
            parts.append(Code(rest) if kind == "!" else Flag(rest))
        else:
            parts.append(Run(rest, short=kind == "r"))
    return tuple(parts)


def number(value: float | bool | None) -> str:
    """Four significant digits; whole numbers in full. page.js shows the same.

    Ties are rounded away from 0, as JavaScript does.

    >>> [number(v) for v in (134515008, 0.012346, 23.456, 1234.5, 0.0000373, 0.0, -0.5, None)]
    ['134,515,008', '0.01235', '23.46', '1,235', '3.73e-5', '0', '-0.5', '–']
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if 1000 <= size < 1e9:
        return f"{fixed(value, 0):,}"
    rounded = _FOUR.create_decimal_from_float(value or 0.0).normalize()
    if size and not 1e-3 <= size < 1e9:
        mantissa, _, exponent = f"{rounded:e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{rounded:f}"


def fixed(value: float, digits: int) -> Decimal:
    """`value` with `digits` behind the point, ties away from 0.

    >>> str(fixed(0.125, 2)), str(fixed(-2.5, 0))
    ('0.13', '-3')
    """
    return Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)


def interval(low: float | None, high: float | None) -> str:
    """An interval after its number: ` [0.19, 0.25]`, or ` (no interval)`.

    >>> interval(0.19, 0.25), interval(None, None)
    (' [0.19, 0.25]', ' (no interval)')
    """
    if low is None or high is None or not math.isfinite(high - low):
        return " (no interval)"
    return f" [{number(low)}, {number(high)}]"


def hundredths(value: float | None) -> str:
    """Two digits behind the point: of shares, AUROCs, coefficients. What is below 1 is not written
    as 1.00, which would claim certainty.

    >>> [hundredths(value) for value in (0.514, -1, 0.9986, 0.99999, None)]
    ['0.51', '-1.00', '0.999', '>0.9999', '–']
    """
    if value is None or not math.isfinite(value):
        return MISSING
    return _below_one(value, "-" if value < 0 else "")


def signed(value: float | None) -> str:
    """A difference: two digits behind the point, after its sign.

    >>> signed(-0.104), signed(0.0)
    ('-0.10', '+0.00')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    return _below_one(value, "-" if value < 0 else "+")


def _below_one(value: float, sign: str) -> str:
    """Two digits behind the point, or as many as tell `value` from 1 and from -1."""
    size = abs(value)
    for digits in range(2, CERTAIN_DIGITS + 1):
        text = fixed(size, digits)
        if size >= 1 or text < 1:
            return f"{sign}{text}"
    return f"{'<' if value < 0 else '>'}{sign}0.{'9' * CERTAIN_DIGITS}"


def ends(
    low: float | None, high: float | None, write: Callable[[float | None], str] = hundredths
) -> str:
    """An interval, whose ends have no `+`; nothing where there is none.

    >>> ends(0.804, 0.893), ends(-0.1, 0.2, signed), ends(None, None)
    ('[0.80, 0.89]', '[-0.10, 0.20]', '')
    """
    write = hundredths if write is signed else write
    return "" if low is None or high is None else f"[{write(low)}, {write(high)}]"


def with_interval(value: float, low: float | None, high: float | None) -> str:
    """A value and its interval.

    >>> with_interval(0.8541, 0.804, 0.893), with_interval(1.0, None, None)
    ('0.85 [0.80, 0.89]', '1.00')
    """
    return f"{hundredths(value)} {ends(low, high)}".rstrip()


def rough(value: float | None) -> str:
    """Two significant digits, for a sentence.

    >>> rough(0.2213), rough(9.88), rough(476.3), rough(None)
    ('0.22', '9.9', '480', '–')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    return number(float(f"{value:.2g}"))


def rough_percent(share: float) -> str:
    """A share of one as percent, for a sentence; below 1 it is not written as 100 %.

    >>> rough_percent(0.4483), rough_percent(0.9968), rough_percent(1.0)
    ('45 %', '99.68 %', '100 %')
    """
    text = rough(100 * share)
    return percent(share) if text == "100" else f"{text} %"


def percent(value: float | None) -> str:
    """A share of one as percent.

    >>> percent(0.0341), percent(1.0)
    ('3.41 %', '100 %')
    """
    return MISSING if value is None or not math.isfinite(value) else f"{number(100.0 * value)} %"


def probability(value: float | None) -> str:
    """A p or q: two digits behind the point, or the first one that is not 0.

    >>> [probability(value) for value in (0.514, 0.0123, 0.00001, None)]
    ['0.51', '0.01', '<0.0001', '–']
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value < 1e-4:
        return "<0.0001"
    return str(fixed(value, 2)) if value >= 0.1 else f"{value:.1g}"


Style = Literal["figures", "hundredths", "signed", "percent", "probability", "decibels"]
"""How a number is written."""

STYLES: Final[Mapping[Style, Callable[[float | None], str]]] = {
    "figures": number,
    "hundredths": hundredths,
    "signed": signed,
    "percent": percent,
    "probability": probability,
    "decibels": lambda value: "equal" if value == math.inf else number(value),
}


def error(stderr: float | None) -> str:
    """Two digits of a standard error; nothing where there is none.

    >>> error(0.4142), error(123.4), error(None)
    ('± 0.41', '± 120', '')
    """
    if stderr is None or not math.isfinite(stderr):
        return ""
    return f"± {number(float(_TWO.create_decimal_from_float(stderr)))}"


def clause(meaning: str) -> str:
    """The first clause of what a flag says: it fits on the line of the flag's name.

    >>> clause("rows hold attention sinks: --skip-first leaves them out")
    'rows hold attention sinks'
    """
    return meaning.partition(":")[0].removesuffix(".")


_ABBREVIATED: Final = {"auroc": "AUROC", "ece": "ECE"}


def label(column: str) -> str:
    """A column's name as a heading.

    >>> label("participation_ratio_norm"), label("n_tokens"), label("within_auroc")
    ('participation ratio / bound', 'tokens', 'within AUROC')

    A and B are letters of the page's runs, so the runs of a pair are the first and the second.

    >>> label("run_a"), label("probability_b")
    ('first run', 'second probability')
    """
    name = column.removeprefix("n_")
    if name.endswith(("_a", "_b")):
        return f"{'first' if name[-1] == 'a' else 'second'} {label(name[:-2])}"
    if name.endswith("_norm"):
        over = "ln V" if name.startswith("entropy") else "bound"
        return f"{name.removesuffix('_norm').replace('_', ' ')} / {over}"
    return " ".join(_ABBREVIATED.get(word, word) for word in name.split("_"))


def listed(words: list[str], last: str = "and") -> str:
    """Words as a list in a sentence.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"
