"""`lpp-analyze metrics`: what is declared."""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from lpp.store.commands.console import debug_option

if TYPE_CHECKING:
    from lpp.analyze.metrics.metric import Metric

WIDTH = 80


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@debug_option
def metrics(names: tuple[str, ...]) -> None:
    """List the declared metrics.

    Each has a name, a unit, what it needs, a definition and a source. NAME may be a pattern;
    without NAME every metric is listed. `lpp-analyze profile --metrics` takes these names.

    \b
        lpp-analyze metrics
        lpp-analyze metrics 'zscore_*' rankme
    """
    from lpp.analyze.metrics.registry import METRICS, metric_names

    for name in metric_names(names or ("*",)):
        click.echo("\n".join(lines(METRICS[name])))


def lines(metric: "Metric[Any]") -> Iterator[str]:
    """One metric, within `WIDTH` columns."""
    yield f"{metric.name} [{metric.unit}]".ljust(52) + f"needs {metric.needs}"
    texts = [metric.definition, f"Source: {metric.source}"]
    if metric.no_error:
        texts.append(f"No error: {metric.no_error}")
    for text in texts:
        yield from textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")
