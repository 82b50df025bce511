"""The forward passes of one batch: which prompts run together, and which rows are wanted.

A branch (`Batch.before`) needs the keys and values of the tokens before it. If the prompt that it
branches off is in the batch, these are taken from that prompt's pass, and only the branch's own
tokens are computed: with four answers to a question of 700 tokens that is a quarter of the work.
Otherwise the branch runs whole, and only its own rows are taken.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from transformers import masking_utils
from transformers.cache_utils import DynamicCache

from lpp.capture.backends.batch_rows import Picked, to_device
from lpp.capture.models.machine import out_of_memory
from lpp.capture.models.structure.anatomy import cache_name, forward_inputs, spread_ids
from lpp.capture.plan.backend import Batch
from lpp.store.draws import Integers

FAR_CLOSER: Final = 1 / 4
"""The error of a right continuation over that of one that is wrong on purpose, at most. Found in
trained models: 0.0001 in float32, 0.02 in float16; equal errors mean that neither is right."""

_WINDOW: Final = 4
"""Tokens of a window in `can_reuse`: branches of three tokens begin within it and end beyond."""

_OF_KEYS: Final = {"DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer"}
"""Layers of a cache with keys and values alone: of all tokens, of a window, of another block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward pass over right-padded prompts."""

    places: Integers
    """(B,) indices of the prompts in the batch."""
    ids: Integers
    """(B, L) token ids. The padding repeats each prompt's first token: any token would do, but a
    tokenizer's own padding token would make some models warn about a missing mask."""
    picked: Integers
    """(R,) the wanted rows, as indices into the flat (B L) ones."""
    rows: Integers
    """(R,) the flat row of the batch that each of them becomes."""
    n_before: Integers
    """(B,) tokens whose keys and values come from another pass; 0 for prompts that run whole."""
    beginnings: Integers
    """(B,) the row of that pass from which each prompt continues."""

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(first, last + 1) of each stretch of the batch's flat rows, in order."""
        cuts = np.flatnonzero(np.diff(self.rows) != 1) + 1
        edges = (0, *cuts.tolist(), len(self.rows))
        return [
            (int(self.rows[a]), int(self.rows[b - 1]) + 1) for a, b in itertools.pairwise(edges)
        ]


def passes(batch: Batch, *, shares: bool, budget: int) -> Iterator[Pass]:
    """The passes of a batch; the keys and values of the first one serve those with `n_before`.

    shares: whether the model can continue from them. budget: most tokens in a pass of branches,
    with padding and earlier tokens; the first pass is that of the batch, whatever its size.
    """
    index_of = {prompt: index for index, prompt in enumerate(batch.prompt_ids)}
    whole, shared, alone = list[int](), list[int](), list[int]()
    for index, prompt in enumerate(batch.prompt_ids):
        if prompt not in batch.before:
            whole.append(index)
        elif shares and batch.before[prompt].of in index_of:
            shared.append(index)
        else:
            alone.append(index)
    if whole:
        yield _pass(batch, whole)
    lengths = np.array(batch.lengths)
    n_before = np.array([len(batch.ids_before(prompt)) for prompt in batch.prompt_ids])
    row_of = {batch.prompt_ids[index]: row for row, index in enumerate(whole)}
    for group in _groups(shared, n_before, lengths, budget):
        before = [batch.before[batch.prompt_ids[index]] for index in group]
        yield _pass(batch, group, [row_of[beginning.of] for beginning in before])
    for group in _groups(alone, n_before, lengths, budget):
        yield _pass(batch, group)


def _groups(
    indices: Sequence[int], n_before: Integers, lengths: Integers, budget: int
) -> Iterator[list[int]]:
    """`indices` in order, as many at a time as `budget` allows; at least one."""
    held: list[int] = []
    for index in indices:
        more = [*held, index]
        size = len(more) * int(n_before[more].max() + lengths[more].max())
        if held and size > budget:
            yield held
            more = [index]
        held = more
    if held:
        yield held


