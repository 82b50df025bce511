"""A quantity: the name of a number, of what it is, its unit, its definition, its bounds.

Whatever says a number, stores it or compares it with a threshold takes what it needs from here.
Imports nothing heavy: the list of a command's names comes from declarations.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeVar

Subject = Literal["profile", "site", "prefix", "pair", "pair_site", "item", "probe", "probe_pair"]
"""What a number is of: the next token after a prefix, in every profile; the rows of a site below a
prefix; the predictions below a prefix; the predictions of two runs, A and B; a site of two runs; an
item of an evaluation; a probe of a site; a probe of A on the rows of B."""

UNBOUNDED: Final = (-math.inf, math.inf)
FROM_0: Final = (0.0, math.inf)
SHARE: Final = (0.0, 1.0)
_LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "share": SHARE,
    "dimensions": FROM_0,
    "nats": FROM_0,
    "nats^2": FROM_0,
    "ratio": FROM_0,
    "degrees": (0.0, 180.0),
}
"""Bounds of the numbers of a unit, where a quantity declares none."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One number."""

    name: str
    """One name for one definition, snake_case. Column of tables, key of documents."""
    of: Subject
    unit: str
    """Such as dimensions, share, nats; `1` for a number without one."""
    definition: str
    """One line."""
    source: str
    """Who defined it."""
    trap: str = ""
    """How the number misleads."""
    label: str = ""
    """In sentences, headings and on axes; empty: the name with spaces."""
    short: str = ""
    """Heading of a narrow column; empty: the label."""
    share_of: str = ""
    """For a share: the whole that it is a share of."""
    bounds: tuple[float, float] | None = None
    """Least and largest possible value; None: they follow from the unit."""
    identity: float | None = None
    """For a pair of runs: the value where nothing changed."""
    of_log: bool = False
    """Whether it is the exponential of a mean, so that its interval is that of its logarithm."""

    @property
    def limits(self) -> tuple[float, float]:
        """Least and largest value there can be: an interval ends there."""
        return self.bounds or _LIMITS.get(self.unit, UNBOUNDED)

    @property
    def words(self) -> str:
        """Its label, or its name with spaces."""
        return self.label or self.name.replace("_", " ")

    @property
    def heading(self) -> str:
        """For a narrow column."""
        return self.short or self.words

    @property
    def title(self) -> str:
        """Its label as a title."""
        return capital(self.words)

    @property
    def unit_words(self) -> str:
        """What follows a value: `of ln V`, or the unit."""
        return f"of {self.share_of}" if self.share_of else self.unit

    @property
    def axis(self) -> str:
        """The unit of an axis: `share of ln V`, or the unit."""
        return f"{self.unit} {self.unit_words}" if self.share_of else self.unit

    @property
    def meaning(self) -> str:
        """Label and definition."""
        return ": ".join(filter(None, (self.label, self.definition)))


def capital(text: str) -> str:
    """`text` with a capital letter."""
    return text[:1].upper() + text[1:]


Q = TypeVar("Q", bound=Quantity)


def by_name(quantities: Iterable[Q]) -> Mapping[str, Q]:
    """`quantities` under their names, in order. ValueError for a name declared twice."""
    named: dict[str, Q] = {}
    for quantity in quantities:
        if quantity.name in named:
            raise ValueError(f"{quantity.name} is declared twice")
        named[quantity.name] = quantity
    return MappingProxyType(named)


def legend(quantities: Iterable[Quantity]) -> str:
    """What the names and headings of a table stand for, without a full stop.

    A number without a label has the first sentence of its definition.
    """
    words = ((q.short or q.name, q.label or q.definition.partition(". ")[0]) for q in quantities)
    return "; ".join(f"{name}: {text}" for name, text in words)
