"""Values of command-line options that several commands share."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from typing import Any, Final

import click

from lpp.store.commands.completion import complete_runs, complete_sites

EXECUTORS: Final = ("local", "ray")
ERROR_SITES: Final = ("none", "final", "all")


def names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Any:
    """`final,block.*` as a tuple; None stays."""
    return None if value is None else tuple(part.strip() for part in value.split(","))


def numbers(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Any:
    """`50,100` as a tuple; None stays. BadParameter for anything but whole numbers."""
    parts = () if value is None else tuple(part.strip() for part in value.split(","))
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 50,100")
    return None if value is None else tuple(int(part) for part in parts)


def positions(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """`0,given` as a tuple of numbers and the word `given`; None stays."""
    parts = () if value is None else tuple(part.strip() for part in value.split(","))
    others = ",".join(part for part in parts if part != "given")
    found = list(numbers(ctx, param, others)) if others else []
    return None if value is None else tuple(p if p == "given" else found.pop(0) for p in parts)


def setting_options(settings: Any, **declared: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """An option for each field of the dataclass `settings`, by its metadata: `option`, `help` and
    perhaps `metavar`; its default says how values are parsed. declared: options of other fields.
    """

    def declare(command: Any) -> Any:
        for field in reversed(fields(settings)):
            option = declared.get(field.name) or _setting_option(field)
            command = option(command)
        return command

    return declare


def _setting_option(field: "Field[Any]") -> Callable[[Any], Any]:
    default, how = field.default, dict[str, Any]()
    if isinstance(default, bool):
        how = {"is_flag": True}
    elif isinstance(default, tuple):
        how = {"callback": names, "default": ",".join(default), "metavar": "NAME,..."}
    elif default is None:
        how = {"type": click.IntRange(min=1), "metavar": "N"}
    else:
        metavar = "NAME" if isinstance(default, str) else None
        how = {"default": default, "show_default": True, "metavar": metavar}
    how |= {name: value for name, value in field.metadata.items() if name != "option"}
    return click.option(field.metadata["option"], field.name, **how)


def runs_option(command: Any) -> Any:
    """`--run`: which runs of the store."""
    return click.option(
        "--run",
        "runs",
        callback=names,
        shell_complete=complete_runs,
        default="*",
        metavar="NAME,...",
        help="Use these runs: ids, names, unique beginnings of either, or patterns such as "
        "'smollm*'. Default: every run.",
    )(command)


def sites_option(default: str | None = "*") -> Callable[[Any], Any]:
    """`--site`: which sites of the runs. default: patterns; None: the command decides."""
    said = {"*": "every site", None: "those that the metrics ask for"}.get(default, default)
    return click.option(
        "--site",
        "--sites",
        "sites",
        callback=names,
        shell_complete=complete_sites,
        default=default,
        metavar="NAME,...",
        help=f"Use these sites, such as final,'block.*'. Default: {said}.",
    )


def settings_options(command: Any) -> Any:
    """`--context` and `--prompts`: at which lengths, on how many prompts."""
    command = click.option(
        "--prompts",
        callback=numbers,
        metavar="N,...",
        help="Use the first N prompts, for each N. Default: all.",
    )(command)
    return click.option(
        "--context",
        "contexts",
        callback=numbers,
        metavar="N,...",
        help="Cut prompts at these lengths in tokens. Default: the captured context.",
    )(command)


def errors_option(default: str) -> Callable[[Any], Any]:
    """`--errors`: the sites with errors."""
    return click.option(
        "--errors",
        type=click.Choice(ERROR_SITES),
        default=default,
        show_default=True,
        help="Compute errors at these sites, which takes up to 11 times as long at each.",
    )


def file_format_option(*formats: str) -> Callable[[Any], Any]:
    """`--format` of a command that also has `--output`: one of `formats`."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(formats),
        help=f"Write in this format. Default: what the name of --output ends in, or {formats[0]}.",
    )


def executor_options(command: Any) -> Any:
    """`--jobs`, `--executor local|ray`, `--address` and `--fresh`."""
    command = fresh_option(command)
    command = click.option(
        "--address",
        metavar="HOST:PORT",
        callback=_needs_ray,
        help="With --executor ray: connect to this head of a running cluster; auto finds it.",
    )(command)
    command = click.option(
        "--executor",
        type=click.Choice(EXECUTORS),
        default="local",
        show_default=True,
        is_eager=True,
        help="Compute on this machine, or on a Ray cluster; without --address, one is started "
        "here.",
    )(command)
    return jobs_option(command)


@contextlib.contextmanager
def chosen_executor(name: str, address: str | None, jobs: int | None = None) -> Iterator[Any]:
    """The `Executor` of these options, until the block ends."""
    from lpp.analyze.engine.executor import LocalExecutor

    if name == "local":
        yield LocalExecutor(jobs)
        return
    from lpp.analyze.engine.ray_executor import RayExecutor
    from lpp.store.commands.cluster import cluster

    with cluster(address) as ray:
        yield RayExecutor(ray)


def fresh_option(command: Any) -> Any:
    """`--fresh`, of commands that keep numbers; the command itself need not know of it."""

    def again(context: click.Context, _param: click.Parameter, value: bool) -> None:
        if value:
            from lpp.analyze.engine.kept_files import computing_again

            context.with_resource(computing_again())

    return click.option(
        "--fresh",
        is_flag=True,
        expose_value=False,
        callback=again,
        help="Compute every number again; what earlier commands kept under analysis/ is not read, "
        "and is replaced.",
    )(command)


def jobs_option(command: Any) -> Any:
    """`--jobs`."""
    return click.option(
        "--jobs",
        type=click.IntRange(min=1),
        metavar="N",
        help="Compute with N threads. Default: one for each core.",
    )(command)


def skip_first_option(command: Any) -> Any:
    """`--skip-first`, of commands that compare the same tokens."""
    return click.option(
        "--skip-first",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="Leave out the first N tokens of each prompt, often attention sinks.",
    )(command)


def cluster_option(command: Any) -> Any:
    """`--cluster`, of commands whose errors are over prompts."""
    return click.option(
        "--cluster",
        metavar="FIELD",
        help="Compute errors over clusters: prompts with the same value of this field, such as "
        "passages of one document, are left out together.",
    )(command)


def _needs_ray(context: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and context.params.get("executor") != "ray":
        raise click.UsageError("--address names a Ray cluster: it needs --executor ray.")
    return value
