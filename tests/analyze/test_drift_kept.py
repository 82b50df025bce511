"""What of drift is kept, what makes another key, and who may compute it."""

import importlib.util
import json
import logging
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kept_heads import keep_head
from made_runs import Made, MakeRun
from on_disk import on_disk
from polars.testing import assert_frame_equal

from lpp.analyze import DiffSettings, diff
from lpp.analyze.drift.drift import drift
from lpp.analyze.drift.frames import facts
from lpp.analyze.drift.kept import KeptDrift
from lpp.analyze.drift.pair import Pair, pair_of, run_of
from lpp.analyze.drift.predictions import token_drift
from lpp.analyze.drift.site_numbers import CROSS
from lpp.analyze.drift.sites import site_drift
from lpp.analyze.drift.tables import Drift
from lpp.analyze.engine.executor import LocalExecutor
from lpp.analyze.engine.workers import Workers
from lpp.analyze.logits import tiles, two_runs
from lpp.analyze.runs.rows.token_files import read_tokens
from lpp.store import open_store
from lpp.store.errors import MachineError
from lpp.store.progress import Progress

LENGTHS = (12, 7, 20, 20, 3, 15, 9, 11, 20, 6, 8, 14)


@pytest.fixture
def two(make_run: MakeRun) -> tuple[Made, Made]:
    """Two models of the same texts, of one head."""
    a = make_run(LENGTHS, model="tiny/base", vary_tokens=True)
    b = make_run(LENGTHS, model="tiny/tuned", seed=1, vary_tokens=True)
    keep_head(a.root, a.plan)
    return a, b


def paired(a: Made, b: Made, prompts: int | None = None) -> Pair:
    return pair_of(run_of(a.root, a.run_id).run, run_of(b.root, b.run_id).run, prompts)


def remove_arrays(root: Path) -> None:
    """Rows of hidden states and matrices of heads are gone; their records stay."""
    gone = [*root.glob("runs/*/shards/*/*/hidden.zarr"), *root.glob("matrices/*/*/matrix.zarr")]
    assert len(gone) >= 2
    for array in gone:
        shutil.rmtree(array)


def kept_files(root: Path) -> Counter[str]:
    """How many files of each kind are kept of drift, by what they are of."""
    files = root.glob("analysis/*/drift-*/*/*.arrow")
    return Counter(path.parent.name.partition("-")[0] for path in files)


def same(one: Drift, other: Drift) -> None:
    assert_frame_equal(one.tokens, other.tokens, check_exact=True)
    assert (one.sites, one.predictions) == (other.sites, other.predictions)
    assert_frame_equal(facts(one), facts(other))


# computed once


@pytest.mark.slow
def test_a_second_comparison_reads_no_rows_and_no_matrix(two: tuple[Made, Made]) -> None:
    a, _ = two
    first = diff(a.root, "base", "tuned", DiffSettings(errors="all"))
    files = kept_files(a.root)
    assert files == {"logits": 1, "embed": 1, "block.1": 1, "block.2": 1, "final": 1}
    remove_arrays(a.root)
    same(diff(a.root, "base", "tuned", DiffSettings(errors="all")), first)
    fewer = diff(a.root, "base", "tuned", DiffSettings(errors="none", sites=["block.*"]))
    assert fewer.sites[0].cka[:2] == (first.sites[1].cka.value, None)
    assert kept_files(a.root) == files


@pytest.mark.slow
def test_other_first_positions_choose_among_the_tokens_that_are_kept(
    two: tuple[Made, Made],
) -> None:
    whole = token_drift(paired(*two))
    remove_arrays(two[0].root)
    found = token_drift(paired(*two), first_position=3)
    assert_frame_equal(found, whole.filter(pl.col("position") >= 3), check_exact=True)


@pytest.mark.slow
def test_each_draw_is_kept(two: tuple[Made, Made]) -> None:
    draws = [{"tokens": 20}, {"tokens": 20, "seed": 3}, {"tokens": 20, "first_position": 2}]
    found = [token_drift(paired(*two), **options) for options in draws]  # type: ignore[arg-type]
    assert kept_files(two[0].root) == {"logits": 3}
    remove_arrays(two[0].root)
    for options, before in zip(draws, found, strict=True):
        again = token_drift(paired(*two), **options)  # type: ignore[arg-type]
        assert_frame_equal(again, before, check_exact=True)


@pytest.mark.slow
def test_columns_that_are_missing_are_added(two: tuple[Made, Made]) -> None:
    pair = paired(*two)
    some = token_drift(pair, only=["kl"])
    assert some["tv"].null_count() == len(some)
    whole = token_drift(pair)
    assert kept_files(two[0].root) == {"logits": 2}
    shutil.rmtree(on_disk(KeptDrift(pair).folder))
    assert_frame_equal(token_drift(pair), whole, check_exact=True)
    assert some["kl"].equals(whole["kl"])


