"""Proof that `final` and the head of a run are its logits, SPEC.md section 8.

Entropy and ln of the sum are recomputed at some tokens and compared with the stored columns. A
wrong matrix, step or order of rows shows at once; what may differ is told in `LogitsCheck`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.arrays.layout import site_array
from lpp.store.committed.compare import Problem
from lpp.store.format.keys import HEADS_KEY, HIDDEN_KEY, TOKENS_KEY
from lpp.store.format.tables import TOKENS_SCHEMA
from lpp.store.read import Run
from lpp.store.shards import Shard
from lpp.store.shared.heads import Head, entropy_and_log_z, entropy_factor, head_name

TOKENS: Final = 256
"""Tokens of a run that are recomputed."""

TOLERANCE: Final = 1e-4
"""Nats. The median of the differences is within, and in float32 nearly every one."""

JOINED: Final = "vllm+torch"
"""The backend whose `final` and whose logits come from two forward passes."""


@dataclass(frozen=True, kw_only=True)
class LogitsCheck:
    """How far recomputed statistics are from the stored ones.

    A float32 product on the edge between two values of bfloat16 or float16 may be rounded the other
    way than in the model's kernel. So most tokens agree to the rounding of float32, and some differ
    by what a unit in the last place explains. With the bound u on the difference of each logit
    (`Head.error_bound`) ln of the sum is within u, and the entropy within u (ln(V) / 2 + 1).
    """

    tokens: int
    entropy: float
    """Largest difference, nats."""
    log_z: float
    """Largest difference, nats."""
    problem: str = ""
    """Why they are not the logits of the run; empty where they are."""

    def __str__(self) -> str:
        return (
            f"logits from final and the head: {self.tokens} tokens, entropy within "
            f"{self.entropy:.1e} nats, log_z within {self.log_z:.1e}"
        )


def check_logits(run: Run, *, tokens: int = TOKENS) -> LogitsCheck | None:
    """Recompute at most `tokens` of the run, spread evenly over its shards.

    None where there is nothing to recompute: no head, no rows of `final`, no statistics, or
    statistics of another forward pass than the rows. FormatError for altered bytes. Costs the
    head's matrix in memory and 2 V d operations a token.
    """
    plan = run.plan
    if not plan.keeps_rows or "final" not in plan.site_names or plan.compute.backend == JOINED:
        return None
    head = run.head()
    if head is None:
        return None
    if head.width != run.site("final").width:
        return LogitsCheck(
            tokens=0,
            entropy=0.0,
            log_z=0.0,
            problem=f"its matrix has {head.width} columns, final has {run.site('final').width}",
        )
    rows, stored = _sample(run, tokens)
    return compare_logits(head, rows, stored) if len(rows) else None


def logits_problems(run: Run, check: LogitsCheck | None) -> list[Problem]:
    """What is wrong with the head of a run, its place told from the root of the store."""
    if check is None or not check.problem:
        return []
    where = f"{HEADS_KEY}/{head_name(run.plan)}"
    what = (
        f"{check.problem}, so it is not the head of run {run.id}. Remove that directory and repeat "
        "the `lpp-capture run` command"
    )
    return [Problem(where=where, what=what)]


def compare_logits(
    head: Head, rows: npt.NDArray[np.float32], stored: npt.NDArray[np.float32]
) -> LogitsCheck:
    """Entropy and log_z of the logits of `rows`, (n, d), against those `stored`, (n, 2)."""
    difference = np.empty(stored.shape)
    allowed = np.empty(stored.shape)
    for tile, logits in head.tiles(rows):
        made = np.stack(entropy_and_log_z(logits), axis=1)
        difference[tile] = np.abs(made.astype(np.float64) - stored[tile])
        bound = head.error_bound(logits)
        allowed[tile, 0] = bound * entropy_factor(head.vocabulary) + TOLERANCE
        allowed[tile, 1] = bound + TOLERANCE
    difference = np.where(np.isnan(difference), np.inf, difference)
    problem = ""
    for column, name in enumerate(("entropy", "log_z")):
        median = float(np.median(difference[:, column]))
        worst = int(np.argmax(difference[:, column] - allowed[:, column]))
        if median > TOLERANCE:
            problem = problem or f"{name} from final differs by {median:.1e} nats in the median"
        elif difference[worst, column] > allowed[worst, column]:
            problem = problem or (
                f"{name} from final differs by {difference[worst, column]:.1e} nats at a token, "
                f"{allowed[worst, column]:.1e} are the most"
            )
    return LogitsCheck(
        tokens=len(rows),
        entropy=float(difference[:, 0].max()),
        log_z=float(difference[:, 1].max()),
        problem=problem,
    )


def _sample(run: Run, tokens: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Rows of `final`, (n, d), and their stored entropy and log_z, (n, 2)."""
    shards = _spread(run.shards, tokens)
    found = [
        part
        for number, shard in enumerate(shards)
        for part in _of_shard(
            run, shard, tokens * (number + 1) // len(shards) - tokens * number // len(shards)
        )
    ]
    width = run.site("final").width
    rows = [np.empty((0, width), np.float32), *(rows for rows, _ in found)]
    stored = [np.empty((0, 2), np.float32), *(stored for _, stored in found)]
    return np.concatenate(rows), np.concatenate(stored)


def _of_shard(
    run: Run, shard: Shard, tokens: int
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Some tokens of a shard that have statistics, a chunk of the array at a time."""
    table = shard.table(TOKENS_KEY, _WANTED, rows=shard.rows)
    has = ~np.isin(table["prompt_id"].to_numpy(), shard.quarantined())
    has &= table["entropy"].is_valid().to_numpy(zero_copy_only=False)
    stored = np.stack([_values(table[name]) for name in ("entropy", "log_z")], axis=1)
    chosen = _spread(np.flatnonzero(has).tolist(), tokens)
    spec = site_array(run.site("final"), run.plan.stored_dtype, shard.rows)
    with shard.array(HIDDEN_KEY, spec) as array:
        size = array.layout.chunk_rows
        for _, group in groupby(chosen, key=lambda row: row // size):
            of_chunk = list(group)
            first = of_chunk[0]
            rows = array.rows(first, of_chunk[-1] + 1, dtype="float32")
            yield rows[[row - first for row in of_chunk]], stored[of_chunk]


_WANTED: Final = pa.schema([TOKENS_SCHEMA.field(n) for n in ("prompt_id", "entropy", "log_z")])


def _values(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = column.to_numpy().astype(np.float32)
    return values


def _spread(items: Any, most: int) -> list[Any]:
    """At most `most` of `items`, evenly spread, the first among them.

    >>> _spread(range(10), 4)
    [0, 2, 5, 7]
    """
    n = len(items)
    return [items[k * n // min(n, most)] for k in range(min(n, most))]
