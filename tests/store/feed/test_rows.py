"""Rows for training: each exactly once an epoch, in an order that resumes to the bit."""

import itertools
import json
import pickle
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from s3_server import S3
from small_capture import Capture, make_capture
from torch.utils.data import DataLoader

from benchmarks.feed_cost import units_by_batch
from lpp.store import Run, open_store
from lpp.store.errors import ConflictError, FormatError, InputError
from lpp.store.feed import rows
from lpp.store.feed.epoch import Epoch, Order, Sections, expected_prompts
from lpp.store.feed.reader import RunSource
from lpp.store.feed.spans import Spans
from lpp.store.format.plan import SiteSpec
from lpp.store.progress import Progress

WIDTHS = {"embed": 64, "block.1": 64, "final": 1024}
"""Chunks of `final` are 256 rows, of the others 4,096: a shard has several of the former."""

SHARDS = (0, 150, 151, 400, 900, 1200)


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    """Of 512 KiB: a small run has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpp.store.arrays.layout.CHUNK_BYTES", 512 << 10)
        yield


@pytest.fixture(scope="module")
def capture() -> Capture:
    """1,200 prompts of 1 to 9 tokens. The first value of row t is t in each site, as bits."""
    rng = np.random.default_rng(7)
    lengths = tuple(rng.integers(1, 10, 1200).tolist())
    number = np.arange(sum(lengths), dtype=np.uint16) + np.uint16(0x3F80)
    hidden = {
        name: np.concatenate(
            [number[:, None], rng.integers(0x3F80, 0x4080, (len(number), width - 1), np.uint16)], 1
        )
        for name, width in WIDTHS.items()
    }
    sites = tuple(
        SiteSpec(name=n, convention="post_norm" if n == "final" else "residual", width=w)
        for n, w in WIDTHS.items()
    )
    return make_capture(lengths, SHARDS, hidden, sites=sites, context=9, prefixes=(3, 9))


@pytest.fixture(scope="module")
def run(capture: Capture, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The capture, written once: tests only read it."""
    return capture.write(tmp_path_factory.mktemp("feed") / "store")


def feed(run: Run | list[Run], site: Any = "final", **options: Any) -> Any:
    """Batches of 128 from a buffer of a fourth of the rows."""
    return rows(run, site, **{"batch": 128, "buffer": "4 MiB", "like": "numpy", **options})


def numbers(batches: Iterable[np.ndarray]) -> list[int]:
    """The number of each row given."""
    return [int(row) - 0x3F80 for batch in batches for row in batch[:, 0]]


