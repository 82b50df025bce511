"""Makes feeds: checks what is requested, measures the rows where it must, joins the parts."""

import math
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeVar

import numpy as np

from lpp.store.draws import Integers
from lpp.store.errors import InputError
from lpp.store.feed.checks import (
    buffer_bytes,
    buffer_rows,
    check_feed,
    check_left,
    check_numbers,
)
from lpp.store.feed.chosen import kept_prompts, kept_rows
from lpp.store.feed.epoch import Order
from lpp.store.feed.measured import SiteMeasures
from lpp.store.feed.output import Like, Output, OutputDtype, check_like
from lpp.store.feed.prompt_feed import PromptFeed
from lpp.store.feed.reader import OnDamage, RunSource, readable, row_bytes
from lpp.store.feed.row_feed import MixedRows, RowFeed, counts_of, shares_of
from lpp.store.feed.spans import Spans, shard_edges
from lpp.store.format.commit_record import checksum
from lpp.store.progress import SILENT, Progress
from lpp.store.runs.read import Run
from lpp.store.settings.arguments import check_flag, check_numbers_of, check_whole
from lpp.store.shared.logits import Float32

_T = TypeVar("_T")

SPAN_BYTES: Final = 4 << 20
"""Bytes of the prompts of a span, about: chunks at both ends are unpacked for two spans, so spans
of several chunks waste little."""


