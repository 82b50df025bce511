"""The backend contract, inside vLLM, for each family; and what vLLM alone could get wrong."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from backend_contract import (
    BackendContract,
    Harness,
    captured,
    make_batch,
    plain_forward,
    random_prompts,
)
from served import Served, serve

from lpp.capture.plan.backend import Outputs


@pytest.fixture(scope="module")
def served_by_two(wide_folder: Callable[[str], Path]) -> Iterator[Served]:
    """A model on two ranks, a core each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
        yield from serve(wide_folder("qwen2"), "qwen2", tensor_parallel=2)


def harness_of(served: Served) -> Harness:
    return Harness(backend=served.backend, reference=served.reference, vocabulary=served.vocabulary)


class TestTwoRanks(BackendContract):
    @pytest.fixture
    def harness(self, served_by_two: Served) -> Harness:
        return harness_of(served_by_two)

    def test_each_rank_reduces_its_own_columns_of_the_logits(self, harness: Harness) -> None:
        assert harness.backend.engine.call("lpp_unembed", harness.vocabulary)  # type: ignore[attr-defined]

    def test_no_file_of_the_rows_is_left(self, harness: Harness) -> None:
        before = set(Path("/dev/shm").glob("lpp-*"))
        batches = [make_batch(random_prompts(harness.vocabulary, [4])) for _ in range(2)]
        for _ in captured(harness.backend, batches, harness.backend.sites.names):
            assert set(Path("/dev/shm").glob("lpp-*")) <= before

    def test_rows_elsewhere_than_in_memory_of_the_backend_are_refused(
        self, harness: Harness
    ) -> None:
        batch = make_batch(random_prompts(harness.vocabulary, [4]))
        elsewhere = np.zeros((4, harness.backend.sites.hidden_size), np.float32)
        outputs = Outputs(sites=("block.1",), dtype="float32")
        with pytest.raises(ValueError, match=r"block\.1: these rows lie in memory"):
            list(harness.backend.capture([replace(batch, hidden={"block.1": elsewhere})], outputs))


class TestVllmBackend(BackendContract):
    @pytest.fixture
    def harness(self, served: Served) -> Harness:
        return harness_of(served)

    def test_nothing_is_left_on_the_engines_model(self, served: Served) -> None:
        batch = make_batch(random_prompts(served.vocabulary, [4]))
        list(captured(served.backend, [batch], served.backend.sites.names))
        assert served.backend.engine.call("lpp_hooks") == 0

    def test_a_prompt_may_fill_every_position_of_the_model(self, served: Served) -> None:
        prompts = random_prompts(served.vocabulary, [96, 95], seed=4)
        (found,) = captured(served.backend, [make_batch(prompts)], ["final"])
        want = np.concatenate([plain_forward(served.reference, ids)[0]["final"] for ids in prompts])
        np.testing.assert_allclose(
            found.batch.hidden["final"], want, rtol=0, atol=1e-4 * np.abs(want).max()
        )

    def test_prompts_of_one_token_and_equal_prompts_each_have_their_rows(
        self, served: Served
    ) -> None:
        prompts = [[5], [9, 9], [5], [0], [9, 9], [5]]
        (found,) = captured(served.backend, [make_batch(prompts)], ["block.2", "final"])
        hidden: npt.NDArray[Any] = found.batch.hidden["block.2"]
        rows = np.split(hidden, np.cumsum([len(p) for p in prompts])[:-1])
        for ids, got in zip(prompts, rows, strict=True):
            want = plain_forward(served.reference, ids)[0]["block.2"]
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())

    def test_the_cache_holds_a_batch_of_long_prompts_at_once(self, served: Served) -> None:
        prompts = random_prompts(served.vocabulary, [96] * 21)  # 2,016 of 2,048 tokens
        assert len(list(served.backend.engine.run(prompts))) == 1

    def test_a_batch_of_many_prompts_takes_several_steps_and_stays_in_order(
        self, served: Served
    ) -> None:
        lengths = [1 + n % 3 for n in range(300)]  # more than PROMPTS_AT_ONCE
        prompts = random_prompts(served.vocabulary, lengths, seed=8)
        (found,) = captured(served.backend, [make_batch(prompts)], ["embed", "final"])
        embedding = served.reference.get_input_embeddings().weight.detach().numpy()
        ids = np.concatenate(prompts)
        if served.family != "gpt2":  # GPT-2 adds a position
            ratio = found.batch.hidden["embed"] / embedding[ids]
            np.testing.assert_allclose(ratio, np.full_like(ratio, ratio.mean()), rtol=1e-3)
        for place in (0, 150, 299):
            start = sum(lengths[:place])
            want = plain_forward(served.reference, prompts[place])[0]["final"]
            np.testing.assert_allclose(
                found.batch.hidden["final"][start : start + lengths[place]],
                want,
                rtol=0,
                atol=1e-4 * np.abs(want).max(),
            )
