"""What changed in the predictions of two models, token by token, and in all (METRICS.md, Drift).

The rows of `final` of both runs are read in step, each run's head makes logits of a tile of them at
a time (`drift.tiles`), and of each token six numbers stay (`numerics.logit_drift`).

Without the heads, or where V differs, there is no full distribution: then flips come from the most
likely tokens that capture stored, and ln p(next) always does.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from lpp.analyze.drift.pair import Pair, read_compared
from lpp.analyze.drift.products import described, place_of, products
from lpp.analyze.drift.tiles import rows_drift
from lpp.analyze.metrics.neighbours import shuffled
from lpp.analyze.numerics.jackknife import jackknife
from lpp.analyze.numerics.logit_drift import DIVERGENCES, EVERYTHING
from lpp.analyze.numerics.moments import Rows
from lpp.analyze.runs.cells import GROUPS, Integers
from lpp.store import Run
from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.commit_record import HeadRecord
from lpp.store.format.keys import HEADS_KEY
from lpp.store.format.plan import StoredDtype
from lpp.store.format.schedule import group_boundaries
from lpp.store.objects.locate import objects_at
from lpp.store.shared.directory import open_shared
from lpp.store.shared.heads import Head, head_directories, head_name

SCHEMA: Final = pl.Schema(
    {
        "prompt_id": pl.Int32,
        "position": pl.Int32,
        "token_id": pl.Int32,
        **dict.fromkeys(DIVERGENCES, pl.Float64),
        "flip": pl.Boolean,
        "top10": pl.Float64,
        "next_logprob_a": pl.Float32,
        "next_logprob_b": pl.Float32,
    }
)
"""One row for each token, of the distribution after it. Divergences are of p, run A's, from q, run
B's: nats; tv and top10: shares. Null without logits (`why_no_logits`); next_logprob_* at a prompt's
last token."""

_STORED: Final = ("prompt_id", "position", "token_id", "next_logprob", "top1_id")
_KEYS: Final = list(_STORED[:3])


# per token


def token_drift(
    pair: Pair,
    *,
    first_position: int = 0,
    tokens: int | None = None,
    seed: int = 0,
    jobs: int | None = None,
    only: Collection[str] = EVERYTHING,
    progress: Progress = SILENT,
) -> pl.DataFrame:
    """What changed after each token of `pair` from `first_position` on: columns `SCHEMA`.

    tokens: of so many tokens, drawn uniformly without replacement by a hash of seed, prompt and
    position: the same ones in both runs and on every machine, and a smaller draw is part of a
    larger one. jobs: tiles computed side by side; all usable cores by default. only: columns to
    compute, of `numerics.logit_drift`; others are null. progress: advances by the tokens of a tile.
    Costs two matrices in memory, 4 V d operations and a read of `final` of both runs. InputError
    for no token, FormatError for altered bytes, a head of another width, logits that are no
    numbers; ValueError for tokens below 1 or a seed below 0.
    """
    if seed < 0 or (tokens is not None and tokens < 1):
        raise ValueError(f"{tokens} tokens drawn with seed {seed}, should be 1 and 0 or more")
    frame = _stored(pair, first_position)
    if tokens is not None and tokens < len(frame):
        frame = frame.filter(_drawn(frame, tokens, seed))
    found: dict[str, npt.NDArray[Any]] = {}
    if why_no_logits(pair) is None and not EVERYTHING.isdisjoint(only):
        found = _from_logits(pair, frame, only, jobs or usable_cores(), progress)
    else:
        progress.advance(len(frame))
    if found or "flip" not in only:
        frame = frame.drop("flip")
    computed = frame.with_columns(pl.Series(name, values) for name, values in found.items())
    absent = [
        pl.lit(None, dtype=kind).alias(name)
        for name, kind in SCHEMA.items()
        if name not in computed.columns
    ]
    return computed.with_columns(absent).select(SCHEMA.names()).cast(SCHEMA)


def compared_tokens(pair: Pair, *, first_position: int = 0, tokens: int | None = None) -> int:
    """How many tokens `token_drift` compares: nothing is read but the prompts."""
    every = pair.n_tokens(first_position)
    return every if tokens is None else min(every, tokens)


def why_no_logits(pair: Pair) -> str | None:
    """Why there is no full distribution of both models, and what would give it; None where there
    is. Reads the records of the heads, not their matrices.
    """
    for run in (pair.a.run, pair.b.run):
        where = f"run {run.id} of {run.directory.root}"
        if "final" not in run.sites:
            return f"{where} does not hold `final`: capture again with --sites final."
        if not run.plan.keeps_rows:
            return f"{where} keeps no rows: capture again with --keep rows or --keep both."
        if not head_directories(objects_at(run.directory.root), run.plan):
            return (
                f"{where}: the store does not hold the head of its model. Repeat its "
                "`lpp-capture run` command with --keep-head yes."
            )
    a, b = (view.run.plan.model.logits_width for view in (pair.a, pair.b))
    if a != b:
        return f"the models have {a:,} and {b:,} logits: they share no vocabulary to compare over."
    return None


def arithmetic(pair: Pair) -> str:
    """One line: what multiplies, and what is rounded to which dtype; empty without logits.

    Rows that were stored in another dtype than the model's are named: they are not those that its
    own logits were made of.
    """
    if why_no_logits(pair) is not None:
        return ""
    lines = []
    for run in (pair.a.run, pair.b.run):
        dtype, stored = _head_dtype(run), run.plan.stored_dtype
        other = "" if stored == dtype else f", of rows stored as {stored}"
        lines.append(described(place_of(dtype), dtype) + other)
    return "; ".join(dict.fromkeys(lines))


def _stored(pair: Pair, first_position: int) -> pl.DataFrame:
    """Tokens that are compared, with what capture stored of both: `_KEYS`, ln p(next), `flip`."""
    a, b = (read_compared(view, pair, _STORED, first_position) for view in (pair.a, pair.b))
    if not len(a):
        raise InputError(
            f"no token of the first {pair.n_prompts} prompts lies at position {first_position} or "
            "later. Skip fewer.",
            kind=ErrorKind.INVALID_VALUE,
        )
    if not a.select(_KEYS).equals(b.select(_KEYS)):
        raise FormatError(
            f"the token statistics of {pair.a.run.id} and {pair.b.run.id} are of other tokens than "
            "their prompts. `lpp-analyze verify` says which were altered.",
            kind=ErrorKind.CORRUPT,
        )
    return a.select(
        *_KEYS,
        pl.col("next_logprob").alias("next_logprob_a"),
        b["next_logprob"].alias("next_logprob_b"),
        (pl.col("top1_id") != b["top1_id"]).alias("flip"),
    )


def _drawn(frame: pl.DataFrame, count: int, seed: int) -> pl.Series:
    """Which of the tokens are drawn, (n,): those whose number is among the `count` smallest."""
    prompt, position = (frame[name].to_numpy() for name in ("prompt_id", "position"))
    low = np.uint64((1 << 32) - 1)
    key = shuffled(np.array([seed >> 32]), np.array([seed & int(low)]))
    mixed = shuffled(prompt, position) + key
    order = shuffled(mixed >> np.uint64(32), mixed & low)
    drawn = np.zeros(len(frame), bool)
    drawn[np.argpartition(order, count - 1)[:count]] = True
    return pl.Series(drawn)


# from logits


def _from_logits(
    pair: Pair, frame: pl.DataFrame, only: Collection[str], jobs: int, progress: Progress
) -> dict[str, npt.NDArray[Any]]:
    """Columns `only` of the tokens of `frame`, (n,) each."""
    a, b = _heads(pair)
    of_a = products(a, place_of(a.dtype))
    of_b = of_a if a is b else products(b, place_of(b.dtype))
    found = rows_drift(
        [_chosen_rows(view.run, frame, pair.n_prompts) for view in (pair.a, pair.b)],
        [of_a, of_b],
        a.vocabulary,
        only,
        jobs=jobs,
        progress=progress,
    )
    bad = np.logical_or.reduce([np.isnan(values) for values in found.values()])
    if bad.any():
        prompt, position = frame.select(_KEYS[:2]).row(int(bad.argmax()))
        raise FormatError(
            f"the logits of {pair.a.run.id} or {pair.b.run.id} after position {position} of prompt "
            f"{prompt} are no finite numbers, and so are those of {bad.sum()} tokens in all. "
            "`lpp-analyze verify` says whether bytes were altered.",
            kind=ErrorKind.CORRUPT,
        )
    return found


def _heads(pair: Pair) -> tuple[Head, Head]:
    """Of A and of B; one object where both runs are of one model in one store."""
    a, b = pair.a.run, pair.b.run
    head = _head(a)
    same = a.directory.root == b.directory.root and head_name(a.plan) == head_name(b.plan)
    return head, head if same and head.width == b.site("final").width else _head(b)


def _head(run: Run) -> Head:
    head = run.head()
    assert head is not None, "asked without `why_no_logits`"
    if head.width != run.site("final").width:
        raise FormatError(
            f"{run.directory.root}/{HEADS_KEY}/{head.name}: its matrix has {head.width} columns, "
            f"final has {run.site('final').width}, so it is not the head of run {run.id}. Remove "
            "that directory and repeat the `lpp-capture run` command.",
            kind=ErrorKind.CORRUPT,
        )
    return head


def _head_dtype(run: Run) -> StoredDtype:
    """From the record: the matrix is not read."""
    found = open_shared(objects_at(run.directory.root), HEADS_KEY, head_name(run.plan), HeadRecord)
    assert found is not None, "asked without `why_no_logits`"
    return found.record.dtype


def _chosen_rows(run: Run, frame: pl.DataFrame, n_prompts: int) -> Iterator[Rows]:
    """The rows of `final` of the tokens of `frame`, in its order, a block at a time."""
    prompt, position = (frame[name].to_numpy() for name in ("prompt_id", "position"))
    chosen = np.zeros((n_prompts, int(run.lengths[:n_prompts].max())), bool)
    chosen[prompt, position] = True
    count = 0
    for block in run.blocks("final", prompts=n_prompts):
        wanted = chosen[block.prompt_id, block.position]
        rows = block.values if wanted.all() else block.values[wanted]
        count += len(rows)
        yield rows
    if count != len(frame):
        raise FormatError(
            f"run {run.id} has {count} rows of `final` for {len(frame)} tokens. "
            f"`lpp-analyze verify {run.directory.root}` says what was altered.",
            kind=ErrorKind.CORRUPT,
        )


# in all


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A number over all tokens; None where no token has it."""

    mean: float | None = None
    median: float | None = None
    p99: float | None = None
    max: float | None = None
    stderr: float | None = None
    """Of the mean, over prompts."""
    ci_low: float | None = None
    ci_high: float | None = None
    """Of the mean, 95 %."""
    groups: int = 0
    """Of prompts, that the error was made of."""
    n_tokens: int
    """Tokens that have the number."""


