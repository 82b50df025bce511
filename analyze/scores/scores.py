"""Benchmark scores: from files into a store, and from a store into its database.

What a store keeps is what a file says. Which run a name means is asked anew at each build, since
runs come and go; only what the user said (`--match`) is kept with the scores.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from textwrap import wrap
from typing import Final, cast

import polars as pl
import pyarrow as pa

from lpp.analyze.runs.keys import Url
from lpp.analyze.scores.join_items import JoinedItems, items_files, join_logs
from lpp.analyze.scores.matching import Fit, RunName, match_names, runs_of
from lpp.analyze.scores.published import SOURCE as PUBLISHED
from lpp.analyze.scores.read_inspect import KIND as INSPECT
from lpp.analyze.scores.read_item_log import ResultFile
from lpp.analyze.scores.read_lm_eval import KIND as LM_EVAL
from lpp.analyze.scores.read_score_table import KIND as LEADERBOARD_KIND
from lpp.analyze.scores.score_files import named_files, read_file
from lpp.analyze.scores.score_rows import (
    Missing,
    Score,
    ScoreFile,
    Unit,
    check_alike,
    check_once,
    check_storable,
    check_units,
)
from lpp.sql.schema import arrow_schema
from lpp.store import Store, add_scores, open_store, read_scores
from lpp.store.commands.escaping import escape
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.find_runs import find_run
from lpp.store.items import is_evaluation
from lpp.store.objects.place import Place
from lpp.store.scores import SCORES_SCHEMA

_SHOWN: Final = 20
_SIZE_RATIO: Final = 1.5
"""A source's size and a run's may differ by embeddings, not by more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What became of the files."""

    source: str
    written: bool
    """False: the store held exactly this already."""
    table: pa.Table
    """`lpp.store.scores.SCORES_SCHEMA`"""
    missing: Sequence[Missing]
    """Scores of the chosen models that the files do not have."""
    fits: Mapping[str, Fit]
    """By model's name."""
    doubts: Sequence[str]
    """Matches whose sizes differ."""
    items: Sequence[JoinedItems] = ()
    """Of each log of items that was asked for."""


def add_benchmarks(
    url: Url,
    files: Sequence[Path],
    *,
    source: str | None = None,
    said: Mapping[str, str] | None = None,
    models: Sequence[str] = ("*",),
    benchmarks: Sequence[str] = ("*",),
    unit: Unit = "auto",
    items: bool = False,
    group: str | None = None,
    replace: bool = False,
) -> Added:
    """Read `files` as one source and put it into the store at `url`, whole or not at all.

    files: result files of lm-eval, logs of inspect, or folders of them, or tables. source: its
    name; `lm-eval`, `inspect`, or the name of the one table, by default. said: id or short name of
    a run, by model name. models, benchmarks: patterns of what to take. unit: a leaderboard's scores
    are percentages unless told. items: join the items of an inspect log, or of the logs that lie
    beside lm-eval's result files, to the prompts of runs. group: field of an item's document that
    groups items.

    Raises InputError for files that hold no scores, hold them twice, in two units, of two kinds
    or of one task run in two ways, and for names in `said` that are not there; ConflictError
    where the source holds other scores and `replace` is not set.
    """
    store = open_store(url)
    if group is not None and not items:
        raise InputError(
            "--group names a field of items, and none are asked for. Add --items.",
            kind=ErrorKind.INVALID_VALUE,
        )
    paths = dict(named_files(files))
    wanted = _any_of(benchmarks)
    data: dict[str, bytes] = {}
    read: list[ScoreFile] = []
    for name, path in paths.items():
        file, (kept, content) = read_file(name, path, wanted)
        read.append(file)
        data[kept] = content
    kind = _one_kind(read, list(paths))
    chosen = _any_of(models)
    scores = [score for file in read for score in file.scores if chosen(score.model)]
    check_storable(scores)
    check_once(scores)
    check_alike(scores)
    check_units(scores, _unit(kind, unit))
    runs = _names_of(store)
    said = _run_ids(said or {}, scores, store)
    name = source or _default_source(kind, list(paths))
    if name == PUBLISHED:
        raise InputError(
            f"the source {name!r} is the published reference of this package. "
            "Give another name: --source NAME.",
            kind=ErrorKind.INVALID_VALUE,
        )
    table = _table(scores, kind, name, said)
    joined: list[JoinedItems] = []
    if items:
        results = [
            ResultFile(name=where, path=paths[where], model=file.scores[0].model, kind=file.kind)
            for where, file in zip(paths, read, strict=True)
            if file.kind in (LM_EVAL, INSPECT) and file.scores and chosen(file.scores[0].model)
        ]
        held = candidates(scores, runs, said)
        joined = join_logs(results, store, name, held, wanted, group=group)
        data |= items_files(joined)
    written = add_scores(store.path, name, table, data, replace=replace)
    fits = match_names(dict.fromkeys(s.model for s in scores), runs, said)
    sizes = {r.id: r.plan.model.n_parameters for r in store.runs.values()}
    return Added(
        source=name,
        written=written,
        table=table,
        missing=[gap for file in read for gap in file.missing if chosen(gap.model)],
        fits=fits,
        doubts=[line for file in read for line in _doubts(file, fits, sizes)],
        items=joined,
    )


