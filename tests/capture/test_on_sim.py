"""The torch backend on the simulated card: the CPU's bits, and the memory that `--dry-run` says.

`make test` runs whole files of tests of capture on the card too (`tested_device`).
"""

import copy
import gc
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backend_contract import (
    captured,
    make_batch,
    prompts_to_continue,
    random_prompts,
    torch_backend,
)
from simulated_card import card
from tiny_families import FAMILIES, tiny_family
from torch.utils._python_dispatch import TorchDispatchMode

from lpp.capture.backends.logit_statistics import STATISTICS, statistics
from lpp.capture.backends.logit_statistics.fused import fused
from lpp.capture.engine.dry_run import dry_run
from lpp.capture.engine.run import capture_into
from lpp.capture.models.device import KINDS
from lpp.capture.plan.backend import Writing
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.settings import CaptureSettings
from lpp.store import open_store
from lpp.store.units import short_bytes

sim: Any = torch.get_device_module("sim")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(KINDS, "sim", KINDS["cuda"])
    with card.fresh():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_rows_statistics_and_tokens_have_the_bits_of_the_cpu(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # both sides use the card's reduction: the CPU's adds in another order
    monkeypatch.setattr(statistics, "EagerReduction", lambda _: fused())
    model = tiny_family(family, torch.bfloat16)
    batches = [make_batch(random_prompts(67, [9, 4, 17, 1], seed=n), shard=n) for n in range(3)]
    beginnings = prompts_to_continue(67, [5, 9, 2])
    found = []
    for device in ("cpu", "sim"):
        backend = torch_backend(model.to(device))
        done = list(captured(backend, batches, backend.sites.names_with_routers, "bfloat16"))
        written = [
            {one.prompt_id: (one.token_ids, one.logprobs) for one in made}
            for how in (
                Writing(tokens=6, temperature=0, seed=0, end_ids=()),
                Writing(tokens=6, temperature=0.8, seed=3, end_ids=()),
            )
            for made in [list(backend.write(beginnings, how))]
        ]
        found.append((done, written))
    (on_cpu, tokens), (on_card, of_card) = found
    for card_made, cpu_made in zip(of_card, tokens, strict=True):
        for prompt, (ids, logprobs) in cpu_made.items():
            np.testing.assert_array_equal(card_made[prompt][0], ids)
            # a product of one row depends in its last bit on how memory is aligned
            np.testing.assert_allclose(card_made[prompt][1], logprobs, rtol=0, atol=1e-3)
    for one, other in zip(on_card, on_cpu, strict=True):
        assert one.not_finite == {}
        for site, rows in other.batch.hidden.items():
            np.testing.assert_array_equal(one.batch.hidden[site], rows, err_msg=site)
        for name in STATISTICS:
            np.testing.assert_array_equal(one.statistics[name], other.statistics[name], name)


def test_a_capture_that_is_ended_waits_for_the_batch_under_way(
    tiny_model: Callable[[str], Any],
) -> None:
    backend = torch_backend(copy.deepcopy(tiny_model("llama")).to("sim"))
    batches = [make_batch(random_prompts(131, [9, 4], seed=n), shard=n) for n in range(3)]
    running = captured(backend, batches, backend.sites.names)
    next(running)
    assert card.copies
    running.close()  # type: ignore[attr-defined]
    assert not card.copies


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_a_prompt_that_does_not_fit_has_zeros_and_no_copy_on_top(
    share: float, tiny_model: Callable[[str], Any]
) -> None:
    backend = torch_backend(copy.deepcopy(tiny_model("llama")).to("sim"))
    batch, sites = make_batch(random_prompts(131, [9, 4, 17, 1])), backend.sites.names
    weights = sim.memory_allocated(0)
    sim.reset_peak_memory_stats(0)
    (whole,) = captured(backend, [batch], sites)
    card.capacity = weights + int(share * (sim.max_memory_allocated(0) - weights))
    (found,) = captured(backend, [batch], sites)
    assert set(found.failed) < {0, 1, 2, 3}
    starts = np.cumsum([0, *batch.lengths])
    for prompt, (start, end) in enumerate(itertools.pairwise(starts)):
        for site in sites:
            rows, want = (one.batch.hidden[site][start:end] for one in (found, whole))
            if prompt in found.failed:
                assert not rows.any()
            else:
                np.testing.assert_allclose(rows, want, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_peak_of_a_capture_is_what_the_dry_run_measured(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    corpus = tmp_path / "texts.jsonl"
    texts = ["the dog and the fox " * (1 + n % 4) for n in range(60)]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    model = str(tiny_folder("llama"))
    settings = CaptureSettings(
        model=model, corpus=str(corpus), device="sim", context=90, batch_tokens=200, min_bytes=0
    )
    request, store = request_of(settings), tmp_path / "store"
    card.capacity = 1 << 30
    gc.collect()  # what other tests left on the card
    said = dry_run(store, request)
    assert said.card_peak is not None
    assert f"on a card  {short_bytes(said.card_peak)} of 1.07 GB" in said.message()

    gc.collect()
    sim.reset_peak_memory_stats(0)
    capture_into(store, request)
    (run,) = open_store(store).runs.values()
    assert run.plan.compute.device == "sim"
    assert 1 <= said.card_peak / sim.max_memory_allocated(0) <= 1.15


class Watch(TorchDispatchMode):
    """Notes the operators that give a tensor of float64 on the card."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wide: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.device.type == "sim":
            self.wide += [str(func)] * (made.dtype == torch.float64)
        return made


def test_a_kind_without_float64_adds_on_the_cpu(
    tiny_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Apple's and Intel's cards: no tensor of eight bytes a float is ever on the card."""
    monkeypatch.setitem(KINDS, "sim", replace(KINDS["xpu"], copies_aside=False, page_lock=None))
    model, batch = tiny_model("llama"), make_batch(random_prompts(131, [9, 4, 17, 1]))
    (want,) = captured(torch_backend(model), [batch], ["final"])
    beginnings = prompts_to_continue(131, [5, 9])
    how = Writing(tokens=5, temperature=0.8, seed=3, end_ids=())
    written = [one.token_ids.tolist() for one in torch_backend(model).write(beginnings, how)]
    backend = torch_backend(copy.deepcopy(model).to("sim"))
    with Watch() as watch:
        (found,) = captured(backend, [batch], ["final"])
        tokens = [one.token_ids.tolist() for one in backend.write(beginnings, how)]
    assert watch.wide == []
    assert tokens == written
    np.testing.assert_array_equal(found.batch.hidden["final"], want.batch.hidden["final"])
    for name in STATISTICS:
        np.testing.assert_array_equal(found.statistics[name], want.statistics[name], name)
