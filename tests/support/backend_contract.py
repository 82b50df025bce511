"""The contract of every backend, checked against transformers' own forward pass for each prompt.

A backend's test class inherits `BackendContract` and provides the fixture `harness`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.models.spec import Model
from lpp.capture.models.structure.anatomy import text_config
from lpp.capture.plan.backend import (
    Backend,
    Batch,
    Before,
    Beginning,
    Captured,
    Outputs,
    Writing,
)
from lpp.store.arrays.layout import ITEM_BYTES, NUMPY_DTYPE
from lpp.store.format.plan import (
    INTEGERS,
    ComputeInfo,
    ModelInfo,
    SiteDtype,
    StoredDtype,
    TokenizerInfo,
)
from lpp.store.shared.logits import Head, HeadContent

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Harness:
    """A backend on a float32 model, and the model to compare it with."""

    backend: Backend
    reference: Any
    """A transformers model in float32 with the same weights."""
    vocabulary: int
    hidden_rtol: float = 1e-5
    """Tolerance relative to the largest value of a site."""
    logit_atol: float = 1e-4


def torch_backend(module: Any) -> TorchBackend:
    """The torch backend on a transformers model that is in memory."""
    config = text_config(module)
    model = Model(
        info=ModelInfo(
            id="tiny",
            source="folder",
            revision=None,
            weights="0",
            architecture=type(module).__name__,
            n_parameters=0,
            n_blocks=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            logits_width=config.vocab_size,
        ),
        tokenizer_info=TokenizerInfo(id="tiny", fingerprint="0", size=config.vocab_size),
        tokenizer=None,
        folder=Path(),
        max_positions=None,
        dtype="float32",
        module=module,
    )
    compute = ComputeInfo(
        backend="torch",
        device="cpu",
        dtype="float32",
        attention="eager",
        batch_tokens=0,
        device_map=None,
        quantization=None,
        trust_remote_code=False,
        versions={},
    )
    return TorchBackend(model, compute)


def make_batch(
    prompts: Sequence[Sequence[int]],
    logit_rows: Sequence[int] | None = None,
    first: int = 0,
    shard: int = 0,
) -> Batch:
    """A batch of lists of token ids, as one shard; statistics at the flat `logit_rows`, or at all
    rows.
    """
    flat = np.concatenate([np.asarray(ids, np.int32) for ids in prompts])
    return Batch(
        shard=shard,
        prompt_ids=tuple(range(first, first + len(prompts))),
        lengths=tuple(len(ids) for ids in prompts),
        token_ids=flat,
        logit_rows=np.arange(len(flat)) if logit_rows is None else np.asarray(logit_rows, np.int64),
        ends_shard=True,
    )


def branching_batch(vocabulary: int) -> tuple[Batch, list[list[int]]]:
    """A batch with branches, and all tokens that a model reads for each prompt.

    Prompts 0 and 3, their branches 1, 2 and 4, and branch 5 of a prompt that is not in the batch.
    20 rows: lengths 9, 2, 1, 5, 2 and 1.
    """
    long, short, other = random_prompts(vocabulary, [9, 5, 7], seed=5)
    answers = random_prompts(vocabulary, [1, 1, 1], seed=6)
    own = [long, [long[8], *answers[0]], [long[5]], short, [short[4], *answers[1]], [other[6]]]
    of = {1: (0, long[:8]), 2: (0, long[:5]), 4: (3, short[:4]), 5: (9, other[:6])}
    batch = replace(
        make_batch(own),
        before={
            prompt: Before(root, np.array(ids, np.int32)) for prompt, (root, ids) in of.items()
        },
    )
    return batch, [[*of[p][1], *ids] if p in of else ids for p, ids in enumerate(own)]


def captured(
    backend: Backend,
    batches: Sequence[Batch],
    sites: Sequence[str],
    dtype: StoredDtype = "float32",
) -> Iterator[Captured]:
    """A backend's results for `batches`, each with its own memory, filled with NaN before."""
    own = {spec.name: spec for specs in backend.sites.routers.values() for spec in specs}
    specs: dict[str, tuple[int, SiteDtype]] = {
        site: (own[site].width, own[site].dtype or dtype)
        if site in own
        else (backend.sites.width(site), dtype)
        for site in sites
    }

    def with_memory(batch: Batch) -> Batch:
        rows = len(batch.token_ids)
        return replace(
            batch,
            hidden={
                site: backend.allocate(rows * width * ITEM_BYTES[stored])
                .view(NUMPY_DTYPE[stored])
                .reshape(rows, width)
                for site, (width, stored) in specs.items()
            },
        )

    ready = []
    for batch in batches:
        ready.append(with_memory(batch))
        for rows in ready[-1].hidden.values():
            rows.view(np.uint8)[...] = 0xFF  # every float of these bits is NaN
    integers = frozenset(site for site, (_, stored) in specs.items() if stored in INTEGERS)
    outputs = Outputs(sites=tuple(sites), dtype=dtype, integers=integers)
    return backend.capture(iter(ready), outputs)


