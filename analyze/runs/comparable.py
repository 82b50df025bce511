"""Which runs are comparable: whether they read the same first n prompts (METRICS.md, Differences).

A run's own `prompt_set` is the fingerprint of all its texts, so that a run of 40 prompts and one of
100 that begins with the same 40 differ in it. An analysis of n prompts compares the first n.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from lpp.analyze.runs.keys import RunView
from lpp.store.format.documents import canonical_json

PROMPT_SETS = pl.Schema({"run": pl.String, "n_prompts": pl.Int32, "prompt_set": pl.String})


@dataclass(frozen=True, slots=True)
class _FirstPrompts:
    """The first n prompts of a run."""

    token_ids: str
    """Fingerprint of their token ids."""
    texts: str
    """Fingerprint of where their texts came from: corpus, rule that made a text of a row, rows."""
    cut: tuple[str, int]
    """What makes ids of a text: tokenizer and context."""

    def same(self, other: "_FirstPrompts") -> bool:
        return self.token_ids == other.token_ids or (
            self.texts == other.texts and self.cut != other.cut
        )


def n_shared(a: RunView, b: RunView) -> int:
    """The most first prompts whose token ids are equal in both runs, as far as both have them.

    Runs with equal ids are comparable token by token, which is more than `prompt_sets` asks of
    runs of different tokenizers.
    """
    ours, theirs = (_prompts(view) for view in (a, b))
    pairs = enumerate(zip(ours, theirs, strict=False))
    shorter = min(len(ours), len(theirs))
    return next((k for k, (x, y) in pairs if x != y), shorter)


def prompt_sets(views: Iterable[RunView], sizes: Iterable[int]) -> pl.DataFrame:
    """Which runs are comparable over their first n prompts, for each n of `sizes`: `PROMPT_SETS`.

    `prompt_set` names a class of runs: two runs have the same one exactly where they are comparable
    over n. They are where the token ids of those prompts are equal. Ids of the same texts cannot be
    equal where the tokenizers differ, or the contexts at which prompts were cut: such runs are
    comparable where their texts come from the same rows of the same corpus (its fingerprint) by the
    same rule. The name is the fingerprint of the ids, 16 hex digits, of the first run of its class
    by run id. A run of fewer than n prompts has no row, nor has one
    whose plan cannot be read.
    """
    rows = []
    ordered = sorted((v for v in views if not v.problem), key=lambda view: view.run.id)
    for size in sorted(set(sizes)):
        classes: list[_FirstPrompts] = []
        for view in ordered:
            if view.run.n_prompts >= size:
                mine = _first_prompts(view, size)
                like = next((known for known in classes if known.same(mine)), mine)
                if like is mine:
                    classes.append(mine)
                rows.append((view.run.id, size, like.token_ids))
    return pl.DataFrame(rows, schema=PROMPT_SETS, orient="row")


def with_prompt_sets(
    frame: pl.DataFrame, sets: pl.DataFrame, *, beside: Sequence[str]
) -> pl.DataFrame:
    """`frame` with `prompt_set`, null where a run has fewer prompts, and `n_prompt_sets`.

    frame: with the columns `run` and `n_prompts`. sets: of `prompt_sets`. n_prompt_sets: different
    sets among the rows that agree in the columns `beside`, which are those shown side by side.
    """
    joined = frame.join(sets, on=["run", "n_prompts"], how="left", maintain_order="left")
    count = pl.col("prompt_set").drop_nulls().n_unique().over(beside)
    return joined.with_columns(n_prompt_sets=count)


def _first_prompts(view: RunView, size: int) -> _FirstPrompts:
    plan = view.run.plan
    corpus = [plan.corpus.fingerprint, plan.corpus.selection.get("text")]
    ids = _fingerprint(_prompts(view)[:size])
    # what a model wrote is of no row of the corpus: only its ids can be compared
    written = [] if plan.continuation is None else [ids]
    return _FirstPrompts(
        token_ids=ids,
        texts=_fingerprint([corpus, view.prompts["source_row"].head(size).to_list(), *written]),
        cut=(plan.tokenizer.fingerprint, plan.context),
    )


def _prompts(view: RunView) -> list[object]:
    """What the model read of each prompt: a digest of its tokens; of a branch, what came before."""
    digests = view.prompts["sha256"].to_list()
    return [
        digest if of < 0 else [digest, of, at]
        for digest, of, at in zip(
            digests, *(part[: len(digests)].tolist() for part in view.run.branches), strict=True
        )
    ]


def _fingerprint(document: object) -> str:
    return hashlib.sha256(canonical_json(document)).hexdigest()[:16]
