"""Metrics of cells, with errors: from the cache, or computed in one read of the rows."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from lpp.analyze.engine.cache import ESTIMATED, Cache, groups_name
from lpp.analyze.engine.row_values import RowValues, Values
from lpp.analyze.engine.site_spectra import site_summaries
from lpp.analyze.engine.workers import Workers
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.metrics.summary import SPECTRAL_KINDS, Demand
from lpp.analyze.numerics.jackknife import Estimate, jackknife, jackknife_of_log
from lpp.analyze.numerics.spectrum import rank_bound
from lpp.analyze.runs.cells import Cell, n_tokens
from lpp.analyze.runs.groups import GROUPS, Groups
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.rows.site_reader import SiteReader

Estimates = Mapping[tuple[Cell, str], Estimate]
"""Estimates by cell and name of the metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The metrics to compute, and which of them with an error."""

    metrics: Sequence[Metric[Any]]
    errors: Collection[str] = ()
    """Names of metrics with an error, by the jackknife over `groups` of prompts."""
    groups: Groups = GROUPS
    compared: bool = False
    """Whether leading eigenvectors are kept as well, which `diff` takes."""

    def of(self, *kinds: str) -> "Request":
        """The request for those metrics that need one of `kinds`."""
        metrics = [metric for metric in self.metrics if metric.needs in kinds]
        return replace(self, metrics=metrics)

    def groups_of(self, metric: Metric[Any]) -> Groups:
        """Groups of the jackknife for the error of `metric`; 0 for no error."""
        return self.groups if metric.name in self.errors and not metric.no_error else 0

    def cells(self, whole: Collection[Cell]) -> dict[Cell, list[Metric[Any]]]:
        """The metrics to compute for each cell, and for the cells that leave out one group."""
        wanted = {cell: list(self.metrics) for cell in whole if self.metrics}
        again = [metric for metric in self.metrics if self.groups_of(metric)]
        parts = [part for cell in whole for part in cell.parts(self.groups) if again]
        return wanted | dict.fromkeys(parts, again)


@dataclass(frozen=True, slots=True)
class SiteRequest:
    """The request for some cells of one site of one run."""

    view: RunView
    cache: Cache
    site: str
    cells: Collection[Cell]
    request: Request


def site_estimates(site_request: SiteRequest, workers: Workers) -> Estimates:
    """Metrics that need a scatter matrix, eigenvalues or rows of a site.

    For numbers in the cache no rows are read. The others take one read of the site, and a second
    one for errors of spectra; they are added to the cache.
    """
    cache, request, cells = site_request.cache, site_request.request, site_request.cells
    whole = not any(cell.excluded for cell in cells)
    names = {
        metric.name: groups_name(request.groups_of(metric))
        for metric in request.metrics
        if whole and metric.name in ESTIMATED
    }
    wanted = {(cell, metric, groups) for metric, groups in names.items() for cell in cells}
    kept = cache.estimates(site_request.site) if wanted else {}
    lacking = wanted - kept.keys()
    found = {key[:2]: kept[key] for key in wanted - lacking}
    if rest := [metric for metric in request.metrics if lacking or metric.name not in names]:
        found |= _computed(replace(site_request, request=replace(request, metrics=rest)), workers)
    if lacking:
        cache.keep_estimates(site_request.site, {key: found[key[:2]] for key in lacking})
    return found


def _computed(site_request: SiteRequest, workers: Workers) -> Estimates:
    """`site_estimates` from spectra and values, cached or computed."""
    view, cache, site = site_request.view, site_request.cache, site_request.site
    cells, request = site_request.cells, site_request.request
    of_spectra, of_rows = (request.of(*kinds).cells(cells) for kinds in (SPECTRAL_KINDS, ("rows",)))
    demands = {
        cell: replace(Demand.of(metrics), replicate=cell not in cells)
        for cell, metrics in of_spectra.items()
    }
    replicates = [cell for cell, demand in demands.items() if demand.replicate]
    summaries = cache.summaries(site, replicates) if of_spectra else {}
    values = cache.values(site) if of_rows else {}
    missing = {
        cell: replace(demand, leading=bool(demand.solved) and _is_compared(site_request, cell))
        for cell, demand in demands.items()
        if not demand.met_by(summaries.get(cell))
    }
    absent = {
        cell: uncached
        for cell, metrics in of_rows.items()
        if (uncached := [metric for metric in metrics if (cell, metric.name) not in values])
    }
    reader = SiteReader(view.run, site, view.lengths)
    rows = RowValues(reader, absent, workers) if absent else None
    if new := site_summaries(reader, missing, workers, rows):
        summaries |= {c: s.joined(summaries[c]) if c in summaries else s for c, s in new.items()}
        cache.keep_summaries(site, new)
    if rows and (made := rows.finish()):
        values |= made
        cache.keep_values(site, made)
    values |= {
        (cell, metric.name): summaries[cell].value(metric)
        for cell, metrics in of_spectra.items()
        for metric in metrics
    }
    width = view.run.site(site).width
    bounds = {cell: rank_bound(n_tokens(view.lengths, cell), width) for cell in cells}
    return dict(with_errors(values, cells, request.of(*SPECTRAL_KINDS, "rows"), bounds))


def _is_compared(of: SiteRequest, cell: Cell) -> bool:
    """Whether `diff` takes the leading eigenvectors of `cell` by default: of the whole context, and
    without each group at the deepest site. Solved here, they need no second read and no products.
    """
    run = of.view.run
    by_default = of.site == run.activation_sites[-1] or not cell.excluded
    return of.request.compared and by_default and cell.prefix == run.plan.context


def with_errors(
    values: Values,
    cells: Collection[Cell],
    request: Request,
    bounds: Mapping[Cell, int] = MappingProxyType({}),
) -> Iterator[tuple[tuple[Cell, str], Estimate]]:
    """Each cell and metric with value and error; the error comes from the values of its parts.

    bounds: min(N, d) of each cell: no interval of a number of dimensions ends above it.
    """
    for metric in request.metrics:
        for cell in cells:
            parts = [values[part, metric.name] for part in cell.parts(request.groups_of(metric))]
            value = values[cell, metric.name]
            if metric.of_log:
                estimate = jackknife_of_log(value, parts, metric.limits[0])
            else:
                low, high = metric.limits
                if metric.unit == "dimensions" and cell in bounds:
                    high = max(value, bounds[cell])
                estimate = jackknife(value, parts, (low, high))
            yield (cell, metric.name), estimate
