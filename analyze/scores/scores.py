"""Benchmark scores: from files into a store, and from a store into its database.

What a store keeps is what a file says. Which run a name means is asked anew at each build, since
runs come and go; only what the user said (`--match`) is kept with the scores.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from textwrap import wrap
from typing import Final

import polars as pl
import pyarrow as pa

from lpp.analyze.questions import ScoreSettings, Unit
from lpp.analyze.runs.keys import Url
from lpp.analyze.scores.item_table import Prompts, join_items, prompts_of
from lpp.analyze.scores.matching import Fit, match_names, match_scores, run_names, runs_of
from lpp.analyze.scores.published import SOURCE as PUBLISHED
from lpp.analyze.scores.read_inspect import INSPECT
from lpp.analyze.scores.read_lm_eval import LM_EVAL
from lpp.analyze.scores.read_score_table import LEADERBOARD
from lpp.analyze.scores.score_files import ScoreFile, read_files
from lpp.analyze.scores.score_table import check_scores
from lpp.sql.schema import arrow_schema
from lpp.store import Run, Store, add_scores, open_store, read_scores
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.run_names import find_run
from lpp.store.objects.place import Place
from lpp.store.scores.items import ITEMS_FILE, items_file
from lpp.store.scores.scores import SCORES_SCHEMA
from lpp.store.terminal.escaping import escape

_SHOWN: Final = 20
_SIZE_RATIO: Final = 1.5
"""A source's size and a run's may differ by embeddings, not by more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedItems:
    """The items of one log."""

    model: str
    task: str
    folder: PurePosixPath
    """Folder of its file of items, inside its source."""
    table: pa.Table
    """`ITEMS_SCHEMA`"""
    n_joined: int
    """Items with a prompt for each answer whose text is known."""
    note: str
    """What the user has to know of them."""

    @property
    def run(self) -> str | None:
        """The run whose prompts they are joined to; None where no text is a prompt of a run."""
        return self.table["run"][0].as_py() if len(self.table) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What became of the files."""

    source: str
    written: bool
    """False: the store held exactly this already."""
    table: pa.Table
    """`lpp.store.scores.scores.SCORES_SCHEMA`"""
    missing: Sequence[str]
    """Scores of the chosen models that the files do not have."""
    fits: Mapping[str, Fit]
    """By model's name."""
    doubts: Sequence[str]
    """Matches whose sizes differ."""
    items: Sequence[JoinedItems] = ()
    """The joined items of each log that was requested."""


def add_benchmarks(
    url: Url, files: Sequence[Path], settings: ScoreSettings = ScoreSettings()
) -> Added:
    """Read `files` as one source and put it into the store at `url`, whole or not at all.

    files: result files of lm-eval, logs of inspect, or folders of them, or tables. With
    `settings.items`, the items of an inspect log, or of the logs that lie beside lm-eval's result
    files, are joined to the prompts of runs.

    Raises InputError for files that hold no scores, hold them twice, in two units, of two kinds
    or of one task run in two ways, and for names in `matches` that are not there; ConflictError
    where the source holds other scores and they are not to be replaced.
    """
    store = open_store(url)
    if settings.group is not None and not settings.items:
        raise InputError("--group names a field of items, and none are asked for. Add --items.")
    wanted = _any_of(settings.benchmarks)
    read = read_files(files, wanted)
    kind = _one_kind(read)
    all_scores = pl.concat(file.scores for file in read)
    models = filter(_any_of(settings.models), all_scores["model"].unique(maintain_order=True))
    all_scores = all_scores.filter(pl.col("model").is_in([*models]))
    scores = all_scores.filter(pl.col("value").is_not_null())
    check_scores(scores, _unit(kind, settings.unit))
    runs = run_names(store.runs.values())
    run_ids = _run_ids(settings.matches, scores, store)
    name = settings.source or _default_source(kind, read)
    if name == PUBLISHED:
        raise InputError(
            f"the source {name!r} is the published reference of this package. "
            "Give another name: --source NAME."
        )
    if scores.is_empty():
        raise InputError(
            "there is no score in what was asked for. Check the files and the patterns of "
            "--model and --benchmark.",
            kind=ErrorKind.NOT_FOUND,
        )
    run = pl.col("model").replace_strict(run_ids, default=None, return_dtype=pl.String)
    rows = scores.with_columns(run=run, source=pl.lit(name)).select(SCORES_SCHEMA.names)
    table = rows.to_arrow().cast(SCORES_SCHEMA)
    joined: list[JoinedItems] = []
    if settings.items:
        candidates = {
            model: [run_ids[model]]
            if model in run_ids
            else [run.id for run in runs_of(model, runs)]
            for model in scores["model"].unique()
        }
        logged = [f for f in read if not f.scores.is_empty() and f.model in candidates]
        joined = _join_logs(logged, store, name, candidates, wanted=wanted, group=settings.group)
    copies = dict(file.copy for file in read)
    copies |= _items_files(joined)
    written = add_scores(store.path, name, table, copies, replace=settings.replace)
    fits = match_names(scores["model"], runs, run_ids)
    gaps = all_scores.filter(pl.col("value").is_null())
    return Added(
        source=name,
        written=written,
        table=table,
        missing=[f"{x} of {m} ({at})" for x, m, at in gaps[["benchmark", "model", "where"]].rows()],
        fits=fits,
        doubts=_doubts(all_scores, fits, store),
        items=joined,
    )


def _any_of(patterns: Sequence[str]) -> Callable[[str], bool]:
    return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)


