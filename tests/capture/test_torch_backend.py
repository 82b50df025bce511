"""The torch backend: the contract on every family, and what is torch's alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from backend_contract import BackendContract, Harness, make_batch, random_prompts

from lpp.capture.sites import find_sites
from lpp.capture.torch_backend import TorchBackend, padded
from lpp.store.errors import ErrorKind, MachineError


class TestTorchBackend(BackendContract):
    @pytest.fixture
    def harness(self, family: str, tiny_model: Callable[[str], Any]) -> Harness:
        model = tiny_model(family)
        return Harness(
            backend=lambda wanted: TorchBackend(model, find_sites(model), wanted, "float32"),
            reference=model,
            vocabulary=model.config.vocab_size,
        )


def test_padding_repeats_a_real_token_and_is_not_among_the_rows() -> None:
    ids, places = padded(make_batch([[7, 8], [5, 6, 9]]))
    assert ids.tolist() == [[7, 8, 7], [5, 6, 9]]
    assert ids.flatten()[places].tolist() == [7, 8, 5, 6, 9]


def test_bfloat16_states_are_handed_over_bit_for_bit(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("llama")
    sites = find_sites(model)
    batch = make_batch(random_prompts(model.config.vocab_size, [6, 3]))
    (wide,) = TorchBackend(model, sites, sites.names, "float32").capture([batch])
    (narrow,) = TorchBackend(model, sites, sites.names, "bfloat16").capture([batch])
    for site, rows in wide.hidden.items():
        expected = torch.from_numpy(np.array(rows)).bfloat16().view(torch.uint16).numpy()
        np.testing.assert_array_equal(narrow.hidden[site], expected)


def test_next_ids_stop_at_the_end_of_each_prompt() -> None:
    batch = make_batch([[4, 5], [6], [7, 8, 9]], asked=[0, 1, 2, 4, 5])
    assert batch.next_ids.tolist() == [5, -1, -1, 9, -1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_names_the_batch_and_what_helps(
    tiny_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model = tiny_model("gpt2")
    backend = TorchBackend(model, find_sites(model), ["final"], "float32")

    def full(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(model.transformer, "forward", full)
    with pytest.raises(MachineError, match=r"2 prompts, 12 tokens.*--batch-tokens 6") as caught:
        list(backend.capture([make_batch([[5] * 6, [5] * 4])]))
    assert caught.value.kind is ErrorKind.NO_MEMORY
    with pytest.raises(MachineError, match=r"1 prompts, 6 tokens.* shorter --context"):
        list(backend.capture([make_batch([[5] * 6])]))
