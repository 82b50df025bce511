"""What an exported direction must do: applied to the model by a program of
docs/how-to/label-probes.md, it gives the scores that it gives to the rows of the store.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lpp.analyze import LabelProbeSettings, probe, write_direction
from lpp.analyze.probes.inputs import site_rows
from lpp.analyze.runs.keys import RunView
from lpp.capture import capture
from lpp.store.exchange.tensor_file import read_tensors

PAGE = Path(__file__).parents[2] / "docs/how-to/label-probes.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
VOCABULARY = 131


def check_program(path: Path, library: str, tolerance: float) -> None:
    """Run the program of `library` in `path`, an empty folder. tolerance: of a score."""
    view = _exported(path)
    (begin,) = (block for block in BLOCKS if "topic.safetensors" in block)
    (code,) = (begin + block for block in BLOCKS if f"from {library}" in block)
    ids = view.run.prompts()["token_ids"].to_pylist()[:6]
    code, count = re.subn(r"(?m)^prompts = .*$", f"prompts = {ids}", code)
    assert count == 1
    # of the machine's memory: other tests run beside
    code = code.replace('LLM("my-model", ', 'LLM("my-model", gpu_memory_utilization=0.1, ')
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(scores)"],
        cwd=path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    decisions, scores = map(json.loads, done.stdout.lower().splitlines()[-2:])
    t = {name: tensor.values for name, tensor in read_tensors(path / "topic.safetensors").items()}
    rows = site_rows(view, "block.2", np.arange(6), "last", 0)
    expected = (rows - t["mean"]) / t["scale"] @ t["weight"] + t["bias"]
    np.testing.assert_allclose(scores, expected, atol=tolerance)
    assert decisions == (np.array(scores) > t["threshold"]).tolist()
    assert len(set(decisions)) == 2


def _exported(path: Path) -> RunView:
    """A random Llama as `my-model`, its run in `store`, and a direction as `topic.safetensors`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=160,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=96,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path / "my-model")
    words = Tokenizer(models.WordLevel({str(k): k for k in range(VOCABULARY)}, unk_token="0"))
    named = dict.fromkeys(("unk_token", "pad_token", "bos_token", "eos_token"), "0")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **named)
    tokenizer.save_pretrained(path / "my-model")
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, VOCABULARY, rng.integers(3, 12)).tolist() for _ in range(60)]
    texts = [{"input_ids": part, "topic": "high" if part[-1] > 65 else "low"} for part in ids]
    where = path / "texts.jsonl"
    where.write_text("".join(json.dumps(text) + "\n" for text in texts))
    capture(
        str(path / "my-model"),
        str(where),
        store=path / "store",
        prompts=60,
        quiet=True,
        context=16,
        sites=["block.2"],
        dtype="float32",
        fields=["topic"],
    )
    found = probe(path / "store", "topic", settings=LabelProbeSettings(sites=["block.2"]))
    write_direction(found, path / "topic.safetensors")
    return found.view
