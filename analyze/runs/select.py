"""What a command asks of a store: runs, sites, contexts and numbers of prompts, checked."""

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import chain
from typing import Final

from lpp.analyze.questions import Selection
from lpp.analyze.runs.incomplete import incomplete_lines, lost_lines, unreadable_line
from lpp.analyze.runs.keys import RunView, Url, views
from lpp.analyze.runs.named import no_runs, plans_of
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.quarantine import QuarantineSummary
from lpp.store.format.run_names import matching_runs
from lpp.store.runs.read import Run

SHORT_LIST: Final = 200
"""Characters of a list of names that a message holds."""


def select_runs(url: Url, selection: Selection) -> tuple[list[RunView], list[str]]:
    """The selected runs with a prompt that can be analysed, and a line for each incomplete run.

    Runs of evaluations are selected only if they are named (`store.format.run_names`). A run whose
    first shard is not committed has no such prompt: a line alone speaks of it. Raises InputError
    when there is no other, when a pattern fits no run, or when no selected run holds a context, a
    number of prompts or a first position asked for.
    """
    return select_among(url, views(url), selection)


def select_among(
    url: Url, runs: Iterable[RunView], selection: Selection
) -> tuple[list[RunView], list[str]]:
    """`select` for `runs`, which are all runs of the store."""
    by_id = {view.run.id: view for view in runs}
    if not by_id:
        raise no_runs(url)
    names = matching_runs(selection.runs, plans_of(by_id.values()))
    chosen = [by_id[name] for name in names]
    usable = [view for view in chosen if view.run.n_prompts]
    unread = (view for name, view in by_id.items() if view.problem and name not in names)
    lines = [*incomplete_lines(chosen), *lost_lines(url, by_id), *map(unreadable_line, unread)]
    if not usable:
        raise InputError(
            f"{url}: no prompt can be analysed. {' '.join(lines)}",
            kind=ErrorKind.INCOMPLETE,
        )
    contexts = {view.run.id: view.run.plan.context for view in usable}
    sizes = {view.run.id: view.run.n_prompts for view in usable}
    _check_held("--context", selection.contexts, contexts, "tokens")
    _check_held("--prompts", selection.prompts, sizes, "prompts")
    _check_skipped(selection, contexts)
    return usable, lines


def select_sites(
    views: Iterable[RunView], selection: Selection, *, routers: bool = False
) -> list[str]:
    """The selected sites of `views`; routers: also theirs. InputError if a pattern fits none."""
    runs = [view.run for view in views]
    sites = dict.fromkeys(s for r in runs for s in r.activation_sites + router_sites(r) * routers)
    for name in {*selection.sites}.intersection(*(run.sites for run in runs)) - sites.keys():
        raise InputError(
            f"site {name} holds integers or what a router gives, which have no spectrum. Read it "
            'with Run.blocks(..., dtype="stored").'
        )
    if not sites:
        raise InputError(
            "no run holds hidden states, which have spectra. Capture some, such as --sites "
            "final,routers.",
            kind=ErrorKind.NOT_FOUND,
        )
    return matching("site", selection.sites, sites)


def router_sites(run: Run) -> tuple[str, ...]:
    """The sites of `run` that hold ids of experts, in depth order."""
    sites = (site for site in run.plan.sites if site.convention == "router")
    return tuple(site.name for site in sites if run.plan.holds_integers(site))


def check_dropped(
    views: Iterable[RunView], selection: Selection, prefixes: Collection[int]
) -> None:
    """Raise InputError if one of `prefixes`, which profiles leave out, is no prefix of any run, or
    if they are all prefixes of a context.
    """
    schedules = [
        view.prefixes(context) for view in views for context in view.contexts(selection.contexts)
    ]
    there = sorted(set(chain(*schedules)))
    for prefix in prefixes:
        if prefix not in there:
            raise InputError(
                f"--drop-prefixes {prefix}: no such prefix. There is {', '.join(map(str, there))}."
            )
    for schedule in schedules:
        if set(schedule) <= set(prefixes):
            raise every_prefix_dropped(schedule)


def every_prefix_dropped(present: Iterable[int]) -> InputError:
    """The error of a profile that would leave out all of the prefixes `present`."""
    return InputError(
        f"every prefix of a schedule was dropped; there is {', '.join(map(str, present))}. "
        "Leave at least one of each context: --drop-prefixes takes the lengths to leave out."
    )


def n_sites(views: Iterable[RunView], sites: Collection[str]) -> int:
    """How many of `sites` the runs hold in all."""
    return sum(site in sites for view in views for site in view.run.activation_sites)


