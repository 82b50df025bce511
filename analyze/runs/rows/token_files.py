"""The token statistics of one shard, as they lie in its `tokens.arrow`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa

from lpp.store.format.tables import TOKENS_SCHEMA

TOKEN_COLUMNS: Final = pl.DataFrame(pl.from_arrow(TOKENS_SCHEMA.empty_table())).schema
"""The columns of `tokens.arrow`, in prompt and position order of rows."""


def read_tokens(file: Path, names: Sequence[str]) -> pl.DataFrame:
    """Columns `names`, one or more, of a token file.

    Arrow opens the file of exactly that path. A reader that takes `[`, `*` or `?` in a path for a
    pattern, as Polars does, would read another file than the one that was checked.
    """
    with pa.memory_map(str(file)) as source:
        with pa.ipc.open_file(source) as reader:
            wanted = [reader.schema.names.index(name) for name in names]
        options = pa.ipc.IpcReadOptions(included_fields=wanted)
        with pa.ipc.open_file(source, options=options) as reader:
            return pl.DataFrame(pl.from_arrow(reader.read_all())).select(names)
