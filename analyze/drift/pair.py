"""Two runs that read the same tokens, side by side."""

from dataclasses import dataclass

from lpp.analyze.runs.cells import Integers
from lpp.analyze.runs.keys import RunView


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two comparable runs, over the first prompts that both hold."""

    a: RunView
    b: RunView
    n_prompts: int
    """The first n prompts, whose token ids are equal in both."""
    left_out: Integers
    """Ids of those prompts that one of the runs set aside, ascending: neither's rows are used."""
