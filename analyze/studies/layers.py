"""Ranks through the depth of a model: one row per run and site, and the hourglass score.

All numbers are of one prefix, the whole context: a maximum over prefixes would compare layers at
different prefixes. If a run has attention sinks, which are a few first positions with huge norms,
they alone make its participation ratio near 1 at most depths. Then there are two rows per site: for
all positions, and for those after the sinks (`first_position`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import polars as pl

from lpp.analyze.engine.executor import LOCAL, Executor
from lpp.analyze.metrics.registry import METRICS, SINKS
from lpp.analyze.numerics.hourglass import Layer, hourglass
from lpp.analyze.quantities.flags import flags_of, flags_of_any
from lpp.analyze.quantities.tables import BESIDE, frame_schema
from lpp.analyze.questions import ErrorSites, LayersSettings, Selection
from lpp.analyze.runs.cells import GROUPS
from lpp.analyze.runs.comparable import prompt_sets, with_prompt_sets
from lpp.analyze.runs.given import resolved
from lpp.analyze.runs.keys import RunView, Url, views
from lpp.analyze.runs.named import names_of
from lpp.analyze.runs.select import n_sites, select_among, select_sites, shortfalls
from lpp.analyze.studies.experts import expert_loads
from lpp.analyze.studies.layers_tables import (
    EXPERT_LOAD,
    HOURGLASS,
    LAYERS,
    RANKS,
    SCORED,
    SETTING,
    SURE,
    after_sinks,
)
from lpp.analyze.tables import spectra
from lpp.analyze.tables.analysis import site_requests
from lpp.analyze.tables.database import put
from lpp.analyze.tables.facts import with_lossy
from lpp.analyze.tables.result import TableResult, frame_method
from lpp.store.objects.place import Place
from lpp.store.progress import SILENT, Progress

_NUMBERS: Final = (*RANKS, "top_share")

_SCHEMA: Final = frame_schema(LAYERS.columns)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Layers(TableResult):
    """Layer-wise ranks of some runs."""

    tables: Mapping[str, pl.DataFrame]
    """`layers`: a row per run, setting and site, in depth order; `hourglass`: a row per run and
    setting; `expert_load`: a row per run, setting and router."""
    left_out: tuple[str, ...]
    """A line, with the reason, for each run that has less than what was requested."""
    names: Mapping[str, str]
    """Names by run id."""

    def frames(self) -> Mapping[str, pl.DataFrame]:
        """`tables`."""
        return self.tables

    layers_frame = frame_method(LAYERS.name)
    hourglass_frame = frame_method(HOURGLASS.name)
    expert_load_frame = frame_method(EXPERT_LOAD.name)


def layers(
    url: Url,
    settings: LayersSettings = LayersSettings(),
    *,
    progress: Progress = SILENT,
    executor: Executor = LOCAL,
) -> Layers:
    """Layer-wise ranks of the store at `url`, for the whole of each selected context.

    Each site is read once. If first position 0 is selected (the default) and a run has sinks, its
    sites are read a second time, for the rows `after_sinks`. Errors cost one more read and, for
    effective ranks, eleven eigensolves instead of one. progress: advances by one for each site of
    each run, twice if a run with sinks would have a second curve, and gets the lines of `left_out`.
    executor: computes the metrics.

    Raises InputError for a selection that no run has, FormatError for altered bytes.
    """
    all_views = views(url)
    settings = resolved(all_views, settings)
    selected, incomplete = select_among(url, all_views, settings)
    sites = select_sites(selected, settings, routers=True)
    lines = (*incomplete, *shortfalls(selected, settings))
    for line in lines:
        progress.warn(line)
    progress.expect(n_sites(selected, sites) * (2 if 0 in settings.skip_first else 1))
    frame = _ranks(selected, _keys(selected, settings, sites), settings.errors, executor, progress)
    names, beyond = names_of(view.run for view in selected), []
    for view in selected:
        end = after_sinks(frame.filter(run=view.run.id))
        if end not in (0, *settings.skip_first):
            beyond.append(_keys([view], replace(settings, skip_first=(end,)), sites))
        elif 0 in settings.skip_first:
            progress.advance(n_sites([view], sites))
            progress.note(f"no second curve for {names[view.run.id]}")
    if beyond:
        after = _ranks(selected, pl.concat(beyond), settings.errors, executor, progress)
        frame = pl.concat([frame, after]).sort("run", maintain_order=True)
    sets = prompt_sets(all_views, frame["n_prompts"].unique())
    frame = with_lossy(with_prompt_sets(frame, sets, beside=BESIDE), selected)
    frame = _with_flags(frame)
    blocks = {view.run.id: view.run.plan.depth for view in selected}
    scores = pl.DataFrame(list(_scores(frame, blocks)), schema=frame_schema(HOURGLASS.columns))
    loads = (load for v in selected for load in expert_loads(v, settings) if load["site"] in sites)
    experts = pl.DataFrame([*loads], schema=frame_schema(EXPERT_LOAD.columns))
    tables = {LAYERS.name: frame, HOURGLASS.name: scores, EXPERT_LOAD.name: experts}
    return Layers(tables=tables, left_out=lines, names=names)


def _keys(selected: Sequence[RunView], selection: Selection, sites: Sequence[str]) -> pl.DataFrame:
    """Keys of the spectra table at the whole of each context."""
    whole = pl.col("prefix") == pl.col("context")
    return spectra.all_keys(selected, selection).filter(pl.col("site").is_in(sites), whole)


def _ranks(
    selected: Sequence[RunView],
    keys: pl.DataFrame,
    errors: ErrorSites,
    executor: Executor,
    progress: Progress,
) -> pl.DataFrame:
    """The rows of `keys` with their numbers."""
    names = names_of(view.run for view in selected)
    frames = [pl.DataFrame(schema={**keys.schema, **_SCHEMA, "short_prompts": pl.Int32})]
    metrics = [METRICS[name] for name in _NUMBERS] + spectra.sink_metrics()
    request = site_requests(keys, metrics, errors, {view.run.id: GROUPS for view in selected})
    for view, of_site, estimates in spectra.site_numbers(selected, keys, request, executor):
        short = [view.short(*cell) for cell in of_site.select("n_prompts", "prefix").rows()]
        frames.append(
            of_site.with_columns(
                *spectra.numbers([(of_site, estimates)], (*_NUMBERS, *SINKS), errors=SURE),
                pl.Series("short_prompts", short, dtype=pl.Int32),
                relative_depth=pl.col("depth") / view.run.plan.depth,
            )
        )
        progress.advance()
        progress.note(f"{of_site.item(0, 'site')} of {names[view.run.id]}")
    bound = pl.col("rank_bound").clip(1)
    frame = pl.concat(frames, how="diagonal_relaxed").with_columns(
        *((pl.col(name) / bound).alias(f"{name}_norm") for name in RANKS),
        *(pl.col(name).cast(pl.Int32) for name in SINKS),
    )
    return frame.drop("flags")


def _with_flags(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of the table `layers`: `frame` with flags."""
    facts = frame.with_columns(
        ratio=pl.col("participation_ratio"),
        missing_ranks=pl.col("participation_ratio").is_null().cast(pl.UInt32),
        normalised=pl.lit(value=True),
    )
    several = (
        facts.with_columns(value=pl.col(name), stderr=pl.col(f"{name}_stderr")) for name in SURE
    )
    return frame.with_columns(flags=flags_of_any(several)).select(_SCHEMA.names())


def _scores(frame: pl.DataFrame, blocks: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for key, rows in frame.group_by(SETTING, maintain_order=True):
        yield {
            **dict(zip(SETTING, key, strict=True)),
            "metric": SCORED,
            "n_quarantined": rows.item(0, "n_quarantined"),
            **asdict(hourglass(_paper_layers(rows), blocks[str(key[0])])),
            "flags": rows["flags"].explode().drop_nulls().unique().sort().to_list(),
        }


def _paper_layers(rows: pl.DataFrame) -> list[Layer]:
    """Layers 1 to B of one run; `final`, if captured, replaces the last block.

    A layer counts as collapsed if the participation ratio of the same matrix is.
    """
    marks = flags_of(rows.select(ratio=METRICS[SCORED].ratio))
    layers = rows.select("depth", SCORED, collapsed=marks.list.contains("collapsed"))
    # `final` has the depth of block.B and comes after it
    return list({row[0]: Layer(*row) for row in layers.iter_rows() if row[0] > 0}.values())


def write_layers(url: Url, layers: Layers) -> Place:
    """Merge the tables `layers`, `hourglass` and `expert_load` into the database of the store."""
    return put(url, layers.frames())
