"""Whole prompts for training: packed, each exactly once an epoch, resumed to the bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from small_capture import Capture, make_capture

from lpp.store import Run
from lpp.store.errors import InputError
from lpp.store.feed import PromptBatch, PromptFeed, prompts
from lpp.store.format.plan import SiteSpec

N = 600


@pytest.fixture(scope="module")
def capture() -> Capture:
    """600 prompts of 1 to 60 tokens: 39 MB, so that a shard is several spans."""
    rng = np.random.default_rng(5)
    lengths = tuple(rng.integers(1, 61, N).tolist())
    sites = tuple(
        SiteSpec(name=name, convention="residual", width=width)
        for name, width in (("embed", 64), ("block.1", 1024))
    )
    hidden = {
        site.name: rng.integers(0x3F80, 0x4080, (sum(lengths), site.width), np.uint16)
        for site in sites
    }
    shards = (0, 100, 101, 400, N)
    made = make_capture(lengths, shards, hidden, sites=sites, context=60, prefixes=(60,))
    masks = [None if k == 3 else (rng.random(n) < 0.5).tolist() for k, n in enumerate(lengths)]
    names = replace(made.plan.prompts, token_columns=("token.loss_mask",))
    return replace(
        made,
        plan=replace(made.plan, prompts=names),
        prompts=made.prompts.append_column(
            "token.loss_mask", pa.array(masks, pa.list_(pa.bool_()))
        ),
    )


@pytest.fixture(scope="module")
def run(capture: Capture, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return capture.write(tmp_path_factory.mktemp("feed") / "store")


def feed(run: Run, **options: Any) -> PromptFeed:
    defaults = {"max_tokens": 200, "buffer": "20 MiB", "like": "numpy"}
    return prompts(run, ["block.1", "embed"], **{**defaults, **options})


def copied(batch: PromptBatch) -> list[np.ndarray]:
    values = (batch.prompt_ids, batch.token_ids, batch.documents, batch.positions)
    return [*map(np.copy, values), *map(np.copy, batch.hidden.values())]


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("where", [None, "n_tokens > 20 and prompt_id <> 7"])
def test_each_prompt_comes_once_with_its_tokens_and_rows(
    run: Run, capture: Capture, world: int, where: str | None
) -> None:
    edges = np.append(0, np.cumsum(run.lengths))
    tokens = np.concatenate([np.asarray(ids.values) for ids in run.prompts()["token_ids"]])
    masks = capture.prompts["token.loss_mask"].to_pylist()
    mask = np.concatenate([m or [False] * n for m, n in zip(masks, capture.lengths, strict=True)])
    seen: list[int] = []
    for rank in range(world):
        for batch in feed(run, rank=rank, world=world, where=where):
            assert len(batch.token_ids) <= 200
            rows = edges[batch.prompt_ids][batch.documents] + batch.positions
            assert (batch.token_ids == tokens[rows]).all()
            assert (batch.labels["loss_mask"] == mask[rows]).all()
            for site, values in batch.hidden.items():
                assert (values == capture.hidden[site][rows]).all()
            assert (np.bincount(batch.documents) == run.lengths[batch.prompt_ids]).all()
            seen += batch.prompt_ids.tolist()
    kept = np.arange(N)
    if where:
        kept = kept[(run.lengths > 20) & (kept != 7)]
    assert sorted(seen) == kept.tolist()
    assert seen != sorted(seen)


def test_batches_are_filled_as_far_as_prompts_fit(run: Run) -> None:
    sizes = [len(batch.token_ids) for batch in feed(run, epochs=2)]
    assert np.mean(sizes) > 200 - 60 / 2


@pytest.mark.slow
def test_it_resumes_to_the_bit(run: Run) -> None:
    whole = [copied(batch) for batch in feed(run, epochs=2)]
    for stop in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) // 2 + 1, len(whole)):
        stopped = feed(run, epochs=2)
        for _ in range(stop):
            next(stopped)
        resumed = feed(run, epochs=2)
        resumed.load_state_dict(stopped.state_dict())
        rest = [copied(batch) for batch in resumed]
        assert len(rest) == len(whole) - stop
        for ours, theirs in zip(rest, whole[stop:], strict=True):
            assert all(map(np.array_equal, ours, theirs))


def test_torch_gets_tensors(run: Run) -> None:
    plain, batch = next(feed(run)), next(feed(run, like="torch", dtype="float32"))
    assert batch.token_ids.tolist() == plain.token_ids.tolist()
    assert batch.hidden["embed"].dtype == torch.float32
    stored = next(feed(run, like="torch")).hidden["embed"]
    assert stored.dtype == torch.bfloat16
    assert torch.equal(stored.float(), batch.hidden["embed"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 59}, "has 60 tokens. Give max_tokens=60"),
        ({"where": "position > 1"}, "no column position. There are: prompt_id, n_tokens"),
        ({"buffer": "64 KiB"}, "times what is read at a time. Give buffer="),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    run: Run, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        feed(run, **options)
    assert message in str(refused.value)
