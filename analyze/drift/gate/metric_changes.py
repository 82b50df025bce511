"""Metrics of one run as numbers of two runs: the difference B - A, with its paired error.

Both values are those that `profile` gives, over the compared tokens, and are kept for each run in
the same files (`engine.cache`). The jackknife leaves the same group of prompts out of both runs.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.site_numbers import own_cell
from lpp.analyze.drift.summaries import Summary
from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Request, SiteRequest
from lpp.analyze.engine.executor import Executor
from lpp.analyze.engine.token_estimates import token_estimates
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.numerics.jackknife import Estimate, jackknife_difference
from lpp.analyze.runs.cells import Cell, n_tokens
from lpp.analyze.runs.keys import RunView


def site_changes(
    pair: Pair,
    cell: Cell,
    metrics: Sequence[Metric[Any]],
    sites: Mapping[str, bool],
    executor: Executor,
) -> list[dict[str, Estimate]]:
    """B - A of `metrics` at each of `sites`, by name; the value is None where a run has no number.

    metrics: of the rows. sites: whether a site's numbers get an error. Rows of different widths are
    not compared. Raises FormatError for altered bytes.
    """
    names = [metric.name for metric in metrics]

    def of_run(view: RunView) -> list[dict[str, Estimate]]:
        run_cell = own_cell(pair, view, cell)
        cache = Cache(pair.a.run.directory.root, view.run)
        requests = [
            SiteRequest(
                view,
                cache,
                site,
                [run_cell],
                Request(metrics=metrics, errors=names if sure else (), groups=pair.groups),
            )
            for site, sure in sites.items()
        ]
        return [
            {name: values[run_cell, name] for name in names}
            for values in executor.estimates(requests)
        ]

    of_a, of_b = (of_run(view) for view in (pair.a, pair.b))
    equal = [pair.a.run.site(site).width == pair.b.run.site(site).width for site in sites]
    return [
        {
            name: jackknife_difference(b[name], a[name]) if alike else Estimate(None)
            for name in names
        }
        for a, b, alike in zip(of_a, of_b, equal, strict=True)
    ]


def prediction_changes(
    pair: Pair, cell: Cell, metrics: Collection[Metric[Any]]
) -> dict[str, Summary]:
    """B - A of `metrics` of token statistics, with its error; no mean where a run has no number.

    One scan of the token statistics of each run. Raises FormatError for altered bytes.
    """
    names = [metric.name for metric in metrics]
    request = Request(metrics=[*metrics], errors=names, groups=pair.groups)
    runs = [(view, own_cell(pair, view, cell)) for view in (pair.a, pair.b) if metrics]
    numbers = [(token_estimates(view, [run_cell], request), run_cell) for view, run_cell in runs]
    changes = {}
    for name in names:
        a, b = (estimates[run_cell, name] for estimates, run_cell in numbers)
        change = jackknife_difference(b, a)
        changes[name] = Summary(
            mean=change.value,
            stderr=change.stderr,
            ci_low=change.ci_low,
            ci_high=change.ci_high,
            groups=len(change.groups),
            n_tokens=0 if change.value is None else n_tokens(pair.lengths, cell),
        )
    return changes
