"""Find the runs that a user means: by id, by short name, or by a pattern of either.

A question about texts takes runs on a corpus. The run of an evaluation, whose prompts are requests
of a task, takes part if it is named: by a name or pattern that fits no run on a corpus.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Final, TypeVar

from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.plan import Plan
from lpp.store.format.run_names import plan_name, run_names

Plans = Mapping[str, Plan | None]
"""Plans by run id, of every run of a store. A run whose plan is unreadable, None, has no name."""

T = TypeVar("T")

FEW_RUNS: Final = 6
"""A message lists up to this many runs, one per line."""


def corpora_first(runs: Iterable[T], evaluates: Callable[[T], bool]) -> list[T]:
    """The runs on a corpus, or all runs if there is no such run. evaluates: whether a run was made
    by an evaluation.

    >>> corpora_first(["evaluation", "corpus"], lambda run: run == "evaluation")
    ['corpus']
    """
    all_runs = list(runs)
    return [run for run in all_runs if not evaluates(run)] or all_runs


def find_run(name: str, plans: Plans, where: object) -> str:
    """The id of the one run that `name` means, as of `runs_fitting`.

    where: the store, for messages. Raises InputError NOT_FOUND if no run or several runs match.
    """
    ids = runs_fitting(name, plans)
    if len(ids) != 1:
        raise InputError(f"{where}: {_why_not_one(name, plans)}", kind=ErrorKind.NOT_FOUND)
    return ids[0]


def matching_runs(
    patterns: Sequence[str], plans: Plans, *, option: str = "--run", evaluations: bool = False
) -> list[str]:
    """Ids of the runs that any of `patterns` means, in the order of `plans`.

    option: what the message calls the option. evaluations: whether a pattern means runs of
    evaluations beside those on a corpus. Raises InputError NOT_FOUND for a pattern that
    matches no run, and for the beginning of several.
    """
    matched = set()
    for pattern in _whole_names(patterns, plans):
        fitting = runs_fitting(pattern, plans, evaluations=evaluations)
        if not fitting:
            raise InputError(
                f"{option}: {_why_not_one(pattern, plans)} Name several with a pattern such as "
                "'*4 bits'.",
                kind=ErrorKind.NOT_FOUND,
            )
        matched.update(fitting)
    return [run for run in plans if run in matched]


def first_named(patterns: Sequence[str], plans: Plans) -> str | None:
    """The first run that the first of `patterns` means; None without one."""
    fitting = (runs_fitting(pattern, plans) for pattern in _whole_names(patterns, plans))
    return next((run for runs in fitting for run in runs), None)


def runs_fitting(name: str, plans: Plans, *, evaluations: bool = False) -> list[str]:
    """Ids of the runs that `name` means. One rule for every command.

    The runs whose id is `name` or matches it as a pattern; else those whose short name does, in any
    case; else the one run whose id, or else whose short name, begins with it. `all` is `*`. Runs of
    evaluations are meant only where no run on a corpus is, unless `evaluations`.
    """
    corpora = [*plans] if evaluations else corpora_first(plans, lambda run: _evaluates(plans[run]))
    return _fitting(name, corpora, plans) or _fitting(name, [*plans], plans)


def _evaluates(plan: Plan | None) -> bool:
    return plan is not None and plan.task is not None


def _fitting(name: str, runs: Sequence[str], plans: Plans) -> list[str]:
    """Those of `runs` that `name` means, whatever the other runs are called."""
    wanted = "*" if name == "all" else name
    short = _short_names(plans)
    names = {run: short[run] for run in runs if run in short}
    ids = [run for run in runs if fnmatchcase(run, wanted)] or _runs_called(wanted, names)
    if ids:
        return ids
    begun = _runs_beginning(name, runs, names)
    return begun if len(begun) == 1 else []


def _runs_called(name: str, names: Mapping[str, set[str]]) -> list[str]:
    """Ids of the runs with this short name, else of those whose short name matches the pattern."""
    wanted = name.casefold()
    exact = [run for run in names if wanted in names[run]]
    return exact or [run for run in names if any(fnmatchcase(n, wanted) for n in names[run])]


def _runs_beginning(name: str, runs: Iterable[str], names: Mapping[str, set[str]]) -> list[str]:
    """Ids that begin with `name`, else ids of the runs whose short name does."""
    if not name:
        return []
    wanted = name.casefold()
    return [run for run in runs if run.startswith(name)] or [
        run for run in names if any(n.startswith(wanted) for n in names[run])
    ]


def _short_names(plans: Plans) -> dict[str, set[str]]:
    """The short names of each run that has some: its own (`plan_name`), and the one among the other
    runs (`run_names`), in lower case.
    """
    among = names_among(plans)
    return {
        run: {plan_name(plan).casefold(), among[run].casefold()}
        for run, plan in plans.items()
        if plan is not None
    }


def _why_not_one(name: str, plans: Plans) -> str:
    """For a message: `name` means no run, or several."""
    several = runs_fitting(name, plans) or _runs_beginning(name, plans, _short_names(plans))
    if several:
        why = f"{len(several)} runs:{run_lines(several, plans)}"
    else:
        why = f"no run; {_runs_near(name, plans)}"
    return (
        f"{name!r} names {why}\nGive the id or the name of a run, or a beginning of either that no "
        "other run has, or a pattern such as '*base*'."
    )


def names_among(plans: Plans) -> dict[str, str]:
    """The short name of each run with a readable plan, by id."""
    return run_names({run: plan for run, plan in plans.items() if plan is not None})


def _whole_names(patterns: Sequence[str], plans: Plans) -> list[str]:
    """`patterns`, with the parts of a name that contains commas joined again.

    A command line splits its list of patterns at commas.
    """
    rest, joined = list(patterns), []
    plan_names = (plan_name(plan) for plan in plans.values() if plan is not None)
    names = {name.casefold() for name in (*names_among(plans).values(), *plan_names)}
    while rest:
        ends = range(len(rest), 1, -1)
        end = next((end for end in ends if ", ".join(rest[:end]).casefold() in names), 1)
        joined.append(", ".join(rest[:end]))
        del rest[:end]
    return joined


def run_lines(runs: Sequence[str], plans: Plans) -> str:
    """A line with name and id for each of the first `FEW_RUNS` of `runs`."""
    among = names_among(plans)
    return "".join(
        f"\n  {among.get(run, 'no readable plan')}: {run}" for run in runs[:FEW_RUNS]
    ) + (f"\n  and {len(runs) - FEW_RUNS} more" if len(runs) > FEW_RUNS else "")


def _runs_near(text: str, plans: Plans) -> str:
    """For a message: every run if there are few, else those whose id or name resembles `text`."""
    if not plans:
        return "the store holds no runs yet."
    if len(plans) <= FEW_RUNS:
        return f"there {'is' if len(plans) == 1 else 'are'}:{run_lines([*plans], plans)}"
    ids = {run: run for run in plans} | {
        name.casefold(): run for run, name in names_among(plans).items()
    }
    near = [ids[n] for n in get_close_matches(text.casefold(), ids, n=3, cutoff=0.5)]
    near += [run for name, run in ids.items() if text.casefold() in name]
    if not near or not text:
        return f"there are {len(plans)} (`lpp-sql STORE --run provenance` lists them)."
    return f"did you mean:{run_lines([*dict.fromkeys(near)][:3], plans)}"
