"""Which run a source's model name means.

In this order: what the user said (`--match NAME=RUN`); the exact model id, or the id with the
first digits of the weights' fingerprint (`tiny@1a2b3c4d`), as evaluations name a folder's model;
its normal form, which ignores case, a `.gguf` ending and an organisation that only one of the two
names has. A name that fits nothing, or two runs, is matched to none and says why. Random twins
match only when said, and runs of evaluations only where the model has no run of a corpus.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import polars as pl

from lpp.store import Run
from lpp.store.format.run_names import corpora_first


@dataclass(frozen=True, slots=True, kw_only=True)
class RunName:
    """A run as far as names go."""

    id: str
    model: str
    untrained: bool = False
    evaluation: bool = False
    """Whether an evaluation made it."""
    weights: str = ""
    """Fingerprint of the model's weights."""

    def exactly(self, name: str) -> bool:
        """Whether `name` is the model's id, alone or with the first digits of `weights`."""
        model, _, digits = name.rpartition("@")
        of_weights = model == self.model and digits != "" and self.weights.startswith(digits)
        return name == self.model or of_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a name was matched to."""

    run: str | None
    how: Literal["said", "exact", "name", "none", "several"]
    note: str = ""
    """Why there is no run; empty where there is one."""


def run_names(runs: Iterable[Run]) -> list[RunName]:
    """`runs` as far as names go."""
    return [
        RunName(
            id=run.id,
            model=run.plan.model.id,
            untrained=run.plan.model.untrained_seed is not None,
            evaluation=run.plan.task is not None,
            weights=run.plan.model.weights,
        )
        for run in runs
    ]


def match_scores(scores: pl.DataFrame, runs: Sequence[RunName]) -> pl.DataFrame:
    """`scores`, with the run that each belongs to (`fit`), how that was found (`matched`), and why
    there is none (`match_note`).

    scores: columns `source`, `model`, and `run`: what their writer said. Tasks of one source may be
    of several runs of a model, each its own evaluation.
    """
    keys = ["source", "model", "run"]
    rows = []
    pairs = scores.select(keys).unique(maintain_order=True)
    for (source,), group in pairs.group_by("source", maintain_order=True):
        names = group.select("model", "run").rows()
        stated_runs = {model: run for model, run in names if run is not None}
        fits = match_names([model for model, _ in names], runs, stated_runs)
        for model, run in names:
            other = run not in (None, stated_runs.get(model))
            fit = match_names([model], runs, {model: run})[model] if other else fits[model]
            rows.append((source, model, run, fit.run, fit.how, fit.note))
    columns = [*keys, "fit", "matched", "match_note"]
    fitted = pl.DataFrame(rows, dict.fromkeys(columns, pl.String), orient="row")
    return scores.join(fitted, on=keys, how="left", nulls_equal=True, maintain_order="left")


def match_names(
    names: Iterable[str], runs: Sequence[RunName], stated_runs: Mapping[str, str] | None = None
) -> dict[str, Fit]:
    """A `Fit` for each of `names`, all of one source; two names never share a run.

    stated_runs: name -> id of the run that the writer of its scores stated.

    >>> runs = [RunName(id="qwen2-5-3b-1a2b3c4d", model="Qwen/Qwen2.5-3B")]
    >>> match_names(["qwen2.5-3b"], runs)["qwen2.5-3b"].run
    'qwen2-5-3b-1a2b3c4d'
    """
    fits = {name: _fit(name, runs, (stated_runs or {}).get(name)) for name in dict.fromkeys(names)}
    return _parted(fits)


def runs_of(name: str, runs: Iterable[RunName]) -> list[RunName]:
    """Every run of the model that `name` means: those of its exact id where there are any."""
    trained = [run for run in runs if not run.untrained]
    exact = [run for run in trained if run.exactly(name)]
    return exact or [r for r in trained if _same(normal_form(r.model), normal_form(name))]


def _same(a: tuple[str | None, str], b: tuple[str | None, str]) -> bool:
    organisations = {a[0], b[0]} - {None}
    return a[1] == b[1] and len(organisations) < 2


def normal_form(name: str) -> tuple[str | None, str]:
    """(organisation or None, bare name), both without case; a path has no organisation.

    >>> normal_form("Qwen/Qwen2.5-3B"), normal_form("/models/Tiny.gguf"), normal_form("Tiny")
    (('qwen', 'qwen2.5-3b'), (None, 'tiny'), (None, 'tiny'))
    """
    text = name.strip().rstrip("/").casefold()
    parts = text.split("/")
    is_path = text.startswith(("/", ".", "~")) or len(parts) > 2
    organisation = parts[0] if len(parts) == 2 and not is_path else None
    return organisation, parts[-1].removesuffix(".gguf")


def _fit(name: str, runs: Sequence[RunName], stated_run: str | None) -> Fit:
    if stated_run is not None:
        there = any(run.id == stated_run for run in runs)
        note = "" if there else f"it was said to be {stated_run}, which is not among the runs"
        return Fit(run=stated_run if there else None, how="said" if there else "none", note=note)
    fitting = runs_of(name, runs)
    ids = [run.id for run in corpora_first(fitting, lambda run: run.evaluation)]
    if len(ids) == 1:
        return Fit(run=ids[0], how="exact" if fitting[0].exactly(name) else "name")
    if ids:
        note = f"it fits {len(ids)} runs: {', '.join(ids)}"
        return Fit(run=None, how="several", note=note)
    bare = {normal_form(run.model)[1]: run.model for run in runs if not run.untrained}
    near = get_close_matches(normal_form(name)[1], bare, n=1, cutoff=0.8)
    nearest = f"; the nearest is {bare[near[0]]}" if near else ""
    return Fit(run=None, how="none", note=f"it fits no run{nearest}")


def _parted(fits: Mapping[str, Fit]) -> dict[str, Fit]:
    """Where two names fit one run, the surer keeps it; equals lose it both."""
    order = ("said", "exact", "name")
    parted = dict(fits)
    for run in {fit.run for fit in fits.values() if fit.run}:
        rivals = [name for name, fit in fits.items() if fit.run == run]
        best = min(order.index(fits[name].how) for name in rivals)
        keepers = [name for name in rivals if order.index(fits[name].how) == best]
        for name in rivals:
            others = [other for other in rivals if other != name]
            if keepers != [name]:
                note = f"it fits {run}, and so does {', '.join(others)}"
                parted[name] = Fit(run=None, how="several", note=note)
    return parted
