"""Names of runs, for people: `SmolLM2-135M-Instruct Q4_1`, `untrained, seed 0`; and the runs that a
user means by an id, a name, or a pattern of either.

A run id says which plan a run has and is unique anywhere. A name is what the user chose (`--name`),
or says how a run differs from the others of its store; it is unique in the store.

A question about texts takes runs on a corpus. The run of an evaluation, whose prompts are requests
of a task, takes part if it is named: by a name or pattern that fits no run on a corpus.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Final, TypeVar

from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.plan import MAX_SERIES_BYTES, Plan

_WEIGHTS: Final = re.compile(
    r"[-._ ]((?:UD[-_])?(?:I?Q[2-8](?:[-_][0-9A-Z]+)*|TQ[12]_0|MXFP4|BF16|F16|F32))$", re.IGNORECASE
)
"""How the weights of a GGUF file are stored, at the end of its name."""

_APART: Final[tuple[Callable[[Plan], str], ...]] = (
    lambda plan: _last(plan.corpus.name),
    lambda plan: f"context {plan.context}",
    lambda plan: f"{plan.prompts.count} prompts",
    lambda plan: plan.compute.dtype,
    lambda plan: plan.compute.backend,
    lambda plan: f"rows in {plan.rows_dtype}",
    lambda plan: f"beginnings {plan.compute.beginnings or 'not recorded'}",
)
"""What tells runs of one model apart, in the order in which a reader asks."""


def plan_name(plan: Plan) -> str:
    """The name of a run by itself: what the user chose; else its model, and what was done to it.

    A model's folder or organisation is left out. Runs of one model on two corpora have one name.
    """
    return plan.name or ", ".join((_model(plan), *_details(plan)))


def name_problem(name: str) -> str | None:
    """Why a user may not call a run `name`; None if it is allowed.

    >>> name_problem("base, 4 bits") is None, name_problem("base 4 bits")
    (False, None)
    """
    short = 0 < len(name.encode()) <= MAX_SERIES_BYTES and name == name.strip()
    if short and name.isprintable() and name != "all" and not re.search(r"[,/*?\[\]]|::", name):
        return None
    return f"give 1 to {MAX_SERIES_BYTES} bytes of printable text, without , / * ? [ ] and ::"


def run_names(plans: Mapping[str, Plan]) -> dict[str, str]:
    """A name for each run, distinct among them. plans: by run id.

    Where all runs are of one model, a run of which more is known, such as the seed of its random
    weights, leaves out the model. Runs that would have one name get their corpus, context, number
    of prompts, dtype, backend, dtype of rows or beginnings of branches, as far as these
    differ, and at last the eight digits of their plan's hash. Runs on a corpus are called what they
    would be called without the runs of evaluations beside them.
    """
    corpora = {run: plan for run, plan in plans.items() if plan.task is None}
    return _distinct(plans) | _distinct(corpora)


def _distinct(plans: Mapping[str, Plan]) -> dict[str, str]:
    """`run_names` without the rule on evaluations."""
    one_model = len(plans) > 1 and len({_model(plan) for plan in plans.values()}) == 1
    details = {run: ", ".join(_details(plan)) for run, plan in plans.items() if one_model}
    return told_apart(
        {run: plan.name or details.get(run) or plan_name(plan) for run, plan in plans.items()},
        plans,
    )


def told_apart(names: Mapping[str, str], plans: Mapping[str, Plan]) -> dict[str, str]:
    """`names`, by run id, with more words where several runs have one name."""
    names = dict(names)
    for part in _APART:
        for clash in _clashes(names, plans):
            parts = {run: part(plans[run]) for run in clash}
            if len({*parts.values()}) > 1:
                names |= {run: f"{names[run]}, {parts[run]}" for run in clash}
    for clash in _clashes(names, plans):
        names |= {run: f"{names[run]} {plans[run].hash[:8]}" for run in clash}
    return names


def name_and_id(name: str, run: str, width: int = 80) -> str:
    """A name and the run's id on one line, or on two where `width` columns do not hold both.

    >>> print(name_and_id("untrained, seed 0", "tiny-c00026be"))
    untrained, seed 0  tiny-c00026be
    """
    between = "  " if len(name) + 2 + len(run) <= width else "\n  "
    return f"{name}{between}{run}"


def name_lines(names: Mapping[str, str], width: int = 80) -> str:
    """A line for each run, its name and its id, ids below each other. A name that is too long for
    both in `width` columns has a line of its own.

    >>> print(name_lines({"smol-1": "smol", "smol-2": "untrained, seed 0"}))
    smol               smol-1
    untrained, seed 0  smol-2
    <BLANKLINE>
    """
    longest = max(map(len, names), default=0)
    margin = min(max(map(len, names.values()), default=0), max(width - 2 - longest, 0))
    return "".join(
        (f"{name:<{margin}}" if len(name) <= margin else f"{name}\n{'':<{margin}}") + f"  {run}\n"
        for run, name in names.items()
    )


def _clashes(names: Mapping[str, str], plans: Mapping[str, Plan]) -> list[list[str]]:
    """Runs that share a name, without the one of them, if it is one, whose user chose it."""
    called: dict[str, list[str]] = {}
    for run, name in names.items():
        called.setdefault(name, []).append(run)
    chosen = {name: [run for run in runs if plans[run].name] for name, runs in called.items()}
    return [
        [run for run in runs if chosen[name] != [run]]
        for name, runs in called.items()
        if len(runs) > 1
    ]


def _model(plan: Plan) -> str:
    """The last part of the model's id, the type of a GGUF file's weights in capitals."""
    name = _last(plan.model.id.partition(", ")[0])
    name = re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)
    return _WEIGHTS.sub(lambda match: " " + match[1].replace("-", "_").upper(), name)


def _details(plan: Plan) -> Iterator[str]:
    """What was done to the model: `rounded to 4 bits`, `untrained, seed 0`, `step 1000`, `nf4`."""
    if changed := plan.model.id.partition(", ")[2]:
        yield changed
    if plan.model.untrained_seed is not None:
        yield f"untrained, seed {plan.model.untrained_seed}"
    if plan.model.series is not None:
        yield f"step {plan.model.series.step}"
    if plan.compute.quantization is not None:
        yield plan.compute.quantization


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


Plans = Mapping[str, Plan | None]
"""Plans by run id, of every run of a store. A run whose plan is unreadable, None, has no name."""

_T = TypeVar("_T")

RUN_HELP: Final = "Use this run: id, name, unique beginning of either, or pattern such as 'smol*'."
"""Help of every RUN."""

FEW_RUNS: Final = 6
"""A message lists up to this many runs, one per line."""


def corpora_first(runs: Iterable[_T], evaluates: Callable[[_T], bool]) -> list[_T]:
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


def matching_runs(patterns: Sequence[str], plans: Plans, *, evaluations: bool = False) -> list[str]:
    """Ids of the runs that any of `patterns` means, in the order of `plans`.

    evaluations: whether a pattern means runs of evaluations beside those on a corpus. Raises
    InputError NOT_FOUND for a pattern that matches no run, and for the beginning of several.
    """
    matched = set()
    for pattern in patterns:
        fitting = runs_fitting(pattern, plans, evaluations=evaluations)
        if not fitting:
            raise InputError(
                f"RUN: {_why_not_one(pattern, plans)} Name several with a pattern such as "
                "'*4 bits'.",
                kind=ErrorKind.NOT_FOUND,
            )
        matched.update(fitting)
    return [run for run in plans if run in matched]


def first_named(patterns: Sequence[str], plans: Plans) -> str | None:
    """The first run that the first of `patterns` means; None without one."""
    fitting = (runs_fitting(pattern, plans) for pattern in patterns)
    return next((run for runs in fitting for run in runs), None)


def runs_fitting(name: str, plans: Plans, *, evaluations: bool = False) -> list[str]:
    """Ids of the runs that `name` means. One rule for every command.

    The runs whose id is `name` or matches it as a pattern; else those whose name does, in any case;
    else the one run whose id, or else whose name, begins with it. `all` is `*`. Runs of evaluations
    are meant only where no run on a corpus is, unless `evaluations`.
    """
    corpora = [*plans] if evaluations else corpora_first(plans, lambda run: _evaluates(plans[run]))
    return _fitting(name, corpora, plans) or _fitting(name, [*plans], plans)


def _evaluates(plan: Plan | None) -> bool:
    return plan is not None and plan.task is not None


def _fitting(name: str, runs: Sequence[str], plans: Plans) -> list[str]:
    """Those of `runs` that `name` means, whatever the other runs are called."""
    wanted = "*" if name == "all" else name
    if ids := [run for run in runs if fnmatchcase(run, wanted)]:
        return ids  # without the names, which take longer than all else
    short = _names_of_each(plans)
    names = {run: short[run] for run in runs if run in short}
    if ids := _runs_called(wanted, names):
        return ids
    begun = _runs_beginning(name, runs, names)
    return begun if len(begun) == 1 else []


def _runs_called(name: str, names: Mapping[str, set[str]]) -> list[str]:
    """Ids of the runs with this name, else of those whose name matches the pattern."""
    wanted = name.casefold()
    exact = [run for run in names if wanted in names[run]]
    return exact or [run for run in names if any(fnmatchcase(n, wanted) for n in names[run])]


def _runs_beginning(name: str, runs: Iterable[str], names: Mapping[str, set[str]]) -> list[str]:
    """Ids that begin with `name`, else ids of the runs whose name does."""
    if not name:
        return []
    wanted = name.casefold()
    return [run for run in runs if run.startswith(name)] or [
        run for run in names if any(n.startswith(wanted) for n in names[run])
    ]


def _names_of_each(plans: Plans) -> dict[str, set[str]]:
    """What each run with a readable plan is found by, in lower case: its name (`run_names`), and
    `plan_name` unless that is the name of a run.
    """
    among = names_among(plans)
    names = {name.casefold() for name in among.values()}
    return {
        run: {among[run].casefold(), *({plan_name(plan).casefold()} - names)}
        for run, plan in plans.items()
        if plan is not None
    }


def _why_not_one(name: str, plans: Plans) -> str:
    """For a message: `name` means no run, or several."""
    several = runs_fitting(name, plans) or _runs_beginning(name, plans, _names_of_each(plans))
    if several:
        why = f"{len(several)} runs:{run_lines(several, plans)}"
    else:
        why = f"no run; {_runs_near(name, plans)}"
    return (
        f"{name!r} names {why}\nGive the id or the name of a run, or a beginning of either that no "
        "other run has, or a pattern such as '*base*'."
    )


def names_among(plans: Plans) -> dict[str, str]:
    """The name of each run with a readable plan, by id."""
    return run_names({run: plan for run, plan in plans.items() if plan is not None})


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
