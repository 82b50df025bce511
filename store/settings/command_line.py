"""Settings as the arguments of a command."""

from collections.abc import Mapping
from typing import Any

from lpp.store.settings.setting import Declared, chosen, declared
from lpp.store.settings.values import Flag


def arguments(settings: type, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Values by name as arguments of a command line.

    values: as a file or Python gives them, or as they were made.
    """
    known = declared(settings)
    return tuple(
        _word(known[name], text)
        for name, value in values.items()
        for text in known[name].values.texts(value)
    )


def _word(one: Declared, text: str) -> str:
    if one.setting.positional:
        return text
    return f"--{one.name}" if isinstance(one.values, Flag) else f"--{one.name}={text}"


def as_words(settings: Any) -> tuple[str, ...]:
    """`settings` as arguments of a command, without those that are as by default."""
    return arguments(type(settings), chosen(settings))
