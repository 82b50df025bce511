"""`token_stats`: a view over the statistics of every captured token."""

import logging
from typing import TYPE_CHECKING

from lpp.sql.schema.captured import IN_LOSS, TOKEN_STATS, WRITTEN
from lpp.sql.schema.tables import arrow_schema
from lpp.store.objects.place import Place

if TYPE_CHECKING:
    from collections.abc import Iterable

    from duckdb import DuckDBPyConnection

    from lpp.store import Run

_log = logging.getLogger("lpp.sql")


def register_token_stats(connection: "DuckDBPyConnection", root: Place) -> None:
    """Add the view over an Arrow dataset: DuckDB passes it the columns and filters of each query.

    Each file was compared with its record before; quarantined prompts are left out. For runs whose
    model wrote, a small table has the first written position of each prompt; for runs with a loss
    mask, one has the mask of each prompt, a bit for each token.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds
    from pyarrow.fs import LocalFileSystem

    from lpp.store import open_store
    from lpp.store.format.prompt_columns import LOSS_MASK

    files: list[str] = []
    partitions: list[ds.Expression] = []
    quarantined: dict[str, list[object]] = {"run": [], "prompt_id": []}
    continued: dict[str, list[object]] = {"run": [], "prompt_id": [], "n_given": []}
    masks = []
    runs = list(open_store(root).runs.values())
    for run in runs:
        paths = run.tokens_files()
        files += map(str, paths)
        constant = (ds.field("run") == run.id) & (ds.field(WRITTEN.name) == pa.scalar(value=False))
        partitions += [constant] * len(paths)
        ids = run.quarantined.tolist()
        quarantined["run"] += [run.id] * len(ids)
        quarantined["prompt_id"] += ids
        if run.plan.continuation is not None:
            given = run.prompts("n_given")["n_given"].to_pylist()
            continued["run"] += [run.id] * len(given)
            continued["prompt_id"] += range(len(given))
            continued["n_given"] += given
        if LOSS_MASK in run.plan.prompts.token_columns:
            mask = run.prompts(LOSS_MASK).select(["prompt_id", LOSS_MASK])
            masks.append(mask.append_column("run", pa.repeat(pa.scalar(run.id), len(mask))))
    _note_missing(root, runs)
    dataset = ds.FileSystemDataset.from_paths(
        files,
        schema=arrow_schema(TOKEN_STATS),
        format=ds.IpcFileFormat(),
        filesystem=LocalFileSystem(),
        partitions=partitions,
    )
    if not quarantined["run"] and not continued["run"] and not masks:
        connection.register(TOKEN_STATS.name, dataset)
        return
    connection.register("captured_tokens", dataset)
    rows, excluded, replaced = "captured_tokens", [], []
    if quarantined["run"]:
        connection.register("quarantined_prompts", pa.table(quarantined))
        rows += " ANTI JOIN quarantined_prompts USING (run, prompt_id)"
    if continued["run"]:
        connection.register("continued_prompts", pa.table(continued))
        rows += " LEFT JOIN continued_prompts USING (run, prompt_id)"
        excluded.append("n_given")
        replaced.append(f"coalesce(position >= n_given, false) AS {WRITTEN.name}")
    if masks:
        connection.register("masked_prompts", pa.concat_tables(masks))
        rows += " LEFT JOIN masked_prompts USING (run, prompt_id)"
        excluded.append(f'"{LOSS_MASK}"')
        replaced.append(f'"{LOSS_MASK}"[position + 1] AS {IN_LOSS.name}')
    changes = f"EXCLUDE ({', '.join(excluded)}) REPLACE ({', '.join(replaced)})" if replaced else ""
    connection.execute(f"CREATE TEMP VIEW {TOKEN_STATS.name} AS SELECT * {changes} FROM {rows}")


def _note_missing(root: Place, runs: "Iterable[Run]") -> None:
    """Log a line about each kind of shards that are not counted."""
    runs = list(runs)
    absent = {run.id: len(run.missing_shards) - len(run.left_out) for run in runs}
    damaged = {run.id: len(run.left_out) for run in runs}
    for counts, why in ((absent, "are not committed yet"), (damaged, "have no valid record")):
        named = ", ".join(f"{count} of {run}" for run, count in counts.items() if count)
        if named:
            _log.warning(
                "token_stats lacks shards that %s: %s. Find out which: lpp-analyze verify %s",
                why,
                named,
                root,
            )
