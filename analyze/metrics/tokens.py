"""Declared metrics of the token statistics, as lazy Polars expressions.

Each is an aggregate over rows of `scan_tokens`, in prompt and position order, so it stands in any
`select` or `group_by(...).agg`; a metric applies it to the tokens below one prefix.

What is said about the next token counts tokens whose next one is in the rows too: the last row of
each prompt predicts a token beyond the prefix. So a shorter context equals a capture at it. A
number is null where a statistic is missing that it needs: at positions that were not captured.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
import polars as pl

from lpp.analyze.metrics.metric import Metric, Needs
from lpp.analyze.metrics.token_sums import HAS_NEXT, LEAST_PERCENT, LeastMeans, RowSums
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.quantities.quantity import Subject

ECE_BINS: Final = 15
"""Bins of equal width between 0 and 1: bin k holds k / 15 < confidence <= (k + 1) / 15."""

SURPRISAL: Final = -pl.col("next_logprob")
"""-ln p of the token that follows, in nats; a value for each row."""
_CONFIDENCE: Final = pl.col("max_logprob").cast(pl.Float64).exp()
"""Probability of the likeliest token; a value for each row."""
MOST_RANK: Final = 100
RANK: Final = pl.col("next_rank").clip(upper_bound=MOST_RANK)
"""Rank of the token that followed, at most `MOST_RANK`; null where it is missing."""
CORRECT: Final = pl.col("next_rank") == 1
"""Whether no token was likelier than the one that followed; a value for each row."""


def _mean_of(value: pl.Expr) -> pl.Expr:
    """Mean in float64, null where a value is missing or is no number."""
    wide = value.cast(pl.Float64).fill_nan(None)
    return pl.when(wide.is_not_null().all()).then(wide.mean())


def _total(value: pl.Expr) -> pl.Expr:
    """Sum in float64, null for no rows and where a value is missing or is no number."""
    wide = value.cast(pl.Float64).fill_nan(None)
    return pl.when(wide.is_not_null().all() & (wide.len() > 0)).then(wide.sum())


def _ratio_of(value: pl.Expr, by: pl.Expr) -> pl.Expr:
    """Ratio of two sums, null where the lower one is 0."""
    return pl.when(_total(by) != 0).then(_total(value) / _total(by))


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
    terms = calibration_terms(confidence, correct, bins)
    there = terms[0].is_not_null().all() & (terms[0].len() > 0)
    total = pl.sum_horizontal(term.sum().abs() for term in terms)
    return pl.when(there).then(total / terms[0].len())


def calibration_terms(confidence: pl.Expr, correct: pl.Expr, bins: int) -> list[pl.Expr]:
    """For each bin, correct - confidence of the rows in it and 0 elsewhere; null if missing."""
    gap = correct.cast(pl.Float64) - confidence.cast(pl.Float64).fill_nan(None)
    which = ((confidence * bins).ceil() - 1).clip(0, bins - 1)
    inside = [pl.when(which == k).then(gap).otherwise(0.0) for k in range(bins)]
    return [pl.when(gap.is_not_null()).then(term) for term in inside]


def _next(value: pl.Expr) -> pl.Expr:
    return value.filter(HAS_NEXT)


def _least(value: pl.Expr, needed: Sequence[pl.Expr]) -> pl.Expr:
    """Mean over prompts of the mean of each one's least `LEAST_PERCENT` % of the values.

    Only tokens with a next one count, and of those the ones whose value is not null: of n such
    tokens of a prompt floor(n / 5), at least 1. Null where one of `needed` is null.
    """
    has_value = HAS_NEXT & value.is_not_null()
    prompt, value = pl.col("prompt_id").filter(has_value), value.filter(has_value)
    prompt, value = prompt.sort_by(prompt, value), value.sort_by(prompt, value)
    first = prompt.rank("min").cast(pl.Int64)
    n = prompt.rank("max").cast(pl.Int64) - first + 1
    rank = prompt.cum_count().cast(pl.Int64) - first
    least = pl.max_horizontal(n * LEAST_PERCENT // 100, pl.lit(1, pl.Int64))
    total = pl.when(rank < least).then(value / least).otherwise(0.0).sum()
    there = pl.all_horizontal(_next(column).is_not_null().all() for column in needed)
    return pl.when(there & (prompt.len() > 0)).then(total / prompt.n_unique())


def _wide(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Float64).fill_nan(None)


LOGPROB: Final = _wide("next_logprob")
"""ln p of the token that follows, in nats; a value for each row."""
STANDARD_LOGPROB: Final = pl.when(_wide("varentropy") > 0).then(
    (LOGPROB + _wide("entropy")) / _wide("varentropy").sqrt()
)
"""Its distance from the mean of ln p under p, in standard deviations; null where that is 0."""

_MOMENTS: Final = (LOGPROB, _wide("entropy"), _wide("varentropy"))


def _mean(n: float, sums: Floats) -> float:
    return float(sums[0]) / n


def _exp_mean(n: float, sums: Floats) -> float:
    return float(np.exp(sums[0] / n))


def _ratio(_: float, sums: Floats) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def _calibration(n: float, sums: Floats) -> float:
    return float(np.abs(sums).sum()) / n


@dataclass(frozen=True, kw_only=True)
class TokenMetric(Metric[pl.DataFrame]):
    """A metric of the token statistics below a prefix."""

    of: Subject = "prefix"
    needs: Needs = "tokens"
    compute: Callable[[pl.DataFrame], float] = field(init=False)
    expression: pl.Expr
    """The aggregate: null where a statistic is missing."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "compute", self._of)

    def _of(self, tokens: pl.DataFrame) -> float:
        value = tokens.select(self.expression).item()
        return math.nan if value is None else float(value)