def random_prompts(vocabulary: int, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Random token ids, without special tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, vocabulary, n).tolist() for n in lengths]


def prompts_to_continue(vocabulary: int, lengths: Sequence[int]) -> list[Beginning]:
    """Prompts with ids that do not count from 0, of random tokens without special ones."""
    return [
        Beginning(prompt_id=place + 3, token_ids=np.asarray(ids, np.int32))
        for place, ids in enumerate(random_prompts(vocabulary, lengths, seed=3))
    ]


@torch.inference_mode()
def generated(model: Any, ids: npt.NDArray[np.int32], how: Writing) -> list[int]:
    """The continuation by transformers' own greedy search for one prompt alone."""
    given = torch.tensor([ids.tolist()])
    found = model.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=how.tokens,
        do_sample=False,
        eos_token_id=list(how.end_ids),
        pad_token_id=0,
    )
    tokens: list[int] = found[0, len(ids) :].tolist()
    return tokens


@torch.inference_mode()
def plain_forward(model: Any, ids: Sequence[int]) -> tuple[dict[str, Floats], Floats]:
    """(site -> (T, d), (T, V) logits) of one prompt alone, computed by transformers."""
    output = model(torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False)
    *inner, final = (state[0].float().numpy() for state in output.hidden_states)
    sites = {f"block.{k}": state for k, state in enumerate(inner)}
    sites = {"embed": sites.pop("block.0"), **sites, "final": final}
    return sites, output.logits[0].float().numpy()


