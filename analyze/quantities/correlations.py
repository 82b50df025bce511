"""Flags of correlations, and what each says."""

from collections.abc import Mapping
from typing import Final

FEWEST: Final = 5
"""Models below which nothing is ranked: four can stand in one order in 24 ways, so that even a
perfect agreement is found by chance once in twelve times."""

FEW: Final = 10
"""Models below which intervals and p are rough."""

MEANING: Final[Mapping[str, str]] = {
    "constant": "profile or benchmark has a single value, so there is no coefficient",
    "different_prompts": "profiles come from different texts: texts alone change a profile",
    "few_models": f"fewer than {FEW} models, so the interval and p are rough",
    "flagged_profiles": "some profiles have flags",
    "same_order_as_size": "profile or benchmark orders models by size, so there is no coefficient",
    "sign_turns": "the rank correlation changes sign when size is held constant",
    "too_few_models": f"fewer than {FEWEST} models: too few to rank",
}
"""What each flag of a correlation says."""
