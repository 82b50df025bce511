"""The table of items that every reader of a log returns, and its prompts in runs of a store.

A prompt's text is the one that it was captured with (`--keep-texts`), or what its tokens spell by
the vocabulary of its tokenizer. White space at either end does not count. A prompt that was cut
has another text and is never joined.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl
import pyarrow as pa

from lpp.analyze.scores.score_table import is_text
from lpp.store import Run
from lpp.store.scores.items import ITEMS_SCHEMA

ITEMS: Final = pl.Schema(
    dict[str, Any](
        task=pl.String,
        item=pl.Int32,
        filter=pl.String,
        item_group=pl.String,
        item_cluster=pl.String,
        texts=pl.List(pl.List(pl.String)),
        log_likelihoods=pl.List(pl.Float64),
        greedy=pl.List(pl.Boolean),
        gold=pl.Int32,
        chosen=pl.Int32,
        correct=pl.Boolean,
        metrics=pl.String,
        doc_sha256=pl.String,
    )
)
"""One row per item of a log and filter (or scorer): columns of `ITEMS_SCHEMA`, and `texts`: of each
answer, the texts that a prompt of it may have, the likeliest first; none where no text is known."""

Prompts = Mapping[bytes, int]
"""The prompts of a run by the digest of their text; the first of several that are alike."""


def item_row(texts: Sequence[Sequence[str]], **columns: Any) -> dict[str, Any]:
    """A row of `ITEMS`. ValueError where a column holds half a surrogate pair; a text that does is
    no prompt's.
    """
    for value in columns.values():
        if isinstance(value, str):
            value.encode()
    return {"texts": [list(filter(is_text, answer)) for answer in texts], **columns}


def join_items(
    items: pl.DataFrame, prompts: Mapping[str, Prompts], *, source: str, model: str
) -> tuple[pa.Table, int]:
    """`ITEMS` as `ITEMS_SCHEMA`, with the prompts of the one run that has most of their texts; and
    how many items have a prompt for each answer whose text is known.

    prompts: run -> its prompts; of equals the first counts.
    """
    texts = items["texts"].to_list()
    joined = {
        run: [_prompt_ids(answers, known) for answers in texts] for run, known in prompts.items()
    }
    counts = {run: sum(i is not None for row in rows for i in row) for run, rows in joined.items()}
    run = max(counts, key=counts.__getitem__, default=None)
    if run is None or counts[run] == 0:
        run = None
    ids = [_prompt_ids(answers, {}) for answers in texts] if run is None else joined[run]
    n_whole = 0
    for answers, prompt_ids in zip(texts, ids, strict=True):
        known = [i for i, alternatives in zip(prompt_ids, answers, strict=True) if alternatives]
        n_whole += bool(known) and None not in known
    rows = [
        {**row, "source": source, "model": model, "run": run, "prompt_ids": prompt_ids}
        for row, prompt_ids in zip(items.drop("texts").to_dicts(), ids, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS_SCHEMA), n_whole


def _prompt_ids(answers: Sequence[Sequence[str]], prompts: Prompts) -> list[int | None]:
    """The prompt of each answer."""
    return [
        next((i for text in texts if (i := prompts.get(_digest(text.encode()))) is not None), None)
        for texts in answers
    ]


def prompts_of(run: Run) -> Prompts:
    """The prompts of `run` that were not cut; none where it cannot say what they read."""
    by_digest: dict[bytes, int] = {}
    for prompt_id, text in _texts(run):
        by_digest.setdefault(_digest(text), prompt_id)
    return by_digest


def _texts(run: Run) -> Iterator[tuple[int, bytes]]:
    """(prompt, text) of every prompt that was not cut."""
    has_text = "text" in run.extra_columns.names
    vocabulary = None if has_text else run.vocabulary()
    if vocabulary is None and not has_text:
        return
    spelled = {}
    if vocabulary is not None:
        # tokens without bytes, such as one that begins a text, stand for no text
        pieces = (piece or b"" for piece in vocabulary["bytes"].to_pylist())
        spelled = dict(zip(vocabulary["id"].to_pylist(), pieces, strict=True))
    rows = run.prompts(*(["text"] if has_text else [])).to_pylist()
    for row, of, at in zip(rows, *run.branches, strict=True):
        root = rows[of] if of >= 0 else None
        if row["truncated"] or (root is not None and root["truncated"]):
            continue
        if has_text:
            text = ("" if root is None else root["text"]) + row["text"]
            yield row["prompt_id"], text.encode()
        else:
            ids = [*([] if root is None else root["token_ids"][:at]), *row["token_ids"]]
            yield row["prompt_id"], b"".join(spelled.get(i, b"") for i in ids)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text.strip()).digest()
