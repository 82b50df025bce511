"""Questions about the runs of a store, each as one answer.

A question takes the store, its settings and a `Progress`. It selects runs and sites once, computes,
puts the numbers into the database of the store, and gives the page. What is left out, and why the
database could not be written, are lines for `Progress.warn`.
"""

from typing import Final

import polars as pl

from lpp.analyze.engine.executor import Executor
from lpp.analyze.pages.reply import Reply, reply
from lpp.analyze.pages.words import Code
from lpp.analyze.questions import (
    CkaSettings,
    CorrelateSettings,
    LayersSettings,
    ProfileSettings,
)
from lpp.analyze.runs.keys import Url
from lpp.analyze.runs.named import names_of
from lpp.analyze.runs.select import select_runs, select_sites
from lpp.analyze.scores.correlations import correlate, why_unranked
from lpp.analyze.studies import cka_table
from lpp.analyze.studies import layers as layer_ranks
from lpp.analyze.studies.pages.cka_page import cka_page
from lpp.analyze.studies.pages.correlations_page import correlations_page
from lpp.analyze.studies.pages.layers_page import layers_page
from lpp.analyze.studies.pages.profile_page import EXTREMES, profile_page
from lpp.analyze.tables.analysis import analyze
from lpp.analyze.tables.database import (
    held_profiles,
    kept,
    profiles_and_differences,
    put,
    refresh_database,
)
from lpp.store import open_store
from lpp.store.progress import Progress

FINAL: Final = "final"


def profile_answer(
    store: Url, settings: ProfileSettings, final_alone: bool, progress: Progress, executor: Executor
) -> Reply:
    """The profiles of `store`. final_alone: the page shows `final`, if it is among the sites.

    The database gets minima of the entropy and maxima of the ranks. Progress, executor and errors
    are those of `analyze`.
    """
    analysis = analyze(store, settings, progress=progress, executor=executor)
    aggregates = settings.entropy_by, settings.rank_by
    shown = extremes = analysis.profiles(drop_prefixes=settings.drop_prefixes)
    tables, of_runs, query = analysis.frames(extremes), dict[str, pl.DataFrame](), ""
    if aggregates == EXTREMES:
        of_runs, query = profiles_and_differences(tables, analysis.base)
    else:
        shown = analysis.profiles(
            entropy=settings.entropy_by,
            ranks=settings.rank_by,
            drop_prefixes=settings.drop_prefixes,
        )
    if final_alone and FINAL in shown["site"]:
        shown = shown.filter(site=FINAL)
    database = kept(
        "The profiles are", lambda: put(store, tables, keep=(), read=analysis.views), progress
    )
    note = (f"{held_profiles(store)} are in ", Code(f"{database}"), ".") if database else ()
    first = pl.col("run") == analysis.base
    page = profile_page(
        f"{store}",
        tables | of_runs,
        pl.concat([shown.filter(first), shown.filter(~first)]),
        analysis.names,
        aggregates=aggregates,
        query=query,
        database_note=note,
    )
    return reply(page, settings, stored=database)


def layers_answer(
    store: Url, settings: LayersSettings, progress: Progress, executor: Executor
) -> Reply:
    """Ranks by depth. Progress, executor and errors are those of `layers`."""
    layers = layer_ranks.layers(store, settings, progress=progress, executor=executor)
    database = kept("The layers are", lambda: layer_ranks.write_layers(store, layers), progress)
    return reply(
        layers_page(
            f"{store}",
            layers.layers_frame(),
            layers.hourglass_frame(),
            layers.left_out,
            layers.names,
            experts=layers.expert_load_frame(),
        ),
        settings,
        stored=database,
    )


def cka_answer(
    store: Url, settings: CkaSettings, jobs: int | None, memory: int, progress: Progress
) -> Reply:
    """Linear CKA of each run's sites. jobs, memory: as for `cka_rows`. progress: one for each pair.

    Raises InputError if no run has the sites and tokens of `settings`, FormatError for altered
    bytes.
    """
    selection = cka_table.selection_of(settings)
    selected, incomplete = select_runs(store, selection)
    work, reasons = cka_table.plan(selected, select_sites(selected, selection), settings)
    for line in (*incomplete, *reasons):
        progress.warn(line)
    passes = 1 if settings.skip_first else 2
    progress.expect(passes * sum(len(part.pairs) for part in work))
    rows = cka_table.compute(work, jobs=jobs, memory=memory, progress=progress)
    database = kept("The CKA is", lambda: cka_table.write_cka(store, rows), progress)
    names = names_of(view.run for view in selected)
    return reply(cka_page(f"{store}", rows, names), settings, stored=database)


def correlations_answer(store: Url, settings: CorrelateSettings, progress: Progress) -> Reply:
    """Profiles against benchmark scores. An error where no test could be made; others as of
    `correlate`.
    """
    correlations = correlate(store, settings)
    opened = open_store(store)
    root, names = opened.path, opened.names
    written = kept("The correlations are", lambda: refresh_database(root, correlations), progress)
    page = correlations_page(f"{store}", correlations, names)
    return reply(page, settings, stored=written, error=why_unranked(correlations))
