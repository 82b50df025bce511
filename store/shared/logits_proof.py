"""Whether logits from rows of `final` are those that a run's statistics were made of, SPEC.md
section 8.

Entropy and ln of the sum are computed again and compared with the stored columns. A wrong matrix,
step or order of rows shows at once; `LogitsCheck` explains which differences are allowed.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from lpp.store.shared.logits import Head, entropy_and_log_z, entropy_factor

TOLERANCE: Final = 1e-4
"""Nats. The median of the differences must be within it; in float32 nearly every difference is."""


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
    unchecked: str = ""
    """Why nothing could be compared; empty if something was."""

    def __str__(self) -> str:
        if self.unchecked:
            return f"logits from final and the head: not compared, {self.unchecked}"
        return (
            f"logits from final and the head: {self.tokens} tokens, entropy within "
            f"{self.entropy:.1e} nats, log_z within {self.log_z:.1e}"
        )


class Stored(NamedTuple):
    """Some columns of `tokens.arrow`, (n,) each."""

    entropy: npt.NDArray[Any]
    log_z: npt.NDArray[Any]
    top1_id: npt.NDArray[Any]


def compare_logits(head: Head, rows: npt.NDArray[np.float32], stored: Stored) -> LogitsCheck:
    """Compare what `head` computes from `rows`, (n, d) of `final`, with the stored columns."""
    difference = np.empty((3, len(rows)))
    allowed = np.empty((3, len(rows)))
    for tile, logits in head.tiles(rows):
        of_tile = Stored(*(column[tile] for column in stored))
        entropy, log_z = (values.astype(np.float64) for values in entropy_and_log_z(logits))
        bound = head.error_bound(logits)
        likeliest = np.clip(of_tile.top1_id, 0, head.vocabulary - 1)  # any number may be stored
        of_likeliest = logits[np.arange(len(logits)), likeliest]
        difference[:, tile] = (
            np.abs(entropy - of_tile.entropy),
            np.abs(log_z - of_tile.log_z),
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
    for name, gaps, most in zip(what, difference, allowed, strict=True):
        median, worst = float(np.median(gaps)), int(np.argmax(gaps - most))
        if median > TOLERANCE:
            return f"{name} from final differs by {median:.1e} in the median"
        if gaps[worst] > most[worst]:
            return (
                f"{name} from final differs by {gaps[worst]:.1e} at a token, {most[worst]:.1e} "
                "is allowed"
            )
    return ""
