"""Rows of hidden states in random order, for sparse autoencoders, transcoders and crosscoders."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final, Literal

from lpp.store.errors import ErrorKind, InputError
from lpp.store.feed.chosen import kept_rows
from lpp.store.feed.epoch import Order
from lpp.store.feed.measured import SiteMeasures
from lpp.store.feed.output import Like, Output, OutputDtype, check_like
from lpp.store.feed.reader import OnDamage, Source, row_bytes
from lpp.store.feed.row_feed import RowFeed
from lpp.store.feed.spans import Spans
from lpp.store.format.commit_record import checksum
from lpp.store.format.keys import SHARDS_KEY, shard_key
from lpp.store.progress import SILENT, Progress
from lpp.store.runs.read import Run
from lpp.store.units import counted, short_bytes

STATE_VERSION: Final = 1
"""Version of `RowFeed.state_dict`."""


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
    `n_tokens`, `token_id`, statistics of the logits such as `entropy`, fields of the prompts, and
    `length`, `median_length` (Euclidean, of the rows of the first site) and `sink`. center:
    subtract the mean of these rows. scale: then multiply, so that the mean length is sqrt(d).
    like: "numpy" needs no torch; its bfloat16 is uint16. rank, world: this process gets an equal
    share of the rows, to within one; workers of torch's DataLoader divide it further. drop_last:
    without a last batch of fewer rows. on_damage: "skip" leaves out shards that are missing or
    altered, and counts their rows. progress: counts the rows of a pass that measures the site.

    Raises InputError for arguments that do not fit the runs; FormatError, when it is read, for a
    shard that is altered.
    """
    runs = [run] if isinstance(run, Run) else list(run)
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    _check(runs, names, batch, rank, world)
    check_like(like)
    base = runs[0]
    if on_damage == "raise":
        for each in runs:
            _check_whole(each)
    first = SiteMeasures(base, names[0], progress)
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
    measures = [SiteMeasures(each, name, progress) for each, name in columns]
    means = [m.mean(spans, str(where)) for m in measures] if center else None
    factors = None
    if scale is not None:
        lengths = [
            measure.mean_length(spans, str(where), means[k] if means else None)
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
    output = Output(
        like=like,
        dtype=dtype or ("float32" if center or scale else "stored"),
        stacked=len(runs) > 1,
        single=len(columns) == 1,
        mean=means,
        factor=factors,
    )
    sources = [Source(each, names) for each in runs]
    size = sum(row_bytes(source.columns) for source in sources)
    capacity = _bytes(buffer) // size
    least = batch + int(spans.counts.max(initial=0))
    if capacity < min(least, int(spans.counts.sum())):
        raise InputError(
            f"a buffer of {short_bytes(_bytes(buffer))} holds {capacity:,} rows of {size:,} bytes, "
            f"and a batch and a chunk have {least:,}. Give buffer={least * size} or more.",
            kind=ErrorKind.INVALID_VALUE,
        )
    order = Order(
        batch=batch, seed=seed, capacity=capacity, rank=rank, world=world, drop_last=drop_last
    )
    return _kind(like)(
        [(each, names) for each in runs],
        spans,
        order,
        output=output,
        settings={
            "version": STATE_VERSION,
            "runs": [each.id for each in runs],
            "sites": list(names),
            "where": where,
            "rows": checksum(b"" if kept is None else kept.tobytes()),
            **asdict(order),
        },
        epochs=epochs,
        on_damage=on_damage,
    )


def _check(runs: Sequence[Run], sites: tuple[str, ...], batch: int, rank: int, world: int) -> None:
    """Raise InputError for arguments that do not fit together."""
    problem = ""
    if not runs or not sites:
        problem = "give at least one run and one site"
    elif batch < 1:
        problem = f"batch={batch}: at least 1"
    elif not 0 <= rank < world:
        problem = f"rank={rank} of world={world}: from 0 to world - 1"
    elif len(runs) > 1 and len(sites) > 1:
        problem = "several runs and several sites: give one run or one site"
    elif len({run.plan.prompts.sha256 for run in runs}) > 1:
        problem = f"{' and '.join(run.id for run in runs)} hold other prompts, so rows do not pair"
    elif len(runs) > 1 and len({run.site(sites[0]).width for run in runs}) > 1:
        problem = f"{sites[0]} has other widths in {' and '.join(run.id for run in runs)}"
    if problem:
        raise InputError(f"{problem}.", kind=ErrorKind.INVALID_VALUE)
    for run in runs:
        for site in sites:
            run.require_rows(site)


def _check_whole(run: Run) -> None:
    """Raise InputError if shards are missing, as far as a listing of their names tells."""
    present = {entry.name for entry in run.directory.entries(SHARDS_KEY)}
    missing = [k for k in range(run.plan.n_shards) if shard_key(k) not in present]
    if missing:
        raise InputError(
            f"run {run.id}: {counted(len(missing), 'shard')} of {run.plan.n_shards:,} not "
            f"committed, the first {missing[0]}. Repeat the `lpp-capture run` command that made "
            "it, or feed the others with on_damage='skip'.",
            kind=ErrorKind.INCOMPLETE,
        )


def _bytes(size: int | str) -> int:
    """Bytes of a size such as "2 GiB"."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?)?B?\s*", size)
    if match is None:
        raise InputError(
            f"buffer={size!r} is no size. Such as: buffer='2 GiB', or a number of bytes.",
            kind=ErrorKind.INVALID_VALUE,
        )
    number, unit = match.groups()
    base = 1024 if unit and unit.endswith("i") else 1000
    return int(float(number) * base ** " KMGT".index(unit[0] if unit else " "))


def _kind(like: Like) -> type[RowFeed]:
    if like == "numpy":
        return RowFeed
    from lpp.store.feed.torch_rows import TorchRowFeed

    return TorchRowFeed
