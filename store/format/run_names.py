"""Short names of runs, for people: `SmolLM2-135M-Instruct Q4_1`, `untrained, seed 0`.

A run id says which plan a run has and is unique anywhere. A name says how a run differs from the
others that stand beside it, and is unique among those alone.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from lpp.store.format.plan import Plan

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
    """The name of a run by itself: its model, and what was done to it.

    A model's folder or organisation is left out. Runs of one model on two corpora have one name.
    """
    return ", ".join((_model(plan), *_details(plan)))


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
    names = {
        run: ", ".join(_details(plan)) if one_model and any(_details(plan)) else plan_name(plan)
        for run, plan in plans.items()
    }
    for part in _APART:
        for clash in _clashes(names):
            parts = {run: part(plans[run]) for run in clash}
            if len({*parts.values()}) > 1:
                names |= {run: f"{names[run]}, {parts[run]}" for run in clash}
    for clash in _clashes(names):
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


def _clashes(names: Mapping[str, str]) -> list[list[str]]:
    """Runs by the name that they share."""
    called: dict[str, list[str]] = {}
    for run, name in names.items():
        called.setdefault(name, []).append(run)
    return [runs for runs in called.values() if len(runs) > 1]


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
