"""A catalogue of published stores: a folder that any server of plain files, or a disk, shows.

`index.html` lists the stores and sorts their profiles; it loads nothing, so it opens from a disk.
`catalogue.parquet` has every profile. `sql.html` asks it in SQL, with DuckDB's client for browsers,
which the user has installed: its files are copied beside the page, so no other host is asked.
"""

import json
import shlex
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final
from urllib.parse import quote

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.pages.page import Opening, Page, Section
from lpp.analyze.pages.table import table_of
from lpp.analyze.pages.words import Code, Link, Sentence
from lpp.analyze.pages.write import written
from lpp.analyze.publish.card import CARD_KEY, README_KEY, REPORT_KEY
from lpp.analyze.publish.selection import refused
from lpp.analyze.report.content import MEANINGS
from lpp.sql.database.connect import reading
from lpp.sql.results.output import whole_file
from lpp.sql.schema import TABLES, Column
from lpp.store import open_store
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.documents import load_json
from lpp.store.format.limits import MAX_DOCUMENT_BYTES
from lpp.store.units import counted

PARQUET: Final = "catalogue.parquet"
INDEX: Final = "index.html"
SQL_PAGE: Final = "sql.html"
CLIENT: Final = "duckdb"
"""Folder of DuckDB's client."""

CLIENT_VERSION: Final = "1.28.0"
"""Version of `@duckdb/duckdb-wasm`: the last one that reads Parquet by itself. Later ones load the
reader from DuckDB's server while they run."""

_CLIENT_FILES: Final = {
    "@duckdb/duckdb-wasm/dist/duckdb-browser.cjs": "duckdb-browser.js",
    "@duckdb/duckdb-wasm/dist/duckdb-browser-eh.worker.js": "duckdb-browser-eh.worker.js",
    "@duckdb/duckdb-wasm/dist/duckdb-eh.wasm": "duckdb-eh.wasm",
    "apache-arrow/Arrow.es2015.min.js": "arrow.js",
    "apache-arrow/LICENSE.txt": "arrow-LICENSE.txt",
    "apache-arrow/NOTICE.txt": "arrow-NOTICE.txt",
}

_COLUMNS: Final = (
    Column("store", "VARCHAR", "folder of the store"),
    Column("licence", "VARCHAR", "as its card states; null: not stated"),
    Column("texts", "BOOLEAN", "whether rows and texts are published"),
    Column("name", "VARCHAR", "short name of the run"),
)
"""Columns before those of `profiles`."""

