"""Where what a model wrote begins, as one position for all prompts of the selected runs."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, TypeVar

from lpp.analyze.questions import Selection
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.named import plans_of
from lpp.store.errors import InputError
from lpp.store.format.run_names import matching_runs

GIVEN: Final = "given"
"""What stands for that position among numbers."""

Chosen = TypeVar("Chosen", bound=Selection)


def resolved(runs: Iterable[RunView], selection: Chosen) -> Chosen:
    """`selection` with a number in place of `given` among the first positions. runs: of the store.

    Raises InputError where these runs have no such position in
    common: a run whose model wrote nothing, or whose texts are not equally long.
    """
    if GIVEN not in [*map(str, selection.skip_first)]:
        return selection
    by_id = {view.run.id: view for view in runs}
    chosen = matching_runs(selection.runs, plans_of(by_id.values()))
    first_written = {name: _first_written(by_id[name]) for name in chosen}
    if len({*first_written.values()}) > 1:
        listed = ", ".join(f"{name} {at}" for name, at in first_written.items())
        raise InputError(
            f"--skip-first given: what the models wrote begins at different positions: {listed}. "
            "Name runs of one length after STORE."
        )
    first = next(iter(first_written.values()))
    return replace(
        selection, skip_first=tuple(first if str(p) == GIVEN else p for p in selection.skip_first)
    )


def _first_written(view: RunView) -> int:
    run = view.run
    if run.plan.continuation is None:
        raise InputError(
            f"--skip-first given: the model of run {run.id} wrote nothing (lpp-capture run "
            "--continue). Name other runs after STORE, or give a number."
        )
    given = run.prompts("n_given")["n_given"].to_numpy()[view.lengths.nonzero()]
    if not len(given) or given.min() != given.max():
        least, most = (int(given.min()), int(given.max())) if len(given) else (0, 0)
        raise InputError(
            f"--skip-first given: run {run.id} has texts of {least} to {most} tokens, so what the "
            "model wrote begins at no one position. Capture texts that are as long as --context "
            "(--min-tokens with --count-with); or ask for token statistics WHERE written, with "
            "lpp-sql."
        )
    return int(given[0])
