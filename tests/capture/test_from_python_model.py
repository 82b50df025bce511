"""A loaded model given to `lpp.capture.capture`: what it is known by, and what is refused."""

import copy
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from loaded_models import SETTINGS, TEXTS, Load, tokenizer_of
from torch._subclasses.fake_tensor import FakeTensorMode

from lpp.analyze.logits.proof import check_logits
from lpp.capture import capture
from lpp.capture.from_python import OF_LOADING
from lpp.capture.models.identity import loaded_fingerprint
from lpp.capture.models.load import adopt_model
from lpp.capture.models.loaded import loaded_model, loaded_spec
from lpp.capture.models.spec import LoadedModel
from lpp.capture.plan.settings import CaptureSettings
from lpp.store.errors import InputError
from lpp.store.settings.setting import declared

Folder = Callable[[str], Path]


# --- what a model is known by ---


def changed_weight(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1


def other_epsilon(model: Any) -> None:
    model.model.norm.variance_epsilon = 1e-3


def other_rotation(model: Any) -> None:
    model.model.rotary_emb.inv_freq *= 2


def scaled_block(model: Any) -> None:
    class Scaled(type(model.model.layers[0].mlp)):  # type: ignore[misc]
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return super().forward(states) * 2  # type: ignore[no-any-return]

    model.model.layers[0].mlp.__class__ = Scaled


def tied_head(model: Any) -> None:
    model.lm_head.weight = model.model.embed_tokens.weight


CHANGES = (changed_weight, other_epsilon, other_rotation, scaled_block, tied_head)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_model_changed_in_memory_is_another(
    change: Callable[[Any], None], load: Load, tiny_tokenizer: Any
) -> None:
    plain, model, again = load(), load(), load()
    for one in (model, again):
        change(one)
    fingerprints = [weights_of(one, tiny_tokenizer) for one in (plain, model, again)]
    assert fingerprints[1] == fingerprints[2] == loaded_fingerprint(model)
    assert fingerprints[0] == loaded_fingerprint(plain) != fingerprints[1]


def weights_of(model: Any, tokenizer: Any) -> str:
    loaded = loaded_model(model, tokenizer)
    return adopt_model(loaded, loaded_spec(loaded)).info.weights


def test_every_change_gives_a_fingerprint_of_its_own(load: Load) -> None:
    found = []
    for change in CHANGES:
        model = load()
        change(model)
        found.append(loaded_fingerprint(model))
    assert len({*found, loaded_fingerprint(load())}) == len(CHANGES) + 1


@pytest.mark.slow
def test_a_loaded_model_resumes_in_another_process_with_other_threads(
    load: Load, tiny_folder: Folder, tmp_path: Path
) -> None:
    runs = []
    for change in ((), (changed_weight,)):
        model = load()
        for one in change:
            one(model)
        run = capture(model, tokenizer_of(model), TEXTS, store=tmp_path / "s", **SETTINGS)
        assert (run.plan.model.id, run.plan.model.source) == ("llama", "folder")
        runs.append(run.id)
    code = f"""
        import torch, transformers
        from lpp.capture import capture
        torch.set_num_threads(1 + torch.get_num_threads())
        model = transformers.AutoModelForCausalLM.from_pretrained({str(tiny_folder("llama"))!r})
        tokenizer = transformers.AutoTokenizer.from_pretrained({str(tiny_folder("llama"))!r})
        settings = dict(store={str(tmp_path / "s")!r}, context=20, quiet=False)
        print(capture(model.eval(), tokenizer, {TEXTS!r}, **settings).id)
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1
        print(capture(model, tokenizer, {TEXTS!r}, **settings).id)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == runs
    assert done.stderr.count("was complete already") == 2


@pytest.mark.slow
def test_a_model_without_files_is_called_by_its_name_or_its_class(
    tiny_model: Callable[[str], Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = tiny_model("gpt2")
    ids = [
        capture(
            model, tiny_tokenizer, TEXTS, store=tmp_path / "s", name=name, **SETTINGS
        ).plan.model.id
        for name in (None, "mine")
    ]
    assert ids == ["GPT2LMHeadModel", "mine"]


# --- what it gives ---


@pytest.mark.slow
def test_a_loaded_model_writes_and_gives_its_head(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = load()
    before = dict(vars(model.generation_config))
    given: dict[str, Any] = {"store": tmp_path / "s", "keep_head": "yes", **SETTINGS}
    run = capture(model, tiny_tokenizer, ["the fox and", "a dog"], continue_tokens=3, **given)
    assert run.plan.continuation is not None
    expected = model.generate(
        torch.tensor([tiny_tokenizer("the fox and")["input_ids"]]),
        max_new_tokens=3,
        do_sample=False,
    )
    assert run.prompts()["token_ids"][0].as_py() == expected[0].tolist()
    assert vars(model.generation_config) == before
    head = run.head()
    assert head is not None
    rows = next(run.hidden("final"))
    assert np.allclose(head.logits(rows), rows @ model.lm_head.weight.detach().numpy().T, atol=1e-5)
    assert check_logits(run) is not None


def test_a_model_that_bitsandbytes_quantised_says_so(load: Load) -> None:
    model, found = load(), []
    for settings in (
        {"load_in_8bit": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"quant_method": "gptq"},
    ):
        model.config.quantization_config = SimpleNamespace(**settings)
        found.append(loaded_spec(LoadedModel(module=model, tokenizer=None)).quantization)
    assert found == ["int8", "nf4", None]
    model.config.quantization_config = SimpleNamespace(load_in_4bit=True, bnb_4bit_quant_type="fp4")
    with pytest.raises(InputError, match="quantised to fp4"):
        loaded_spec(LoadedModel(module=model, tokenizer=None))


# --- what is refused ---


@pytest.mark.slow
def test_a_loaded_model_that_cannot_be_captured_as_it_is_is_refused(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    def trained(model: Any) -> Any:
        model.model.layers[1].train()
        return model

    def on_meta(model: Any) -> Any:
        model.lm_head.to("meta")
        return model

    def on_two_devices(model: Any) -> Any:
        with FakeTensorMode(allow_non_fake_inputs=True):
            elsewhere = torch.empty(model.lm_head.weight.shape, device="cuda:0")
        model.lm_head._parameters["weight"] = elsewhere
        return model

    def compiled(model: Any) -> Any:
        model.model.compile(backend="eager")
        return model

    def wrapped(model: Any) -> Any:
        return torch.nn.DataParallel(model)

    cases: list[tuple[Callable[[Any], Any], str]] = [
        (trained, "layers.1 is in training mode.* Call model.eval"),
        (on_meta, "on the meta device"),
        (on_two_devices, r"on cpu and cuda:0.*model.to\(device\)"),
        (compiled, "compiled by its method"),
        (partial(torch.compile, backend="eager"), "Give model._orig_mod"),
        (wrapped, "wrapped in DataParallel. Give model.module"),
        (lambda model: model.model, "LlamaModel is not a causal language model"),
        (lambda model: model.lm_head, "Linear, not a model of transformers"),
        (lambda model: 7, "int, not a model of transformers"),
    ]
    for change, message in cases:
        with pytest.raises(InputError, match=message):
            capture(change(load()), tiny_tokenizer, TEXTS, store=tmp_path / "s", **SETTINGS)
    assert not (tmp_path / "s").exists()


def test_a_tokenizer_that_is_missing_or_of_another_model_is_refused(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    processor = SimpleNamespace(tokenizer=tiny_tokenizer)
    larger = copy.deepcopy(tiny_tokenizer)
    larger.add_tokens([f"<{n}>" for n in range(9)])
    for tokenizer, message in (
        (None, "the tokenizer is None.*AutoTokenizer"),
        (processor, "Give its tokenizer: processor.tokenizer"),
        (larger, "139 entries and the model's logits 131"),
    ):
        with pytest.raises(InputError, match=message):
            capture(load(), tokenizer, TEXTS, store=tmp_path / "s", **SETTINGS)


@pytest.mark.parametrize("option", sorted(OF_LOADING))
def test_options_of_loading_do_not_go_with_a_loaded_model(
    load: Load, tiny_tokenizer: Any, tmp_path: Path, option: str
) -> None:
    options: dict[str, Any] = {option: "cuda"}
    with pytest.raises(InputError, match=f"{option}: the model is loaded already"):
        capture(load(), tiny_tokenizer, TEXTS, store=tmp_path / "s", **options)


def test_options_of_loading_are_options() -> None:
    assert {one.keyword for one in declared(CaptureSettings).values()} >= OF_LOADING
