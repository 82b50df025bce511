"""Whole prompts in random order, packed: for draft models, students and anything that attends."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from lpp.store.errors import ErrorKind, InputError
from lpp.store.feed.checks import buffer_units, check_feed
from lpp.store.feed.chosen import kept_prompts
from lpp.store.feed.draws import Integers
from lpp.store.feed.epoch import Order
from lpp.store.feed.output import Like, OutputDtype, check_like
from lpp.store.feed.prompt_feed import PromptFeed
from lpp.store.feed.reader import OnDamage, RunSource, row_bytes
from lpp.store.feed.spans import Spans, shard_edges
from lpp.store.runs.read import Run

SPAN_BYTES: Final = 8 << 20
"""Bytes of the prompts of a span, about: chunks at both ends are unpacked for two spans, so spans
of several chunks waste little."""


def prompts(
    run: Run,
    sites: str | Sequence[str],
    *,
    max_tokens: int = 8192,
    seed: int = 0,
    epochs: int | None = 1,
    buffer: int | str = "2 GiB",
    where: str | None = None,
    dtype: OutputDtype = "stored",
    like: Like = "torch",
    rank: int = 0,
    world: int = 1,
    on_damage: OnDamage = "raise",
) -> PromptFeed:
    """Whole prompts of `run` in random order, each exactly once an epoch, packed end to end.

    A batch has prompts of at most `max_tokens` tokens together; prompts are drawn from a buffer,
    and one that no longer fits is put back. where: a condition of SQL on `prompt_id`, `n_tokens`
    and fields of the prompts. The other arguments, stopping and resuming are those of `rows`.

    Raises what `rows` raises, and InputError for a prompt of more than `max_tokens`.
    """
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    check_feed([run], names, dtype, rank=rank, world=world, on_damage=on_damage)
    check_like(like)
    kept = kept_prompts(run, where)
    lengths, indices = run.lengths, np.flatnonzero(kept)
    if len(indices) and (longest := int(lengths[indices].max())) > max_tokens:
        prompt = indices[lengths[indices].argmax()]
        raise InputError(
            f"max_tokens={max_tokens}: prompt {prompt} has {longest} tokens. Give "
            f"max_tokens={longest}, or leave it out with where='n_tokens <= {max_tokens}'.",
            kind=ErrorKind.INVALID_VALUE,
        )
    size = row_bytes(RunSource(run, names).columns)
    spans = Spans(edges=_span_edges(run, size), kept=np.packbits(kept))
    mean = max(1.0, float(lengths[indices].mean())) if len(indices) else 1.0
    batch = math.ceil(max_tokens / mean)
    capacity = buffer_units(buffer, size * mean, batch, spans, "prompts")
    order = Order(
        batch=batch, seed=seed, capacity=capacity, rank=rank, world=world, drop_last=False
    )
    return prompt_feed(like)(
        run,
        names,
        max_tokens=max_tokens,
        like=like,
        dtype=dtype,
        spans=spans,
        order=order,
        epochs=epochs,
        on_damage=on_damage,
    )


def prompt_feed(like: Like) -> type[PromptFeed]:
    """The class of a feed of these arrays."""
    if like == "numpy":
        return PromptFeed
    from lpp.store.feed.torch_data import TorchPromptFeed

    return TorchPromptFeed


def _span_edges(run: Run, size: int) -> Integers:
    """Prompts at which spans begin: those of each shard, and in it after about `SPAN_BYTES`."""
    ends = np.cumsum(run.lengths)
    shard = np.repeat(np.arange(run.plan.n_shards), np.diff(run.plan.shards))
    inside = (ends - run.lengths - shard_edges(run)[shard]) * size // SPAN_BYTES
    begins = (np.diff(shard, prepend=-1) != 0) | (np.diff(inside, prepend=-1) != 0)
    return np.append(np.flatnonzero(begins), len(ends))
