"""Traps that a profile must not hide: each number that sits in one carries a flag.

Each was found in published tables. A flag says that the number is right and easy to misread.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

COLLAPSED_RATIO: Final = 1.01
"""A participation ratio up to here: one direction carries everything, PR/r only says 1/r."""

SHORT_SHARE: Final = 0.1
"""More prompts than this share end before the prefix: rows repeat, entropy is the text's end."""

DISTINCT_SHARE: Final = 0.5
"""Fewer distinct prefixes than this share: most prompts agree there, as in boilerplate."""

MEANING: Final[Mapping[str, str]] = {
    "collapsed": "the participation ratio is within 1 % of 1: one direction carries everything",
    "normaliser": "min(N, d) was N, or the normalised rank peaks at another prefix than the rank",
    "not_finite": "rows hold infinities or NaN: they have no ranks",
    "padded_vocab": "the logits are wider than the tokenizer, which changes ln V",
    "short_text": "over 10 % of the prompts are shorter than a prefix that a number came from",
    "template": "most prompts share the prefix that the entropy came from",
}

Row = Mapping[str, Any]

_RANKS: Final = ("participation_ratio", "effective_rank")


def flags(profile: Row, spectra: Sequence[Row], entropy: Sequence[Row], run: Row) -> list[str]:
    """Flags of one profile, sorted.

    profile: values with their `_prefix` columns, null for a mean or a median. spectra, entropy:
    the rows it was made of, one per prefix. run: its row of the runs table.
    """
    found = {
        "collapsed": _collapsed(profile),
        "normaliser": _normaliser(profile, spectra),
        "not_finite": any(row[name] is None for row in spectra for name in _RANKS),
        "padded_vocab": run["logits_width"] > run["tokenizer_size"],
        "short_text": _short_text(profile, entropy),
        "template": _template(profile, entropy),
    }
    return sorted(name for name, holds in found.items() if holds)


def _at(rows: Sequence[Row], prefix: int | None) -> Sequence[Row]:
    """The rows a number came from: one prefix, or all of them for a mean or a median."""
    return rows if prefix is None else [row for row in rows if row["prefix"] == prefix]


def _collapsed(profile: Row) -> bool:
    ratio = profile["participation_ratio"]
    return ratio is not None and ratio <= COLLAPSED_RATIO


def _normaliser(profile: Row, spectra: Sequence[Row]) -> bool:
    for name in _RANKS:
        normalised = profile[f"{name}_norm_prefix"]
        if profile[f"{name}_prefix"] != normalised:
            return True
        if any(row["n_tokens"] < row["dim"] for row in _at(spectra, normalised)):
            return True
    return False


def _short_text(profile: Row, entropy: Sequence[Row]) -> bool:
    metrics = ("entropy_norm", *_RANKS, *(f"{name}_norm" for name in _RANKS))
    prefixes = {profile[f"{metric}_prefix"] for metric in metrics}
    return any(
        row["short_prompts"] > SHORT_SHARE * row["n_prompts"]
        for prefix in prefixes
        for row in _at(entropy, prefix)
    )


def _template(profile: Row, entropy: Sequence[Row]) -> bool:
    return any(
        row["distinct_prefixes"] < DISTINCT_SHARE
        for row in _at(entropy, profile["entropy_norm_prefix"])
    )
