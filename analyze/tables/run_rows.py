"""Rows of the tables about the store: `runs`, `prompts` and `evaluations`."""

from collections.abc import Mapping, Sequence

import polars as pl

from lpp.analyze.engine.cache import KERNEL_VERSION
from lpp.analyze.runs.keys import RunView
from lpp.sql.schema import arrow_schema
from lpp.sql.schema.captured import field_columns
from lpp.sql.schema.evaluations import EVALUATION_KEY
from lpp.store.errors import FormatError
from lpp.store.format.commit_record import checksum
from lpp.store.format.documents import canonical_json
from lpp.store.format.prompt_columns import FIELD_PREFIX
from lpp.store.format.run_names import plan_name
from lpp.store.format.tables import encode_table
from lpp.store.items import ITEMS_SCHEMA, read_items
from lpp.store.objects.place import Place
from lpp.store.replay import written_tokens


def run_row(view: RunView) -> dict[str, object]:
    """The row of one run in the table `runs`. It counts prompts and tokens that can be analysed."""
    plan = view.run.plan
    series = plan.model.series
    return {
        "run": view.run.id,
        "model": plan.model.id,
        "revision": plan.model.revision,
        "architecture": plan.model.architecture,
        "untrained_seed": plan.model.untrained_seed,
        "n_parameters": plan.model.n_parameters,
        "n_blocks": plan.model.n_blocks,
        "hidden_size": plan.model.hidden_size,
        "logits_width": plan.model.logits_width,
        "tokenizer_size": plan.tokenizer.size,
        "corpus": plan.corpus.name,
        "prompt_set": plan.corpus.prompt_set,
        "n_prompts": view.run.n_prompts,
        "n_tokens": int(view.lengths.sum()),
        "n_quarantined": len(view.set_aside),
        "not_finite_from": view.run.set_aside().first_site,
        "n_texts_set_aside": view.run.texts_set_aside().num_rows,
        "context": plan.context,
        "logit_positions": plan.logit_positions,
        "compute_dtype": plan.compute.dtype,
        "stored_dtype": plan.stored_dtype,
        "backend": plan.compute.backend,
        "plan_hash": plan.hash,
        "plan": canonical_json(plan.document).decode(),
        "shards": checksum(" ".join(shard.digest for shard in view.run.shards).encode())[:16],
        "kernel": str(KERNEL_VERSION),
        "series": None if series is None else series.name,
        "step": None if series is None else series.step,
        "name": plan_name(plan),
    }


def prompts_frame(views: Sequence[RunView]) -> pl.DataFrame:
    """The prompts table of some runs: the declared columns, then one for each field of their
    corpora. A field with different types in different runs becomes text.
    """
    schema = pl.DataFrame(pl.from_arrow(arrow_schema("prompts").empty_table())).schema
    frames = [pl.DataFrame(schema=schema), *(_prompt_rows(view) for view in views)]
    kinds: dict[str, set[pl.DataType]] = {}
    for frame in frames:
        for column in frame:
            found = kinds.setdefault(column.name, set())
            if column.null_count() < len(column):  # an empty column does not decide the type
                found.add(column.dtype)
    types = {n: kind.pop() if len(kind) == 1 else pl.String() for n, kind in kinds.items()} | schema
    prompts = pl.concat(
        [frame.cast({name: types[name] for name in frame.columns}) for frame in frames],
        how="diagonal",
    )
    columns = field_columns([name.removeprefix(FIELD_PREFIX) for name in types.keys() - schema])
    return prompts.select(
        *schema, *(pl.col(FIELD_PREFIX + name).alias(column) for name, column in columns.items())
    )


def _prompt_rows(view: RunView) -> pl.DataFrame:
    """The rows of one run, with the fields of its prompts."""
    held, shown = view.run.extra_columns.names, arrow_schema("prompts").names
    more = [name for name in held if name in shown or name.startswith(FIELD_PREFIX)]
    table = pl.DataFrame(pl.from_arrow(view.run.prompts(*more))).head(view.run.n_prompts)
    declared = ("prompt_id", "source_row", "n_tokens", "truncated", "sha256")
    found = table.select(pl.lit(view.run.id).alias("run"), *declared, *more)
    if view.run.plan.continuation is None:
        return found
    difference = (pl.col("written_logprob") - pl.col("replay_logprob")).abs()
    written = pl.DataFrame(pl.from_arrow(written_tokens(view.run)))
    of_prompts = written.group_by("prompt_id").agg(replay_difference=difference.max())
    return found.join(of_prompts, on="prompt_id", how="left", maintain_order="left")


def evaluation_rows(root: Place) -> list[dict[str, object]]:
    """The rows of the table `evaluations` of the store at `root`, sorted by its key.

    Empty if the items are damaged: `read_items` raises the error where they are used.
    """
    try:
        items = pl.DataFrame(pl.from_arrow(read_items(root)))
    except FormatError:
        return []
    named = items.drop_nulls("run").unique(EVALUATION_KEY, keep="first", maintain_order=True)
    return [
        _evaluation(items, name)
        for name in named.sort(EVALUATION_KEY)
        .select(*EVALUATION_KEY, "model")
        .iter_rows(named=True)
    ]


def _evaluation(items: pl.DataFrame, name: Mapping[str, str]) -> dict[str, object]:
    """The row of one evaluation. Its items that were set aside name no run."""
    of_run = (pl.col("run") == name["run"]) | pl.col("run").is_null()
    others = {column: value for column, value in name.items() if column != "run"}
    some = items.filter(of_run, **others).sort("item")
    right = some["correct"].drop_nulls()
    return {
        **name,
        "n_items": len(some),
        "n_right": right.sum(),
        "n_wrong": len(right) - right.sum(),
        "items": checksum(encode_table(some.to_arrow().cast(ITEMS_SCHEMA)))[:16],
    }