_FIRST: Final = (
    *("store", "name", "context", "n_prompts"),
    *("entropy_floor", "participation_ratio", "effective_rank", "flags"),
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published store."""

    folder: str
    licence: str | None
    texts: bool
    profiles: pl.DataFrame
    """Its profiles, with the columns of `catalogue.parquet`."""


def write_catalogue(folder: Path, client: Path | None = None) -> tuple[Path, list[Entry]]:
    """Write the catalogue of the published stores directly in `folder`; returns its page, and them.

    client: the folder `node_modules` with `CLIENT_VERSION` of DuckDB's client; None: without SQL,
    unless an earlier call copied the client.

    Raises InputError for a folder without published stores or with another `index.html`, and for
    another version of the client, before anything is written; FormatError for a damaged store.
    """
    entries = [_entry(card.parent) for card in sorted(folder.glob(f"*/{CARD_KEY}"))]
    if not entries:
        raise refused(
            f"{folder} holds no published store. Publish one: lpp-analyze publish STORE --to "
            f"{shlex.quote(str(folder / 'name'))}"
        )
    if (folder / INDEX).exists() and not (folder / PARQUET).exists():
        raise refused(
            f"{folder / INDEX} is the page of something else, and is not overwritten. Move the "
            "published stores to a folder of their own."
        )
    if client is not None:
        _copy_client(client, folder / CLIENT)
    profiles = pl.concat([entry.profiles for entry in entries])
    with_sql = all((folder / CLIENT / name).exists() for name in _CLIENT_FILES.values())
    pages = {INDEX: written(_page(entries, profiles, with_sql=with_sql), "html")}
    if with_sql:
        pages[SQL_PAGE] = _sql_page()
    with whole_file(folder / PARQUET) as path:
        profiles.write_parquet(path, compression="snappy")
    for name, text in pages.items():
        with whole_file(folder / name) as path:
            path.write_text(text, "utf-8")
    return folder / INDEX, entries


def _entry(folder: Path) -> Entry:
    """The published store in a folder. FormatError for a card that was not written here."""
    where = folder / CARD_KEY
    card = load_json(open_store(folder).objects.get(CARD_KEY, MAX_DOCUMENT_BYTES), str(where))
    match card:
        case {"version": 1, "texts": bool(texts), "licence": str() | None as licence}:
            pass
        case _:
            raise FormatError(
                f"{where}: not a card that this release reads. Publish the store again, or move it "
                "out of the folder.",
                kind=ErrorKind.CORRUPT,
            )
    with reading(folder) as connection:
        rows = connection.sql(
            "SELECT runs.name, profiles.* FROM profiles LEFT JOIN runs USING (run) ORDER BY ALL"
        ).pl()
    facts = {"store": folder.name, "licence": licence, "texts": texts}
    types = {"store": pl.String, "licence": pl.String, "texts": pl.Boolean}
    constant = [pl.lit(fact, types[name]).alias(name) for name, fact in facts.items()]
    profiles = rows.select(*constant, pl.all())
    return Entry(folder=folder.name, licence=licence, texts=texts, profiles=profiles)


def _page(entries: list[Entry], profiles: pl.DataFrame, *, with_sql: bool) -> Page:
    declared = {column.name: column for column in (*_COLUMNS, *TABLES["profiles"].columns)}
    table = table_of(
        "profiles",
        "Profiles of all stores, with 95 % intervals",
        profiles,
        declared,
        first=_FIRST,
        key=("store", *TABLES["profiles"].key),
        code=f'import polars\n\npolars.read_parquet("{PARQUET}")',
    )
    sql: Sentence = (
        ("Any question of them in SQL: ", Link(SQL_PAGE, SQL_PAGE), ".")
        if with_sql
        else (
            "For SQL in this folder: ",
            Code(f"npm install @duckdb/duckdb-wasm@{CLIENT_VERSION}"),
            ", then ",
            Code("lpp-analyze catalogue FOLDER --duckdb-wasm node_modules"),
            "; or ",
            Code(f"duckdb -c \"FROM '{PARQUET}'\""),
            ".",
        )
    )
    models = counted(profiles["model"].n_unique(), "model")
    return Page(
        title="Catalogue of published stores",
        opening=Opening(
            sentence=(
                f"{counted(len(entries), 'store')}, {counted(len(profiles), 'profile')} of "
                f"{models}. Profiles of other contexts, numbers of prompts or texts (prompt_set) "
                "do not compare.",
            )
        ),
        sections=(
            Section("stores", "Stores", notes=tuple(map(_sentence, entries))),
            Section(
                "profiles",
                "Profiles",
                "A heading sorts by its column. ",
                tables=(table,),
                notes=(sql,),
            ),
        ),
        meanings=MEANINGS,
        runs=RunStyles({}),
    )


def _sentence(entry: Entry) -> Sentence:
    """A store: links to its report and card, and what it holds."""
    models = sorted({*entry.profiles["model"].drop_nulls()})
    shown = ", ".join(models[:4]) + (f" and {len(models) - 4} more" if len(models) > 4 else "")
    return (
        Link(entry.folder, quote(f"{entry.folder}/{REPORT_KEY}")),
        f": {counted(entry.profiles['run'].n_unique(), 'run')} of {shown or 'no model'}; "
        f"{'with' if entry.texts else 'without'} texts; licence {entry.licence or 'not stated'}. ",
        Link("Card", quote(f"{entry.folder}/{README_KEY}")),
    )


def _copy_client(modules: Path, target: Path) -> None:
    """Copy the files of DuckDB's client from a folder `node_modules`."""
    try:
        named = modules / "@duckdb/duckdb-wasm/package.json"
        version = json.loads(named.read_text("utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError):
        version = None
    if version != CLIENT_VERSION or not all((modules / name).is_file() for name in _CLIENT_FILES):
        state = f"the client of version {version}" if version else "no client"
        raise refused(
            f"--duckdb-wasm: {modules} holds {state}. Other versions than {CLIENT_VERSION} ask a "
            f"server for their reader of Parquet. Run npm install @duckdb/duckdb-wasm@"
            f"{CLIENT_VERSION}, and give its folder node_modules."
        )
    target.mkdir(exist_ok=True)
    for name, copied in _CLIENT_FILES.items():
        with whole_file(target / copied) as path:
            shutil.copyfile(modules / name, path)


def _sql_page() -> str:
    css = resources.files("lpp.analyze.pages").joinpath("page.css").read_text("utf-8")
    page = resources.files("lpp.analyze.publish").joinpath(SQL_PAGE).read_text("utf-8")
    return page.replace("/* css */", css)