TOKEN_METRICS: Final = (
    TokenMetric(
        name="surprisal",
        unit="nats",
        definition="mean of -ln p(next token) over tokens whose next token is below L",
        source="Shannon 1948",
        expression=_mean_of(_next(SURPRISAL)),
        sums=RowSums(terms=[SURPRISAL], value=_mean, of_next=True),
        trap="Per token, so it depends on the tokenizer.",
    ),
    TokenMetric(
        name="perplexity",
        unit="tokens",
        definition="exp(surprisal): number of equally likely tokens with this surprisal",
        source="Jelinek et al. 1977",
        expression=_mean_of(_next(SURPRISAL)).exp(),
        sums=RowSums(terms=[SURPRISAL], value=_exp_mean, of_next=True),
        trap="Compare models of one tokenizer only.",
        bounds=(1.0, math.inf),
        of_log=True,
    ),
    TokenMetric(
        name="margin",
        unit="nats",
        definition="mean over tokens of ln p(1st) - ln p(2nd)",
        source="Scheffer et al. 2001",
        expression=_mean_of(pl.col("margin")),
        sums=RowSums(terms=[pl.col("margin")], value=_mean, of_next=False),
        trap="Also small if two synonyms share the probability.",
    ),
    TokenMetric(
        name="varentropy",
        unit="nats^2",
        definition="mean over tokens of sum p (ln p)^2 - (sum p ln p)^2, the variance of -ln p "
        "under p. Missing in stores without the column",
        source="Kontoyiannis and Verdu 2014",
        expression=_mean_of(pl.col("varentropy")),
        sums=RowSums(terms=[pl.col("varentropy")], value=_mean, of_next=False),
        trap="0 for a certain distribution and for a uniform one.",
    ),
    TokenMetric(
        name="top1_accuracy",
        unit="share",
        definition="share of tokens whose next token, below L, had the largest logit",
        source="Guo et al. 2017",
        expression=_mean_of(_next(CORRECT)),
        sums=RowSums(terms=[CORRECT], value=_mean, of_next=True),
        trap="Counts one next token as right; several may fit.",
    ),
    TokenMetric(
        name="ece",
        unit="share",
        definition=f"sum over bins of n_b / n |accuracy_b - mean confidence_b|, {ECE_BINS} bins of "
        f"equal width, k / {ECE_BINS} < confidence <= (k + 1) / {ECE_BINS}. Confidence: p(1st); "
        "right: the next token, below L, had the largest logit",
        source="Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599",
        expression=calibration_error(_next(_CONFIDENCE), _next(CORRECT)),
        sums=RowSums(
            terms=calibration_terms(_CONFIDENCE, CORRECT, ECE_BINS),
            value=_calibration,
            of_next=True,
        ),
        trap="Depends on the bins. Noise alone makes it positive.",
    ),
    TokenMetric(
        name="min_k",
        unit="nats",
        definition=f"mean of ln p(next token) over the {LEAST_PERCENT} % least likely next tokens "
        "of a prompt, then mean over prompts. If n next tokens of a prompt are below L, the "
        "floor(n / 5) least likely count, at least 1",
        source="Shi et al. 2023 (Min-K%), arXiv 2310.16789",
        expression=_least(LOGPROB, [LOGPROB]),
        sums=LeastMeans(value=LOGPROB, needed=[LOGPROB]),
        trap="A sign of memorised text only if compared with texts of the same kind and length.",
        bounds=(-math.inf, 0.0),
    ),
    TokenMetric(
        name="rsr",
        label="rank-surprisal ratio",
        unit="1",
        definition=f"sum of min(rank, {MOST_RANK}) / sum of -ln p(next token), over tokens whose "
        "next token is below L; rank: 1 + the number of likelier tokens",
        source="arXiv 2601.14249",
        expression=_ratio_of(_next(RANK), _next(SURPRISAL)),
        sums=RowSums(terms=[RANK, SURPRISAL], value=_ratio, of_next=True),
        trap="The ratio depends on the text as much as on the model, and on the tokenizer.",
        bounds=(0.0, math.inf),
    ),
    TokenMetric(
        name="min_k_pp",
        unit="1",
        definition="min_k with (ln p(next token) - mu) / sigma, mu = sum p ln p (-entropy), sigma "
        "= sqrt(varentropy), in place of ln p(next token). Tokens with sigma 0 are left out",
        source="Zhang et al. 2024 (Min-K%++), arXiv 2404.02936",
        expression=_least(STANDARD_LOGPROB, _MOMENTS),
        sums=LeastMeans(value=STANDARD_LOGPROB, needed=_MOMENTS),
        trap="As for `min_k`.",
    ),
)
"""Every metric of the token statistics."""

TOKEN_EXPRESSIONS: Final[Mapping[str, pl.Expr]] = MappingProxyType(
    {metric.name: metric.expression for metric in TOKEN_METRICS}
)
"""Aggregates by the name of their metric: `scan_tokens(url).group_by("run").agg(ece=...)`."""
