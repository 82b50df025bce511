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
"""Reason of a sequence that becomes no prompt: the answer alone has `longest` tokens or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRequest:
    """The tokens of one request."""

    context: str
    answer: str
    """Empty if the model writes it."""
    ids: tuple[int, ...]
    """Token ids of context and answer, truncated from the left to the context length; empty if the
    answer alone is longer."""
    n_context: int
    """Context tokens in `ids`, at least 1: the last one predicts the answer's first token. 0 if
    `ids` is empty."""
    dropped: int = 0
    """Context tokens that were cut off."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """Fields of the prompt, by name."""
    document: tuple[str, ...] = ()
    """Names of the fields that the item's document has."""
    place: str = ""
    """Task and item, for error messages."""

    @property
    def text(self) -> str:
        """Context and answer."""
        return self.context + self.answer

    @property
    def context_ids(self) -> tuple[int, ...]:
        """Token ids of the context."""
        return self.ids[: self.n_context]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The model's score for one request."""

    run: str | None
    prompt_id: int | None
    """Prompt of the run; None for a sequence that became no prompt."""
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
        """The answer reduced to the first `n_answer` tokens that the model wrote."""
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
    """The request of `context` and `answer`, truncated from the left to `longest` tokens, as
    lm-eval's `hf` model truncates with `max_length` = `longest` - 1.

    texts: text of context and answer. context: at least one token; one must stay, since the
    answer's first token needs one before it.
    """
    before, after = texts
    if len(answer) >= longest:
        return EncodedRequest(context=before, answer=after, ids=(), n_context=0, place=place)
    n_context = min(len(context), longest - len(answer))
    dropped = len(context) - n_context
    ids = (*context[dropped:], *answer)
    return EncodedRequest(
        context=before, answer=after, ids=ids, n_context=n_context, dropped=dropped, place=place
    )


def corpus_of(
    task: str, rule: str, sequences: Sequence[EncodedRequest], field_names: Sequence[str]
) -> tuple[Corpus, list[int | None]]:
    """The distinct sequences as a corpus in memory, and each sequence's row in the corpus; None if
    it becomes no prompt.

    rule: how the texts were made, for the plan. field_names: of further fields to take along. The
    corpus is known by its texts, so that it is the same for every tokenizer; the plan has the
    tokens as well.
    """
    refused, rows = Refused(), _Rows()
    request_rows: list[int | None] = []
    for _, group in itertools.groupby(sequences, key=lambda request: request.context_ids):
        alike = list(group)  # a task's requests for one item follow each other
        shared = len({request.ids for request in alike}) > 1 and alike[0].n_context > 1
        root = rows.context(alike[0]) if shared else None
        for request in alike:
            if not request.ids:
                refused.add(rows.take(), TOO_LONG, request.place)
                request_rows.append(None)
            elif root is None:
                request_rows.append(rows.whole(request))
            else:
                request_rows.append(rows.branch(request, root))
    passages = rows.passages
    # a context that is shared has no choice, and its answers no question
    fields = Fields(field_names, optional=["choice", "n_before_question"])
    for request in sequences:
        fields.note(request.document)
    corpus = Corpus(
        name=task,
        revision=None,
        fingerprint=fingerprint_passages(passages),
        rule=rule,
        passages=passages,
        refused=refused,
        fields=fields,
    )
    return corpus, request_rows


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

    def context(self, request: EncodedRequest) -> int:
        """The row of a context that several answers share."""
        given = GivenTokens(ids=request.context_ids, dropped=request.dropped)
        return self._row(
            None, request.context, {**request.fields, "choice": None}, request.place, given
        )

    def whole(self, request: EncodedRequest) -> int:
        """The row of context and answer together."""
        given = GivenTokens(ids=request.ids, dropped=request.dropped)
        return self._row(None, request.text, request.fields, request.place, given)

    def branch(self, request: EncodedRequest, root: int) -> int:
        """The row of an answer to the context in row `root`."""
        at = request.n_context - 1  # the context's last token predicts the answer's first
        given = GivenTokens(ids=request.ids[at:], branch_of=root, branch_at=at)
        fields = {**request.fields, "n_context": 1, "n_before_question": None}
        return self._row(root, request.answer, fields, request.place, given)

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
    """The answer to each sequence, read from `run`.

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
    quarantined, writes = set(run.quarantined.tolist()), run.plan.continuation is not None
    answers = []
    for request, row in zip(sequences, places, strict=True):
        prompt = None if row is None else ids.get(row)
        if prompt is None or prompt in quarantined:
            answers.append(SET_ASIDE)
            continue
        # the answer ends the prompt, whether it was asked about or written by the model
        own_start, end = int(starts[prompt]), int(starts[prompt + 1])
        begin = own_start - int(at[prompt])
        first, last = begin + request.n_context, begin + len(request.ids)
        expected, written = request.ids[own_start - begin :], tokens[last:end]
        if (
            first <= own_start
            or bool(len(written)) != writes
            or tokens[own_start:last].tolist() != [*expected]
        ):
            raise FormatError(
                f"{run.path}: prompt {prompt} does not hold the request of {request.place}. "
                f"`lpp-analyze verify {run.path.parent.parent}` says what was altered.",
                kind=ErrorKind.CORRUPT,
            )
        likely = likeliest[first - 1 : end - 1] == tokens[first:end]
        answers.append(
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
    return answers