def rows(
    run: Run | Sequence[Run],
    sites: str | Sequence[str],
    *,
    batch: int = 4096,
    seed: int = 0,
    epochs: int | None = 1,
    buffer: int | str = "2 GiB",
    where: str | None = None,
    center: bool | Sequence[Float32] = False,
    scale: Literal["sqrt_d"] | Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    dtype: OutputDtype | None = None,
    like: Like = "torch",
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    on_damage: OnDamage = "raise",
    progress: Progress = SILENT,
) -> RowFeed | MixedRows:
    """Rows of `sites` in random order, each exactly once an epoch, in batches.

    One run and one site: batches of (batch, d). Several sites, as for a transcoder: a tuple with
    such an array for each, whose rows belong to the same tokens. Several runs over the same prompts
    and one site of equal width, as for a crosscoder: (batch, runs, d).

    weights: mix runs instead: every batch has rows of each run in these proportions, spread evenly
    over it, and the feed ends with the run that ends first (`MixedRows`). Their rows have one mean
    and one scale. Runs may be of other prompts.

    Chunks of rows come from the store in random order into a buffer, and each batch is a random
    sample of the buffer. They are torch's bfloat16 as stored (`dtype="stored"`, the default without
    `center` and `scale`) or float32. The feed has `len`, `state_dict` and `load_state_dict`: what
    comes after a stop is the same to the bit. Every chunk is compared with its checksum.

    seed: of all random choices. epochs: None for no end. buffer: bytes of the buffer; with more of
    it, a batch has rows of more prompts. where: a condition of SQL on `position`, `prompt_id`,
    `n_tokens`, `token_id`, statistics of the logits such as `entropy`, `length`, `median_length`
    (Euclidean, of the rows of the first site) and `sink`; on values by token, `token.loss_mask`;
    and on fields of the prompts, `field.topic`. The prefix may be left out where one column has the
    name; `row.length` is the length where others are called so too. center: subtract the mean of
    these rows. scale: then multiply, so that the mean length is sqrt(d). Either may be what another
    feed has as `mean` and `factor`, such as that of the rows of training for those of a test. like:
    "numpy" needs no torch; its bfloat16 is uint16. rank, world: this process gets an equal share of
    the rows, to within one, in as many batches as each other rank; workers of torch's DataLoader
    divide them further. drop_last: without a last batch of fewer rows. on_damage: "skip" first
    reads the sites once, and leaves out what is missing or altered; `lost` counts these rows.
    progress: counts the rows of a pass that reads the site before, and gets a line with the first
    batch.

    A loop over the feed goes on where it stands; after its end, another loop gives the next
    `epochs`, shuffled anew. `set_epoch` chooses one.

    Raises InputError for arguments that do not fit the runs, and if no row is left; FormatError,
    when it is read, for a shard that is altered.
    """
    runs = [run] if isinstance(run, Run) else list(run)
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    transformed = center is not False or scale is not None
    read_as = dtype or ("float32" if transformed else "stored")
    shares = None if weights is None else shares_of(runs, weights)
    check_feed(runs, names, read_as, on_damage=on_damage, paired=shares is None)
    check_numbers(seed=seed, epochs=epochs, rank=rank, world=world)
    check_whole("batch", batch, least=1)
    check_flag("drop_last", drop_last)
    check_like(like)
    if transformed and read_as == "stored":
        raise InputError(
            "dtype='stored' gives rows as they are on disk, which center and scale change. Leave "
            "dtype out: they are then float32."
        )
    streams = [
        _Stream(each, names, where, on_damage, progress)
        for each in ([runs] if shares is None else [[run] for run in runs])
    ]
    of_stream = shares or [1.0]
    counts = counts_of(batch, of_stream)
    widths = [column.width for column in streams[0].columns]
    mean: Sequence[Float32] | None = None
    factor: Sequence[float] | None = None
    if center is True:
        means = zip(*(stream.means() for stream in streams), strict=True)
        mean = [_mixed(of_stream, of_column) for of_column in means]
    elif center is not False:
        mean = _means(center, widths)
    if scale == "sqrt_d":
        lengths = zip(*(stream.mean_lengths(mean) for stream in streams), strict=True)
        factor = [
            _factor(_mixed(of_stream, of_column), width)
            for of_column, width in zip(lengths, widths, strict=True)
        ]
    elif scale is not None:
        factor = check_numbers_of("scale", scale, len(widths), "site or run, or 'sqrt_d'")
    memory = buffer_bytes(buffer)
    feeds = []
    for stream, count, share in zip(streams, counts, of_stream, strict=True):
        output = Output(
            like=like,
            dtype=read_as,
            is_bfloat16=[column.is_bfloat16 for column in stream.columns],
            stacked=len(stream.runs) > 1,
            single=len(stream.columns) == 1,
            mean=mean,
            factor=factor,
        )
        size = row_bytes(stream.columns)
        fed = int(stream.spans.counts.sum())
        check_left(stream.runs, where, fed, world * (count if drop_last else 1), "row")
        order = Order(
            batch=count,
            seed=seed,
            capacity=buffer_rows(int(memory * share), size, stream.spans),
            rank=rank,
            world=world,
            drop_last=drop_last,
        )
        feeds.append(
            _class(RowFeed, like)(
                [(each, names) for each in stream.runs],
                stream.fed,
                order,
                output=output,
                progress=progress,
                epochs=epochs,
                dtype=read_as,
                center=_of_settings(mean, center),
                scale=_of_settings(factor, scale),
            )
        )
    return feeds[0] if shares is None else _class(MixedRows, like)(feeds)


class _Stream:
    """The rows of runs whose rows pair, before it is said how they are given."""

    def __init__(
        self,
        runs: Sequence[Run],
        sites: tuple[str, ...],
        where: str | None,
        on_damage: OnDamage,
        progress: Progress,
    ) -> None:
        self.runs = runs
        self.columns = [column for run in runs for column in RunSource(run, sites).columns]
        self._measures = [
            SiteMeasures(run, site, on_damage, progress) for run in runs for site in sites
        ]
        first = self._measures[0]
        measured = {
            "length": lambda: first.lengths,
            "median_length": lambda: first.median_length,
            "sink": lambda: first.sinks,
        }
        spans = Spans.of_rows(runs, sites, kept_rows(runs[0], where, measured))
        self.fed = readable(runs, sites, spans, on_damage, progress)
        self.spans = self.fed.spans

    def means(self) -> list[Float32]:
        """(d,) of each column."""
        return [measures.mean(self.spans) for measures in self._measures]

    def mean_lengths(self, means: Sequence[Float32] | None) -> list[float]:
        """Of the rows of each column, less its mean if it is given."""
        return [
            measures.mean_length(self.spans, means[k] if means else None)
            for k, measures in enumerate(self._measures)
        ]


