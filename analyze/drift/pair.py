"""Two runs that read the same tokens, side by side."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final

import numpy as np
import polars as pl

from lpp.analyze.engine.cache import KERNEL_VERSION
from lpp.analyze.logits.heads import why_no_logits
from lpp.analyze.runs.capture_command import capture_command
from lpp.analyze.runs.comparable import n_shared
from lpp.analyze.runs.groups import GROUPS, Groups, Integers, clusters_of
from lpp.analyze.runs.incomplete import incomplete, listed_numbers
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.runs.named import run_named, store_and_run
from lpp.analyze.runs.rows.token_files import read_tokens
from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.plan import Plan
from lpp.store.runs.read import Run
from lpp.store.shared.kept_files import KeptFiles, name_of

KEYS: Final = ("prompt_id", "position", "token_id")
"""Columns that identify a token, equal in both runs."""

STORED: Final = ("next_logprob", "top1_id", "max_logprob", "margin", "entropy")
"""Stored statistics of each token that the comparison uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Prompts of the base run that take no part in a comparison."""

    n_base: int = 0
    """Prompts that should be compared: those of the plan of run A, or the first so many that were
    asked for. Branches do not count."""
    n_set_aside: int = 0
    """Prompts that A or B set aside."""
    n_missing: int = 0
    """Prompts that one of the runs does not have: not committed, never captured, or behind the
    first prompt whose token ids differ."""

    @property
    def set_aside(self) -> float:
        """`n_set_aside` as a share of `n_base`."""
        return self.n_set_aside / max(self.n_base, 1)

    @property
    def missing(self) -> float:
        """`n_missing` as a share of `n_base`."""
        return self.n_missing / max(self.n_base, 1)

    @property
    def share(self) -> float:
        """Share of `n_base` that takes no part."""
        return (self.n_set_aside + self.n_missing) / max(self.n_base, 1)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two comparable runs, over the first prompts that both hold."""

    a: RunView
    b: RunView
    n_prompts: int
    """The first n prompts, whose token ids are equal in both."""
    excluded: Integers
    """Ids of those prompts that one of the runs set aside, ascending: the comparison excludes
    their rows in both runs."""
    requested_prompts: int | None = None
    """The number of first prompts that the caller requested; None for all of run A."""
    groups: Groups = GROUPS
    """Groups of prompts that the jackknife leaves out."""
    cluster: str | None = None
    """Field of the prompts whose equal values are in one group; None: groups are neighbours."""

    def __getstate__(self) -> dict[str, Any]:
        """State for another process: without what was read of tokens."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def runs(self) -> tuple[Run, Run]:
        """A and B."""
        return self.a.run, self.b.run

    @property
    def of_one_run(self) -> bool:
        """Whether both runs are the same run."""
        return self.a.run.path == self.b.run.path

    @cached_property
    def lengths(self) -> Integers:
        """(n,) tokens of each prompt; 0 for a prompt that is left out."""
        lengths = np.array(self.a.lengths[: self.n_prompts])
        lengths[self.excluded] = 0
        return lengths

    @cached_property
    def lost(self) -> Lost:
        """The prompts of run A that take no part."""
        branches = self.a.run.branch_of >= 0
        n_base = self.requested_prompts or len(branches)
        return Lost(
            n_base=n_base - int(branches[:n_base].sum()),
            n_set_aside=len(self.excluded) - int(branches[self.excluded].sum()),
            n_missing=n_base - self.n_prompts - int(branches[self.n_prompts : n_base].sum()),
        )

    def n_tokens(self, first_position: int = 0) -> int:
        """Number of tokens at positions from `first_position` on."""
        return int(np.maximum(self.lengths.astype(np.int64) - first_position, 0).sum())

    @property
    def limits(self) -> list[str]:
        """Parts of the two runs that are left out, and why: one line each."""
        return list(_limits(self))

    @cached_property
    def statistics(self) -> pl.DataFrame:
        """The statistics that capture stored of each token in both runs, in order: `KEYS`, and each
        of `STORED` with the suffix _a and _b.

        The token tables are read once; 52 bytes a token stay in memory. Raises FormatError for
        altered bytes, and if the tables are of different tokens.
        """
        a, b = (_statistics(view, self) for view in (self.a, self.b))
        if not a.select(KEYS).equals(b.select(KEYS)):
            raise FormatError(
                f"the token statistics of {self.a.run.id} and {self.b.run.id} are of other tokens "
                "than their prompts. `lpp-analyze verify` says which were altered.",
                kind=ErrorKind.CORRUPT,
            )
        return pl.concat(
            [
                a.select(*KEYS, pl.col(STORED).name.suffix("_a")),
                b.select(pl.col(STORED).name.suffix("_b")),
            ],
            how="horizontal",
        )

    @cached_property
    def kept_files(self) -> KeptFiles:
        """The folder in which `drift.kept` stores the results of this pair."""
        a = self.a.run
        runs = (part for run in self.runs for part in (run.id, run.fingerprint))
        name = name_of(*runs, KERNEL_VERSION, self.n_prompts, *self.excluded.tolist())
        return KeptFiles(a.path.parent.parent, f"{a.id}/drift-{name}")

    @cached_property
    def no_logits(self) -> str | None:
        """Why the full distributions of both models are not available, and what would help; None if
        they are.

        Reads the records of the heads once, not their matrices.
        """
        return why_no_logits(*self.runs)


def _statistics(view: RunView, pair: Pair) -> pl.DataFrame:
    wanted = pl.col("prompt_id") < pair.n_prompts
    branches = np.flatnonzero(view.run.branch_of >= 0)
    wanted &= ~pl.col("prompt_id").is_in(np.union1d(pair.excluded, branches).tolist())
    files = zip(view.run.shards, view.run.tokens_files(), strict=True)
    return pl.concat(
        read_tokens(file, [*KEYS, *STORED]).filter(wanted)
        for shard, file in files
        if shard.first_prompt < pair.n_prompts
    )


def run_of(store: Url, name: str) -> RunView:
    """The run that `name` means: an id, a name, the beginning of either, a pattern, or
    `STORE::RUN`.

    store: the store if `name` contains none. Raises InputError if no run or several runs match.
    """
    return run_named(*store_and_run(store, name))


def rerun_of(store: Url, name: str, a: Run) -> RunView:
    """The run that `name` means, which is `a` captured again. Raises InputError if it is `a`, and
    as `run_of`.
    """
    again = run_of(store, name)
    if again.run.path == a.path:
        raise InputError(
            f"--rerun {name}: that is the run itself. Capture the model again with another "
            "--batch-tokens, --attention or --backend, or into another store: --rerun STORE::RUN."
        )
    return again


def pair_of(a: Run, b: Run, prompts: int | None = None, *, cluster: str | None = None) -> Pair:
    """Two runs over the first prompts whose token ids are equal in both.

    prompts: so many of them; all by default. cluster: field of the prompts of `a` whose equal
    values are left out together by the jackknife. Raises InputError: INCOMPLETE if a run has no
    prompt that can be analysed; INVALID_VALUE if the runs share no first prompt, with what differs
    and the command that captures what is missing, or if they share fewer prompts than asked for.
    """
    views = RunView(a), RunView(b)
    for run in (a, b):
        if not run.n_prompts:
            why = incomplete(run) or "it has no prompts. Capture again."
            raise InputError(f"{run.id}: {why}", kind=ErrorKind.INCOMPLETE)
    shared = n_shared(*views)
    if not shared:
        raise InputError(_why_not(*views))
    if prompts is not None and not 1 <= prompts <= shared:
        raise InputError(
            f"--prompts {prompts}: {a.id} and {b.id} share their first {shared} prompts. "
            f"Ask for 1 to {shared}."
        )
    size = prompts or shared
    aside = np.union1d(*(view.set_aside[view.set_aside < size] for view in views))
    if len(aside) == size:
        raise InputError(
            f"each of the first {size} prompts was set aside in {a.id} or in {b.id}, so no token "
            "is in both. `lpp-capture status` says why.",
            kind=ErrorKind.INCOMPLETE,
        )
    groups = GROUPS if cluster is None else clusters_of(a, cluster)
    return Pair(
        a=views[0],
        b=views[1],
        n_prompts=size,
        excluded=aside,
        requested_prompts=prompts,
        groups=groups,
        cluster=cluster,
    )


def _why_not(a: RunView, b: RunView) -> str:
    """Why two runs share no first prompt, and the command that makes them comparable."""
    plans = a.run.plan, b.run.plan
    what = "; ".join(differences(a, b, 0))
    head = f"{a.run.id} (A) and {b.run.id} (B) share no first prompt: {what}."
    if plans[0].tokenizer.fingerprint != plans[1].tokenizer.fingerprint:
        return (
            f"{head} Runs are compared token by token, so both models need the same tokenizer. "
            "Their profiles can be compared where they read the same texts: "
            f"lpp-sql {shlex.quote(store_of(a.run))} --run differences"
        )
    if any(plan.model.source == "given" for plan in plans):
        return f"{head} Give lpp.store.sink the rows of B for the prompts of A."
    document = plans[0].document
    again = []
    if plans[0].continuation is not None:  # each model writes its own tokens
        document = _without_continuation(document)
        again.append(capture_command(document, store_of(a.run)))
    prompts = {name: document[name] for name in ("corpus", "context")}
    again.append(
        capture_command({**_without_continuation(plans[1].document), **prompts}, store_of(b.run))
    )
    models = "both models" if len(again) > 1 else "the model of B"
    return f"{head} Capture {models} on the prompts of A:\n" + "\n".join(again)


def store_of(run: Run) -> str:
    """Path of the store that holds `run`."""
    return str(run.path.parent.parent)


def _without_continuation(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The plan without the settings of its continuation."""
    written = document.get("continuation")
    if not written:
        return document
    rest = {name: value for name, value in document.items() if name != "continuation"}
    return {**rest, "context": written["given_context"]}


