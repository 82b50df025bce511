"""Group prompts into shards and batches.

The groups depend on the plan alone, so every worker makes the same ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.capture.plan.backend import Batch, Before
from lpp.store.format.plan import Plan
from lpp.store.format.rows import branches_of

BATCH_COST: Final = 128
"""What one more batch costs, in tokens: the pass reads the weights once more. SmolLM2 on two cores:
21 tokens in float32, 36 in bfloat16 (measured). An H100 computes about 300 tokens while it reads
the weights (989 TFLOP/s, 3.35 TB/s; computed). With 128, padding and batches of 10 to 8,192 tokens
together cost at most 1.3 % more than with 36 or 300 where that is the truth.

Older releases cut batches by another rule. A plan need not name the rule: it names the release
(`compute.versions`), so the same request to another release is another run, and repair computes
shards with the run's release alone."""


def tokens_of(plan: Plan, lengths: npt.NDArray[np.integer], shards: Iterable[int]) -> int:
    """Tokens of some shards. lengths: tokens of each prompt of the plan."""
    ends = np.append(0, np.cumsum(lengths))
    return int(sum(ends[plan.shards[k + 1]] - ends[plan.shards[k]] for k in shards))


def group_by_budget(
    lengths: Sequence[int],
    budget: int,
    family_of: Sequence[int] | None = None,
    *,
    batch_cost: int = BATCH_COST,
) -> list[list[int]]:
    """Indices of prompts that run together: longest first, at most `budget` padded tokens.

    Prompts in order of length are cut where padded tokens and `batch_cost` for each batch sum to
    the least; of equal sums, the one whose first batches are larger. So prompts of one length fill
    batches in order, and prompts of many lengths are padded by a few per cent. A prompt longer than
    the budget runs alone. family_of: for each prompt, the prompt that it branches off, or itself. A
    family stays in one batch; its prompt and its branches are padded separately, because they run
    one after the other. batch_cost: in tokens.

    >>> group_by_budget([5, 9, 5, 4], budget=10)
    [[1], [0, 2], [3]]
    >>> group_by_budget([900, 100, 880, 90], budget=4000)
    [[0, 2], [1, 3]]
    >>> group_by_budget([5, 2, 3, 4, 9], budget=11, family_of=[0, 0, 0, 3, 4])
    [[4], [0, 1, 2], [3]]
    """
    families: dict[int, list[int]] = {}
    for index, family in enumerate(range(len(lengths)) if family_of is None else family_of):
        families.setdefault(family, []).append(index)
    # families whose prompt is in another shard come last
    whole = {f: lengths[f] if f in members else 0 for f, members in families.items()}
    order = sorted(families, key=lambda f: (-whole[f], f))
    branches = [[lengths[i] for i in families[f] if i != f] for f in order]
    # (F, 2): of the prompt and of the branches of each family
    parts = [
        ((whole[f] > 0, whole[f]), (len(b), max(b, default=0)))
        for f, b in zip(order, branches, strict=True)
    ]
    counts, longest = np.moveaxis(np.array(parts, np.int64).reshape(-1, 2, 2), 2, 0)
    starts = np.append(0, np.cumsum((counts * longest).sum(axis=1)))
    # no batch from family f on reaches beyond limits[f]: even without more padding it is too large
    limits = np.searchsorted(starts, starts[:-1] + budget, "right")
    least, ends = np.zeros(len(order) + 1, np.int64), np.zeros(len(order), np.int64)
    for first in reversed(range(len(order))):
        window = slice(first, max(first + 1, limits[first]))
        most = np.maximum.accumulate(longest[window])
        padded = (np.cumsum(counts[window], axis=0) * most).sum(axis=1)
        padded = padded[: max(1, np.searchsorted(padded, budget, "right"))]
        costs = padded + least[first + 1 : first + 1 + len(padded)]
        size = len(costs) - int(costs[::-1].argmin())
        least[first] = batch_cost + costs[size - 1]
        ends[first] = first + size
    groups, first = list[list[int]](), 0
    while first < len(order):
        chosen = order[first : ends[first]]
        groups.append([index for family in chosen for index in families[family]])
        first = ends[first]
    return groups


def padded_tokens(lengths: Sequence[int], group: Sequence[int], family_of: Sequence[int]) -> int:
    """Tokens of one group of `group_by_budget`, padding included."""
    parts = ([i for i in group if (family_of[i] == i) is whole] for whole in (True, False))
    return sum(len(part) * max((lengths[i] for i in part), default=0) for part in parts)


def shard_families(plan: Plan, prompts: pa.Table, shard: int) -> list[int]:
    """For each prompt of a shard, the prompt that it branches off, or itself, counted from the
    first of the shard. prompts: the table of all prompts of the plan.
    """
    first, end = plan.shards[shard], plan.shards[shard + 1]
    of = branches_of(prompts)[0][first:end].tolist()
    return [index if prompt < 0 else prompt - first for index, prompt in enumerate(of)]


def shard_groups(plan: Plan, prompts: pa.Table, shard: int) -> list[list[int]]:
    """The prompts of each batch of a shard, counted from the first of the shard."""
    first, end = plan.shards[shard], plan.shards[shard + 1]
    budget = plan.compute.batch_tokens
    return group_by_budget(
        prompts["n_tokens"].slice(first, end - first).to_pylist(),
        budget,
        shard_families(plan, prompts, shard),
        # vLLM pads nothing, so there a batch more saves nothing
        batch_cost=budget if plan.compute.backend == "vllm" else BATCH_COST,
    )


def shard_batches(plan: Plan, prompts: pa.Table, shard: int) -> Iterator[Batch]:
    """The batches of one shard, without memory for their rows. prompts: the table of all prompts
    of the plan.
    """
    first, end = plan.shards[shard], plan.shards[shard + 1]
    lists = prompts["token_ids"].slice(first, end - first).combine_chunks()
    ids = [np.asarray(values.values, dtype=np.int32) for values in lists]
    before = _before(prompts, range(first, end))
    groups = shard_groups(plan, prompts, shard)
    for number, group in enumerate(groups, start=1):
        group_lengths = tuple(len(ids[i]) for i in group)
        yield Batch(
            shard=shard,
            prompt_ids=tuple(first + i for i in group),
            lengths=group_lengths,
            token_ids=np.concatenate([ids[i] for i in group]),
            logit_rows=logit_rows(plan, group_lengths),
            ends_shard=number == len(groups),
            before={first + i: before[first + i] for i in group if first + i in before},
        )


def _before(prompts: pa.Table, chosen: Iterable[int]) -> dict[int, Before]:
    """The tokens before each branch among the prompts `chosen`."""
    of, at = branches_of(prompts)
    ids = prompts["token_ids"]
    return {
        prompt: Before(
            int(of[prompt]),
            np.asarray(ids[int(of[prompt])].values[: int(at[prompt])], dtype=np.int32),
        )
        for prompt in chosen
        if of[prompt] >= 0
    }


def logit_rows(plan: Plan, lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    """(S,) flat rows of a batch whose logits the plan reduces to statistics."""
    if plan.logit_positions == "all":
        return np.arange(sum(lengths))
    if plan.logit_positions == "none":
        return np.arange(0)
    starts = np.cumsum([0, *lengths[:-1]])
    # the last token of each prefix; a prompt shorter than the prefix ends earlier
    last = [np.unique(np.minimum(plan.prefixes, length)) - 1 for length in lengths]
    return np.concatenate([start + rows for start, rows in zip(starts, last, strict=True)])
