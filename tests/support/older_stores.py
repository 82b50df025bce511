"""Stores as earlier releases of format 1 wrote them, made from those of this one."""

from dataclasses import replace
from pathlib import Path

from lpp.store.format.keys import COMMIT_KEY, TOKENS_KEY
from lpp.store.format.record import read_commit, write_commit
from lpp.store.format.tables import TOKENS_SCHEMA, encode_table, read_table
from lpp.store.objects.disk import describe


def without_varentropy(shard: Path) -> None:
    """Write the token table in the directory `shard` anew, without its column `varentropy`."""
    path = shard / TOKENS_KEY
    table = read_table(path, TOKENS_SCHEMA).drop_columns(["varentropy"])
    path.write_bytes(encode_table(table))
    record = read_commit(shard)
    (shard / COMMIT_KEY).unlink()
    write_commit(shard, replace(record, objects={**record.objects, TOKENS_KEY: describe(path)}))
