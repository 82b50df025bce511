"""A PEFT folder is a model: its base with its adapter merged, or refused with one message."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from lpp.capture import capture
from lpp.capture.cli.command import main
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.run_cache import request_key
from lpp.capture.models.load import describe_model, load_model, load_text_side, load_tokenizer
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store import open_store
from lpp.store.errors import InputError, MachineError
from lpp.store.progress import Kept

pytestmark = [  # peft advises on tied weights, and asks transformers for a name that is leaving
    pytest.mark.filterwarnings("ignore::UserWarning:peft.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

IDS = torch.arange(3, 40).reshape(1, -1) % 131
Q = ["q_proj", "v_proj"]
ENDS = ["embed_tokens", "lm_head"]

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 4, "target_modules": Q}),
    "all linear": ("LoraConfig", {"r": 2, "target_modules": "all-linear"}),
    "dora": ("LoraConfig", {"r": 4, "target_modules": Q, "use_dora": True}),
    "rslora": ("LoraConfig", {"r": 4, "target_modules": Q, "use_rslora": True}),
    "pissa": ("LoraConfig", {"r": 4, "target_modules": Q, "init_lora_weights": "pissa"}),
    "norm": ("LoraConfig", {"r": 4, "target_modules": Q, "modules_to_save": ["norm"]}),
    "ends": ("LoraConfig", {"r": 4, "target_modules": Q, "modules_to_save": ENDS}),
    "head": ("LoraConfig", {"r": 4, "target_modules": [*Q, "lm_head"]}),
    "embedding": ("LoraConfig", {"r": 4, "target_modules": [*Q, "embed_tokens"]}),
    "tokens": ("LoraConfig", {"r": 4, "target_modules": Q, "trainable_token_indices": [3, 5]}),
    "adalora": ("AdaLoraConfig", {"init_r": 4, "target_modules": Q, "total_step": 9}),
    "ia3": ("IA3Config", {"target_modules": ["k_proj", "down_proj"]} | {"feedforward_modules": []}),
    "loha": ("LoHaConfig", {"r": 4, "target_modules": Q}),
    "lokr": ("LoKrConfig", {"r": 4, "target_modules": Q}),
    "oft": ("OFTConfig", {"r": 0, "oft_block_size": 8, "target_modules": Q}),
    "boft": ("BOFTConfig", {"boft_block_size": 4, "target_modules": Q}),
    "vera": ("VeraConfig", {"r": 4, "target_modules": ["q_proj"]}),
    "fourier": ("FourierFTConfig", {"n_frequency": 30, "target_modules": Q}),
    "hra": ("HRAConfig", {"r": 4, "target_modules": Q}),
    "norms": ("LNTuningConfig", {"target_modules": ["input_layernorm"]}),
    "randlora": ("RandLoraConfig", {"r": 4, "target_modules": ["q_proj"]}),
}
"""Adapters that are merged, the class of peft's configuration, and its settings."""

QUICK = ("lora", "dora", "rslora", "ends", "head", "ia3", "loha", "lokr", "oft")
"""Those that every run of the tests merges."""

Adapt = Callable[..., Path]


