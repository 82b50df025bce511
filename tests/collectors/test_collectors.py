"""The programs in docs/how-to/sink.md that need other libraries, with a tiny model."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lpp.store import Run, open_store

PAGE = Path(__file__).parents[2] / "docs/how-to/sink.md"
BLOCKS = re.findall(r"another library -->\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
PROGRAMS = {name: next(b for b in BLOCKS if name in b) for name in ("transformer_lens", "nnsight")}
WORDS = "the quick brown fox jumps over lazy dog every prefix of a text is in one pass"
BLOCKS_OF_MODEL, WIDTH = 3, 16

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `my-model`, a random Llama in bfloat16."""
    path = tmp_path_factory.mktemp("collectors")
    torch.manual_seed(0)
    ids = {word: number for number, word in enumerate(["<unk>", *WORDS.split()])}
    rules = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    named = dict.fromkeys(("unk_token", "pad_token", "bos_token", "eos_token"), "<unk>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rules, **named)
    config = LlamaConfig(
        vocab_size=len(ids), hidden_size=WIDTH, intermediate_size=32,
        num_hidden_layers=BLOCKS_OF_MODEL, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(path / "my-model")
    tokenizer.save_pretrained(path / "my-model")
    return path


def states_of_blocks(folder: Path, run: Run) -> list[Floats]:
    """The outputs of each block over all prompts, by transformers itself."""
    model = LlamaForCausalLM.from_pretrained(folder / "my-model", dtype=torch.bfloat16)
    outputs: dict[int, list[Floats]] = {k: [] for k in range(BLOCKS_OF_MODEL)}
    for k, layer in enumerate(model.model.layers):
        layer.register_forward_hook(
            lambda *call, k=k: outputs[k].append(call[-1][0].float().numpy())
        )
    with torch.inference_mode():
        for ids in run.prompts()["token_ids"].to_pylist():
            model(torch.tensor([ids]))
    return [np.concatenate(parts) for parts in outputs.values()]


SITES: Mapping[str, tuple[Callable[[int], str], float]] = {
    "transformer_lens": (lambda k: f"blocks.{k}.hook_resid_post", 0.05),
    "nnsight": (lambda k: f"model.layers.{k}", 0.0),
}
"""The site of a block's output, and how far it may differ: TransformerLens computes attention step
by step."""


@pytest.mark.parametrize("library", PROGRAMS)
def test_the_program_of_the_page(folder: Path, tmp_path: Path, library: str) -> None:
    (tmp_path / "my-model").symlink_to(folder / "my-model")
    code = PROGRAMS[library]
    for _ in range(2):  # the second resumes, and has nothing to do
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    (run,) = open_store(tmp_path / "lpp-rows").runs.values()
    assert run.verify() == []
    assert run.prompts("text")["text"].to_pylist()[0].startswith("The quick brown fox")
    site, tolerance = SITES[library]
    for k, expected in enumerate(states_of_blocks(folder, run)):
        values = np.concatenate(list(run.hidden(site(k))))
        np.testing.assert_allclose(values, expected, atol=tolerance, rtol=0)
    if library == "transformer_lens":
        spec = run.site("blocks.1.attn.hook_z")
        assert (spec.width, run.plan.depth_of(spec.name)) == (WIDTH, 3)
        assert all(np.isfinite(rows).all() for rows in run.hidden(spec.name))


KILLED = """
from lpp.store.row_sink import RowSink
import os, signal

put, count = RowSink.put, [0]
def counted(self, *rows):
    put(self, *rows)
    count[0] += 1
    if count[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
RowSink.put = counted
"""


@pytest.mark.parametrize("library", PROGRAMS)
def test_two_processes_and_a_kill(folder: Path, tmp_path: Path, library: str) -> None:
    (tmp_path / "my-model").symlink_to(folder / "my-model")
    code = (
        PROGRAMS[library]
        .replace("texts = [", f"texts = [*{WORDS!r}.split(),")
        .replace('dtype="bfloat16",', 'dtype="bfloat16", shard_bytes=2000,')
    )
    assert "shard_bytes" in code
    parts = [code.replace("missing()", f"missing(({part}, 2))") for part in (0, 1)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}

    def at_once(*programs: str) -> list[int]:
        started = [
            subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment)
            for program in programs
        ]
        return [process.wait() for process in started]

    assert at_once(KILLED + parts[0], parts[1]) == [-9, 0]
    (run,) = open_store(tmp_path / "lpp-rows").runs.values()
    assert run.missing_shards
    assert at_once(*parts) == [0, 0]
    run = open_store(tmp_path / "lpp-rows").runs[run.id]
    assert (run.missing_shards, run.verify()) == ((), [])
    site, tolerance = SITES[library]
    for k, expected in enumerate(states_of_blocks(folder, run)):
        values = np.concatenate(list(run.hidden(site(k))))
        np.testing.assert_allclose(values, expected, atol=tolerance, rtol=0)
