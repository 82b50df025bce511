"""A declared metric: a name, a unit, one line of definition, a source, a function.

`registry` lists them; modules by kind declare them. A metric is data: to add one,
add a `Metric` to its module's tuple. docs/how-to/metric.md shows one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from lpp.analyze.metrics.token_sums import LeastMeans, RowSums
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.quantities.quantity import Quantity, Subject
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.runs.rows.wide_block import WideBlock

Needs = Literal["tokens", "scatter", "eigenvalues", "rows"]
"""What has to be at hand, and so what `compute` is given, for the tokens below one prefix:

- tokens: a `polars.DataFrame` of their statistics, columns as in `tokens.arrow`;
- scatter: the `Spectrum` of one matrix of their vectors, without eigenvalues;
- eigenvalues: the same with eigenvalues;
- rows: the vectors themselves, as `SiteRows`, or what its `measure` kept of them.
"""

MatrixName = Literal["covariance", "correlation"]
"""The matrix of a `Spectrum`; the correlation matrix is the covariance of z-scores."""

Input = TypeVar("Input")


class SiteRows(NamedTuple):
    """X(L): the vectors of one site below one prefix, in prompt and position order."""

    values: npt.NDArray[np.float32]
    """(N, d)"""
    prompt_id: npt.NDArray[np.int32]
    """(N,), ascending."""
    position: npt.NDArray[np.int32]
    """(N,), below the prefix, ascending within a prompt."""


class Measurement(Protocol):
    """What is kept of a site's rows while they are read, in bounded memory, for many cells.

    The number of a cell must have the same bits whatever other cells there are and wherever blocks
    end: it is kept, and later requests are for other cells. `row_measures.exact_sums` helps.
    """

    def add(self, block: WideBlock) -> None:
        """Take in the next rows, in prompt and position order; some may be in no cell."""

    def again(self) -> bool:
        """Called once all rows are in: whether they are to be read once more."""

    def values(self) -> Iterator[tuple[Cell, Any]]:
        """What `compute` is given of each cell, one at a time; a cell left out has no number."""


class MomentsMeasurement(Measurement, Protocol):
    """A measurement that is also given what the spectra of its whole cells are made of."""

    uses_moments: bool
    """True: `moments` is called for each whole cell, after the first read and before `again`."""
    wants_moments_again: bool
    """Whether it is called once more, with the same arguments, after the last read."""

    def moments(self, cell: Cell, n: int, mean: Floats, scatter: Floats) -> None:
        """Rows n of a cell, their (d,) mean and (d, d) centred scatter.

        Valid during the call: copy what is to be kept.
        """


Start = Callable[[SiteReader, Sequence[Cell]], Measurement]
"""Begins a measurement of some cells of a site."""


@dataclass(frozen=True, kw_only=True)  # slots do not go with Generic
class Metric(Quantity, Generic[Input]):
    """One number about the tokens below a prefix.

    In definitions lambda are the eigenvalues, N and d the shape of X(L), r = min(N, d).
    """

    of: Subject = "site"
    needs: Needs
    compute: Callable[[Input], float]
    """A pure function of what `needs` names. NaN where the metric is not defined: no number."""
    matrix: MatrixName = "covariance"
    """For a scatter or eigenvalues metric: the matrix whose spectrum `compute` is given."""
    measure: Start | None = None
    """For a rows metric: what is kept of the rows as they are read. Metrics that share one share
    its reads. Without one every row is held in memory."""
    sums: RowSums | LeastMeans | None = None
    """For a tokens metric: the sums that give the same number as `compute`, so that no rows are
    held. Without them every row of the token statistics is held in memory."""
    of_twin: "Metric[Any] | None" = None
    """For a difference: the metric whose value at the run's untrained twin, less that at the run,
    is the number; `compute` is not used."""
    ratio: str = "participation_ratio"
    """For a metric of vectors: the participation ratio of its matrix, which tells whether
    the matrix collapsed; of the covariance if the metric has no matrix."""
    normalises: str = ""
    """Name of the metric that this one is, divided by min(N, d); empty: it is none."""
    no_error: str = ""
    """Why there is no jackknife error, where there is none."""
    version: int = 1
    """For a rows metric: raise it when what it computes changes; cached numbers then expire."""