@pytest.fixture
def base(tiny_model: Callable[[str], Any], tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """The folder of the tiny Llama."""
    tiny_model("llama").save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def reread(folder: Path, dtype: Any = "auto") -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@pytest.fixture
def adapt(base: Path, tmp_path: Path) -> Adapt:
    """Saves an adapter of `base` as peft saves it, with weights that differ from its beginning."""

    def made(kind: str = "lora", at: str = "tuned", on: Path = base, **more: Any) -> Path:
        name, settings = KINDS.get(kind, (kind, {}))
        config = getattr(peft, name)(task_type="CAUSAL_LM", **{**settings, **more})
        adapted = peft.get_peft_model(reread(on), config).eval()
        torch.manual_seed(5)
        with torch.no_grad():
            for weight in adapted.parameters():
                if weight.requires_grad:
                    weight.add_(torch.randn_like(weight) * 0.05)
        adapted.save_pretrained(tmp_path / at)
        return tmp_path / at

    return made


def states(model: Any) -> list[torch.Tensor]:
    """Logits and every state that the model reports."""
    with torch.no_grad():
        given = model(input_ids=IDS, output_hidden_states=True)
    return [given.logits, *given.hidden_states]


def edited(folder: Path, **settings: Any) -> Path:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    return folder


def changed(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    return folder


def spec_of(folder: Path, **settings: Any) -> ModelSpec:
    return ModelSpec(id=str(folder), **settings)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *((kind, "float32") for kind in QUICK),
        *(pytest.param(k, "float32", marks=pytest.mark.slow) for k in KINDS if k not in QUICK),
        *((kind, "bfloat16") for kind in ("lora", "dora")),
        *(pytest.param(k, "bfloat16", marks=pytest.mark.slow) for k in ("ends", "head", "ia3")),
    ],
)
def test_states_are_those_of_the_merged_model_that_peft_saves(
    adapt: Adapt, base: Path, tmp_path: Path, kind: str, dtype: Any
) -> None:
    folder = adapt(kind)
    heard = Kept()
    loaded = load_model(spec_of(folder, dtype=dtype), progress=heard)
    assert heard.lines == [f"{folder} is an adapter, merged into its base in torch.{dtype}"]

    adapted = peft.PeftModel.from_pretrained(reread(base, getattr(torch, dtype)), folder).eval()
    unmerged = states(adapted)
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    expected = states(reread(tmp_path / "merged"))
    assert all(map(torch.equal, states(loaded.module), expected))
    if dtype == "float32":
        for mine, theirs in zip(expected, unmerged, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-4)
        plain = states(reread(base))
        assert not torch.allclose(expected[0], plain[0], rtol=1e-3, atol=1e-3)
    assert loaded.info.id == "tuned"
    assert loaded.info.n_blocks == 3
    assert not any("lora" in name for name, _ in loaded.module.named_modules())


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a key is missing": (
        lambda at: changed(at, lambda w: dict(sorted(w.items())[1:])),
        "1 weight (base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight)",
    ),
    "another shape": (
        lambda at: changed(at, lambda w: {k: v[:3] if "lora_A" in k else v for k, v in w.items()}),
        "size mismatch for base_model.model.model.layers.0.self_attn.q_proj.lora_A",
    ),
    "another rank": (lambda at: edited(at, r=8), "size mismatch"),
    "renamed": (
        lambda at: changed(at, lambda w: {f"x.{key}": value for key, value in w.items()}),
        "24 weights (base_model.model.model.layers.0",
    ),
    "of a deeper base": (
        lambda at: changed(at, lambda w: w | {k.replace("s.2", "s.3"): w[k].clone() for k in w}),
        "4 weights (base_model.model.model.layers.3.self_attn",
    ),
    "NaN": (
        lambda at: changed(at, lambda w: {k: v / 0 * 0 for k, v in w.items()}),
        "has NaN or infinity in 12 weights",
    ),
    "no such module": (lambda at: edited(at, target_modules=["qkv"]), "qkv"),
    "sequence classification": (lambda at: edited(at, task_type="SEQ_CLS"), "task SEQ_CLS"),
    "encoder-decoder": (lambda at: edited(at, task_type="SEQ_2_SEQ_LM"), "task SEQ_2_SEQ_LM"),
    "unknown kind": (lambda at: edited(at, peft_type="MOLORA"), "kind MOLORA"),
    "no kind": (lambda at: edited(at, peft_type=None), "kind None"),
    "prefix": (lambda at: edited(at, peft_type="PREFIX_TUNING"), "kind PREFIX_TUNING"),
    "prompt": (lambda at: edited(at, peft_type="PROMPT_TUNING"), "kind PROMPT_TUNING"),
    "mixed by input": (lambda at: edited(at, peft_type="XLORA"), "kind XLORA"),
    "p-tuning": (lambda at: edited(at, peft_type="P_TUNING"), "kind P_TUNING"),
    "aLoRA": (lambda at: edited(at, alora_invocation_tokens=[3]), "aLoRA does not support merging"),
    "no base": (lambda at: edited(at, base_model_name_or_path=None), "names no base. Write"),
    "base is gone": (
        lambda at: edited(at, base_model_name_or_path="./gone"),
        "no folder ./gone, and no .gguf file of that name. Correct base_model_name_or_path.",
    ),
    "base is no name": (
        lambda at: edited(at, base_model_name_or_path="my base"),
        "no model 'my base': neither a folder",
    ),
    "an adapter as base": (
        lambda at: edited(shutil.copytree(at, at.parent / "a2"), base_model_name_or_path=str(at)),
        "has an adapter as its base",
    ),
    "pickled": (
        lambda at: (at / "adapter_model.safetensors").rename(at / "adapter_model.bin"),
        "weights only as pickles (adapter_model.bin)",
    ),
    "no weights": (lambda at: (at / "adapter_model.safetensors").unlink(), "has no weights"),
    "cut short": (
        lambda at: (at / "adapter_model.safetensors").write_bytes(b"12345678{"),
        "a file that cannot be read",
    ),
    "no JSON": (lambda at: (at / "adapter_config.json").write_text("{"), "cannot be read"),
}
"""What is done to a good adapter, and words of the message."""


