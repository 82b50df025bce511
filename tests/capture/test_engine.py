"""Batches, shards and the engine between a backend and a store."""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_contract import captured, make_batch
from hypothesis import given
from hypothesis import strategies as st
from stored import stored_objects

from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.capture import capture_run
from lpp.capture.engine.prepare import Prepared, prepare
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.backend import Backend, Batch, Captured, Outputs
from lpp.capture.plan.batches import (
    group_by_budget,
    logit_rows,
    padded_tokens,
    shard_batches,
)
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.capture.plan.sizes import SLOTS
from lpp.store import RunWriter, create_store
from lpp.store.errors import FormatError
from lpp.store.format.schedule import shard_boundaries

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(lengths=LENGTHS, budget=st.integers(1, 100))
def test_groups_hold_each_prompt_once_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = group_by_budget(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * max(lengths[i] for i in group)
        assert padded <= budget or len(group) == 1


@given(data=st.data(), lengths=st.lists(st.integers(1, 60), min_size=1, max_size=7))
def test_groups_are_the_cheapest_of_all_cuts(data: st.DataObject, lengths: list[int]) -> None:
    """Against every way to cut the families, longest first. -1: its prompt is in another shard."""
    roots = data.draw(st.integers(1, len(lengths)))
    family = st.integers(-1, roots - 1)
    family_of = [*range(roots), *(data.draw(family) for _ in lengths[roots:])]
    budget, cost = data.draw(st.integers(1, 200)), data.draw(st.integers(0, 100))
    groups = group_by_budget(lengths, budget, family_of, batch_cost=cost)
    members = {f: [i for i, g in enumerate(family_of) if g == f] for f in {*family_of}}
    order = sorted(members, key=lambda f: (-lengths[f] if f in members[f] else 0, f))
    sums = []
    for cuts in itertools.product((False, True), repeat=len(order) - 1):
        edges = [0, *(k for k, cut in enumerate(cuts, start=1) if cut), len(order)]
        batches = [order[first:end] for first, end in itertools.pairwise(edges)]
        padded = [
            padded_tokens(lengths, [i for f in batch for i in members[f]], family_of)
            for batch in batches
        ]
        if all(n <= budget or len(batch) == 1 for n, batch in zip(padded, batches, strict=True)):
            sums.append(sum(padded) + cost * len(batches))
    assert sum(padded_tokens(lengths, g, family_of) + cost for g in groups) == min(sums)


@pytest.mark.parametrize(("count", "length", "budget"), [(25, 200, 2048), (7, 3, 3), (1, 9, 4)])
def test_prompts_of_one_length_fill_batches_in_order(count: int, length: int, budget: int) -> None:
    size = max(1, budget // length)
    groups = [[*range(first, min(first + size, count))] for first in range(0, count, size)]
    assert group_by_budget([length] * count, budget) == groups


@pytest.mark.parametrize("token_bytes", [1152, 36_864, 215_040, 1_343_488], ids=lambda n: f"{n} B")
@pytest.mark.parametrize(("shard_bytes", "budget"), [(256 << 20, 8192), (2 << 30, 16_384)])
def test_conversations_are_padded_by_less_than_a_twentieth(
    token_bytes: int, shard_bytes: int, budget: int
) -> None:
    """10 to 8,192 tokens, 800 on average. token_bytes: from `final` at 135M to all sites at 70B."""
    drawn = np.random.default_rng(0).lognormal(np.log(480), 1.0, 1000)
    lengths = np.clip(drawn, 10, 8192).astype(int).tolist()
    edges = shard_boundaries(lengths, token_bytes, shard_bytes)
    padded = 0
    for first, end in itertools.pairwise(edges):
        in_shard = lengths[first:end]
        for group in group_by_budget(in_shard, budget):
            padded += padded_tokens(in_shard, group, range(len(in_shard)))
    assert 1 - sum(lengths) / padded < 0.05


@given(lengths=LENGTHS, limit=st.integers(1, 100))
def test_shards_are_whole_prompts_within_the_limit(lengths: list[int], limit: int) -> None:
    bounds = shard_boundaries(lengths, token_bytes=1, shard_bytes=limit)
    assert (bounds[0], bounds[-1]) == (0, len(lengths))
    for first, end in itertools.pairwise(bounds):
        assert end > first
        assert sum(lengths[first:end]) <= limit or end == first + 1


@pytest.fixture(scope="module")
def ready(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A tiny model on ragged texts, in several shards of several batches."""
    corpus = tmp_path_factory.mktemp("corpus") / "texts.txt"
    texts = ["the dog and the fox " * (1 + n % 5) for n in range(12)]
    corpus.write_text("\n\n".join(texts))
    return prepare(
        CaptureRequest(
            model=ModelSpec(id=str(tiny_folder("qwen2"))),
            corpus=CorpusSpec(name=str(corpus)),
            selection=Selection(prompts=12, min_bytes=0),
            context=30,
            batch_tokens=64,
            shard_bytes=60_000,
        )
    )


def test_a_plan_has_several_shards_of_several_batches(ready: Prepared) -> None:
    assert ready.plan.n_shards >= 3
    counts = [
        len(list(shard_batches(ready.plan, ready.prompts, k))) for k in range(ready.plan.n_shards)
    ]
    assert max(counts) >= 2


def test_schedule_asks_for_the_last_token_of_each_prefix(ready: Prepared) -> None:
    plan = replace(ready.plan, context=20, prefixes=(5, 10, 20), logit_positions="schedule")
    assert logit_rows(plan, [20, 7]).tolist() == [4, 9, 19, 20 + 4, 20 + 6]
    assert len(logit_rows(ready.plan, [20, 7])) == 27


def test_rows_land_at_their_prompts(ready: Prepared, tmp_path: Path) -> None:
    writer = RunWriter(create_store(tmp_path / "s").path, ready.plan, ready.prompts)
    assert capture_run(ready.plan, ready.prompts, writer, ready.backend) == ready.plan.n_shards
    run = writer.run
    tokens = run.tokens().to_table()
    expected = [i for ids in ready.prompts["token_ids"].to_pylist() for i in ids]
    assert tokens["token_id"].to_pylist() == expected
    ends = np.cumsum(ready.prompts["n_tokens"].to_numpy()) - 1
    for name in ("next_logprob", "next_rank"):
        assert np.flatnonzero(tokens[name].is_null()).tolist() == ends.tolist()
    assert tokens["entropy"].null_count == 0
    assert run.verify() == []
    # each prompt alone, through the same backend, is what was stored for it
    values = np.concatenate(list(run.hidden("block.2")))
    start = 0
    for ids in ready.prompts["token_ids"].to_pylist():
        (alone,) = captured(ready.backend, [make_batch([ids])], ["block.2"])
        rows = values[start : start + len(ids)]
        np.testing.assert_allclose(rows, alone.batch.hidden["block.2"], rtol=1e-4, atol=1e-4)
        start += len(ids)


def test_nothing_runs_again_when_all_is_committed(ready: Prepared, tmp_path: Path) -> None:
    root = create_store(tmp_path / "s").path
    for expected in (ready.plan.n_shards, 0):
        writer = RunWriter(root, ready.plan, ready.prompts)
        assert capture_run(ready.plan, ready.prompts, writer, ready.backend) == expected


class Wrapped:
    """The real backend, with another `capture`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.model, self.sites, self.compute = backend.model, backend.sites, backend.compute
        self.reuses = backend.reuses
        self.allocate, self.write, self.head = backend.allocate, backend.write, backend.head

    def capture(self, batches: Iterable[Batch], outputs: Outputs) -> Iterator[Captured]:
        return self._backend.capture(batches, outputs)

    def close(self) -> None: ...


class FailsAt(Wrapped):
    """Stops after some batches as a crash would."""

    def __init__(self, backend: Backend, batches: int) -> None:
        super().__init__(backend)
        self._left = batches

    def capture(self, batches: Iterable[Batch], outputs: Outputs) -> Iterator[Captured]:
        for one in super().capture(batches, outputs):
            if self._left == 0:
                raise RuntimeError("the card fell off the bus")
            self._left -= 1
            yield one


class Altered(Wrapped):
    """Alters what it hands over."""

    def __init__(self, backend: Backend, alter: Callable[[Captured], Captured]) -> None:
        super().__init__(backend)
        self._alter = alter

    def capture(self, batches: Iterable[Batch], outputs: Outputs) -> Iterator[Captured]:
        return map(self._alter, super().capture(batches, outputs))


def without(mapping: Any, name: str) -> dict[str, Any]:
    """A copy that lacks one key."""
    return {key: value for key, value in mapping.items() if key != name}


def changed(captured: Captured, change: Callable[[Any], Any]) -> dict[str, Any]:
    """Its statistics, each changed."""
    return {name: change(values) for name, values in captured.statistics.items()}


@pytest.mark.parametrize(
    ("alter", "says"),
    [
        (lambda c: replace(c, statistics=without(c.statistics, "margin")), "statistics are"),
        (lambda c: replace(c, statistics=changed(c, lambda v: v.astype("f8"))), "dtype"),
        (lambda c: replace(c, statistics=changed(c, lambda v: v[1:])), "shape"),
        (lambda c: replace(c, batch=replace(c.batch, shard=99)), "shard 99"),
    ],
)
def test_a_backend_that_hands_over_something_else_commits_nothing(
    ready: Prepared, tmp_path: Path, alter: Callable[[Captured], Captured], says: str
) -> None:
    writer = RunWriter(create_store(tmp_path / "s").path, ready.plan, ready.prompts)
    with pytest.raises(ValueError, match=says):
        capture_run(ready.plan, ready.prompts, writer, Altered(ready.backend, alter))
    assert writer.run.shards == ()


def test_a_prompt_that_a_backend_could_not_run_is_set_aside(
    ready: Prepared, tmp_path: Path
) -> None:
    def alter(captured: Captured) -> Captured:
        return replace(captured, failed={p: "no room" for p in captured.batch.prompt_ids if p == 4})

    writer = RunWriter(create_store(tmp_path / "s").path, ready.plan, ready.prompts)
    capture_run(ready.plan, ready.prompts, writer, Altered(ready.backend, alter))
    run = writer.run
    (row,) = run.quarantine.to_pylist()
    assert (row["prompt_id"], row["reason"], row["detail"]) == (4, "out_of_memory", "no room")
    assert [shard.record.quarantine for shard in run.shards].count(1) == 1
    assert run.verify() == []
    assert 4 not in {int(i) for block in run.blocks("final") for i in block.prompt_id}


def test_a_backend_that_ends_early_is_not_taken_for_complete(
    ready: Prepared, tmp_path: Path
) -> None:
    class EndsEarly(Wrapped):
        def capture(self, batches: Iterable[Batch], outputs: Outputs) -> Iterator[Captured]:
            return itertools.islice(super().capture(batches, outputs), 3)

    writer = RunWriter(create_store(tmp_path / "s").path, ready.plan, ready.prompts)
    with pytest.raises(RuntimeError, match="ended after"):
        capture_run(ready.plan, ready.prompts, writer, EndsEarly(ready.backend))


@pytest.mark.parametrize("batches", range(0, 6, 2))
def test_shards_before_a_failure_stay_and_the_rest_follows(
    ready: Prepared, tmp_path: Path, batches: int
) -> None:
    root = create_store(tmp_path / "s").path
    writer = RunWriter(root, ready.plan, ready.prompts)
    with pytest.raises(RuntimeError, match="fell off the bus"):
        capture_run(ready.plan, ready.prompts, writer, FailsAt(ready.backend, batches))
    assert not [t for t in threading.enumerate() if t.name.startswith(("lpp-encode", "lpp-commit"))]
    done = len(RunWriter(root, ready.plan, ready.prompts).run.shards)
    again = capture_run(ready.plan, ready.prompts, writer, ready.backend)
    assert done + again == ready.plan.n_shards
    assert writer.run.verify() == []


def test_a_shard_that_cannot_be_written_stops_the_run(ready: Prepared, tmp_path: Path) -> None:
    writer = RunWriter(create_store(tmp_path / "s").path, ready.plan, ready.prompts)
    (tmp_path / "s" / "runs" / ready.plan.run_id / "shards").write_text("in the way")
    with pytest.raises(FormatError, match="shards: not a directory"):
        capture_run(ready.plan, ready.prompts, writer, ready.backend)


def test_any_number_of_encoders_gives_the_same_bytes(ready: Prepared, tmp_path: Path) -> None:
    stored = []
    for encoders in (1, 2, 7):
        writer = RunWriter(create_store(tmp_path / str(encoders)).path, ready.plan, ready.prompts)
        capture_run(ready.plan, ready.prompts, writer, ready.backend, encoders=encoders)
        stored.append(stored_objects(writer.run.path))
    assert stored[0] == stored[1] == stored[2]


def test_bits_depend_on_the_plan_alone(ready: Prepared, tmp_path: Path) -> None:
    """Prompts of five lengths: whole, in two parts of which the second comes first, and resumed."""
    shards = range(ready.plan.n_shards)
    orders = {"whole": [[*shards]], "parts": [[*shards[1::2]], [*shards[::2]]]}
    stored = []
    for name, parts in orders.items():
        writer = RunWriter(create_store(tmp_path / name).path, ready.plan, ready.prompts)
        for part in parts:
            capture_run(ready.plan, ready.prompts, writer, ready.backend, shards=part)
        stored.append(stored_objects(writer.run.path))
    writer = RunWriter(create_store(tmp_path / "resumed").path, ready.plan, ready.prompts)
    with pytest.raises(RuntimeError, match="fell off the bus"):
        capture_run(ready.plan, ready.prompts, writer, FailsAt(ready.backend, 4))
    resumed = RunWriter(tmp_path / "resumed", ready.plan, ready.prompts)
    assert 0 < len(resumed.run.shards) < ready.plan.n_shards
    capture_run(ready.plan, ready.prompts, resumed, ready.backend)
    assert stored[0] == stored[1] == stored_objects(resumed.run.path)


def test_prompts_that_run_alone_have_the_same_bits_in_any_shards(
    ready: Prepared, tmp_path: Path
) -> None:
    """`--batch-tokens 1`: a batch for each prompt, so that nothing depends on the other prompts."""
    rows: list[tuple[dict[str, Any], list[bytes]]] = []
    for shards in (ready.plan.shards, (0, 5, 12), (0, 12)):
        alone = replace(ready.plan.compute, batch_tokens=1)
        plan = replace(ready.plan, compute=alone, shards=shards)
        writer = RunWriter(create_store(tmp_path / str(len(rows))).path, plan, ready.prompts)
        capture_run(plan, ready.prompts, writer, ready.backend)
        columns = writer.run.tokens().to_table().select(["token_id", "entropy", "next_logprob"])
        hidden = [np.concatenate([*writer.run.hidden(site)]) for site in plan.site_names]
        rows.append((columns.to_pydict(), [values.tobytes() for values in hidden]))
    assert rows[0] == rows[1] == rows[2]


def test_no_more_shards_are_under_way_than_there_are_slots(ready: Prepared, tmp_path: Path) -> None:
    """Memory is bounded however slow the disk is: the backend is not asked for more batches."""
    held = threading.Event()
    begun: set[int] = set()

    class Slow(RunWriter):
        def write(self, *arguments: Any) -> Any:
            held.wait(30)
            return super().write(*arguments)

    class Watched(Wrapped):
        def capture(self, batches: Iterable[Batch], outputs: Outputs) -> Iterator[Captured]:
            def seen() -> Iterator[Batch]:
                for batch in batches:
                    begun.add(batch.shard)
                    yield batch

            return super().capture(seen(), outputs)

    writer = Slow(create_store(tmp_path / "s").path, ready.plan, ready.prompts)
    run = threading.Thread(
        target=capture_run, args=(ready.plan, ready.prompts, writer, Watched(ready.backend))
    )
    run.start()
    while len(begun) < SLOTS:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(begun) == SLOTS < ready.plan.n_shards
    held.set()
    run.join()
    assert writer.run.missing_shards == ()
    assert begun == set(range(ready.plan.n_shards))
