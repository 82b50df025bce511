"""`lpp.capture.capture`: the command's plan and bytes from Python, and what it leaves behind."""

import copy
import gc
import inspect
import itertools
import json
import signal
import subprocess
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
import transformers
from click.testing import CliRunner
from stored import stored_objects
from torch._subclasses.fake_tensor import FakeTensorMode

from lpp.capture import capture
from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.cli.command import main
from lpp.capture.corpus.in_memory import open_texts
from lpp.capture.engine.shard_buffer import ShardBuffer
from lpp.capture.from_python import OF_LOADING
from lpp.capture.models.load import adopt_model
from lpp.capture.models.loaded import loaded_model, loaded_spec
from lpp.capture.models.same_weights import state_fingerprint
from lpp.capture.models.spec import LoadedModel
from lpp.capture.plan.options import option_by_name
from lpp.store import Run, open_store
from lpp.store.errors import ConflictError, InputError
from lpp.store.logits_proof import check_logits

TEXTS = ["the dog and the fox " * (1 + n % 5) for n in range(12)]
SETTINGS: dict[str, Any] = {"context": 20, "quiet": True}

Folder = Callable[[str], Path]
Load = Callable[..., Any]


@pytest.fixture
def load(tiny_folder: Folder) -> Load:
    """`load("llama")`: a fresh copy of that family's model, as a user loads it."""

    def loaded(family: str = "llama", **settings: Any) -> Any:
        folder = tiny_folder(family)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, **settings).eval()

    return loaded


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


def command(*words: object) -> None:
    done = CliRunner().invoke(main, ["run", *map(str, words)])
    assert done.exit_code == 0, done.output


def only_run(root: Path) -> Run:
    (run,) = open_store(root).runs.values()
    return run


def tokenizer_of(model: Any) -> Any:
    return transformers.AutoTokenizer.from_pretrained(model.config._name_or_path)


# --- the command's plan and bytes ---


def test_a_name_gives_the_run_and_the_bytes_of_the_command(
    tiny_folder: Folder, corpus_file: Path, tmp_path: Path
) -> None:
    folder = tiny_folder("qwen2")
    options = ("--prompts", 9, "--min-bytes", 0, "--context", 20, "--sites", "final,block.*")
    command(
        "--model", folder, "--corpus", corpus_file, "--store", tmp_path / "of-command", *options
    )
    run = capture(
        folder,
        corpus_file,
        store=tmp_path / "of-python",
        min_bytes=0,
        sites=("final", "block.*"),
        **{**SETTINGS, "prompts": np.int64(9)},
    )
    expected = only_run(tmp_path / "of-command")
    assert isinstance(run, Run)
    assert (run.id, run.missing_shards) == (expected.id, ())
    assert run.plan.prompts.count == 9
    assert stored_objects(run.path) == stored_objects(expected.path)


@pytest.mark.slow
def test_a_loaded_model_gives_the_run_and_the_bytes_of_the_command(
    load: Load, family: str, corpus_file: Path, tmp_path: Path
) -> None:
    dtype = torch.float32 if family == "llama" else torch.bfloat16  # of files in float32
    model = load(family, dtype=dtype)
    words = ("--model", model.config._name_or_path, "--corpus", corpus_file)
    options = ("--prompts", 12, "--min-bytes", 0, "--context", 20, "--dtype", str(dtype)[6:])
    command(*words, *options, "--store", tmp_path / "of-command")
    run = capture(
        model,
        tokenizer_of(model),
        str(corpus_file),
        store=tmp_path / "of-python",
        prompts=12,
        min_bytes=0,
        **SETTINGS,
    )
    expected = only_run(tmp_path / "of-command")
    assert run.plan == expected.plan
    assert run.id == expected.id
    assert stored_objects(run.path) == stored_objects(expected.path)


