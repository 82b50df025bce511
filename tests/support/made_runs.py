"""A synthetic run, as written by the fixtures `make_run` and `make_shared_run` of tests/analyze."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lpp.store import Plan


@dataclass(frozen=True)
class Made:
    """A run as written, and the rows in it."""

    root: Path
    run_id: str
    plan: Plan
    prompts: list[list[int]]
    hidden: dict[str, list[npt.NDArray[np.float32]]]  # site -> one (T_i, d) per prompt
    entropy: list[npt.NDArray[np.float32]]  # (T_i,) per prompt

    def rows(self, site: str, prefix: int, n_prompts: int | None = None) -> npt.NDArray[np.float32]:
        """X(L): the rows at positions below `prefix`."""
        return np.concatenate([rows[:prefix] for rows in self.hidden[site][:n_prompts]])


MakeRun = Callable[..., Made]
"""Type of both fixtures."""
