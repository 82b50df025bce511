"""Each class of transformers for causal language models, or for images and text, is right, is
refused, or has no small model: as docs/models.md says. A class that turns to wrong fails.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import causal_classes
import every_decoder
import numpy as np
import pytest
import torch
import transformers
from backend_contract import captured, make_batch, random_prompts, torch_backend
from click.testing import CliRunner
from every_decoder import FIELDS, known, measured

from lpp.capture.cli.command import main
from lpp.capture.models import load
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.backend import Before
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

REPEATED = {
    # blocks that keep a state beside keys and values, or a cache of their own
    *("bailing_hybrid", "bamba", "falcon_h1", "granitemoehybrid", "jamba", "kimi_linear"),
    *("lara_mini", "lfm2_moe", "lfm3", "minimax", "nemotron_h", "olmo_hybrid", "openai-gpt"),
    *("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"),
    *("recurrent_gemma", "zamba", "zamba2", "zaya"),
    # they read no positions, so that they cannot be tested with wrong ones
    *("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "bloom", "git", "marian"),
    *("mbart", "mpt", "mvp", "pegasus", "plbart", "trocr"),
    # states, sparse attention, decoders of the BERT family, wrappers: refused by the test at load
    *("axk2", "camembert", "data2vec-text", "deepseek_v32", "deepseek_v4", "falcon_mamba"),
    *("glm_moe_dsa", "hy_v4", "hy_v4_vl", "inkling_text", "kosmos-2.5", "lfm3_vl", "mamba"),
    *("mamba2", "megatron-bert", "minicpm_ocr", "minicpmv4_6", "minicpmv4_7", "mistral_large4"),
    *("qwen4_exp", "qwen4_exp_text", "reformer", "rembert", "roberta", "roberta-prelayernorm"),
    *("roc_bert", "roformer", "unlimited_ocr", "xlm-roberta", "xlm-roberta-xl", "xlstm", "xmod"),
    # its cache has a window, its attention has none
    "moshi",
}
"""Right classes whose branches run whole."""

AGAIN = (
    "write the table again: PYTHONPATH=tests/support:. python tests/support/every_decoder.py, "
    "then make tables"
)

KINDS = [
    pytest.param(kind, marks=() if kind in ALWAYS else pytest.mark.slow)
    for kind in causal_classes.MODEL_CLASSES
]
RIGHT = [kind for kind in KINDS if KNOWN.get(str(kind.values[0]), {}).get("status") == "right"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    every_decoder.quiet()
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", KINDS)
def test_a_class_is_what_the_table_says(model_type: str) -> None:
    row = measured(model_type, room=1.0)
    listed = KNOWN.get(model_type, dict.fromkeys(FIELDS, ""))
    name = row["class"]
    assert row["status"] != "wrong", f"{name} is accepted and wrong: {row['why']}"
    if THIS_RELEASE:
        said = (row["status"], listed["status"])
        assert said[0] == said[1], f"{name} was {said[1]}, is {said[0]} {row['why']}; {AGAIN}"
        if row["status"] == "right":
            assert float(row["error_below"]) <= float(listed["error_below"]), f"{name}: {AGAIN}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", RIGHT)
def test_branches_of_a_class_have_the_rows_of_whole_passes(model_type: str) -> None:
    reuses, error = _branches(causal_classes.small_model(model_type))
    assert error < 1e-4
    if THIS_RELEASE:
        assert reuses is (model_type not in REPEATED)


def test_blocks_that_use_the_keys_of_others_are_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = {"num_kv_shared_layers": 2}  # of four blocks
    monkeypatch.setitem(causal_classes._OWN, "gemma4_text", shared)
    reuses, error = _branches(causal_classes.small_model("gemma4_text"))
    assert reuses or not THIS_RELEASE  # other releases have other names for shared keys
    assert error < 1e-4


def _branches(model: Any) -> tuple[bool, float]:
    """Whether branches continue from kept keys, and the largest error of their rows.

    Two prompts of 30 and 17 tokens, six times and three times a small model's window, and branches
    off them at several places, within the first window too.
    """
    long, short, *answers = random_prompts(causal_classes.VOCABULARY, [30, 17, 10, 3, 8, 2, 1])
    begins = [(0, long), (0, long[:12]), (1, short), (1, short[:3]), (0, long[:29])]
    batch = replace(
        make_batch([long, short, *answers]),
        before={p: Before(of, np.array(ids, np.int32)) for p, (of, ids) in enumerate(begins, 2)},
    )
    backend = torch_backend(model)
    sites = backend.sites.names[-2:]
    (found,) = captured(backend, [batch], sites)
    whole = [long, short, *([*ids, *own] for (_, ids), own in zip(begins, answers, strict=True))]
    # alone and whole, as `measured` checks them without this package
    alone = [next(iter(captured(backend, [make_batch([ids])], sites))) for ids in whole]
    errors = [
        every_decoder._apart(
            torch.from_numpy(found.batch.hidden[site]),
            torch.from_numpy(
                np.concatenate(
                    [
                        one.batch.hidden[site][-n:]
                        for one, n in zip(alone, batch.lengths, strict=True)
                    ]
                )
            ),
        )
        for site in sites
    ]
    return backend.reuses, max(errors)


def test_the_table_has_every_class() -> None:
    """Another release has other classes, but few, as names rarely change."""
    if THIS_RELEASE:
        assert KNOWN.keys() == causal_classes.MODEL_CLASSES.keys(), AGAIN
    common = KNOWN.keys() & causal_classes.MODEL_CLASSES.keys()
    assert len(common) > 0.9 * min(len(KNOWN), len(causal_classes.MODEL_CLASSES))


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
