"""Each class of transformers for causal language models, or for images and text, is right, is
refused, or has no small model: as docs/models.md says. A class that turns to wrong fails.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import causal_classes
import every_decoder
import pytest
import torch
import transformers
from click.testing import CliRunner
from every_decoder import FIELDS, known, measured

from lpp.capture.cli.command import main
from lpp.capture.models import load
from lpp.capture.models.spec import ModelSpec
from lpp.store.progress import Kept

KNOWN = known()
RELEASE = next(iter(KNOWN.values()))["transformers"]
THIS_RELEASE = transformers.__version__ == RELEASE

ALWAYS = (
    *("bloom", "codegen", "cohere2", "deepseek_v3", "exaone4", "gemma2", "gemma3_text", "glm4"),
    *("gpt2", "gpt_neox", "gpt_oss", "granite", "llama", "mistral", "mixtral", "olmo2", "opt"),
    *("phi3", "qwen3", "qwen3_moe", "llava", "mistral3", "qwen2_5_vl", "qwen3_vl"),
)
"""Families that each run of the tests takes; `make test-all` takes all."""

AGAIN = (
    "write the table again: PYTHONPATH=tests/support:. python tests/support/every_decoder.py, "
    "then make tables"
)

KINDS = [
    pytest.param(kind, marks=() if kind in ALWAYS else pytest.mark.slow)
    for kind in causal_classes.MODEL_CLASSES
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    every_decoder.quiet()
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", KINDS)
def test_a_class_is_what_the_table_says(model_type: str) -> None:
    row = measured(model_type)
    listed = KNOWN.get(model_type, dict.fromkeys(FIELDS, ""))
    name = row["class"]
    assert row["status"] != "wrong", f"{name} is accepted and wrong: {row['why']}"
    if THIS_RELEASE:
        said = (row["status"], listed["status"])
        assert said[0] == said[1], f"{name} was {said[1]}, is {said[0]} {row['why']}; {AGAIN}"
        if row["status"] == "right":
            assert float(row["error_below"]) <= float(listed["error_below"]), f"{name}: {AGAIN}"


@pytest.mark.skipif(not THIS_RELEASE, reason="the table is of another release of transformers")
def test_the_table_has_every_class() -> None:
    assert KNOWN.keys() == causal_classes.MODEL_CLASSES.keys(), AGAIN


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ["axk2", "deepseek_v32", "glm_moe_dsa"])
def test_an_indexer_whose_scores_tie_is_refused(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two heads many scores are 0, and which tokens are chosen then depends on padding."""
    monkeypatch.setitem(causal_classes._SMALL, "index_n_heads", 2)
    row = measured(model_type)
    assert row["status"] == "refused"
    assert row["why"].startswith("padding after a prompt changes block.")


def test_none_is_wrong_and_most_are_right() -> None:
    statuses = Counter(row["status"] for row in KNOWN.values())
    assert statuses["wrong"] == 0
    assert statuses["right"] >= 230


def test_the_command_prints_rows_and_counts() -> None:
    def printed(*words: str) -> str:
        result = CliRunner().invoke(main, ["models", *words])
        assert result.exit_code == 0
        return result.output

    counts = Counter(row["status"] for row in KNOWN.values())
    assert f"classes of transformers {RELEASE}: {counts['right']} right, " in printed()
    assert printed("QWEN3") == "Qwen3ForCausalLM (qwen3): right, error below 1e-05\n"
    llamas = [row for row in KNOWN.values() if row["class"] == "LlamaForCausalLM"]
    assert printed("llamaforcausallm").count("\n") == len(llamas) + 1 > 2
    refused = KNOWN["rwkv"]
    assert " ".join(printed("rwk").split()) == f"RwkvForCausalLM (rwkv): refused, {refused['why']}"


def test_an_unknown_name_gets_near_ones() -> None:
    result = CliRunner().invoke(main, ["models", "gpt-neo"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "has 'gpt-neo' in it. Ask for gpt_neo or gpt_neox." in result.stderr


def test_the_command_loads_no_torch() -> None:
    program = (
        "import sys; from lpp.capture.cli.command import main; "
        "main(['models', 'llama'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_class_that_is_known_to_be_wrong_warns_at_load(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = KNOWN["qwen2"] | {"status": "wrong", "why": "padding changes its states"}
    monkeypatch.setattr(load, "known_models", lambda: [KNOWN["llama"], row])
    for family, lines in (("llama", []), ("qwen2", [row])):
        progress = Kept()
        load.load_model(ModelSpec(id=str(tiny_folder(family))), progress=progress)
        said = [f"{r['class']} is wrong in transformers {RELEASE}: {r['why']}" for r in lines]
        assert progress.lines == said
