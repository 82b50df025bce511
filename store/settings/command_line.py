"""Settings as the arguments of a command."""

from collections.abc import Mapping
from typing import Any

from lpp.store.settings.setting import chosen, declared
from lpp.store.settings.values import Flag


def arguments(settings: type, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Values by name as arguments of a command line.

    values: as a file or Python gives them, or as they were made.
    """
    known = declared(settings)
    return tuple(
        f"--{name}" if isinstance(known[name].values, Flag) else f"--{name}={text}"
        for name, value in values.items()
        for text in known[name].values.texts(value)
    )


def as_words(settings: Any) -> tuple[str, ...]:
    """`settings` as arguments of a command, without those that are as by default."""
    return arguments(type(settings), chosen(settings))
