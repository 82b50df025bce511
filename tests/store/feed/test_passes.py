"""Loops over a feed: passes are epochs, ranks have equally many batches, workers agree."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_capture import Capture, make_capture
from torch.utils.data import DataLoader

from lpp.store import Run, open_store
from lpp.store.errors import ConflictError, FormatError, InputError
from lpp.store.feed import prompts, rows
from lpp.store.feed.epoch import Order
from lpp.store.format.plan import SiteSpec

SHARDS = tuple(range(0, 241, 20))
"""Twelve of 20 prompts, each of some chunks of 32 rows."""


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpp.store.arrays.layout.CHUNK_BYTES", 32 * 32)
        yield


@pytest.fixture(scope="module")
def capture() -> Capture:
    """240 prompts of 1 to 9 tokens; the first value of row t is t."""
    rng = np.random.default_rng(7)
    lengths = tuple(rng.integers(1, 10, 240).tolist())
    number = np.arange(sum(lengths), dtype=np.uint16)
    hidden = {"final": np.tile(number[:, None], (1, 16))}
    site = SiteSpec(name="final", convention="post_norm", width=16)
    return make_capture(lengths, SHARDS, hidden, sites=(site,), context=9, prefixes=(9,))


@pytest.fixture(scope="module")
def run(capture: Capture, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return capture.write(tmp_path_factory.mktemp("passes") / "store")


@pytest.fixture
def damaged(capture: Capture, tmp_path: Path) -> Run:
    """Without shard 2, and with an altered chunk in each of shards 4 and 9."""
    run = capture.write(tmp_path / "store", (*range(2), *range(3, 12)))
    for shard in (4, 9):
        alter(tmp_path / "store", shard)
    return run


def alter(root: Path, shard: int) -> None:
    """Flip a bit of the last chunk of `final`."""
    (chunk,) = root.glob(f"runs/*/shards/{shard:05d}/*/hidden.zarr/final/c/0/0")
    data = bytearray(chunk.read_bytes())
    data[-100] ^= 1
    chunk.write_bytes(data)


def feed(run: Run, **options: Any) -> Any:
    return rows(run, "final", **{"batch": 32, "buffer": 8192, "like": "numpy", **options})


def numbers(batches: Iterable[Any]) -> list[list[int]]:
    """The number of each row of each batch."""
    of = (b.view(torch.int16).numpy() if isinstance(b, torch.Tensor) else b for b in batches)
    return [batch[:, 0].tolist() for batch in of]


def flat(nested: Iterable[Any]) -> list[Any]:
    return [*itertools.chain(*nested)]


@pytest.mark.parametrize("like", ["numpy", "torch"])
def test_a_second_loop_is_the_next_epoch(run: Run, like: str) -> None:
    batches = feed(run, like=like)
    loops = [flat(numbers(batches)) for _ in range(3)]
    assert len({*map(tuple, loops)}) == 3
    assert all(sorted(loop) == [*range(run.lengths.sum())] for loop in loops)
    assert flat(loops) == flat(numbers(feed(run, like=like, epochs=3)))
    assert list(itertools.islice(feed(run), 3)) != []
    with pytest.raises(StopIteration):
        next(batches)  # an iterator that ended stays so until the next loop
    assert flat(numbers(batches.set_epoch(1))) == loops[1]
    assert flat(numbers(feed(run, like=like).set_epoch(2))) == loops[2]
    with pytest.raises(InputError, match="epoch=-1"):
        batches.set_epoch(-1)


def test_a_loop_that_was_left_goes_on(run: Run) -> None:
    batches = feed(run)
    first = numbers(itertools.islice(batches, 5))
    assert first + numbers(batches) == numbers(feed(run))


def test_a_pass_of_mixed_runs_begins_each_run_anew(run: Run) -> None:
    both = rows([run, run], "final", batch=8, weights=[3, 1], like="numpy", buffer="1 MiB")
    loops = [numbers(map(np.copy, both)) for _ in range(3)]
    assert [len(loop) for loop in loops] == [len(both)] * 3
    assert len({str(loop) for loop in loops}) == 3
    assert numbers(both.set_epoch(1)) == loops[1]


def test_a_state_goes_on_in_a_later_pass(run: Run) -> None:
    batches = feed(run)
    loops = [numbers(batches), numbers(itertools.islice(iter(batches), 4))]
    state = json.loads(json.dumps(batches.state_dict()))
    again = feed(run)
    again.load_state_dict(state)
    assert loops[1] + numbers(again) == numbers(feed(run).set_epoch(1))
    ended = feed(run)
    flat(numbers(ended))
    after = feed(run)
    after.load_state_dict(ended.state_dict())
    assert numbers(after) == numbers(feed(run).set_epoch(1))


def test_a_state_beyond_the_epochs_is_refused(run: Run) -> None:
    long = feed(run, epochs=5).set_epoch(0)
    for _ in range(3 * len(feed(run)) + 2):
        next(long)
    with pytest.raises(ConflictError, match=r"epochs=2.*epochs=4"):
        feed(run, epochs=2).load_state_dict(long.state_dict())
    longer = feed(run, epochs=4)
    longer.load_state_dict(long.state_dict())
    assert len(numbers(longer)) == len(feed(run)) - 2


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("total", [900, 1155, 1156])
@pytest.mark.parametrize("batch", [1, 2, 7, 32, 90])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 9])
def test_ranks_and_workers_have_equally_many_batches(
    world: int, batch: int, total: int, drop_last: bool
) -> None:
    options: dict[str, Any] = {"seed": 0, "capacity": 64, "drop_last": drop_last}
    orders = [Order(batch=batch, rank=rank, world=world, **options) for rank in range(world)]
    for count in (1, 2, 5):
        shares = [order.share(total, (k, count)) for order in orders for k in range(count)]
        of_ranks = [shares[k : k + count] for k in range(0, len(shares), count)]
        batches = {sum(share.batches for share in of_rank) for of_rank in of_ranks}
        assert batches == {orders[0].share(total).batches}
        given = [range(share.first, share.end) for share in shares]
        assert all(a.stop <= b.start for a, b in itertools.pairwise(given))
        for share, units in zip(shares, given, strict=True):
            least = batch * share.batches if drop_last else share.batches
            assert least <= len(units) <= batch * share.batches
        left_out = total - sum(map(len, given))
        assert left_out <= (world * batch if drop_last else (batch == 1) * (world - 1))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_are_equal_and_lengths_true_with_damage(
    damaged: Run, capture: Capture, world: int, drop_last: bool
) -> None:
    options: dict[str, Any] = {"on_damage": "skip", "drop_last": drop_last, "world": world}
    feeds = [feed(damaged, rank=rank, **options) for rank in range(world)]
    given = [numbers(batches) for batches in feeds]
    assert {len(batches) for batches in given} == {len(feeds[0])}
    every = flat(flat(given))
    assert len(every) == len({*every})
    total, lost = sum(capture.lengths), feeds[0].lost
    missing = capture.rows(2)
    assert lost == sum(feeds[0].damage.values()) > missing.stop - missing.start
    assert not {*every} & {*range(missing.start, missing.stop)}
    assert len(every) == total - lost - (0 if not drop_last else (total - lost) % (32 * world))
    assert (len(feeds[0].damage), feeds[1].damage) == (3, feeds[0].damage)


def test_a_state_is_refused_once_the_damage_is_another(
    damaged: Run, capture: Capture, tmp_path: Path
) -> None:
    batches = feed(damaged, on_damage="skip")
    next(batches)
    state = batches.state_dict()
    again = feed(damaged, on_damage="skip")
    again.load_state_dict(state)
    assert numbers(again) == numbers(batches)
    alter(tmp_path / "store", 7)
    with pytest.raises(ConflictError, match="units"):
        feed(open_store(tmp_path / "store").runs[damaged.id], on_damage="skip").load_state_dict(
            state
        )


def test_damage_after_a_feed_was_made_is_an_error(capture: Capture, tmp_path: Path) -> None:
    run = capture.write(tmp_path / "store")
    batches = feed(run, on_damage="skip")
    alter(tmp_path / "store", 7)
    with pytest.raises(FormatError, match="00007"):
        list(batches)


def test_an_altered_record_is_an_error_before_the_first_batch(
    capture: Capture, tmp_path: Path
) -> None:
    run = capture.write(tmp_path / "store")
    (record,) = (tmp_path / "store").glob("runs/*/shards/00003/COMMIT.json")
    record.write_bytes(record.read_bytes().replace(b"plan", b"plam", 1))
    again = open_store(tmp_path / "store").runs[run.id]
    for make in (feed, lambda run: prompts(run, "final", like="numpy")):
        with pytest.raises(FormatError, match="00003"):
            make(again)
    assert len(feed(again, on_damage="skip").damage) == 1


@pytest.mark.parametrize("count", [10, 200])
def test_rows_that_fit_the_buffer_are_permuted(tmp_path: Path, count: int) -> None:
    """As likely at each place: over many epochs, the mean place of each row is the middle."""
    hidden = {"final": np.tile(np.arange(count, dtype=np.uint16)[:, None], (1, 16))}
    site = SiteSpec(name="final", convention="post_norm", width=16)
    made = make_capture((5,) * (count // 5), (0, count // 10, count // 5), hidden, sites=(site,))
    batches = feed(made.write(tmp_path / "store"), buffer="1 MiB", epochs=300)
    order = np.array(flat(numbers(batches))).reshape(300, count)
    places = np.argsort(order, axis=1) / count
    error = np.abs(places.mean(axis=0) - 0.5 + 0.5 / count) / (12 * 300) ** -0.5
    assert error.max() < 5
    # and neighbours in the store are no nearer than others
    apart = np.abs(np.diff(places, axis=1)).mean()
    assert apart == pytest.approx((count + 1) / 3 / count, rel=0.03)


def test_a_batch_has_as_many_prompts_as_it_says(run: Run) -> None:
    of = np.repeat(np.arange(240), run.lengths)
    for batch in (60, 500, 2000):
        batches = feed(run, batch=batch, buffer="1 MiB", epochs=8)
        most = min(batch, int(run.lengths.sum()))
        distinct = [len(np.unique(of[batches.ids])) for b in batches if len(b) == most]
        said = int(str(batches).split("about ")[1].split()[0])
        assert np.mean(distinct) == pytest.approx(said, rel=0.02), batch


def loader(batches: Any, workers: int, **options: Any) -> Any:
    return DataLoader(batches, batch_size=None, num_workers=workers, **options)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"persistent_workers": True}])
def test_workers_shuffle_each_loop_anew(run: Run, options: dict[str, Any]) -> None:
    batches = feed(run, like="torch")
    loop = loader(batches, 2, **options)
    first, *more = [numbers(loop) for _ in range(3)]
    for given in (first, *more):
        assert sorted(flat(given)) == [*range(run.lengths.sum())]
        assert len(given) == len(loop)
    assert len({str(given) for given in (first, *more)}) == 3
    assert numbers(loader(feed(run, like="torch").set_epoch(1), 2)) == more[0]
    batches.set_epoch(0)
    assert numbers(loop) == first
    next(iter(loop))  # a loop that is left at once counts too
    assert sorted(flat(numbers(loop))) == [*range(run.lengths.sum())]


@pytest.mark.slow
def test_workers_of_one_seed_shuffle_anew(run: Run) -> None:
    """Some trainers set the seed of torch before each epoch."""
    loop, given = loader(feed(run, like="torch"), 2), []
    for _ in range(2):
        torch.manual_seed(0)
        given.append(numbers(loop))
        assert sorted(flat(given[-1])) == [*range(run.lengths.sum())]
    assert given[0] != given[1]


@pytest.mark.slow
def test_mixed_runs_in_workers(run: Run) -> None:
    both = rows([run, run], "final", batch=8, weights=[3, 1], buffer="1 MiB")
    loop = loader(both, 2)
    loops = [numbers(loop) for _ in range(2)]
    assert loops[0] != loops[1]
    assert [len(given) for given in loops] == [len(both)] * 2


@pytest.mark.slow
def test_a_state_inside_an_epoch_is_of_its_workers(run: Run) -> None:
    batches = feed(run, like="torch")
    next(batches)
    with pytest.raises(RuntimeError, match=r"ConflictError: .*num_workers"):  # of torch
        list(loader(batches, 2))
    again = feed(run, like="torch")
    next(again)
    assert len(numbers(loader(again, 1))) == len(again) - 1


@pytest.mark.slow
def test_workers_that_are_spawned_shuffle_each_loop_anew(run: Run) -> None:
    every = []
    for rank in range(2):
        batches = feed(run, like="torch", rank=rank, world=2)
        loop = loader(batches, 2, multiprocessing_context="spawn")
        every.append([numbers(loop) for _ in range(2)])
    for epoch in zip(*every, strict=True):
        assert sorted(flat(flat(epoch))) == [*range(run.lengths.sum())]
        assert len({len(of_rank) for of_rank in epoch}) == 1
    assert every[0][0] != every[0][1]


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_ranks_have_equally_many_batches_of_prompts(run: Run, world: int, workers: int) -> None:
    for max_tokens in (9, 40):
        loops: list[list[list[list[int]]]] = []
        for rank in range(world):
            batches = prompts(run, "final", max_tokens=max_tokens, rank=rank, world=world)
            loop = loader(batches, workers)
            loops.append([[b.prompt_ids.tolist() for b in loop] for _ in range(2)])
        for epoch in zip(*loops, strict=True):
            assert len({len(of_rank) for of_rank in epoch}) == 1
            assert all(map(len, flat(epoch)))
            assert sorted(flat(flat(epoch))) == [*range(240)]
        assert loops[0][0] != loops[0][1]


def test_prompts_that_are_a_batch_each(tmp_path: Path) -> None:
    """Ranks are equal then too: one leaves a prompt out."""
    run = make_capture((4,) * 11, (0, 5, 11)).write(tmp_path / "store")
    given = [
        [
            b.prompt_ids.tolist()
            for b in prompts(run, "final", max_tokens=7, world=2, rank=k, like="numpy")
        ]
        for k in range(2)
    ]
    assert [len(batches) for batches in given] == [5, 5]
    assert len({*flat(flat(given))}) == 10
    with pytest.raises(InputError, match="20"):
        prompts(run, "final", max_tokens=7, world=20)
    with pytest.raises(InputError, match="n_tokens"):
        prompts(run, "final", epochs=None, where="n_tokens > 4")


@pytest.mark.slow
def test_files_are_closed_before_python_ends(run: Run) -> None:
    """Later, what closes them is gone: Python says "Exception ignored" for each."""
    script = f"""
import atexit, os
from pathlib import Path
def left():
    for link in Path("/proc/self/fd").iterdir():
        try:
            print(os.readlink(link))
        except OSError:
            pass
atexit.register(left)
import numpy as np
from lpp.store import open_store
from lpp.store.feed.reader import RunSource
root = {str(Path(str(run.path)).parents[1])!r}
source = RunSource(open_store(root).runs[{run.id!r}], ["final"])
source.read(0, 9, [np.empty((9, 16), np.uint16)])
left()
print("-- the end")
source.itself = source
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    before, after = done.stdout.split("-- the end")
    assert ("hidden.zarr" in before, "hidden.zarr" in after, done.stderr) == (True, False, "")