def reference_statistics(logits: Floats, next_ids: npt.NDArray[np.int32]) -> pa.Table:
    """The eight statistics in float64, one row at a time, computed plainly."""
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
        # transformers reports block.B only after the final norm
        assert harness.backend.sites.names[:-2] == tuple(sites[:-1])
        (found,) = captured(harness.backend, [make_batch(prompts)], sites)
        for site in sites:
            want = np.concatenate([one[site] for one in expected])
            np.testing.assert_allclose(
                found.batch.hidden[site],
                want,
                rtol=0,
                atol=harness.hidden_rtol * np.abs(want).max(),
            )

    def test_statistics_are_those_of_the_full_softmax(self, harness: Harness) -> None:
        prompts = random_prompts(harness.vocabulary, [5, 12, 1], seed=1)
        batch = make_batch(prompts)
        logits = np.concatenate([plain_forward(harness.reference, ids)[1] for ids in prompts])
        want = reference_statistics(logits, batch.next_ids)
        (found,) = captured(harness.backend, [batch], ["final"])
        has_next = batch.next_ids >= 0
        for name in want.column_names:
            rows = has_next if name.startswith("next_") else np.ones_like(has_next)
            got = np.asarray(found.statistics[name])[rows]
            expected = np.array(want[name].to_pylist(), dtype=np.float64)[rows]
            np.testing.assert_allclose(got, expected, rtol=0, atol=harness.logit_atol, err_msg=name)

    def test_the_head_gives_the_logits_of_the_final_states(self, harness: Harness) -> None:
        prompts = random_prompts(harness.vocabulary, [5, 12, 1], seed=7)
        want = np.concatenate([plain_forward(harness.reference, ids)[1] for ids in prompts])
        (found,) = captured(harness.backend, [make_batch(prompts)], ["final"])
        content = harness.backend.head()
        assert isinstance(content, HeadContent), content
        made = Head(content).logits(found.batch.hidden["final"])
        np.testing.assert_allclose(made, want, rtol=0, atol=harness.logit_atol)

    def test_some_rows_alone_have_statistics(self, harness: Harness) -> None:
        prompts = random_prompts(harness.vocabulary, [6, 8], seed=2)
        everywhere, some = (
            next(iter(captured(harness.backend, [make_batch(prompts, rows)], ["final"])))
            for rows in (None, [2, 5, 13])
        )
        for name, values in some.statistics.items():
            assert len(values) == 3, name
            np.testing.assert_allclose(
                values, everywhere.statistics[name][[2, 5, 13]], atol=1e-5, err_msg=name
            )

    def test_branches_have_the_rows_of_whole_prompts(self, harness: Harness) -> None:
        """Beginnings of several lengths; the last branch is of a prompt outside the batch."""
        sites = list(harness.backend.sites.names)
        batch, every = branching_batch(harness.vocabulary)
        inner = [plain_forward(harness.reference, ids) for ids in every]
        (found,) = captured(harness.backend, [batch], sites)
        skipped = [len(ids) - n for ids, n in zip(every, batch.lengths, strict=True)]
        for site in set(inner[0][0]) & set(sites):
            want = np.concatenate(
                [states[site][n:] for (states, _), n in zip(inner, skipped, strict=True)]
            )
            close = harness.hidden_rtol * np.abs(want).max()
            np.testing.assert_allclose(
                found.batch.hidden[site], want, rtol=0, atol=close, err_msg=site
            )
        logits = np.concatenate([one[n:] for (_, one), n in zip(inner, skipped, strict=True)])
        want = reference_statistics(logits, batch.next_ids)
        for name in ("entropy", "next_logprob"):
            rows = batch.next_ids >= 0
            np.testing.assert_allclose(
                np.asarray(found.statistics[name])[rows],
                np.array(want[name].to_pylist(), dtype=np.float64)[rows],
                rtol=0,
                atol=harness.logit_atol,
            )
        # statistics at some rows only, in another order than that of the passes
        some = replace(batch, logit_rows=np.array([0, 6, 11, 14, 17, 19]))
        (less,) = captured(harness.backend, [some], ["final"])
        np.testing.assert_allclose(
            less.statistics["entropy"],
            np.asarray(found.statistics["entropy"])[some.logit_rows],
            atol=1e-5,
        )

    def test_batches_come_back_in_order_and_unchanged_by_each_other(self, harness: Harness) -> None:
        groups = [[7, 3], [3], [11, 11, 2], [5]]
        batches = [
            make_batch(random_prompts(harness.vocabulary, lengths, seed=i), first=10 * i, shard=i)
            for i, lengths in enumerate(groups)
        ]
        sites = ["block.1", "final"]
        together = list(captured(harness.backend, batches, sites))
        assert [one.batch.prompt_ids for one in together] == [b.prompt_ids for b in batches]
        for found, batch in zip(together, batches, strict=True):
            (alone,) = captured(harness.backend, [batch], sites)
            for site in sites:
                np.testing.assert_array_equal(found.batch.hidden[site], alone.batch.hidden[site])

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_states_are_rounded_to_the_stored_dtype(
        self, harness: Harness, dtype: StoredDtype
    ) -> None:
        batch = make_batch(random_prompts(harness.vocabulary, [6, 3]))
        sites = harness.backend.sites.names
        (wide,) = captured(harness.backend, [batch], sites)
        (narrow,) = captured(harness.backend, [batch], sites, dtype)
        for site, rows in wide.batch.hidden.items():
            rounded = torch.from_numpy(rows).to(getattr(torch, dtype))
            bits = rounded.view(torch.int16).numpy().view(NUMPY_DTYPE[dtype])
            np.testing.assert_array_equal(narrow.batch.hidden[site], bits)

    def test_what_is_written_is_what_the_model_finds_most_likely(self, harness: Harness) -> None:
        beginnings = prompts_to_continue(harness.vocabulary, [9, 4, 17, 1, 9])
        how = Writing(tokens=8, temperature=0, seed=0, end_ids=(2,))
        found = {one.prompt_id: one for one in harness.backend.write(beginnings, how)}
        assert [*sorted(found)] == [one.prompt_id for one in beginnings]
        for one in beginnings:
            written = found[one.prompt_id]
            want = generated(harness.reference, one.token_ids, how)
            np.testing.assert_array_equal(written.token_ids, want)
            every = np.concatenate([one.token_ids, written.token_ids])
            logits = plain_forward(harness.reference, every.tolist())[1].astype(np.float64)
            log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            rows = np.arange(len(one.token_ids) - 1, len(every) - 1)
            np.testing.assert_allclose(
                written.logprobs, log_p[rows, written.token_ids], rtol=0, atol=harness.logit_atol
            )

    def test_draws_do_not_depend_on_what_runs_beside_them(self, harness: Harness) -> None:
        beginnings = prompts_to_continue(harness.vocabulary, [9, 4, 17, 1])
        how = Writing(tokens=8, temperature=0.8, seed=5, end_ids=(2,))

        def drawn(some: Sequence[Beginning], how: Writing = how) -> dict[int, list[int]]:
            written = harness.backend.write(some, how)
            return {one.prompt_id: one.token_ids.tolist() for one in written}

        together = drawn(beginnings)
        assert drawn(beginnings[::-1]) == together
        alone = [drawn([one]) for one in beginnings]
        assert {k: v for one in alone for k, v in one.items()} == together
        assert drawn(beginnings, replace(how, seed=6)) != together

    def test_nothing_follows_a_token_that_ends_a_text(self, harness: Harness) -> None:
        beginnings = prompts_to_continue(harness.vocabulary, [6] * 8)
        ends = tuple(range(0, harness.vocabulary, 5))
        how = Writing(tokens=12, temperature=1.0, seed=1, end_ids=ends)
        found = [one.token_ids for one in harness.backend.write(beginnings, how)]
        assert len({len(ids) for ids in found}) > 1
        for ids in found:
            assert not np.isin(ids[:-1], ends).any()
            assert len(ids) == how.tokens or ids[-1] in ends

    def test_nothing_is_left_on_the_model(self, harness: Harness) -> None:
        batch = make_batch(random_prompts(harness.vocabulary, [4]))
        list(captured(harness.backend, [batch], ["embed", "block.1", "final"]))
        hooks = [
            (name, hook)
            for name, module in harness.reference.named_modules()
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
            if hook.__module__.startswith("lpp.")  # transformers has hooks of its own
        ]
        assert hooks == []
