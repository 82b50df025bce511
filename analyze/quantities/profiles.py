"""The numbers of a profile that come from the next token; those of the rows are metrics."""

from typing import Final

from lpp.analyze.quantities.quantity import Quantity

_PAPER: Final = "arXiv 2605.30018"

ENTROPY: Final = Quantity(
    name="entropy",
    of="profile",
    unit="nats",
    definition="mean over prompts of the entropy of the next token after the prefix",
    source=_PAPER,
    short="H",
)
ENTROPY_NORM: Final = Quantity(
    name="entropy_norm",
    of="profile",
    unit="share",
    share_of="ln V",
    label="entropy over ln V",
    short="H / ln V",
    definition="entropy / ln V; V: width of the logits",
    source=_PAPER,
)
ENTROPY_FLOOR: Final = Quantity(
    name="entropy_floor",
    of="profile",
    unit="share",
    share_of="ln V",
    short="H floor",
    definition="minimum of entropy_norm over the prefixes of a context",
    source=_PAPER,
)

ENTROPIES: Final = (ENTROPY, ENTROPY_NORM, ENTROPY_FLOOR)
