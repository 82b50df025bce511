"""Peak memory: it should not grow with the corpus, nor with the rows of an analysis.

Each side is a process of its own, whose peak resident size the operating system keeps.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.pairs import Ratio, ratio_once
from benchmarks.synthetic import synthetic_run
from lpp.capture.corpus.pydoc import pydoc_passages
from lpp.store import open_store
from lpp.store.objects.locate import objects_at
from lpp.store.shared.heads import commit_head
from lpp.store.shared.logits import HeadContent
from lpp.store.shared.matrices import Matrix

FEW, MANY = 100, 1000
SITES = "embed,block.10,block.20,final"
"""Four sites of 32: a thousand prompts then take minutes rather than a quarter of an hour."""
ROWS = (10_000, 100_000, 1_000_000)
"""Of one synthetic site: what a model would take days to make here."""
SHARD_PROMPTS = 50
"""Of the runs whose drift is computed: 10,000 rows."""
WIDTH = 128
HIDDEN = 576
VOCABULARY = 8192
"""Of the rows and logits whose drift is computed."""
SHARD_MIB = 32
"""Smaller than the default, so that both sizes fill more than the three shards held at once."""


def measure(folder: Path) -> Iterator[Ratio]:
    """Capture, then analysis, of the same passages."""
    peaks = {count: _peaks(folder, count) for count in (FEW, MANY)}
    for index, step in enumerate(("capture", "analysis")):
        few, many = peaks[FEW][index], peaks[MANY][index]
        yield grown(f"{step}, {MANY:,} prompts / {FEW}", many, few)
    yield from of_rows(folder)
    yield of_predictions(folder)


def of_rows(folder: Path, sizes: Sequence[int] = ROWS) -> Iterator[Ratio]:
    """Analysis of one site, each size beside the smallest."""
    peaks = []
    for rows in sizes:
        root = folder / f"rows-{rows}"
        synthetic_run(root, rows, WIDTH, per_shard=200)
        peaks.append(peak(["lpp.analyze.cli.command", "profile", str(root)]))
        shutil.rmtree(root)
    for rows, most in zip(sizes[1:], peaks[1:], strict=True):
        yield grown(
            f"analysis, {rows:,} rows of width {WIDTH} / {sizes[0]:,}",
            most,
            peaks[0],
            bound="blocks, bands and the merge of spans are full size from 100,000 rows on",
        )


def of_predictions(
    folder: Path, sizes: tuple[int, int] = ROWS[:2], vocabulary: int = VOCABULARY
) -> Ratio:
    """Exact drift of the predictions of two synthetic models, by the command.

    vocabulary: smaller than a model's, so that it takes a minute; a tile holds whole rows of it.
    Both stores have full shards: the file of one is mapped while it is read.
    """
    weight = np.random.default_rng(0).standard_normal((vocabulary, HIDDEN), np.float32)
    weight *= np.float32(1 / 16)
    head = HeadContent(matrix=Matrix(dtype="float32", weight=weight))
    peaks = []
    for tokens in sizes:
        root = folder / f"predictions-{tokens}"
        for model in (0, 1):
            run = synthetic_run(
                root, tokens, HIDDEN, per_shard=SHARD_PROMPTS, model=model, vocabulary=vocabulary
            )
            commit_head(objects_at(root), run.plan, head)
        words = ["lpp.analyze.cli.command", "diff", str(root), *open_store(root).runs]
        peaks.append(peak([*words, "--errors", "none"]))
        shutil.rmtree(root)
    shape = f"d = {HIDDEN}, V = {vocabulary:,}"
    what = f"the predictions' drift, {shape}, {sizes[1]:,} tokens / {sizes[0]:,}"
    return grown(what, peaks[1], peaks[0])


def grown(what: str, many: int, few: int, bound: str = "") -> Ratio:
    """Of two peaks in KiB."""
    return ratio_once(
        f"peak memory of {what}",
        f"{many / 1024:.0f} MiB",
        f"{few / 1024:.0f} MiB",
        many / few,
        bar=1.1,
        bound=bound,
    )


def _peaks(folder: Path, count: int) -> tuple[int, int]:
    """KiB of (capture, analysis) for `count` prompts of 200 tokens."""
    corpus, store = folder / f"{count}.jsonl", folder / f"store-{count}"
    passages = [passage.text for passage in pydoc_passages() if len(passage.text) > 900]
    with corpus.open("w") as file:
        for number in range(count):  # the same passages again, each beginning differently
            text = f"{number}. {passages[number % len(passages)]}"
            file.write(json.dumps({"text": text}) + "\n")
    model = "from lpp.capture.models.gguf import packaged_model as p; print(p())"
    path = subprocess.run([sys.executable, "-c", model], check=True, capture_output=True, text=True)
    capture = [
        "lpp.capture.cli.command",
        "run",
        "--model",
        path.stdout.strip(),
        "--corpus",
        str(corpus),
    ]
    capture += ["--store", str(store), "--prompts", str(count), "--sites", SITES]
    capture += ["--logit-positions", "schedule", "--shard-mib", str(SHARD_MIB)]
    return peak(capture), peak(["lpp.analyze.cli.command", "profile", str(store)])


def peak(arguments: list[str]) -> int:
    """Peak resident KiB of `python -m` with `arguments`."""
    module, *rest = arguments
    code = (
        "import pathlib, runpy, sys\n"
        f"sys.argv = {[module, *rest]!r}\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        # not ru_maxrss, which a child inherits from the process that started it
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(status.partition('VmHWM:')[2].split()[0], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stderr.split()[-1])
