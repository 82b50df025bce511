"""Sensitivity: how profiles, and the order of models, change with the settings.

The settings are context, number of prompts, corpus (of several runs of a model) and site. All are
computed from one store: each site of each run is read once, and no model runs.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from lpp.analyze.engine.executor import LOCAL, Executor
from lpp.analyze.quantities.tables import frame_schema
from lpp.analyze.questions import Selection, SensitivitySettings
from lpp.analyze.runs.keys import RunView, Url, views
from lpp.analyze.runs.named import names_of
from lpp.analyze.runs.select import n_sites, select_among, shortfalls
from lpp.analyze.studies import grid
from lpp.analyze.studies.agreement import Compared, Setting, Value, compare
from lpp.analyze.studies.saving import Saving, paper_tokens
from lpp.analyze.tables.database import put
from lpp.sql.schema.columns import Column, Merging, Table, number_columns
from lpp.store.format.documents import canonical_json
from lpp.store.objects.place import Place
from lpp.store.progress import SILENT, Progress

AGREEMENT: Final = Table(
    "agreement",
    "whether two settings put the models in the same order",
    "lpp-analyze sensitivity STORE",
    ("metric", "setting_a", "setting_b"),
    (
        Column("metric", "VARCHAR", "as in sensitivity"),
        Column("setting_a", "VARCHAR", "corpus, site, context, n_prompts, aggregation"),
        Column("setting_b", "VARCHAR", "the other setting, in the same form"),
        Column("differ", "VARCHAR[]", "names of what differs between the settings"),
        Column("n_models", "INTEGER", "models with a value in both", "models"),
        *number_columns("kendall_tau", "tau-b: ties corrected for", "-1 to 1"),
        *number_columns("spearman_rho", "mean ranks for ties", "-1 to 1"),
        Column("flags", "VARCHAR[]", "flags of any value used; empty when none"),
        Column("reason", "VARCHAR", "why there is no coefficient; null: there is one"),
    ),
    merging=Merging(covers=("n_models",)),
)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Profiles over the grid of settings, and the agreement of their orders."""

    values: pl.DataFrame
    """One row per number, as in the `sensitivity` table."""
    compared: tuple[Compared, ...]
    """Rank agreement of every comparable pair of settings."""
    savings: tuple[Saving, ...]
    """Tokens of each run, by the paper's procedure and by one capture."""
    left_out: tuple[str, ...]
    """A line, with the reason, for everything that is left out."""
    names: Mapping[str, str]
    """Short names by run id."""

    @property
    def agreement(self) -> pl.DataFrame:
        """`compared` as rows of the `agreement` table."""
        rows = [
            (
                *(c.metric, str(c.a), str(c.b), list(c.differ)),
                *(c.agreement.n_models, c.agreement.kendall_tau, c.agreement.spearman_rho),
                *(list(c.flags), c.agreement.reason),
            )
            for c in self.compared
        ]
        return pl.DataFrame(rows, schema=frame_schema(AGREEMENT.columns), orient="row")


def sensitivity(
    url: Url,
    settings: SensitivitySettings = SensitivitySettings(),
    *,
    progress: Progress = SILENT,
    executor: Executor = LOCAL,
) -> Sensitivity:
    """Profiles of the store at `url` over the grid of `settings`, and their rank agreement.

    Default contexts and numbers of prompts: those of {50, 100, 200, 500} and {10, 100, 500, 1000}
    that some run has, and the largest that every run has. A rank without
    an error gets the flag `small_sample` only for a single prompt; entropies always have errors.
    progress: advances by one for each run and site, and gets the lines of `left_out`. executor:
    computes the metrics of sites.

    Raises InputError for a selection that no run has, FormatError for altered bytes.
    """
    all_views, selection = views(url), selection_of(settings)
    selected, incomplete = select_among(url, all_views, selection)
    axes = grid.grid_axes(selected, selection)
    progress.expect(n_sites(selected, axes.sites))
    values = grid.values(
        selected,
        axes,
        comparable_among=all_views,
        errors=settings.errors,
        progress=progress,
        executor=executor,
    )
    models, doubles = representatives(selected)
    left_out = (*incomplete, *shortfalls(selected, Selection()), *_absences(values), *doubles)
    for line in left_out:
        progress.warn(line)
    return Sensitivity(
        values=values,
        compared=tuple(_compared(values, models)),
        savings=tuple(_saving(view, axes) for view in selected),
        left_out=left_out,
        names=names_of(selected),
    )


def selection_of(settings: SensitivitySettings) -> Selection:
    """The part of a store that a grid covers."""
    return Selection(
        runs=settings.runs,
        sites=settings.sites,
        contexts=settings.contexts,
        prompts=settings.prompts,
    )


def representatives(selected: Iterable[RunView]) -> tuple[dict[str, str], list[str]]:
    """(run -> key of its model, a line for each run that is left out of the order of models).

    A model has one run per corpus, the same at every setting: the one with the most tokens, or the
    first of these by id. Random weights, another revision, other weights or another quantization
    make another model.
    """
    groups: dict[tuple[str, str], list[RunView]] = defaultdict(list)
    for view in selected:
        groups[_model_key(view), view.run.plan.corpus.name].append(view)
    names, lines = {}, []
    for (model, corpus), group in groups.items():
        group.sort(key=lambda view: (-int(view.lengths.sum()), view.run.id))
        names[group[0].run.id] = model
        lines += [
            f"{view.run.id}: takes no part in rank agreement, same model and corpus ({corpus}) as "
            f"{group[0].run.id}; choose with --run"
            for view in group[1:]
        ]
    return names, lines


def _model_key(view: RunView) -> str:
    plan = view.run.plan
    model = plan.model
    parts = [model.id, model.revision, model.weights, model.untrained_seed]
    return canonical_json([*parts, plan.compute.quantization]).decode()


def _compared(values: pl.DataFrame, names: Mapping[str, str]) -> Iterable[Compared]:
    by_metric: dict[str, dict[Setting, dict[str, Value]]] = {}
    models = sorted({*names.values()})
    held = values.filter(pl.col("left_out").is_null() & pl.col("run").is_in([*names]))
    for row in held.iter_rows(named=True):
        setting = Setting(*(row[field] for field in Setting._fields))
        of_metric = by_metric.setdefault(row["metric"], {})
        number = Value(row["value"], tuple(row["flags"]))
        of_metric.setdefault(setting, {})[names[row["run"]]] = number
    for metric, of_metric in by_metric.items():
        yield from compare(metric, of_metric, models)


def _saving(view: RunView, axes: grid.Axes) -> Saving:
    schedules = [view.prefixes(context) for context in view.contexts(axes.contexts)]
    theirs = paper_tokens(view.lengths, schedules, view.sizes(axes.sizes))
    return Saving(view.run.id, theirs, int(view.lengths.sum()))


def _absences(values: pl.DataFrame) -> list[str]:
    """One line per run and reason, with the settings concerned."""
    absent = values.filter(pl.col("left_out").is_not_null())
    lines = []
    for (run, reason), rows in absent.group_by("run", "left_out", maintain_order=True):
        at = "; ".join(
            f"{name} {', '.join(map(str, rows[column].unique(maintain_order=True)))}"
            for column, name in (("site", "site"), ("context", "context"), ("n_prompts", "prompts"))
        )
        lines.append(f"{run}: {reason}, so nothing at {at}")
    return lines


def write_sensitivity(url: Url, sensitivity: Sensitivity) -> Place:
    """Merge the tables `sensitivity` and `agreement` into the database of the store at `url`."""
    return put(url, {"sensitivity": sensitivity.values, "agreement": sensitivity.agreement})
