"""`vocabulary`: a view over the texts of the tokens of the runs' tokenizers."""

import logging
from typing import TYPE_CHECKING, Final

from lpp.sql.schema.captured import VOCABULARY
from lpp.store.objects.place import Place

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

_log = logging.getLogger("lpp.sql")


_SCHEMA: Final = "memory.vocabularies"
"""Schema for the rows in the database in memory, which SHOW TABLES does not list."""


def register_vocabulary(connection: "DuckDBPyConnection", root: Place) -> None:
    """Add the view. It has no rows for a run whose tokenizer has no vocabulary in the store.

    A vocabulary is read once, however many runs use it. A damaged one is left out, with a line on
    the logger `lpp.sql`: no number depends on it.
    """
    tokens, runs = _tables(root)
    connection.execute(f"CREATE SCHEMA {_SCHEMA}")
    for name, rows in (("tokens", tokens), ("tokenizers", runs)):
        connection.register("incoming", rows)
        connection.execute(f"CREATE TABLE {_SCHEMA}.{name} AS FROM incoming")
        connection.unregister("incoming")
    connection.execute(
        f"CREATE TEMP VIEW {VOCABULARY.name} AS "
        "SELECT run, id AS token_id, text AS token, bytes "
        f"FROM {_SCHEMA}.tokenizers JOIN {_SCHEMA}.tokens USING (tokenizer)"
    )


def _tables(root: Place) -> "tuple[pa.Table, pa.Table]":
    """The tokens of each tokenizer, and the tokenizer of each run, by its fingerprint."""
    import pyarrow as pa

    from lpp.store import open_store
    from lpp.store.errors import FormatError
    from lpp.store.format.tables import VOCABULARY_SCHEMA
    from lpp.store.shared.vocabularies import read_vocabulary

    runs = open_store(root).runs
    tokenizers = [run.plan.tokenizer.fingerprint for run in runs.values()]
    schema = pa.schema([pa.field("tokenizer", pa.string()), *VOCABULARY_SCHEMA])
    tokens = [schema.empty_table()]
    for tokenizer in sorted({*tokenizers}):
        try:
            vocabulary = read_vocabulary(root, tokenizer)
        except FormatError as error:
            _log.warning("vocabulary lacks the tokens of a tokenizer: %s", error)
            continue
        if vocabulary is not None:
            names = pa.repeat(pa.scalar(tokenizer), len(vocabulary))
            tokens.append(vocabulary.add_column(0, schema.field(0), names))
    columns = [pa.array([*runs], pa.string()), pa.array(tokenizers, pa.string())]
    return pa.concat_tables(tokens), pa.table(columns, names=["run", "tokenizer"])
