"""What the benchmarks run on: the packaged model, the built-in passages, a store of them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpp.analyze.drift.pair import Pair, pair_of
from lpp.capture.cli.demo import capture_rounded, demo_request
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.capture import capture_run
from lpp.capture.engine.prepare import Prepared, prepare
from lpp.capture.engine.run import capture_into
from lpp.capture.models.gguf import packaged_model
from lpp.capture.plan.request import CaptureRequest
from lpp.store import Run, RunWriter, create_store, open_store


def request(prompts: int, **changes: Any) -> CaptureRequest:
    """The demo's request with another number of prompts."""
    return replace(
        demo_request(packaged_model(), None), selection=Selection(prompts=prompts), **changes
    )


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A folder that is gone afterwards. parent: where it lies; the system's place by default."""
    with tempfile.TemporaryDirectory(prefix="lpp-bench-", dir=parent) as folder:
        yield Path(folder)


def capture(prepared: Prepared, root: Path) -> Run:
    """Capture a prepared plan into a new store at `root`."""
    writer = RunWriter(create_store(root).path, prepared.plan, prepared.prompts)
    capture_run(prepared.plan, prepared.prompts, writer, prepared.backend)
    return writer.run


def store_of(run: Run) -> Path:
    """The folder of the store that `run` lies in: here all stores lie on disk."""
    path = run.path
    assert isinstance(path, Path)
    return path.parent.parent


def rounded_pair(root: Path, prompts: int) -> Pair:
    """The packaged model and its rounded copy in a new store at `root`, with their heads."""
    wanted = request(prompts)
    trained, rounded = capture_into(root, wanted).run, capture_rounded(root, wanted)
    runs = open_store(root).runs
    return pair_of(runs[trained], runs[rounded])


def prepared(prompts: int, **changes: Any) -> Prepared:
    """The packaged model, loaded, and its plan."""
    return prepare(request(prompts, **changes))
