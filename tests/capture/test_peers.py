"""The comparison with other libraries: its sides agree, and one that computes another thing shows.

nnsight and TransformerLens are not installed here: `make bench-peers` runs them.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from benchmarks.peers import check, page, side
from benchmarks.peers.outputs import ENTROPY, entropies, read_batches, site_names
from benchmarks.peers.sides import SIDES
from benchmarks.peers.work import Work, make_work, write_work

HERE = Path(page.__file__).parent
CONTEXT, PROMPTS = 40, 5


@pytest.fixture(scope="module")
def model(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama in bfloat16."""
    source, folder = tiny_folder("llama"), tmp_path_factory.mktemp("peers") / "model"
    module = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    module.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("peers") / "texts.jsonl"
    texts = [f"{number} {'the lazy dog and the fox ' * 30}" for number in range(PROMPTS)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


@pytest.fixture(scope="module")
def work(model: Path, corpus: Path) -> Work:
    made = make_work(model, str(corpus), PROMPTS, context=CONTEXT)
    return replace(made, batches=((3, 0), (1,), (2, 4)))  # out of order, as plans sort by length


@pytest.fixture(scope="module")
def outputs(work: Work, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each side that needs no other library leaves."""
    folder = tmp_path_factory.mktemp("outputs")
    at = write_work(work, folder / "work")
    names = ("lpp-capture", "transformers", "bare", "lpp-profile", "paper")
    for name in names:
        side.main(name, at, folder / name)
    return {name: folder / name for name in names}


def test_sides_agree(work: Work, outputs: dict[str, Path]) -> None:
    found = check.differences(work, outputs)
    assert set(found) == {"lpp-capture", "transformers", "lpp-profile", "paper"}
    assert found["transformers"] == {"rows": 0, "entropy": 0}
    assert 0 < found["lpp-capture"]["entropy"] < 1e-3  # computed by other code
    assert found["lpp-capture"]["rows"] < 0.01
    assert list(check.problems(found)) == []


def test_rows_of_the_reference_are_those_of_the_model(
    model: Path, work: Work, outputs: dict[str, Path]
) -> None:
    read = read_batches(outputs["transformers"], work)
    assert set(read) == {*site_names(3), ENTROPY}
    module = transformers.AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
    taken: list[torch.Tensor] = []
    module.model.layers[2].register_forward_hook(lambda *call: taken.append(call[-1]))
    with torch.inference_mode():
        output = module(torch.tensor([work.prompts[4]]), output_hidden_states=True)
    rows = slice(4 * CONTEXT, 5 * CONTEXT)
    for name, expected in (
        ("embed", output.hidden_states[0]),
        ("block.2", output.hidden_states[2]),
        ("block.3", taken[0]),
        ("final", output.hidden_states[3]),
    ):
        np.testing.assert_allclose(read[name][rows], expected[0].float(), rtol=0.05, atol=0.05)
    by_hand = torch.distributions.Categorical(logits=output.logits[0].double()).entropy()
    np.testing.assert_allclose(read[ENTROPY][rows], by_hand, atol=0.02)


@pytest.mark.parametrize("kind", ["rows", "entropy"])
def test_a_side_that_computes_another_thing_is_found(
    kind: str, work: Work, outputs: dict[str, Path], tmp_path: Path
) -> None:
    for file in outputs["transformers"].iterdir():
        tensors = load_file(file)
        if kind == "rows":
            tensors["final"] = tensors["block.3"].clone()  # before the norm
        else:
            tensors[ENTROPY] /= np.log(2)  # bits
        save_file(tensors, tmp_path / file.name)
    found = check.differences(work, {"nnsight": tmp_path, "transformers": outputs["transformers"]})
    (problem,) = check.problems(found)
    assert problem.startswith(f"nnsight: {kind} differ by ")


def test_entropies_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -1e9, -1e9, -1e9]], dtype=torch.bfloat16)
    assert entropies(logits).tolist() == pytest.approx([np.log(4), 0])


def tables(found: page.Found) -> Iterator[str]:
    for name in (HERE / page.PAGE, HERE.parent / page.PAGE, HERE.parent.parent / page.PAGE):
        text = name.read_text("utf-8")
        assert page.filled(text, found) == text
        yield from re.findall(r"<!-- table: ([a-z-]+) -->", text)


def test_the_committed_tables_are_those_of_the_committed_results() -> None:
    found = json.loads((HERE / page.RESULTS).read_text("utf-8"))
    assert set(tables(found)) == set(page.TABLES)
    assert set(found["sides"]) == set(SIDES)
    assert {len(one["whole_s"]) for one in found["sides"].values()} == {found["setting"]["rounds"]}
    assert list(check.problems(found["agreement"])) == []
