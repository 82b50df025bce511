"""What changed in the predictions of two models, for each token and overall (METRICS.md, Drift).

The logits are computed again from the rows of `final` of both runs and their heads
(`logits.two_runs`), and reduced to six numbers a token (`logits.divergences`). These are stored
(`drift.kept`) and reused for the same prompts, heads, arithmetic and draw.

Without the heads, or if V differs, there is no full distribution. Then flips come from the most
likely tokens that capture stored; ln p(next) always comes from stored statistics.
"""

from collections.abc import Collection
from typing import Final

import numpy as np
import polars as pl

from lpp.analyze.drift.kept import KeptDrift
from lpp.analyze.drift.pair import KEYS, Pair
from lpp.analyze.engine.executor import Executor, LocalExecutor
from lpp.analyze.logits.divergences import DIVERGENCES, EVERYTHING, Columns
from lpp.analyze.logits.heads import setting_of
from lpp.analyze.logits.two_runs import logit_columns
from lpp.analyze.metrics.row_measures.neighbours import shuffled
from lpp.analyze.quantities.drift import PREDICTIONS
from lpp.analyze.quantities.tables import frame_schema, shared
from lpp.sql.schema.columns import Column, Merging, Table
from lpp.store.errors import InputError
from lpp.store.format.commit_record import checksum
from lpp.store.progress import SILENT, Progress

DRIFT_TOKENS: Final = Table(
    "drift_tokens",
    "change of the prediction after each token from the first run to the second",
    "lpp-analyze diff STORE RUN_A RUN_B",
    ("run_a", "run_b", "prompt_id", "position"),
    (
        *shared("run_a run_b prompt_id"),
        Column("position", "INTEGER", "position in the prompt, from 0"),
        Column("token_id", "INTEGER", "the token at this position"),
        *(
            Column(number.name, "DOUBLE", f"{number.meaning}; null: no logits", number.unit)
            for number in map(PREDICTIONS.__getitem__, DIVERGENCES)
        ),
        Column("flip", "BOOLEAN", "whether the most likely next token differs"),
        Column("flip_tie", "BOOLEAN", "whether the two most likely tokens tie in either run"),
        Column("top10", "DOUBLE", PREDICTIONS["top10"].meaning, PREDICTIONS["top10"].unit),
        Column("top10_tie", "BOOLEAN", "whether the 10th and 11th token tie in either run"),
        *(
            Column(
                f"next_logprob_{run}",
                "FLOAT",
                f"ln p of the token that follows, in the {which} run",
                "nats",
            )
            for run, which in (("a", "first"), ("b", "second"))
        ),
    ),
    merging=Merging(replaced=("run_a", "run_b", "prompt_id", "position")),
)

TOKEN_DRIFT: Final = frame_schema(DRIFT_TOKENS.columns, without=("run_a", "run_b"))
"""One row for each token, about the distribution after it. Divergences are of p, run A's, from q,
run B's, in nats; tv and top10 are shares; flip_tie and top10_tie say where a tie decides
(`logits.divergences.TIES`). Null without logits (`Pair.no_logits`); next_logprob_* is also null
at a prompt's last token."""