def benchmarks_table(root: Place) -> pa.Table:
    """The database's table `benchmarks`: every score in the store, and the run that it fits."""
    scores = pl.DataFrame(read_scores(root)).to_dicts()
    names = _names_of(open_store(root))
    fits = {source: fits_of(rows, names) for source, rows in by_source(scores).items()}
    rows = []
    for score in scores:
        fit = fits[score["source"]][score["model"], score["run"]]
        rows.append({**score, "run": fit.run, "matched": fit.how, "match_note": fit.note})
    return pa.Table.from_pylist(rows, schema=arrow_schema("benchmarks"))


def by_source(scores: Iterable[Mapping[str, object]]) -> dict[str, list[Mapping[str, object]]]:
    """Rows of scores, by source, in order."""
    found: dict[str, list[Mapping[str, object]]] = {}
    for score in scores:
        found.setdefault(str(score["source"]), []).append(score)
    return found


def fits_of(
    rows: Sequence[Mapping[str, object]], runs: Sequence[RunName]
) -> dict[tuple[str, str | None], Fit]:
    """What the models of one source fit, by model and `run` of a row, which is what its writer
    said. Tasks of one source may be of several runs of a model, each its own evaluation.
    """
    keys = [(str(row["model"]), cast("str | None", row["run"])) for row in rows]
    said = {model: run for model, run in keys if run is not None}
    fits = match_names([model for model, _ in keys], runs, said)
    return {
        (model, run): (
            fits[model]
            if run in (None, said.get(model))
            else match_names([model], runs, {model: str(run)})[model]
        )
        for model, run in dict.fromkeys(keys)
    }


def candidates(
    scores: Iterable[Score], runs: Sequence[RunName], said: Mapping[str, str]
) -> dict[str, list[str]]:
    """Model -> the runs whose prompts its items may be joined to: the one that was said, else every
    run of the model.
    """
    return {
        model: [said[model]] if model in said else [run.id for run in runs_of(model, runs)]
        for model in dict.fromkeys(score.model for score in scores)
    }


def _any_of(patterns: Sequence[str]) -> Callable[[str], bool]:
    return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)


def _one_kind(files: Sequence[ScoreFile], names: Sequence[str]) -> str:
    first = files[0]
    for file, name in zip(files, names, strict=True):
        if file.kind != first.kind:
            raise InputError(
                f"{names[0]} is of the kind {first.kind}, {name} of the kind {file.kind}: they "
                "score differently. Add them as two sources.",
                kind=ErrorKind.INVALID_VALUE,
            )
    return first.kind