@pytest.mark.parametrize("name", BAD)
def test_a_bad_adapter_is_refused_with_one_message(adapt: Adapt, name: str) -> None:
    spoil, says = BAD[name]
    folder = adapt()
    other = spoil(folder)
    with pytest.raises(InputError) as caught:
        load_model(spec_of(other if isinstance(other, Path) and other.is_dir() else folder))
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_adapter_of_an_encoder_decoder_is_refused(adapt: Adapt, tmp_path: Path) -> None:
    folder = edited(adapt(), base_model_name_or_path=str(tmp_path / "t5"))
    transformers.T5Config(num_layers=1).save_pretrained(tmp_path / "t5")
    with pytest.raises(InputError, match="is a t5 model, not a causal language model"):
        load_model(spec_of(folder))


@pytest.mark.parametrize("kind", ["head", "embedding"])
def test_an_adapter_of_one_of_two_tied_matrices_is_refused(
    adapt: Adapt, base: Path, tmp_path: Path, kind: str
) -> None:
    config = transformers.AutoConfig.from_pretrained(base, tie_word_embeddings=True)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "tied")
    folder = adapt(kind, on=tmp_path / "tied")
    shutil.copy(base / "tokenizer.json", folder)
    shutil.copy(base / "tokenizer_config.json", folder)
    with pytest.raises(InputError, match="changes one of two tied matrices"):
        load_model(spec_of(folder))
    adapted = peft.PeftModel.from_pretrained(reread(tmp_path / "tied"), folder).eval()
    unmerged = states(adapted)[0]  # what the adapter was trained to give
    assert not torch.allclose(states(adapted.merge_and_unload())[0], unmerged, atol=0.1)
    load_model(spec_of(adapt("ends", "ends", on=tmp_path / "tied"), tokenizer_optional=True))


def test_what_does_not_go_with_an_adapter_is_refused(
    adapt: Adapt, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapt()
    for settings in ({"untrained_seed": 0}, {"device_map": "auto"}):
        with pytest.raises(InputError, match=r"untrained-seed or --device-map.*merge_and_unload"):
            load_model(spec_of(folder, **settings))
    with pytest.raises(InputError, match=r"does not run inside vLLM.*merge_and_unload"):
        describe_model(spec_of(folder))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "peft" else find_spec(name)
    )
    with pytest.raises(MachineError, match=r"needs peft.*pip install .*'peft>="):
        load_model(spec_of(folder))


def test_an_empty_setting_of_a_later_release_changes_nothing(adapt: Adapt) -> None:
    folder = adapt()
    before = states(load_model(spec_of(folder)).module)
    edited(folder, of_a_later_release=None)
    assert all(map(torch.equal, states(load_model(spec_of(folder)).module), before))


