"""What numbers are drawn by, and the scales of a panel with their ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from lpp.analyze.charts.library import alt

UP: Final = 11
"""Most labelled ticks of a vertical log axis."""
ALONG: Final = 10
"""Most labelled ticks of a horizontal log axis; a narrow panel drops those that would touch."""
FEWEST: Final = 3
"""Fewest labelled ticks of a log axis."""


DECADES: Final = 100
"""Ratio of the largest to the smallest positive value from which steps are on a log axis."""


@dataclass(frozen=True, slots=True)
class Along:
    """What a number is drawn by, along the `x` axis."""

    field: str
    title: str
    place: str
    """How a description names a place: such as `depth {:g}`."""
    scale: Literal["linear", "log", "decades"] = "linear"
    """linear: from 0. log: where any value is positive; linear from 0 up to the smallest positive
    one. decades: log if the values span two decades, else linear from the smallest."""
    has_final: bool = False
    """Whether `final` has a column of its own, which no line leads to."""

    @property
    def name(self) -> str:
        """For a title: `depth`."""
        return self.place.partition(" ")[0]

    def is_log(self, values: Sequence[float]) -> bool:
        """Whether the axis of `values` is logarithmic."""
        positive = [value for value in values if value > 0 and self.scale != "linear"]
        return bool(positive) and (self.scale == "log" or max(positive) > DECADES * min(positive))


PREFIX: Final = Along("prefix", "prefix (tokens)", "prefix {:g}")
POSITION: Final = Along("first", "first position of the band", "position {:g}", "log")
RANK: Final = Along("rank", "rank of the eigenvalue", "rank {:g}", "log")
STEP: Final = Along("step", "step of the training", "step {:,}", "decades")
DEPTH: Final = Along("depth", "depth (blocks)", "depth {:g}", has_final=True)
RELATIVE_DEPTH: Final = Along(
    "relative_depth", "depth (share of blocks)", "depth {:.2g}", has_final=True
)


class Axis(NamedTuple):
    """A scale with its ticks, and where its ends are."""

    scale: Any
    axis: Any
    low: float
    high: float
    log: bool

    def channel(self, field: str, title: str) -> Any:
        """Vertical channel of `field`, on this axis."""
        return alt.Y(f"{field}:Q", title=title, scale=self.scale, axis=self.axis)

    def share(self, value: float) -> float:
        """Where `value` lies, from 0 at the low end to 1 at the high end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def at(self, share: float) -> float:
        """The value that lies at `share`."""
        if self.log:
            return float(self.low * (self.high / self.low) ** share)
        return self.low + share * (self.high - self.low)


def linear_axis(values: Sequence[float], ends: tuple[float, float] | None = None) -> Axis:
    """A linear axis from 0 to a little beyond `values`, or between `ends`."""
    axis = alt.Axis(tickCount=5)
    if ends is not None:
        scale = alt.Scale(domain=list(ends), nice=False, zero=False)
        return Axis(scale, axis, *ends, log=False)
    low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
    high = high + 0.03 * (high - low) if high > low else 1.0
    return Axis(alt.Scale(domain=[low, high], nice=False), axis, low, high, log=False)


def log_axis(values: Sequence[float], most: float = math.inf) -> Axis:
    """A log axis a little wider than the positive `values`, which has room for marks.

    most: the largest value there can be; no tick lies above it.
    """
    low, high = min(values) / 1.15, max(values) * 1.15
    ticks = log_ticks(low, min(high, most))
    axis = alt.Axis(values=ticks, format="~e" if low < 1e-3 else "~g")
    return Axis(alt.Scale(type="log", domain=[low, high], nice=False), axis, low, high, log=True)


def along_axis(values: Sequence[float], along: Along) -> tuple[Any, Any]:
    """Scale and axis of steps, positions or ranks."""
    low, high = min(values), max(values)
    if not along.is_log(values):
        pad = 0.03 * (high - low)
        tight = along.scale == "decades" and high > low
        linear = linear_axis(values, (low - pad, high + pad) if tight else None)
        return linear.scale, linear.axis
    if low > 0:
        low, high = low / 1.15, high * 1.15
        scale = alt.Scale(type="log", domain=[low, high], nice=False)
        return scale, _labelled(log_ticks(low, high, ALONG))
    least = min(value for value in values if value > 0)
    high *= 1.15
    scale = alt.Scale(type="symlog", constant=least, domain=[0, high], nice=False)
    return scale, _labelled([0, *log_ticks(least, high, ALONG - 1)])


def _labelled(ticks: Sequence[float]) -> Any:
    # with its precision: Vega would take one digit of a symlog axis and write 1e+2
    return alt.Axis(values=list(ticks), format=",.12~g", labelOverlap="greedy", labelSeparation=4)


def column_axis(values: Sequence[float], column: float) -> tuple[Any, Any]:
    """Scale and axis of depth, from 0, with a column called `final` right of all `values`."""
    ticks = linear_ticks(0, max(values), 5)
    axis = alt.Axis(
        values=[*ticks, column],
        labelExpr=f"datum.value > {ticks[-1]} ? 'final' : format(datum.value, '~g')",
    )
    return alt.Scale(domain=[0, 1.04 * column], nice=False), axis


def log_ticks(low: float, high: float, most: int = UP) -> list[float]:
    """1, 2 and 5 of every decade between two positive ends; only decades if these are too many.

    If fewer than three lie between the ends, ticks are at equal steps, so every axis has some.

    >>> log_ticks(0.8, 60), log_ticks(11, 19)
    ([1.0, 2.0, 5.0, 10.0, 20.0, 50.0], [12.0, 14.0, 16.0, 18.0])
    >>> log_ticks(1e-9, 2, most=5)
    [1e-08, 1e-06, 0.0001, 0.01, 1.0]
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)

    def within(steps: Sequence[int], nth: int = 1) -> list[float]:
        ticks = (
            float(f"{step}e{decade}") for decade in decades if decade % nth == 0 for step in steps
        )
        return [tick for tick in ticks if low <= tick <= high]

    ticks = within((1, 2, 5))
    if len(ticks) < FEWEST:
        return linear_ticks(low, high, 5)
    nth = 0
    while len(ticks) > most:
        nth += 1
        ticks = within((1,), nth)
    return ticks


def linear_ticks(low: float, high: float, about: int) -> list[float]:
    """About so many ticks between two ends, at equal steps of 1, 2 or 5 times a power of ten.

    >>> linear_ticks(0, 1, 5), linear_ticks(0, 30, 5)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0])
    """
    wanted = (high - low) / about
    if wanted <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(wanted))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / wanted)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]
