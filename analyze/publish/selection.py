"""What of a store is published, and the rows of its tables.

With the tokenizer, token ids give the texts. Hidden states give them too: `embed` has one row for
each token of the vocabulary, and texts can be recovered from later states (Nikolaou et al. 2025,
arXiv 2510.15511). The format keeps token ids beside every row. So without texts no row, no moment
and no statistic of a token is published, only tables that have no row for a prompt.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from lpp.analyze.questions import PublishSettings
from lpp.sql.database.captured import prompts_frame, run_row
from lpp.sql.database.catalogue import refuse_outdated
from lpp.sql.database.connect import reading, recorded_in
from lpp.sql.place import store_root
from lpp.sql.schema import TABLES
from lpp.sql.schema.columns import RUN_COLUMNS
from lpp.sql.schema.ddl import identifier, literal
from lpp.sql.schema.tables import arrow_schema
from lpp.store.errors import InputError
from lpp.store.exchange.copy_runs import fields_of, plan_of_copy
from lpp.store.format.run_names import matching_runs
from lpp.store.runs.read import Run
from lpp.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

PROMPTLESS: Final = tuple(
    name
    for name, table in TABLES.items()
    if not {"prompt_id", "token_id"} & {column.name for column in table.columns}
)
"""Tables without a row for a prompt or a token: what is published without texts."""

_SITES: Final = ("site", "other_site", "site_b", "probe")
"""Columns that name a site. Those of probes may name a control."""
_LABELS: Final = ("label", "label_b")
"""Columns that name a field of prompts, or FIELD=VALUE."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What is published of a store."""

    runs: Sequence[Run]
    ids: Mapping[str, str]
    """Id in the publication of each run, by its id in the store."""
    sites: frozenset[str]
    left_out: frozenset[str]
    """Sites of the runs that are not published."""
    tables: tuple[str, ...]
    fields: tuple[str, ...]
    """Labels of prompts that are published."""
    every_run: bool
    """Whether the database has no other run."""


def select(store: Store, names: Sequence[str], settings: PublishSettings) -> Chosen:
    """What these settings publish of the runs that `names` mean; of all without names.

    Raises InputError for settings that do not fit the store or each other.
    """
    texts = settings.with_texts
    if texts and not (settings.licence and settings.source):
        raise InputError(
            "--with-texts publishes texts of others: say under which licence, and where they come "
            "from, with --licence and --source."
        )
    if not texts and (settings.fields or settings.source):
        raise InputError("--fields and --source are of texts: add --with-texts, or leave them out.")
    runs = [store.runs[run] for run in matching_runs(names, store.plans)] or [*store.runs.values()]
    known = {site: None for run in runs for site in run.sites}
    sites = {s for s in known if any(fnmatchcase(s, pattern) for pattern in settings.sites)}
    fields = {name for run in runs for name in fields_of(run)} if settings.fields else set()
    allowed = tuple(TABLES) if texts else PROMPTLESS
    wanted = allowed if settings.tables is None else settings.tables
    if not runs:
        raise InputError(f"{store.path} holds no run: publish the store that it was captured into.")
    if not sites:
        raise InputError(f"--sites: the runs have {', '.join(known)}.")
    if unknown := sorted({*settings.fields} - fields):
        held = ", ".join(sorted(fields)) or "none"
        raise InputError(f"--fields: no prompt has {', '.join(unknown)}; there are: {held}.")
    if unknown := sorted({*wanted} - {*allowed}):
        more = "" if texts else " Tables of single prompts are published with --with-texts alone."
        raise InputError(f"--tables: {', '.join(unknown)} is not among {', '.join(allowed)}.{more}")
    of_copy = {run.id: plan_of_copy(run, sites, settings.fields) for run in runs if texts}
    ids = {run.id: of_copy[run.id].run_id if texts else run.id for run in runs}
    return Chosen(
        runs=runs,
        ids=ids,
        sites=frozenset(sites),
        left_out=frozenset(known.keys() - sites),
        tables=tuple(name for name in allowed if name in (*wanted, "runs")),
        fields=tuple(settings.fields),
        every_run=recorded_in(store.path).keys() <= ids.keys(),
    )


def read_tables(url: str, chosen: Chosen, copies: Sequence[Run]) -> "dict[str, pa.Table]":
    """The rows of the chosen tables, with the ids that runs have in the publication.

    copies: the published runs; empty without texts. Raises InputError(NOT_FOUND) if nothing was
    profiled, or another release made a chosen table, FormatError for a damaged database.
    """
    import pyarrow as pa

    refuse_outdated(store_root(url), chosen.tables, whole=True)

    with reading(url) as connection:
        tables = {
            name: connection.sql(_selected(name, chosen)).to_arrow_table()
            for name in chosen.tables
            if not (copies and name == "prompts")
        }
    if copies:
        kernels = {row["run"]: row["kernel"] for row in tables["runs"].to_pylist()}
        rows = [run_row(run, kernels.get(run.id)) for run in copies]
        tables["runs"] = pa.Table.from_pylist(rows, schema=arrow_schema("runs"))
        if "prompts" in chosen.tables:
            tables["prompts"] = prompts_frame(copies).to_arrow()
    return tables


def _selected(name: str, chosen: Chosen) -> str:
    """SQL for the published rows of a table."""
    columns = [column.name for column in TABLES[name].columns]
    of_runs = [column for column in RUN_COLUMNS if column in columns]
    conditions = ["true", *(f"{column} IN ({_list(chosen.ids)})" for column in of_runs)]
    if not of_runs and not chosen.every_run and name != "published":
        conditions.append("false")  # numbers of several runs, some of which are not published
    if chosen.left_out:
        without = f"NOT IN ({_list(chosen.left_out)})"
        conditions += [f"coalesce({site}, '') {without}" for site in _SITES if site in columns]
    for label in (label for label in _LABELS if label in columns):
        named = _named(label, chosen)
        no_value = "false" if "class" in columns else f"strpos(coalesce({label}, ''), '=') = 0"
        conditions.append(f"({no_value} OR {named})")
    changed = [f"{_renamed(column, chosen)} AS {column}" for column in of_runs]
    if "models" in columns:
        changed.append(f"list_transform(models, lambda m: {_renamed('m', chosen)}) AS models")
    if "classes" in columns:  # values of the label; of items they are right and wrong
        numbered = "list_transform(classes, lambda c, k: 'class ' || k)"
        told = f"task <> '' OR {_named('label', chosen)}"
        changed.append(f"CASE WHEN {told} THEN classes ELSE {numbered} END AS classes")
    replaced = f" REPLACE ({', '.join(changed)})" if changed else ""
    return f"SELECT *{replaced} FROM {identifier(name)} WHERE {' AND '.join(conditions)}"


def _named(label: str, chosen: Chosen) -> str:
    """Whether the field of the column `label` is published."""
    return f"split_part(coalesce({label}, ''), '=', 1) IN ({_list(chosen.fields)})"


def _list(texts: Iterable[str]) -> str:
    """Quoted texts for IN, which takes no empty list."""
    return ", ".join(map(literal, texts)) or "NULL"


def _renamed(column: str, chosen: Chosen) -> str:
    """The id in the publication of the run that `column` names."""
    cases = [f"WHEN {literal(a)} THEN {literal(b)}" for a, b in chosen.ids.items()]
    return f"CASE {column} {' '.join(cases)} ELSE {column} END"
