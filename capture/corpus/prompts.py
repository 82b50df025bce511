"""Tokenise passages into the prompts of a run, the table `prompts.arrow`.

Uses the model's own tokenizer, keeps special tokens and applies a chat template to conversations
alone. Ids beyond the context are dropped here. The tokenizer's own truncation may keep a closing
special token; then a prompt at context 100 would not be a prefix of the same prompt at context 200.

Passages with `GivenTokens` (`lpp.capture.corpus.passages`) keep those tokens. Values by token, such
as a loss mask, are cut like the ids; each kind becomes a column, `token.<name>`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.capture.corpus.conversations import ChatTemplate, ids_and_mask
from lpp.capture.corpus.fields import LOSS_MASK
from lpp.capture.corpus.passages import NoPromptError, Passage, Refused
from lpp.store.errors import ErrorKind, InputError, first_line
from lpp.store.format.prompt_columns import BRANCH_COLUMNS, TOKEN_PREFIX
from lpp.store.format.prompt_values import token_column, token_values
from lpp.store.format.rows import prompts_table

Labels: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""Values by token of a prompt, by the name of their field."""

_BATCH: Final = 256
"""Texts per call of the tokenizer: enough to use its threads, few enough for little memory."""


def tokenise(
    passages: Sequence[Passage],
    tokenizer: Any,
    context: int,
    refused: Refused | None = None,
    *,
    size: int | None = None,
    template: ChatTemplate | None = None,
    per_token: Sequence[str] = (),
) -> pa.Table:
    """(n, 6), `lpp.store.format.tables.PROMPTS_SCHEMA`: one prompt per passage, in order. If any
    prompt is a branch, also `lpp.store.format.prompt_columns.BRANCH_COLUMNS`; then a column for
    each kind of values by token.

    tokenizer: a transformers tokenizer; None if every passage has its tokens. context: most tokens
    of a prompt, at least 1. Column `truncated`: whether ids were dropped; `sha256`: of the kept ids
    as little-endian int32. A passage gives no prompt and is added to `refused` if it has no tokens,
    given ids that the model does not know, values by token of another number, a conversation that
    `template` cannot render or split, or the tokens and values of an earlier row of such a kind.
    size: columns of the model's logits; ids below it are tokens. per_token: fields with values by
    token.

    Raises InputError if no passage has a prompt, or a tokenizer gives something else than ids.
    """
    if context < 1:
        raise InputError(f"--context {context}: at least one token is needed.")
    refused = refused if refused is not None else Refused()
    rows: list[int] = []
    ids: list[Sequence[int]] = []
    full_lengths: list[int] = []
    labels: list[Labels] = []
    reading = _Reading(tokenizer, template, context, size, tuple(per_token))
    earlier: dict[bytes, int] = {}
    for passage, encoded in _encoded_passages(passages, tokenizer):
        try:
            tokens, values = reading.of(passage, encoded)
            if not passage.is_text:  # texts may repeat
                lists = {name: by_token.tolist() for name, by_token in values.items()}
                content = repr((passage.branch_of, *tokens, lists)).encode()
                key = hashlib.sha256(content).digest()
                if (first := earlier.setdefault(key, passage.source_row)) != passage.source_row:
                    raise NoPromptError("repeated", f"the same as row {first} of the corpus")
        except NoPromptError as error:
            refused.add(passage.source_row, error.reason, f"{passage.where}: {error}")
            continue
        rows.append(passage.source_row)
        ids.append(tokens[:context])
        full_lengths.append(len(tokens) + (passage.given.dropped if passage.given else 0))
        labels.append({name: by_token[:context] for name, by_token in values.items()})
    if passages and not ids:
        raise InputError(
            f"None of {len(passages)} texts becomes a prompt of this model. The first: "
            f"{refused.why(passages[0].source_row)}. Correct the rows, or give another corpus."
        )
    truncated = [full > len(tokens) for full, tokens in zip(full_lengths, ids, strict=True)]
    prompts = _with_branches(prompts_table(rows, ids, truncated), passages)
    for name in sorted({name for values in labels for name in values}):
        column = token_column(name, [values.get(name) for values in labels])
        prompts = prompts.append_column(TOKEN_PREFIX + name, column)
    return prompts


