"""The result of one read of a site for a cell: the spectra that its metrics are computed from."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from lpp.analyze.metrics.metric import MatrixName, Metric
from lpp.analyze.numerics import spectrum
from lpp.analyze.numerics.moments import Floats, Spread, standardised
from lpp.analyze.numerics.spectrum import Spectrum, rank_bound, sums

SPECTRAL_KINDS = ("scatter", "eigenvalues")

_log = logging.getLogger("lpp.analyze")


@dataclass(frozen=True, slots=True)
class Summary:
    """The spectra of one cell."""

    covariance: Spectrum
    correlation: Spectrum | None = None
    """None if it was not requested."""
    leading: Floats | None = None
    """(d, k) the covariance's leading eigenvectors; None if they were not requested."""
    replicate: bool = False
    """Whether it is for an error, with eigenvalues of fewer digits."""

    def value(self, metric: Metric[Any]) -> float:
        """`metric` of this cell; LookupError where what it needs was not computed."""
        of: Spectrum | None = getattr(self, metric.matrix)
        if of is None:
            raise LookupError(f"{metric.name} needs a {metric.matrix} that was not computed")
        if of.n == 0:  # every prompt of the cell was set aside
            return math.nan
        # Rows that are not finite give NaN, which says more than a warning would.
        with np.errstate(invalid="ignore", over="ignore"):
            value: float = metric.compute(of)
        return value

    def joined(self, other: Self) -> Self:
        """The union of two summaries of one cell."""
        return replace(
            self,
            covariance=_fuller(self.covariance, other.covariance),
            correlation=_fuller(self.correlation, other.correlation),
            leading=other.leading if self.leading is None else self.leading,
        )


def _fuller(spectrum: Spectrum | None, other: Spectrum | None) -> Any:
    return other if spectrum is None or (other and spectrum.eigenvalues is None) else spectrum


@dataclass(frozen=True, slots=True)
class Demand:
    """What metrics need of a summary, so that nothing else is computed."""

    solved: frozenset[MatrixName] = frozenset()
    """Matrices whose eigenvalues are needed."""
    correlation: bool = False
    """Whether the correlation matrix is needed at all; the covariance is always there."""
    leading: bool = False
    """Whether the leading eigenvectors of the covariance are needed."""
    replicate: bool = False
    """Whether it is for an error, which needs fewer digits of eigenvalues."""

    @classmethod
    def of(cls, metrics: Iterable[Metric[Any]]) -> Self:
        """What the spectral ones of `metrics` need."""
        spectral = [metric for metric in metrics if metric.needs in SPECTRAL_KINDS]
        return cls(
            frozenset(metric.matrix for metric in spectral if metric.needs == "eigenvalues"),
            any(metric.matrix == "correlation" for metric in spectral),
        )

    def met_by(self, summary: Summary | None) -> bool:
        """Whether `summary` holds everything asked for."""
        if summary is None or (self.correlation and summary.correlation is None):
            return False
        if self.leading and summary.leading is None:
            return False
        held: list[Spectrum] = [getattr(summary, name) for name in self.solved]
        return all(spectrum.eigenvalues is not None for spectrum in held)


def summarize(spread: Spread, demand: Demand) -> Summary:
    """The summary of `spread`; rows that are not finite give NaN, which nothing hides later."""
    replicate = demand.replicate
    covariance = _spectrum(spread, "covariance" in demand.solved, replicate)
    leading = _leading(spread) if demand.leading else None
    if not demand.correlation:
        return Summary(covariance, leading=leading, replicate=replicate)
    correlation = _spectrum(standardised(spread), "correlation" in demand.solved, replicate)
    return Summary(covariance, correlation, leading, replicate)


def _leading(spread: Spread) -> Floats:
    from lpp.analyze.numerics.leading import leading_eigenvectors  # SciPy, which few commands need

    return leading_eigenvectors(spread)


def _spectrum(spread: Spread, solve: bool, replicate: bool) -> Spectrum:
    total, sum_squares = sums(spread)
    values = None
    if solve:
        values = _eigenvalues(spread, replicate, finite=math.isfinite(sum_squares))
    return Spectrum(
        n=spread.n,
        dim=spread.dim,
        total=total,
        sum_squares=sum_squares,
        mean_norm=float(np.linalg.norm(spread.mean)),
        variances=spread.variances,
        eigenvalues=values,
    )


def _eigenvalues(spread: Spread, replicate: bool, *, finite: bool) -> Floats:
    """(r,) NaN for a matrix that has none: one cell must not cost the numbers of all others."""
    if finite:
        try:
            return spectrum.eigenvalues(spread, replicate=replicate)
        except ArithmeticError as error:
            _log.warning("%d rows of width %d have no ranks: %s", spread.n, spread.dim, error)
    return np.full(rank_bound(spread.n, spread.dim), np.nan)
