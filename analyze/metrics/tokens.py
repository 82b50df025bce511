"""Declared metrics of the token statistics, as lazy Polars expressions.

Each is an aggregate over rows of `scan_tokens`, in prompt and position order, so it stands in any
`select` or `group_by(...).agg`; a metric applies it to the tokens below one prefix.

What is said about the next token counts tokens whose next one is in the rows too: the last row of
each prompt predicts a token beyond the prefix. So a shorter context equals a capture at it. A
number is null where a statistic is missing that it needs: at positions that were not captured,
and in stores that are older than the column.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import polars as pl

from lpp.analyze.metrics.metric import Metric

ECE_BINS: Final = 15
"""Bins of equal width between 0 and 1: bin k holds k / 15 < confidence <= (k + 1) / 15."""

SURPRISAL: Final = -pl.col("next_logprob")
"""-ln p of the token that follows, in nats; a value for each row."""
CONFIDENCE: Final = pl.col("max_logprob").cast(pl.Float64).exp()
"""Probability of the likeliest token; a value for each row."""
CORRECT: Final = pl.col("next_rank") == 1
"""Whether no token was likelier than the one that followed; a value for each row."""

_HAS_NEXT: Final = ~pl.col("prompt_id").is_last_distinct()


def _mean_of(value: pl.Expr) -> pl.Expr:
    """Mean in float64, null where a value is missing or is no number."""
    wide = value.cast(pl.Float64).fill_nan(None)
    return pl.when(wide.is_not_null().all()).then(wide.mean())


def calibration_error(confidence: pl.Expr, correct: pl.Expr, bins: int = ECE_BINS) -> pl.Expr:
    """Expected calibration error: sum over bins of n_b / N |accuracy_b - mean confidence_b|.

    confidence: probabilities of the predictions. correct: whether each came true. Naeini et al.
    2015; Guo et al. 2017. Null for no rows, and where either is missing. With n_b / N put into
    the difference, a bin's term is |sum of correct - sum of confidence| / N.

    (The packages that have it bring torch or a plotting stack, and want arrays in memory.)

    >>> frame = pl.DataFrame({"p": [0.9, 0.9, 0.1], "hit": [True, False, False]})
    >>> error = calibration_error(pl.col("p"), pl.col("hit"))
    >>> round(frame.select(error).item(), 6)  # (|1 - 1.8| + |0 - 0.1|) / 3
    0.3
    """
    gap = correct.cast(pl.Float64) - confidence.cast(pl.Float64).fill_nan(None)
    which = ((confidence * bins).ceil() - 1).clip(0, bins - 1)
    terms = [pl.when(which == k).then(gap).otherwise(0.0).sum().abs() for k in range(bins)]
    there = gap.is_not_null().all() & (gap.len() > 0)
    return pl.when(there).then(pl.sum_horizontal(terms) / gap.len())


def _next(value: pl.Expr) -> pl.Expr:
    return value.filter(_HAS_NEXT)


TOKEN_EXPRESSIONS: Final[Mapping[str, pl.Expr]] = MappingProxyType(
    {
        "surprisal": _mean_of(_next(SURPRISAL)),
        "perplexity": _mean_of(_next(SURPRISAL)).exp(),
        "margin": _mean_of(pl.col("margin")),
        "varentropy": _mean_of(pl.col("varentropy")),
        "top1_accuracy": _mean_of(_next(CORRECT)),
        "ece": calibration_error(_next(CONFIDENCE), _next(CORRECT)),
    }
)
"""Aggregates by the name of their metric: `scan_tokens(url).group_by("run").agg(ece=...)`."""


def _metric(
    name: str,
    unit: str,
    definition: str,
    source: str,
    bounds: tuple[float, float] | None = None,
) -> Metric[pl.DataFrame]:
    expression = TOKEN_EXPRESSIONS[name]

    def compute(tokens: pl.DataFrame) -> float:
        value = tokens.select(expression).item()
        return float("nan") if value is None else float(value)

    return Metric[pl.DataFrame](
        name=name,
        unit=unit,
        definition=definition,
        source=source,
        needs="tokens",
        compute=compute,
        bounds=bounds,
    )


TOKEN_METRICS: Final = (
    _metric(
        "surprisal",
        "nats",
        "mean of -ln p(next token) over tokens whose next one is below L",
        "Shannon 1948",
    ),
    _metric(
        "perplexity",
        "tokens",
        "exp(surprisal): as many equally likely tokens would surprise as much",
        "Jelinek et al. 1977",
        bounds=(1.0, math.inf),
    ),
    _metric(
        "margin",
        "nats",
        "mean over tokens of ln p(1st) - ln p(2nd)",
        "Scheffer et al. 2001",
    ),
    _metric(
        "varentropy",
        "nats^2",
        "mean over tokens of sum p (ln p)^2 - (sum p ln p)^2, the variance of -ln p under p; null "
        "in stores without the column",
        "Kontoyiannis and Verdu 2014",
    ),
    _metric(
        "top1_accuracy",
        "share",
        "share of tokens whose next one, below L, had the largest logit",
        "Guo et al. 2017",
    ),
    _metric(
        "ece",
        "share",
        f"sum over bins of n_b / n |accuracy_b - mean confidence_b|, {ECE_BINS} bins of equal "
        f"width, k / {ECE_BINS} < confidence <= (k + 1) / {ECE_BINS}; confidence: p(1st), right: "
        "the next token, below L, had the largest logit",
        "Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599",
    ),
)
"""Every metric of the token statistics."""