def matching(
    kind: str, patterns: Iterable[str], names: Collection[str], *, option: str | None = None
) -> list[str]:
    """The `names` that fit any of `patterns`, in their order; `all` is `*`.

    option: what names them on a command line; `--kind` by default. Raises InputError for a pattern
    that fits no name.

    >>> matching("site", ["final", "block.*"], ["embed", "block.1", "block.2", "final"])
    ['block.1', 'block.2', 'final']
    """
    matches = set()
    for pattern in patterns:
        fitting = {n for n in names if fnmatchcase(n, "*" if pattern == "all" else pattern)}
        if not fitting:
            raise InputError(
                f"no {kind} {pattern!r}; {nearest(pattern, names)} "
                f"Name one with {option or f'--{kind}'}, or several with a pattern.",
                kind=ErrorKind.NOT_FOUND,
            )
        matches |= fitting
    return [name for name in names if name in matches]


def nearest(pattern: str, names: Collection[str]) -> str:
    """For a message: the names that resemble `pattern`, and every name if the list is short.

    >>> nearest("fianl", ["embed", "block.1", "final"])
    'did you mean final? There is embed, block.1, final.'
    >>> nearest("mmlu", ["embed", "block.1", "final"])
    'there is embed, block.1, final.'
    >>> nearest("mmlu", [])
    'there is none.'
    """
    near = get_close_matches(pattern, names, n=3, cutoff=0.5)
    near += [name for name in names if pattern in name and name not in near][: 3 - len(near)]
    available = (
        f"is {listed(names) or 'none'}" if len(listed(names)) <= SHORT_LIST else f"are {len(names)}"
    )
    if not near:
        return f"there {available}."
    guess = f"did you mean {' or '.join(near)}?"
    return f"{guess} There {available}." if available.startswith("is") else guess


def listed(names: Collection[str]) -> str:
    """Names for a message; a long row of blocks, or of routers, by its ends.

    >>> listed(["embed", *(f"block.{k}" for k in range(1, 31)), "final"])
    'embed, block.1 to block.30, final'
    """
    short = {name: name for name in names}
    for kind in ("block.", "router."):
        row = [name for name in names if name.startswith(kind)]
        if len(row) >= 4:
            short = {name: short[name] for name in short if name not in row[1:]}
            short[row[0]] = f"{row[0]} to {row[-1]}"
    return ", ".join(short.values())


def shortfalls(views: Iterable[RunView], selection: Selection) -> list[str]:
    """A line for each run that lacks something asked for, or from which prompts are left out."""
    lines = []
    for view in views:
        run = view.run
        contexts = [c for c in selection.contexts or () if c > run.plan.context]
        if contexts:
            lines.append(
                f"{run.id}: captured at context {run.plan.context}, so it has no rows at "
                f"{', '.join(map(str, contexts))}"
            )
        sizes = [n for n in selection.prompts or () if n > run.n_prompts]
        if sizes:
            lines.append(
                f"{run.id}: {run.n_prompts} prompts are committed, so it has no rows at "
                f"{', '.join(map(str, sizes))}"
            )
        if aside := view.quarantined(run.n_prompts):
            why = _why_aside(run.set_aside())
            lines.append(
                f"{run.id}: {aside} of {run.n_prompts} prompts are set aside ({why}), so no number "
                "is of them"
            )
        own = [site.name for site in run.plan.sites if site.convention != "router"]
        if integers := [site for site in own if site not in run.activation_sites]:
            lines.append(
                f"{run.id}: {listed(integers)} {'hold' if len(integers) > 1 else 'holds'} "
                "integers, which have no spectrum"
            )
        if branches := len(view.excluded) - len(view.set_aside):
            lines.append(
                f"{run.id}: {branches} of {run.n_prompts} prompts are answers that branch off "
                "others, so no number is of them (lpp-analyze items)"
            )
    return lines


def _why_aside(summary: QuarantineSummary) -> str:
    if summary.first_site:
        return f"NaN or infinities from {summary.first_site} on"
    return "out of memory" if summary.out_of_memory else "their collector has no rows"


def _check_held(
    option: str, requested: Sequence[int] | None, captured: dict[str, int], unit: str
) -> None:
    most = max(captured.values())
    for number in requested or ():
        if number < 1:
            raise InputError(f"{option} {number}: it must be at least 1.")
        if number > most:
            least = min(captured.values())
            held_range = f"{most}" if least == most else f"{least} to {most}"
            raise InputError(
                f"{option} {number}: no run holds that many. Each run has {held_range} {unit}. "
                f"Ask for 1 to {most}, or capture more."
            )


def _check_skipped(selection: Selection, captured: dict[str, int]) -> None:
    longest = max(selection.contexts or captured.values())
    for first in selection.skip_first:
        if not 0 <= first < longest:
            raise InputError(
                f"--skip-first {first}: the longest context here has {longest} positions. "
                f"Skip 0 to {longest - 1}."
            )
