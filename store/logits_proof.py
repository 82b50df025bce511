"""Check that `final` and the head of a run give its logits, SPEC.md section 8.

Entropy and ln of the sum are recomputed at some tokens and compared with the stored columns. A
wrong matrix, step or order of rows shows at once; `LogitsCheck` explains which differences are
allowed.
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
from lpp.store.shared.heads import head_name
from lpp.store.shared.logits import Head, entropy_and_log_z, entropy_factor

TOKENS: Final = 256
"""Tokens of a run that are recomputed."""

TOLERANCE: Final = 1e-4
"""Nats. The median of the differences must be within it; in float32 nearly every difference is."""

JOINED: Final = "vllm+torch"
"""The backend whose `final` and whose logits come from two forward passes."""


@dataclass(frozen=True, kw_only=True)
class LogitsCheck:
    """How far recomputed statistics are from the stored ones.

    A float32 product on the edge between two values of bfloat16 or float16 may be rounded the other
    way than in the model's kernel. So most tokens agree to the rounding of float32, and some differ
    by a unit in the last place. With the bound u on the difference of each logit
    (`Head.error_bound`) ln of the sum is within u, and the entropy within u (ln(V) / 2 + 1). Both
    do not change if the rows of the matrix are permuted. So the logit of the token that was the
    most likely must also be within 2 u of the largest logit.
    """

    tokens: int
    entropy: float
    """Largest difference, nats."""
    log_z: float
    """Largest difference, nats."""
    problem: str = ""
    """Why they are not the logits of the run; empty if they are."""

    def __str__(self) -> str:
        return (
            f"logits from final and the head: {self.tokens} tokens, entropy within "
            f"{self.entropy:.1e} nats, log_z within {self.log_z:.1e}"
        )


def check_logits(run: Run, *, tokens: int = TOKENS) -> LogitsCheck | None:
    """Recompute at most `tokens` of the run, spread evenly over its shards.

    None if there is nothing to recompute: no head, no rows of `final`, no statistics, or statistics
    that come from another forward pass than the rows. FormatError for altered bytes. Costs the
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
    """What is wrong with the head of a run; the place is relative to the root of the store."""
    if check is None or not check.problem:
        return []
    where = f"{HEADS_KEY}/{head_name(run.plan)}"
    what = (
        f"{check.problem}, so it is not the head of run {run.id}. Remove that directory and repeat "
        "the `lpp-capture run` command"
    )
    return [Problem(where=where, what=what)]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Some columns of `tokens.arrow`, (n,) each."""

    entropy: npt.NDArray[np.float32]
    log_z: npt.NDArray[np.float32]
    top1_id: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.top1_id)

    def __getitem__(self, rows: Any) -> "Stored":
        return Stored(**{name: getattr(self, name)[rows] for name in COLUMNS})


COLUMNS: Final = ("entropy", "log_z", "top1_id")
"""Columns of `Stored`."""

_NONE: Final = Stored(
    entropy=np.empty(0, np.float32),
    log_z=np.empty(0, np.float32),
    top1_id=np.empty(0, np.int32),
)


def compare_logits(head: Head, rows: npt.NDArray[np.float32], stored: Stored) -> LogitsCheck:
    """Compare what `head` computes from `rows`, (n, d) of `final`, with the stored columns."""
    difference = np.empty((3, len(rows)))
    allowed = np.empty((3, len(rows)))
    for tile, logits in head.tiles(rows):
        told = stored[tile]
        entropy, log_z = (values.astype(np.float64) for values in entropy_and_log_z(logits))
        bound = head.error_bound(logits)
        likeliest = np.clip(told.top1_id, 0, head.vocabulary - 1)  # any number may be stored
        of_likeliest = logits[np.arange(len(logits)), likeliest]
        difference[:, tile] = (
            np.abs(entropy - told.entropy),
            np.abs(log_z - told.log_z),
            logits.max(axis=1) - of_likeliest,
        )
        allowed[:, tile] = (bound * entropy_factor(head.vocabulary), bound, 2 * bound)
    difference = np.where(np.isnan(difference), np.inf, difference)
    return LogitsCheck(
        tokens=len(rows),
        entropy=float(difference[0].max()),
        log_z=float(difference[1].max()),
        problem=_problem(difference, allowed + TOLERANCE),
    )


def _problem(difference: npt.NDArray[np.float64], allowed: npt.NDArray[np.float64]) -> str:
    """Why the logits do not fit the columns; both arrays are (3, n)."""
    what = ("entropy", "log_z", "the logit of the most likely token")
    for name, found, most in zip(what, difference, allowed, strict=True):
        median, worst = float(np.median(found)), int(np.argmax(found - most))
        if median > TOLERANCE:
            return f"{name} from final differs by {median:.1e} in the median"
        if found[worst] > most[worst]:
            return (
                f"{name} from final differs by {found[worst]:.1e} at a token, {most[worst]:.1e} "
                "is allowed"
            )
    return ""


def _sample(run: Run, tokens: int) -> tuple[npt.NDArray[np.float32], Stored]:
    """Rows of `final`, (n, d), and the columns of the same tokens."""
    shards = _spread(run.shards, tokens)
    parts = [
        part
        for number, shard in enumerate(shards)
        for part in _of_shard(
            run, shard, tokens * (number + 1) // len(shards) - tokens * number // len(shards)
        )
    ]
    rows = [np.empty((0, run.site("final").width), np.float32), *(rows for rows, _ in parts)]
    columns = {
        name: np.concatenate([getattr(of, name) for of in (_NONE, *(of for _, of in parts))])
        for name in COLUMNS
    }
    return np.concatenate(rows), Stored(**columns)


def _of_shard(
    run: Run, shard: Shard, tokens: int
) -> Iterator[tuple[npt.NDArray[np.float32], Stored]]:
    """Up to `tokens` tokens of a shard that have statistics, a chunk of the array at a time."""
    table = shard.table(TOKENS_KEY, _WANTED, rows=shard.rows)
    has = ~np.isin(table["prompt_id"].to_numpy(), shard.quarantined())
    has &= table["entropy"].is_valid().to_numpy(zero_copy_only=False)
    chosen = _spread(np.flatnonzero(has).tolist(), tokens)
    columns = {name: table[name].take(pa.array(chosen, pa.int64())).to_numpy() for name in COLUMNS}
    stored, done = Stored(**columns), 0
    spec = site_array(run.site("final"), run.plan.stored_dtype, shard.rows)
    with shard.array(HIDDEN_KEY, spec) as array:
        size = array.layout.chunk_rows
        for _, group in groupby(chosen, key=lambda row: row // size):
            of_chunk = list(group)
            first = of_chunk[0]
            rows = array.rows(first, of_chunk[-1] + 1, dtype="float32")
            yield rows[[row - first for row in of_chunk]], stored[done : done + len(of_chunk)]
            done += len(of_chunk)


_WANTED: Final = pa.schema([TOKENS_SCHEMA.field(name) for name in ("prompt_id", *COLUMNS)])


def _spread(items: Any, most: int) -> list[Any]:
    """At most `most` of `items`, evenly spread, the first among them.

    >>> _spread(range(10), 4)
    [0, 2, 5, 7]
    """
    n = len(items)
    return [items[k * n // min(n, most)] for k in range(min(n, most))]