def _one_kind(files: Sequence[ScoreFile]) -> str:
    """The kind of `files`, of those that have a score or lack one that was asked for."""
    kinds = {file.name: str(file.scores["kind"][0]) for file in files if len(file.scores)}
    first = next(iter(kinds), "")
    for name, kind in kinds.items():
        if kind != kinds[first]:
            raise InputError(
                f"{first} is of the kind {kinds[first]}, {name} of the kind {kind}: they "
                "score differently. Add them as two sources."
            )
    return kinds.get(first, "")


def _unit(kind: str, unit: Unit) -> Unit:
    """The unit of scores in files of a kind. unit: the requested one."""
    if kind in (LM_EVAL, INSPECT):
        return "other"  # perplexities beside accuracies; lm-eval's reader checks what it can
    return "percent" if kind == LEADERBOARD and unit == "auto" else unit


def _default_source(kind: str, files: Sequence[ScoreFile]) -> str:
    if kind in (LM_EVAL, INSPECT):
        return kind
    if len(files) > 1:
        raise InputError(
            f"{len(files)} tables as one source need a name: --source NAME. "
            "Tables that were scored differently are added one by one."
        )
    return Path(files[0].name).stem


def _run_ids(matches: Mapping[str, str], scores: pl.DataFrame, store: Store) -> dict[str, str]:
    """Run ids by model name. matches: the user's ids or names by model name."""
    models = sorted(scores["model"].unique())
    for name, run in matches.items():
        if name not in models:
            known = escape(", ".join(models[:8]), keep="")
            raise InputError(
                f"--match {name}={run}: the files name no model {name!r}; they name {known}.",
                kind=ErrorKind.NOT_FOUND,
            )
    plans = store.plans if matches else {}
    return {name: find_run(run, plans, f"--match {name}={run}") for name, run in matches.items()}


def _doubts(scores: pl.DataFrame, fits: Mapping[str, Fit], store: Store) -> list[str]:
    """The models whose size in the files is another than that of the run that they fit."""
    doubts = []
    sizes = scores.filter(pl.col("size_b") > 0).unique("model", keep="last", maintain_order=True)
    for name, billions in sizes.select("model", "size_b").rows():
        run = fits[name].run if name in fits else None
        if run is not None:
            here = store.runs[run].plan.model.n_parameters / 1e9
            if not 1 / _SIZE_RATIO < here / billions < _SIZE_RATIO:
                doubts.append(f"{name}: {billions:g} billion parameters there, {here:.3g} in {run}")
    return doubts


def _join_logs(
    files: Iterable[ScoreFile],
    store: Store,
    source: str,
    candidates: Mapping[str, Sequence[str]],
    *,
    wanted: Callable[[str], bool],
    group: str | None,
) -> list[JoinedItems]:
    """The items of every log of a `wanted` task, joined to prompts.

    candidates: model -> runs that its items may be joined to: the one that was said, else every run
    of the model. Raises InputError where there is no log, and for a field that no item has.
    """
    prompts: dict[str, Prompts] = {}
    joined = []
    for file in files:
        for task, items, note in file.items(wanted, group):
            runs = candidates[file.model]
            prompts |= {run: prompts_of(store.runs[run]) for run in runs if run not in prompts}
            held = {run: prompts[run] for run in runs}
            table, n_joined = join_items(items, held, source=source, model=file.model)
            joined.append(
                JoinedItems(
                    model=file.model,
                    task=task,
                    folder=file.items_folder,
                    table=table,
                    n_joined=n_joined,
                    note=note,
                )
            )
    if not joined:
        raise InputError(
            "--items: there is no log of items, samples_<task>_<time>.jsonl, beside the result "
            "files. `lm_eval --log_samples --output_path DIR ...` writes them.",
            kind=ErrorKind.NOT_FOUND,
        )
    tables = [log.table["item_group"] for log in joined]
    if group is not None and all(column.null_count == len(column) for column in tables):
        raise InputError(
            f"--group {group}: no document of {', '.join(log.task for log in joined)} has this "
            "field. Name another, or none.",
            kind=ErrorKind.NOT_FOUND,
        )
    return joined


def _items_files(joined: Iterable[JoinedItems]) -> dict[str, bytes]:
    """The files of items of a source, by name: one for each folder."""
    tables: dict[PurePosixPath, list[pa.Table]] = {}
    for log in joined:
        tables.setdefault(log.folder, []).append(log.table)
    return {
        (folder / ITEMS_FILE).as_posix(): items_file(pa.concat_tables(parts))
        for folder, parts in tables.items()
    }


def benchmarks_table(root: Place, runs: Iterable[Run]) -> pa.Table:
    """The database's table `benchmarks`: every score in the store, and which of all its `runs` it
    fits.
    """
    scores = match_scores(pl.DataFrame(read_scores(root)), run_names(runs))
    schema = arrow_schema("benchmarks")
    return scores.with_columns(run="fit").select(schema.names).to_arrow().cast(schema)


def summary(url: Url) -> list[str]:
    """What the store at `url` holds, source by source, as lines of at most 80 columns."""
    store = open_store(url)
    scores = match_scores(pl.DataFrame(read_scores(store.path)), run_names(store.runs.values()))
    lines = []
    for (source,), rows in scores.group_by("source", maintain_order=True):
        benchmarks = sorted(rows["benchmark"].unique())
        lines.append(
            f"{source} ({rows['kind'][0]}): {len(rows)} scores, {rows['model'].n_unique()} models, "
            f"{len(benchmarks)} benchmarks"
        )
        lines += wrap(", ".join(benchmarks), 78, initial_indent="  ", subsequent_indent="  ")[:3]
        fits = rows.unique(["model", "run"], maintain_order=True)
        for row in fits.head(_SHOWN).iter_rows(named=True):
            lines.append(f"    {row['model']} -> {row['fit'] or row['match_note']}")
        if len(fits) > _SHOWN:
            lines.append(f"    and {len(fits) - _SHOWN} more: table benchmarks, column run")
    return lines
