"""Features of an item: numbers that may tell right from wrong, declared like metrics.

All are taken from the prompt of the answer that the model chose, so no label is used. Features of
the gold answer use the label; they are marked and shown apart (`declared_features`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import polars as pl

from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.metrics.tokens import TOKEN_EXPRESSIONS
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.runs.token_files import read_tokens

Role = Literal["baseline", "statistic", "gold", "rows", "drift"]
"""baseline: uses nothing that the model computed; a useful feature is better than it. gold: uses
the right answer. rows: from the rows of a site. drift: distance of a second run from the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One number of an item."""

    name: str
    unit: str
    definition: str
    """The answer's position is the last one before the answer; the question's positions are those
    of its tokens whose next token also belongs to it."""
    source: str
    role: Role = "statistic"


FEATURES: Final = (
    Feature(
        name="answer_length",
        unit="tokens",
        definition="tokens of the chosen answer",
        source="Murray and Chiang 2018, arXiv 1808.10006 (length bias)",
        role="baseline",
    ),
    Feature(
        name="answer_place",
        unit="1",
        definition="place of the chosen answer among the answers, from 0",
        source="Zheng et al. 2024, arXiv 2309.03882 (selection bias)",
        role="baseline",
    ),
    Feature(
        name="question_length",
        unit="tokens",
        definition="tokens from the question's first one to the answer's position",
        source="this project",
        role="baseline",
    ),
    Feature(
        name="chosen_logprob",
        unit="nats",
        definition="ln p of the chosen answer, the sum over its tokens",
        source="Brown et al. 2020, arXiv 2005.14165",
    ),
    Feature(
        name="chosen_logprob_token",
        unit="nats",
        definition="the same divided by the number of its tokens",
        source="Brown et al. 2020, arXiv 2005.14165",
    ),
    Feature(
        name="chosen_share",
        unit="share",
        definition="probability of the chosen answer among the answers: softmax of their ln p",
        source="Hendrycks et al. 2021, arXiv 2009.03300; Kadavath et al. 2022, arXiv 2207.05221",
    ),
    Feature(
        name="answer_gap",
        unit="nats",
        definition="ln p of the most likely answer less ln p of the second",
        source="Scheffer et al. 2001",
    ),
    Feature(
        name="answer_entropy",
        unit="nats",
        definition="entropy of the next token at the answer's position",
        source="Shannon 1948",
    ),
    Feature(
        name="answer_margin",
        unit="nats",
        definition="ln p(1st) - ln p(2nd) of the next token at the answer's position",
        source="Scheffer et al. 2001",
    ),
    Feature(
        name="question_entropy",
        unit="nats",
        definition="mean entropy of the next token over the question's positions",
        source="Shannon 1948",
    ),
    Feature(
        name="question_margin",
        unit="nats",
        definition="mean of ln p(1st) - ln p(2nd) over the question's positions",
        source="Scheffer et al. 2001",
    ),
    Feature(
        name="question_min_k",
        unit="nats",
        definition="metric min_k over the question's positions",
        source="Shi et al. 2023 (Min-K%), arXiv 2310.16789",
    ),
    Feature(
        name="question_min_k_pp",
        unit="1",
        definition="metric min_k_pp over the question's positions",
        source="Zhang et al. 2024 (Min-K%++), arXiv 2404.02936",
    ),
    Feature(
        name="agreement_depth",
        unit="share of depth",
        definition="depth k / L of the first block of --sites from which on, through block L, no "
        "token is more likely than the most likely one of final, by the logit lens: the block's "
        "row at the answer's position, through the final norm and the head; 1 where that holds of "
        "block L alone. The lens reads early blocks in the basis of the last one, so it sees the "
        "answer later than the model has it",
        source="nostalgebraist 2020 (logit lens); Baldock et al. 2021 (prediction depth), arXiv "
        "2106.09647; Belrose et al. 2023 (bias of the lens), arXiv 2303.08112",
    ),
    Feature(
        name="answer_depth",
        unit="share of depth",
        definition="as agreement_depth, of the chosen answer's first token among the first tokens "
        "of the answers; not defined where they are equal, or where it is not the most likely one "
        "of final",
        source="as of agreement_depth",
    ),
    Feature(
        name="gold_logprob",
        unit="nats",
        definition="ln p of the gold answer, the sum over its tokens",
        source="Brown et al. 2020, arXiv 2005.14165",
        role="gold",
    ),
    Feature(
        name="gold_logprob_token",
        unit="nats",
        definition="the same divided by the number of its tokens",
        source="Brown et al. 2020, arXiv 2005.14165",
        role="gold",
    ),
    Feature(
        name="row_norm",
        unit="1",
        definition="Euclidean length of the site's row at the answer's position",
        source="this project",
        role="rows",
    ),
    Feature(
        name="distance",
        unit="1",
        definition="Mahalanobis distance of that row to the mean of such rows of other items, 5 "
        "folds, covariance shrunk (Ledoit and Wolf 2004)",
        source="Lee et al. 2018, arXiv 1807.03888; Ren et al. 2023, arXiv 2209.15558",
        role="rows",
    ),
    Feature(
        name="participation_ratio",
        unit="dimensions",
        definition="metric participation_ratio of the site's rows from the question's first token "
        "to the answer's position",
        source="Gao and Ganguli 2015",
        role="rows",
    ),
    Feature(
        name="lens_logprob",
        unit="nats",
        definition="ln p of the most likely token of final, at the answer's position, by the logit "
        "lens of a block, as in agreement_depth",
        source="nostalgebraist 2020 (logit lens); Belrose et al. 2023, arXiv 2303.08112",
        role="rows",
    ),
    Feature(
        name="lens_share",
        unit="share",
        definition="probability of the chosen answer's first token among the first tokens of the "
        "answers, by the same lens",
        source="nostalgebraist 2020 (logit lens); Belrose et al. 2023, arXiv 2303.08112",
        role="rows",
    ),
)
"""Every feature, baselines first."""

COVARIATES: Final = ("answer_length", "chosen_logprob")
"""The covariates that a partial AUROC holds constant."""

OF_ANSWER: Final = (*COVARIATES, "chosen_logprob_token")
"""Features of the chosen answer alone. Where the model was asked about one answer, the right one,
they are features of the gold answer."""

WITHOUT_PARTIAL: Final = OF_ANSWER
"""Functions of the covariates: their residuals are only the error of the regression's fit."""


