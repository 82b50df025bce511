"""What every backend must do, checked against transformers' own forward pass, prompt by prompt.

A backend's test class inherits `BackendContract` and provides the fixture `harness`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from lpp.capture.plan.backend import Backend, Batch

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Harness:
    """A backend on a float32 model, and the model to compare it with."""

    backend: Callable[[Sequence[str]], Backend]
    """Sites wanted -> backend."""
    reference: Any
    """The same weights as a transformers model in float32."""
    vocabulary: int
    hidden_rtol: float = 1e-5
    """Of the largest value of a site."""
    logit_atol: float = 1e-4


def make_batch(
    prompts: Sequence[Sequence[int]], asked: Sequence[int] | None = None, first: int = 0
) -> Batch:
    """A batch of token id lists; statistics at the flat rows `asked`, or at all."""
    flat = np.concatenate([np.asarray(ids, np.int32) for ids in prompts])
    return Batch(
        shard=0,
        prompt_ids=tuple(range(first, first + len(prompts))),
        lengths=tuple(len(ids) for ids in prompts),
        token_ids=flat,
        asked=np.arange(len(flat)) if asked is None else np.asarray(asked, np.int64),
    )


def random_prompts(vocabulary: int, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Token ids that no special token is among."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, vocabulary, n).tolist() for n in lengths]


@torch.inference_mode()
def plain_forward(model: Any, ids: Sequence[int]) -> tuple[dict[str, Floats], Floats]:
    """(site -> (T, d), (T, V) logits) of one prompt alone, by transformers' own means."""
    output = model(torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False)
    *inner, final = (state[0].float().numpy() for state in output.hidden_states)
    sites = {f"block.{k}": state for k, state in enumerate(inner)}
    sites = {"embed": sites.pop("block.0"), **sites, "final": final}
    return sites, output.logits[0].float().numpy()


def reference_statistics(logits: Floats, next_ids: npt.NDArray[np.int32]) -> pa.Table:
    """The eight statistics in float64, one row at a time and without any trick."""
    rows = []
    for row, following in zip(logits.astype(np.float64), next_ids, strict=True):
        log_z = np.log(np.exp(row - row.max()).sum()) + row.max()
        log_p = row - log_z
        order = np.sort(log_p)
        rows.append(
            {
                "entropy": -(np.exp(log_p) * log_p).sum(),
                "log_z": log_z,
                "max_logprob": order[-1],
                "margin": order[-1] - order[-2],
                "next_logprob": log_p[following] if following >= 0 else None,
                "next_rank": 1 + int((row > row[following]).sum()) if following >= 0 else None,
                "top1_id": int(row.argmax()),
                "varentropy": (np.exp(log_p) * (log_p - (np.exp(log_p) * log_p).sum()) ** 2).sum(),
            }
        )
    return pa.Table.from_pylist(rows)


class BackendContract:
    """Inherit this, and provide `harness`."""

    @pytest.fixture
    def harness(self) -> Harness:
        raise NotImplementedError

    def test_hidden_states_are_those_of_each_prompt_alone(self, harness: Harness) -> None:
        prompts = random_prompts(harness.vocabulary, [9, 4, 17, 1])
        expected = [plain_forward(harness.reference, ids)[0] for ids in prompts]
        sites = list(expected[0])
        (captured,) = harness.backend(sites).capture([make_batch(prompts)])
        assert set(captured.hidden) == set(sites)
        for site in sites:
            want = np.concatenate([one[site] for one in expected])
            np.testing.assert_allclose(
                captured.hidden[site], want, rtol=0, atol=harness.hidden_rtol * np.abs(want).max()
            )

    def test_statistics_are_those_of_the_full_softmax(self, harness: Harness) -> None:
        prompts = random_prompts(harness.vocabulary, [5, 12, 1], seed=1)
        batch = make_batch(prompts)
        logits = np.concatenate([plain_forward(harness.reference, ids)[1] for ids in prompts])
        want = reference_statistics(logits, batch.next_ids)
        (captured,) = harness.backend(["final"]).capture([batch])
        has_next = batch.next_ids >= 0
        for name in want.column_names:
            rows = has_next if name.startswith("next_") else np.ones_like(has_next)
            got = np.asarray(captured.statistics[name])[rows]
            expected = np.array(want[name].to_pylist(), dtype=np.float64)[rows]
            np.testing.assert_allclose(got, expected, rtol=0, atol=harness.logit_atol, err_msg=name)

    def test_asked_rows_alone_have_statistics(self, harness: Harness) -> None:
        prompts = random_prompts(harness.vocabulary, [6, 8], seed=2)
        everywhere, some = (
            next(iter(harness.backend(["final"]).capture([make_batch(prompts, asked)])))
            for asked in (None, [2, 5, 13])
        )
        for name, values in some.statistics.items():
            assert len(values) == 3, name
            np.testing.assert_allclose(
                values, everywhere.statistics[name][[2, 5, 13]], atol=1e-5, err_msg=name
            )

    def test_batches_come_back_in_order_and_unchanged_by_each_other(self, harness: Harness) -> None:
        groups = [[7, 3], [3], [11, 11, 2], [5]]
        batches = [
            make_batch(random_prompts(harness.vocabulary, lengths, seed=i), first=10 * i)
            for i, lengths in enumerate(groups)
        ]
        together = [
            (captured.batch, {s: np.array(rows) for s, rows in captured.hidden.items()})
            for captured in harness.backend(["block.1", "final"]).capture(iter(batches))
        ]
        assert [batch.prompt_ids for batch, _ in together] == [b.prompt_ids for b in batches]
        for batch, hidden in together:
            (alone,) = harness.backend(["block.1", "final"]).capture([batch])
            for site, rows in hidden.items():
                np.testing.assert_array_equal(rows, alone.hidden[site])

    def test_nothing_is_left_on_the_model(self, harness: Harness) -> None:
        backend = harness.backend(["embed", "block.1", "final"])
        list(backend.capture([make_batch(random_prompts(harness.vocabulary, [4]))]))
        hooks = [
            (name, hook)
            for name, module in harness.reference.named_modules()
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
            if hook.__module__.startswith("lpp.")  # transformers keeps hooks of its own
        ]
        assert hooks == []
