"""A store under speculators, beside the files that its generator writes: bytes, an epoch, a start.

The rows are SmolLM2's states of four layers, of prompts of 200 tokens. Both sides go through
speculators' own data set, sampler and batches, on files in the page cache. This needs speculators
(`make .venv-trainers/.lpp-env`); without it only bytes are compared.
"""

import itertools
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.pairs import Ratio, ratio_of_times, ratio_once, timed_pairs
from benchmarks.setting import capture, prepared, store_of
from benchmarks.synthetic import synthetic_run
from lpp.store import Run, open_store, sink
from lpp.store.exchange.export import export
from lpp.store.exchange.sample_order import read_by_groups
from lpp.store.format.plan import SiteSpec
from lpp.store.units import short_bytes

SITES: Final = ("block.2", "block.15", "block.27", "block.30")
CAPTURED: Final = 50
"""Prompts that the packaged model reads; the run has their rows `TIMES` over, further apart than a
chunk, so that they compress as if they were all different."""
TIMES: Final = 20
ROUNDED: Final = 20
"""Prompts of a capture in 8 bits."""
REPEATS: Final = 5
BATCH_TOKENS: Final = 8192
DISK: Final = 500e6
"""Bytes a second of the disk for which an epoch is computed."""
CORES: Final = 2

SAMPLES: Final = 600_000
"""Of the store whose first sample is waited for: of 20 tokens, 16 wide."""
PER_SHARD: Final = 500
FRESH: Final = 3

INSTALLED: Final = find_spec("speculators") is not None


def measure(folder: Path, *, samples: int = SAMPLES) -> Iterator[Ratio]:
    """folder: scratch, with room for 3 GB. samples: of the run that begins."""
    ready = prepared(CAPTURED, sites=SITES, logit_positions="schedule")
    source = capture(ready, folder / "captured")
    run, files = repeated(source, folder / "run"), folder / "files"
    rounded = capture(
        prepared(ROUNDED, sites=SITES, stored_dtype={"*": "float8_e4m3"}), folder / "8"
    )
    export(run, "speculators", files)
    of_files = sum(file.stat().st_size for file in files.rglob("hs_*.safetensors"))
    row = len(SITES) * source.site(SITES[0]).width
    fp8 = int(rounded.lengths.sum()) * (row + 4)
    for what, of, other, bar in (
        ("without loss / bfloat16 safetensors", run, of_files, 0.72),
        ("float8_e4m3 / its 8 bits, a float32 for each token", rounded, fp8, 0.87),
    ):
        mine = hidden_bytes(of)
        text = f"bytes of hidden states for speculators: the store {what}"
        yield ratio_once(text, short_bytes(mine), short_bytes(other), mine / other, bar=bar)
    if not INSTALLED:
        sys.stderr.write("speculators is not installed: without its epochs\n")
        return
    yield from _epochs(run, files, hidden_bytes(run) / of_files)
    for path in (store_of(run), files):
        shutil.rmtree(path)
    yield from _first_sample(folder / "many", samples)


def repeated(source: Run, root: Path) -> Run:
    """The rows of `source`, `TIMES` over: prompts whose first tokens differ."""
    rows = {s: np.concatenate([b.values for b in source.blocks(s, dtype="stored")]) for s in SITES}
    ids, ends = source.prompts()["token_ids"].to_pylist(), np.cumsum(source.lengths).tolist()
    width = source.site(SITES[0]).width
    with sink(
        root,
        model={"id": "repeated", "n_blocks": 30, "hidden_size": width},
        sites={s: SiteSpec(name=s, convention="residual", width=width) for s in SITES},
        prompts=[[time, *one[1:]] for time in range(TIMES) for one in ids],
        dtype="bfloat16",
    ) as into:
        for prompt in into.missing():
            end = ends[prompt.number % len(ids)]
            part = slice(end - len(prompt.token_ids), end)
            into.put(prompt, {site: values[part] for site, values in rows.items()})
    (run,) = open_store(root).runs.values()
    return run


def hidden_bytes(run: Run) -> int:
    """Of all objects of its rows."""
    return sum(
        f.stat().st_size for f in Path(str(run.path)).rglob("hidden.zarr/**/*") if f.is_file()
    )


