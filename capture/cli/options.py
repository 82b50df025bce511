"""Options that several commands of `lpp-capture` share, beside those that settings make."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from lpp.store.objects.place import Place, place

if TYPE_CHECKING:
    _ParamType = click.ParamType[Place]
else:
    _ParamType = click.ParamType  # generic since click 8.2

Decorator = Callable[[Any], Any]


class StoreType(_ParamType):
    """A directory or the URL of a bucket's prefix. The error for a bad URL quotes no secrets."""

    name = "store"

    def convert(self, value: Any, param: Any, ctx: Any) -> Place:
        """The place that `value` names. Accesses nothing."""
        return place(value)


STORE: Final = StoreType()
"""The type of every `--store` that a command writes."""


evaluated_model: Final[Decorator] = click.option(
    "--model",
    required=True,
    help="Evaluate this model: a hub id, a local folder or a GGUF file; or demo, the small model "
    "of `lpp-capture demo`.",
)


EXECUTOR_OPTIONS: Final[tuple[Decorator, ...]] = (
    click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Capture in this process, or on a Ray cluster; without --address, one is started "
        "here.",
    ),
    click.option(
        "--address",
        metavar="HOST:PORT",
        help="With --executor ray: connect to this head of a running cluster; auto finds it.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        metavar="N",
        help="With --executor ray: load the model N times. Default: once for each GPU.",
    ),
)


def check_executor(options: Mapping[str, Any]) -> None:
    """Raise UsageError for an option of Ray without --executor ray."""
    for name in ("address", "workers"):
        if options[name] is not None and options["executor"] != "ray":
            raise click.UsageError(f"--{name} needs --executor ray.")


def executor_options(command: Any) -> Any:
    """`--executor`, `--address` and `--workers`."""
    for option in reversed(EXECUTOR_OPTIONS):
        command = option(command)
    return command