def test_a_model_of_the_hubs_cache_has_its_name_and_commit(
    load: Load, tmp_path: Path, tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--lab--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    (repo / "snapshots" / commit).symlink_to(tiny_folder("llama"))
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = load()
    tokenizer = tokenizer_of(model)
    model.config._name_or_path, model.config._commit_hash = "lab/tiny", commit
    plan = capture(model, tokenizer, TEXTS, store=tmp_path / "s", **SETTINGS).plan
    folder = capture(load(), tokenizer, TEXTS, store=tmp_path / "t", **SETTINGS).plan
    assert (plan.model.id, plan.model.source, plan.model.revision) == ("lab/tiny", "hub", commit)
    assert plan.model.weights == folder.model.weights


def test_the_same_call_computes_nothing_again(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    first = capture(load(), tiny_tokenizer, TEXTS, store=tmp_path / "s", **SETTINGS)
    before = stored_objects(first.path)
    again = capture(load(), tiny_tokenizer, iter(TEXTS), store=tmp_path / "s", **SETTINGS)
    assert again.id == first.id
    assert stored_objects(again.path) == before


# --- what a model is known by ---


def changed_weight(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1


def cast_norm(model: Any) -> None:
    model.model.norm.to(torch.float64)


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


CHANGES = (changed_weight, cast_norm, other_epsilon, other_rotation, scaled_block, tied_head)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_model_changed_in_memory_is_another(
    change: Callable[[Any], None], load: Load, tiny_tokenizer: Any
) -> None:
    plain, model, again = load(), load(), load()
    for one in (model, again):
        change(one)
    fingerprints = [weights_of(one, tiny_tokenizer) for one in (plain, model, again)]
    assert fingerprints[1] == fingerprints[2] == state_fingerprint(model)
    assert fingerprints[0] not in (fingerprints[1], state_fingerprint(plain))


def weights_of(model: Any, tokenizer: Any) -> str:
    loaded = loaded_model(model, tokenizer)
    return adopt_model(loaded, loaded_spec(loaded)).info.weights


def test_every_change_gives_a_fingerprint_of_its_own(load: Load) -> None:
    found = []
    for change in CHANGES:
        model = load()
        change(model)
        found.append(state_fingerprint(model))
    assert len({*found, state_fingerprint(load())}) == len(CHANGES) + 1


@pytest.mark.slow
def test_a_changed_model_resumes_in_another_process(
    load: Load, tiny_tokenizer: Any, tiny_folder: Folder, tmp_path: Path
) -> None:
    model = load()
    changed_weight(model)
    run = capture(model, tokenizer_of(model), TEXTS, store=tmp_path / "s", **SETTINGS)
    assert (run.plan.model.id, run.plan.model.source) == ("llama", "folder")
    code = f"""
        import torch, transformers
        from lpp.capture import capture
        model = transformers.AutoModelForCausalLM.from_pretrained({str(tiny_folder("llama"))!r})
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1
        tokenizer = transformers.AutoTokenizer.from_pretrained({str(tiny_folder("llama"))!r})
        run = capture(model.eval(), tokenizer, {TEXTS!r}, store={str(tmp_path / "s")!r}, context=20)
        print(run.id)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == run.id
    assert "was complete already" in done.stderr


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


# --- the caller's model and process ---


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


def test_settings_of_the_process_change_nothing(
    load: Load, tiny_tokenizer: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model, where = load(), {"keep": "both", **SETTINGS}
    plain = capture(model, tiny_tokenizer, TEXTS, store=tmp_path / "s", **where)
    request.getfixturevalue("other_settings")
    other = capture(model, tiny_tokenizer, TEXTS, store=tmp_path / "t", **where)
    assert torch.empty(1).device.type == "meta"
    assert torch.empty(1).dtype == torch.float64
    assert torch.is_autocast_enabled("cpu")
    assert torch.get_float32_matmul_precision() == "medium"
    assert stored_objects(other.path) == stored_objects(plain.path)


class Interrupting(torch.nn.Identity):
    """Sends this process what Ctrl-C sends, at one call of all."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = itertools.count()

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if next(self.calls) == 16:
            signal.raise_signal(signal.SIGINT)
        return states


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


# --- what is refused ---


def test_a_loaded_model_that_cannot_be_captured_as_it_is_is_refused(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    def trained(model: Any) -> Any:
        model.model.layers[1].train()
        return model

    def hooked(model: Any) -> Any:
        model.model.layers[0].register_forward_hook(lambda module, args, output: output)
        return model

    def patched(model: Any) -> Any:
        model.model.norm.forward = lambda states: states
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
        (hooked, "layers.0 has a forward hook .*Remove"),
        (patched, "norm has a forward method that was set on it"),
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
        (None, "NoneType, not a tokenizer.*AutoTokenizer"),
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
    assert {option.name for option in option_by_name().values()} >= OF_LOADING


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


# --- texts ---


def test_texts_in_memory_are_all_used_in_order(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    run = capture(
        load(),
        tiny_tokenizer,
        ["fox", "", "a dog", None, "quick"],
        store=tmp_path / "s",
        corpus_name="animals",
        **SETTINGS,
    )
    plan = run.plan
    assert (plan.corpus.name, plan.corpus.selection["text"]) == ("animals", "texts")
    assert (plan.prompts.count, plan.corpus.selection["min_bytes"]) == (3, 0)
    assert run.prompts()["source_row"].to_pylist() == [0, 2, 4]
    ids = [tiny_tokenizer(text)["input_ids"] for text in ("fox", "a dog", "quick")]
    assert run.prompts()["token_ids"].to_pylist() == ids
    assert run.set_aside().texts == {"empty": 2}


def test_fields_of_records_come_along(load: Load, tiny_tokenizer: Any, tmp_path: Path) -> None:
    records = [{"text": "fox", "id": 7, "label": "a"}, {"text": "a dog", "id": 8, "label": None}]
    model = load()
    given: dict[str, Any] = {"store": tmp_path / "s", "fields": ["label"], **SETTINGS}
    run = capture(model, tiny_tokenizer, records, keep_texts=True, **given)
    carried = run.prompts("id", "field.label", "text").drop_columns(run.prompts().column_names)
    assert carried.to_pydict() == {
        "id": [7, 8],
        "field.label": ["a", None],
        "text": ["fox", "a dog"],
    }
    assert run.vocabulary() is not None
    with pytest.raises(InputError, match=r"fields: texts are strings, which have none"):
        capture(model, tiny_tokenizer, ["fox", "a dog"], **given)
    with pytest.raises(InputError, match=r"'labels'.*'label'"):
        capture(model, tiny_tokenizer, records, **given | {"fields": "labels"})
    relabelled = [{**record, "label": "b"} for record in records]
    with pytest.raises(ConflictError, match=r"other values of field\.label in 2 prompts"):
        capture(model, tiny_tokenizer, relabelled, **given)
    assert capture(model, tiny_tokenizer, records, **given).id == run.id


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


def test_every_kind_of_texts_is_the_same_corpus() -> None:
    records = [{"text": text, "label": n} for n, text in enumerate(TEXTS)]
    fingerprints = [
        open_texts(texts).fingerprint
        for texts in (
            TEXTS,
            tuple(TEXTS),
            (text for text in TEXTS),
            np.array(TEXTS),
            pd.Series(TEXTS),
            pl.Series(TEXTS),
            pa.chunked_array([TEXTS]),
            records,
            pd.DataFrame(records),
            pl.DataFrame(records),
            pa.Table.from_pylist(records),
            datasets.Dataset.from_list(records),
            datasets.Dataset.from_list(records)["text"],
        )
    ]
    assert len(set(fingerprints)) == 1
    assert open_texts(TEXTS[::-1]).fingerprint != fingerprints[0]
    named = open_texts([{"body": text} for text in TEXTS], text_field="body")
    assert (named.fingerprint, named.rule) == (fingerprints[0], "field body")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "every text is empty"),
        (["", " "], "every text is empty"),
        (
            [{"body": "fox"}],
            r"texts\[0\]: no field 'text'; its fields: 'body'. Name one with text_f",
        ),
        (["fox", 3], r"texts\[1\]: int instead of a string"),
        ({"train": ["fox"]}, "a mapping of 'train': give one of its values"),
        (7, "texts is int: give a list of strings"),
        ([b"fox"], "bytes instead of a string"),
    ],
)
def test_texts_of_another_kind_are_refused(texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_texts(texts)


def test_fewer_texts_are_taken_as_the_command_takes_them(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    few = {"store": tmp_path / "s", **SETTINGS}
    longer = capture(load(), tiny_tokenizer, TEXTS, min_bytes=60, **few)
    assert longer.prompts()["source_row"].to_pylist() == [2, 3, 4, 7, 8, 9]
    drawn = capture(load(), tiny_tokenizer, TEXTS, prompts=4, select="random", **few)
    assert sorted(drawn.prompts()["source_row"].to_pylist()) != [0, 1, 2, 3]
    for options, message in (
        ({"prompts": 13}, "13 prompts asked for.* Repeat with prompts=12"),
        ({"min_tokens": 2, "count_with": "m"}, "min_tokens: say with prompts"),
        ({"corpus_revision": "main"}, "corpus_revision: it is for a corpus by name"),
        ({"corpus_name": "a/b"}, "corpus_name 'a/b'"),
    ):
        with pytest.raises(InputError, match=message):
            capture(load(), tiny_tokenizer, TEXTS, **few, **options)


# --- the call ---


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (("m", "pydoc"), {"promts": 3}, "no option 'promts'. Did you mean prompts?"),
        (("m", "pydoc"), {"tokenizer": 1}, "no option 'tokenizer'"),
        (
            ("m", "pydoc", TEXTS),
            {},
            r"brings its tokenizer. Call capture\(model, corpus, store=...\)",
        ),
        (("m",), {}, "no corpus"),
        (("m", "pydoc"), {"corpus": "pydoc"}, "corpus twice"),
        ((object(), TEXTS), {}, r"no texts. Call capture\(model, tokenizer, texts, store=...\)"),
        ((), {}, "no model"),
    ],
)
def test_a_call_of_another_shape_says_how_to_call(
    given: tuple[Any, ...], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=message):
        capture(*given, store=tmp_path / "s", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": "ten", "keep": "all"}, "prompts should be an integer, is 'ten'; keep: 'all'"),
        ({"prompts": 0}, "prompts: 0 is not in the range"),
        (
            {"context": 500},
            "context=500 is beyond llama, which has 96 positions. Choose context=96",
        ),
        ({"context": 9, "sites": ["final", "nose"]}, "no site 'nose'.* Choose with sites, such as"),
        ({"moments_dtype": "float32"}, "moments_dtype goes with keep='moments' or keep='both'"),
        ({"dtype": torch.float64}, "dtype: 'float64' is not one of"),
        ({"name": "mine"}, "name: a model that is given by its name has one"),
        ({"corpus_name": "mine"}, "corpus_name: it is for texts in memory"),
    ],
)
def test_a_wrong_value_is_an_error_in_words_of_python(
    options: dict[str, Any], message: str, tiny_folder: Folder, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        capture(tiny_folder("llama"), "pydoc", store=tmp_path / "s", quiet=True, **options)
    assert not (tmp_path / "s").exists()


def test_arguments_have_names(load: Load, tiny_tokenizer: Any, tmp_path: Path) -> None:
    where = {"store": tmp_path / "s", **SETTINGS}
    model = load()
    one = capture(model=model, tokenizer=tiny_tokenizer, texts=TEXTS, **where)
    two = capture(model, tiny_tokenizer, corpus=TEXTS, **where)
    three = capture(model=model.config._name_or_path, corpus=TEXTS, **where)
    four = capture(model.config._name_or_path, texts=TEXTS, **where)
    assert one.id == two.id == three.id == four.id


def test_the_options_that_are_typed_have_the_defaults_of_the_command() -> None:
    options = {option.name: option for option in option_by_name().values()}
    for overload in typing.get_overloads(capture):
        typed = inspect.signature(overload).parameters.keys() & options.keys() - {"model", "corpus"}
        assert typed == {"prompts", "context", "sites", "keep"}
        for name in typed - {"prompts"}:  # 100, or all texts in memory
            assert inspect.signature(overload).parameters[name].default == options[name].default


def test_messages_go_to_standard_error_unless_quiet(
    load: Load, tiny_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture(load(), tiny_tokenizer, TEXTS, store=tmp_path / "s", context=20)
    said = capsys.readouterr()
    assert said.out == ""
    assert "12 prompts of texts" in said.err
    assert "shard 1 of 1 committed" in said.err
    assert "is complete. Next: lpp-analyze profile" in said.err.replace("\n", " ")
    capture(load(), tiny_tokenizer, TEXTS, store=tmp_path / "s", **SETTINGS)
    assert capsys.readouterr() == ("", "")
