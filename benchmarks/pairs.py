"""Two things measured side by side: in turn, several times, compared by medians.

Machines are shared and their speed drifts, so one side is never measured without the other
next to it, and what is quoted is a ratio.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

WARM_UP: Final = True
"""Whether a run of each side that does not count comes first: what is timed once is cold."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One row of the table."""

    what: str
    ours: str
    """Ours, as printed: time, bytes or memory, with its unit."""
    other: str
    ratio: float
    spread: tuple[float, float]
    """Least and greatest ratio over the repeats."""
    bar: float
    direction: Literal["at most", "at least"]
    bound: str = ""
    """What bounds it, where the bar is not reached."""

    @property
    def reached(self) -> bool:
        """Whether the bar is met."""
        return self.ratio <= self.bar if self.direction == "at most" else self.ratio >= self.bar


def ratio_once(
    what: str,
    ours: str,
    other: str,
    ratio: float,
    *,
    bar: float,
    direction: Literal["at most", "at least"] = "at most",
    bound: str = "",
) -> Ratio:
    """Of what is counted rather than timed: it has no spread."""
    return Ratio(
        what=what,
        ours=ours,
        other=other,
        ratio=ratio,
        spread=(ratio, ratio),
        bar=bar,
        direction=direction,
        bound=bound,
    )


def timed_pairs(
    ours: Callable[[], object],
    other: Callable[[], object],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[float]]:
    """Seconds of each, in turn, after one run of each that does not count (`WARM_UP`).

    Whichever went second goes first the next time. clock: `time.process_time` counts the CPU
    seconds of this process instead.
    """
    if WARM_UP:
        ours()
        other()
    mine: list[float] = []
    theirs: list[float] = []
    for number in range(repeats):
        for call in (ours, other) if number % 2 == 0 else (other, ours):
            (mine if call is ours else theirs).append(seconds(call, clock))
    return mine, theirs


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call, by the wall's clock unless another is named."""
    start = clock()
    call()
    return clock() - start


def ratio_of_times(
    what: str,
    times: tuple[list[float], list[float]],
    *,
    bar: float,
    direction: Literal["at most", "at least"] = "at most",
    inverted: bool = False,
    bound: str = "",
) -> Ratio:
    """Ours / other by the median of the pairs; inverted: other / ours, a gain."""
    mine, theirs = times
    pairs = [b / a if inverted else a / b for a, b in zip(mine, theirs, strict=True)]
    return Ratio(
        what=what,
        ours=_time(statistics.median(mine)),
        other=_time(statistics.median(theirs)),
        ratio=statistics.median(pairs),
        spread=(min(pairs), max(pairs)),
        bar=bar,
        direction=direction,
        bound=bound,
    )


def _time(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.0f} ms"
