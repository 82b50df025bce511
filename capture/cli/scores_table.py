"""Scores of an evaluation as `lpp-capture eval` and `probe` print them."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from lpp.store.objects.place import Url

if TYPE_CHECKING:
    from lpp.capture.evaluation.evaluate import Evaluated
    from lpp.capture.evaluation.scores import EvalScore


def show_scores(done: "Evaluated", store: Url) -> None:
    """Print the scores, the run of each task, and what to do next."""
    click.echo(f"{done.model}\n")
    for line in score_lines([score for result in done.results for score in result.scores]):
        click.echo(line)
    click.echo()
    for result in done.results:
        if result.run is not None:
            click.echo(f"{result.task}: run {result.run}")
    if done.unchanged:
        click.echo(f"The store had these scores already: {', '.join(done.unchanged)}")
    following = ["lpp-analyze", "profile", str(store)]
    if of_runs := [result for result in done.results if result.run is not None]:
        task, run = of_runs[0].task, str(of_runs[0].run)
        following = ["lpp-analyze", "items", str(store), "--task", task, "--run", run]
    click.echo(f"Next: {shlex.join(following)}")


def score_lines(scores: Sequence["EvalScore"]) -> list[str]:
    """A head and a line for each score; as wide as the names need."""
    rows = [("task", "metric", "score", "stderr", "95 %", "n"), *map(_row, scores)]
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(6)]
    return [
        "".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _row(score: "EvalScore") -> tuple[str, str, str, str, str, str]:
    return (
        score.task,
        score.metric.removesuffix(",none"),
        f"{score.value:.5g}",
        "-" if score.stderr is None else f"{score.stderr:.3g}",
        "-" if score.interval is None else "{:.3g} to {:.3g}".format(*score.interval),
        "-" if score.n is None else str(score.n),
    )
