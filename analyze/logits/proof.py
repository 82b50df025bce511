"""Check on some tokens that `final` and the head of a run give its logits, SPEC.md section 8."""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.analyze.logits.heads import not_its_head, why_foreign
from lpp.store.arrays.layout import site_array
from lpp.store.committed.compare import Problem
from lpp.store.format.keys import HEADS_KEY, HIDDEN_KEY, TOKENS_KEY
from lpp.store.format.tables import TOKENS_SCHEMA
from lpp.store.runs.read import Run
from lpp.store.runs.shards import Shard
from lpp.store.shared.heads import head_name
from lpp.store.shared.logits_proof import LogitsCheck, Stored, compare_logits

_TOKENS: Final = 256
"""Tokens of a run that are recomputed."""

JOINED: Final = "vllm+torch"
"""The backend whose `final` and whose logits come from two forward passes."""


def check_logits(run: Run, *, tokens: int = _TOKENS) -> LogitsCheck | None:
    """Recompute at most `tokens` of the run, spread evenly over its shards.

    None if there is nothing to recompute: no head, no `final`, no statistics, or statistics
    that come from another forward pass than the rows. Nothing is compared where rows of `final` are
    lossy: rounding them changes statistics by more than a wrong head may. FormatError for altered
    bytes. Costs the head's matrix in memory and 2 V d operations a token.
    """
    plan = run.plan
    if "final" not in plan.site_names or plan.compute.backend == JOINED:
        return None
    head = run.head()
    if head is None:
        return None
    if why := why_foreign(run, head):
        return LogitsCheck(tokens=0, entropy=0.0, log_z=0.0, problem=why)
    if plan.is_lossy("final"):
        why = "because final is rounded to float8_e4m3"
        return LogitsCheck(tokens=0, entropy=0.0, log_z=0.0, unchecked=why)
    sample = list(_sample(run, tokens))
    if not sample:
        return None
    rows, stored = zip(*sample, strict=True)
    columns = map(np.concatenate, zip(*stored, strict=True))
    return compare_logits(head, np.concatenate(rows), Stored(*columns))


def logits_problems(run: Run, check: LogitsCheck | None) -> list[Problem]:
    """What is wrong with the head of a run; the place is relative to the root of the store."""
    if check is None or not check.problem:
        return []
    where = f"{HEADS_KEY}/{head_name(run.plan)}"
    return [Problem(where=where, what=not_its_head(run, check.problem))]


def _sample(run: Run, tokens: int) -> Iterator[tuple[npt.NDArray[np.float32], Stored]]:
    """Rows of `final`, (n, d), and the columns of the same tokens, of one shard after another."""
    shards = _spread(run.shards, tokens)
    n = max(len(shards), 1)  # damage may have left no shard
    ends = [tokens * number // n for number in range(len(shards) + 1)]
    for shard, (first, end) in zip(shards, pairwise(ends), strict=True):
        table = shard.table(TOKENS_KEY, _WANTED, rows=shard.rows)
        has = ~np.isin(table["prompt_id"].to_numpy(), shard.quarantined())
        has &= table["entropy"].is_valid().to_numpy(zero_copy_only=False)
        chosen = _spread(np.flatnonzero(has).tolist(), end - first)
        if chosen:
            sampled = table.take(pa.array(chosen, pa.int64()))
            stored = Stored(*(sampled[name].to_numpy() for name in Stored._fields))
            yield np.concatenate(list(_rows(run, shard, chosen))), stored


def _rows(run: Run, shard: Shard, chosen: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
    """Rows of `final`, those of one chunk of the array at a time."""
    final = run.site("final")
    spec = site_array(final, run.plan.dtype_of(final), shard.rows)
    with shard.array(HIDDEN_KEY, spec) as array:
        size = array.layout.chunk_rows
        for _, group in groupby(chosen, key=lambda row: row // size):
            picks = np.array([*group])
            yield array.rows(int(picks[0]), int(picks[-1]) + 1, dtype="float32")[picks - picks[0]]


_WANTED: Final = pa.schema([TOKENS_SCHEMA.field(name) for name in ("prompt_id", *Stored._fields)])


def _spread(items: Any, most: int) -> list[Any]:
    """At most `most` of `items`, evenly spread, the first among them.

    >>> _spread(range(10), 4)
    [0, 2, 5, 7]
    """
    n = len(items)
    return [items[k * n // min(n, most)] for k in range(min(n, most))]
