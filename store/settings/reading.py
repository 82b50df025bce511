"""Settings of a mapping: a table of a file, or the keywords of a call. Every problem is found."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from lpp.store.settings.setting import Declared, declared

S = TypeVar("S")


def problems_of(setting: Declared, value: object, place: str) -> Iterator[str]:
    """Why a setting cannot have `value`, which is at `place` of a file or a call."""
    if not setting.values.fits(value):
        yield f"{place} should be {setting.values.expected(value)}, is {value!r}"
        return
    try:
        setting.values.made(value)
    except ValueError as error:
        yield f"{place}: {error}"


def made(settings: type[S], values: Mapping[str, Any]) -> S:
    """The settings of values by name, which have no problem; the others have their defaults."""
    known = declared(settings)
    return settings(
        **{known[name].keyword: known[name].values.made(value) for name, value in values.items()}
    )


def near(name: str, known: Iterable[str]) -> str:
    """A question after the known name that is closest to `name`; empty if none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {matches[0]}?" if matches else ""
