"""What `lpp.capture.capture` leaves as it was: the caller's model, its settings, Ctrl-C."""

import gc
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loaded_models import SETTINGS, TEXTS, Interrupting, Load
from stored import only_run, stored_objects

from lpp.capture import capture
from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.engine.shard_buffer import ShardBuffer
from lpp.store.errors import InputError


def state_of(model: Any) -> Any:
    return (
        [(name, sorted(vars(part))) for name, part in model.named_modules()],
        [
            (len(part._forward_hooks), len(part._forward_pre_hooks), part.training)
            for part in model.modules()
        ],
        [(name, id(weight), weight.requires_grad) for name, weight in model.named_parameters()],
        [(name, id(buffer), buffer.is_inference()) for name, buffer in model.named_buffers()],
        dict(vars(model.config)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("of", ["llama", "gemma2", "falcon_alibi", "opt"])
def test_a_loaded_model_is_left_as_it_was(
    load: Load, of: str, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = load(of)
    model.config.use_cache = model.config.output_hidden_states = True
    ids = torch.tensor([[5, 6, 7, 8]])
    list(model.parameters())[-1].requires_grad_(False)
    with torch.no_grad():
        logits = model(ids).logits
    before, draws = state_of(model), torch.get_rng_state()
    capture(model, tiny_tokenizer, TEXTS, store=tmp_path / "s", **SETTINGS)
    assert state_of(model) == before
    with pytest.raises(InputError):  # once the model has been looked at
        capture(model, tiny_tokenizer, TEXTS, store=tmp_path / "s", sites=["nose"], **SETTINGS)
    assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), draws)
    assert torch.is_grad_enabled()
    assert torch.equal(model(ids).logits, logits)
    model(ids, labels=ids).loss.backward()  # it can still be trained
    assert next(model.parameters()).grad is not None


@pytest.fixture
def ctrl_c_works() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def other_settings() -> Iterator[None]:
    """Settings of a notebook that change numbers."""
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        yield
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")


@pytest.mark.slow
def test_settings_of_the_process_change_nothing(
    load: Load, tiny_tokenizer: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model, where = load(), SETTINGS
    plain = capture(model, tiny_tokenizer, TEXTS, store=tmp_path / "s", **where)
    request.getfixturevalue("other_settings")
    other = capture(model, tiny_tokenizer, TEXTS, store=tmp_path / "t", **where)
    assert torch.empty(1).device.type == "meta"
    assert torch.empty(1).dtype == torch.float64
    assert torch.is_autocast_enabled("cpu")
    assert torch.get_float32_matmul_precision() == "medium"
    assert stored_objects(other.path) == stored_objects(plain.path)


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c_works")
def test_ctrl_c_keeps_what_is_committed_and_frees_the_rest(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model, texts = load(), [f"{n} times the fox " * 20 for n in range(160)]
    model.model.layers[0].mlp = torch.nn.Sequential(
        model.model.layers[0].mlp, Interrupting()
    ).eval()
    settings: dict[str, Any] = {"context": 96, "shard_mib": 1, "quiet": True}
    with pytest.raises(KeyboardInterrupt) as caught:
        capture(model, tiny_tokenizer, texts, store=tmp_path / "s", **settings)
    run = only_run(tmp_path / "s")
    before = stored_objects(run.path)
    assert 0 < len(run.missing_shards) < run.plan.n_shards
    assert caught.value.__notes__ == ["Everything committed so far stays; the same call resumes."]
    gc.collect()  # the error and its traceback are still there, as in a notebook
    assert [one for one in gc.get_objects() if type(one) in (TorchBackend, ShardBuffer)] == []
    again = capture(model, tiny_tokenizer, texts, store=tmp_path / "s", **settings)
    assert (again.id, again.missing_shards) == (run.id, ())
    after = stored_objects(again.path)
    assert all(after[key] == data for key, data in before.items() if "COMMIT" in key)
    undisturbed = capture(model, tiny_tokenizer, texts, store=tmp_path / "t", **settings)
    assert stored_objects(undisturbed.path) == after
