"""Values of command-line options that several commands share."""

import contextlib
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import click

_EXECUTORS = ("local", "ray")


def file_format_option(*formats: str) -> Callable[[Any], Any]:
    """`--format` of a command that also has `--output`: one of `formats`."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(formats),
        help=f"Write in this format. Default: what the name of --output ends in, or {formats[0]}.",
    )


def executor_options(question: Callable[..., Any]) -> Any:
    """`--jobs`, `--executor local|ray`, `--address`, `--fresh` and `--trust-kept`: the command is
    given an `Executor`.
    """

    @wraps(question)
    def command(*, jobs: int | None, executor: str, address: str | None, **rest: Any) -> Any:
        with _chosen_executor(executor, address, jobs) as chosen:
            return question(executor=chosen, **rest)

    declared = fresh_option(command)
    declared = click.option(
        "--address",
        metavar="HOST:PORT",
        callback=_needs_ray,
        help="With --executor ray: connect to this head of a running cluster; auto finds it.",
    )(declared)
    declared = click.option(
        "--executor",
        type=click.Choice(_EXECUTORS),
        default="local",
        show_default=True,
        is_eager=True,
        help="Compute on this machine, or on a Ray cluster; without --address, one is started "
        "here.",
    )(declared)
    return jobs_option(declared)


@contextlib.contextmanager
def _chosen_executor(name: str, address: str | None, jobs: int | None) -> Iterator[Any]:
    """The `Executor` of these options, until the block ends. A cluster is started, or connected to,
    when there is work: mistakes in the runs are found before.
    """
    from lpp.analyze.engine.executor import LocalExecutor

    if name == "local":
        yield LocalExecutor(jobs)
        return
    from lpp.analyze.engine.ray_executor import RayExecutor
    from lpp.store.process.cluster import cluster

    with contextlib.ExitStack() as connection:
        yield RayExecutor(lambda: connection.enter_context(cluster(address)))


def fresh_option(command: Any) -> Any:
    """Add `--fresh`, which makes a command compute its stored numbers again, and `--trust-kept`."""

    def again() -> contextlib.AbstractContextManager[None]:
        from lpp.store.shared.kept_files import computing_again

        return computing_again()

    return _flag(
        "--fresh",
        again,
        "Compute every number again; what earlier commands kept under analysis/ is not read, "
        "and is replaced.",
    )(trust_option(command))


def trust_option(command: Any) -> Any:
    """Add `--trust-kept`, which uses numbers that others kept in a store."""

    def trusting() -> contextlib.AbstractContextManager[None]:
        from lpp.store.shared.authors import trusting_kept

        return trusting_kept()

    return _flag(
        "--trust-kept",
        trusting,
        "Use numbers that another user, or the owner of an address, kept in the store. "
        "Default: compute them again.",
    )(command)


def _flag(
    name: str, during: Callable[[], contextlib.AbstractContextManager[None]], text: str
) -> Callable[[Any], Any]:
    """A flag with which a command runs within the context that `during` makes."""

    def enter(context: click.Context, _param: click.Parameter, value: bool) -> None:
        if value:
            context.with_resource(during())

    return click.option(name, is_flag=True, expose_value=False, callback=enter, help=text)


def jobs_option(command: Any) -> Any:
    """`--jobs`."""
    return click.option(
        "--jobs",
        type=click.IntRange(min=1),
        metavar="N",
        help="Compute with N threads. Default: one for each core.",
    )(command)


def _needs_ray(context: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and context.params.get("executor") != "ray":
        raise click.UsageError("--address names a Ray cluster: it needs --executor ray.")
    return value
