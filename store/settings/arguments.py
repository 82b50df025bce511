"""Arguments of public functions: words and numbers, checked as commands check their options."""

import math
import operator
from typing import Any, get_args

from lpp.store.errors import InputError
from lpp.store.settings.reading import near
from lpp.store.settings.setting import declared
from lpp.store.settings.values import Number, Text


def check_word(name: str, value: object, words: Any) -> None:
    """InputError unless the argument `name` is one of `words`, a Literal of texts."""
    known = get_args(words)
    if not isinstance(value, str) or value not in known:
        hint = near(value.lower(), known) if isinstance(value, str) else ""
        raise refused(name, value, f"one of {', '.join(map(repr, known))}", hint)


def check_whole(name: str, value: Any, least: int = 0, most: int = 2**31 - 1) -> int:
    """The whole number of an argument. InputError unless it is from `least` to `most`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise refused(name, value, "a whole number") from None
    if isinstance(value, bool) or not least <= number <= most:
        raise refused(name, value, f"a whole number from {least} to {most}")
    return number


def check_positive(name: str, value: Any) -> float:
    """The number of an argument. InputError unless it is finite and above 0."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, (bool, str)) or not 0 < number < math.inf:
        raise refused(name, value, "a finite number above 0")
    return number


def check_numbers_of(name: str, values: Any, count: int, of: str) -> list[float]:
    """The numbers of an argument. InputError unless each of `count` has one above 0."""
    numbers = [] if isinstance(values, str) or not hasattr(values, "__len__") else [*values]
    if not numbers or len(numbers) != count:
        raise refused(name, values, f"a number above 0 for each {of}, {count} in all")
    return [check_positive(name, number) for number in numbers]


def check_flag(name: str, value: object) -> None:
    """InputError unless the argument `name` is true or false."""
    if not isinstance(value, bool):
        raise refused(name, value, "True or False")


def check_settings(settings: Any) -> None:
    """InputError for a word or a number that a setting cannot have, as commands refuse it."""
    for one in declared(type(settings)).values():
        value = getattr(settings, one.keyword)
        bounded = isinstance(one.values, Number) or (
            isinstance(one.values, Text) and one.values.choices
        )
        if value is None or not bounded:
            continue
        try:
            one.values.made(value)
        except (ValueError, TypeError) as error:
            raise InputError(f"{one.keyword}={value!r}: {error}") from None


def refused(name: str, value: object, expected: str, hint: str = "") -> InputError:
    """The error for an argument that has another value than is expected."""
    return InputError(f"{name}={value!r}: should be {expected}.{hint}")
