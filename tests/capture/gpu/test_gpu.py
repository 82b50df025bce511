"""Capture on a GPU: the backend contract in torch and vLLM, quantised models, a whole run.

`make test-gpu` runs these on a card, `make test` on the simulated one (`tested_device`), and a test
of the page of results on the CPU.
"""

import copy
import gc
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from backend_contract import (
    BackendContract,
    Harness,
    branching_batch,
    captured,
    make_batch,
    random_prompts,
    torch_backend,
)
from torch import distributed

from lpp.capture.backends.batch_rows import BatchRows, CopyStreams, as_tensor
from lpp.capture.backends.host_memory import host_memory, page_lock
from lpp.capture.backends.logit_statistics import (
    STATISTICS,
    VocabularyShard,
    all_reduce,
    logit_statistics,
)
from lpp.capture.backends.open import open_backend
from lpp.capture.backends.torch_backend import _Capture as Capture
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.capture import capture_run
from lpp.capture.engine.prepare import prepare
from lpp.capture.models.device import kind_of
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.backend import Backend, Outputs
from lpp.capture.plan.request import BackendName, CaptureRequest, CorpusSpec
from lpp.store import RunWriter, create_store

DEVICE = os.environ.get("LPP_TESTS_ON", "cuda")

ON_CARD = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(),
        reason=f"needs a CUDA device: torch {torch.__version__} sees none",
    ),
]
pytestmark = [] if DEVICE == "sim" else ON_CARD

CLOSE = {"hidden_rtol": 1e-4, "logit_atol": 1e-3}
"""Two devices add up in different orders."""


def request(folder: Path, backend: BackendName = "torch", **model: Any) -> CaptureRequest:
    return CaptureRequest(
        model=ModelSpec(id=str(folder), device=DEVICE, **model),
        corpus=CorpusSpec(name="pydoc"),
        selection=Selection(prompts=12, min_bytes=0),
        context=96,
        backend=backend,
    )


