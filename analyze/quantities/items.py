"""The numbers of an item of an evaluation: features that may tell right from wrong answers.

All are taken from the prompt of the answer that the model chose, so no label is used. Features of
the gold answer use the label; they are marked and shown apart. Features of two runs, A and B, are
taken at tokens that both read before the answer.
"""

from dataclasses import dataclass
from typing import Final, Literal

from lpp.analyze.quantities.quantity import Quantity, Subject

Role = Literal["baseline", "statistic", "gold", "rows", "drift"]
"""baseline: uses nothing that the model computed; a useful feature is better than it. gold: uses
the right answer. rows: from the rows of a site. drift: distance of a second run from the first."""


@dataclass(frozen=True, kw_only=True)
class Feature(Quantity):
    """One number of an item.

    In definitions the answer's position is the last one before the answer; the question's positions
    are those of its tokens whose next token also belongs to it.
    """

    of: Subject = "item"
    role: Role = "statistic"


FEATURES: Final = (
    Feature(
        name="answer_length",
        unit="tokens",
        definition="number of tokens of the chosen answer",
        source="Murray and Chiang 2018, arXiv 1808.10006 (length bias)",
        role="baseline",
    ),
    Feature(
        name="answer_place",
        unit="1",
        definition="index of the chosen answer among the answers, from 0",
        source="Zheng et al. 2024, arXiv 2309.03882 (selection bias)",
        role="baseline",
    ),
    Feature(
        name="question_length",
        unit="tokens",
        definition="number of tokens from the question's first token to the answer's position",
        source="this project",
        role="baseline",
    ),
    Feature(
        name="chosen_logprob",
        unit="nats",
        definition="ln p of the chosen answer: sum over its tokens",
        source="Brown et al. 2020, arXiv 2005.14165",
    ),
    Feature(
        name="chosen_logprob_token",
        unit="nats",
        definition="chosen_logprob / number of tokens",
        source="Brown et al. 2020, arXiv 2005.14165",
    ),
    Feature(
        name="chosen_share",
        unit="share",
        definition="probability of the chosen answer among the answers: softmax of their ln p. "
        "Missing with one answer",
        source="Hendrycks et al. 2021, arXiv 2009.03300; Kadavath et al. 2022, arXiv 2207.05221",
    ),
    Feature(
        name="answer_gap",
        unit="nats",
        definition="ln p of the most likely answer minus ln p of the second. Missing with one "
        "answer",
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
        definition="min_k over the question's positions",
        source="Shi et al. 2023 (Min-K%), arXiv 2310.16789",
    ),
    Feature(
        name="question_min_k_pp",
        unit="1",
        definition="min_k_pp over the question's positions",
        source="Zhang et al. 2024 (Min-K%++), arXiv 2404.02936",
    ),
    Feature(
        name="agreement_depth",
        unit="share of depth",
        definition="k / number of blocks; k: the first block from which on the logit lens of every "
        "block of --sites ranks the most likely token of final first (a tie counts as first), or "
        "else the last block. Logit lens: the block's row at the answer's position, "
        "through the final norm and the head. The lens reads early blocks in the basis of the "
        "last block, so the depth comes out too large",
        source="nostalgebraist 2020 (logit lens); Baldock et al. 2021 (prediction depth), arXiv "
        "2106.09647; Belrose et al. 2023 (bias of the lens), arXiv 2303.08112",
    ),
    Feature(
        name="answer_depth",
        unit="share of depth",
        definition="agreement_depth of the chosen answer's first token, ranked among the first "
        "tokens of all answers. Missing if these are equal, or if final ranks another of them "
        "first",
        source="See agreement_depth",
    ),
    Feature(
        name="gold_logprob",
        unit="nats",
        definition="ln p of the gold answer: sum over its tokens",
        source="Brown et al. 2020, arXiv 2005.14165",
        role="gold",
    ),
    Feature(
        name="gold_logprob_token",
        unit="nats",
        definition="gold_logprob / number of tokens",
        source="Brown et al. 2020, arXiv 2005.14165",
        role="gold",
    ),
    Feature(
        name="row_norm",
        unit="1",
        definition="Euclidean norm of the site's row at the answer's position",
        source="this project",
        role="rows",
    ),
    Feature(
        name="distance",
        unit="1",
        definition="Mahalanobis distance from the site's row at the answer's position to the mean "
        "of the items in the other four of five folds; covariance shrunk (Ledoit and Wolf 2004)",
        source="Lee et al. 2018, arXiv 1807.03888; Ren et al. 2023, arXiv 2209.15558",
        role="rows",
    ),
    Feature(
        name="participation_ratio",
        unit="dimensions",
        definition="participation ratio of the site's rows from the question's first token to the "
        "answer's position",
        source="Gao and Ganguli 2015",
        role="rows",
    ),
    Feature(
        name="lens_logprob",
        unit="nats",
        definition="ln p that the logit lens of a block (see agreement_depth) gives to the most "
        "likely token of final",
        source="nostalgebraist 2020 (logit lens); Belrose et al. 2023, arXiv 2303.08112",
        role="rows",
    ),
    Feature(
        name="lens_share",
        unit="share",
        definition="probability that the logit lens of a block gives to the chosen answer's first "
        "token among the first tokens of the answers",
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

DRIFT_FEATURES: Final = (
    Feature(
        name="answer_kl",
        unit="nats",
        definition="KL(A || B) of the next token at the answer's position",
        source="Kullback and Leibler 1951",
        role="drift",
    ),
    Feature(
        name="answer_flip",
        unit="1",
        definition="1 if the most likely next token at the answer's position differs, else 0",
        source="this project",
        role="drift",
    ),
    Feature(
        name="question_kl",
        unit="nats",
        definition="mean KL(A || B) of the next token over the question's positions",
        source="Kullback and Leibler 1951",
        role="drift",
    ),
    Feature(
        name="question_flips",
        unit="share",
        definition="share of the question's positions where the most likely next token differs",
        source="this project",
        role="drift",
    ),
    Feature(
        name="row_change",
        unit="1",
        definition="|b - a| / |a| of the site's rows at the answer's position",
        source="this project",
        role="drift",
    ),
)
"""Features of two runs, A and B. The last one has a value for each site."""

ROW_CHANGE: Final = DRIFT_FEATURES[-1]
