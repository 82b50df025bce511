"""Moments while they are captured: what takes part, where, and that the same bytes come again."""

import math
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars.testing
import pytest
import torch
from backend_contract import make_batch, random_prompts
from click.testing import CliRunner, Result
from on_disk import on_disk
from s3_server import S3
from stored import object_path, stored_objects

from lpp.analyze import scan_metrics, scan_spectra
from lpp.capture.backends.moments import WAITING, ShardMoments
from lpp.capture.backends.torch_backend import halves
from lpp.capture.cli.command import main
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.capture import capture_run
from lpp.capture.engine.prepare import Prepared, prepare
from lpp.capture.engine.run import capture_into
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.backend import Batch, Outputs
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store import Run, RunWriter, create_store, open_store
from lpp.store.errors import InputError, LppError
from lpp.store.format.plan import Plan

PROMPTS = 24
Usage = namedtuple("Usage", "total used free")


def command(store: Path, model: Path, corpus: Path, *more: str) -> Result:
    words = ["run", f"--model={model}", f"--corpus={corpus}", f"--store={store}", "--min-bytes=0"]
    options = [f"--prompts={PROMPTS}", "--context=20", "--batch-tokens=100", "--keep=moments"]
    return CliRunner().invoke(main, [*words, *options, *more])


def only(store: Any) -> Run:
    (run,) = open_store(store).runs.values()
    return run


