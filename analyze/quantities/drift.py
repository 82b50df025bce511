"""The numbers of two runs, A and B, over the same tokens: of the predictions, and of a site.

docs/how-to/compare.md says what is compared.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from lpp.analyze.quantities.quantity import UNBOUNDED, Quantity, by_name

Statistic = Literal["mean", "median", "p99", "max"]
"""Over tokens."""

Column = Callable[[str], Any]
"""A column of a frame of tokens, by name, in float64."""

_STATISTICS: Final[tuple[Statistic, ...]] = get_args(Statistic)

_PROJECT: Final = "this project"
_KULLBACK: Final = "Kullback and Leibler 1951"


@dataclass(frozen=True, kw_only=True)
class Prediction(Quantity):
    """A number of the predictions of two runs: a value of each token, summarised."""

    of: Literal["pair"] = "pair"
    value: Callable[[Column], Any] | None
    """Its value of a token, from columns of `drift.predictions.TOKEN_DRIFT`. None: of all tokens,
    also where the others are of drawn ones (`drift.summaries`)."""
    of_mean: Callable[[float], float] = float
    """The number, from the mean of `value` over tokens; it never falls."""
    statistics: tuple[Statistic, ...] = _STATISTICS
    """The meaningful statistics; the first is the default."""
    tie: str = ""
    """Column that says where equal logits decide the value; empty: nowhere."""
    needs_logits: bool = False
    """Whether it needs every logit."""
    identity: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SiteChange(Quantity):
    """A number of a site of two runs."""

    of: Literal["pair_site"] = "pair_site"
    needs: Literal["rows", "products", "spectra"]
    """rows: sums over tokens. products: d x d products of all rows. spectra: the difference B - A
    of the metric of this name."""
    identity: float = 0.0


def _loss(column: Column) -> Any:
    """How much more ln p of the token that follows is in A than in B."""
    return column("next_logprob_a") - column("next_logprob_b")


PREDICTIONS: Final = by_name(
    (
        Prediction(
            name="kl",
            label="KL(A || B)",
            unit="nats",
            definition="sum p ln(p / q); p, q: next-token probabilities of A and B",
            source=_KULLBACK,
            trap="KL is not symmetric: a token that A finds likely and B finds nearly impossible "
            "makes it large. A few tokens dominate the mean: look at the median too.",
            value=lambda column: column("kl"),
            needs_logits=True,
        ),
        Prediction(
            name="kl_reverse",
            label="KL(B || A)",
            unit="nats",
            definition="sum q ln(q / p)",
            source=_KULLBACK,
            trap="As for `kl`, A and B exchanged.",
            value=lambda column: column("kl_reverse"),
            needs_logits=True,
        ),
        Prediction(
            name="js",
            label="Jensen-Shannon divergence",
            unit="nats",
            definition="(KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2",
            source="Lin 1991",
            trap="JS is at most ln 2, so it hardly distinguishes large changes.",
            value=lambda column: column("js"),
            bounds=(0.0, math.log(2)),
            needs_logits=True,
        ),
        Prediction(
            name="tv",
            label="total variation",
            unit="share",
            definition="sum |p - q| / 2",
            source="Levin and Peres 2017, section 4.1",
            trap="Unlikely tokens hardly count.",
            value=lambda column: column("tv"),
            needs_logits=True,
        ),
        Prediction(
            name="ear",
            label="expected acceptance rate",
            unit="share",
            definition="1 - tv: expected share of tokens drafted by B that speculative sampling "
            "with the target model A accepts",
            source="Leviathan et al. 2023, arXiv 2211.17192",
            trap="Holds at temperature 1 on the compared texts; it may differ on B's own drafts.",
            value=lambda column: 1 - column("tv"),
            statistics=("mean",),
            needs_logits=True,
            identity=1.0,
        ),
        Prediction(
            name="flips",
            unit="share",
            definition="share of tokens whose most likely next token differs",
            source=_PROJECT,
            trap="In bfloat16, rounding alone flips 2 % of the tokens. The two largest logits are "
            "equal at 4 to 6 % of the tokens; the lower id then counts as likelier.",
            value=lambda column: column("flip"),
            statistics=("mean",),
            tie="flip_tie",
        ),
        Prediction(
            name="same_top_p",
            unit="share",
            definition="1 - flips: share of tokens with the same most likely next token",
            source=_PROJECT,
            trap="As for `flips`.",
            value=lambda column: 1 - column("flip"),
            statistics=("mean",),
            tie="flip_tie",
            identity=1.0,
        ),
        Prediction(
            name="top10",
            unit="share",
            definition="share of the ten most likely tokens that both runs have in common; of "
            "equal logits, the lower id counts",
            source=_PROJECT,
            trap="Ignores order and probabilities. In bfloat16 the tenth and the eleventh logit "
            "are equal at 32 to 37 % of the tokens.",
            value=lambda column: column("top10"),
            statistics=("mean",),
            tie="top10_tie",
            needs_logits=True,
            identity=1.0,
        ),
        Prediction(
            name="next_logprob",
            unit="nats",
            definition="absolute difference between ln p(next token) in B and in A",
            source=_PROJECT,
            trap="Misses changes among the other tokens.",
            value=lambda column: abs(_loss(column)),
        ),
        Prediction(
            name="rms_logprob",
            unit="nats",
            definition="root mean square difference between ln p(next token) in B and in A",
            source=_PROJECT,
            trap="A few tokens that B finds impossible dominate it.",
            value=lambda column: _loss(column) ** 2,
            of_mean=math.sqrt,
            statistics=("mean",),
        ),
        Prediction(
            name="log_perplexity",
            unit="nats",
            definition="ln PPL(B) - ln PPL(A)",
            source="Jelinek et al. 1977",
            trap="Gains and losses cancel: 0 does not mean equal.",
            value=_loss,
            bounds=UNBOUNDED,
        ),
        Prediction(
            name="perplexity_ratio",
            unit="ratio",
            definition="PPL(B) / PPL(A) = exp(log_perplexity)",
            source="Jelinek et al. 1977",
            trap="As for `log_perplexity`: 1 does not mean equal.",
            value=_loss,
            of_mean=lambda log: math.inf if log > 709 else math.exp(log),  # the largest float64
            statistics=("mean",),
            of_log=True,
            identity=1.0,
        ),
        Prediction(
            name="entropy",
            unit="nats",
            definition="entropy of the next token in B minus entropy in A",
            source="Shannon 1948",
            trap="Signed. Two distributions of equal entropy may share no likely token.",
            value=None,
            bounds=UNBOUNDED,
        ),
    )
)
"""Numbers of the predictions, in the order of tables."""

SITE_CHANGES: Final = by_name(
    (
        SiteChange(
            name="relative_distance",
            short="distance",
            unit="ratio",
            # a mean over the other rows would hide the largest change
            definition="mean over tokens of |b - a| / |a|. If both rows of a token are zero, its "
            "ratio is 0; if only A's row is zero, the mean is missing",
            source=_PROJECT,
            trap="A rotation or a rescaling moves every row and may leave all predictions equal.",
            needs="rows",
        ),
        SiteChange(
            name="cosine",
            unit="-1 to 1",
            definition="mean over tokens of the cosine of a and b. If both rows of a token are "
            "zero, their cosine is 1; if only one of them is zero, the mean is missing",
            source=_PROJECT,
            trap="The cosine is near 1 if all rows share a large mean.",
            needs="rows",
            bounds=(-1.0, 1.0),
            identity=1.0,
        ),
        SiteChange(
            name="sqnr",
            label="signal to quantisation noise",
            short="SQNR",
            unit="dB",
            definition="10 lg(sum |a|^2 / sum |b - a|^2), sums over tokens. Infinite if all rows "
            "are equal",
            source="Bennett 1948",
            trap="Attention sinks, a hundred times longer than other rows, dominate it: skip them.",
            needs="rows",
            identity=math.inf,
        ),
        SiteChange(
            name="expert_change",
            short="experts",
            unit="share",
            definition="share of tokens for which the routers choose different sets of experts",
            source=_PROJECT,
            trap="A token counts as changed whether one of its eight experts differs or all eight "
            "differ. The weights of the experts do not count.",
            needs="rows",
        ),
        SiteChange(
            name="cka",
            label="linear CKA",
            short="CKA",
            unit="share",
            definition="||X^T Y||^2 / (||X^T X|| ||Y^T Y||), Frobenius norms; X, Y: all rows of A "
            "and of B, centred. Missing without variance",
            source="Kornblith et al. 2019, arXiv 1905.00414",
            trap="Biased: for unrelated rows it is about d / (N + d), not 0. A few large "
            "directions dominate it.",
            needs="products",
            identity=1.0,
        ),
        SiteChange(
            name="overlap",
            label="overlap of the leading eigenvectors",
            short="overlap",
            unit="share",
            definition="||U_A^T U_B||_F^2 / k; U: the k leading eigenvectors of a covariance. k "
            "is ten, or fewer if a covariance has fewer non-zero eigenvalues",
            source="Krzanowski 1979",
            trap="Depends on k = 10: the gap after the tenth eigenvalue is not checked.",
            needs="products",
            identity=1.0,
        ),
        SiteChange(
            name="participation_ratio",
            short="PR",
            unit="dimensions",
            definition="participation ratio, B - A",
            source="arXiv 2605.30018",
            trap="0 does not mean equal: with growing damage it rises, then falls through 0.",
            needs="spectra",
            bounds=UNBOUNDED,
        ),
        SiteChange(
            name="effective_rank",
            short="ER",
            unit="dimensions",
            definition="effective rank, B - A",
            source="Roy and Vetterli 2007",
            trap="As for `participation_ratio`.",
            needs="spectra",
            bounds=UNBOUNDED,
        ),
    )
)
"""Numbers of a site, in the order of tables."""

OF_ROWS: Final = tuple(name for name, change in SITE_CHANGES.items() if change.needs == "rows")
RANK_CHANGES: Final = tuple(
    name for name, change in SITE_CHANGES.items() if change.needs == "spectra"
)


def is_of(number: str, *, router: bool) -> bool:
    """Whether a router, or any other site, can have `number`, a site change or a metric."""
    return (number == "expert_change") == router
