"""`lpp-analyze metrics`: every number and flag that is declared."""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from lpp.store.terminal.console import LppCommand, debug_option

if TYPE_CHECKING:
    from lpp.analyze.quantities.quantity import Quantity, Subject

_WIDTH = 80

TITLES: Final[dict["Subject", str]] = {
    "profile": "Next token, in every profile",
    "site": "Rows of a site: `profile --metrics`; B - A: `diff --fail-if`",
    "prefix": "Next token: `profile --metrics`; B - A: `diff --fail-if`",
    "pair": "Predictions of two runs, A and B: `diff`",
    "pair_site": "Rows of a site of two runs, A and B: `diff`",
    "item": "Item of an evaluation: `items`, and `diff` of two evaluations",
    "probe": "Probe of a label: `probe`",
    "probe_pair": "Probe of A on the rows of B: `probe --against` or `--test-on`",
}


@click.command(cls=LppCommand)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@debug_option
def metrics(names: tuple[str, ...]) -> None:
    """List the declared numbers and flags.

    A number has a name, a unit, a definition and a source, a flag a meaning. NAME may be a pattern;
    without NAME every number is listed, under the commands that take its name, then every flag.

    \b
        lpp-analyze metrics
        lpp-analyze metrics 'zscore_*' rankme
        lpp-analyze metrics kl cka
        lpp-analyze metrics few_items
    """
    from lpp.analyze.metrics.registry import QUANTITIES
    from lpp.analyze.report.content import FLAGS
    from lpp.analyze.runs.select import matching

    known = dict.fromkeys(
        [*(q.name for q in QUANTITIES), *(f for of in FLAGS.values() for f in of)]
    )
    wanted = set(matching("number or flag", names or ("*",), known, option="NAME"))
    for subject, title in TITLES.items():
        chosen = [q for q in QUANTITIES if q.of == subject and q.name in wanted]
        if chosen:
            click.echo(f"\n{title}\n")
        for quantity in chosen:
            click.echo("\n".join(lines(quantity)))
    for of, meanings in FLAGS.items():
        if marks := [flag for flag in meanings if flag in wanted]:
            click.echo(f"\nFlags of {of}\n")
        for flag in marks:
            click.echo("\n".join([flag, *_wrapped(meanings[flag])]))


def lines(quantity: "Quantity") -> Iterator[str]:
    """One number, within `_WIDTH` columns."""
    needs = getattr(quantity, "needs", "")
    head = f"{quantity.name} [{quantity.unit}]"
    yield f"{head:52}needs {needs}" if needs else head
    texts = [quantity.meaning, f"Source: {quantity.source}"]
    if quantity.trap:
        texts.append(f"Trap: {quantity.trap}")
    if no_error := getattr(quantity, "no_error", ""):
        texts.append(f"No error: {no_error}")
    for text in texts:
        yield from _wrapped(text)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")
