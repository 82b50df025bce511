"""What tells runs apart in every chart of a page: letter, name, colour, shape and dash.

A page makes one `RunStyles` of all its runs and gives it to every chart: run C keeps its letter and
colour in a chart without runs A and B. Text can use it too, since it needs no chart library.

The colours have a contrast of 3:1 and more on white and on near black (WCAG 2.2, 1.4.11). They are
the four of Okabe and Ito's eight (*Color Universal Design*, 2008; Wong, Nature Methods 8, 2011)
that have it, and the olive of Tol's muted scheme (SRON/EPS TN/09-002, 2021), both made for
colour-blind readers. No colour means anything alone: five colours, seven shapes and four dashes
repeat after 140 runs, and letters never.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice, product
from string import ascii_uppercase
from typing import Final

PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999933")
OTHERS: Final = ("#7570B3", "#E7298A", "#A6761D", "#2F8F9D", "#666666")
"""Colours of what is not a run, like a feature, of the same contrast: four of ColorBrewer's Dark2,
and a teal that a dichromat tells from them."""
SHAPES: Final = (
    *("circle", "square", "triangle-up", "diamond", "cross"),
    *("triangle-down", "triangle-right"),
)
DASHES: Final = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])

HASH: Final = re.compile(r"-[0-9a-f]{8}$")
"""End of a run id: the first digits of its plan's hash."""


@dataclass(frozen=True, slots=True)
class RunStyle:
    """Style of one run."""

    place: int
    """From 0, in the order of the page."""
    letter: str
    name: str

    @property
    def color(self) -> str:
        """Colour as hexadecimal digits."""
        return PALETTE[self.place % len(PALETTE)]

    @property
    def label(self) -> str:
        """`C untrained, seed 0`."""
        return f"{self.letter} {self.name}"


@dataclass(frozen=True)
class RunStyles:
    """The style of each run of a page.

    names: a name for each run id, in the order in which runs get their letters. Other runs raise
    KeyError; `including` adds some.

    >>> styles = RunStyles({"base-00000001": "base", "rounded-00000002": "rounded to 4 bits"})
    >>> styles.label("rounded-00000002"), styles.color("rounded-00000002")
    ('B rounded to 4 bits', '#D55E00')
    """

    names: Mapping[str, str]

    @classmethod
    def of_ids(cls, runs: Iterable[str]) -> "RunStyles":
        """Styles of runs of which only the ids are known, in their order and named by id.

        The hash at the end of an id is left out where the rest tells the runs apart.
        """
        run_ids = list(dict.fromkeys(runs))
        bare = [HASH.sub("", run) for run in run_ids]
        return cls(
            {run: b if bare.count(b) == 1 else run for run, b in zip(run_ids, bare, strict=True)}
        )

    @cached_property
    def _styles(self) -> dict[str, RunStyle]:
        lettered = zip(letters(len(self.names)), self.names.items(), strict=True)
        return {run: RunStyle(k, letter, name) for k, (letter, (run, name)) in enumerate(lettered)}

    def __getitem__(self, run: str) -> RunStyle:
        return self._styles[run]

    @property
    def order(self) -> tuple[str, ...]:
        """Ids of the runs, from A on."""
        return tuple(self.names)

    def letter(self, run: str) -> str:
        """`C`."""
        return self[run].letter

    def name(self, run: str) -> str:
        """`untrained, seed 0`: distinct among the runs of the page."""
        return self[run].name

    def label(self, run: str) -> str:
        """`C untrained, seed 0`."""
        return self[run].label

    def color(self, run: str) -> str:
        """As hexadecimal digits: `#009E73`."""
        return self[run].color

    def including(self, runs: Iterable[str]) -> "RunStyles":
        """These styles, followed by those of other `runs`, sorted and named by their ids."""
        others = sorted({*runs} - {*self.names})
        return RunStyles({**self.names, **{run: run for run in others}}) if others else self


def styles_of(runs: Iterable[str], styles: RunStyles | None) -> RunStyles:
    """Styles for a chart of `runs`: those of its page; without a page, by the sorted ids."""
    return RunStyles.of_ids(sorted({*runs})) if styles is None else styles.including(runs)


def letters(n: int) -> list[str]:
    """The first `n` of A to Z, AA to ZZ, and so on.

    >>> letters(28)[-3:]
    ['Z', 'AA', 'AB']
    """
    names = ("".join(chars) for size in count(1) for chars in product(ascii_uppercase, repeat=size))
    return list(islice(names, n))
