"""The hourglass score: whether both ends of a model use more dimensions than its middle.

Layers are the paper's: block.k for k = 1 .. B - 1, and `final` for k = B (block.B where `final`
was not captured); `embed` is none. Their thirds: k / B up to 1/3 is the first, up to 2/3 the
middle, beyond it the last. With the geometric mean of the rank, in dimensions, over the layers of
each third (ranks run over orders of magnitude: a tenfold one should not hide the others),

    score = (min(first, last) - middle) / (min(first, last) + middle)

lies between -1 and 1: 0 for a model as wide in the middle as at its narrower end, above 0 only
when both ends are wider than the middle, 1/3 when they are twice as wide, below 0 for a bulge,
and for a model that only widens or only narrows.

Dimensions, not shares of min(N, d), since d and N are the same in every layer of one run and a
share would only rescale. A collapsed layer (participation ratio within 1 % of 1, METRICS flag
`collapsed`) is not narrow, it hides its width behind one direction: it is left out and counted,
and so is a layer without a rank, or with rank 0 for no variance. With fewer than two layers left
in any third there is no score.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Final, NamedTuple

MIN_LAYERS: Final = 2
"""Layers that each third needs."""

THIRDS: Final = ("first", "middle", "last")


class Layer(NamedTuple):
    """One layer's rank."""

    depth: int
    """k, in blocks: 1 to B."""
    rank: float | None
    """In dimensions; None where its rows are not finite."""
    collapsed: bool


@dataclass(frozen=True, slots=True)
class Hourglass:
    """The score, the means that it is computed from, and what was left out."""

    score: float | None
    first: float | None
    """Geometric mean of the rank over the first third, in dimensions; None without a layer."""
    middle: float | None
    last: float | None
    n_layers: int
    """Layers in the means."""
    n_collapsed: int
    n_missing: int
    """Layers that did not collapse and have no rank."""
    reason: str | None
    """Why there is no score; None where there is."""


def third(depth: int, n_blocks: int) -> int:
    """0, 1 or 2: the third of the model that layer `depth` of 1 to `n_blocks` lies in.

    >>> [third(k, 6) for k in range(1, 7)]
    [0, 0, 1, 1, 2, 2]
    """
    return (3 * depth > n_blocks) + (3 * depth > 2 * n_blocks)


def hourglass(layers: Sequence[Layer], n_blocks: int) -> Hourglass:
    """The score of one model's `layers`, of which each depth is there once at most.

    >>> narrow = [Layer(k, 10.0 if third(k, 6) == 1 else 20.0, False) for k in range(1, 7)]
    >>> round(hourglass(narrow, 6).score, 6)  # (20 - 10) / (20 + 10)
    0.333333
    """
    parts: tuple[list[float], ...] = ([], [], [])
    for layer in layers:
        if layer.rank and not layer.collapsed:
            parts[third(layer.depth, n_blocks)].append(layer.rank)
    first, middle, last = (geometric_mean(part) if part else None for part in parts)
    reason = _too_few(layers, parts, n_blocks)
    score = None
    if reason is None and first is not None and middle is not None and last is not None:
        end = min(first, last)
        score = (end - middle) / (end + middle)
    return Hourglass(
        score=score,
        first=first,
        middle=middle,
        last=last,
        n_layers=sum(map(len, parts)),
        n_collapsed=sum(layer.collapsed for layer in layers),
        n_missing=sum(not layer.rank and not layer.collapsed for layer in layers),
        reason=reason,
    )


def _too_few(
    layers: Iterable[Layer], parts: Sequence[Sequence[float]], n_blocks: int
) -> str | None:
    """Why there is no score; None if enough layers are left."""
    captured = [third(layer.depth, n_blocks) for layer in layers]
    lacking = [
        f"{len(part)} of {captured.count(k)} layers of the {THIRDS[k]} third can be used"
        for k, part in enumerate(parts)
        if len(part) < MIN_LAYERS
    ]
    return f"{'; '.join(lacking)}: at least {MIN_LAYERS} are needed" if lacking else None