def test_the_base_is_found_beside_the_adapter_by_path_and_on_the_hub(
    adapt: Adapt, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapt()
    first = load_model(spec_of(folder))
    asked = []

    def snapshot(model: str, revision: str | None, **_: Any) -> tuple[Path, str]:
        asked.append((model, revision))
        return {"org/base": base, "org/tuned": folder}[model], "0" * 40

    monkeypatch.setattr("lpp.capture.models.model_files.hub_snapshot", snapshot)
    for written in ("../base", str(base), "org/base"):
        found = load_model(spec_of(edited(folder, base_model_name_or_path=written, revision="v2")))
        assert found.info == first.info
    assert asked == [("org/base", "v2")]
    on_hub = load_model(ModelSpec(id="org/tuned", revision="main")).info
    assert asked[1:] == [("org/tuned", "main"), ("org/base", "v2")]
    assert (on_hub.id, on_hub.source, on_hub.revision) == ("org/tuned", "hub", "0" * 40)
    assert on_hub.weights == first.info.weights
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(base, elsewhere / "moved")
    monkeypatch.chdir(elsewhere)
    edited(folder, base_model_name_or_path="./moved")
    assert load_model(spec_of(folder)).info == first.info


def test_identity_is_that_of_base_and_adapter(adapt: Adapt, base: Path) -> None:
    folder = adapt()

    def request() -> str | None:
        corpus = CorpusSpec(name="pydoc")
        return request_key(
            CaptureRequest(model=spec_of(folder), corpus=corpus, selection=Selection(prompts=2))
        )

    marks, keys = [load_model(spec_of(base)).info.weights], []
    for change in (
        lambda: None,
        lambda: changed(folder, lambda w: {k: v * 1.5 for k, v in w.items()}),
        lambda: edited(folder, lora_alpha=3),
        lambda: save_file(
            {k: v * 1.25 for k, v in load_file(base / "model.safetensors").items()},
            base / "model.safetensors",
            {"format": "pt"},
        ),
    ):
        change()
        marks.append(load_model(spec_of(folder)).info.weights)
        keys.append(request())
    assert len(set(marks)) == 5
    assert None not in keys
    assert len(set(keys)) == 4
    assert request() == keys[-1]
    assert load_model(spec_of(folder)).info.weights == marks[-1]


def test_the_tokenizer_is_the_adapters_or_the_bases(
    adapt: Adapt, base: Path, tiny_tokenizer: Any
) -> None:
    folder = adapt()
    plain = load_model(spec_of(base)).tokenizer_info.fingerprint
    loaded = load_model(spec_of(folder))
    assert loaded.tokenizer_info.fingerprint == plain
    tokenizer, positions = load_text_side(spec_of(folder))
    assert len(tokenizer) == len(tiny_tokenizer)
    assert positions == loaded.max_positions
    own = transformers.AutoTokenizer.from_pretrained(base)
    own.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    own.save_pretrained(folder)
    for tokenizer in (
        load_model(spec_of(folder)).tokenizer,
        load_tokenizer(str(folder)),
        load_text_side(spec_of(folder))[0],
    ):
        assert "<|turn|>" in tokenizer.get_vocab()


@pytest.mark.slow
def test_a_command_captures_an_adapter_or_exits_with_2(
    adapt: Adapt, base: Path, tmp_path: Path
) -> None:
    folder, store = adapt("dora"), tmp_path / "store"
    peft.PeftModel.from_pretrained(reread(base), folder).merge_and_unload().save_pretrained(
        tmp_path / "merged"
    )
    for file in base.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "merged")

    def run(model: Path, *more: str) -> Any:
        words = ["--corpus", "pydoc", "--prompts", "3", "--context", "16", "--store", str(store)]
        return CliRunner().invoke(main, ["run", "--model", str(model), *words, *more])

    for model in (base, folder, tmp_path / "merged"):
        done = run(model)
        assert done.exit_code == 0, done.output
        line = f"{model} is an adapter, merged into its base in torch.float32"
        assert (line in done.output) == (model == folder)
    again = run(folder)
    assert again.exit_code == 0
    assert "is an adapter" not in again.output  # a finished run loads no model
    runs = {run.plan.model.id: run for run in open_store(store).runs.values()}
    assert set(runs) == {"base", "tuned", "merged"}
    for site in ("embed", "block.2", "final"):
        rows = {name: np.concatenate([*run.hidden(site)]) for name, run in runs.items()}
        assert np.array_equal(rows["tuned"], rows["merged"])
        assert np.array_equal(rows["tuned"], rows["base"]) == (site == "embed")
    changed(folder, lambda weights: dict(list(weights.items())[1:]))
    for more in ([], ["--dry-run"]):
        refused = run(folder, *more)
        assert refused.exit_code == 2, refused.output
        assert "has not exactly the weights" in refused.output
    assert run(folder, "--untrained-seed", "0").exit_code == 2
    assert len(open_store(store).runs) == 3