def _unit(kind: str, asked: Unit) -> Unit:
    """What the scores of a kind of file are counted in."""
    if kind in (LM_EVAL, INSPECT):
        return "other"  # perplexities beside accuracies; lm-eval's reader checks what it can
    return "percent" if kind == LEADERBOARD_KIND and asked == "auto" else asked


def _default_source(kind: str, names: Sequence[str]) -> str:
    if kind in (LM_EVAL, INSPECT):
        return kind
    if len(names) > 1:
        raise InputError(
            f"{len(names)} tables as one source need a name: --source NAME. "
            "Tables that were scored differently are added one by one.",
            kind=ErrorKind.INVALID_VALUE,
        )
    return Path(names[0]).stem


def _run_ids(said: Mapping[str, str], scores: Iterable[Score], store: Store) -> dict[str, str]:
    """Run id by model name, of what the user said: ids or short names by model name."""
    models = {score.model for score in scores}
    for name, run in said.items():
        if name not in models:
            known = escape(", ".join(sorted(models)[:8]), keep="")
            raise InputError(
                f"--match {name}={run}: the files name no model {name!r}; they name {known}.",
                kind=ErrorKind.NOT_FOUND,
            )
    plans = store.plans if said else {}
    return {name: find_run(run, plans, f"--match {name}={run}") for name, run in said.items()}


def _table(scores: Sequence[Score], kind: str, source: str, said: Mapping[str, str]) -> pa.Table:
    if not scores:
        raise InputError(
            "there is no score in what was asked for. Look into the files, and at the patterns "
            "of --model and --benchmark.",
            kind=ErrorKind.NOT_FOUND,
        )
    rows = [
        {
            "model": score.model,
            "run": said.get(score.model),
            "benchmark": score.benchmark,
            "metric": score.metric,
            "value": score.value,
            "stderr": score.stderr,
            "n": score.n,
            "source": source,
            "kind": kind,
        }
        for score in scores
    ]
    return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)


def _doubts(
    file: ScoreFile, fits: Mapping[str, Fit], parameters: Mapping[str, int]
) -> Iterator[str]:
    for name, billions in file.sizes.items():
        run = fits[name].run if name in fits else None
        if run is not None and billions > 0:
            ratio = parameters[run] / (billions * 1e9)
            if not 1 / _SIZE_RATIO < ratio < _SIZE_RATIO:
                held = parameters[run] / 1e9
                yield f"{name}: {billions:g} billion parameters there, {held:.3g} in {run}"


def summary(url: Url) -> list[str]:
    """What the store at `url` holds, source by source, as lines of at most 80 columns."""
    store = open_store(url)
    names = _names_of(store)
    lines = []
    for source, rows in by_source(read_scores(store.path).to_pylist()).items():
        fits = fits_of(rows, names)
        models = {name for name, _ in fits}
        benchmarks = sorted({str(row["benchmark"]) for row in rows})
        head = f"{source} ({rows[0]['kind']}): {len(rows)} scores, {len(models)} models, "
        lines.append(f"{head}{len(benchmarks)} benchmarks")
        lines += wrap(", ".join(benchmarks), 78, initial_indent="  ", subsequent_indent="  ")[:3]
        for (name, _), fit in list(fits.items())[:_SHOWN]:
            lines.append(f"    {name} -> {fit.run or fit.note}")
        if len(fits) > _SHOWN:
            lines.append(f"    and {len(fits) - _SHOWN} more: table benchmarks, column run")
    return lines


def _names_of(store: Store) -> list[RunName]:
    return [
        RunName(
            id=run.id,
            model=run.plan.model.id,
            untrained=run.plan.model.untrained_seed is not None,
            evaluation=is_evaluation(run.plan),
            weights=run.plan.model.weights,
        )
        for run in store.runs.values()
    ]
