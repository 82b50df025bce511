"""Requests of lm-eval as the prompts of a run, and their answers from its token statistics.

A request is a sequence of tokens whose last ones are the answer. Each distinct sequence becomes one
prompt, so requests that are alike run once. Where several answers follow one context, the context
is a prompt of its own and each answer a branch of it, from the context's last token on: what the
context computes is stored once, and a branch predicts every token of its answer.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from lpp.capture.corpus.fields import Fields
from lpp.capture.corpus.passages import (
    Corpus,
    GivenTokens,
    Passage,
    Refused,
    fingerprint_passages,
)
from lpp.store import Run
from lpp.store.errors import ErrorKind, FormatError

TOO_LONG: Final = "answer_too_long"
"""Reason of a sequence that becomes no prompt: the answer alone is longer than the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRequest:
    """The tokens of one request."""

    context: str
    answer: str
    """Empty where the model is to write it."""
    ids: tuple[int, ...]
    """Of both, the beginning cut off where they are longer than the context; none where the answer
    alone is."""
    n_context: int
    """Tokens of `ids` before the answer, at least 1: the last of them predicts its first token. 0
    where there are no `ids`."""
    dropped: int = 0
    """Tokens that were cut off."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """What the prompt carries."""
    document: tuple[str, ...] = ()
    """Names of the fields that the item's document has."""
    place: str = ""
    """Whose request it is, for messages."""

    @property
    def text(self) -> str:
        """Context and answer."""
        return self.context + self.answer

    @property
    def context_ids(self) -> tuple[int, ...]:
        """Those before the answer."""
        return self.ids[: self.n_context]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model makes of one request."""

    run: str | None
    prompt_id: int | None
    """Of the run; None for a sequence that became no prompt."""
    log_likelihood: float
    """ln p of the answer's tokens, in nats; -inf where it was set aside."""
    greedy: bool
    """Whether each of them is the most likely token."""
    n_answer: int | None = None
    """Tokens of the answer; None where it was set aside."""
    written: tuple[int, ...] = ()
    """Tokens that the model wrote after the sequence: the answer, and what follows it."""
    logprobs: tuple[float, ...] = ()
    """ln p of each of the tokens of `written`, in nats."""
    likeliest: tuple[bool, ...] = ()
    """Whether each of the tokens of `written` is the most likely one."""

    def cut(self, n_answer: int) -> "Answer":
        """The same where only the first `n_answer` tokens that the model wrote are the answer."""
        return replace(
            self,
            log_likelihood=math.fsum(self.logprobs[:n_answer]),
            greedy=all(self.likeliest[:n_answer]),
            n_answer=n_answer,
        )


SET_ASIDE: Final = Answer(run=None, prompt_id=None, log_likelihood=-np.inf, greedy=False)
"""Counts as an answer that the model never gives."""


def encoded_request(
    texts: tuple[str, str],
    context: Sequence[int],
    answer: Sequence[int],
    longest: int,
    place: str,
) -> EncodedRequest:
    """A request of the tokens `context`, at least one, and `answer`, whose `texts` these are, cut
    from the left to `longest` tokens, as lm-eval's `hf` model cuts with `max_length` =
    `longest` - 1.

    One token of the context must stay, since the answer's first token needs one before it.
    """
    before, after = texts
    if len(answer) >= longest:
        return EncodedRequest(context=before, answer=after, ids=(), n_context=0, place=place)
    kept = min(len(context), longest - len(answer))
    dropped = len(context) - kept
    ids = (*context[dropped:], *answer)
    return EncodedRequest(
        context=before, answer=after, ids=ids, n_context=kept, dropped=dropped, place=place
    )


def corpus_of(
    task: str, rule: str, sequences: Sequence[EncodedRequest], asked: Sequence[str]
) -> tuple[Corpus, list[int | None]]:
    """The distinct sequences as a corpus in memory, and the row of each of `sequences` in it; None
    where it becomes no prompt.

    rule: how the texts were made, for the plan. asked: names of further fields to take along. The
    corpus is known by its texts, so that it is the same for every tokenizer; the plan has the
    tokens as well.
    """
    refused, rows = Refused(), _Rows()
    places: list[int | None] = []
    for _, group in itertools.groupby(sequences, key=lambda one: one.context_ids):
        alike = list(group)  # a task's requests for one item follow each other
        shared = len({one.ids for one in alike}) > 1 and alike[0].n_context > 1
        root = rows.context(alike[0]) if shared else None
        for one in alike:
            if not one.ids:
                refused.add(rows.take(), TOO_LONG, one.place)
                places.append(None)
            elif root is None:
                places.append(rows.whole(one))
            else:
                places.append(rows.branch(one, root))
    passages = rows.passages
    # a context that is shared has no choice, and its answers no question
    fields = Fields(asked, some=["choice", "n_before_question"])
    for one in sequences:
        fields.note(one.document)
    corpus = Corpus(
        name=task,
        revision=None,
        fingerprint=fingerprint_passages(passages),
        rule=rule,
        passages=passages,
        refused=refused,
        fields=fields,
    )
    return corpus, places


