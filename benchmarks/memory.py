"""Peak memory at 100 and at 1,000 prompts: it should not grow with the corpus.

Each side is a process of its own, whose peak resident size the operating system keeps.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pairs import Ratio
from lpp.capture.pydoc_corpus import pydoc_passages

FEW, MANY = 100, 1000
SITES = "embed,block.10,block.20,final"
"""Four sites of 32: a thousand prompts then take minutes rather than a quarter of an hour."""
SHARD_MIB = 32
"""Smaller than the default, so that both sizes fill more than the two shards held at once."""


def measure(folder: Path) -> Iterator[Ratio]:
    """Capture, then analysis, of the same passages."""
    peaks = {count: _peaks(folder, count) for count in (FEW, MANY)}
    for index, step in enumerate(("capture", "analysis")):
        few, many = peaks[FEW][index], peaks[MANY][index]
        yield Ratio(
            what=f"peak memory of {step}, {MANY:,} prompts / {FEW}",
            ours=f"{many / 1024:.0f} MiB",
            other=f"{few / 1024:.0f} MiB",
            ratio=many / few,
            spread=(many / few, many / few),
            bar=1.1,
            direction="at most",
        )


def _peaks(folder: Path, count: int) -> tuple[int, int]:
    """KiB of (capture, analysis) for `count` prompts of 200 tokens."""
    corpus, store = folder / f"{count}.jsonl", folder / f"store-{count}"
    passages = [passage.text for passage in pydoc_passages() if len(passage.text) > 900]
    with corpus.open("w") as file:
        for number in range(count):  # the same passages again, each beginning differently
            text = f"{number}. {passages[number % len(passages)]}"
            file.write(json.dumps({"text": text}) + "\n")
    model = "from lpp.capture.models import packaged_model as p; print(p())"
    path = subprocess.run([sys.executable, "-c", model], check=True, capture_output=True, text=True)
    capture = ["lpp.capture.cli", "run", "--model", path.stdout.strip(), "--corpus", str(corpus)]
    capture += ["--store", str(store), "--prompts", str(count), "--sites", SITES]
    capture += ["--logit-positions", "schedule", "--shard-mib", str(SHARD_MIB)]
    return _peak(capture), _peak(["lpp.analyze.cli", "profile", str(store)])


def _peak(arguments: list[str]) -> int:
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