@pytest.mark.slow
def test_errors_and_numbers_that_are_missing_are_added(two: tuple[Made, Made]) -> None:
    pair = paired(*two)
    files = KeptDrift(pair)
    site_drift(pair, only=["cka"])
    values = {site: files.values(site) for site in ("embed", "final")}
    assert {name for _, name in values["embed"]} == {CROSS}
    assert [cell.excluded for cell, _ in values["embed"]] == [()]
    assert sum(cell.excluded != () for cell, _ in values["final"]) == 10
    site_drift(pair, errors="all")
    found = site_drift(pair, errors="all", only=["cka", "overlap"])
    shutil.rmtree(on_disk(files.folder))
    assert site_drift(pair, errors="all", only=["cka", "overlap"]) == found


def test_numbers_of_an_earlier_release_stay(two: tuple[Made, Made]) -> None:
    """It kept distances and cosines; the others are added, and no digit changes."""
    pair = paired(*two)
    names = ("relative_distance", "cosine")
    values = KeptDrift(pair)
    whole = site_drift(pair, ["final"])
    kept = {key: value for key, value in values.values("final").items() if key[1] in names}
    assert len(kept) == 22
    shutil.rmtree(on_disk(values.folder))
    values.keep_values("final", kept)
    assert KeptDrift(pair).values("final") == kept
    assert site_drift(pair, ["final"]) == whole
    assert len(KeptDrift(pair).values("final")) == 44  # with SQNR and CKA


# what makes another key


@pytest.mark.slow
def test_more_shards_of_either_run_are_another_pair(make_run: MakeRun) -> None:
    a = make_run(LENGTHS, model="tiny/base", shards=range(4))
    b = make_run(LENGTHS, model="tiny/tuned", seed=1, shards=range(5))
    folders = {KeptDrift(paired(a, b)).folder}
    before = site_drift(paired(a, b), ["final"])
    make_run(LENGTHS, model="tiny/tuned", seed=1, shards=[5])
    assert paired(a, b).n_prompts == 8
    folders.add(KeptDrift(paired(a, b)).folder)
    assert site_drift(paired(a, b), ["final"]) == before
    make_run(LENGTHS, model="tiny/base", shards=[4, 5])
    assert paired(a, b).n_prompts == 12
    folders.add(KeptDrift(paired(a, b)).folder)
    assert site_drift(paired(a, b), ["final"]) != before
    folders |= {KeptDrift(paired(a, b, 8)).folder, KeptDrift(paired(b, a)).folder}
    assert len(folders) == 5


@pytest.mark.slow
def test_other_arithmetic_is_another_setting(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (make_run(LENGTHS, model=f"tiny/{k}", seed=k) for k in range(2))
    for k, made in enumerate((a, b)):
        keep_head(made.root, made.plan, k, "bfloat16")
    with_torch = token_drift(paired(a, b))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "torch" else found(name)
    )
    without = token_drift(paired(a, b))
    assert kept_files(a.root) == {"logits": 2}
    remove_arrays(a.root)
    assert token_drift(paired(a, b)).equals(without)
    monkeypatch.undo()
    assert token_drift(paired(a, b)).equals(with_torch)


@pytest.mark.slow
def test_a_run_of_another_store_is_known_by_what_it_is(make_run: MakeRun, tmp_path: Path) -> None:
    a = make_run(LENGTHS, model="tiny/base")
    b = make_run(LENGTHS, model="tiny/tuned", seed=1, root=tmp_path / "far")
    for made in (a, b):
        keep_head(made.root, made.plan)
    first = diff(a.root, "base", f"{b.root}::tuned", DiffSettings(errors="all"))
    assert not (b.root / "analysis").exists()
    b.root.rename(tmp_path / "elsewhere")
    for root in (a.root, tmp_path / "elsewhere"):
        remove_arrays(root)
    same(
        diff(a.root, "base", f"{tmp_path / 'elsewhere'}::tuned", DiffSettings(errors="all")), first
    )


# stores that were altered, or are not to be written


@pytest.mark.slow
def test_altered_files_are_computed_again(
    two: tuple[Made, Made], caplog: pytest.LogCaptureFixture
) -> None:
    root = two[0].root
    first = diff(root, "base", "tuned")
    files = sorted(root.glob("analysis/*/drift-*/*/*.arrow"))
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "lpp.analyze"):
        same(diff(root, "base", "tuned"), first)
    assert len(caplog.records) == len(files) == 5


def test_a_file_of_another_place_counts_as_nothing(two: tuple[Made, Made]) -> None:
    pair = paired(*two)
    first = site_drift(pair)
    folder = on_disk(KeptDrift(pair).folder)
    (of_embed,), (of_final,) = (list(folder.glob(f"{site}/*")) for site in ("embed", "final"))
    of_final.unlink()
    shutil.copy(of_embed, of_final.parent)
    assert site_drift(pair) == first


