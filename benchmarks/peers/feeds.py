"""Rows for training from a store, beside two published ways to read stored activations.

Each side gives the same rows once, in batches of 4,096, float32:

- ours: `rows`, from a store on disk;
- SAELens: `ActivationsStore` on the data set that its `CacheActivationsRunner` writes, in file
  order through its mixing buffer. It takes a model, which nothing calls here: a bare
  `torch.nn.Module`. How fast it is depends on that buffer, which every read copies: it is measured
  as its tutorials set it, and with as many rows as ours;
- dictionary_learning (github.com/saprmarks/dictionary_learning, `cache.py` and
  `scripts/train_crosscoder.py`; its release on PyPI lacks them): a shuffled `DataLoader` takes one
  row at a time from a float32 memmap. Written here from their description, without worker
  processes, which take more CPU time.
"""

import resource
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.setting import capture, prepared
from lpp.store import Run, open_store, sink
from lpp.store.arrays.reader import to_float32
from lpp.store.feed import rows
from lpp.store.feed.checks import buffer_bytes

BATCH: Final = 4096
SITE: Final = "block.15"
CAPTURED: Final = 50
"""Prompts of 200 tokens that the packaged model reads; the run holds their rows several times."""
TIMES: Final = 20
BUFFER: Final = "64 MiB"
"""A fourth of the rows."""
REPEATS: Final = 5
TUTORIAL: Final = 64, 16
"""Contexts in the mixing buffer of SAELens, and of a read, as its tutorials set them. Its default
buffer of 20 holds less than a batch.
"""
SHARD_CONTEXTS: Final = 200
"""Contexts of a file of its cache."""

INSTALLED: Final = find_spec("sae_lens") is not None
"""Whether this environment has SAELens, as that of `make test-trainers` has."""


def measure(
    folder: Path, *, prompts: int = CAPTURED, times: int = TIMES, repeats: int = REPEATS
) -> Iterator[Ratio]:
    """folder: scratch, with room for 1.2 GB."""
    run = repeated_run(folder, prompts, times)
    cache, context = saelens_cache(run, folder), run.plan.context
    width = run.site(SITE).width
    as_many = buffer_bytes(BUFFER) // (2 * width * context)
    for name, other, bar in (
        (
            f"SAELens' cached path, its mixing buffer of {TUTORIAL[0]} contexts",
            saelens(run, cache, *TUTORIAL),
            5,
        ),
        (
            f"the same, as many rows in it as in the feed's: {as_many} contexts",
            saelens(run, cache, as_many, TUTORIAL[1]),
            5,
        ),
        ("a shuffled float32 memmap as in dictionary_learning", memmap(run, folder), 4.8),
    ):
        yield ratio_of_times(
            f"rows a CPU second: the feed, float32, batches of {BATCH}, {SITE} of SmolLM2 / {name}",
            timed_pairs(ours(run), other, repeats, cpu_seconds),
            bar=bar,
            direction="at least",
            inverted=True,
            bound="unpacking, and copies out of the buffer",
        )


def cpu_seconds() -> float:
    """CPU seconds of this process and of those that it started and that ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def repeated_run(folder: Path, prompts: int, times: int) -> Run:
    """Rows of the packaged model, `times` over: further apart than a chunk, so that they compress
    as if they were all different.
    """
    ready = prepared(prompts, sites=(SITE,), logit_positions="schedule")
    captured = capture(ready, folder / "captured")
    values = _stored(captured)
    ids = captured.prompts()["token_ids"].to_pylist()
    ends = np.cumsum(captured.lengths).tolist()
    with sink(
        folder / "repeated",
        model="repeated",
        sites={SITE: values.shape[1]},
        prompts=ids * times,
        dtype="bfloat16",
    ) as into:
        for prompt in into.missing():
            end = ends[prompt.number % len(ids)]
            into.put(prompt, {SITE: values[end - len(prompt.token_ids) : end]})
    (run,) = open_store(folder / "repeated").runs.values()
    return run


def ours(run: Run) -> Callable[[], int]:
    """One epoch of the feed."""
    return lambda: _counted(rows(run, SITE, batch=BATCH, buffer=BUFFER, dtype="float32"))


def saelens_cache(run: Run, folder: Path) -> Path:
    """The rows as the runner of SAELens writes them."""
    from datasets import Array2D, Dataset, Features, Sequence, Value
    from sae_lens.cache_activations_runner import CacheActivationsRunner

    contexts = _stored(run).reshape(-1, run.plan.context, run.site(SITE).width)
    features = Features(
        {
            SITE: Array2D(shape=contexts.shape[1:], dtype="float32"),
            "token_ids": Sequence(Value(dtype="int32"), length=run.plan.context),
        }
    )
    shards, cache = folder / "shards", folder / "cache"
    cache.mkdir()
    for number, start in enumerate(range(0, len(contexts), SHARD_CONTEXTS)):
        values = to_float32(contexts[start : start + SHARD_CONTEXTS])
        ids = np.zeros(values.shape[:2], np.int32)  # nothing reads them
        shard = Dataset.from_dict({SITE: values, "token_ids": ids}, features=features)
        shard.save_to_disk(str(shards / f"shard_{number:05d}"), num_shards=1)
    CacheActivationsRunner._consolidate_shards(shards, cache, copy_files=False)
    return cache


def saelens(run: Run, cache: Path, buffer: int, read: int) -> Callable[[], int]:
    """An epoch's batches. buffer, read: contexts in the mixing buffer and of a read."""
    from sae_lens.training.activations_store import ActivationsStore

    tokens = run.plan.prompts.tokens

    def epoch() -> int:
        store = ActivationsStore(
            model=torch.nn.Module(),  # which the cached path does not call
            dataset=None,
            streaming=False,
            hook_name=SITE,
            hook_head_index=None,
            context_size=run.plan.context,
            d_in=run.site(SITE).width,
            n_batches_in_buffer=buffer,
            total_training_tokens=tokens,
            store_batch_size_prompts=read,
            train_batch_size_tokens=BATCH,
            prepend_bos=True,
            normalize_activations="none",
            device=torch.device("cpu"),
            dtype="float32",
            cached_activations_path=str(cache),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a new epoch begins
            return _counted(islice(store, tokens // BATCH))

    return epoch


class _Memmap(torch.utils.data.Dataset[torch.Tensor]):
    """Rows of a float32 memmap, one at a time."""

    def __init__(self, file: Path, shape: tuple[int, int]) -> None:
        self._rows = np.memmap(file, np.float32, "r", shape=shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(self._rows[index])


def memmap(run: Run, folder: Path) -> Callable[[], int]:
    """One epoch of a shuffled DataLoader."""
    shape, file = (run.plan.prompts.tokens, run.site(SITE).width), folder / "rows.memmap"
    to_float32(_stored(run)).tofile(file)
    data = _Memmap(file, shape)
    return lambda: _counted(torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True))


def _counted(batches: Any) -> int:
    """Take every batch; the number of rows."""
    return sum(len(batch) for batch in batches)


def _stored(run: Run) -> npt.NDArray[np.uint16]:
    return np.concatenate([block.values for block in run.blocks(SITE, dtype="stored")])