def contents(run: Run) -> dict[str, bytes]:
    return stored_objects(run.path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of which two, the third and the sixteenth, hold a Q."""
    words = ["dog", "fox", "lazy", "brown", "quick"]
    texts = [f"the {words[n % 5]} and the {words[n % 3]} mind " * (1 + n % 3) for n in range(30)]
    texts[2] = f"the Q {texts[2]}"
    texts[15] = f"Q {texts[15]}"
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n\n".join(texts))
    return path


@pytest.fixture(scope="module")
def kept(
    tiny_folder: Callable[[str], Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store of one run that keeps moments, undisturbed."""
    store = tmp_path_factory.mktemp("kept") / "s"
    done = command(store, tiny_folder("llama"), corpus)
    assert done.exit_code == 0, done.output
    return store


@pytest.fixture(scope="module")
def ready(tiny_folder: Callable[[str], Path], corpus: Path) -> Prepared:
    """The same, prepared to be captured by hand, with rows beside moments."""
    return prepare(
        CaptureRequest(
            model=ModelSpec(id=str(tiny_folder("llama"))),
            corpus=CorpusSpec(name=str(corpus)),
            selection=Selection(prompts=PROMPTS, min_bytes=0),
            context=20,
            batch_tokens=100,
            keep="both",
        )
    )


@pytest.mark.slow
def test_parts_in_any_order_give_the_same_bytes(
    kept: Path, tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    for part in ("2/3", "0/3", "1/3"):
        done = command(tmp_path / "s", tiny_folder("llama"), corpus, f"--part={part}")
        assert done.exit_code == 0, done.output
    run = only(tmp_path / "s")
    assert run.plan.n_shards == 10
    assert contents(run) == contents(only(kept))


def test_a_capture_that_stopped_goes_on_to_the_same_bytes(
    kept: Path, tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    shutil.copytree(kept, tmp_path / "s")
    run = only(tmp_path / "s")
    expected = contents(run)
    shards = on_disk(run.path) / "shards"
    shutil.rmtree(shards / "00004")
    (shards / "00007" / "COMMIT.json").unlink()
    halfway = only(tmp_path / "s")
    assert halfway.n_prompts == run.plan.shards[4]
    with pytest.warns(UserWarning, match=r"2 of 10 shards are missing \(4, 7\)"):
        found = scan_spectra(tmp_path / "s", groups=10).collect()  # as much as is there
    assert found["n_prompts"].unique().to_list() == [run.plan.shards[4]]
    shutil.rmtree(tmp_path / "s" / "analysis")
    done = command(tmp_path / "s", tiny_folder("llama"), corpus)
    assert done.exit_code == 0, done.output
    assert contents(only(tmp_path / "s")) == expected


@pytest.mark.parametrize(
    "name", ["moments.zarr/block.2/c/0/0", "moments.zarr/embed/zarr.json", "moments.arrow"]
)
def test_an_altered_byte_is_found_and_repaired(
    kept: Path, tiny_folder: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    shutil.copytree(kept, tmp_path / "s")
    run = only(tmp_path / "s")
    before = contents(run)
    path = object_path(run.path / "shards/00003", name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    where = path.relative_to(on_disk(run.path)).as_posix()
    assert [problem.where for problem in run.verify()] == [where]
    with pytest.raises(LppError, match=r"altered (or cut short|since they were committed)"):
        list(only(tmp_path / "s").moments(name.split("/")[1] if "/" in name else "embed"))
    status = CliRunner().invoke(main, ["status", str(tmp_path / "s")])
    assert "complete" in status.stdout
    model = str(tiny_folder("llama"))
    done = CliRunner().invoke(main, ["repair", str(tmp_path / "s"), f"--model={model}"])
    assert done.exit_code == 0, done.output
    assert "byte for byte what was committed" in " ".join(done.stdout.split())
    assert contents(run) == before


@pytest.mark.slow
def test_prompts_that_are_not_finite_take_no_part(
    tiny_folder: Callable[[str], Path], tiny_tokenizer: Any, corpus: Path, tmp_path: Path
) -> None:
    """Ranks of 24 prompts, two of them bad, are those that their rows have; and of keeping both."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "ill"
    shutil.copytree(tiny_folder("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    (q,) = tiny_tokenizer("Q")["input_ids"]
    weights["model.embed_tokens.weight"][q, 3] = math.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for keep in ("moments", "both"):
        done = command(tmp_path / keep, folder, corpus, f"--keep={keep}")
        assert done.exit_code == 0, done.output
        assert "2 hold NaN or infinities, which begin at embed" in done.stdout
        run = only(tmp_path / keep)
        assert run.quarantined.tolist() == [2, 15]
        assert run.verify() == []
        assert sum(band.n for band in run.moments("final")) == sum(
            n for k, n in enumerate(run.prompts()["n_tokens"].to_pylist()) if k not in (2, 15)
        )
        assert all(np.isfinite(band.scatter).all() for band in run.moments("embed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpp.analyze.engine.stored_moments.PRODUCT_ROWS", 1e9)
        one, other = (
            scan_metrics(tmp_path / keep, metrics=["effective_rank", "zscore_*"], groups=10)
            .drop("run")
            .collect()
            for keep in ("moments", "both")
        )
    assert one["n_quarantined"].unique().to_list() == [2]
    polars.testing.assert_frame_equal(one, other, rel_tol=1e-6, abs_tol=1e-9)


def by_hand(plan: Plan, batches: list[tuple[Batch, Any]], excluded: tuple[int, ...] = ()) -> Any:
    """Moments of batches, each with the rows of every site."""
    outputs = Outputs.of(replace(plan, keep="moments"))
    moments = ShardMoments(outputs, {site.name: site.width for site in plan.sites})
    moments.begin()
    for batch, rows in batches:
        tensors = dict.fromkeys(plan.site_names, torch.from_numpy(rows))
        moments.add(batch, tensors, excluded)
    return {site: moments[site] for site in moments}


def some_batches(plan: Plan, count: int) -> list[tuple[Batch, Any]]:
    """Batches of four prompts with random rows, alike at every site."""
    rng = np.random.default_rng(count)
    batches = [
        make_batch(random_prompts(100, [20, 20, 7, 13], seed=k), first=4 * k) for k in range(count)
    ]
    return [
        (batch, rng.normal(size=(len(batch.token_ids), plan.sites[0].width)).astype(np.float32))
        for batch in batches
    ]


def same(one: Any, other: Any) -> bool:
    return all(
        (one[site].n == other[site].n).all()
        and (one[site].mean == other[site].mean).all()
        and (one[site].scatter == other[site].scatter).all()
        for site in one
    )


def test_a_batch_that_ran_in_halves_gives_the_same_bits(ready: Prepared) -> None:
    """Which rows meet in a product does not depend on how they came."""
    whole = some_batches(ready.plan, 3)
    in_halves = []
    for batch, rows in whole:
        first, rest = halves(batch)
        cut = len(first.token_ids)
        in_halves += [(first, rows[:cut]), (rest, rows[cut:])]
    assert same(by_hand(ready.plan, whole), by_hand(ready.plan, in_halves))


def test_many_rows_are_those_of_one_product(ready: Prepared) -> None:
    """More rows than wait for a product, a column of enormous mean and one that is constant."""
    rng = np.random.default_rng(0)
    width = ready.plan.sites[0].width
    rows = rng.normal(size=(4 * WAITING + 17, width)).astype(np.float32)
    rows[:, 0] += 30_000
    rows[:, 1] = 7.25
    plan = replace(ready.plan, context=len(rows), prefixes=(len(rows),), band_ends=())
    pieces = np.array_split(rows, [3, WAITING, WAITING + 1, 3 * WAITING + 5])
    batches = [(make_batch([[5] * len(piece)], first=k), piece) for k, piece in enumerate(pieces)]
    found = by_hand(plan, batches)["final"]
    wide = rows.astype(np.float64)
    centred = wide - wide.mean(axis=0)
    expected = (centred.T @ centred)[np.triu_indices(width)]
    assert found.n.tolist() == [len(rows)]
    np.testing.assert_allclose(found.mean[0], wide.mean(axis=0), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(found.scatter[0], expected, rtol=1e-10, atol=1e-9)
    of_constant = [k for k, pair in enumerate(np.transpose(np.triu_indices(width))) if 1 in pair]
    assert not found.scatter[0, of_constant].any()


def test_a_prompt_that_failed_takes_no_part(ready: Prepared) -> None:
    batches = some_batches(ready.plan, 2)
    found = by_hand(ready.plan, batches, (5,))["final"]
    assert found.n.sum() == sum(len(batch.token_ids) for batch, _ in batches) - 20
    nothing = by_hand(ready.plan, batches, tuple(range(8)))["final"]
    assert not nothing.n.any()
    assert not nothing.scatter.any()


def test_a_scatter_beyond_float32_says_what_to_do(
    ready: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(ready.plan, keep="moments", moments_dtype="float32")
    writer = RunWriter(create_store(tmp_path / "s").path, plan, ready.prompts)
    add = ShardMoments.add

    def add_huge(self: Any, batch: Batch, rows: Any, excluded: Any) -> None:
        add(self, batch, {site: values * 1e20 for site, values in rows.items()}, excluded)

    monkeypatch.setattr(ShardMoments, "add", add_huge)
    with pytest.raises(InputError, match=r"beyond float32. Capture with --moments-dtype float64"):
        capture_run(plan, ready.prompts, writer, ready.backend)
    assert writer.run.missing_shards[0] == 0


def test_sizes_are_told_and_what_does_not_fit_is_refused(
    tiny_folder: Callable[[str], Path],
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = 10_000_000
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(free, 0, free))
    done = command(tmp_path / "s", tiny_folder("llama"), corpus)
    assert done.exit_code == 0, done.output
    said = " ".join(done.stderr.split())
    run = only(tmp_path / "s")
    tokens = run.plan.prompts.tokens
    rows = tokens * 5 * 48 * 4
    moments = 10 * 11 * 5 * (25 * 48 + 48) * 8  # shards, bands, sites
    assert f"rows {rows / 1e3:.0f} kB (about {rows / 1.46e3:.0f} kB packed)" in said
    assert f"moments* {moments / 1e6:.2f} MB" in said
    assert "10.0 MB free" in said
    stored = sum(
        item.bytes
        for shard in run.shards
        for key, item in shard.record.objects.items()
        if key.startswith("moments.zarr") and "/c/" in key
    )
    assert 0.5 * moments < stored <= moments  # compression takes off little
    free = 3_000_000
    assert rows / 1.46 < free < moments
    done = command(tmp_path / "t", tiny_folder("llama"), corpus)
    assert done.exit_code == 2
    assert "--keep rows would take about" in " ".join(done.stderr.split())
    assert not (tmp_path / "t").exists()
    assert command(tmp_path / "s", tiny_folder("llama"), corpus).exit_code == 0  # it is there
    assert command(tmp_path / "t", tiny_folder("llama"), corpus, "--part=0/5").exit_code == 0
    free = 1_000
    done = command(tmp_path / "u", tiny_folder("llama"), corpus, "--keep=rows")
    assert done.exit_code == 2
    assert "No other --keep fits either" in " ".join(done.stderr.split())
    assert "Traceback" not in done.output


def test_a_dtype_without_moments_is_refused(
    tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    options = ("--keep=rows", "--moments-dtype=float32")
    done = command(tmp_path / "s", tiny_folder("llama"), corpus, *options)
    assert done.exit_code == 2
    assert "--moments-dtype needs --keep moments" in done.stderr


def test_a_run_in_a_bucket_is_that_on_a_disk(
    s3: S3, tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    request = CaptureRequest(
        model=ModelSpec(id=str(tiny_folder("llama"))),
        corpus=CorpusSpec(name=str(corpus)),
        selection=Selection(prompts=12, min_bytes=0),
        context=20,
        keep="moments",
    )
    capture_into(s3.url, request)
    capture_into(tmp_path / "s", request)
    ours, theirs = only(s3.url), only(tmp_path / "s")
    assert ours.verify() == []
    for one, other in zip(ours.moments("block.2"), theirs.moments("block.2"), strict=True):
        assert (one.n, one.mean.tolist()) == (other.n, other.mean.tolist())
        assert (one.scatter == other.scatter).all()
    pair = [scan_spectra(url, groups=10).collect() for url in (s3.url, tmp_path / "s")]
    assert pair[0].equals(pair[1])


def test_a_plan_whose_shards_do_not_fit_the_groups_is_none(kept: Path) -> None:
    from lpp.store.format.plan import validate_plan

    plan = only(kept).plan
    assert validate_plan(plan) == []
    coarse = replace(plan, shards=(0, PROMPTS))
    assert validate_plan(coarse) == [
        "shards should begin where each tenth of the prompts does, for moments"
    ]
    odd = replace(plan, keep="rows", moments_dtype="float32")
    assert validate_plan(odd) == [
        "moments_dtype is float32, and no moments are kept",
        "band_ends are given, and no moments are kept",
    ]
