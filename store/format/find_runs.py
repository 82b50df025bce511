"""Find the runs that a user means: by id, by short name, or by a pattern of either."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Final

from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.plan import Plan
from lpp.store.format.run_names import plan_name, run_names

Plans = Mapping[str, Plan | None]
"""Plans by run id, of every run of a store. A run whose plan is unreadable, None, has no name."""

FEW_RUNS: Final = 6
"""A message lists up to this many runs, one per line."""


def find_run(name: str, plans: Plans, where: object) -> str:
    """The id of the one run that `name` means.

    name: an id, a short name, the beginning of either, or a pattern. where: the store, for
    messages. Raises InputError NOT_FOUND if no run or several runs match.
    """
    found = [run for run in plans if run == name]
    found = found or [run for run in plans if run.startswith(name) or fnmatchcase(run, name)]
    found = found or _runs_called(name, plans, or_begins=True)
    if len(found) == 1 and name:
        return found[0]
    if found and name:
        why = f"{len(found)} runs:{run_lines(found, plans)}"
    else:
        why = f"no run; {_runs_near(name, plans)}"
    raise InputError(
        f"{where}: {name!r} names {why}\nGive the id or the name of a run, or as much of it as "
        "tells it from the others.",
        kind=ErrorKind.NOT_FOUND,
    )


def matching_runs(patterns: Sequence[str], plans: Plans, *, option: str = "--run") -> list[str]:
    """Ids of the runs that match any of `patterns`, in the order of `plans`.

    A pattern that matches no id is compared with short names, ignoring case. option: what the
    message calls the option. Raises InputError NOT_FOUND for a pattern that matches no run.
    """
    found = set()
    for pattern in _whole_names(patterns, plans):
        fitting = runs_fitting(pattern, plans)
        if not fitting:
            raise InputError(
                f"no run {pattern!r}; {_runs_near(pattern, plans)}\nName one with {option} by its "
                "id or its name, or several with a pattern such as '*4 bits'.",
                kind=ErrorKind.NOT_FOUND,
            )
        found.update(fitting)
    return [run for run in plans if run in found]


def runs_fitting(pattern: str, plans: Plans) -> list[str]:
    """Ids that match the pattern, else ids of runs whose short name matches it; `all` is `*`."""
    wanted = "*" if pattern == "all" else pattern
    return [run for run in plans if fnmatchcase(run, wanted)] or _runs_called(wanted, plans)


def _runs_called(name: str, plans: Plans, *, or_begins: bool = False) -> list[str]:
    """Ids of the runs with this short name, else of those whose short name matches the pattern.

    A run has two short names: its own (`plan_name`) and the one among the other runs
    (`run_names`). Case is ignored. or_begins: the beginning of a name is enough.
    """
    among = names_among(plans)
    names = {
        run: {plan_name(plan).casefold(), among[run].casefold()}
        for run, plan in plans.items()
        if plan is not None
    }
    wanted = name.casefold()
    if exact := [run for run in names if wanted in names[run]]:
        return exact
    begins = or_begins and not any(sign in wanted for sign in "*?[")
    pattern = f"{wanted}*" if begins else wanted
    return [run for run in names if any(fnmatchcase(n, pattern) for n in names[run])]


def names_among(plans: Plans) -> dict[str, str]:
    """The short name of each run with a readable plan, by id."""
    return run_names({run: plan for run, plan in plans.items() if plan is not None})


def _whole_names(patterns: Sequence[str], plans: Plans) -> list[str]:
    """`patterns`, with the parts of a name that contains commas joined again.

    A command line splits its list of patterns at commas.
    """
    rest, found = list(patterns), []
    own = (plan_name(plan) for plan in plans.values() if plan is not None)
    names = {name.casefold() for name in (*names_among(plans).values(), *own)}
    while rest:
        ends = range(len(rest), 1, -1)
        end = next((end for end in ends if ", ".join(rest[:end]).casefold() in names), 1)
        found.append(", ".join(rest[:end]))
        del rest[:end]
    return found


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