def loader(transfer: Any, data: Path) -> Any:
    """The samples to train with in speculators' DataLoader, in this process."""
    import torch
    from speculators.train.dataloader import create_train_val_loaders

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pinned memory
        train, _ = create_train_val_loaders(
            data_path=str(data),
            total_seq_len=BATCH_TOKENS,
            hidden_states_dtype=torch.bfloat16,
            transfer=transfer,
            vllm_endpoint="",
            on_missing="raise",
            verifier_name_or_path="",
            request_timeout=1,
            max_retries=0,
            generation_validation_retries=0,
            max_consecutive_generation_failures=1,
            hidden_size=576,
            num_target_layers=len(SITES) - 1,
            num_workers=0,
            prefetch_factor=2,
            preprocess=None,
        )
    return train


def _epochs(run: Run, files: Path, bytes_stored: float) -> Iterator[Ratio]:
    from hs_connectors import FileTransfer

    from lpp.store.exchange.speculators_backend import GROUP_CHUNKS, Order, StoreTransfer

    def epoch(transfer: Any) -> Callable[[], None]:
        batches, number = loader(transfer, files), itertools.count()
        read_by_groups(batches)

        def run_one() -> None:
            batches.batch_sampler.set_epoch(next(number))
            for _ in batches:
                pass

        return run_one

    theirs = epoch(FileTransfer(files / "hidden_states"))
    orders: tuple[Order, ...] = ("groups", "uniform")
    ours = {order: epoch(StoreTransfer(run, SITES, str(files), order)) for order in orders}
    bound = "unpacking: its files need none"
    for clock, what in ((time.perf_counter, "wall clock"), (time.process_time, "CPU seconds")):
        times = timed_pairs(ours["groups"], theirs, REPEATS, clock)
        text = (
            f"an epoch of speculators' batches, random samples of 200 tokens, {what}: store / files"
        )
        yield ratio_of_times(text, times, bar=1.25, bound=bound)
    seconds = [float(np.median(side)) / CORES for side in times]
    whole = int(run.lengths.sum()) * 2 * 576 * len(SITES) / DISK
    read = [whole * bytes_stored * (1 + 1 / GROUP_CHUNKS), whole]  # a group's last prompt
    slower = [max(pair) for pair in zip(seconds, read, strict=True)]
    yield ratio_once(
        f"the same on {CORES} cores, which read ahead, and a disk of 500 MB a second: computed, "
        "the longer one of reading and these CPU seconds",
        f"{slower[0]:.2f} s",
        f"{slower[1]:.2f} s",
        slower[0] / slower[1],
        bar=0.8,
    )
    times = timed_pairs(ours["groups"], ours["uniform"], 1, time.process_time)
    yield ratio_of_times(
        "CPU seconds of an epoch by groups / in speculators' order", times, bar=0.5
    )


_FIRST: Final = """
import sys, time
from pathlib import Path
from benchmarks.draft_cost import SITES, loader
from lpp.store import open_store
from lpp.store.exchange.sample_order import read_by_groups
from lpp.store.exchange.speculators_backend import StoreTransfer
import speculators.train.dataloader
start = time.perf_counter()
(run,) = open_store(sys.argv[1]).runs.values()
transfer = StoreTransfer(run, SITES, sys.argv[2], "groups")
opened = time.perf_counter() - start
batches = loader(transfer, Path(sys.argv[2]))
read_by_groups(batches)
sample = transfer.get_cached(int(batches.batch_sampler._generate_batches(0)[0][0]))
print(time.perf_counter() - start, opened)
"""


def _first_sample(folder: Path, samples: int) -> Iterator[Ratio]:
    """Seconds until the first sample, in processes that have imported everything."""
    store, talks = folder / "store", folder / "talks"
    shape: dict[str, Any] = {"sites": SITES, "per_shard": PER_SHARD, "length": 20, "written": 2}
    run = synthetic_run(store, samples * 20, 16, **shape)
    export(run, "speculators", talks, only_prompts=True)
    command = [sys.executable, "-c", _FIRST, str(store), str(talks)]
    output = partial(subprocess.run, command, capture_output=True, check=True, text=True)
    seconds = [[*map(float, output().stdout.split())] for _ in range(FRESH)]
    total, opened = min(seconds)
    yield ratio_once(
        f"first sample of {samples:,}, in the page cache / 2 s ({opened:.2f} s until the run is "
        "matched with the data set; then speculators opens it)",
        f"{total:.2f} s",
        "2 s",
        total / 2,
        bar=1,
    )
    count = sum(file.is_file() for file in store_of(run).rglob("*"))
    yield ratio_once(
        f"files of a store of {samples:,} samples, four states / 20,000",
        f"{count:,}",
        "20,000",
        count / 20_000,
        bar=1,
    )
