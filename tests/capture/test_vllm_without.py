"""What the backend of vLLM does without vLLM: prompts of a flat batch, its cache, its checks."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from backend_contract import torch_backend
from hypothesis import given
from hypothesis import strategies as st

from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.backends.vllm.cache_size import cache_bytes
from lpp.capture.backends.vllm.checks import check_states, relative_difference
from lpp.capture.backends.vllm.match import Found, find_prompts, prompt_key
from lpp.capture.plan.backend import Batch, Captured, Outputs
from lpp.store.errors import ErrorKind, InputError

PROMPTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8)


def ids(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int32)


def flat(prompts: list[list[int]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.concatenate([ids(*p) for p in prompts]), np.concatenate(
        [np.arange(len(p)) for p in prompts]
    )


@given(prompts=PROMPTS)
def test_every_prompt_of_a_flat_batch_is_found_where_it_lies(prompts: list[list[int]]) -> None:
    awaited = Counter(prompt_key(ids(*p)) for p in prompts)
    starts = np.cumsum([0, *(len(p) for p in prompts[:-1])]).tolist()
    want = [Found(prompt_key(ids(*p)), s, len(p)) for p, s in zip(prompts, starts, strict=True)]
    assert find_prompts(*flat(prompts), awaited) == want


@given(prompts=PROMPTS, padding=st.lists(st.integers(0, 9), max_size=5))
def test_padding_behind_the_last_prompt_changes_nothing_before_it(
    prompts: list[list[int]], padding: list[int]
) -> None:
    awaited = Counter(prompt_key(ids(*p)) for p in prompts)
    tokens, positions = flat(prompts)
    rng = np.random.default_rng(len(padding))
    found = find_prompts(
        np.append(tokens, rng.integers(0, 4, len(padding)).astype(np.int32)),
        np.append(positions, padding),
        awaited,
    )
    want = find_prompts(tokens, positions, awaited)
    # stale positions may make the last prompt look longer: it is still that prompt, or one whose
    # ids the padding happens to spell
    assert found[: len(want) - 1] == want[:-1]
    assert found[len(want) - 1].start == want[-1].start


def test_a_prompt_that_nobody_awaits_is_passed_over() -> None:
    tokens, positions = flat([[1, 2], [3], [1, 2]])
    found = find_prompts(tokens, positions, {prompt_key(ids(1, 2)): 1})
    assert [(f.start, f.length) for f in found] == [(0, 2)]


def test_the_rest_of_a_chunked_prompt_is_not_taken_for_one() -> None:
    found = find_prompts(ids(7, 8, 9), np.array([4, 5, 6]), {prompt_key(ids(7, 8, 9)): 1})
    assert found == []


def config(*, ranks: int = 1, context: int = 200, tokens: int = 16384, **kind: bool) -> Any:
    """A model of 28 layers with 4 key-value heads of 128 in bfloat16, as vLLM describes it."""
    model = SimpleNamespace(
        is_hybrid=False,
        is_attention_free=False,
        has_inner_state=False,
        dtype=torch.bfloat16,
        max_model_len=context + 1,
        get_num_kv_heads=lambda parallel: 4 // parallel.tensor_parallel_size,
        get_head_size=lambda: 128,
        get_num_layers=lambda parallel: 28,
    )
    vars(model).update(kind)
    return SimpleNamespace(
        model_config=model,
        scheduler_config=SimpleNamespace(max_num_seqs=256, max_num_batched_tokens=tokens),
        cache_config=SimpleNamespace(block_size=16),
        parallel_config=SimpleNamespace(tensor_parallel_size=ranks),
    )


def test_a_cache_for_the_prompts_of_one_batch() -> None:
    # 82 prompts of 201 tokens, 13 blocks and one each; a quarter and 1,024 tokens more
    tokens = 82 * 14 * 16 * 5 // 4 + 1024
    assert cache_bytes(config()) == tokens * 2 * 4 * 128 * 28 * 2
    assert tokens > 16384


def test_ranks_share_the_heads() -> None:
    whole, half = cache_bytes(config()), cache_bytes(config(ranks=2))
    assert whole is not None
    assert half == whole // 2


@pytest.mark.parametrize("context", [1, 14, 200, 8000])
@pytest.mark.parametrize("block", [16, 128, 256])
def test_one_prompt_fits_whatever_the_blocks_of_the_kernels(context: int, block: int) -> None:
    size = cache_bytes(config(context=context, tokens=context + 1))
    assert size is not None
    blocks = size // (2 * 4 * 128 * 28 * 2) // block
    assert blocks >= -(-(context + 1) // block) + 1  # and the one that vLLM keeps back


@pytest.mark.parametrize("kind", ["is_hybrid", "is_attention_free", "has_inner_state"])
def test_a_recurrent_state_is_left_to_vllm(kind: str) -> None:
    assert cache_bytes(config(**{kind: True})) is None


class Changed:
    """A backend whose rows of one site are changed."""

    def __init__(self, backend: TorchBackend, site: str, change: Callable[[Any], Any]) -> None:
        self._backend, self._site, self._change = backend, site, change
        self.model, self.sites, self.compute = backend.model, backend.sites, backend.compute
        self.allocate, self.close = backend.allocate, backend.close
        self.reuses = backend.reuses
        self.write, self.head = backend.write, backend.head

    def capture(self, batches: Iterable[Batch], outputs: Outputs) -> Iterator[Captured]:
        for captured in self._backend.capture(batches, outputs):
            hidden = captured.batch.hidden
            hidden[self._site][...] = self._change(hidden)
            yield captured


@pytest.fixture(scope="module")
def backend(tiny_model: Callable[[str], Any]) -> TorchBackend:
    return torch_backend(tiny_model("llama"))


def test_one_model_in_two_backends_passes(backend: TorchBackend) -> None:
    check_states(backend, backend)
    rounded = Changed(backend, "block.2", lambda hidden: hidden["block.2"] * (1 + 2.0**-20))
    check_states(rounded, backend)


@pytest.mark.parametrize(
    ("site", "change"),
    [
        ("block.2", lambda hidden: hidden["block.1"]),  # one block off
        ("block.1", lambda hidden: hidden["block.1"] - hidden["embed"]),  # without its residual
        ("embed", lambda hidden: hidden["embed"] * 8),  # past a scale of embeddings
        ("final", lambda hidden: np.where(np.arange(14)[:, None] == 3, np.nan, hidden["final"])),
    ],
)
def test_the_first_site_that_differs_is_named(
    backend: TorchBackend, site: str, change: Callable[[Any], Any]
) -> None:
    with pytest.raises(InputError, match=f"{site} is not what transformers computes") as refused:
        check_states(Changed(backend, site, change), backend)
    assert refused.value.kind is ErrorKind.UNSUPPORTED_MODEL


def test_other_sites_are_refused(backend: TorchBackend) -> None:
    other = Changed(backend, "embed", lambda hidden: hidden["embed"])
    other.sites = replace(backend.sites, final_norm=False)
    with pytest.raises(InputError, match="its sites are"):
        check_states(other, backend)


def test_a_difference_is_that_of_the_middle_row() -> None:
    reference = np.array([[3000, 4000], [3, 4], [0.3, 0.4]], np.float32)
    mine = reference + np.array([[0, 50], [0, 0.5], [0, 0.005]], np.float32)
    assert relative_difference(mine, reference) == pytest.approx(0.01)
    assert relative_difference(reference, reference) == 0
    assert relative_difference(np.full((3, 2), np.nan, np.float32), reference) == np.inf
