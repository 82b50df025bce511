"""Which committed prompts a run cannot be analysed by, and why, in words.

A number is always of the *first* n prompts of a run, so prompts count up to the first shard that
is not committed: a gap in front hides every shard behind it.
"""

import shlex
import warnings
from collections.abc import Collection, Iterable, Sequence

from lpp.analyze.runs.keys import RunView, Url
from lpp.store import open_store
from lpp.store.exchange.projects import PROJECTS
from lpp.store.runs.read import Run
from lpp.store.store import LOST


def listed_numbers(numbers: Sequence[int]) -> str:
    """Numbers for a message; many of them by their ends.

    >>> listed_numbers([1, 2]), listed_numbers(range(10, 200, 10))
    ('1, 2', '10, 20, 30, 40, ..., 190')
    """
    if len(numbers) <= 12:
        return ", ".join(map(str, numbers))
    return f"{', '.join(map(str, numbers[:4]))}, ..., {numbers[-1]}"


def incomplete_lines(views: Iterable[RunView]) -> list[str]:
    """One line for each run with a shard that is not committed."""
    return [f"{view.run.id}: {why}" for view in views if (why := incomplete(view.run))]


def lost_lines(url: Url, known: Collection[str]) -> list[str]:
    """One line for each run of the store whose record is lost. known: ids of all other runs."""
    return [f"{run.id}: left out, {LOST}." for run in open_store(url).lost(known)]


def unreadable_line(view: RunView) -> str:
    """A line for a run that was not named and whose plan cannot be read."""
    return f"{view.run.id}: left out, its plan cannot be read ({view.problem})"


def incomplete(run: Run) -> str | None:
    """Which shards of `run` are not committed, what follows, and the next command; else None."""
    gaps, commands = _gaps(run)
    if not gaps:
        return None
    used, planned = run.n_prompts, run.plan.prompts.count
    counts = f"it counts as its first {used} of {planned} prompts" if used else "it is left out"
    rule = ": prompts count up to the first such shard" if run.shards else ""
    return f"{gaps}, so {counts}{rule}. {commands}"


def warn_of_incomplete(views: Iterable[RunView]) -> None:
    """A Python warning for each of `incomplete_lines`, at the line that called the caller."""
    for line in incomplete_lines(views):
        warnings.warn(line, stacklevel=3)


def warn_of_absent_tokens(runs: Iterable[Run]) -> None:
    """The same for tables that have the rows of every committed shard, behind a gap too."""
    for run in runs:
        gaps, commands = _gaps(run)
        if gaps:
            line = f"{run.id}: {gaps}, so it has no rows of their prompts. {commands}"
            warnings.warn(line, stacklevel=3)


def _gaps(run: Run) -> tuple[str, str]:
    """The shards that are not committed, and the commands that compute them; empty for none."""
    of, where = run.plan.n_shards, run.path.parent.parent
    there = list(run.left_out)
    absent = [k for k in run.missing_shards if k not in there]
    gaps, commands = [], []
    if there:
        gaps.append(f"{len(there)} of {of} shards have no valid record ({listed_numbers(there)})")
        commands.append(
            f"`lpp-capture repair {shlex.quote(str(where))}` computes such shards again."
        )
    if len(absent) == of:
        gaps.append("no shard is committed yet")
    elif absent:
        gaps.append(f"{len(absent)} of {of} shards are missing ({listed_numbers(absent)})")
    if absent:
        again = "`lpp-capture run` command"
        if run.plan.model.source == "given":
            imported = run.plan.compute.backend in PROJECTS
            again = "`lpp-capture import` command" if imported else "call of lpp.store.sink"
        commands.append(f"Repeat the {again}: it resumes.")
    return " and ".join(gaps), " ".join(commands)