@pytest.mark.parametrize("where", [None, "position >= 2 and prompt_id % 3 <> 1"])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_each_kept_row_comes_exactly_once(run: Run, world: int, where: str | None) -> None:
    position = np.concatenate([np.arange(n) for n in run.lengths])
    prompt = np.repeat(np.arange(len(run.lengths)), run.lengths)
    kept = (position >= 2) & (prompt % 3 != 1) if where else position >= 0
    shares = [numbers(feed(run, rank=k, world=world, where=where)) for k in range(world)]
    assert sorted(itertools.chain(*shares)) == np.flatnonzero(kept).tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for k, share in enumerate(shares):
        assert len(feed(run, rank=k, world=world, where=where)) == -(-len(share) // 128)


def test_an_epoch_is_shuffled_anew_and_repeats_under_its_seed(run: Run) -> None:
    first, again, other = (numbers(feed(run, epochs=2, seed=seed)) for seed in (1, 1, 2))
    total = int(run.lengths.sum())
    assert first == again
    assert len({tuple(first[:total]), tuple(first[total:]), tuple(other[:total])}) == 3
    assert sorted(first[total:]) == sorted(other[:total]) == list(range(total))
    # rows of one chunk are spread: neighbours in a batch are far apart in the run
    assert np.median(np.abs(np.diff(first[:total]))) > 500


@pytest.mark.parametrize("options", [{}, {"where": "position > 0", "rank": 1, "world": 3}])
def test_it_resumes_to_the_bit(run: Run, options: dict[str, Any]) -> None:
    whole = [batch.copy() for batch in feed(run, epochs=2, **options)]
    of_epoch = len(whole) // 2
    for stop in (0, 1, of_epoch // 2, of_epoch - 1, of_epoch, of_epoch + 1, len(whole)):
        stopped = feed(run, epochs=2, **options)
        for _ in range(stop):
            next(stopped)
        resumed = feed(run, epochs=2, **options)
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        rest = list(map(np.copy, resumed))
        assert len(rest) == len(whole) - stop
        assert all(map(np.array_equal, rest, whole[stop:]))


def test_a_feed_under_way_goes_back_to_a_state(run: Run) -> None:
    batches = feed(run)
    next(batches)
    state, expected = batches.state_dict(), next(batches).copy()
    next(batches)
    batches.load_state_dict(state)
    assert (next(batches) == expected).all()
    batches.close()
    next(batches)


def test_sites_of_one_token_and_runs_of_one_token_stay_together(
    run: Run, capture: Capture, tmp_path: Path
) -> None:
    for embed, final in feed(run, ["embed", "final"], buffer="24 MiB"):
        assert (embed.shape[1], final.shape[1]) == (64, 1024)
        assert (embed[:, 0] == final[:, 0]).all()
    other = make_capture(
        capture.lengths,
        (0, 333, 1200),  # shards end elsewhere
        {name: values ^ np.uint16(1) for name, values in capture.hidden.items()},
        sites=capture.plan.sites,
        context=9,
        prefixes=(3, 9),
    ).write(tmp_path / "store")
    seen = 0
    for pairs in feed([run, other], "final", buffer="24 MiB"):
        assert pairs.shape[1:] == (2, 1024)
        assert (pairs[:, 0] ^ pairs[:, 1] == 1).all()
        seen += len(pairs)
    assert seen == run.lengths.sum()


def test_a_run_continued_by_another_release_has_chunks_of_two_sizes(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("lpp.store.arrays.layout.CHUNK_BYTES", 2 << 20)
        capture.write(tmp_path / "store", (3,))
    run = capture.write(tmp_path / "store", (0, 1, 2, 4))
    stored = np.concatenate([block.values for block in run.blocks("final", dtype="stored")])
    assert (stored == capture.hidden["final"]).all()
    read, read_rows = list[int](), RunSource.read

    def reading(self: RunSource, first: int, end: int, out: Any) -> None:
        read.append(end - first)
        read_rows(self, first, end, out)

    monkeypatch.setattr(RunSource, "read", reading)
    assert sorted(numbers(feed(run, buffer="8 MiB"))) == [*range(run.lengths.sum())]
    assert max(read) == 1024  # no chunk is unpacked four times


def test_ids_say_which_row_each_is(run: Run) -> None:
    batches = feed(run)
    for batch in batches:
        assert (batch[:, 0] - np.uint16(0x3F80) == batches.ids).all()


@pytest.mark.slow
def test_rows_are_centred_and_scaled(run: Run, capture: Capture) -> None:
    position = np.concatenate([np.arange(n) for n in run.lengths])
    bits = capture.hidden["final"][position > 0].astype(np.uint32) << 16
    plain = bits.view(np.float32).astype(np.float64)
    centred = plain - plain.mean(axis=0)
    expected = centred * 32 / np.linalg.norm(centred, axis=1).mean()
    for _ in range(2):  # computed, then kept
        batches = feed(run, where="position > 0", center=True, scale="sqrt_d")
        given, ids = zip(*((batch.copy(), batches.ids) for batch in batches), strict=True)
        assert given[0].dtype == np.float32
        given_in_order = np.concatenate(given)[np.argsort(np.concatenate(ids))]
        np.testing.assert_allclose(given_in_order, expected, rtol=2e-5, atol=2e-5)
    kept = Path(str(run.path)).parents[1] / "analysis" / "feed"
    assert len([*kept.rglob("*.arrow")]) == 2


def test_rows_of_a_test_get_the_mean_and_the_scale_of_training(run: Run) -> None:
    train = feed(run, where="prompt_id < 900", center=True, scale="sqrt_d")
    test = feed(run, where="prompt_id >= 900", center=train.mean, scale=train.factor)
    plain = feed(run, where="prompt_id >= 900", dtype="float32")
    for rows_, expected in zip(test, plain, strict=True):
        assert (rows_ == (expected - train.mean[0]) * np.float32(train.factor[0])).all()
    with pytest.raises(ConflictError, match="here center"):
        train.load_state_dict(feed(run, where="prompt_id < 900", center=train.mean).state_dict())
    with pytest.raises(InputError, match=r"center has entries of shapes \[\(64,\)\]"):
        feed(run, center=[np.zeros(64)])
    with pytest.raises(InputError, match="scale="):
        feed(run, scale=[1.0, 2.0])


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of other prompts, 100 rows: its values are 1,024, those of `run` are below 4."""
    hidden = {"final": np.full((100, 1024), 0x4480, np.uint16)}
    site = SiteSpec(name="final", convention="post_norm", width=1024)
    made = make_capture((5,) * 20, (0, 20), hidden, sites=(site,), context=5, prefixes=(5,))
    return made.write(tmp_path_factory.mktemp("few") / "store")


def test_runs_are_mixed_in_shares(run: Run, few: Run) -> None:
    options = {"weights": [3, 1], "batch": 32, "buffer": "16 MiB"}
    mixed = feed([run, few], **options)
    batches = [batch.copy() for batch in mixed]
    # 100 rows, 8 a batch: the last one has 4 of them, and then the feed ends
    assert len(batches) == len(mixed) == 13
    of_few = [batch[:, 0] == 0x4480 for batch in batches]
    assert [int(those.sum()) for those in of_few] == [8] * 12 + [4]
    assert (np.diff(np.flatnonzero(of_few[0])) == 4).all()  # at even distances
    given = numbers([batch[~those] for batch, those in zip(batches, of_few, strict=True)])
    assert len(given) == len({*given}) == 12 * 24 + 12  # and the last one has its shares
    assert [len(those) for those in of_few][-2:] == [32, 16]
    stopped, resumed = feed([run, few], **options), feed([run, few], **options)
    for _ in range(5):
        next(stopped)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert all(map(np.array_equal, map(np.copy, resumed), batches[5:]))
    without_end = feed([run, few], epochs=None, like="torch", **options)
    assert sum(1 for _ in itertools.islice(DataLoader(without_end, batch_size=None), 30)) == 30


def test_mixed_runs_have_one_mean_and_one_scale(run: Run, few: Run, capture: Capture) -> None:
    values = (capture.hidden["final"].astype(np.uint32) << 16).view(np.float32)
    mean = 0.25 * values.mean(axis=0, dtype=np.float64) + 0.75 * 1024
    length = 0.25 * np.linalg.norm(values - mean, axis=1).mean()
    length += 0.75 * np.linalg.norm(1024 - mean)
    mixed = feed([run, few], weights=[1, 3], batch=32, buffer="16 MiB", center=True, scale="sqrt_d")
    batch = next(mixed)
    ids, _ = mixed.ids
    is_first = batch[:, 1] < 0
    assert is_first.sum() == 8
    expected = (values[ids] - mean) * 32 / length
    np.testing.assert_allclose(batch[is_first], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(batch[~is_first][0], (1024 - mean) * 32 / length, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"weights=\[...\] mixes them"),
        ({"weights": [1]}, "weights=.*2"),
        ({"weights": [1, 0]}, "weights=0"),
        ({"weights": [1, 1000]}, "a run with a share of 0.001 has no row in it"),
        ({"weights": [1, 1], "site": "embed"}, "no site 'embed'"),
    ],
)
def test_runs_that_cannot_be_mixed_are_refused(
    run: Run, few: Run, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        feed([run, few], options.pop("site", "final"), **options)


def test_stored_rows_of_two_types_are_refused(run: Run, capture: Capture, tmp_path: Path) -> None:
    hidden = {"final": np.zeros((len(capture.hidden["final"]), 1024), np.float32)}
    (site,) = (site for site in capture.plan.sites if site.name == "final")
    wide = make_capture(
        *(capture.lengths, SHARDS, hidden),
        sites=(site,),
        context=9,
        prefixes=(3, 9),
        stored_dtype="float32",
    ).write(tmp_path / "store")
    with pytest.raises(InputError, match=r"stored as bfloat16 and float32: give dtype='float32'"):
        feed([run, wide])
    assert next(feed([run, wide], dtype="float32", buffer="16 MiB")).dtype == np.float32


def test_columns_of_a_condition(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = (6,) * 20
    values = rng.standard_normal((120, 4)).astype(np.float32)
    values[::6] *= 1000  # the first position of each prompt
    hidden = {"final": (values.view(np.uint32) >> 16).astype(np.uint16)}
    site = SiteSpec(name="final", convention="post_norm", width=4)
    made = make_capture(lengths, (0, 7, 20), hidden, sites=(site,), context=6, prefixes=(6,))
    mask = pa.array([None, *([[False, True] * 3] * 19)], pa.list_(pa.bool_()))
    names = replace(made.plan.prompts, token_columns=("token.loss_mask",))
    made = replace(
        made,
        plan=replace(made.plan, prompts=names),
        prompts=made.prompts.append_column("token.loss_mask", mask),
    )
    run = made.write(tmp_path / "store")
    entropy = made.tokens["entropy"].to_numpy()
    token = made.tokens["token_id"].to_numpy()
    for where, kept in {
        "not sink": np.arange(120) % 6 > 0,
        "length <= 10 * median_length": np.arange(120) % 6 > 0,
        "entropy < 1": entropy < 1,
        "loss_mask": (np.arange(120) % 2 == 1) & (np.arange(120) >= 6),
        "token_id in (3, 4)": np.isin(token, (3, 4)),
        "n_tokens = 6 and prompt_id = 3": np.arange(120) // 6 == 3,
    }.items():
        batches: Any = rows(run, "final", where=where, like="numpy")
        ids = sorted(itertools.chain.from_iterable(batches.ids.tolist() for _ in batches))
        assert ids == np.flatnonzero(kept).tolist(), where


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "positon > 1"}, "no column positon. Did you mean position?"),
        ({"where": "position >"}, "no condition of SQL"),
        ({"where": "position + 1"}, "not true or false"),
        ({"where": "length > avg(length)"}, "cannot ask for others"),
        ({"where": "rank() over (order by length) < 9"}, "cannot ask for others"),
        ({"center": True, "dtype": "stored"}, "Leave dtype out"),
        ({"where": "position > 99"}, "position > 99"),
        ({"where": "position > 99", "epochs": None}, "0 rows"),
        ({"where": "position > 99", "weights": [1]}, "0 rows"),
        ({"world": 10**6}, "1,000,000"),
        ({"batch": 10**5, "drop_last": True}, "100,000"),
        ({"batch": 0}, "batch=0"),
        ({"batch": 10**10}, "batch=10000000000"),
        ({"batch": 2.5}, "batch=2.5"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**64}, "seed="),
        ({"epochs": 0}, "epochs=0"),
        ({"rank": 2, "world": 2}, "rank=2"),
        ({"rank": 0, "world": 0}, "world=0"),
        ({"scale": 2.0}, "scale=2.0"),
        ({"scale": "sqrt"}, "scale='sqrt'"),
        ({"scale": [0.0]}, "scale=0.0"),
        ({"center": 1}, "True"),
        ({"on_damage": "RAISE"}, "on_damage='RAISE'"),
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"like": "jax"}, "like='jax'"),
        ({"drop_last": "no"}, "drop_last='no'"),
        ({"buffer": 0}, "buffer=0"),
        ({"buffer": 2.5}, "buffer=2.5"),
        ({"where": 3}, "where=3"),
        ({"buffer": "much"}, "buffer='much' is no size"),
        ({"buffer": 4096}, "holds 2 rows; it must hold 1,024, 4 times what is read at a time"),
        ({"site": "block.9"}, "no site 'block.9'"),
        ({"site": []}, "at least one run and one site"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    run: Run, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        feed(run, options.pop("site", "final"), **options)
    assert message in str(refused.value)


def test_a_state_of_another_feed_is_refused(run: Run) -> None:
    state = feed(run, seed=1).state_dict()
    with pytest.raises(ConflictError, match="here seed 2 and not 1"):
        feed(run, seed=2).load_state_dict(state)
    with pytest.raises(ConflictError, match="here dtype 'float32' and not 'stored'"):
        feed(run, seed=1, dtype="float32").load_state_dict(state)
    with pytest.raises(ConflictError, match=r"here version 3 and not 1.*arguments and release"):
        feed(run, seed=1).load_state_dict({**state, "version": 1})


def test_damage_is_named_or_counted(capture: Capture, tmp_path: Path) -> None:
    run = capture.write(tmp_path / "store")
    (chunk,) = (tmp_path / "store").glob("runs/*/shards/00003/*/hidden.zarr/final/c/0/0")
    data = bytearray(chunk.read_bytes())
    data[2000] ^= 1
    chunk.write_bytes(data)
    again = open_store(tmp_path / "store").runs[run.id]
    with pytest.raises(FormatError, match=r"00003.*altered"):
        list(feed(again))
    batches = feed(again, on_damage="skip")
    given = numbers(batches)
    edges = np.cumsum(run.lengths)[np.array(SHARDS[3:5]) - 1]
    assert batches.lost == sum(batches.damage.values()) == 256  # a chunk
    assert edges[0] <= min({*range(edges[-1])} - {*given}) < edges[1]
    assert len(given) == len({*given}) == run.lengths.sum() - 256


def test_an_unfinished_run_is_refused_before_it_feeds(capture: Capture, tmp_path: Path) -> None:
    run = capture.write(tmp_path / "store", (0, 1, 3))
    with pytest.raises(InputError, match="2 shards of 5 not committed, the first 2"):
        feed(run)
    rest = sorted(numbers(feed(run, on_damage="skip")))
    edges = [0, *np.cumsum(run.lengths)[np.array(SHARDS[1:]) - 1].tolist()]
    assert rest == [*range(edges[2]), *range(edges[3], edges[4])]


@pytest.mark.slow
def test_a_bucket_gives_the_batches_of_the_disk(run: Run, capture: Capture, s3: S3) -> None:
    in_bucket = capture.write(s3.url)
    options: dict[str, Any] = {"where": "length > 1", "center": True, "buffer": "16 MiB"}
    batches = feed(in_bucket, **options)
    for expected in feed(run, **options):
        np.testing.assert_array_equal(next(batches), expected)
    (key,) = (k for k in s3.objects() if "shards/00003/" in k and "hidden.zarr/final/c/0" in k)
    data = bytearray(s3.objects()[key])
    data[2000] ^= 1
    s3.put(key, bytes(data))
    with pytest.raises(FormatError, match=r"s3://.*00003.*altered"):
        list(feed(open_store(s3.url).runs[run.id], buffer="16 MiB"))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_of_torch_divide_the_rows(run: Run, workers: int) -> None:
    batches: Any = feed(run, like="torch")
    loader: Any = DataLoader(batches, batch_size=None, num_workers=workers)
    given = [batch.view(torch.int16).numpy().view(np.uint16) for batch in loader]
    assert sorted(numbers(given)) == [*range(run.lengths.sum())]


def test_rows_of_8_bits_are_bfloat16_and_integers_are_as_stored(
    capture: Capture, tmp_path: Path
) -> None:
    final, router = capture.plan.sites[2], capture.plan.sites[0]
    sites = (
        replace(final, dtype="float8_e4m3"),
        replace(router, name="router", convention="given", dtype="uint16"),
    )
    plan = replace(capture.plan, sites=sites)
    hidden = {"final": capture.hidden["final"], "router": capture.hidden["embed"]}
    run = replace(capture, plan=plan, hidden=hidden).write(tmp_path / "store")
    stored = np.concatenate([b.values for b in run.blocks("final", dtype="stored")])
    batches = feed(run, ["final", "router"], like="torch", buffer="24 MiB")
    for rounded, integers in batches:
        assert rounded.dtype == torch.bfloat16
        assert (rounded.view(torch.int16).numpy().view(np.uint16) == stored[batches.ids]).all()
        assert (integers.numpy() == hidden["router"][batches.ids]).all()
    with pytest.raises(InputError, match=r"router of run .* holds integers"):
        feed(run, "router", center=True)


def test_what_is_kept_of_one_site_is_not_taken_for_another(tmp_path: Path) -> None:
    """The same words choose other rows where they are about another site."""
    rng = np.random.default_rng(3)
    values = {
        name: rng.standard_normal((60, 4)).astype(np.float32) for name in ("block.1", "final")
    }
    values["block.1"][::6] *= 1000  # a sink at this site alone
    hidden = {name: (v.view(np.uint32) >> 16).astype(np.uint16) for name, v in values.items()}
    sites = tuple(SiteSpec(name=name, convention="residual", width=4) for name in hidden)
    made = make_capture((6,) * 10, (0, 10), hidden, sites=sites, context=6, prefixes=(6,))
    run = made.write(tmp_path / "store")
    bits = hidden["final"].astype(np.uint32) << 16
    final = bits.view(np.float32)
    options: dict[str, Any] = {"where": "not sink", "center": True, "like": "numpy"}
    both = rows(run, ["block.1", "final"], **options)
    alone = rows(run, "final", **options)
    (_, of_both), of_final = next(both), next(alone)
    kept = np.arange(60) % 6 > 0
    np.testing.assert_allclose(of_both, (final - final[kept].mean(0))[both.ids], atol=1e-6)
    np.testing.assert_allclose(of_final, (final - final.mean(0))[alone.ids], atol=1e-6)


def test_a_mean_without_a_damaged_shard_is_not_kept(capture: Capture, tmp_path: Path) -> None:
    run = capture.write(tmp_path / "store")
    (chunk,) = (tmp_path / "store").glob("runs/*/shards/00003/*/hidden.zarr/final/c/0/0")
    intact = chunk.read_bytes()
    chunk.write_bytes(intact[:2000] + bytes([intact[2000] ^ 1]) + intact[2001:])
    with pytest.raises(FormatError, match="00003"):
        feed(open_store(tmp_path / "store").runs[run.id], center=True)
    damaged = feed(open_store(tmp_path / "store").runs[run.id], center=True, on_damage="skip")
    next(damaged)
    chunk.write_bytes(intact)
    whole = feed(open_store(tmp_path / "store").runs[run.id], center=True)
    rest = np.concatenate([batch[:, 1:].copy() for batch in whole])  # the first is the number
    assert np.abs(rest.mean(axis=0, dtype=np.float64)).max() < 1e-5


class Notes(Progress):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_it_says_what_it_gives_and_how_well_it_is_mixed(run: Run) -> None:
    notes, prompt = Notes(), np.repeat(np.arange(1200), run.lengths)
    batches = feed(run, progress=notes)
    distinct = [len(np.unique(prompt[batches.ids])) for _ in batches]
    (line,) = notes.lines
    total = run.lengths.sum()
    assert line.startswith(f"{total:,} rows of final in batches of 128, 1 epoch; a buffer of 2,048")
    said = re.search(r"about (\d+) prompts a batch, (\d+) in a uniform sample", line)
    assert said is not None
    assert float(said[1]) == pytest.approx(np.mean(distinct[5:-15]), rel=0.1)
    assert float(said[2]) == pytest.approx(1200 * (1 - (1 - 1 / 1200) ** 128), abs=0.5)
    assert "about 10 prompts a batch" in str(feed(run, where="prompt_id < 10", batch=64))


@pytest.mark.parametrize("batch", [16, 64, 500])
@pytest.mark.parametrize("span", [32, 256])
@pytest.mark.parametrize("capacity", [4096, 16_384, 1 << 20])
def test_batches_are_as_well_mixed_as_it_says(batch: int, span: int, capacity: int) -> None:
    prompts, length = 600, 60
    total = prompts * length
    spans = Spans(edges=np.append(np.arange(0, total, span), total), kept=None)
    order = Order(batch=batch, seed=3, capacity=capacity, rank=0, world=1, drop_last=False)
    rows_ = np.concatenate([*units_by_batch(order, spans)])
    assert sorted(rows_.tolist()) == [*range(total)]
    # rows leave a span in random order: no place in it comes earlier than another
    assert abs(np.corrcoef(np.argsort(rows_) % total, np.arange(total) % span)[0, 1]) < 0.1
    full = rows_[len(rows_) // 4 : -len(rows_) // 4]
    batches = np.split(full, range(batch, len(full), batch))[:-1]
    distinct = np.mean([len(np.unique(rows // length)) for rows in batches])
    lengths = np.full(prompts, length)
    expected, uniform = expected_prompts(batch, lengths, 1, Sections(capacity, span, total), span)
    assert distinct == pytest.approx(expected, rel=0.12)
    assert expected <= uniform


def test_another_process_goes_on_where_a_feed_stands(run: Run) -> None:
    whole = [batch.copy() for batch in feed(run)]
    batches = feed(run)
    first = [next(batches).copy() for _ in range(3)]
    sent = pickle.loads(pickle.dumps(batches))
    assert all(map(np.array_equal, whole, [*first, *map(np.copy, sent)]))


def test_epochs_read_other_spans_first_and_ranks_shuffle_theirs_otherwise() -> None:
    spans = Spans(edges=np.arange(257) * 16, kept=None)
    orders, firsts = [], []
    for rank, number in ((0, 0), (1, 0), (0, 1)):
        order = Order(batch=64, seed=3, capacity=512, rank=rank, world=2, drop_last=False)
        epoch = Epoch(order, spans, number, order.share(4096))
        planned = epoch.planned()
        place = {span: k for k, span in enumerate(epoch.chosen.spans.tolist())}
        orders.append([16 * place[unit // 16] + unit % 16 for unit in planned.tolist()])
        firsts.append({*planned[:64].tolist()})
    assert orders[0] != orders[1]
    assert len(firsts[0] & firsts[2]) < 16  # by chance one of them
