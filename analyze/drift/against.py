"""Every run of a store against one of them, one comparison at a time.

A `Drift` has a row for each token, so only one comparison is in memory at a time, whatever the
number of runs.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import polars as pl

from lpp.analyze.drift.drift import drift
from lpp.analyze.drift.pair import Pair, differences, pair_of, run_of
from lpp.analyze.drift.sites import common_sites
from lpp.analyze.drift.tables import Drift
from lpp.analyze.engine.executor import Executor
from lpp.analyze.questions import DiffSettings
from lpp.analyze.runs.comparable import n_shared
from lpp.analyze.runs.keys import RunView, Url, views
from lpp.analyze.runs.named import names_of, plans_of
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.run_names import matching_runs
from lpp.store.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True)
class Against:
    """A base run and the runs that are compared with it."""

    base: RunView
    """Run A of every pair."""
    pairs: Sequence[Pair]
    left_out: pl.DataFrame
    """A row for each other run that cannot be compared with it: `run`, `why`, and whether it is
    `undecided`: it should have been compared, so that no gate passes without it. Those are runs
    that were named, and runs whose first prompt is that of the base."""
    names: Mapping[str, str]
    """Names of the base and of all other runs, compared or left out, by run id."""

    @property
    def steps(self) -> dict[str, int]:
        """Step of each run B, by id and ascending, if all are checkpoints of one training."""
        series = {pair.b.run.id: pair.b.run.plan.model.series for pair in self.pairs}
        steps = {run: of.step for run, of in series.items() if of is not None}
        trainings = {None if of is None else of.name for of in series.values()}
        if len(series) < 2 or len(trainings) > 1 or len({*steps.values()}) < len(series):
            return {}
        return dict(sorted(steps.items(), key=lambda run: run[1]))

    def from_last(self, settings: DiffSettings) -> list[tuple[Pair, DiffSettings]]:
        """Along a training also its last checkpoint and each other one, to be compared at their
        deepest site; without a pair that has no site or prompt in common.
        """
        runs = {pair.b.run.id: pair.b.run for pair in self.pairs}
        ordered = [runs[run] for run in self.steps]
        found = []
        for run in ordered[:-1]:
            with suppress(InputError):
                pair = pair_of(ordered[-1], run, settings.prompts, cluster=settings.cluster)
                deepest = common_sites(pair, settings.sites)[-1:]
                found.append((pair, replace(settings, sites=deepest, errors=None, rerun=None)))
        return found

    @property
    def undecided(self) -> dict[str, str]:
        """Why each run that is undecided is left out, by run id."""
        return dict(self.left_out.filter("undecided").select("run", "why").iter_rows())

    @property
    def lines(self) -> list[str]:
        """One line about each run that is left out."""
        rows = self.left_out.select("run", "why").iter_rows()
        return [f"{run} is left out: {why}." for run, why in rows]


def diff_against(
    store: Url,
    base: str,
    runs: Sequence[str] | None = None,
    settings: DiffSettings = DiffSettings(),
    *,
    metrics: Sequence[str] = (),
    jobs: int | None = None,
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> Iterator[Drift]:
    """What changed from run `base` to each of `runs`, one comparison after another.

    base, runs: run ids or names, their beginnings, or patterns; `STORE::RUN` for another
    store. A pattern in `runs` may match several runs. runs: every other run of the store by
    default. Other arguments: of `diff`. Without a number of prompts, all that a run shares with
    `base` are compared; their number may differ between runs.

    A run that cannot be compared with `base` is left out with a Python warning. Each Drift has a
    row for each token: delete one before the next is made. Raises InputError, at the call, if no
    run is left.
    """
    selection = against(store, base, runs, settings)
    for line in selection.lines:
        warnings.warn(line, stacklevel=2)
    return (
        drift(pair, settings, metrics=metrics, jobs=jobs, executor=executor, progress=progress)
        for pair in selection.pairs
    )


def against(
    store: Url,
    base: str,
    runs: Sequence[str] | None = None,
    settings: DiffSettings = DiffSettings(),
) -> Against:
    """The runs that can be compared with `base`, and why others cannot. Computes nothing.

    Arguments of `diff_against`. Raises InputError if no run has a given name, if no run can be
    compared with `base`, or if no run is left.
    """
    of_base = run_of(store, base)
    itself = pair_of(of_base.run, of_base.run, cluster=settings.cluster)
    common_sites(itself, settings.sites)
    named = _named(store, runs, of_base.run.plan.task)
    others = {view.run.path: view for view in named if view.run.path != of_base.run.path}
    if not others:
        raise InputError(
            f"{store}: there is no run to compare with {of_base.run.id}, which is the only one "
            f"{'of the store' if runs is None else 'named'}. Capture another model on the same "
            "prompts, or name runs behind --against.",
            kind=ErrorKind.NOT_FOUND,
        )
    pairs, left_out = [], dict[str, tuple[str, bool]]()
    for view in others.values():
        why = _why_not(of_base, view, settings.prompts)
        if why is None:
            try:
                pair = pair_of(of_base.run, view.run, settings.prompts, cluster=settings.cluster)
                common_sites(pair, settings.sites)
            except InputError as error:
                why = str(error).partition("\n")[0].rstrip(".")
            else:
                pairs.append(pair)
        if why is not None:
            undecided = runs is not None or _read_alike(of_base, view)
            left_out[view.run.id] = why, undecided
    if not pairs:
        raise InputError(
            f"no run can be compared with {of_base.run.id}. "
            + " ".join(f"{run}: {why}." for run, (why, _) in left_out.items())
            + " `lpp-analyze diff STORE RUN_A RUN_B` of two of them names the command that makes "
            "them comparable."
        )
    names = names_of(view.run for view in (of_base, *others.values()))
    rows = [(run, why, undecided) for run, (why, undecided) in left_out.items()]
    schema = {"run": pl.String, "why": pl.String, "undecided": pl.Boolean}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return Against(base=of_base, pairs=pairs, left_out=frame, names=names)


def _named(store: Url, runs: Sequence[str] | None, task: str | None) -> list[RunView]:
    """The runs that the names select; a pattern without a store may select several. Without names,
    every run on a corpus, or every evaluation of `task`.
    """
    if runs is None:
        return [view for view in views(store) if view.run.plan.task == task]
    chosen = []
    by_id = {view.run.id: view for view in views(store)}
    plans = plans_of(by_id.values())
    for name in runs:
        if "::" in name:
            chosen.append(run_of(store, name))
        else:
            chosen += [by_id[run] for run in matching_runs([name], plans)]
    return chosen


def _read_alike(*views: RunView) -> bool:
    """Whether the plans of all runs begin with the same prompt of the same tokenizer."""
    return (
        len(
            {
                (view.run.plan.tokenizer.fingerprint, *view.run.prompts()["sha256"].to_pylist()[:1])
                for view in views
            }
        )
        == 1
    )


def _why_not(base: RunView, other: RunView, prompts: int | None) -> str | None:
    """A few words on why two runs cannot be compared over `prompts`; None if they can."""
    if not other.run.n_prompts:
        return "no prompt of it can be analysed"
    if base.run.plan.tokenizer.fingerprint != other.run.plan.tokenizer.fingerprint:
        return "another tokenizer"
    shared = n_shared(base, other)
    if not shared:
        return f"other prompts ({'; '.join(differences(base, other, 0))})"
    if prompts is not None and shared < prompts:
        return f"it shares {shared} prompts, fewer than the {prompts} of --prompts"
    return None
