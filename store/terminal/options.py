"""Options of a command from the settings that it has."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from lpp.store.format.run_names import RUN_HELP
from lpp.store.settings.setting import Declared, declared
from lpp.store.settings.values import Assignments, Flag, Names, Number, Numbers, Text, Texts, Values
from lpp.store.terminal.completion import Complete, complete_runs, complete_sites
from lpp.store.terminal.console import FiniteRange

S = TypeVar("S")

_COMPLETE: Final = {"runs": complete_runs, "sites": complete_sites}


def options_of(settings: type) -> Mapping[str, click.Option]:
    """An option for each setting of a dataclass, by name; its value is that of the field."""
    return {
        name: click.Option([f"--{name}", spec.keyword], **_how(spec, _COMPLETE))
        for name, spec in declared(settings).items()
    }


def with_options(settings: type, **complete: Complete) -> Callable[[Any], Any]:
    """A decorator that gives a command an option for each setting, as keyword arguments.

    complete: by what settings name in `completes`, beside runs and sites.
    """

    def declare(command: Any) -> Any:
        for spec in reversed([*declared(settings).values()]):
            how = _how(spec, {**_COMPLETE, **complete})
            if spec.setting.positional:
                command = runs_argument(command, spec.default)
            else:
                command = click.option(f"--{spec.name}", spec.keyword, **how)(command)
        return command

    return declare


class RunArgument(click.Argument):
    """A RUN, or several. click shows the help of an argument from 8.5 on."""

    def __init__(self, *names: Any, **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        every = self.nargs == -1 and not self.required
        self.help = RUN_HELP + " Default: every run." * every


run_argument: Final = click.argument(
    "run", cls=RunArgument, required=False, shell_complete=complete_runs
)
"""Add [RUN]."""


def runs_argument(command: Any, default: tuple[str, ...] = (), *, required: bool = False) -> Any:
    """Add [RUN]..., or RUN... if one is required; default: its value without a RUN."""
    return click.argument(
        "runs",
        cls=RunArgument,
        nargs=-1,
        required=required,
        metavar="RUN..." if required else "[RUN]...",
        shell_complete=complete_runs,
        callback=lambda _context, _parameter, runs: runs or default,
    )(command)


def taken(settings: type[S], options: Mapping[str, Any]) -> S:
    """The settings of a command's keyword arguments, which may hold others."""
    return settings(**{spec.keyword: options[spec.keyword] for spec in declared(settings).values()})


def _how(spec: Declared, complete: Mapping[str, Complete]) -> dict[str, Any]:
    """The attributes of an option."""
    how: dict[str, Any] = {"help": spec.setting.help, "metavar": spec.setting.metavar}
    if spec.setting.completes:
        how["shell_complete"] = complete[spec.setting.completes]
    default = spec.default
    shown = default is not None and "Default:" not in spec.setting.help
    match spec.values:
        case Flag():
            how |= {"is_flag": True, "default": bool(default)}
            shown = False
        case Number(word=word) if word:
            how |= {"callback": callback_of(spec.values, default)}
        case Number(whole=whole, least=None, most=None):
            how |= {"type": click.INT if whole else FiniteRange()}
        case Number(whole=True, least=least, most=most):
            how |= {"type": click.IntRange(least, most)}  # type: ignore[arg-type]  # whole
        case Number(least=least, most=most):
            how |= {"type": FiniteRange(least, most)}
        case Text(choices=choices) if choices:
            how |= {"type": click.Choice(choices)}
        case Names() | Numbers():
            how |= {"callback": callback_of(spec.values, spec.default)}
            default = spec.values.texts(default)[0] if default else None
            shown &= bool(default)
        case Texts(choices=choices):
            how |= {"multiple": True} | ({"type": click.Choice(choices)} if choices else {})
            default, shown = None, False
        case Assignments():
            how |= {"callback": callback_of(spec.values, spec.default), "multiple": True}
            default, shown = None, False
    if not isinstance(spec.values, Flag):
        how |= {"default": default, "show_default": shown}
    return how


def callback_of(
    values: Values, default: Any = None
) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback of an option that makes the value of a text, or of several. default: of none."""

    def make(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            return default if value is None else values.made(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return make
