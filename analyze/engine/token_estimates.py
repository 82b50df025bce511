"""Metrics that need the token statistics of a run, from one scan of its shards."""

from collections.abc import Collection, Mapping

import polars as pl

from lpp.analyze.engine.estimates import Estimates, Request, with_errors
from lpp.analyze.metrics.token_sums import (
    LeastMeanCollector,
    LeastMeans,
    RowCollector,
    RowSumCollector,
    RowSums,
    TokenCollector,
)
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.rows.token_files import TOKEN_COLUMNS, read_tokens


def token_estimates(view: RunView, cells: Collection[Cell], request: Request) -> Estimates:
    """Metrics that need the token statistics of a run: one scan, a shard at a time.

    Only sums are kept, or every row for a metric that is not a function of sums.
    """
    of_tokens = request.of("tokens")
    wanted = of_tokens.cells(cells)
    if not wanted:
        return {}
    collectors = _collectors(of_tokens, list(wanted))
    most = max(cell.n_prompts for cell in wanted)
    longest = max(cell.prefix for cell in wanted)
    inside = (pl.col("prompt_id") < most) & (pl.col("position") < longest)
    inside &= ~pl.col("prompt_id").is_in(view.excluded.tolist())
    names = {"prompt_id", "position"}
    for metric in of_tokens.metrics:
        names |= set(TOKEN_COLUMNS if metric.sums is None else metric.sums.columns)
    for shard, file in zip(view.run.shards, view.run.tokens_files(), strict=True):
        if shard.first_prompt < most:
            tokens = read_tokens(file, [n for n in TOKEN_COLUMNS if n in names]).filter(inside)
            for collector in {id(c): c for c in collectors.values()}.values():
                collector.add(tokens)
    values = {
        (cell, metric.name): collectors[metric.name].value(cell, metric.name)
        for cell, metrics in wanted.items()
        for metric in metrics
    }
    return dict(with_errors(values, cells, of_tokens))


def _collectors(request: Request, cells: list[Cell]) -> Mapping[str, TokenCollector]:
    """The collector of each metric's sums, by name."""
    of = {metric.name: metric.sums for metric in request.metrics}
    by_row = {name: sums for name, sums in of.items() if isinstance(sums, RowSums)}
    by_prompt = {name: sums for name, sums in of.items() if isinstance(sums, LeastMeans)}
    rest = {metric.name: metric.compute for metric in request.metrics if metric.sums is None}
    of_rows = [RowSumCollector(cells, by_row, of_next) for of_next in (False, True)]
    collectors: dict[str, TokenCollector] = {n: of_rows[sums.of_next] for n, sums in by_row.items()}
    collectors |= dict.fromkeys(by_prompt, LeastMeanCollector(cells, by_prompt))
    return collectors | dict.fromkeys(rest, RowCollector(rest))
