"""Rows of the tables `runs` and `prompts`."""

from collections.abc import Sequence

import polars as pl

from lpp.analyze.engine.cache import KERNEL_VERSION
from lpp.analyze.runs.keys import RunView
from lpp.sql.schema import arrow_schema
from lpp.sql.schema.captured import field_columns
from lpp.store.format.commit_record import checksum
from lpp.store.format.documents import canonical_json
from lpp.store.format.prompt_columns import FIELD_PREFIX
from lpp.store.format.run_names import plan_name
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
