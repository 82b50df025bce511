"""`lpp-capture compare`, against two bare passes of the same models and their logits.

Both sides are whole commands, each a process: imports, loading, passes over 100 texts of 200
tokens. The other side is what anybody would write: transformers, log-softmax, KL and flips of each
token, nothing kept. Ours stores the rows of `final` and the statistics, and computes errors too.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from benchmarks.pairs import Ratio, ratio_of_times, ratio_once, timed_pairs
from lpp.capture.corpus.pydoc import pydoc_passages
from lpp.capture.models.gguf import packaged_model
from lpp.capture.models.load import load_tokenizer, local_folder

TEXTS: Final = 100
CONTEXT: Final = 200
BATCH: Final = 8
"""Texts that run together."""

REPEATS: Final = 3

BARE: Final = """
import json
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

base, candidate, texts, context, batch = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
ids = [
    tokenizer(json.loads(line)["text"], add_special_tokens=False)["input_ids"][: int(context)]
    for line in open(texts)
]
assert {len(prompt) for prompt in ids} == {int(context)}
models = [AutoModelForCausalLM.from_pretrained(name, dtype="auto") for name in (base, candidate)]
kl, flips, tokens = 0.0, 0, 0
with torch.inference_mode():
    for prompts in torch.tensor(ids).split(int(batch)):
        a, b = (model(prompts).logits.float().log_softmax(-1) for model in models)
        kl += float((a.exp() * (a - b)).sum())
        flips += int((a.argmax(-1) != b.argmax(-1)).sum())
        tokens += prompts.numel()
print(kl / tokens, flips / tokens)
"""

ROUND: Final = """
import sys
from transformers import AutoModelForCausalLM
from lpp.capture.models.structure.rounding import round_blocks

source, target = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
round_blocks(model, 4)
model.save_pretrained(target)
"""


def measure(folder: Path) -> Iterator[Ratio]:
    """Time of the answer, and size of what is kept."""
    folder.mkdir(parents=True)
    base, candidate, texts = local_folder(str(packaged_model())), folder / "b", folder / "t.jsonl"
    _run(ROUND, base, candidate)
    for file in base.glob("token*"):
        shutil.copy(file, candidate)
    tokenizer = load_tokenizer(str(base))
    long = (
        passage.text
        for passage in pydoc_passages()
        if len(tokenizer(passage.text, verbose=False)["input_ids"]) > CONTEXT
    )
    texts.write_text("".join(json.dumps({"text": t}) + "\n" for t in islice(long, TEXTS)))
    store = folder / "store"

    def ours() -> None:
        shutil.rmtree(store, ignore_errors=True)
        command = Path(sys.executable).with_name("lpp-capture")
        words = [command, "compare", base, candidate, "--corpus", texts, "--store", store]
        words += ["--context", str(CONTEXT)]
        subprocess.run([*map(str, words)], check=True, stdout=subprocess.DEVNULL)

    def bare() -> None:
        _run(BARE, base, candidate, texts, CONTEXT, BATCH)

    yield ratio_of_times(
        f"`lpp-capture compare` / two bare passes with logits and KL, whole commands, {TEXTS} "
        f"texts of {CONTEXT} tokens, batches of {BATCH}",
        timed_pairs(ours, bare, REPEATS),
        bar=1.3,
    )
    rows = TEXTS * CONTEXT
    run = max((store / "runs").iterdir())
    kept = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    width = 576
    scaled = kept / rows / width * 300_000 * 4096
    yield ratio_once(
        f"kept run of `final` in bfloat16, {rows:,} tokens at width {width}, scaled to 300,000 "
        "tokens at width 4,096 / 1.7 GB",
        f"{scaled / 1e9:.2f} GB",
        "1.70 GB",
        scaled / 1.7e9,
        bar=1.0,
    )


def _run(code: str, *words: object) -> None:
    subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], check=True, stdout=subprocess.DEVNULL
    )
