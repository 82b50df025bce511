"""What a correlation is made of: one profile per model, all at one setting, and their scores.

Profiles at another context, another number of prompts or another site are other quantities. So
one setting is chosen. A model without a profile there is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from lpp.analyze.questions import CorrelateSettings
from lpp.analyze.runs.comparable import prompt_sets
from lpp.analyze.runs.keys import Url, views
from lpp.analyze.runs.select import matching
from lpp.analyze.scores.matching import RunName, match_scores, run_names
from lpp.store import Store, open_store, read_scores
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.run_names import runs_fitting

_ERRORS: Final = ("_stderr", "_ci_low", "_ci_high")

ProfileRow = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The profiles of a correlation, and the setting they share."""

    profiles: Mapping[str, ProfileRow]
    """By run: the metrics, `context`, `n_prompts`, `flagged`, `n_parameters`, `prompt_set`."""
    names: Sequence[RunName]
    """What names of models in scores are matched with."""
    context: int
    n_prompts: int
    evaluations: frozenset[str]
    """Runs of evaluations, but for those in `profiles`: their scores are of the model."""


def take_sample(url: Url, settings: CorrelateSettings) -> Sample:
    """The profiles that `settings` ask for, out of the database of the store at `url`.

    Raises InputError for a database of another release, a metric it does not have, a pattern that
    fits no run, and where no run has the setting.
    """
    store = open_store(url)
    runs, here = _tables(store, settings)
    by_id = {name.id: name for name in run_names(store.runs.values())}
    evaluations = frozenset(run for run, name in by_id.items() if name.evaluation)
    ids = runs["run"].to_list()
    short = [run for name in settings.runs for run in runs_fitting(name, store.plans) or [name]]
    selected = matching("profiled run", short, ids, option="RUN")
    corpora = matching("corpus", settings.corpora, list(dict.fromkeys(runs["corpus"])))
    chosen = [
        run
        for run in runs.iter_rows(named=True)
        if run["run"] in selected
        and run["corpus"] in corpora
        and (run["untrained_seed"] is None or settings.untrained)
    ]
    here = here.filter(pl.col("run").is_in([run["run"] for run in chosen]))
    context, n_prompts = _common(here, settings)
    at = {row["run"]: row for row in here.filter(context=context, n_prompts=n_prompts).to_dicts()}
    sets = dict(prompt_sets(views(url), [n_prompts]).select("run", "prompt_set").iter_rows())
    profiles: dict[str, ProfileRow] = {}
    names = []
    for run in chosen:
        name = run["run"]
        if name in at:
            read = sets.get(name, run["prompt_set"])
            profiles[name] = {**at[name], "prompt_set": read, "n_parameters": run["n_parameters"]}
            # the database may hold runs that the store no longer has
            untrained = run["untrained_seed"] is not None
            gone = RunName(id=name, model=run["model"], untrained=untrained)
            names.append(by_id.get(name, gone))
    return Sample(
        profiles=profiles,
        names=names,
        context=context,
        n_prompts=n_prompts,
        evaluations=evaluations - {*profiles},
    )


def _tables(store: Store, settings: CorrelateSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`runs`, and `site_profiles` at the site of `settings`, as far as they are needed."""
    from lpp.sql import TABLES
    from lpp.sql.database.catalogue import refuse_outdated
    from lpp.sql.database.connect import reading
    from lpp.sql.database.outdated import warn_of_doubts

    root = store.path
    refuse_outdated(root)
    numbers = [
        column.name
        for column in TABLES["site_profiles"].columns
        if column.type == "DOUBLE" and not column.name.endswith(_ERRORS)
    ]
    if unknown := [name for name in settings.metrics if name not in numbers]:
        raise InputError(
            f"no profile metric {', '.join(unknown)}; there is {', '.join(numbers)}.",
            kind=ErrorKind.NOT_FOUND,
        )
    of_runs = "run, model, untrained_seed, n_parameters, corpus, prompt_set, n_prompts"
    columns = ", ".join(["run", "context", "n_prompts", *dict.fromkeys(settings.metrics)])
    with reading(root) as connection:
        warn_of_doubts(connection, root)
        runs = connection.sql(f"SELECT {of_runs} FROM runs ORDER BY run").to_arrow_table()
        profiles = connection.sql(
            f"SELECT {columns}, len(flags) > 0 AS flagged FROM site_profiles "
            "WHERE first_position = 0 AND site = ?",
            params=[settings.site],
        ).to_arrow_table()
    return pl.DataFrame(runs), pl.DataFrame(profiles)


def _common(here: pl.DataFrame, settings: CorrelateSettings) -> tuple[int, int]:
    """(context, prompts) that most runs have; of equals, the longest, then the most prompts."""
    pair = ["context", "n_prompts"]
    setting = {"context": settings.context, "n_prompts": settings.prompts}
    fitting = here.filter(**{name: value for name, value in setting.items() if value is not None})
    if len(fitting):
        most = fitting.group_by(pair).len().sort("len", *pair).select(pair).row(-1)
        return int(most[0]), int(most[1])
    held = here.select(pair).unique().sort(pair).rows()
    listed = ", ".join(f"context {context} with {n} prompts" for context, n in held)
    raise InputError(
        f"no profile at {settings.site} with the context and prompts asked for; there is "
        f"{listed or 'none'}. Compute others: lpp-analyze profile STORE --context ... --sites ...",
        kind=ErrorKind.NOT_FOUND,
    )


def scores_by_source(
    url: Url, settings: CorrelateSettings, sample: Sample
) -> Iterator[tuple[str, pl.DataFrame]]:
    """The scores of each source that `settings` ask for, with the runs of `sample` that they fit.

    Raises InputError where there are no scores, or a pattern fits no source.
    """
    scores = pl.DataFrame(read_scores(open_store(url).path))
    if scores.is_empty():
        raise InputError(
            f"{url} holds no benchmark scores yet. Add some: lpp-analyze benchmarks add {url} "
            "FILE...",
            kind=ErrorKind.NOT_FOUND,
        )
    there = list(dict.fromkeys(scores["source"]))
    for source in matching("source", settings.sources, there):
        of_model = pl.col("run").is_in([*sample.evaluations])
        stated = pl.when(~of_model).then("run").alias("run")
        yield source, match_scores(scores.filter(source=source).with_columns(stated), sample.names)
