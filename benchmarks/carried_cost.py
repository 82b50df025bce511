"""What a store keeps beside the numbers, against a capture without it: head, vocabulary, fields.

Both sides capture `final` of the same labelled texts with one loaded model, from reading the corpus
to the last commit. Head and vocabulary are in the store already, as after the first run of a model;
the first run, which writes them, is not timed.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Final
from unittest import mock

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.setting import request, scratch
from lpp.capture.backends.open import open_backend
from lpp.capture.corpus.pydoc import pydoc_passages
from lpp.capture.engine.run import capture_into
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store import create_store

PROMPTS: Final = 100
REPEATS: Final = 5
FIELDS: Final = ("label", "score", "checked")


def measure(prompts: int = PROMPTS) -> Iterator[Ratio]:
    """The bar of what prompts and stores carry."""
    with scratch() as folder, ExitStack() as stack:
        corpus = labelled(folder / "corpus.jsonl", prompts)
        bare = CorpusSpec(name=str(corpus))
        with_fields = CorpusSpec(name=str(corpus), fields=FIELDS)
        ours = request(prompts, corpus=with_fields, sites=("final",))
        other = request(prompts, corpus=bare, sites=("final",), keep_head="no")
        backend = open_backend(ours)
        stack.callback(backend.close)
        times = timed_pairs(
            capturing(ours, backend, folder / "ours"),
            capturing(other, backend, folder / "other", vocabulary=False),
            REPEATS,
        )
        yield ratio_of_times(
            "capture of `final` with head, vocabulary and three fields / without, after the first "
            "run of a model",
            times,
            bar=1.03,
        )


def labelled(file: Path, count: int) -> Path:
    """The built-in texts as JSONL, each with a field of three types."""
    rows = (
        {"text": one.text, "label": f"kind {n % 7}", "score": n / 3, "checked": n % 2 == 0}
        for n, one in enumerate(islice(pydoc_passages(), count))
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def capturing(
    wanted: CaptureRequest, backend: Any, root: Path, *, vocabulary: bool = True
) -> Callable[[], None]:
    """A whole capture with a model that is loaded, of a run that the store does not hold."""
    create_store(root)

    def run() -> None:
        shutil.rmtree(root / "runs", ignore_errors=True)
        with ExitStack() as stack:
            opened = mock.patch("lpp.capture.engine.prepare.open_backend", return_value=backend)
            stack.enter_context(opened)
            stack.enter_context(mock.patch.object(backend, "close"))
            if not vocabulary:
                stack.enter_context(mock.patch("lpp.capture.engine.run.keep_vocabulary"))
            capture_into(root, wanted)

    return run
