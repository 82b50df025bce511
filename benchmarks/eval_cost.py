"""An evaluation that captures its passes, against lm-eval's own `hf` model without a store.

Both sides are whole commands, each a process: imports, loading, documents, passes, result files and
logs of every item. Both run batches of eight prompts on the same weights, in turn. lm-eval does not
read its own thousands of tasks, which would take it seconds more. A capture runs each question
once; lm-eval runs it once for each answer, unless every answer has one token. These have several.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

from benchmarks.memory import peak
from benchmarks.pairs import Ratio, ratio_of_times, ratio_once, timed_pairs
from lpp.capture.corpus.pydoc import pydoc_passages
from lpp.capture.models.gguf import packaged_model
from lpp.capture.models.load import load_tokenizer, local_folder

ITEMS: Final = 60
REPEATS: Final = 3
BATCH: Final = 8
"""Prompts that run together."""

LONG: Final = (112, 16, 4)
"""Tokens of a question and of an answer; answers of an item."""

FEW, MANY = 200, 2000
SHORT: Final = (12, 4, 2)
"""The same of the items whose peak memory is measured, so that 2,000 of them take a minute."""

SHARD_MIB: Final = 1
"""Of them: 200 items fill more than the three shards that are held at once."""

TASK: Final = "continued"

BY_LM_EVAL: Final = """
import sys
import lm_eval
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

model, folder, task, batch, out = sys.argv[1:]
tracker = EvaluationTracker(output_path=out)
results = lm_eval.simple_evaluate(
    model="hf",
    model_args={"pretrained": model, "dtype": "auto"},
    tasks=[task],
    task_manager=TaskManager(include_path=folder, include_defaults=False),
    batch_size=int(batch),
    device="cpu",
    log_samples=True,
    evaluation_tracker=tracker,
)
samples = results.pop("samples")
tracker.save_results_aggregated(results=results, samples=samples)
tracker.save_results_samples(task_name=task, samples=samples[task])
"""


def measure(folder: Path, items: int = ITEMS) -> Iterator[Ratio]:
    """Time with `final` and with every site; peak memory."""
    model = local_folder(str(packaged_model()))
    task = write_task(folder / "task", model, items, LONG)
    other = by_lm_eval(model, task, folder / "hf")
    for sites, bar in (("final", 1.15), ("all", 1.35)):
        # rooms for rounding: a text that is decoded and encoded again may have a token more
        ours = capturing(model, task, folder / sites, sites, BATCH * (sum(LONG[:2]) + 4))
        yield ratio_of_times(
            f"`lpp-capture eval` that keeps {sites} / lm-eval's `hf`, whole command, {items} items "
            f"of {LONG[2]} answers, batches of {BATCH}",
            timed_pairs(ours, other, REPEATS),
            bar=bar,
        )


def of_memory(folder: Path, few: int = FEW, many: int = MANY) -> Ratio:
    """Peak memory of an evaluation by its number of items."""
    model = local_folder(str(packaged_model()))
    peaks = []
    for items in (few, many):
        task = write_task(folder / f"short-{items}", model, items, SHORT)
        root = folder / f"evaluated-{items}"
        words = _words(model, task, root, "final", BATCH * (sum(SHORT[:2]) + 4))
        peaks.append(peak([*words, "--shard-mib", str(SHARD_MIB)]))
        shutil.rmtree(root)
    return ratio_once(
        f"peak memory of `lpp-capture eval`, {many:,} items / {few:,}",
        f"{peaks[1] / 1024:.0f} MiB",
        f"{peaks[0] / 1024:.0f} MiB",
        peaks[1] / peaks[0],
        bar=1.1,
    )


def write_task(folder: Path, model: Path, items: int, shape: tuple[int, int, int]) -> Path:
    """A multiple-choice task of the built-in texts: which text follows? Its YAML file.

    shape: tokens of a question and of an answer; answers, of which all but one are other items'.
    """
    question, answer, answers = shape
    folder.mkdir(parents=True)
    tokenizer = load_tokenizer(str(model))
    cuts = []
    for passage in pydoc_passages():
        ids = tokenizer(passage.text, add_special_tokens=False, verbose=False)["input_ids"]
        for start in range(0, len(ids) - question - answer, question + answer):
            middle = start + question
            texts = ids[start:middle], ids[middle : middle + answer]
            cuts.append([tokenizer.decode(text) for text in texts])
    documents = folder / "items.jsonl"
    with documents.open("w") as file:
        for number in range(items):  # the same again with another number, where texts run out
            gold = number % answers
            others = [cuts[(number + 1 + k) % len(cuts)][1] for k in range(answers)]
            text, others[gold] = cuts[number % len(cuts)]
            line = {"question": f"{number}. {text}", "choices": others, "gold": gold}
            file.write(json.dumps(line) + "\n")
    file_of_task = folder / f"{TASK}.yaml"
    file_of_task.write_text(
        f"task: {TASK}\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {documents}}}}}\n"
        "test_split: test\n"
        "output_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\n'
        "doc_to_choice: choices\n"
        "doc_to_target: gold\n"
        'target_delimiter: ""\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return file_of_task


def capturing(
    model: Path, task: Path, root: Path, sites: str, batch_tokens: int
) -> Callable[[], None]:
    """Ours: into a new store each time."""

    def run() -> None:
        shutil.rmtree(root, ignore_errors=True)
        _done([sys.executable, "-m", *_words(model, task, root, sites, batch_tokens)])

    return run


def by_lm_eval(model: Path, task: Path, out: Path) -> Callable[[], None]:
    """Theirs: result file and log into a new folder each time."""
    numbers = count()

    def run() -> None:
        where = [str(model), str(task.parent), TASK, str(BATCH), str(out / str(next(numbers)))]
        _done([sys.executable, "-c", BY_LM_EVAL, *where])

    return run


def _words(model: Path, task: Path, root: Path, sites: str, batch_tokens: int) -> list[str]:
    return [
        *("lpp.capture.cli.command", "eval", "--model", str(model), "--tasks", str(task)),
        *("--store", str(root), "--sites", sites, "--batch-tokens", str(batch_tokens)),
    ]


def _done(words: list[str]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