_CHANGE: Final = pl.col("next_logprob_a").cast(pl.Float64) - pl.col("next_logprob_b")

_UNBOUNDED: Final = -math.inf, math.inf
_FROM_0: Final = 0.0, math.inf
_SHARE: Final = 0.0, 1.0

NUMBERS: Final[dict[str, tuple[pl.Expr, tuple[float, float]]]] = {
    "kl": (pl.col("kl"), _FROM_0),
    "kl_reverse": (pl.col("kl_reverse"), _FROM_0),
    "js": (pl.col("js"), (0.0, math.log(2))),
    "tv": (pl.col("tv"), _SHARE),
    "flips": (pl.col("flip").cast(pl.Float64), _SHARE),
    "top10": (pl.col("top10"), _SHARE),
    "next_logprob": (_CHANGE.abs(), _FROM_0),
    "log_perplexity": (_CHANGE, _UNBOUNDED),
}
"""What `prediction_drift` summarises of each token, and what the number cannot leave.

next_logprob: |ln p_B(next) - ln p_A(next)|, how far it moved either way. log_perplexity:
ln p_A(next) - ln p_B(next), with its sign: the mean is ln PPL(B) - ln PPL(A), and the maximum is
where B lost most."""


def prediction_drift(frame: pl.DataFrame) -> dict[str, Summary]:
    """Mean, median, 99th percentile, maximum and error of each of `NUMBERS`.

    frame: of `token_drift`. Means are over tokens. Their error is over prompts: a delete-a-group
    jackknife of ten groups of neighbouring prompts, among those with a token. Where tokens were
    drawn, the error holds what the draw adds, since other tokens are drawn of other prompts.
    """
    return {
        name: summarize_tokens(
            frame.select("prompt_id", value=value).drop_nulls().sort("prompt_id"), limits
        )
        for name, (value, limits) in NUMBERS.items()
    }