@pytest.mark.slow
def test_other_versions_count_as_nothing(
    two: tuple[Made, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = paired(*two)
    first = drift(pair)
    monkeypatch.setattr("lpp.analyze.drift.kept.VERSION", 2)
    assert not KeptDrift(pair).values("final")
    same(drift(pair), first)
    assert kept_files(two[0].root)["final"] == kept_files(two[0].root)["logits"] == 2


@pytest.mark.slow
def test_a_store_that_cannot_be_written_costs_one_line(
    two: tuple[Made, Made], caplog: pytest.LogCaptureFixture
) -> None:
    root = two[0].root
    first = diff(root, "base", "tuned")
    shutil.rmtree(root / "analysis")
    (root / "analysis").write_text("a file where the directory should be")
    with caplog.at_level(logging.WARNING, "lpp.analyze"):
        same(diff(root, "base", "tuned"), first)
    assert len(caplog.records) == 1
    assert "not kept" in caplog.text


@pytest.mark.slow
def test_two_processes_at_once_keep_the_same_files(two: tuple[Made, Made]) -> None:
    root = two[0].root
    words = ["-m", "lpp.analyze.cli.command", "diff", str(root), "base", "tuned"]
    started = [
        subprocess.Popen([sys.executable, *words, "--format", "json"], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    shown = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert json.loads(shown[0])["tables"]["comparisons"][0]["n_compared"] == sum(LENGTHS)
    assert shown[0] == shown[1]
    assert {*kept_files(root).values()} == {1}


# who computes


@dataclass(frozen=True)
class Elsewhere:
    """An executor whose tasks know nothing but what was sent to them."""

    jobs: int
    remote = True

    def estimates(self, work: Any) -> Any:
        return LocalExecutor(1).estimates(work)

    def map(self, task: Any, items: Iterable[Any], *, item_bytes: int) -> Iterator[Any]:
        for item in items:
            with Workers(1) as workers:
                call, sent = pickle.loads(pickle.dumps((task, item)))
                yield pickle.loads(pickle.dumps(call(sent, workers)))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"tokens": 61, "skip_first": 1}])
def test_spans_of_tokens_have_the_bits_of_one_read(
    two: tuple[Made, Made], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE_ROWS", 4)
    monkeypatch.setattr(two_runs, "SPAN_TILES", 1)
    pair = paired(*two)
    alone = drift(pair, DiffSettings(errors="all", **options), executor=LocalExecutor(2))
    for jobs in (1, 3, 100):
        shutil.rmtree(on_disk(KeptDrift(pair).folder))
        same(drift(pair, DiffSettings(errors="all", **options), executor=Elsewhere(jobs)), alone)


def test_spans_end_with_a_tile_and_advance_by_their_tokens(
    two: tuple[Made, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE_ROWS", 4)
    monkeypatch.setattr(two_runs, "SPAN_TILES", 3)
    advanced: list[int] = []

    class Told(Progress):
        def advance(self, amount: int = 1) -> None:
            advanced.append(amount)

    pair = paired(*two)
    token_drift(pair, executor=Elsewhere(4), progress=Told())
    assert advanced == [40, 40, 40, 25]  # 37 tiles by 4 processors
    shutil.rmtree(on_disk(KeptDrift(pair).folder))
    token_drift(pair, executor=Elsewhere(50), progress=Told())
    assert advanced[4:] == [12] * 12 + [1]


def test_a_pair_that_is_sent_leaves_what_was_read_of_tokens(two: tuple[Made, Made]) -> None:
    pair = paired(*two)
    assert len(pair.statistics) == sum(LENGTHS)
    sent = pickle.loads(pickle.dumps(pair))
    assert "statistics" not in vars(sent)
    assert sent.n_tokens(2) == pair.n_tokens(2)
    assert sent.statistics.equals(pair.statistics)


@pytest.mark.slow
def test_a_machine_that_cannot_multiply_as_the_driver_says_so(
    two: tuple[Made, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = paired(*two)
    span = two_runs.Span(
        a=pair.a,
        b=pair.b,
        prompt_id=np.zeros(1, np.int32),
        position=np.zeros(1, np.int32),
        names=frozenset(["kl"]),
        places=("cpu", "numpy"),
        tile_rows=4,
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(MachineError, match="has no torch"):
        two_runs._of_span(span, Workers(1))


# token tables


@pytest.mark.slow
def test_the_token_tables_are_read_once(
    two: tuple[Made, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lpp.analyze.drift import pair as module
    from lpp.analyze.drift.worst import worst_tokens

    files: list[Path] = []

    def counted(file: Path, names: Any) -> pl.DataFrame:
        files.append(file)
        return read_tokens(file, names)

    monkeypatch.setattr(module, "read_tokens", counted)
    assert worst_tokens(diff(two[0].root, "base", "tuned")).height
    assert len(files) == len({*files}) == 2 * 6
    assert len(open_store(two[0].root).runs) == 2
