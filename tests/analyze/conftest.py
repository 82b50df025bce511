"""Small synthetic stores, written by the real writer."""

import itertools
import pickle
import shutil
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from made_runs import Made, MakeRun
from small_capture import make_plan, prompts_info, prompts_table

from lpp.analyze import ScoreSettings, add_benchmarks
from lpp.analyze.numerics import spectrum
from lpp.analyze.scores.scores import Added
from lpp.store import Plan, Problem, RunWriter, create_store, open_store
from lpp.store.format.keys import RUNS_KEY
from lpp.store.format.plan import (
    ContinuationInfo,
    CorpusInfo,
    LogitPositions,
    Series,
    SiteSpec,
    TokenizerInfo,
)
from lpp.store.format.quarantine import OUT_OF_MEMORY, SetAside, quarantine_table
from lpp.store.format.schedule import prefix_schedule
from lpp.store.format.tables import TOKENS_SCHEMA
from lpp.store.runs.read import Block, Run

if find_spec("inspect_ai") is None:
    collect_ignore = ["test_inspect_logs.py", "test_inspect_items.py"]


@pytest.fixture(scope="session")
def kept_runs(tmp_path_factory: pytest.TempPathFactory) -> "KeptRuns":
    """Every run that a test made so far."""
    return KeptRuns(tmp_path_factory.mktemp("kept_runs"))


@pytest.fixture
def make_run(tmp_path: Path, kept_runs: "KeptRuns") -> MakeRun:
    """Write a run of float32 rows into the store at `tmp_path/store`, or another root."""
    return partial(kept_runs.copy, tmp_path / "store")


@pytest.fixture(scope="module")
def make_shared_run(
    tmp_path_factory: pytest.TempPathFactory, kept_runs: "KeptRuns"
) -> Iterator[MakeRun]:
    """The same into one store for all tests of a file.

    They leave its runs as they are: at the end there is none that was added or altered.
    """
    store = tmp_path_factory.mktemp("shared") / "store"
    made: dict[str, list[Problem]] = {}  # a run may be made without some of its shards

    def make(*lengths: Any, **settings: Any) -> Made:
        run = kept_runs.copy(store, *lengths, **settings)
        made[run.run_id] = open_store(store).runs[run.run_id].verify()
        return run

    yield make
    assert {name: run.verify() for name, run in open_store(store).runs.items()} == made


@pytest.fixture
def add_file(tmp_path: Path) -> Callable[..., Added]:
    """`add_file(data, name)`: what `add_benchmarks` makes of a file in an empty store."""
    root = create_store(tmp_path / "scores").path

    def add(data: bytes, name: str, **settings: Any) -> Added:
        path = tmp_path / name
        path.write_bytes(data)
        return add_benchmarks(root, [path], ScoreSettings(replace=True, **settings))

    return add


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts reads of sites and eigensolves; the real functions run."""
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    blocks, solve = Run.blocks, spectrum.eigenvalues

    def counted_blocks(run: Run, site: str, **options: Any) -> Iterator[Block]:
        with lock:
            counts["reads"] += 1
        return blocks(run, site, **options)

    def counted_solve(spread: Any, **options: Any) -> Any:
        with lock:
            counts["solves"] += 1
        return solve(spread, **options)

    monkeypatch.setattr(Run, "blocks", counted_blocks)
    monkeypatch.setattr(spectrum, "eigenvalues", counted_solve)
    return counts


class KeptRuns:
    """Runs, each written once a session: a test that asks for the same settings gets a copy.

    A copy takes a seventh of the time of a write. Its files may be damaged and removed, but its
    arrays are those of the first, and cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[bytes, Made] = {}

    def copy(self, store: Path, *lengths: Any, root: Path | None = None, **settings: Any) -> Made:
        """A run in `root`, which is `store` unless it is given."""
        root = root or store
        create_store(root)
        try:
            key = pickle.dumps((lengths, sorted(settings.items())))
        except (pickle.PicklingError, AttributeError):  # a function of a test
            return _write_run(root, *lengths, **settings)
        made = self.made.get(key)
        if made is None:
            kept = self.folder / str(len(self.made))
            create_store(kept)
            made = self.made[key] = _write_run(kept, *lengths, **settings)
        run = f"{RUNS_KEY}/{made.run_id}"
        if (root / run).exists():
            return _write_run(root, *lengths, **settings)
        shutil.copytree(made.root / run, root / run)
        return replace(made, root=root)