@pytest.mark.slow
def test_python_takes_a_folder_and_a_peft_model(adapt: Adapt, base: Path, tmp_path: Path) -> None:
    folder, texts = adapt(), ["the dog and the fox " * 3, "a fox"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    settings: dict[str, Any] = {"store": tmp_path / "store", "context": 12, "quiet": True}
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    merged = capture(folder, str(corpus), **settings)
    adapted = peft.PeftModel.from_pretrained(reread(base), folder).eval()
    unmerged = capture(adapted, tokenizer, texts, **settings)
    with adapted.disable_adapter():
        disabled = capture(adapted, tokenizer, texts, **settings)
    plain = capture(reread(base), tokenizer, texts, **settings)
    rows = [next(run.hidden("final")) for run in (merged, unmerged, disabled, plain)]
    assert np.allclose(rows[0], rows[1], rtol=1e-3, atol=1e-4)
    assert not np.allclose(rows[1], rows[3], rtol=1e-2, atol=1e-2)
    assert np.array_equal(rows[2], rows[3])
    assert len({run.id for run in (merged, unmerged, disabled, plain)}) == 4
    config = peft.LoraConfig(target_modules=Q, task_type="CAUSAL_LM", alora_invocation_tokens=[3])
    with pytest.raises(InputError, match="acts on prompts"):
        capture(peft.get_peft_model(reread(base), config).eval(), tokenizer, texts, **settings)


def test_an_adapter_of_gpt2_is_merged(
    adapt: Adapt, tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path / "gpt2")
    folder = adapt("lora", on=tmp_path / "gpt2", target_modules=["c_attn"], fan_in_fan_out=True)
    mine = load_model(spec_of(folder, tokenizer_optional=True)).module
    unmerged = peft.PeftModel.from_pretrained(reread(tmp_path / "gpt2"), folder).eval()
    assert torch.allclose(states(mine)[0], states(unmerged)[0], rtol=1e-3, atol=1e-4)


if find_spec("bitsandbytes"):  # in an extra of its own

    @pytest.mark.parametrize("how", ["int8", "nf4"])
    def test_beside_quantised_weights_an_adapter_stays_unmerged(
        adapt: Adapt, base: Path, how: Any
    ) -> None:
        # kernels of 4 bits for CPUs want multiples of 64
        config = transformers.AutoConfig.from_pretrained(
            base, hidden_size=64, intermediate_size=128
        )
        config.head_dim = 32
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(base)
        folder, heard = adapt(), Kept()
        loaded = load_model(spec_of(folder, quantization=how), progress=heard)
        assert "kept beside the quantised weights of its base" in heard.lines[-1]
        plain = load_model(spec_of(base, quantization=how))
        adapted = peft.PeftModel.from_pretrained(plain.module, folder).eval()
        assert all(map(torch.equal, states(loaded.module), states(adapted)))
        with adapted.disable_adapter():
            assert not torch.equal(states(adapted)[0], states(loaded.module)[0])
        assert loaded.info.weights != plain.info.weights