def summarize_tokens(values: pl.DataFrame, limits: tuple[float, float]) -> Summary:
    """Of (n, 2) prompt_id, ascending, and value, in float64; limits: what no mean can leave."""
    tokens = values["value"].to_numpy()
    if not len(tokens):
        return Summary(n_tokens=0)
    if np.isfinite(tokens).all():
        median, p99 = np.quantile(tokens, [0.5, 0.99])
    else:  # interpolation would take infinity from infinity
        median, p99 = np.quantile(tokens, [0.5, 0.99], method="higher")
    mean = float(tokens.mean())
    error = jackknife(mean, _without_groups(values["prompt_id"].to_numpy(), tokens), limits)
    return Summary(
        mean=mean,
        median=float(median),
        p99=float(p99),
        max=float(tokens.max()),
        stderr=error.stderr,
        ci_low=error.ci_low,
        ci_high=error.ci_high,
        groups=len(error.groups),
        n_tokens=len(tokens),
    )


def _without_groups(prompt_id: Integers, values: npt.NDArray[np.float64]) -> list[float]:
    """The mean of the tokens without each group of prompts."""
    first = np.flatnonzero(np.diff(prompt_id, prepend=-1))  # of each prompt
    edges = [*first, len(values)]
    if len(first) < 2:
        return []
    ends = [edges[k] for k in group_boundaries(len(first), GROUPS)]
    sums = np.add.reduceat(values, ends[:-1])
    counts = np.diff(ends)
    with np.errstate(invalid="ignore"):
        found: list[float] = ((sums.sum() - sums) / (counts.sum() - counts)).tolist()
    return found
