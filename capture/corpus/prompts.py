"""Tokenise passages into the prompts of a run, the table `prompts.arrow`.

Uses the model's own tokenizer, keeps special tokens and applies no chat template. Ids beyond the
context are dropped here. The tokenizer's own truncation may keep a closing special token; then a
prompt at context 100 would not be a prefix of the same prompt at context 200.

Passages with `GivenTokens` (`lpp.capture.corpus.passages`) keep those tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from lpp.capture.corpus.passages import Passage, Refused
from lpp.store.errors import ErrorKind, InputError, first_line
from lpp.store.format.prompt_columns import BRANCH_COLUMNS
from lpp.store.format.rows import token_ids_sha256
from lpp.store.format.tables import PROMPTS_SCHEMA

_BATCH: Final = 256
"""Texts per call of the tokenizer: enough to use its threads, few enough for little memory."""


def tokenise(
    passages: Sequence[Passage],
    tokenizer: Any,
    context: int,
    refused: Refused | None = None,
    *,
    size: int | None = None,
) -> pa.Table:
    """(n, 6), `lpp.store.format.tables.PROMPTS_SCHEMA`: one prompt per passage, in order. If any
    prompt is a branch, also `lpp.store.format.prompt_columns.BRANCH_COLUMNS`.

    tokenizer: a transformers tokenizer. context: most tokens of a prompt, at least 1. Column
    `truncated`: whether ids were dropped; `sha256`: of the kept ids as little-endian int32. A
    passage without tokens gives no prompt and is added to `refused`. size: columns of the model's
    logits; ids below it are tokens.

    Raises InputError if no passage has a token, or a tokenizer gives something else than ids.
    """
    if context < 1:
        raise InputError(
            f"--context {context}: at least one token is needed.", kind=ErrorKind.INVALID_VALUE
        )
    refused = refused if refused is not None else Refused()
    rows: list[int] = []
    ids: list[Sequence[int]] = []
    full_lengths: list[int] = []
    for passage, tokens, dropped in _token_ids(passages, tokenizer):
        if not _are_ids(tokens, size):
            below = "" if size is None else f" below {size:,}, the columns of the model's logits"
            raise InputError(
                f"the tokenizer gives {str(tokens)[:60]!r} for {passage.text[:40]!r}, not a list "
                f"of ids{below}. Give the model's own tokenizer.",
                kind=ErrorKind.UNSUPPORTED_MODEL,
            )
        if not tokens:
            refused.add(passage.source_row, "no_tokens", f"{passage.text[:40]!r}")
            continue
        rows.append(passage.source_row)
        ids.append(tokens[:context])
        full_lengths.append(len(tokens) + dropped)
    if passages and not ids:
        raise InputError(
            f"None of {len(passages)} texts has a token under this tokenizer, such as row "
            f"{passages[0].source_row} of the corpus: {passages[0].text[:40]!r}. Raise "
            "--min-bytes, or give another corpus.",
            kind=ErrorKind.INVALID_VALUE,
        )
    columns = [
        range(len(ids)),
        rows,
        ids,
        [len(tokens) for tokens in ids],
        [full > len(tokens) for full, tokens in zip(full_lengths, ids, strict=True)],
        [token_ids_sha256(np.asarray(tokens)) for tokens in ids],
    ]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, PROMPTS_SCHEMA, strict=True)]
    prompts = pa.Table.from_arrays(arrays, schema=PROMPTS_SCHEMA)
    return _with_branches(prompts, passages)


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


def _token_ids(
    passages: Sequence[Passage], tokenizer: Any
) -> Iterator[tuple[Passage, Sequence[int], int]]:
    """(passage, all its ids with special tokens, number of ids dropped before) of every passage."""
    for start in range(0, len(passages), _BATCH):
        batch = passages[start : start + _BATCH]
        texts = [passage.text for passage in batch if passage.given is None]
        encoded = iter(_encoded(texts, tokenizer) if texts else [])
        for passage in batch:
            if passage.given is None:
                yield passage, next(encoded), 0
            else:
                yield passage, passage.given.ids, passage.given.dropped


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
