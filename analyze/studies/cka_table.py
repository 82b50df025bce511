"""The table `cka`: choose the pairs, compute them, write them into the database."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import polars as pl

from lpp.analyze.quantities.flags import flags_of
from lpp.analyze.questions import CkaSettings, Selection
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.comparable import prompt_sets, with_prompt_sets
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.runs.named import names_of
from lpp.analyze.runs.select import listed
from lpp.analyze.studies.cka import CKA, MEMORY, cka_rows, pairs_of
from lpp.analyze.tables.database import put
from lpp.store.errors import ErrorKind, InputError
from lpp.store.objects.place import Place
from lpp.store.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class RunPairs:
    """Pairs of sites of one run, and the tokens to use."""

    view: RunView
    pairs: Sequence[tuple[str, str]]
    cell: Cell


def selection_of(settings: CkaSettings) -> Selection:
    """The part of a store whose sites are compared."""
    prompts = None if settings.prompts is None else (settings.prompts,)
    return Selection(runs=settings.runs, sites=settings.sites, prompts=prompts)


def plan(
    views: Sequence[RunView],
    sites: Collection[str],
    settings: CkaSettings = CkaSettings(),
) -> tuple[list[RunPairs], list[str]]:
    """(pairs to compute by run, a line for each run that is left out).

    views, sites: those that `settings` choose. Raises InputError if no run is left.
    """
    prefix, prompts, first_position = settings.prefix, settings.prompts, settings.skip_first
    work, reasons, options = [], [], set()
    names = names_of(view.run for view in views)
    for view in views:
        run = view.run
        sites_held = run.activation_sites
        pairs = pairs_of(
            [site for site in sites_held if site in sites], all_pairs=settings.all_pairs
        )
        why = ""
        if not pairs:
            option, why = "--sites", f"it holds one of the sites at most: {listed(sites_held)}"
        elif prefix is not None and prefix > run.plan.context:
            option, why = "--prefix", f"its context is {run.plan.context}"
        elif prompts is not None and prompts > run.n_prompts:
            option, why = "--prompts", f"it has {run.n_prompts} prompts"
        elif first_position >= (prefix or run.plan.context):
            option, why = "--skip-first", "no token is left"
        if why:
            options.add(option)
            reasons.append(f"{names[run.id]} is left out ({option}): {why}.")
        else:
            cell = Cell(
                prompts or run.n_prompts,
                prefix or run.plan.context,
                first_position=first_position,
            )
            work.append(RunPairs(view, pairs, cell))
    if not work:
        if len(sites) < 2:
            raise InputError(
                f"CKA compares two sites; --sites chooses {listed(sites)} alone. Name another site "
                "as well, such as --sites embed,final, or leave --sites out.",
                kind=ErrorKind.NOT_FOUND,
            )
        raise InputError(
            "\n".join(["no run is left.", *reasons, f"Change {' or '.join(sorted(options))}."]),
            kind=ErrorKind.NOT_FOUND,
        )
    return work, reasons


def compute(
    work: Sequence[RunPairs],
    *,
    jobs: int | None = None,
    memory: int = MEMORY,
    progress: Progress = SILENT,
) -> pl.DataFrame:
    """The rows of every part: columns of `CKA`. jobs, memory: as for `cka_rows`.

    A part from the first position on whose sites hold attention sinks has each pair a second time,
    without the sinks and one position more, as in `layers`. progress: two for each such pair.
    """
    names = names_of(part.view.run for part in work)

    def rows_of(part: RunPairs) -> pl.DataFrame:
        name = names[part.view.run.id]
        found = cka_rows(
            part.view, part.pairs, part.cell, jobs=jobs, memory=memory, progress=progress, name=name
        )
        return found.with_columns(
            *(pl.lit(count, pl.Int32).alias(name) for name, count in _counts(part).items()),
            lossy=pl.any_horizontal(pl.col("site", "other_site").is_in(_lossy_sites(part))),
        )

    frames = []
    for part in work:
        frames.append(rows_of(part))
        if part.cell.first_position:
            continue
        after = max(frames[-1]["sink_end"]) + 1
        if 1 < after < part.cell.prefix:
            frames.append(rows_of(replace(part, cell=part.cell._replace(first_position=after))))
        else:
            progress.advance(len(part.pairs))
    sizes = {part.cell.n_prompts for part in work}
    sets = prompt_sets((part.view for part in work), sizes)
    beside = ["first_position", "prefix", "n_prompts"]
    rows = with_prompt_sets(pl.concat(frames), sets, beside=beside)
    return rows.with_columns(flags_of(rows)).select(*(column.name for column in CKA.columns))


def _lossy_sites(part: RunPairs) -> list[str]:
    run = part.view.run
    return [site for site in run.sites if run.plan.is_lossy(site)]


def _counts(part: RunPairs) -> dict[str, int]:
    """Facts for the flags of one run's pairs, which depend only on the tokens.

    The other facts are in the rows: `ratio` (the smaller participation ratio of the two sites) and
    `n_sinks` (the greater count).
    """
    n_prompts, prefix = part.cell[:2]
    return {
        "n_quarantined": part.view.quarantined(n_prompts),
        "n_duplicates": part.view.duplicates(n_prompts),
        "short_prompts": part.view.short(n_prompts, prefix),
    }


def write_cka(url: Url, rows: pl.DataFrame) -> Place:
    """Merge `rows` into the table `cka` of the database; return the database's path."""
    return put(url, {"cka": rows})
