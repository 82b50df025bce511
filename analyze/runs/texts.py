"""Whether runs read the same texts: the first n prompts of each, whatever comes after them.

A run's `prompt_set` is the fingerprint of all its texts, so runs of different size have different
ones; an analysis of n prompts compares the first n, which they may share.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from lpp.analyze.runs.keys import RunView


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What tells the texts of one run, whatever model read them."""

    prompt_set: str
    """Fingerprint of all its texts, in order."""
    count: int
    """Prompts that `prompt_set` is of."""
    corpus: tuple[str, str | int | None]
    """Fingerprint of the corpus, and the rule that made a text of its rows."""
    rows: tuple[int, ...]
    """Row of the corpus of each prompt that can be analysed."""

    @classmethod
    def of(cls, view: RunView) -> Self:
        """The texts of a run."""
        plan = view.run.plan
        return cls(
            prompt_set=plan.corpus.prompt_set,
            count=plan.prompts.count,
            corpus=(plan.corpus.fingerprint, plan.corpus.selection.get("text")),
            rows=tuple(view.prompts["source_row"].to_list()),
        )

    def same(self, other: Self, n_prompts: int) -> bool:
        """Whether the first `n_prompts` texts of both are the same ones, in the same order."""
        if self.prompt_set == other.prompt_set:
            return True
        if self.count == other.count == n_prompts:
            return False  # nothing but these texts is in the fingerprints
        rows, others = self.rows[:n_prompts], other.rows[:n_prompts]
        return self.corpus == other.corpus and rows == others


def texts_of(views: Iterable[RunView]) -> dict[str, Texts]:
    """The texts of each run, by its id."""
    return {view.run.id: Texts.of(view) for view in views}


def text_sets(texts: Mapping[str, Texts], n_prompts: int) -> dict[str, str]:
    """A name of the first `n_prompts` texts of each run: equal where the texts are.

    It is the prompt set of the first run that reads them.
    """
    firsts: list[Texts] = []
    found = {}
    for run, mine in texts.items():
        like = next((first for first in firsts if first.same(mine, n_prompts)), mine)
        if like is mine:
            firsts.append(mine)
        found[run] = like.prompt_set
    return found
