"""Compares what a document shows with what is printed now.

Words and numbers are compared, white space is not. A number with a decimal point, an exponent or a
percent sign is measured: other kernels round the forward pass differently, so it may differ by
`KERNELS`, a standard error by `ERRORS`, and either by one unit of its last digit. Every other
number is a count, and sizes in bytes are computed: both must be equal. Not compared: seconds and
free bytes, which depend on the machine, and the digits at the end of a run's id, which depend on
the versions of libraries.
"""

import re
from collections.abc import Iterator
from typing import Final

KERNELS: Final = 0.06
"""Relative difference that is allowed for a measured number. In bfloat16 the kernels of AVX2 and
of AVX-512 differ by 5 % in the largest value of 2,400 tokens, and by 3 % in ranks' differences."""

ERRORS: Final = 0.15
"""And for a standard error, a number after ±: of 20 prompts it is itself known to 16 %."""

_ELSEWHERE_OTHERS: Final = re.compile(
    r"[\d.]+ (?=s\b|[kMGT]?B (?:free|available)\b)|(?<=-)(?:[0-9a-f]{8}\b|[0-9a-f]{1,7}…)"
    r"|(?<=± )[\d.]+e-0[5-9] \(\d+\)"
)
"""Seconds, free bytes, the end of a run's id, whole or truncated by a table, and the prefix of an
extreme with an error below 1e-4: the prefixes hardly differ, and rounding decides between them."""

_NUMBER: Final = re.compile(r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?")

_PART: Final = re.compile(
    rf"(?P<bytes>(?<!\S){_NUMBER.pattern} [kMGT]?B\b)"
    rf"|(?P<number>(?<![\w.-]){_NUMBER.pattern}(?![\w-]))(?P<percent>\s?%)?"
    r"|[^\s\w]|\w+"
)
"""A size, a number, or else a word or a sign. A digit inside a name belongs to the word."""


def differences(shown: str, printed: str) -> list[str]:
    """Lines of `shown` that are missing in `printed`, in order, each beside its replacement."""
    lines, found = [line for line in printed.splitlines() if line.strip()], []
    at = 0
    for line in filter(str.strip, shown.splitlines()):
        place = next((k for k in range(at, len(lines)) if alike(line, lines[k])), None)
        if place is None:
            labelled = (other for other in lines[at:] if words(other) == words(line))
            found.append(f"shown:   {line}\nprinted: {next(labelled, 'nothing like it')}")
        else:
            at = place + 1
    return found


def alike(shown: str, printed: str) -> bool:
    """Whether two lines, or two texts, have the same words, counts, and nearly the same numbers."""
    ours, theirs = list(_parts(shown)), list(_parts(printed))
    return len(ours) == len(theirs) and all(map(_same, ours, theirs))


def _parts(text: str) -> Iterator[re.Match[str]]:
    return _PART.finditer(_ELSEWHERE_OTHERS.sub("… ", text))


def _same(shown: re.Match[str], printed: re.Match[str]) -> bool:
    if shown[0] == printed[0]:
        return True
    ours, theirs = shown["number"], printed["number"]
    if not (ours and theirs and _is_measured(shown) and _is_measured(printed)):
        return False
    unit = max(_unit(ours), _unit(theirs))
    a, b = float(ours), float(theirs)
    allowed = ERRORS if shown.string[: shown.start()].rstrip(" ").endswith("±") else KERNELS
    return abs(a - b) <= allowed * max(abs(a), abs(b)) + 1.001 * unit


def _is_measured(part: re.Match[str]) -> bool:
    return bool(part["percent"]) or not part["number"].lstrip("+-").isdigit()


def _unit(number: str) -> float:
    """One unit of the last digit.

    >>> _unit("0.15"), _unit("8.3e-06"), _unit("43")
    (0.01, 1e-07, 1.0)
    """
    mantissa, _, exponent = number.partition("e")
    digits = len(mantissa.partition(".")[2])
    return float(f"1e{int(exponent or 0) - digits}")


def words(text: str) -> list[str]:
    """The words and signs of a text, without its numbers."""
    return [part[0] for part in _parts(text) if not (part["number"] or part["bytes"])]
