"""Rows of hidden states in random order, for sparse autoencoders, transcoders and crosscoders."""

import math
from collections.abc import Sequence
from typing import Literal

from lpp.store.errors import ErrorKind, InputError
from lpp.store.feed.checks import buffer_units, check_feed
from lpp.store.feed.chosen import kept_rows
from lpp.store.feed.epoch import Order
from lpp.store.feed.measured import SiteMeasures
from lpp.store.feed.output import Like, Output, OutputDtype, check_like
from lpp.store.feed.reader import OnDamage, RunSource, row_bytes
from lpp.store.feed.row_feed import RowFeed
from lpp.store.feed.spans import Spans
from lpp.store.progress import SILENT, Progress
from lpp.store.runs.read import Run


def rows(
    run: Run | Sequence[Run],
    sites: str | Sequence[str],
    *,
    batch: int = 4096,
    seed: int = 0,
    epochs: int | None = 1,
    buffer: int | str = "2 GiB",
    where: str | None = None,
    center: bool = False,
    scale: Literal["sqrt_d"] | None = None,
    dtype: OutputDtype | None = None,
    like: Like = "torch",
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    on_damage: OnDamage = "raise",
    progress: Progress = SILENT,
) -> RowFeed:
    """Rows of `sites` in random order, each exactly once an epoch, in batches.

    One run and one site: batches of (batch, d). Several sites, as for a transcoder: a tuple with
    such an array for each, whose rows belong to the same tokens. Several runs over the same prompts
    and one site of equal width, as for a crosscoder: (batch, runs, d).

    Chunks of rows come from the store in random order into a buffer, and each batch is a random
    sample of the buffer. They are torch's bfloat16 as stored (`dtype="stored"`, the default without
    `center` and `scale`) or float32. The feed has `len`, `state_dict` and `load_state_dict`: what
    comes after a stop is the same to the bit. Every chunk is compared with its checksum.

    seed: of all random choices. epochs: None for no end. buffer: bytes of the buffer; with more of
    it, a batch has rows of more prompts. where: a condition of SQL on `position`, `prompt_id`,
    `n_tokens`, `token_id`, values by token such as `loss_mask`, statistics of the logits such as
    `entropy`, fields of the prompts, and `length`, `median_length` (Euclidean, of the rows of the
    first site) and `sink`. center: subtract the mean of these rows. scale: then multiply, so that
    the mean length is sqrt(d). like: "numpy" needs no torch; its bfloat16 is uint16. rank, world:
    this process gets an equal share of the rows, to within one; workers of torch's DataLoader
    divide it further. drop_last: without a last batch of fewer rows. on_damage: "skip" leaves out
    shards that are missing or altered, and counts their rows. progress: counts the rows of a pass
    that measures the site, and gets a line with the first batch.

    Raises InputError for arguments that do not fit the runs; FormatError, when it is read, for a
    shard that is altered.
    """
    runs = [run] if isinstance(run, Run) else list(run)
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    read_as = dtype or ("float32" if center or scale else "stored")
    check_feed(runs, names, read_as, rank=rank, world=world, on_damage=on_damage)
    if batch < 1:
        raise InputError(f"batch={batch}: at least 1.", kind=ErrorKind.INVALID_VALUE)
    check_like(like)
    base = runs[0]
    if (center or scale) and read_as == "stored":
        raise InputError(
            "dtype='stored' gives rows as they are on disk, which center and scale change. Leave "
            "dtype out: they are then float32.",
            kind=ErrorKind.INVALID_VALUE,
        )
    first = SiteMeasures(base, names[0], on_damage, progress)
    kept = kept_rows(
        base,
        where,
        {
            "length": lambda: first.lengths,
            "median_length": lambda: first.median_length,
            "sink": lambda: first.sinks,
        },
    )
    spans = Spans.of_rows(base, names, kept)
    columns = [(each, name) for each in runs for name in names]
    measures = [SiteMeasures(each, name, on_damage, progress) for each, name in columns]
    means = [m.mean(spans) for m in measures] if center else None
    factors = None
    if scale is not None:
        lengths = [
            measure.mean_length(spans, means[k] if means else None)
            for k, measure in enumerate(measures)
        ]
        if not all(length > 0 for length in lengths):
            raise InputError(
                f"scale='sqrt_d': the rows have a mean length of {lengths}, which nothing scales "
                "to sqrt(d). Leave scale out, or choose other rows with where.",
                kind=ErrorKind.INVALID_VALUE,
            )
        factors = [
            math.sqrt(each.site(name).width) / length
            for (each, name), length in zip(columns, lengths, strict=True)
        ]
    sources = [RunSource(each, names) for each in runs]
    output = Output(
        like=like,
        dtype=read_as,
        is_bfloat16=[column.is_bfloat16 for source in sources for column in source.columns],
        stacked=len(runs) > 1,
        single=len(columns) == 1,
        mean=means,
        factor=factors,
    )
    size = sum(row_bytes(source.columns) for source in sources)
    order = Order(
        batch=batch,
        seed=seed,
        capacity=buffer_units(buffer, size, batch, spans, "rows"),
        rank=rank,
        world=world,
        drop_last=drop_last,
    )
    return row_feed(like)(
        [(each, names) for each in runs],
        spans,
        order,
        output=output,
        progress=progress,
        epochs=epochs,
        on_damage=on_damage,
        dtype=read_as,
        center=center,
        scale=scale,
    )


def row_feed(like: Like) -> type[RowFeed]:
    """The class of a feed of these arrays."""
    if like == "numpy":
        return RowFeed
    from lpp.store.feed.torch_data import TorchRowFeed

    return TorchRowFeed