@dataclass(frozen=True, slots=True)
class _Reading:
    """How passages become tokens: the arguments of `tokenise`."""

    tokenizer: Any
    template: ChatTemplate | None
    context: int
    size: int | None
    per_token: Sequence[str]

    def of(self, passage: Passage, encoded: Sequence[int]) -> tuple[Sequence[int], Labels]:
        """(all ids of a passage, its values by token). encoded: ids of its text, if that is read as
        it is. Raises NoPromptError, and InputError for a tokenizer that gives no ids.
        """
        ids, per_token, mask = encoded, self.per_token, None
        if passage.given is not None:
            ids, per_token = passage.given.ids, tuple(dict.fromkeys((*per_token, LOSS_MASK)))
            if not _are_ids(ids, self.size):
                known = "" if self.size is None else f", the model has 0 to {self.size - 1:,}"
                worst = min(ids) if min(ids) < 0 else max(ids)
                raise NoPromptError("bad_tokens", f"id {worst:,}{known}")
        elif passage.conversation is not None and self.template is not None:
            ids, mask = ids_and_mask(
                self.tokenizer, self.template, passage.conversation, self.context
            )
        if passage.given is None and not _are_ids(ids, self.size):
            below = f" below {self.size:,}, the columns of the model's logits" if self.size else ""
            raise InputError(
                f"the tokenizer gives {str(ids)[:60]!r} for {passage.text[:40]!r}, not a list "
                f"of ids{below}. Give the model's own tokenizer.",
                kind=ErrorKind.UNSUPPORTED_MODEL,
            )
        if not ids:
            raise NoPromptError("no_tokens", f"{passage.text[:40]!r}")
        labels = {} if mask is None else {LOSS_MASK: np.array(mask, np.bool_)}
        for name in per_token:
            if (given := passage.fields.get(name)) is not None and name not in labels:
                try:
                    labels[name] = token_values(name, given, len(ids))
                except ValueError as error:
                    raise NoPromptError("bad_values", str(error)) from None
        return ids, labels


def _are_ids(tokens: Any, size: int | None) -> bool:
    if not isinstance(tokens, Sequence) or not all(type(token) is int for token in tokens):
        return False
    return not tokens or (min(tokens) >= 0 and (size is None or max(tokens) < size))


def _with_branches(prompts: pa.Table, passages: Sequence[Passage]) -> pa.Table:
    """`prompts`, with `BRANCH_COLUMNS` if any prompt is a branch."""
    given = {p.source_row: p.given for p in passages if p.given and p.given.branch_of is not None}
    if not given:
        return prompts
    rows = prompts["source_row"].to_pylist()
    prompt_of = {row: prompt for prompt, row in enumerate(rows)}
    branches = [given.get(row) for row in rows]
    columns = [
        [branch and prompt_of[branch.branch_of] for branch in branches],
        [branch and branch.branch_at for branch in branches],
    ]
    for name, values in zip(BRANCH_COLUMNS, columns, strict=True):
        prompts = prompts.append_column(pa.field(name, pa.int32()), pa.array(values, pa.int32()))
    return prompts


def _encoded_passages(
    passages: Sequence[Passage], tokenizer: Any
) -> Iterator[tuple[Passage, Sequence[int]]]:
    """(passage, ids of its text with special tokens) of every passage. Without ids for one whose
    text is not read as it is.
    """
    for start in range(0, len(passages), _BATCH):
        batch = passages[start : start + _BATCH]
        texts = [passage.text for passage in batch if passage.is_text]
        encoded = iter(_encoded(texts, tokenizer) if texts else [])
        for passage in batch:
            yield passage, next(encoded) if passage.is_text else ()


def _encoded(texts: Sequence[str], tokenizer: Any) -> Sequence[list[int]]:
    try:
        ids: Sequence[list[int]] = tokenizer(
            texts,
            add_special_tokens=True,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            verbose=False,  # no warning for texts that exceed the model: they are cut later
        )["input_ids"]
        if len(ids) == len(texts):
            return ids
        why = f"{len(ids)} lists of ids for {len(texts)} texts"
    except Exception as error:  # a tokenizer in Python may raise any error
        why = f"{type(error).__name__}, {first_line(error)}"
    raise InputError(
        f"the tokenizer gives {why}. Give the model's own tokenizer.",
        kind=ErrorKind.UNSUPPORTED_MODEL,
    )


def token_counter(tokenizer: Any) -> Callable[[str], int]:
    """A function that counts the tokens of a text, without special tokens, for `--count-with`."""

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    return count
