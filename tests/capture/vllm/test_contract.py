"""The backend contract, inside vLLM, for each family; and what vLLM alone could get wrong."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_contract import (
    BackendContract,
    Harness,
    make_batch,
    plain_forward,
    random_prompts,
)
from served import serve

from lpp.capture.backends.vllm.backend import EPSILON, _check_causal
from lpp.capture.plan.backend import Batch, Captured
from lpp.store.errors import InputError


@pytest.fixture(scope="module")
def served_by_two(wide_folder: Callable[[str], Path]) -> Iterator[Any]:
    """A model on two ranks, a core each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
        yield from serve(wide_folder("qwen2"), "qwen2", tensor_parallel=2)


class TestTwoRanks(BackendContract):
    @pytest.fixture
    def harness(self, served_by_two: Any) -> Harness:
        return Harness(
            backend=served_by_two.backend,
            reference=served_by_two.reference,
            vocabulary=served_by_two.vocabulary,
            hidden_rtol=1e-5,
            logit_atol=1e-4,
        )


class LeakyBackend:
    """Every row knows the last token: what the check after loading must see."""

    def capture(self, batches: Iterable[Batch]) -> Iterator[Captured]:
        for batch in batches:
            rows = np.linspace(1, 2, 14 * 8, dtype=np.float32).reshape(14, 8)
            rows[:, 0] *= 25_000  # as massive as activations get
            rows[:, 1:] += batch.token_ids[-1] / 100
            yield Captured(batch=batch, hidden={"block.1": rows}, statistics={})


def test_a_model_that_looks_ahead_is_seen() -> None:
    ids = np.arange(3, 17, dtype=np.int32)
    for epsilon in EPSILON.values():
        with pytest.raises(InputError, match=r"a later token changes block\.1"):
            _check_causal(LeakyBackend(), "leaky", ids, epsilon)


class TestVllmBackend(BackendContract):
    @pytest.fixture
    def harness(self, served: Any) -> Harness:
        return Harness(
            backend=served.backend,
            reference=served.reference,
            vocabulary=served.vocabulary,
            hidden_rtol=1e-5,
            logit_atol=1e-4,
        )

    def test_nothing_is_left_on_the_engines_model(self, served: Any) -> None:
        list(served.backend(served.found.names).capture([batch(served, [4])]))
        assert served.engine.call("lpp_hooks") == 0

    def test_a_prompt_may_fill_every_position_of_the_model(self, served: Any) -> None:
        prompts = random_prompts(served.vocabulary, [96, 95], seed=4)
        (captured,) = served.backend(["final"]).capture([make_batch(prompts)])
        want = np.concatenate([plain_forward(served.reference, ids)[0]["final"] for ids in prompts])
        np.testing.assert_allclose(
            captured.hidden["final"], want, rtol=0, atol=1e-4 * np.abs(want).max()
        )

    def test_prompts_of_one_token_and_equal_prompts_each_have_their_rows(self, served: Any) -> None:
        prompts = [[5], [9, 9], [5], [0], [9, 9], [5]]
        (captured,) = served.backend(["block.2", "final"]).capture([make_batch(prompts)])
        rows = np.split(captured.hidden["block.2"], np.cumsum([len(p) for p in prompts])[:-1])
        for ids, got in zip(prompts, rows, strict=True):
            want = plain_forward(served.reference, ids)[0]["block.2"]
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())

    def test_a_batch_of_many_prompts_takes_several_steps_and_stays_in_order(
        self, served: Any
    ) -> None:
        lengths = [1 + n % 3 for n in range(300)]  # more than PROMPTS_AT_ONCE
        prompts = random_prompts(served.vocabulary, lengths, seed=8)
        (captured,) = served.backend(["embed", "final"]).capture([make_batch(prompts)])
        embedding = served.reference.get_input_embeddings().weight.detach().numpy()
        ids = np.concatenate(prompts)
        if served.family != "gpt2":  # GPT-2 adds a position
            ratio = captured.hidden["embed"] / embedding[ids]
            np.testing.assert_allclose(ratio, np.full_like(ratio, ratio.mean()), rtol=1e-3)
        for place in (0, 150, 299):
            start = sum(lengths[:place])
            want = plain_forward(served.reference, prompts[place])[0]["final"]
            np.testing.assert_allclose(
                captured.hidden["final"][start : start + lengths[place]],
                want,
                rtol=0,
                atol=1e-4 * np.abs(want).max(),
            )


def batch(served: Any, lengths: Sequence[int]) -> Any:
    return make_batch(random_prompts(served.vocabulary, lengths))