def _pass(batch: Batch, indices: Sequence[int], beginnings: Sequence[int] | None = None) -> Pass:
    """One pass. beginnings: rows of the first pass from which prompts continue; None: all run
    whole.
    """
    starts, inputs = np.cumsum([0, *batch.lengths]), batch.inputs
    before = [len(batch.ids_before(batch.prompt_ids[index])) for index in indices]
    nothing = [0] * len(indices)
    skipped, left = (before, nothing) if beginnings is None else (nothing, before)
    prompts = [inputs[index][n:] for index, n in zip(indices, left, strict=True)]
    longest = max(map(len, prompts))
    ids = np.empty((len(prompts), longest), np.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)], row[len(prompt) :] = prompt, prompt[0]
    picked = [
        np.arange(row * longest + first, row * longest + len(prompt))
        for row, (prompt, first) in enumerate(zip(prompts, skipped, strict=True))
    ]
    return Pass(
        places=np.array(indices),
        ids=ids,
        picked=np.concatenate(picked),
        rows=np.concatenate([np.arange(starts[index], starts[index + 1]) for index in indices]),
        n_before=np.array(left),
        beginnings=np.array(nothing if beginnings is None else beginnings),
    )


@contextmanager
def without_packing() -> Iterator[None]:
    """While open, passes of transformers do not look for several texts in one row.

    None of ours has any. The search ends in a question to the card, so that the host would wait, in
    each pass, for all that was launched before.
    """
    name = "find_packed_sequence_indices"
    search = getattr(masking_utils, name, None)  # not in every release
    if search is None:
        yield
        return
    setattr(masking_utils, name, lambda position_ids: None)
    try:
        yield
    finally:
        setattr(masking_utils, name, search)


def inputs_kept(trunk: nn.Module, ids: torch.Tensor) -> tuple[dict[str, Any], DynamicCache]:
    """Keyword arguments of a pass of `trunk` over right-padded prompts, and the cache that it fills
    with the keys and values of every token.

    A model's own cache keeps only the last window. A branch may begin before that window.
    """
    cache = DynamicCache()
    return {**forward_inputs(ids), "use_cache": True, cache_name(trunk): cache}, cache


def inputs_after(
    trunk: nn.Module, cache: DynamicCache, one: Pass, ids: torch.Tensor
) -> dict[str, Any]:
    """Keyword arguments of a pass of `trunk` that continues from the `cache` of another one.

    ids: of `one`, (B, L), on the model's device. Beginnings are aligned on the right: masks count
    windows and chunks in places of the cache, which are then as far apart as the tokens. Costs a
    copy of the keys and values of each beginning.
    """
    most, device = int(one.n_before.max()), ids.device
    before = to_device(torch.from_numpy(one.n_before), device)[:, None]
    places = torch.arange(most, device=device)[None] + before - most
    rows = Picked(torch.from_numpy(one.beginnings), device, [])
    held = DynamicCache()
    for number, layer in enumerate(cache.layers):
        both: Any = (layer.keys, layer.values)  # type: ignore[union-attr]  # of a `DynamicLayer`
        taken = places.clamp_min(0)[:, None, :, None].to(both[0].device)
        keys, values = (
            t.index_select(0, rows.on(t.device)).take_along_dim(taken, dim=2) for t in both
        )
        held.update(keys, values, number)
    return {
        "input_ids": ids,
        cache_name(trunk): held,
        "use_cache": True,
        "position_ids": before + torch.arange(ids.shape[1], device=device)[None],
        # padding after a prompt needs no mask: no real token depends on it
        "attention_mask": torch.cat([(places >= 0).long(), torch.ones_like(ids)], 1),
    }


