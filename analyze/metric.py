"""What a declared metric is: a name, a unit, one line of definition, a source, a function.

`lpp.analyze.metrics` lists them; modules by kind declare them. A metric is data: to add one,
add a `Metric` to its module's tuple. README.md shows one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Needs = Literal["tokens", "scatter", "eigenvalues", "rows"]
"""What has to be at hand, and so what `compute` is given, for the tokens below one prefix:

- tokens: a `polars.DataFrame` of their statistics, columns as in `tokens.arrow`;
- scatter: the `Spectrum` of one matrix of their vectors, without eigenvalues;
- eigenvalues: the same with eigenvalues;
- rows: the vectors themselves, as `SiteRows`.
"""

MatrixName = Literal["covariance", "correlation"]
"""Which matrix a `Spectrum` is of; the correlation matrix is the covariance of z-scores."""

Input = TypeVar("Input")


class SiteRows(NamedTuple):
    """X(L): the vectors of one site below one prefix, in prompt and position order."""

    values: npt.NDArray[np.float32]
    """(N, d)"""
    prompt_id: npt.NDArray[np.int32]
    """(N,), ascending."""
    position: npt.NDArray[np.int32]
    """(N,), below the prefix, ascending within a prompt."""


@dataclass(frozen=True, kw_only=True)  # slots do not go with Generic
class Metric(Generic[Input]):
    """One number about the tokens below a prefix."""

    name: str
    """One name for one definition, snake_case."""
    unit: str
    """Such as dimensions, share, nats; `1` for a number without one."""
    definition: str
    """One line: lambda are the eigenvalues, N and d the shape of X(L), r = min(N, d)."""
    source: str
    """Who defined it."""
    needs: Needs
    compute: Callable[[Input], float]
    """A pure function of what `needs` names. NaN where the metric is not defined: no number."""
    matrix: MatrixName = "covariance"
    """Of a scatter or eigenvalues metric: the matrix whose spectrum it is given."""