class _Rows:
    """The rows of a corpus, numbered as they come; one for each distinct sequence."""

    def __init__(self) -> None:
        self.passages: list[Passage] = []
        self._known: dict[tuple[int | None, tuple[int, ...]], int] = {}
        self._next = 0

    def take(self) -> int:
        """The number of a row."""
        self._next += 1
        return self._next - 1

    def context(self, one: EncodedRequest) -> int:
        """The row of a context that several answers share."""
        given = GivenTokens(ids=one.context_ids, dropped=one.dropped)
        return self._row(None, one.context, {**one.fields, "choice": None}, one.place, given)

    def whole(self, one: EncodedRequest) -> int:
        """The row of context and answer together."""
        given = GivenTokens(ids=one.ids, dropped=one.dropped)
        return self._row(None, one.text, one.fields, one.place, given)

    def branch(self, one: EncodedRequest, root: int) -> int:
        """The row of an answer to the context in row `root`."""
        at = one.n_context - 1  # the context's last token predicts the answer's first
        given = GivenTokens(ids=one.ids[at:], branch_of=root, branch_at=at)
        fields = {**one.fields, "n_context": 1, "n_before_question": None}
        return self._row(root, one.answer, fields, one.place, given)

    def _row(
        self,
        root: int | None,
        text: str,
        fields: Mapping[str, object],
        place: str,
        given: GivenTokens,
    ) -> int:
        key = root, given.ids
        if key not in self._known:
            self._known[key] = self.take()
            self.passages.append(Passage(self._known[key], text, fields, place, given))
        return self._known[key]


def answers_of(
    run: Run, sequences: Sequence[EncodedRequest], places: Sequence[int | None]
) -> list[Answer]:
    """What `run` says of each sequence.

    places: row of each in the run's corpus, as `corpus_of` gives them. The log-likelihood is the
    sum, in float64, of `next_logprob` over the answer's tokens; the answer is greedy where each of
    its tokens is the most likely one. All that the model wrote is an answer, until `Answer.cut`.
    Reads the token statistics once.

    FormatError for a sequence that is not what its prompt holds, or whose answer has no token of
    that prompt before it: each answer is read from its own prompt, or not at all.
    """
    ids = {row: index for index, row in enumerate(run.prompts()["source_row"].to_pylist())}
    starts, at = np.append(0, np.cumsum(run.lengths)), run.branches[1]
    columns = ["prompt_id", "position", "token_id", "next_logprob", "top1_id"]
    table = run.tokens().to_table(columns=columns)
    order = np.lexsort((table["position"].to_numpy(), table["prompt_id"].to_numpy()))
    logprob = table["next_logprob"].to_numpy()[order].astype(np.float64)
    tokens = table["token_id"].to_numpy()[order]
    likeliest = table["top1_id"].to_numpy()[order]
    left_out, writes = set(run.quarantined.tolist()), run.plan.continuation is not None
    found = []
    for one, row in zip(sequences, places, strict=True):
        prompt = None if row is None else ids.get(row)
        if prompt is None or prompt in left_out:
            found.append(SET_ASIDE)
            continue
        # the answer ends the prompt, whether it was asked about or written by the model
        own, end = int(starts[prompt]), int(starts[prompt + 1])
        begin = own - int(at[prompt])
        first, last = begin + one.n_context, begin + len(one.ids)
        asked, written = one.ids[own - begin :], tokens[last:end]
        if first <= own or bool(len(written)) != writes or tokens[own:last].tolist() != [*asked]:
            raise FormatError(
                f"{run.path}: prompt {prompt} does not hold the request of {one.place}. "
                f"`lpp-analyze verify {run.path.parent.parent}` says what was altered.",
                kind=ErrorKind.CORRUPT,
            )
        likely = likeliest[first - 1 : end - 1] == tokens[first:end]
        found.append(
            Answer(
                run=run.id,
                prompt_id=prompt,
                log_likelihood=float(logprob[first - 1 : end - 1].sum()),
                greedy=bool(likely.all()),
                n_answer=end - first,
                written=tuple(written.tolist()),
                logprobs=tuple(logprob[last - 1 : end - 1].tolist()),
                likeliest=tuple(likely[last - first :].tolist()),
            )
        )
    return found
