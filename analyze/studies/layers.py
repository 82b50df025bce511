"""Ranks through the depth of a model: one row per run and site, and the hourglass score.

The numbers are those of one prefix, the whole context: a maximum over prefixes would compare
layers at different ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import polars as pl

from lpp.analyze.engine.estimates import Estimates, Request
from lpp.analyze.engine.executor import LOCAL, Executor
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.numerics.hourglass import Layer, hourglass
from lpp.analyze.numerics.jackknife import Estimate, error_names
from lpp.analyze.runs.cells import GROUPS, Cell
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.runs.moments_held import needing_rows
from lpp.analyze.runs.select import Selection, select_runs, select_sites, shortfalls
from lpp.analyze.runs.texts import text_sets, texts_of
from lpp.analyze.tables import flags, spectra
from lpp.analyze.tables.database import frame_schema, put
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.objects.place import Place

FAMILIES: Final = ("", "zscore_", "robust_")
"""What the ranks are of: the states as they are, and their outlier-resistant variants."""

RANKS: Final = tuple(f"{f}{rank}" for f in FAMILIES for rank in flags.RANKS)
"""Computed of every layer, in dimensions, and what the hourglass score is computed on."""

SURE: Final = tuple(name for name in RANKS if not METRICS[name].no_error)
"""Those that the jackknife can tell the error of."""

SCHEMA: Final = frame_schema("layers")
"""One row per run, context, number of prompts and site."""

SCORES_SCHEMA: Final = frame_schema("hourglass")
"""One row per run, context, number of prompts and rank."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Layer-wise ranks of some runs."""

    layers: pl.DataFrame
    """One row per run, setting and site, in depth order, as in the `layers` table."""
    scores: pl.DataFrame
    """One row per run, setting and rank, as in the `hourglass` table."""
    left_out: tuple[str, ...]
    """Runs that hold less than what was asked for, and why: one line each."""


def layers(
    url: Url,
    selection: Selection,
    *,
    errors: bool = False,
    progress: Progress = SILENT,
    executor: Executor = LOCAL,
) -> Layers:
    """Layer-wise ranks of the store at `url`, at the whole of each context that is asked for.

    Each site is read once. errors: with the jackknife, which costs one more read and, for the
    effective ranks, eleven solves instead of one. progress: one for each run and site.
    executor: who computes.

    Raises InputError for what no run holds, FormatError for altered bytes.
    """
    views, incomplete = select_runs(url, selection)
    sites = select_sites(views, selection)
    keys = spectra.all_keys(views, selection.contexts, selection.prompts)
    keys = keys.filter(pl.col("site").is_in(sites), pl.col("prefix") == pl.col("context"))
    metrics = [METRICS[name] for name in (*RANKS, "top_share")]
    request = Request(metrics=metrics, errors=SURE if errors else (), groups=GROUPS)
    rows: list[dict[str, Any]] = []
    parts = list(spectra.by_site(url, keys))
    work = [spectra.work(view, cache, of_site, request) for view, cache, of_site in parts]
    for (view, _, of_site), found in zip(parts, executor.estimates(work), strict=True):
        rows += [_row(view, key, found) for key in of_site.iter_rows(named=True)]
        progress.advance()
        progress.note(f"{view.run.id} {of_site.item(0, 'site')}")
    frame = _with_different_prompts(pl.DataFrame(rows, schema=SCHEMA), views)
    blocks = {view.run.id: view.run.plan.model.n_blocks for view in views}
    scores = pl.DataFrame(list(_scores(frame, blocks)), schema=SCORES_SCHEMA)
    lines = (*incomplete, *shortfalls(views, selection), *needing_rows(views, metrics))
    return Layers(frame, scores, lines)


def _row(view: RunView, key: Mapping[str, Any], found: Estimates) -> dict[str, Any]:
    """One layer: `key` of the spectra table, numbers from `found`."""
    cell = Cell(key["n_prompts"], key["prefix"])
    here = {name: found.get((cell, name), Estimate(None)) for name in (*RANKS, "top_share")}
    bound = max(key["rank_bound"], 1)
    values: dict[str, Any] = {"top_share": here["top_share"].value}
    for name in RANKS:
        value = here[name].value
        values |= {name: value, f"{name}_norm": None if value is None else value / bound}
    for name in SURE:
        values |= dict(zip(error_names(name), here[name][1:4], strict=True))
    return {
        **{name: key[name] for name in SCHEMA.names() if name in key},
        "relative_depth": key["depth"] / view.run.plan.model.n_blocks,
        **values,
        "flags": _flags(view, key, here),
    }


def _flags(view: RunView, key: Mapping[str, Any], here: Mapping[str, Estimate]) -> list[str]:
    """Flags of one layer, sorted: those that concern ranks at one prefix."""
    short = view.short(key["n_prompts"], key["context"])
    some = [here[name][:2] for name in SURE]
    found = {
        "collapsed": flags.is_collapsed(here["participation_ratio"].value),
        "normaliser": key["n_tokens"] < key["dim"],
        "not_finite": here["participation_ratio"].value is None,
        "quarantined": view.quarantined(key["n_prompts"]) > 0,
        "short_text": short > flags.SHORT_SHARE * key["n_prompts"],
        **flags.of_errors(some, key["n_prompts"]),
    }
    return sorted(name for name, holds in found.items() if holds)


def _with_different_prompts(frame: pl.DataFrame, views: Sequence[RunView]) -> pl.DataFrame:
    """Flag the layers of a context and number of prompts at which runs read different texts."""
    texts = texts_of(views)
    mixed = set()
    for (context, size), rows in frame.group_by("context", "n_prompts"):
        here = {run: texts[run] for run in rows["run"].unique(maintain_order=True)}
        if len({*text_sets(here, int(size)).values()}) > 1:
            mixed.add((context, size))
    marks = [
        sorted([*found, "different_prompts"]) if (context, size) in mixed else found
        for context, size, found in frame.select("context", "n_prompts", "flags").iter_rows()
    ]
    return frame.with_columns(pl.Series("flags", marks, dtype=SCHEMA["flags"]))


def _scores(found: pl.DataFrame, blocks: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    keys = ("run", "context", "n_prompts")
    for (run, context, size), rows in found.group_by(keys, maintain_order=True):
        for metric in RANKS:
            score = hourglass(_paper_layers(rows, metric), blocks[str(run)])
            yield {
                **{"run": run, "context": context, "n_prompts": size, "metric": metric},
                "n_quarantined": rows.item(0, "n_quarantined"),
                **asdict(score),
            }


def _paper_layers(rows: pl.DataFrame, metric: str) -> list[Layer]:
    """Layers 1 to B of one run: `final` stands for the last, where it is there.

    A layer is collapsed when the participation ratio of the same matrix is.
    """
    ratio = metric.replace("effective_rank", "participation_ratio")
    by_depth = {}
    for row in rows.iter_rows(named=True):  # `final` comes after block.B, and takes its place
        if row["depth"] > 0:
            by_depth[row["depth"]] = Layer(
                row["depth"], row[metric], flags.is_collapsed(row[ratio])
            )
    return list(by_depth.values())


def write(url: Url, found: Layers) -> Place:
    """Put the tables `layers` and `hourglass` into the database of the store at `url`."""
    return put(url, {"layers": found.layers, "hourglass": found.scores})
