"""An option of `lpp-capture run` as a value of TOML: what it may be, and the words it becomes."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from lpp.capture.plan.options import option_by_name, split_names


def words_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Options as words of a command line.

    >>> words_of({"context": 50, "trust-remote-code": True, "sites": ["embed", "final"]})
    ('--context=50', '--trust-remote-code', '--sites=embed,final')
    >>> words_of({"engine-option": ["a=1", "b=2"]})
    ('--engine-option=a=1', '--engine-option=b=2')
    """
    known, words = option_by_name(), []
    for name, value in options.items():
        if known[name].is_flag:
            words += [f"--{name}"] if value else []
        elif known[name].multiple:
            words += [f"--{name}={one}" for one in _several(value)]
        else:
            words.append(f"--{name}={','.join(_several(value))}")
    return tuple(words)


def misfits(option: click.Option, value: object, place: str) -> Iterator[str]:
    """Why `value` is none of this option's: its type in the file, then what the option takes."""
    expected, right = _expected(option, value)
    if not right:
        yield f"{place} should be {expected}, is {value!r}"
        return
    if option.is_flag:
        return
    try:
        for one in _several(value):
            option.type.convert(one, option, None)
    except click.BadParameter as error:
        yield f"{place}: {error.message}"


def _expected(option: click.Option, value: object) -> tuple[str, bool]:
    """The type an option has in the file, in words, and whether `value` is of it."""
    number = type(value) in (int, float)  # not bool, which Python takes for a number
    if option.is_flag:
        return "true or false", isinstance(value, bool)
    if isinstance(option.type, click.types.IntParamType):
        return "an integer", number and isinstance(value, int)
    if isinstance(option.type, click.types.FloatParamType):
        return "a number", number
    if isinstance(value, list) and (option.multiple or option.callback is split_names):
        return "a list of strings", all(isinstance(part, str) for part in value)
    return "a string", isinstance(value, str)


def _several(value: object) -> list[str]:
    """One value, or the values of a list, as text."""
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]
