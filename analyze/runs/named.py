"""Runs by what a command calls them: an id, a short name, or a pattern of either."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Final

from lpp.analyze.runs.keys import RunView, Url, views
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.plan import Plan
from lpp.store.format.run_names import plan_name, run_names

FEW_RUNS: Final = 6
"""Runs that a message lists, a line each."""


def plans_of(views: Iterable[RunView]) -> dict[str, Plan]:
    """The plan of each run by its id."""
    return {view.run.id: view.run.plan for view in views}


def run_named(url: Url, name: str) -> RunView:
    """The run of that id, or the only one whose id or short name begins so or fits the pattern.

    Raises InputError where there is no such run, or several.
    """
    every = {view.run.id: view for view in views(url)}
    if not every:
        raise no_runs(url)
    found = [run for run in every if name == run]
    found = found or [run for run in every if run.startswith(name) or fnmatchcase(run, name)]
    plans = plans_of(every.values())
    found = found or called(name, plans, or_begins=True)
    if len(found) != 1 or not name:
        if found and name:
            why = f"{len(found)} runs:{_run_lines(found, plans)}"
        else:
            why = f"no run; {_runs_near(name, plans)}"
        raise InputError(
            f"{url}: {name!r} names {why}\nGive the id or the name of a run, or as much of it as "
            "tells it from the others.",
            kind=ErrorKind.NOT_FOUND,
        )
    return every[found[0]]


def store_and_run(store: Url, name: str) -> tuple[Url, str]:
    """Where a run is looked for, and by what name: `STORE::RUN`, or a name alone of `store`.

    >>> store_and_run("./lpp", "base"), store_and_run("./lpp", "./other::base")
    (('./lpp', 'base'), ('./other', 'base'))
    """
    place, separator, run = name.rpartition("::")
    return (place if separator and place else store), run


def matching_runs(
    patterns: Sequence[str], plans: Mapping[str, Plan], *, option: str = "--run"
) -> list[str]:
    """Ids of the runs, in their order, that fit any of `patterns`.

    A pattern that fits no id is one of short names, whatever their case. plans: of every run of a
    store, by run id. Raises InputError for a pattern that fits no run.
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


def runs_fitting(pattern: str, plans: Mapping[str, Plan]) -> list[str]:
    """Ids that fit the pattern, or else ids of runs whose short name fits it; `all` is `*`."""
    wanted = "*" if pattern == "all" else pattern
    return [run for run in plans if fnmatchcase(run, wanted)] or called(wanted, plans)


def called(name: str, plans: Mapping[str, Plan], *, or_begins: bool = False) -> list[str]:
    """Ids of the runs of that short name, or else of those whose name fits the pattern.

    A run has two names: by itself, and among the other runs of `plans`. Case does not count.
    or_begins: the beginning of a name will do.
    """
    among = run_names(plans)
    names = {
        run: {plan_name(plan).casefold(), among[run].casefold()} for run, plan in plans.items()
    }
    wanted = name.casefold()
    if exact := [run for run in plans if wanted in names[run]]:
        return exact
    begins = or_begins and not any(sign in wanted for sign in "*?[")
    pattern = f"{wanted}*" if begins else wanted
    return [run for run in plans if any(fnmatchcase(n, pattern) for n in names[run])]


def no_runs(url: Url) -> InputError:
    """What a store without a run is answered."""
    return InputError(
        f"{url} holds no runs yet. `lpp-capture run --model ... --store {url}` makes one.",
        kind=ErrorKind.NOT_FOUND,
    )


def _whole_names(patterns: Sequence[str], plans: Mapping[str, Plan]) -> list[str]:
    """`patterns`, which a command line parts by commas; parts of one name are put together."""
    rest, found = list(patterns), []
    names = {
        name.casefold() for name in (*run_names(plans).values(), *map(plan_name, plans.values()))
    }
    while rest:
        ends = range(len(rest), 1, -1)
        end = next((end for end in ends if ", ".join(rest[:end]).casefold() in names), 1)
        found.append(", ".join(rest[:end]))
        del rest[:end]
    return found


def _run_lines(runs: Sequence[str], plans: Mapping[str, Plan]) -> str:
    """A line for each of some runs: its name among all runs, and its id."""
    among = run_names(plans)
    return "".join(f"\n  {among[run]}: {run}" for run in runs[:FEW_RUNS]) + (
        f"\n  and {len(runs) - FEW_RUNS} more" if len(runs) > FEW_RUNS else ""
    )


def _runs_near(text: str, plans: Mapping[str, Plan]) -> str:
    """The runs that were meant, perhaps; every run, where there are few."""
    if len(plans) <= FEW_RUNS:
        return f"there {'is' if len(plans) == 1 else 'are'}:{_run_lines([*plans], plans)}"
    among = run_names(plans)
    names = {
        name.casefold(): run
        for names in ({r: r for r in plans}, among)
        for run, name in names.items()
    }
    near = [names[n] for n in get_close_matches(text.casefold(), names, n=3, cutoff=0.5)]
    near += [run for name, run in names.items() if text.casefold() in name]
    if not near or not text:
        return f"there are {len(plans)} (`lpp-sql STORE --run provenance` lists them)."
    return f"did you mean:{_run_lines([*dict.fromkeys(near)][:3], plans)}"