def declared_features(items: EvaluatedItems) -> dict[str, Feature]:
    """`FEATURES` by name, with the roles that they have for these items."""
    gold = OF_ANSWER if items.asks_for_gold else ()
    return {one.name: replace(one, role="gold") if one.name in gold else one for one in FEATURES}


AT_ANSWER: Final = pl.col("position") == pl.col("answer")
IN_QUESTION: Final = (pl.col("position") >= pl.col("first")) & (
    pl.col("position") < pl.col("answer")
)
"""Whether a token is at the answer's position, or at a position of the question; needs the columns
of `question_spans`."""

_STATISTICS: Final = ("entropy", "margin", "varentropy", "next_logprob")


def item_features(items: EvaluatedItems, *, first_position: int = 0) -> dict[str, Floats]:
    """Every feature that needs no rows, by name: (n,) in the order of `items.table`; NaN: no
    number.

    first_position: earlier positions are excluded from the question's. Reads the token statistics
    once.
    """
    table = items.table
    length, gold = (_floats(table[name]) for name in ("length", "gold_length"))
    logprobs = [np.array(some, dtype=np.float64) for some in table["logprobs"].to_list()]
    chosen = np.array([some[k] for some, k in zip(logprobs, table["chosen"], strict=True)])
    of_gold = np.array(
        [
            np.nan if k is None else some[k]
            for some, k in zip(logprobs, table["gold"].to_list(), strict=True)
        ]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "answer_length": length,
            "answer_place": _floats(table["chosen"]),
            "question_length": _floats(table["answer"] - table["question"] + 1),
            "chosen_logprob": chosen,
            "chosen_logprob_token": chosen / length,
            "chosen_share": np.array([answer_share(some) for some in logprobs]),
            "answer_gap": np.array([answer_gap(some) for some in logprobs]),
            "gold_logprob": of_gold,
            "gold_logprob_token": of_gold / gold,
        }
    return {**found, **_of_statistics(items, first_position)}


def question_spans(items: EvaluatedItems, first_position: int) -> pl.DataFrame:
    """For each prompt that shows an item: prompt_id, the answer's position `answer`, and `first`,
    which is at least `first_position`. The question's positions are those from `first` to before
    `answer`.
    """
    first = pl.max_horizontal("question", pl.lit(first_position))
    return items.table.select("prompt_id", "answer", first=first).unique("prompt_id")


def mean_of_all(value: pl.Expr) -> pl.Expr:
    """The mean; null if a value is missing."""
    return pl.when(value.is_not_null().all()).then(value.mean())


def _of_statistics(items: EvaluatedItems, first_position: int) -> Mapping[str, Floats]:
    """Features computed from the token statistics."""
    wanted = question_spans(items, first_position)
    entropy, margin = (pl.col(name).cast(pl.Float64).fill_nan(None) for name in _STATISTICS[:2])
    numbers = {
        "answer_entropy": entropy.filter(AT_ANSWER).first(),
        "answer_margin": margin.filter(AT_ANSWER).first(),
        "question_entropy": mean_of_all(entropy.filter(~AT_ANSWER)),
        "question_margin": mean_of_all(margin.filter(~AT_ANSWER)),
        "question_min_k": TOKEN_EXPRESSIONS["min_k"],
        "question_min_k_pp": TOKEN_EXPRESSIONS["min_k_pp"],
    }
    parts = [pl.DataFrame(schema={"prompt_id": pl.Int32, **dict.fromkeys(numbers, pl.Float64)})]
    for file in items.view.run.tokens_files():
        # rows are in prompt and position order, which the expressions rely on
        rows = read_tokens(file, ["prompt_id", "position", *_STATISTICS]).join(
            wanted, on="prompt_id", maintain_order="left"
        )
        some = rows.filter(IN_QUESTION | AT_ANSWER)
        parts.append(
            some.group_by("prompt_id", maintain_order=True).agg(
                value.alias(name) for name, value in numbers.items()
            )
        )
    found = items.table.select("prompt_id").join(
        pl.concat(parts), on="prompt_id", how="left", maintain_order="left"
    )
    return {name: _floats(found[name]) for name in numbers}


def _floats(column: pl.Series) -> Floats:
    values: Floats = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return values


def answer_share(logprobs: Floats) -> float:
    """`chosen_share` of an item: the largest of the softmax of its answers' ln p.

    NaN for one answer, which has nothing to compare with.
    """
    most = logprobs.max()
    if len(logprobs) < 2 or not np.isfinite(most):
        return float("nan")
    return float(1 / np.exp(logprobs - most).sum())


def answer_gap(logprobs: Floats) -> float:
    """`answer_gap` of an item, from its answers' ln p; NaN for one answer."""
    if len(logprobs) < 2:
        return float("nan")
    second, first = np.sort(logprobs)[-2:]
    return float(first - second) if np.isfinite(second) else float("nan")
