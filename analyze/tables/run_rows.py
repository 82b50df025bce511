"""Rows of the runs and prompts tables: what was captured."""

import polars as pl

from lpp.analyze.engine.cache import KERNEL_VERSION
from lpp.analyze.runs.keys import RunView
from lpp.store.format.commit_record import checksum
from lpp.store.format.documents import canonical_json
from lpp.store.replay import written_tokens


def run_row(view: RunView) -> dict[str, object]:
    """The runs table's row of one run. Its prompts and tokens are those that can be analysed."""
    plan = view.run.plan
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
    }


def prompt_rows(view: RunView) -> pl.DataFrame:
    """The prompts table's rows of one run."""
    columns = ("prompt_id", "source_row", "n_tokens", "truncated", "sha256")
    found = view.prompts.select(pl.lit(view.run.id).alias("run"), *columns)
    if view.run.plan.continuation is None:
        return found.with_columns(n_given=None, replay_difference=None)
    given = pl.from_arrow(view.run.prompts("n_given").select(["prompt_id", "n_given"]))
    difference = (pl.col("written_logprob") - pl.col("replay_logprob")).abs()
    written = pl.DataFrame(pl.from_arrow(written_tokens(view.run)))
    of_prompts = written.group_by("prompt_id").agg(replay_difference=difference.max())
    for other in (pl.DataFrame(given), of_prompts):
        found = found.join(other, on="prompt_id", how="left", maintain_order="left")
    return found
