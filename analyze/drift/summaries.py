"""Numbers of the predictions over all tokens, and by position in the prompt: does drift grow with
the context?

Positions are grouped in bands of doubling width: [0, 1), [1, 2), [2, 4), [4, 8) and so on. So the
first tokens of a prompt, which can be attention sinks, have bands of their own.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from lpp.analyze.drift.pair import Pair
from lpp.analyze.numerics.jackknife import error_names, jackknife, jackknife_of_log
from lpp.analyze.numerics.statistics.calibration import proportion_interval
from lpp.analyze.quantities.drift import PREDICTIONS, Prediction
from lpp.analyze.runs.groups import GROUPS, Groups, Integers, group_of

BANDS: Final = pl.Schema(
    {
        "first": pl.Int32,
        "end": pl.Int32,
        "n_tokens": pl.Int64,
        **{column: pl.Float64 for name in ("kl", "flips") for column in (name, *error_names(name))},
    }
)
"""One row for each band that holds a token. n_tokens: tokens compared; kl: mean in nats, null
without logits; flips: share of tokens; each with its error and 95 % interval over prompts."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A number over all tokens; fields are None if no token has it."""

    mean: float | None = None
    median: float | None = None
    p99: float | None = None
    max: float | None = None
    stderr: float | None = None
    """Standard error of the mean, over prompts."""
    ci_low: float | None = None
    ci_high: float | None = None
    """Upper end of the 95 % interval of the mean."""
    groups: int = 0
    """Number of groups of prompts behind the error."""
    n_tokens: int
    """Number of tokens that have a value."""
    ties: float | None = None
    """Share of tokens at which a tie of A or of B decides; flips and top10 only."""


OF_TOKENS: Final = {name: p for name, p in PREDICTIONS.items() if p.value is not None}
"""Numbers that a frame of tokens has."""


def token_value(number: Prediction) -> pl.Expr:
    """The value of each token of a frame, columns `TOKEN_DRIFT`."""
    assert number.value is not None
    value: pl.Expr = number.value(lambda name: pl.col(name).cast(pl.Float64))
    return value


def prediction_drift(
    frame: pl.DataFrame, *, only: Collection[str] = tuple(PREDICTIONS), groups: Groups = GROUPS
) -> dict[str, Summary]:
    """Mean, median, 99th percentile, maximum and error of the `PREDICTIONS` that tokens have, or
    `only` of some.

    frame: of `token_drift`. Means are over tokens. Their error is over prompts: a delete-a-group
    jackknife of `groups`, among the prompts with a token. Where no token flips, or all do, the
    interval of flips is Wilson's, of as many observations as there are prompts or clusters; top10
    likewise. If tokens were drawn, the error includes that of the draw, because other prompts have
    other drawn tokens.
    """
    summaries = {
        name: summarize_tokens(
            frame.select("prompt_id", value=token_value(number)).drop_nulls().sort("prompt_id"),
            number,
            groups,
        )
        for name, number in OF_TOKENS.items()
        if name in only
    }
    for name, number in ((name, OF_TOKENS[name]) for name in summaries if OF_TOKENS[name].tie):
        if summaries[name].stderr is not None and summaries[name].mean in number.limits:
            prompts = (
                frame.filter(token_value(number).is_not_null())["prompt_id"].unique().to_numpy()
            )
            n = len(prompts if isinstance(groups, int) else np.unique(groups.of[prompts]))
            low, high = proportion_interval(int(summaries[name].mean or 0) * n, n)
            summaries[name] = replace(summaries[name], ci_low=low, ci_high=high)
        ties = frame[number.tie].drop_nulls()
        if len(ties):
            summaries[name] = replace(summaries[name], ties=int(ties.sum()) / len(ties))
    return summaries


