"""Options of a command from the settings that it has."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from lpp.store.settings.setting import Declared, declared
from lpp.store.settings.values import Assignments, Flag, Names, Number, Text

S = TypeVar("S")


def options_of(settings: type) -> Mapping[str, click.Option]:
    """An option for each setting of a dataclass, by name; its value is that of the field."""
    return {
        name: click.Option(_names(one), **_how(one)) for name, one in declared(settings).items()
    }


def with_options(settings: type) -> Callable[[Any], Any]:
    """A decorator that gives a command an option for each setting, as keyword arguments."""

    def declare(command: Any) -> Any:
        for one in reversed([*declared(settings).values()]):
            command = click.option(*_names(one), **_how(one))(command)
        return command

    return declare


def taken(settings: type[S], options: Mapping[str, Any]) -> S:
    """The settings of a command's keyword arguments, which may hold others."""
    return settings(**{one.keyword: options[one.keyword] for one in declared(settings).values()})


def _names(one: Declared) -> list[str]:
    return [f"--{one.name}", one.keyword]


def _how(one: Declared) -> dict[str, Any]:
    """The attributes of an option."""
    how: dict[str, Any] = {"help": one.setting.help, "metavar": one.setting.metavar}
    default, shown = one.default, one.default is not None
    match one.values:
        case Flag():
            how |= {"is_flag": True, "default": bool(default)}
            shown = False
        case Number(whole=whole, least=None, most=None):
            how |= {"type": click.INT if whole else click.FLOAT}
        case Number(whole=True, least=least, most=most):
            how |= {"type": click.IntRange(least, most)}  # type: ignore[arg-type]  # whole
        case Number(least=least, most=most):
            how |= {"type": click.FloatRange(least, most)}
        case Text(choices=choices) if choices:
            how |= {"type": click.Choice(choices)}
        case Names():
            how |= {"callback": _made(one)}
            default = ",".join(default or ())
            shown = bool(default)
        case Assignments():
            how |= {"callback": _made(one), "multiple": True}
            default, shown = None, False
    if not isinstance(one.values, Flag):
        how |= {"default": default, "show_default": shown}
    return how


def _made(one: Declared) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that makes the value of a text, or of several."""

    def make(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            return one.values.made(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return make