def _write_run(
    root: Path,
    lengths: Sequence[int] = (12, 7, 20, 20, 3, 15),
    *,
    context: int = 20,
    dim: int = 6,
    sites: Sequence[str] = ("embed", "block.1", "block.2", "final"),
    model: str = "tiny/model",
    seed: int = 0,
    per_shard: int = 2,
    logit_positions: LogitPositions = "all",
    shards: Sequence[int] | None = None,
    shared_start: int = 0,
    order: Sequence[int] | None = None,
    logits_width: int = 50,
    corpus: str = "words",
    vary_tokens: bool = False,
    prompt_set: str = "p0",
    texts: str | None = None,
    tokenizer: str = "t0",
    untrained_seed: int | None = None,
    series: Series | None = None,
    first_row: int = 100,
    task: str | None = None,
    carried: Mapping[str, Sequence[Any]] | None = None,
    set_aside: Collection[int] = (),
    continuation: ContinuationInfo | None = None,
    most_likely: int = 7,
    scale: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]] = lambda rows: rows,
    norm: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]] | None = None,
) -> Made:
    hidden, entropy = _content(lengths, seed=seed, sites=sites, dim=dim, scale=scale)
    if norm is not None:
        hidden["final"] = [norm(rows) for rows in hidden[sites[-2]]]
    # which texts, and what ids the tokenizer makes of them: one run of them all, or of a start
    of_texts = f"{tokenizer} {texts or prompt_set} {first_row}"
    prompts = _prompts(lengths, of_texts, shared_start)
    order = order or range(len(lengths))
    prompts = [prompts[i][:context] for i in order]
    hidden = {s: [rows[i][:context] for i in order] for s, rows in hidden.items()}
    entropy = [entropy[i][:context] for i in order]
    truncated = [lengths[i] > context for i in order]
    rows = [first_row + 3 * k for k in range(len(prompts))]
    table = prompts_table([np.array(p) for p in prompts], rows, truncated)
    of_model = make_plan().model
    plan = make_plan(
        model=replace(
            of_model,
            id=model,
            source="folder",
            n_parameters=1234,
            n_blocks=sum(site.startswith("block.") for site in sites),
            hidden_size=dim,
            logits_width=logits_width,
            untrained_seed=untrained_seed,
            series=series,
        ),
        tokenizer=TokenizerInfo(id=model, fingerprint=tokenizer, size=48),
        corpus=CorpusInfo(
            name=corpus,
            revision=None,
            fingerprint="c0",
            prompt_set=prompt_set,
            selection={"seed": 42},
        ),
        prompts=prompts_info(table),
        context=context,
        prefixes=prefix_schedule(context),
        logit_positions=logit_positions,
        sites=tuple(
            SiteSpec(name=s, convention="post_norm" if s == "final" else "residual", width=dim)
            for s in sites
        ),
        stored_dtype="float32",
        shards=(*range(0, len(prompts), per_shard), len(prompts)),
    )
    if task is not None:
        rule: dict[str, str | int | None] = {"seed": 42, "text": f"lm-eval requests of {task}"}
        plan = replace(plan, corpus=replace(plan.corpus, selection=rule))
    plan = replace(plan, continuation=continuation)
    for name, values in (carried or {}).items():
        array = values if isinstance(values, pa.Array) else pa.array(values)
        table = table.append_column(name, array)
    writer = RunWriter(root, plan, table)
    for index, (first, end) in enumerate(itertools.pairwise(plan.shards)):
        if shards is None or index in shards:
            writer.write_shard(
                index,
                {site: np.concatenate(rows[first:end]) for site, rows in hidden.items()},
                _tokens_table(
                    prompts,
                    entropy,
                    range(first, end),
                    plan,
                    vary=vary_tokens,
                    most_likely=most_likely,
                    set_aside=set_aside,
                ),
                quarantine_table(
                    SetAside(prompt_id=i, reason=OUT_OF_MEMORY, site=None, position=None, detail="")
                    for i in range(first, end)
                    if i in set_aside
                ),
            )
    for array in (*entropy, *itertools.chain(*hidden.values())):
        array.flags.writeable = False
    return Made(root, plan.run_id, plan, prompts, hidden, entropy)