def summarize_tokens(values: pl.DataFrame, number: Prediction, groups: Groups = GROUPS) -> Summary:
    """Summary of `number` from (n, 2) prompt_id, ascending, and value, in float64, by `groups`."""
    tokens = values["value"].to_numpy()
    if not len(tokens):
        return Summary(n_tokens=0)
    if np.isfinite(tokens).all():
        median, p99 = np.quantile(tokens, [0.5, 0.99])
    else:  # interpolation would compute infinity minus infinity
        median, p99 = np.quantile(tokens, [0.5, 0.99], method="higher")
    means = tokens.mean(), *_without_groups(values["prompt_id"].to_numpy(), tokens, groups)
    mean, *without = map(number.of_mean, means)
    of_log = number.of_log
    error = jackknife_of_log(mean, without) if of_log else jackknife(mean, without, number.limits)
    return Summary(
        mean=mean,
        median=number.of_mean(median),
        p99=number.of_mean(p99),
        max=number.of_mean(tokens.max()),
        stderr=error.stderr,
        ci_low=error.ci_low,
        ci_high=error.ci_high,
        groups=len(error.groups),
        n_tokens=len(tokens),
    )


def _without_groups(
    prompt_id: Integers, values: npt.NDArray[np.float64], groups: Groups
) -> list[float]:
    """The mean over tokens without each group of prompts, in turn."""
    prompts, prompt = np.unique(prompt_id, return_inverse=True)
    present = groups if isinstance(groups, int) else groups.only(prompts)
    group = group_of(present, len(prompts))[prompt]
    order = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[order], prepend=-1))
    if len(first) < 2:
        return []
    sums = np.add.reduceat(values[order], first)
    counts = np.diff(first, append=len(values))
    with np.errstate(invalid="ignore"):
        means: list[float] = ((sums.sum() - sums) / (counts.sum() - counts)).tolist()
    return means


def entropy_drift(pair: Pair, *, first_position: int = 0) -> Summary:
    """Entropy of the next token, B - A, in nats: over all tokens from `first_position` on that
    have one in both runs, with the paired error over prompts. FormatError for altered bytes.
    """
    a, b = (pl.col(name).cast(pl.Float64) for name in ("entropy_a", "entropy_b"))
    changes = (
        pair.statistics.filter(pl.col("position") >= first_position)
        .select("prompt_id", value=(b - a).fill_nan(None))
        .drop_nulls()
    )
    return summarize_tokens(changes, PREDICTIONS["entropy"], pair.groups)


def by_position(frame: pl.DataFrame, groups: Groups = GROUPS) -> pl.DataFrame:
    """KL and flips of the tokens of each band of positions: columns `BANDS`, by `first`.

    frame: of `token_drift`. groups: of the jackknife. A band is [first, end). The first band begins
    at the first position that has a token, the last one ends behind the last.
    """
    positions = frame["position"]
    rows = []
    if len(frame):
        edges = band_edges(int(positions.min()), int(positions.max()) + 1)  # type: ignore[arg-type]
        for first, end in pairwise(edges):
            band = frame.filter((positions >= first) & (positions < end))
            if len(band):
                rows.append(
                    {"first": first, "end": end, "n_tokens": len(band), **_means(band, groups)}
                )
    return pl.DataFrame(rows, schema=BANDS)


def band_edges(first: int, end: int) -> list[int]:
    """Where the bands of the positions from `first` to below `end` begin, and `end`.

    >>> band_edges(0, 10), band_edges(3, 10)
    ([0, 1, 2, 4, 8, 10], [3, 4, 8, 10])
    """
    inner = (1 << k for k in range(end.bit_length()))
    return [first, *(edge for edge in inner if first < edge < end), end]


def _means(band: pl.DataFrame, groups: Groups) -> dict[str, float | None]:
    """Mean, error and interval of both numbers."""
    summaries = prediction_drift(band, only=("kl", "flips"), groups=groups)
    return {
        column: value
        for name, summary in summaries.items()
        for column, value in zip(
            (name, *error_names(name)),
            (summary.mean, summary.stderr, summary.ci_low, summary.ci_high),
            strict=True,
        )
    }
