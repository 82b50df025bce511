"""Publish a store: a smaller store, its tables as Parquet, a card, the report and an index.

`card.json` is written first, so that a repeated command knows its own folder, and `index.json`
last, so that a reader at an address sees the whole.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from lpp.analyze.engine.cache import Cache
from lpp.analyze.pages.page import Origin
from lpp.analyze.pages.write import written
from lpp.analyze.publish.card import (
    CARD_KEY,
    README_KEY,
    REPORT_KEY,
    TABLES_KEY,
    card_document,
    card_json,
    card_text,
)
from lpp.analyze.publish.selection import read_tables, select
from lpp.analyze.questions import PublishSettings
from lpp.analyze.report.content import report
from lpp.sql.database.build import build
from lpp.sql.database.connect import reading
from lpp.sql.database.outdated import doubts
from lpp.sql.schema import TABLES
from lpp.sql.schema.ddl import identifier
from lpp.store import create_store, open_store, write_index
from lpp.store.errors import ConflictError, ErrorKind, InputError
from lpp.store.exchange.copy_runs import copy_run
from lpp.store.format.keys import DATABASE_KEY, ROOT_KEY, RUNS_KEY
from lpp.store.objects.copies import temporary_folder
from lpp.store.objects.owners import owner_of, staged_name
from lpp.store.objects.place import Place, place
from lpp.store.objects.protocol import Objects
from lpp.store.progress import SILENT, Progress
from lpp.store.root import enclosing_store, find_if_any
from lpp.store.runs.read import Run

_STORE: Final = "STORE"
"""Stands in the report and the card for the place where they lie."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a publication holds."""

    place: Place
    copies: Sequence[Run]
    """Runs with their rows; empty without texts."""
    tables: Mapping[str, int]
    """Rows of each table that has some."""


def publish(
    url: str,
    to: str,
    settings: PublishSettings | None = None,
    *,
    runs: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Published:
    """Publish the store at `url` in the folder, or the prefix of a bucket, `to`.

    runs: names; all by default. The same call completes what was stopped, and writes the same
    numbers again; DuckDB's file may have other bytes where it holds no row. Raises InputError for
    settings that do not fit, and where `to` holds something else or other runs, before anything is
    written; ConflictError(IN_USE) if another process publishes there; what `copy_run` and `report`
    raise.
    """
    settings = settings or PublishSettings()
    store = open_store(url)
    for line in doubts(store.path):
        progress.warn(line)
    chosen = select(store, runs, settings)
    tables = read_tables(url, chosen, ())  # a damaged one is told before anything is written
    texts = settings.with_texts
    root = _target(to, {*chosen.ids.values()} if texts else set())
    progress.expect(3 + sum(run.plan.n_shards for run in chosen.runs) * texts)
    with _alone(root):
        card = card_document(chosen, settings, title=root.place.name or "store")
        root.put(CARD_KEY, card_json(card))
        copies = []
        for run in chosen.runs if texts else ():
            copy = copy_run(run, root, chosen.sites, chosen.fields, progress=progress)
            _copy_kept(run, copy)
            copies.append(copy)
        if copies:
            tables = read_tables(url, chosen, copies)
        card["tables"] = _put_tables(root, tables, derive=bool(chosen.left_out))
        root.put(CARD_KEY, card_json(card))
        progress.advance()
        html, numbers, origin = _report(root)
        progress.advance()
        root.put(REPORT_KEY, html.encode())
        text = card_text(card, origin, copies[0] if copies else None, numbers)
        root.put(README_KEY, text.encode())
        write_index(root.place)
        progress.advance()
        return Published(place=root.place, copies=copies, tables=card["tables"])


@contextmanager
def _alone(root: Objects) -> Iterator[None]:
    """Keep other publications out of this place until the block ends. ConflictError(IN_USE) if one
    is under way: of two at once, one wins at most.
    """
    sign = staged_name("publish")
    root.sweep()  # signs of processes that ended
    root.put(sign, b"")
    try:
        for entry in root.entries():
            owner = owner_of(entry.name)
            if owner and owner.target == "publish" and entry.name != sign:
                raise ConflictError(
                    f"{root.place}: process {owner.pid} of {owner.host} publishes here. Wait until "
                    f"it ends, then repeat the command; if it was killed, remove {entry.name}.",
                    kind=ErrorKind.IN_USE,
                )
        yield
    finally:
        root.delete([sign])


def _report(root: Objects) -> tuple[str, str, Origin]:
    """The report of the publication for a browser and as Markdown, without its place, and what the
    report says of the origin of its numbers.
    """
    with temporary_folder() as folder:
        here = str(root.place)
        if isinstance(root.place, Path):  # a name that no page has to escape
            here = str(folder / "store")
            Path(here).symlink_to(root.place.absolute())
        page = replace(report(here, name=root.place.name), lacking=())
        pages = {"html": page, "md": replace(page, title="Numbers")}
        html, numbers = (written(p, form).replace(here, _STORE) for form, p in pages.items())
        return html, numbers, page.origin


def _target(to: str, runs: Collection[str]) -> Objects:
    """The place of the publication, made if it is new. InputError if it holds something else.

    runs: ids of the runs that it may hold.
    """
    root = find_if_any(to)
    if root is None:
        if outer := enclosing_store(place(to)):
            raise InputError(f"{to} is inside the store {outer}. Name a folder outside of it.")
        return create_store(to).objects
    names = [entry.name for entry in root.entries() if not entry.name.startswith(".")]
    if CARD_KEY not in names and names != [ROOT_KEY]:
        raise InputError(
            f"{root.place} is a store and no publication: it has no {CARD_KEY}. Name a new folder."
        )
    there = {entry.name for entry in root.entries(RUNS_KEY) if not entry.name.startswith(".")}
    if others := sorted(there - {*runs}):
        raise InputError(
            f"{root.place} publishes {', '.join(others)}, which this command leaves out, and no "
            "run is removed from a publication. Name a new folder, or remove this one."
        )
    return root


def _copy_kept(run: Run, copy: Run) -> None:
    """Copy the numbers of a run that the analysis cache holds: no reader needs rows for them."""
    old, new = (Cache(of_run.path.parent.parent, of_run) for of_run in (run, copy))
    for site in copy.sites:
        old.copy(site, new)


def _put_tables(root: Objects, tables: Mapping[str, pa.Table], *, derive: bool) -> dict[str, int]:
    """Write the database, and a Parquet file of each table that has rows; returns their numbers.

    derive: whether `profiles` is made anew of `site_profiles`: its site may be left out.
    """
    given = {name: rows for name, rows in tables.items() if not (derive and name == "profiles")}
    counts = {}
    with temporary_folder() as folder:
        staged = folder / "store"
        build(create_store(staged).path, given, merge=derive)
        root.put(DATABASE_KEY, (staged / DATABASE_KEY).read_bytes())
        with reading(staged) as connection:
            for name in tables:
                key = ", ".join(map(identifier, TABLES[name].key))
                rows = connection.sql(f"FROM {identifier(name)} ORDER BY {key}").to_arrow_table()
                if len(rows):
                    counts[name] = len(rows)
                    sink = pa.BufferOutputStream()
                    pq.write_table(rows, sink)
                    root.put(f"{TABLES_KEY}/{name}.parquet", bytes(sink.getvalue()))
    files = {f"{name}.parquet" for name in counts}
    root.delete(f"{TABLES_KEY}/{e.name}" for e in root.entries(TABLES_KEY) if e.name not in files)
    return counts