def differences(a: RunView, b: RunView, prompt: int) -> Iterator[str]:
    """Why two runs have different token ids in `prompt`."""
    yield from _settings(a.run.plan, b.run.plan)
    ids = [view.prompts["token_ids"][prompt].to_list() for view in (a, b)]
    position = next((k for k, (x, y) in enumerate(zip(*ids, strict=False)) if x != y), None)
    if position is None:
        yield f"prompt {prompt} has {len(ids[0])} tokens in A and {len(ids[1])} in B"
    else:
        yield f"prompt {prompt} has other token ids from position {position} on"


def _settings(a: Plan, b: Plan) -> Iterator[str]:
    """Settings that decide token ids, where two plans differ in them."""
    if a.tokenizer.fingerprint != b.tokenizer.fingerprint:
        yield "their tokenizers differ"
    if a.context != b.context:
        yield f"the context is {a.context} in A and {b.context} in B"
    if a.corpus.name != b.corpus.name:
        yield f"the corpus is {a.corpus.name} in A and {b.corpus.name} in B"
    elif a.corpus.fingerprint != b.corpus.fingerprint:
        yield f"{a.corpus.name} held other texts when B was captured"
    rules = a.corpus.selection, b.corpus.selection
    for name in sorted(({*rules[0]} | {*rules[1]}) - {"prompts"}):  # the first n are the same
        ours, theirs = (rule.get(name) for rule in rules)
        if ours != theirs:
            yield f"texts were chosen by {name} {ours} in A and {theirs} in B"
    if a.continuation is not None or b.continuation is not None:
        yield "a model wrote the end of each prompt (--continue)"


def _limits(pair: Pair) -> Iterator[str]:
    a, b, size = pair.a, pair.b, pair.n_prompts
    for name, view in (("A", a), ("B", b)):
        if why := incomplete(view.run):
            yield f"{name} is not complete: {why}"
    shared = n_shared(a, b)
    if size == shared < min(a.run.n_prompts, b.run.n_prompts):
        yield (
            f"Prompts are compared up to the first one that differs, prompt {size}: "
            f"{'; '.join(differences(a, b, size))}."
        )
    if n_excluded := len(pair.excluded):
        listed = listed_numbers(pair.excluded.tolist())
        yield f"{n_excluded} of the {size} prompts set aside by A or B take no part: {listed}."
