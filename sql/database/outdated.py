"""What a reader of a database has to know: who wrote it, what it lacks, which runs have changed."""

import logging
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lpp.sql.database.files import ASIDE, profile_command
from lpp.store.format.keys import DATABASE_KEY
from lpp.store.objects.place import Place
from lpp.store.shared.authors import is_trusting, other_author

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_log = logging.getLogger("lpp.sql")

_MAX_NAMED = 4
"""Most runs named in the warning."""


def recorded_runs(connection: "DuckDBPyConnection") -> dict[str, tuple[str, int]]:
    """Fingerprint of the shards, and number of prompts, that the tables have of each run, by id.

    Empty for tables of another release.
    """
    import duckdb

    try:
        rows = connection.execute("SELECT run, shards, n_prompts FROM runs").fetchall()
    except duckdb.Error:
        return {}
    return {run: (shards, prompts) for run, shards, prompts in rows}


def doubts(root: Place) -> list[str]:
    """A line for each reason to doubt the database of the store at `root`: numbers of another
    author, unless `trusting_kept`, databases that were set aside because they are damaged, and
    sources of scores without a record.
    """
    from lpp.store.objects.locate import objects_at
    from lpp.store.scores.lost import lost_source_lines

    objects = objects_at(root)
    lines = lost_source_lines(objects)
    author = None if is_trusting() else other_author(root, DATABASE_KEY)
    if author and objects.exists(DATABASE_KEY):
        lines.append(
            f"The numbers in {root / DATABASE_KEY} were written by {author}; no command of this "
            "user computed them. To compute numbers from the rows: lpp-analyze profile "
            f"{shlex.quote(str(root))}"
        )
    aside = [entry.name for entry in objects.entries() if entry.name.startswith(ASIDE)]
    return lines + [
        f"{root / name} could not be read whole. Numbers that it held are missing from "
        f"{DATABASE_KEY}. Compute them again: {profile_command(root)}, and the other commands "
        "whose numbers you need; then remove the file."
        for name in aside
        if not name.endswith(".wal")
    ]


def warn_of_doubts(connection: "DuckDBPyConnection", root: Place) -> None:
    """Log each of `doubts`, and a line on the runs whose shards are not those that the tables are
    made of.
    """
    for line in doubts(root):
        _log.warning("%s", line)
    recorded = recorded_runs(connection)
    if not recorded:
        return
    from lpp.store.runs.fingerprint import stated_fingerprints

    now = stated_fingerprints(root)
    changed = {
        run: prompts
        for run, (shards, prompts) in recorded.items()
        if now.get(run, shards) != shards
    }
    if changed:
        _log.warning("%s", _line(changed, root))


def _line(changed: Mapping[str, int], root: Place) -> str:
    named = [f"{run} (the tables have {n} prompts of it)" for run, n in changed.items()]
    if len(named) > _MAX_NAMED:
        named[_MAX_NAMED:] = [f"and {len(named) - _MAX_NAMED} more"]
    return (
        f"{DATABASE_KEY} is older than the store. Captured or repaired since: {', '.join(named)}. "
        f"Compute the numbers again: {profile_command(root)}"
    )
