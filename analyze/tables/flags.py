"""Traps that a profile must not hide: each number that sits in one carries a flag.

Each was found in published tables. A flag says that the number is right and easy to misread.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

COLLAPSED_RATIO: Final = 1.01
"""A participation ratio up to here: one direction carries everything, PR/r only says 1/r."""

SHORT_SHARE: Final = 0.1
"""More prompts than this share end before the prefix: rows repeat, entropy is the text's end."""

DISTINCT_SHARE: Final = 0.5
"""Fewer distinct prefixes than this share: most prompts agree there, as in boilerplate."""

ERROR_SHARE: Final = 0.2
"""A standard error beyond this share of its value: the interval reaches over half of it."""

MEANING: Final[Mapping[str, str]] = {
    "collapsed": "the participation ratio is within 1 % of 1: one direction carries everything",
    "different_prompts": "runs shown side by side read different texts (see prompt_set)",
    "no_error": "a number has no standard error, so that small_sample could not show",
    "normaliser": "min(N, d) was N, or the normalised rank peaks at another prefix than the rank",
    "not_finite": "there are no ranks: rows hold infinities or NaN, or the log says why",
    "padded_vocab": "the logits are wider than the tokenizer, which changes ln V",
    "quarantined": "prompts were set aside: not finite, or out of memory (see not_finite_from)",
    "short_text": "over 10 % of the prompts are shorter than a prefix that a number came from",
    "sink": "rows hold attention sinks, a few first positions with huge norms: --skip-first leaves "
    "them out (see sink_end)",
    "small_sample": "a standard error exceeds a fifth of its value, or one prompt gives none; it "
    "does not see that ranks grow with the sample",
    "template": "most prompts share the prefix that the entropy came from",
}

Row = Mapping[str, Any]

RANKS: Final = ("participation_ratio", "effective_rank")
_VALUES: Final = ("entropy_norm", *RANKS, *(f"{name}_norm" for name in RANKS))


def flags(
    profile: Row,
    spectra: Sequence[Row],
    entropy: Sequence[Row],
    run: Row,
    *,
    computed: Collection[str] = RANKS,
    prompt_sets: Collection[str] = (),
) -> list[str]:
    """Flags of one profile, sorted.

    profile: values with their `_prefix` columns, null for a mean or a median, their `_stderr`, and
    how many of its prompts were set aside. spectra, entropy: the rows it was made of, one per
    prefix. run: its row of the runs table. computed: ranks that were asked for, so that a null says
    something. prompt_sets: fingerprints of the texts of every profile beside this one.
    """
    errors = [(profile[name], profile[f"{name}_stderr"]) for name in _VALUES]
    found = {
        "collapsed": is_collapsed(profile["participation_ratio"]),
        "different_prompts": len(set(prompt_sets)) > 1,
        "normaliser": _normaliser(profile, spectra),
        "not_finite": any(row[name] is None for row in spectra for name in computed),
        "padded_vocab": _padded(run),
        "quarantined": profile["n_quarantined"] > 0,
        "short_text": _short_text(profile, entropy),
        **of_errors(errors, profile["n_prompts"]),
        "template": _template(profile, entropy),
    }
    return sorted(name for name, holds in found.items() if holds)


def metric_flags(
    row: Row,
    spectrum: Row | None,
    entropy: Row,
    run: Row,
    *,
    ratio: float | None,
    prompt_sets: Collection[str],
) -> list[str]:
    """Flags of one row of the metrics table, sorted.

    spectrum: the row of the spectra table of the same site and prefix, None for a metric of the
    logits. entropy: the row of the entropy table of the same prefix. ratio: participation ratio of
    the matrix that the metric is of, None where its rows have none.
    """
    bounded = spectrum is not None and row["metric"].endswith("_norm")
    found = {
        "collapsed": spectrum is not None and is_collapsed(ratio),
        "different_prompts": len(set(prompt_sets)) > 1,
        "not_finite": spectrum is not None and ratio is None,
        "normaliser": bounded and spectrum is not None and _few_rows(spectrum),
        "padded_vocab": spectrum is None and _padded(run),
        "quarantined": row["n_quarantined"] > 0,
        "short_text": _many_short(entropy),
        **of_errors([(row["value"], row["stderr"])], row["n_prompts"]),
    }
    return sorted(name for name, holds in found.items() if holds)


def _at(rows: Sequence[Row], prefix: int | None) -> Sequence[Row]:
    """The rows a number came from: one prefix, or all of them for a mean or a median."""
    return rows if prefix is None else [row for row in rows if row["prefix"] == prefix]


def is_collapsed(ratio: float | None) -> bool:
    """Whether rows of this participation ratio hide their width behind one direction."""
    return ratio is not None and ratio <= COLLAPSED_RATIO


def _normaliser(profile: Row, spectra: Sequence[Row]) -> bool:
    for name in RANKS:
        if profile[f"{name}_norm"] is None:
            continue
        normalised = profile[f"{name}_norm_prefix"]
        if profile[f"{name}_prefix"] != normalised:
            return True
        if any(_few_rows(row) for row in _at(spectra, normalised)):
            return True
    return False


def _few_rows(spectrum: Row) -> bool:
    """Whether r = min(N, d) is N, which grows with the prefix."""
    few: bool = spectrum["n_tokens"] < spectrum["dim"]
    return few


def _padded(run: Row) -> bool:
    padded: bool = run["logits_width"] > run["tokenizer_size"]
    return padded


def _short_text(profile: Row, entropy: Sequence[Row]) -> bool:
    prefixes = {profile[f"{name}_prefix"] for name in _VALUES if profile[name] is not None}
    return any(_many_short(row) for prefix in prefixes for row in _at(entropy, prefix))


def _many_short(entropy: Row) -> bool:
    many: bool = entropy["short_prompts"] > SHORT_SHARE * entropy["n_prompts"]
    return many


def of_errors(
    errors: Iterable[tuple[float | None, float | None]], n_prompts: int
) -> dict[str, bool]:
    """The flags that errors tell. errors: values, each with its standard error."""
    there = [(value, stderr) for value, stderr in errors if value is not None]
    unsure = any(s is not None and s > ERROR_SHARE * abs(value) for value, s in there)
    return {
        "no_error": n_prompts >= 2 and any(stderr is None for _, stderr in there),
        "small_sample": n_prompts < 2 or unsure,
    }


def _template(profile: Row, entropy: Sequence[Row]) -> bool:
    if profile["entropy_norm"] is None:
        return False
    return any(
        row["distinct_prefixes"] < DISTINCT_SHARE
        for row in _at(entropy, profile["entropy_norm_prefix"])
    )
