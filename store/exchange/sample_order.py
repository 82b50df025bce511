"""The order in which speculators reads the samples of a store: each chunk is unpacked about once.

Its own sampler takes samples at random, wherever they lie. Here an epoch visits groups of
neighbouring prompts in random order, and the samples of several groups are mixed. Each worker of a
DataLoader gets the batches of its own groups, so that it can keep them in memory.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from lpp.store.draws import Integers


def mixed_batches(
    groups: Integers,
    lengths: Integers,
    most: int,
    *,
    at_once: int,
    lanes: int,
    rng: np.random.Generator,
) -> list[Integers]:
    """Samples of each batch of an epoch; all batches whose number is the same modulo `lanes` have
    groups of their own, but for a few of the last ones.

    groups, lengths: (n,) group and tokens of each sample. most: tokens of a batch, unless one
    sample has more. at_once: groups whose samples are mixed, drawn at random of all.

    >>> groups = np.repeat(np.arange(4), 2)  # a sample has 5 tokens, a batch two samples
    >>> rng = np.random.default_rng(0)
    >>> batches = mixed_batches(groups, np.full(8, 5), 10, at_once=2, lanes=1, rng=rng)
    >>> len({*groups[np.concatenate(batches[:2])]})  # groups in the first half
    2
    """
    _, dense = np.unique(groups, return_inverse=True)
    place = rng.permutation(int(dense.max(initial=-1)) + 1)[dense]
    samples, tokens = rng.permutation(len(groups)), np.bincount(place, lengths)
    lane_of = (np.cumsum(tokens) - tokens / 2) * lanes // max(1, tokens.sum())
    of_lane = []
    for lane in range(lanes):
        mine = samples[lane_of[place[samples]] == lane]
        turn = (place[mine] - np.searchsorted(lane_of, lane)) // at_once
        of_lane.append([*_packed(mine[np.argsort(turn, kind="stable")], lengths, most)])
    whole = min(map(len, of_lane))
    in_turn = [batches[k] for k in range(whole) for batches in of_lane]
    return in_turn + [batch for batches in of_lane for batch in batches[whole:]]


def _packed(samples: Integers, lengths: Integers, most: int) -> Iterator[Integers]:
    """`samples` in order, as many in each batch as have at most `most` tokens together."""
    first, ends = 0, np.cumsum(lengths[samples])
    while first < len(samples):
        before = ends[first - 1] if first else 0
        end = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield samples[first:end]
        first = end


def read_by_groups(loader: Any) -> None:
    """Give a DataLoader of speculators this order, if it reads a store by groups.

    Its batches, their number apart, are those that the sampler would make: whole samples of at most
    `total_seq_len` tokens, other ones in each epoch, by the sampler's seed, for each rank.
    """
    data, sampler = loader.dataset, loader.batch_sampler
    if not getattr(data.transfer, "by_groups", False):
        return
    rows = sampler.valid_indices
    groups = data.transfer.groups[rows + data.start_file_idx]

    def batches(epoch: int) -> list[Integers]:
        if sampler._cached_generated_batches[0] != epoch:
            world = sampler.num_replicas
            mixed = mixed_batches(
                groups,
                sampler.lengths[rows],
                sampler.batch_max_length,
                at_once=data.transfer.at_once,
                lanes=world * max(1, loader.num_workers),
                rng=np.random.default_rng(sampler.seed + epoch),
            )
            # ranks take as many batches each
            mine = mixed[sampler.rank : len(mixed) // world * world : world]
            sampler._cached_generated_batches = (
                epoch,
                [rows[k] for k in mine[: sampler.max_batches]],
            )
        return list(sampler._cached_generated_batches[1])

    sampler._generate_batches = batches
