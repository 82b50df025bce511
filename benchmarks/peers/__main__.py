"""`make bench-peers`: the same work by this project and by others; writes results.json and tables.

Needs the environment of that target. First every side runs once on a few prompts, and its numbers
are compared with those of the others; then all are timed in rounds.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.peers import page
from benchmarks.peers.machine import machine, versions
from benchmarks.peers.measure import agreed, measured
from benchmarks.peers.sides import REFERENCE, SIDES, Task
from benchmarks.peers.work import Work, make_work, write_work
from benchmarks.setting import scratch

HERE: Final = Path(__file__).parent
FEW: Final[Mapping[Task, int]] = {"states": 12, "profile": 4}
"""Prompts of the comparison of numbers. Twelve are more than a batch of 2,048 tokens holds."""


@click.command()
@click.option("--prompts", default=60, show_default=True, help="Prompts whose states are kept.")
@click.option("--profile-prompts", default=12, show_default=True, help="Prompts of a profile.")
@click.option("--context", default=200, show_default=True, help="Tokens of a prompt.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each side that are timed.")
@click.option(
    "--side",
    "names",
    multiple=True,
    type=click.Choice(list(SIDES)),
    help="Run this side; repeat for several. All by default.",
)
@click.option("--model", type=click.Path(path_type=Path), help="Model folder; the demo's if unset.")
@click.option("--corpus", default="pydoc", show_default=True, help="Corpus, as lpp-capture takes.")
@click.option("--note", default="", help="Sentence that the documents show beside the machine.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=HERE,
    help="Folder of results.json; the pages in it and in the folder above get their tables.",
)
@click.option("--page-only", is_flag=True, help="Measure nothing: make the tables again.")
def main(
    *,
    prompts: int,
    profile_prompts: int,
    context: int,
    rounds: int,
    names: tuple[str, ...],
    model: Path | None,
    corpus: str,
    note: str,
    results: Path,
    page_only: bool,
) -> None:
    """Compare numbers, then time every side in alternating order."""
    if page_only:
        found = json.loads((results / page.RESULTS).read_text("utf-8"))
        page.write(found, results)
        return
    chosen = [name for name in SIDES if not names or name in names]
    if missing := {REFERENCE[SIDES[name].task] for name in chosen} - set(chosen):
        raise click.UsageError(
            f"--side {', '.join(sorted(missing))} is missing: the numbers of the other sides of "
            "its task are compared with it."
        )
    used = _demo_model() if model is None else model
    counts: dict[Task, int] = {"states": prompts, "profile": profile_prompts}
    make = partial(make_work, used, corpus, context=context)
    setting = {"model": used.name, "context": context, "rounds": rounds}
    before = {"date": date.today().isoformat(), "note": note, "machine": machine()}
    page.write(
        {
            **before,
            "versions": versions(),
            "setting": {**setting, "states": prompts, "profile": profile_prompts},
            **compared(chosen, make, counts, rounds),
        },
        results,
    )


def compared(
    names: Sequence[str], make: Callable[[int], Work], counts: Mapping[Task, int], rounds: int
) -> dict[str, Any]:
    """How far the sides `names` are from each other, then what each took in each round.

    make: the work of some prompts. counts: prompts of each task. RuntimeError for sides that do not
    agree.
    """
    tasks = [task for task in REFERENCE if any(SIDES[name].task == task for name in names)]
    with scratch() as folder:

        def works(label: str, most: Mapping[Task, int]) -> dict[Task, Path]:
            return {
                task: write_work(make(min(most[task], counts[task])), folder / f"{label}-{task}")
                for task in tasks
            }

        agreement = agreed(works("few", FEW), names, folder)
        _say(f"numbers agree: {json.dumps(agreement)}")
        return {
            "agreement": agreement,
            "sides": measured(works("all", counts), names, rounds, folder, _say),
        }


def _say(line: str) -> None:
    click.echo(line, err=True)


def _demo_model() -> Path:
    from lpp.capture import demo_model

    return demo_model()


if __name__ == "__main__":
    main()
