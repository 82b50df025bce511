"""Rows of the tables `runs` and `prompts`, from the store alone."""

from collections.abc import Collection, Sequence
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from lpp.sql.database.conform import conform
from lpp.sql.schema.captured import PROMPTS, RUNS, field_columns
from lpp.sql.schema.ddl import comment_view
from lpp.sql.schema.tables import arrow_schema
from lpp.store import Run, open_store
from lpp.store.format.documents import canonical_json
from lpp.store.format.prompt_columns import FIELD_PREFIX
from lpp.store.objects.place import Place
from lpp.store.runs.replay import written_tokens

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def register_captured(
    connection: "DuckDBPyConnection", root: Place, names: Collection[str]
) -> None:
    """Add `runs` and `prompts`, as far as `names` has them, as views over the store at `root`."""
    runs = list(open_store(root).runs.values())
    connection.execute("CREATE SCHEMA memory.captured")
    for table, rows in ((RUNS, _runs_table), (PROMPTS, _prompts_table)):
        if table.name not in names:
            continue
        connection.register("incoming", conform({table.name: rows(runs)})[table.name])
        columns = [f"{c.name}::JSON AS {c.name}" for c in table.columns if c.type == "JSON"]
        select = f"SELECT * REPLACE ({', '.join(columns)})" if columns else "SELECT *"
        connection.execute(f"CREATE TABLE memory.captured.{table.name} AS {select} FROM incoming")
        connection.unregister("incoming")
        connection.execute(f"CREATE TEMP VIEW {table.name} AS FROM memory.captured.{table.name}")
        for statement in comment_view(table):
            connection.execute(statement)


def _runs_table(runs: Sequence[Run]) -> pa.Table:
    return pa.Table.from_pylist([*map(run_row, runs)], schema=arrow_schema(RUNS))


def _prompts_table(runs: Sequence[Run]) -> pa.Table:
    return prompts_frame(runs).to_arrow()


def run_row(run: Run, kernel: str | None = None) -> dict[str, object]:
    """The row of one run in the table `runs`. It counts prompts and tokens that can be analysed.

    kernel: version of the arithmetic that makes its numbers; None: it has none.
    """
    plan = run.plan
    series = plan.model.series
    return {
        "run": run.id,
        "model": plan.model.id,
        "revision": plan.model.revision,
        "architecture": plan.model.architecture,
        "untrained_seed": plan.model.untrained_seed,
        "n_parameters": plan.model.n_parameters,
        "n_blocks": plan.depth,
        "hidden_size": plan.model.hidden_size,
        "logits_width": plan.model.logits_width,
        "tokenizer_size": plan.tokenizer.size if plan.tokenizer.exists else None,
        "corpus": plan.corpus.name,
        "prompt_set": plan.corpus.prompt_set,
        "n_prompts": run.n_prompts,
        "n_tokens": int(run.analysed_lengths.sum()),
        "n_quarantined": int(np.sum(run.quarantined < run.n_prompts)),
        "not_finite_from": run.set_aside().first_site,
        "n_texts_set_aside": run.texts_set_aside().num_rows,
        "context": plan.context,
        "logit_positions": plan.logit_positions,
        "compute_dtype": plan.compute.dtype,
        "stored_dtype": plan.rows_dtype,
        "backend": plan.compute.backend,
        "plan_hash": plan.hash,
        "plan": canonical_json(plan.document).decode(),
        "shards": run.fingerprint,
        "kernel": kernel,
        "series": None if series is None else series.name,
        "step": None if series is None else series.step,
        "name": run.name,
        "task": plan.task,
    }


def prompts_frame(runs: Sequence[Run]) -> pl.DataFrame:
    """The prompts table of some runs: the declared columns, then one for each field of their
    corpora. A field with different types in different runs becomes text.
    """
    schema = pl.DataFrame(pl.from_arrow(arrow_schema(PROMPTS).empty_table())).schema
    of_runs = map(_prompt_rows, runs)  # those alike in one frame: a frame takes a millisecond
    alike = [pa.concat_tables(same) for _, same in groupby(of_runs, attrgetter("schema"))]
    frames = [pl.DataFrame(schema=schema), *(pl.DataFrame(pl.from_arrow(table)) for table in alike)]
    kinds: dict[str, set[pl.DataType]] = {}
    for frame in frames:
        for column in frame:
            seen = kinds.setdefault(column.name, set())
            if column.null_count() < len(column):  # an empty column does not decide the type
                seen.add(column.dtype)
    types = {n: kind.pop() if len(kind) == 1 else pl.String() for n, kind in kinds.items()} | schema
    prompts = pl.concat(
        [frame.cast({name: types[name] for name in frame.columns}) for frame in frames],
        how="diagonal",
    )
    columns = field_columns([name.removeprefix(FIELD_PREFIX) for name in types.keys() - schema])
    return prompts.select(
        *schema, *(pl.col(FIELD_PREFIX + name).alias(column) for name, column in columns.items())
    )


def _prompt_rows(run: Run) -> pa.Table:
    """The rows of one run, with the fields of its prompts."""
    held, shown = run.extra_columns.names, arrow_schema(PROMPTS).names
    more = [name for name in held if name in shown or name.startswith(FIELD_PREFIX)]
    declared = ("prompt_id", "source_row", "n_tokens", "truncated", "sha256")
    table = run.prompts(*more).slice(0, run.n_prompts).select([*declared, *more])
    table = table.add_column(0, "run", pa.repeat(pa.scalar(run.id), len(table)))
    if run.plan.continuation is None:
        return table
    difference = (pl.col("written_logprob") - pl.col("replay_logprob")).abs()
    written = pl.DataFrame(pl.from_arrow(written_tokens(run)))
    of_prompts = written.group_by("prompt_id").agg(replay_difference=difference.max())
    rows = pl.DataFrame(pl.from_arrow(table))
    return rows.join(of_prompts, on="prompt_id", how="left", maintain_order="left").to_arrow()