@torch.inference_mode()
def can_reuse(model: nn.Module, trunk: nn.Module) -> bool:
    """Whether a pass can continue from the keys and values of another one, with the same rows.

    Tests it on a few tokens, with beginnings of two lengths: the rows must be far closer to those
    of a whole pass than the rows of continuations that are wrong on purpose. So the test is as
    strict in every dtype and with every kernel, however they round. Windows are longer than these
    prompts, so the test is repeated with windows of `_WINDOW` tokens. False for a model whose
    blocks store something else (a state), for one whose positions or windows cannot be given, and
    where rounding hides a wrong position.
    """
    ids = spread_ids(model, 14)
    whole = ids[:10].view(2, 5).repeat(1, 2)[:, :8]
    whole[1, 3:] = whole[1, 0]  # three tokens, padded
    beginnings = whole[:, :5].clone()
    whole[0, 5:], whole[1, 2:5] = ids[10:13], ids[11:]
    branch_ids = torch.stack([whole[0, 5:], whole[1, 2:5]])
    branches = Pass(
        places=np.arange(2),
        ids=branch_ids.cpu().numpy(),
        picked=np.arange(6),
        rows=np.arange(6),
        n_before=np.array([5, 2]),
        beginnings=np.arange(2),
    )

    def right_within(window: int) -> bool:
        inputs, cache = inputs_kept(trunk, beginnings)
        with _windows(trunk, window):
            trunk(**inputs)
            states = trunk(**forward_inputs(whole))[0]
        expected = torch.stack([states[0, 5:], states[1, 2:5]]).double()
        # a pass adds its own keys and values to the cache that it gets: each gets a new one
        continued = partial(inputs_after, trunk, cache, branches, branch_ids)

        def errors(inputs: dict[str, Any], window: int) -> torch.Tensor:
            """(2,) of each branch's worst token: the root mean square of the difference."""
            with _windows(trunk, window):
                rows: torch.Tensor = trunk(**inputs)[0]
            return (rows.double() - expected).square().mean(dim=2).amax(dim=1).sqrt()

        right = errors(continued(), window)
        return all(
            bool((right < FAR_CLOSER * errors(inputs, seen))[altered].all())
            for inputs, altered, seen in _wrong_on_purpose(continued, window)
        )

    try:
        own = trunk(**{**forward_inputs(beginnings), "use_cache": True})
        layers = {type(layer).__name__ for layer in own[cache_name(trunk)].layers}
        windows = (len(ids), _WINDOW) if "DynamicSlidingWindowLayer" in layers else (len(ids),)
        return layers <= _OF_KEYS and all(map(right_within, windows))
    except Exception as error:  # any error: models react differently to unknown inputs
        if out_of_memory(error):
            raise
        return False


def _wrong_on_purpose(
    right: Callable[[], dict[str, Any]], window: int
) -> Iterator[tuple[dict[str, Any], list[int], int]]:
    """Inputs of wrong continuations, the branches that each makes wrong, and tokens of a window.

    Positions are off by one or two, either way. A key within the window is dropped, or the last
    key. The shorter beginning attends to the padding before it. A short window is off by one.
    KeyError if the model takes no positions.
    """
    for shift in (-2, -1, 1, 2):
        inputs = right()
        inputs["position_ids"] = inputs["position_ids"] + shift
        yield inputs, [0, 1], window
    for keys in ([2, 3], [4, 4]):
        inputs = right()
        inputs["attention_mask"][[0, 1], keys] = 0
        yield inputs, [0, 1], window
    inputs = right()
    inputs["attention_mask"][:] = 1
    yield inputs, [1], window
    for other in (_WINDOW - 1, _WINDOW + 1) if window == _WINDOW else ():
        yield right(), [0, 1], other


@contextmanager
def _windows(trunk: nn.Module, tokens: int) -> Iterator[None]:
    """While open, windows and chunks of attention have `tokens` tokens."""
    before = [
        (one, name, value)
        for module in trunk.modules()
        for one in (module, getattr(module, "config", None))
        for name in ("sliding_window", "attention_chunk_size")
        if type(value := getattr(one, name, None)) is int
    ]
    try:
        for one, name, _ in before:
            setattr(one, name, tokens)
        yield
    finally:
        for one, name, value in before:
            setattr(one, name, value)
