"""Runs by their short names, and the id that each name stands for."""

from collections.abc import Iterable, Mapping
from typing import Final

from lpp.analyze.text.text import WIDTH
from lpp.store.format.run_names import name_lines

Names = Mapping[str, str]
"""A short name by run id. A run that has none is shown by its id."""

NAMELESS: Final[Names] = {}


def legend(names: Names, runs: Iterable[str]) -> str:
    """A line for each of `runs` that has a name: the name and the id, which commands take."""
    return name_lines({run: names[run] for run in dict.fromkeys(runs) if run in names}, WIDTH)
