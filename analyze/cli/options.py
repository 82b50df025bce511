"""Options that several commands have, and what shows their answers."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import reduce, wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from lpp.store.terminal.output import chosen_format, output_file, suffix_of

if TYPE_CHECKING:
    from lpp.analyze.pages.page import Page
    from lpp.analyze.pages.reply import Reply


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


_FORMATS: Final = ("text", "md", "html", "json", "csv")
"""Formats for a terminal, a pull request, a browser, and (json, csv) programs."""

PICTURES: Final = ("svg", "png")
"""Endings of --output that write the picture of a page."""


class _Format(click.Choice[str]):
    """One of `_FORMATS`; `table` is the old name of text."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return super().convert("text" if value == "table" else value, param, ctx)


def page_options() -> Callable[[Callable[..., "Reply"]], Any]:
    """`--format`, `-o` and `--all` of a command that returns a reply: they show its page."""
    options = (
        click.option(
            "--all", "everything", is_flag=True, help="Show every table, not only those in short."
        ),
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path),
            callback=output_file,
            metavar="FILE",
            help="Write to FILE; .svg and .png are the page's picture. Default: standard output.",
        ),
        click.option(
            "--format",
            "form",
            type=_Format(_FORMATS),
            help="Write in this format. Default: what the name of --output ends in, or text.",
        ),
    )

    def declare(question: Callable[..., "Reply"]) -> Any:
        @wraps(question)
        def command(*, form: str | None, output: Path | None, everything: bool, **rest: Any) -> int:
            check_page(form, output)
            reply = question(**rest)
            if output is not None and not (form and suffix_of(output) in PICTURES):
                click.echo(reply.beside, nl=False)
            show(reply.page, form, output, everything=everything)
            if reply.error is not None:
                raise reply.error
            return int(reply.failed)

        return reduce(lambda declared, option: option(declared), options, command)

    return declare


def check_page(form: str | None, output: Path | None) -> None:
    """Refuse a page that could not be written, before anything is computed for it.

    Raises UsageError, InputError, MachineError(NO_PACKAGE) without the extra `report`.
    """
    from lpp.analyze.pages.output import check_output

    chosen = chosen_format(form, output, _FORMATS, PICTURES)
    if output is not None:
        check_output(output)
    if chosen == "html" or suffix_of(output) in PICTURES:
        import_module("lpp.analyze.charts.theme")


def show(
    page: "Page",
    form: str | None,
    output: Path | None = None,
    *,
    everything: bool = False,
) -> None:
    """Print `page`, or write it to `output` and print the path.

    Beside a picture, the page itself is printed where a format is given; then the path is on
    standard error.
    """
    from lpp.analyze.pages.terminal import printable
    from lpp.analyze.pages.write import written
    from lpp.sql.results.output import text_output

    picture = suffix_of(output) in PICTURES
    if output is not None and picture:
        charts = list(page.charts)
        if not charts:
            raise click.UsageError(f"{output}: this answer has no picture.")
        min(charts, key=lambda chart: not chart.opens).write(output)
    if form or not picture:
        chosen = chosen_format(form, output, _FORMATS)
        target = None if picture else output
        text = written(page, chosen, everything=everything)
        if target is None and chosen == "text":
            text = printable(text, sys.stdout.encoding)
        with text_output(target) as stream:
            stream.write(text)
    if output is not None:
        click.echo(output, err=bool(form) and picture)
