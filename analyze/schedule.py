"""The prefix schedule: at which prefix lengths a context is measured.

A prefix of L tokens means the same whatever the context it was asked for: X(L) and the entropy
at L depend on L alone. So the schedules of several contexts share their prefixes, and the bands
between neighbouring lengths serve all of them.
"""

from collections.abc import Iterable

STEPS = 10
"""Prefixes of a context: C/10, 2C/10, ..., C."""


def prefixes(context: int) -> tuple[int, ...]:
    """Prefix lengths of `context`, in tokens, ascending.

    Rounded half up, distinct, at least 1; the last is the context itself.

    >>> prefixes(200)
    (20, 40, 60, 80, 100, 120, 140, 160, 180, 200)
    >>> prefixes(15)
    (2, 3, 5, 6, 8, 9, 11, 12, 14, 15)
    >>> prefixes(4)
    (1, 2, 3, 4)
    """
    if context < 1:
        raise ValueError(f"a context has at least one token, not {context}")
    # Whole-number arithmetic: 0.5 is not left to a binary fraction's mercy.
    rounded = {(2 * context * step + STEPS) // (2 * STEPS) for step in range(1, STEPS + 1)}
    return tuple(sorted(length for length in rounded if length >= 1))


def edges(lengths: Iterable[int]) -> tuple[int, ...]:
    """Upper edges of the position bands that all of `lengths` are unions of.

    >>> edges([*prefixes(4), *prefixes(2)])
    (1, 2, 3, 4)
    """
    return tuple(sorted(set(lengths)))
