"""What runs that keep moments and no rows cannot tell of, in words."""

from collections.abc import Callable, Sequence

from lpp.analyze.runs.keys import RunView
from lpp.store.errors import ErrorKind, InputError


def listed_numbers(numbers: Sequence[int]) -> str:
    """Numbers for a message; many of them by their ends.

    >>> listed_numbers([1, 2]), listed_numbers(range(10, 200, 10))
    ('1, 2', '10, 20, 30, 40, ..., 190')
    """
    if len(numbers) <= 12:
        return ", ".join(map(str, numbers))
    return f"{', '.join(map(str, numbers[:4]))}, ..., {numbers[-1]}"


def held_sizes(view: RunView) -> list[int]:
    """Numbers of prompts that moments tell of: whole shards, as far as they are committed."""
    return [end for end in view.run.plan.shards[1:] if end <= view.run.n_prompts]


def check_requested(
    views: Sequence[RunView],
    contexts: Sequence[int] | None,
    prompts: Sequence[int] | None,
    skip_first: Sequence[int],
) -> None:
    """InputError for a number asked for that no run has ranks at, where some have rows of it."""
    for size in prompts or ():
        if not any(view.rank_sizes([size]) for view in views):
            _refuse(f"--prompts {size}", views, "prompts", held_sizes)
    for context in contexts or ():
        if not any(view.rank_prefixes(context) for view in views if view.contexts([context])):
            _refuse(f"--context {context}", views, "prefixes", lambda view: view.moment_ends)
    for first in skip_first:
        if not any(
            view.rank_prefixes(context, first)
            for view in views
            for context in view.contexts(contexts)
        ):
            _refuse(f"--skip-first {first}", views, "positions", lambda view: view.moment_ends)


def _refuse(
    what: str, views: Sequence[RunView], unit: str, numbers_of: Callable[[RunView], Sequence[int]]
) -> None:
    stored = "; ".join(f"{view.run.id} {listed_numbers(numbers_of(view))}" for view in views)
    raise InputError(
        f"{what}: no rows are kept here, and no moments of that. There are moments of these "
        f"{unit}: {stored}. Ask for one of them, or capture again with --keep both.",
        kind=ErrorKind.INVALID_VALUE,
    )


def moments_lines(
    view: RunView,
    contexts: Sequence[int] | None,
    prompts: Sequence[int] | None,
    skip_first: Sequence[int] = (0,),
) -> list[str]:
    """One line for each axis on which the moments of a run tell less than was asked for."""
    if view.run.plan.keeps_rows:
        return []
    lines = []
    for context in view.contexts(contexts):
        stored = view.rank_prefixes(context)
        if len(stored) < len(view.prefixes(context)):
            where = f"at {listed_numbers(stored)} alone" if stored else "nowhere"
            lines.append(
                f"{view.run.id}: keeps moments, so context {context} has ranks {where}, and no "
                "profile of them"
            )
    unheld = [first for first in skip_first if first not in (0, *view.moment_ends)]
    if unheld:
        lines.append(
            f"{view.run.id}: keeps moments, so it has no ranks from position "
            f"{listed_numbers(unheld)} on: skip {listed_numbers(view.moment_ends)}"
        )
    lost = [n for n in view.sizes(prompts) if n not in view.rank_sizes(prompts)]
    if lost:
        lines.append(
            f"{view.run.id}: keeps moments, so it has no ranks of {listed_numbers(lost)} prompts: "
            f"ask for {listed_numbers(held_sizes(view))}"
        )
    return lines
