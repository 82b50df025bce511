"""Holding every site of one backend against another's; no vLLM needed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from backend_contract import torch_backend

from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.backends.vllm.checks import check_states, relative_difference
from lpp.capture.plan.backend import Batch, Captured, Outputs
from lpp.store.errors import ErrorKind, InputError


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
