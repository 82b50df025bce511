"""The CPU time of rows through `lpp.store.sink`, beside a capture whose model costs nothing.

Both take the same rows, which a copy brings into the shard's memory, and check, pack and commit
them. Prompts come in order, as `missing` lists them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.pipeline_cost import Bits, Pipeline, Setup, real_rows, setup
from benchmarks.setting import scratch
from lpp.store import sink

REPEATS: Final = 5
SHARDS: Final = 4
SETUPS: Final = (setup(576, 32, SHARDS), setup(576, 32, SHARDS, ragged=True))


def measure(
    folder: Path,
    setups: Sequence[Setup] = SETUPS,
    template: Bits | None = None,
    *,
    repeats: int = REPEATS,
) -> Iterator[Ratio]:
    """folder: on a disk with room for two gigabytes. template: as `real_rows` gives it, which is
    made when there is none.
    """
    rows = real_rows(folder) if template is None else template
    for one in setups:
        pipeline = Pipeline(one, rows)
        times = timed_pairs(
            given(folder, pipeline, one, rows),
            captured(folder, pipeline),
            repeats,
            clock=time.process_time,
        )
        yield ratio_of_times(
            f"bytes a CPU second through `lpp.store.sink` / of a capture's pipeline, {one}",
            times,
            bar=0.9,
            direction="at least",
            inverted=True,
        )


def captured(folder: Path, pipeline: Pipeline) -> Callable[[], None]:
    """The pipeline into a new store."""

    def run() -> None:
        with scratch(folder) as own:
            pipeline.run(own / "store")

    return run


def given(folder: Path, pipeline: Pipeline, setup: Setup, template: Bits) -> Callable[[], None]:
    """The same rows, prompt by prompt, into a new store."""
    prompts = pipeline.prompts["token_ids"].to_pylist()
    sites = dict.fromkeys(pipeline.plan.site_names, setup.width)
    starts = np.cumsum([0, *setup.lengths]) % len(template)  # equal rows would compress better
    again = np.concatenate([template, template[: max(setup.lengths)]])
    columns = pipeline.backend.first_columns
    views = {
        site: again[:, column : column + setup.width]
        for site, column in zip(sites, columns, strict=True)
    }

    def run() -> None:
        with (
            scratch(folder) as own,
            sink(
                own / "store",
                model="template",
                sites=sites,
                prompts=prompts,
                dtype="bfloat16",
                shard_bytes=setup.shard_bytes,
            ) as rows,
        ):
            for prompt in rows.missing():
                start = starts[prompt.number]
                span = slice(start, start + len(prompt.token_ids))
                rows.put(prompt, {site: view[span] for site, view in views.items()})

    return run