@pytest.fixture(scope="module")
def folder(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random float32 model whose shapes the kernels of vLLM and bitsandbytes take."""
    config = transformers.Qwen2Config(
        vocab_size=131,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("models") / "qwen2"
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(path)
    tiny_tokenizer.save_pretrained(path)
    return path


class TestTorch(BackendContract):
    @pytest.fixture
    def harness(self, family: str, tiny_model: Callable[[str], Any]) -> Harness:
        reference = tiny_model(family)
        return Harness(
            backend=torch_backend(copy.deepcopy(reference).to(DEVICE)),
            reference=reference,
            vocabulary=reference.config.vocab_size,
            **CLOSE,
        )


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Backend]:
    """The model in vLLM."""
    with closing(open_backend(request(folder, "vllm", dtype="float32"))) as backend:
        yield backend


@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM, which is not installed here")
class TestVllm(BackendContract):
    @pytest.fixture
    def harness(self, served: Backend, folder: Path) -> Harness:
        reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return Harness(backend=served, reference=reference.eval(), vocabulary=131, **CLOSE)


def test_a_batch_that_does_not_fit_leaves_nothing_behind(
    tiny_model: Callable[[str], Any],
) -> None:
    """Halves of halves run without the rows of what failed: no more prompts wait than have run."""
    backend = torch_backend(copy.deepcopy(tiny_model("qwen2")).to(DEVICE))
    prompts, sites = random_prompts(131, [9, 9, 5, 5]), backend.sites.names
    (whole,) = captured(backend, [make_batch(prompts)], sites)
    found: list[tuple[int, int]] = []

    def alone(module: Any, args: Any, output: Any) -> None:
        size = args[0].shape[0]
        held = sum(type(one) is BatchRows for one in gc.get_objects())
        found.append((size, held))
        if size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with backend._modules.blocks[-1].register_forward_hook(alone):
        (halved,) = captured(backend, [make_batch(prompts)], sites)
    # (prompts in the pass, batches whose rows are held): those before it have run
    assert found == [(4, 1), (2, 1), (1, 1), (1, 2), (2, 3), (1, 3), (1, 4)]
    assert not halved.failed
    for site in sites:
        np.testing.assert_allclose(
            halved.batch.hidden[site], whole.batch.hidden[site], rtol=0, atol=1e-4
        )


def test_copies_of_large_batches_end_before_their_rows_are_read(folder: Path) -> None:
    backend = open_backend(request(folder, dtype="float32"))
    sites, count = backend.sites.names, 64 if DEVICE == "cuda" else 4
    batches = [
        make_batch(random_prompts(131, [96] * count, seed=seed), first=seed * count)
        for seed in range(5)
    ]
    together = list(captured(backend, batches, sites))
    for found, batch in zip(together, batches, strict=True):
        (alone,) = captured(backend, [batch], sites)
        for site in sites:
            np.testing.assert_array_equal(found.batch.hidden[site], alone.batch.hidden[site])
        for name in STATISTICS:
            np.testing.assert_array_equal(found.statistics[name], alone.statistics[name])


def test_a_finished_batch_is_read_without_waiting_for_the_next(folder: Path) -> None:
    backend: Any = open_backend(request(folder, dtype="float32"))
    outputs = Outputs(sites=backend.sites.names, dtype="float32")
    capture = Capture(backend, outputs, CopyStreams())
    batch = make_batch(random_prompts(131, [96] * 8))
    hidden = {
        site: backend.allocate(4 * 768 * backend.sites.width(site))
        .view(np.float32)
        .reshape(768, -1)
        for site in outputs.sites
    }
    finish = [capture.launch(replace(batch, hidden=hidden)) for _ in range(2)]
    if DEVICE == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        found = [one() for one in finish]
    finally:
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert all(one.not_finite in (None, {}) for one in found)
    assert all(np.isfinite(rows).all() for rows in hidden.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_branches_reuse_keys_and_values(dtype: Any, folder: Path) -> None:
    backend: Any = open_backend(request(folder, dtype=dtype))
    assert backend.reuses
    batch, _ = branching_batch(131)
    (reused,) = captured(backend, [batch], ["final"], dtype)
    backend.reuses = False
    (repeated,) = captured(backend, [batch], ["final"], dtype)
    one, other = (as_tensor(found.batch.hidden["final"]).float() for found in (reused, repeated))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4 if dtype == "float32" else 0.1)


@pytest.mark.skipif(DEVICE == "cpu", reason="a CPU locks no pages")
def test_a_refused_page_lock_is_not_the_next_kernels_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = host_memory(1 << 20, DEVICE)
    with caplog.at_level(logging.WARNING, "lpp.capture"):
        page_lock(memory, DEVICE)  # refused: it is registered already
    assert "was refused" in caplog.text
    assert torch.ones(3, device=DEVICE).sum().item() == 3
    del memory
    gc.collect()
    assert torch.ones(3, device=DEVICE).sum().item() == 3


class Given:
    """'Unembeds' rows, which are logits already, to some of their columns."""

    def __init__(self, columns: range) -> None:
        self.vocabulary, self.columns = 131, columns
        self.dtype, self.device = torch.float32, torch.device(DEVICE)

    def logits(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_(rows[:, self.columns.start : self.columns.stop])


def of_rank(rank: int, meeting: str) -> None:
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    torch.manual_seed(2)
    rows, next_ids = torch.randn(50, 131).to(DEVICE), torch.arange(50)
    columns = (range(70), range(70, 131))[rank]
    shard = VocabularyShard(columns=columns, reduce=all_reduce())
    found = logit_statistics(rows, Given(columns), next_ids, 16, shard).numpy()
    want = logit_statistics(rows, Given(range(131)), next_ids, 16).numpy()
    for name in STATISTICS:
        np.testing.assert_allclose(found[name], want[name], rtol=1e-5, atol=1e-5, err_msg=name)
    distributed.destroy_process_group()


def test_two_ranks_give_the_statistics_of_all_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes on one device: gloo reduces on both kinds of device."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    meeting = (tmp_path / "meeting").as_uri()
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=of_rank, args=(rank, meeting)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]


def test_memory_for_rows_is_page_locked(tiny_model: Callable[[str], Any]) -> None:
    backend = torch_backend(copy.deepcopy(tiny_model("qwen2")).to(DEVICE))
    assert torch.from_numpy(backend.allocate(1 << 20)).is_pinned() == (
        kind_of(DEVICE).page_lock is not None
    )


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_rows_of_a_quantised_model_are_its_own(kind: Any, folder: Path, tmp_path: Path) -> None:
    backend: Any = open_backend(request(folder, dtype="bfloat16", quantization=kind))
    check_rows(backend)
    backend.model.module.save_pretrained(tmp_path)
    backend.model.tokenizer.save_pretrained(tmp_path)
    check_rows(open_backend(request(tmp_path)))


def test_rows_of_a_model_in_bfloat16_are_its_own(folder: Path) -> None:
    check_rows(open_backend(request(folder, dtype="bfloat16")))


@torch.inference_mode()
def check_rows(backend: Any) -> None:
    """Compare the rows of a prompt with what the same module gives of it."""
    (ids,) = random_prompts(131, [40])
    module = backend.model.module
    (found,) = captured(backend, [make_batch([ids])], backend.sites.names, "bfloat16")
    output = module(torch.tensor([ids], device=DEVICE), output_hidden_states=True, use_cache=False)
    names = [*backend.sites.names[:-2], "final"]  # transformers gives block.B past the norm alone
    for site, state in zip(names, output.hidden_states, strict=True):
        want = state[0].float().cpu().numpy()
        rows = torch.from_numpy(found.batch.hidden[site].view(np.int16)).view(torch.bfloat16)
        np.testing.assert_allclose(
            rows.float().numpy(), want, rtol=0, atol=0.01 * np.abs(want).max(), err_msg=site
        )


def test_a_capture_verifies(folder: Path, tmp_path: Path) -> None:
    wanted = replace(request(folder), shard_bytes=1 << 18)
    ready = prepare(wanted)
    writer = RunWriter(create_store(tmp_path / "store").path, ready.plan, ready.prompts)
    assert capture_run(ready.plan, ready.prompts, writer, ready.backend) == ready.plan.n_shards > 1
    assert writer.run.verify() == []
    assert writer.run.quarantine.num_rows == 0
