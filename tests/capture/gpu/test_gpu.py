"""Capture on a GPU: the backend contract in torch and vLLM, quantised models, a whole run.

`make test-gpu` runs these. `LPP_GPU_TESTS_ON=cpu` runs them on the CPU, as a test of the quick
tests does, so that they still run when a card is at hand.
"""

import copy
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
    captured,
    make_batch,
    random_prompts,
    torch_backend,
)

from lpp.capture.backends.open import open_backend
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.capture import capture_run
from lpp.capture.engine.prepare import prepare
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.backend import Backend
from lpp.capture.plan.request import BackendName, CaptureRequest, CorpusSpec
from lpp.store import RunWriter, create_store

DEVICE = os.environ.get("LPP_GPU_TESTS_ON", "cuda")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(),
        reason=f"needs a CUDA device: torch {torch.__version__} sees none",
    ),
]

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


def test_memory_for_rows_is_page_locked(tiny_model: Callable[[str], Any]) -> None:
    backend = torch_backend(copy.deepcopy(tiny_model("qwen2")).to(DEVICE))
    assert torch.from_numpy(backend.allocate(1 << 20)).is_pinned() == (DEVICE == "cuda")


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


@pytest.mark.parametrize("keep", ["rows", "moments", "both"])
def test_a_capture_verifies(keep: Any, folder: Path, tmp_path: Path) -> None:
    wanted = replace(request(folder), keep=keep, shard_bytes=1 << 18)
    ready = prepare(wanted)
    writer = RunWriter(create_store(tmp_path / "store").path, ready.plan, ready.prompts)
    assert capture_run(ready.plan, ready.prompts, writer, ready.backend) == ready.plan.n_shards > 1
    assert writer.run.verify() == []
    assert writer.run.quarantine.num_rows == 0