def _means(center: Any, widths: Sequence[int]) -> list[Float32]:
    """The means that were given. InputError unless they are an array of numbers for each column."""
    try:
        means = [np.asarray(of_column, np.float32) for of_column in center]
    except (TypeError, ValueError):
        means = []
    shapes, expected = [mean.shape for mean in means], [(n,) for n in widths]
    if shapes != expected or not all(np.isfinite(mean).all() for mean in means):
        raise InputError(
            f"center has entries of shapes {shapes}, should be finite ones of {expected}: one for "
            "each site or run, as a feed has them; or True."
        )
    return means


def _of_settings(used: Sequence[Any] | None, requested: object) -> object:
    """What the state of a feed says of a mean or a scale: one that was given by its checksum."""
    if used is None or requested in (True, "sqrt_d"):
        return requested
    return checksum(b"".join(np.asarray(values).tobytes() for values in used))


def _mixed(shares: Sequence[float], values: Sequence[Any]) -> Any:
    """The mean of what streams have, weighted by their shares."""
    return sum(share * value for share, value in zip(shares, values, strict=True))


def _factor(length: float, width: int) -> float:
    """What scales rows of this mean length to sqrt(d)."""
    if not length > 0:
        raise InputError(
            f"scale='sqrt_d': the rows have a mean length of {length}, which nothing scales to "
            "sqrt(d). Leave scale out, or choose other rows with where."
        )
    return math.sqrt(width) / length


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
    and fields of the prompts, `field.topic`. The other arguments, loops, stopping and resuming are
    those of `rows`. All ranks have equally many batches; where each prompt is a batch, a rank may
    leave one out.

    Raises what `rows` raises, and InputError for a prompt of more than `max_tokens`.
    """
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    check_feed([run], names, dtype, on_damage=on_damage)
    check_numbers(seed=seed, epochs=epochs, rank=rank, world=world)
    check_whole("max_tokens", max_tokens, least=1)
    check_like(like)
    kept = kept_prompts(run, where)
    lengths, indices = run.lengths, np.flatnonzero(kept)
    if len(indices) and (longest := int(lengths[indices].max())) > max_tokens:
        prompt = indices[lengths[indices].argmax()]
        raise InputError(
            f"max_tokens={max_tokens}: prompt {prompt} has {longest} tokens. Give "
            f"max_tokens={longest}, or leave it out with where='n_tokens <= {max_tokens}'."
        )
    size = row_bytes(RunSource(run, names).columns)
    every = Spans(edges=_span_edges(run, size), kept=np.packbits(kept), first_rows=run.row_edges)
    fed = readable([run], names, every, on_damage)
    spans = fed.spans
    check_left([run], where, int(spans.counts.sum()), world, "prompt")
    order = Order(
        batch=max_tokens,
        seed=seed,
        capacity=buffer_rows(buffer_bytes(buffer), size, spans),
        rank=rank,
        world=world,
        drop_last=False,
    )
    return _class(PromptFeed, like)(
        run,
        names,
        max_tokens=max_tokens,
        like=like,
        dtype=dtype,
        fed=fed,
        order=order,
        epochs=epochs,
    )


def _span_edges(run: Run, size: int) -> Integers:
    """Prompts at which spans begin: those of each shard, and in it after about `SPAN_BYTES`."""
    ends = np.cumsum(run.lengths)
    shard = np.repeat(np.arange(run.plan.n_shards), np.diff(run.plan.shards))
    inside = (ends - run.lengths - shard_edges(run)[shard]) * size // SPAN_BYTES
    begins = (np.diff(shard, prepend=-1) != 0) | (np.diff(inside, prepend=-1) != 0)
    return np.append(np.flatnonzero(begins), len(ends))


def _class(numpy_class: type[_T], like: Like) -> type[_T]:
    """The class of a feed of these arrays: one of tensors is a data set of torch."""
    if like == "numpy":
        return numpy_class
    from lpp.store.feed.torch_data import OF

    return OF[numpy_class]
