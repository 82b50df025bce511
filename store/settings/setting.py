"""A setting is a field of a frozen dataclass with a help text, and perhaps a name and bounds.

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        context: int = setting(200, "Cut each prompt at this many tokens.", least=1)

The field's name is the keyword of Python; with dashes it is the option of a command and the key of
a file, unless `name` is another. Its type says which values there are (`values`).
"""

import functools
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType, NoneType
from typing import Any, Final, get_args, get_type_hints

from lpp.store.settings.values import Values, values_of

_SETTING_KEY: Final = "setting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The help text, names and bounds of a field."""

    help: str
    name: str = ""
    """Name of the option and of the key; empty: that of the field, with dashes."""
    metavar: str | None = None
    """Stands for the value in the help; None: the type's."""
    least: float | None = None
    most: float | None = None
    """Bounds of a number, included."""
    positional: bool = False
    """Several texts: an argument of the command in place of an option."""
    repeated: bool = False
    """Several texts: the option may be given several times."""
    word: str = ""
    """May stand for a number, or for one of several; the command knows which."""
    completes: str = ""
    """What the shell completes the value with: `runs` or `sites` of the store, or what the command
    names."""


def setting(default: Any, text: str, **more: Any) -> Any:
    """A field of a dataclass. text: the help; more: of `Setting`. A default that can change is made
    anew for each instance.
    """
    metadata = {_SETTING_KEY: Setting(help=text, **more)}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A setting with what its field says."""

    keyword: str
    """Name of the field."""
    name: str
    """Name of the option without its dashes, and of the key of a file."""
    setting: Setting
    values: Values
    default: Any


def as_python(settings: Any) -> str:
    """The expression that makes `settings`, without what is as by default."""
    known = declared(type(settings))
    values = ", ".join(f"{known[name].keyword}={v!r}" for name, v in chosen(settings).items())
    return f"{type(settings).__name__}({values})"


def chosen(settings: Any) -> dict[str, Any]:
    """The values of `settings` by name, without what is as by default."""
    known = declared(type(settings))
    values = {name: getattr(settings, one.keyword) for name, one in known.items()}
    return {name: v for name, v in values.items() if v != known[name].default}


def declared(settings: type) -> Mapping[str, Declared]:
    """The settings of a dataclass by name, in order. Other fields are none of a user's."""
    return _declared(settings)


@functools.cache
def _declared(settings: Any) -> Mapping[str, Declared]:
    by_name = {}
    hints = get_type_hints(settings)
    for entry in fields(settings):
        setting: Setting | None = entry.metadata.get(_SETTING_KEY)
        if setting is not None:
            name = setting.name or entry.name.replace("_", "-")
            factory = entry.default_factory
            by_name[name] = Declared(
                keyword=entry.name,
                name=name,
                setting=setting,
                values=values_of(
                    _present(hints[entry.name]),
                    bounds=(setting.least, setting.most),
                    repeated=setting.repeated or setting.positional,
                    word=setting.word,
                    metavar=setting.metavar,
                ),
                default=entry.default if factory is MISSING else factory(),
            )
    return MappingProxyType(by_name)


def _present(hint: Any) -> Any:
    """The type without None."""
    others = [arg for arg in get_args(hint) if arg is not NoneType]
    return others[0] if NoneType in get_args(hint) and len(others) == 1 else hint