def _prompts(lengths: Sequence[int], texts: str, shared_start: int) -> list[list[int]]:
    """Token ids of whole prompts; runs of the same texts begin with the same prompts."""
    rng = np.random.default_rng(zlib.crc32(texts.encode()))
    prompts: list[list[int]] = [rng.integers(0, 50, size=length).tolist() for length in lengths]
    for prompt in prompts:
        prompt[:shared_start] = range(shared_start)
    return prompts


def _content(
    lengths: Sequence[int],
    *,
    seed: int,
    sites: Sequence[str],
    dim: int,
    scale: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
) -> tuple[dict[str, list[npt.NDArray[np.float32]]], list[npt.NDArray[np.float32]]]:
    """Rows and entropies of whole prompts; a cut run holds the starts of the same."""
    rng = np.random.default_rng(seed)
    for length in lengths:  # rows stay what they were when token ids came first
        rng.integers(0, 50, size=length)
    hidden = {
        site: [
            scale((rng.normal(size=(length, dim)) * np.arange(1, dim + 1) + k).astype(np.float32))
            for length in lengths
        ]
        for k, site in enumerate(sites)
    }
    entropy = [rng.uniform(0.1, 3.0, size=length).astype(np.float32) for length in lengths]
    return hidden, entropy


def _tokens_table(
    prompts: list[list[int]],
    entropy: list[npt.NDArray[np.float32]],
    ids: range,
    plan: Plan,
    *,
    vary: bool,
    set_aside: Collection[int],
    most_likely: int,
) -> pa.Table:
    """Statistics that are plain to see, or, where they `vary`, that make every metric move."""
    rows = []
    for i in ids:
        ends = {min(prefix, len(prompts[i])) - 1 for prefix in plan.prefixes}
        for position, token in enumerate(prompts[i]):
            key: dict[str, Any] = {"prompt_id": i, "position": position, "token_id": token}
            if i not in set_aside and (plan.logit_positions == "all" or position in ends):
                key |= {
                    "entropy": float(entropy[i][position]),
                    "log_z": 10.0 + position,
                    "max_logprob": -0.25,
                    "margin": 0.5,
                    "top1_id": most_likely,
                    "varentropy": 0.75 + position / 8,
                }
                if position + 1 < len(prompts[i]):
                    key |= {"next_logprob": -1.5 - i, "next_rank": 2 + i}
                if vary:
                    key |= _varied(key, i, position)
            rows.append(key)
    return pa.Table.from_pylist(rows, schema=TOKENS_SCHEMA)


def _varied(key: dict[str, Any], prompt: int, position: int) -> dict[str, Any]:
    """Other statistics of one token, the same whatever its prompt is cut to."""
    rng = np.random.default_rng([prompt, position])
    changed: dict[str, Any] = {
        "max_logprob": -rng.exponential(0.7),
        "margin": rng.exponential(1.2),
        "varentropy": rng.uniform(0.1, 4),
    }
    if "next_rank" in key:
        changed |= {"next_logprob": -rng.exponential(2.0), "next_rank": rng.integers(1, 4)}
    return changed
