"""Which runs have changed in the store since its database was written."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lpp.sql.database.files import profile_command
from lpp.store.format.keys import DATABASE_KEY
from lpp.store.objects.place import Place

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


def warn_of_outdated(connection: "DuckDBPyConnection", root: Place) -> None:
    """Log a line on the runs whose shards are not those that the tables are made of."""
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