def token_drift(
    pair: Pair,
    *,
    first_position: int = 0,
    tokens: int | None = None,
    seed: int = 0,
    jobs: int | None = None,
    only: Collection[str] = EVERYTHING,
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> pl.DataFrame:
    """What changed after each token of `pair` from `first_position` on: columns `TOKEN_DRIFT`.

    tokens: draw so many tokens uniformly without replacement, by a hash of seed, prompt and
    position. So the draw is the same in both runs and on every machine, and a smaller draw is part
    of a larger one. jobs: tiles computed in parallel; all usable cores by default. only: columns to
    compute, of `logits.divergences`; others are null. executor: replaces `jobs` threads; the bits
    are the same. progress: advances by the tokens of a tile or a task, by `computed_tokens` in all.

    Without a draw every token is computed from position 0 on, and `first_position` selects from the
    result: another one needs no computation. Costs two matrices in memory, 4 V d operations for
    each token and one read of `final` of both runs; stored results cost none of these. Raises
    InputError if there is no token; FormatError for altered bytes, a head of another width, or
    logits that give NaN; ValueError for tokens below 1 or a seed below 0.
    """
    if seed < 0 or (tokens is not None and tokens < 1):
        raise ValueError(f"{tokens} tokens drawn with seed {seed}, should be 1 and 0 or more")
    wanted = pl.col("position") >= first_position
    compared = pair.statistics.filter(wanted)
    if not len(compared):
        raise InputError(
            f"no token of the first {pair.n_prompts} prompts lies at position {first_position} or "
            "later. Skip fewer."
        )
    draw: tuple[object, ...] = ()
    if tokens is not None and tokens < len(compared):
        frame = compared.filter(_drawn(compared, tokens, seed))
        draw = (tokens, seed, first_position)
    else:
        frame = pair.statistics
    who = executor or LocalExecutor(jobs)
    computed = _computed(pair, frame, only, draw, executor=who, progress=progress)
    return computed.filter(wanted)


def drift_at(
    pair: Pair,
    chosen: pl.DataFrame,
    *,
    only: Collection[str] = EVERYTHING,
    jobs: int | None = None,
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> pl.DataFrame:
    """What changed after each of the tokens `chosen`, in order: columns `TOKEN_DRIFT`.

    chosen: columns prompt_id and position; tokens that the pair does not compare are left out.
    Other arguments and errors, and what is stored: as for a draw of `token_drift`.
    """
    keys = KEYS[:2]
    frame = pair.statistics.join(chosen, on=keys, how="semi", maintain_order="left")
    if not len(frame):
        return pl.DataFrame(schema=TOKEN_DRIFT)
    tokens = frame.select(keys).to_numpy().tobytes()
    who = executor or LocalExecutor(jobs)
    draw = ("chosen", checksum(tokens))
    return _computed(pair, frame, only, draw, executor=who, progress=progress)


def compared_tokens(pair: Pair, *, first_position: int = 0, tokens: int | None = None) -> int:
    """How many tokens `token_drift` compares; reads only the prompts."""
    n_tokens = pair.n_tokens(first_position)
    return n_tokens if tokens is None else min(n_tokens, tokens)


def computed_tokens(pair: Pair, *, first_position: int = 0, tokens: int | None = None) -> int:
    """The number of tokens of which `token_drift` computes logits: those drawn, or all."""
    drawn = tokens is not None and tokens < pair.n_tokens(first_position)
    return tokens if tokens is not None and drawn else pair.n_tokens()


def _computed(
    pair: Pair,
    frame: pl.DataFrame,
    only: Collection[str],
    draw: tuple[object, ...],
    *,
    executor: Executor,
    progress: Progress,
) -> pl.DataFrame:
    """`TOKEN_DRIFT` of the tokens of `frame`, at least one row of `Pair.statistics`.

    draw: identifies the tokens if they are a draw; else empty.
    """
    names = EVERYTHING.intersection(only)
    columns: Columns = {}
    if pair.no_logits is not None or not names:
        progress.advance(len(frame))
        if "flip" in names:
            flips = frame["top1_id_a"] != frame["top1_id_b"]
            margins = pl.col("margin_a", "margin_b")
            known = pl.all_horizontal(margins.is_not_null())
            tie = pl.when(known).then(pl.any_horizontal(margins == 0))
            frame = frame.with_columns(flips.alias("flip"), flip_tie=tie)
    else:
        columns = _from_logits(pair, frame, names, draw, executor=executor, progress=progress)
    computed = frame.with_columns(pl.Series(name, values) for name, values in columns.items())
    absent = [
        pl.lit(None, dtype=kind).alias(name)
        for name, kind in TOKEN_DRIFT.items()
        if name not in computed.columns
    ]
    return computed.with_columns(absent).select(TOKEN_DRIFT.names()).cast(TOKEN_DRIFT)


def _from_logits(
    pair: Pair,
    frame: pl.DataFrame,
    names: Collection[str],
    draw: tuple[object, ...],
    *,
    executor: Executor,
    progress: Progress,
) -> Columns:
    """Columns `names` of the tokens of `frame`, (n,) each: stored ones, and the others computed."""
    files, setting = KeptDrift(pair), setting_of(pair.runs, executor, *draw)
    stored = files.columns(setting, names, len(frame))
    missing = [name for name in names if name not in stored]
    if not missing:
        progress.advance(len(frame))
        return stored
    new = logit_columns((pair.a, pair.b), frame, missing, executor, progress)
    files.keep_columns(setting, new)
    return stored | new


def _drawn(frame: pl.DataFrame, count: int, seed: int) -> pl.Series:
    """Which of the tokens are drawn, (n,): those whose hash is among the `count` smallest."""
    prompt, position = (frame[name].to_numpy() for name in KEYS[:2])
    low = np.uint64((1 << 32) - 1)
    key = shuffled(np.array([seed >> 32]), np.array([seed & int(low)]))
    mixed = shuffled(prompt, position) + key
    order = shuffled(mixed >> np.uint64(32), mixed & low)
    drawn = np.zeros(len(frame), bool)
    drawn[np.argpartition(order, count - 1)[:count]] = True
    return pl.Series(drawn)
