"""What prompts of many lengths cost beside the same tokens in prompts of one length.

Both sides capture all sites with one loaded model, from the first batch to the last commit. Prompts
of one length are timed twice: as long as the prompt of an average token of the other side (sum of
squared lengths / sum of lengths), where attention does the same work; and as long as the average
prompt, where it does less.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from benchmarks.capture_cost import capturing
from benchmarks.pairs import Ratio, ratio_of_times, ratio_once, timed_pairs
from benchmarks.setting import prepared, request, scratch
from lpp.capture.corpus.passages import Corpus, GivenTokens, Passage
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.prepare import Prepared, prepare
from lpp.capture.plan.backend import Backend
from lpp.capture.plan.batches import padded_tokens, shard_groups
from lpp.capture.plan.request import InMemory

PROMPTS: Final = 24
SHORTEST: Final = 10
LONGEST: Final = 8192
REPEATS: Final = 3


def measure(
    prompts: int = PROMPTS, longest: int = LONGEST, repeats: int = REPEATS
) -> Iterator[Ratio]:
    """The bars of prompts of many lengths: pace, twice, and padding."""
    lengths = conversation_lengths(prompts, longest)
    backend = prepared(1).backend
    mixed = of_lengths(backend, lengths, longest)
    tokens = sum(lengths)
    equal_lengths = {
        "attention does the same work": round(sum(n * n for n in lengths) / tokens),
        "attention does less work": round(tokens / len(lengths)),
    }
    for work, length in equal_lengths.items():
        equal = of_lengths(backend, [length] * max(1, round(tokens / length)), longest)
        with scratch() as folder:
            sides = timed_pairs(
                capturing(mixed, folder / "mixed"), capturing(equal, folder / "equal"), repeats
            )
        for_1000 = [
            [seconds / side.plan.prompts.tokens * 1000 for seconds in times]
            for side, times in zip((mixed, equal), sides, strict=True)
        ]
        yield ratio_of_times(
            f"capture of prompts of {SHORTEST} to {longest:,} tokens, tokens a second / of prompts "
            f"of {length:,}, where {work}; all sites, time of 1,000 tokens",
            (for_1000[0], for_1000[1]),
            bar=0.9,
            direction="at least",
            inverted=True,
            bound="attention grows with the square of a length",
        )
    padded = with_padding(mixed)
    yield ratio_once(
        "tokens of their batches, with padding / without",
        f"{padded:,}",
        f"{tokens:,}",
        padded / tokens,
        bar=1.05,
    )


def conversation_lengths(count: int, longest: int) -> list[int]:
    """Drawn log-normally with a median of 480 tokens, the shortest and the longest among them."""
    draws = np.random.default_rng(0)
    drawn = np.clip(draws.lognormal(np.log(480), 1.0, count), SHORTEST, longest).astype(int)
    drawn[:2] = SHORTEST, longest
    lengths: list[int] = draws.permutation(drawn).tolist()
    return lengths


def of_lengths(backend: Backend, lengths: Sequence[int], longest: int) -> Prepared:
    """A plan of random tokens. longest: tokens of a batch."""
    draws = np.random.default_rng(1)
    size = backend.model.info.logits_width
    passages = [
        Passage(row, f"text {row}", given=GivenTokens(tuple(draws.integers(size, size=n).tolist())))
        for row, n in enumerate(lengths)
    ]
    corpus = Corpus(
        name="lengths", revision=None, fingerprint="0" * 32, rule="drawn", passages=passages
    )
    wanted = replace(
        request(len(lengths), context=max(lengths), batch_tokens=longest),
        selection=Selection(prompts=len(lengths), min_bytes=0),
    )
    return prepare(wanted, given=InMemory(corpus=corpus, backend=backend))


def with_padding(ready: Prepared) -> int:
    """Tokens of all batches of a plan without branches, with padding."""
    plan, lengths = ready.plan, ready.prompts["n_tokens"].to_numpy()
    padded = 0
    for shard, first in enumerate(plan.shards[:-1]):
        of_shard = lengths[first : plan.shards[shard + 1]].tolist()
        for group in shard_groups(plan, ready.prompts, shard):
            padded += padded_tokens(of_shard, group, range(len(of_shard)))
    return padded
