"""Benchmarks: the numbers in them by hand, and the same rows and profiles on both sides."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from benchmarks import (
    card_counts,
    card_results,
    gate_null,
    gpu,
    pairs,
    paper_procedure,
    pipeline_cost,
    probe_null,
    scaling,
    sink_cost,
    storage,
)
from benchmarks.setting import prepared
from benchmarks.synthetic import synthetic_run
from lpp.store import open_store


def bars(rows: Iterable[pairs.Ratio]) -> list[float]:
    """What each row is held against: a row that is lost, doubled or out of place shows here."""
    return [row.bar for row in rows]


@pytest.mark.slow
def test_errors_of_probes() -> None:
    noise, planted = probe_null.CASES[0], probe_null.CASES[9]
    rows = list(probe_null.measure([noise, planted], draws=20, d=3))
    assert [row.what.partition(",")[0] for row in rows] == [
        "p < .05 of the number",
        "intervals of the number that miss",
        "p < .05 of the gain",
        "intervals of the gain that miss",
        "intervals of the number that miss",
        "intervals of the gain that miss",
    ]
    assert all(row.ratio <= 0.25 for row in rows)


def test_weights_of_a_draw_by_hand() -> None:
    drawn = np.array([[2, 0, 2, 1], [1, 1, 1, 1]])
    first, second = gate_null.weights_of(drawn, 3)
    assert first.tolist() == [[1, 1, 2], [1, 1, 1], [0, 1, 2], [1, 1, 1], [1, 0, 2]]
    assert second.tolist() == [[0, 4, 0], *4 * [[0, 3, 0]]]


def test_alarms_are_counted_by_hand() -> None:
    groups = np.array([1.0, 2.0] * 5)  # error: sqrt(9 / 10 * 10 / 4) = 1.5, interval +- 4.23
    values = np.array([[9.0, *groups], [9.0, *groups], [9.0, *9.0 * np.ones(10)]])
    for name in ("kl", "relative_distance"):
        rate = gate_null.alarms(name, ">", {"final": values}, np.array([4.7, 4.8, 8.9]))
        assert rate == pytest.approx(2 / 3)
    far = {"block.1": values - 3, "final": values}
    assert gate_null.alarms("effective_rank", ">", far, np.array([4.1, 4.7, 8.9])) == 2 / 3


def test_shards_that_are_links_hold_the_rows_of_others(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, 60, 8, per_shard=1, length=10, written=2)
    rows = np.concatenate([block.values for block in run.blocks("final", dtype="stored")])
    assert np.array_equal(rows[:20], rows[40:])
    assert not np.array_equal(rows[:10], rows[10:20])


def test_rows_through_a_sink_are_those_of_the_pipeline(tmp_path: Path) -> None:
    template = np.random.default_rng(0).integers(0, 1 << 14, (40, 90)).astype(np.uint16)
    tiny = pipeline_cost.Setup(width=30, sites=3, lengths=(20, 20) * 4, shard_bytes=10_000)
    assert bars([*sink_cost.measure(tmp_path, [tiny], template, repeats=1)]) == [0.9]
    pipeline = pipeline_cost.Pipeline(tiny, template)
    stored = []
    with mock.patch.object(sink_cost, "scratch", return_value=nullcontext(tmp_path)):
        for side in (
            sink_cost.given(tmp_path, pipeline, tiny, template),
            sink_cost.captured(tmp_path, pipeline),
        ):
            side()
            (run,) = open_store(tmp_path / "store").runs.values()
            stored.append([storage.bfloat16_rows(run, site) for site in run.sites])
            shutil.rmtree(tmp_path / "store")
    np.testing.assert_array_equal(stored[0], stored[1])


def test_what_the_pipeline_stores_is_what_the_backend_gave(tmp_path: Path) -> None:
    template = np.random.default_rng(0).integers(0, 1 << 14, (50, 90)).astype(np.uint16)
    tiny = pipeline_cost.Setup(width=30, sites=3, lengths=(50, 50), shard_bytes=1)
    pipeline_cost.Pipeline(tiny, template).run(tmp_path / "store")
    (run,) = open_store(tmp_path / "store").runs.values()
    assert run.verify() == []
    for site, first in zip(run.sites, (0, 30, 60), strict=True):
        stored = storage.bfloat16_rows(run, site)
        assert np.array_equal(stored, np.tile(template[:, first : first + 30], (2, 1)))


@pytest.mark.slow
def test_every_stage_that_a_gpu_has_runs_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = {"shard_bytes": 200_000, "shards": 3, "repeats": 1}
    page = gpu.report("A card (CPU)", [gpu.TINY], "cpu", tmp_path / "cards", **size)
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 7
    assert {*lines} <= {*page.read_text("utf-8").splitlines()}
    assert re.fullmatch(r"a-card-cpu-\d{4}-\d\d-\d\d-speed\.md", page.name)
    document = json.loads(page.with_suffix(".json").read_text("utf-8"))
    assert set(document) == {"card", "date", "cores", "commit", "versions", "rows"}
    assert len(document["rows"]) == 6
    assert document["rows"][0]["times_forward"] == 1
    # results of tests lie beside it, and are no measurement
    card_results.write(page.parent, "A card (CPU)", "tests", {"passed": 3}, "")
    (_, _, line) = card_results.results_table(page.parent).splitlines()
    assert line.startswith("| A card (CPU), ")


@pytest.mark.slow
def test_what_a_capture_adds_on_a_card_stays_within_its_bars() -> None:
    """Counts, not times: a wait, a pageable copy or a kernel more is an error on any machine."""
    found = [*card_counts.measure()]
    assert [one.what for one in found if not one.reached] == []
    assert len(found) == 5


def test_a_stage_is_repeated_until_its_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([900.0, 25.0, 38.0, 1.0])  # the first does not count
    monkeypatch.setattr(gpu, "seconds", lambda call: (call(), next(times))[1])
    made: list[bool] = []

    def call() -> None:
        made.append((tmp_path / "files").exists())
        (tmp_path / "files").mkdir()

    assert gpu._median(call, None, 9, tmp_path / "files") == 31.5
    assert made == [False] * 3


def ran(*words: object, **changes: str) -> subprocess.CompletedProcess[str]:
    """A command in the repository. What is not installed here may be skipped, whatever the outer
    run says of skips.
    """
    env = {name: value for name, value in os.environ.items() if name != "LPP_NO_SKIP"}
    return subprocess.run(
        [*map(str, words)],
        cwd=Path(gpu.__file__).parents[1],
        env={**env, **changes},
        capture_output=True,
        text=True,
        check=False,
    )


def results(done: subprocess.CompletedProcess[str]) -> tuple[dict[str, Any], str]:
    """The results that a command wrote, and their page."""
    (page,) = re.findall(r"Written: (\S+\.md)", done.stdout)
    assert Path(page).parts[-3:-1] == ("build", "cards")  # of a CPU: nothing to commit
    document = json.loads(Path(page).with_suffix(".json").read_text("utf-8"))
    return document, Path(page).read_text("utf-8")


PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "benchmarks.card_tests")


@pytest.mark.slow
def test_without_its_device_no_card_is_measured() -> None:
    """And none is tested: every test would be skipped."""
    for words in (
        (sys.executable, "-m", "benchmarks.gpu"),
        (*PYTEST, "-m", "gpu", "tests/capture/gpu"),
    ):
        done = ran(*words, LPP_TESTS_ON="cuda", CUDA_VISIBLE_DEVICES="")
        assert done.returncode == 2, done.stdout
        assert "--device cuda" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("what", ["tests", "speed"])
def test_one_command_ends_with_a_page_of_results(what: str, tmp_path: Path) -> None:
    """What make runs on a card runs on a CPU, in this environment."""
    venv = tmp_path / "venv"
    venv.symlink_to(sys.prefix, target_is_directory=True)
    done = ran(
        *("make", {"tests": "test-gpu", "speed": "bench-gpu"}[what], f"GPU_VENV={venv}"),
        *("-o", venv / ".lpp-env"),  # made already
        LPP_TESTS_ON="cpu",
        PYTEST_ADDOPTS="-k 'not TestTorch' -p no:cacheprovider",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document, page = results(done)
    assert document["card"] == "CPU"
    if what == "tests":
        assert (document["failed"], document["error"], document["failures"]) == (0, 0, [])
        assert document["passed"] > 5
        assert f"| {document['passed']} | 0 | 0 | {document['skipped']} |" in page
    else:
        assert document["rows"][0]["model"] in page


@pytest.mark.slow
def test_a_page_names_the_tests_that_failed(tmp_path: Path) -> None:
    (tmp_path / "test_three.py").write_text(
        "import pytest\n"
        "def test_right(): pass\n"
        "def test_wrong(): assert 0\n"
        "def test_absent(): pytest.skip('needs seven cards')\n"
    )
    done = ran(*PYTEST, "-c", os.devnull, "--rootdir", tmp_path, tmp_path, LPP_TESTS_ON="cpu")
    document, page = results(done)
    counts = [document[name] for name in ("passed", "failed", "error", "skipped")]
    assert counts == [1, 1, 0, 1]
    assert document["reasons"] == ["needs seven cards"]
    assert [name.partition("::")[2] for name in document["failures"]] == ["test_wrong"]
    assert "test_wrong" in page
    assert "needs seven cards" in page


@pytest.mark.slow
def test_both_procedures_end_with_the_same_profile(tmp_path: Path) -> None:
    ready = prepared(2, context=40, sites=("final",), logit_positions="schedule")
    ours = paper_procedure.one_pass(ready, tmp_path / "store")
    theirs = paper_procedure.published(ready)
    assert len(ours) == 10
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(plain, abs=0.02)  # bfloat16 rounds by the batch


def test_a_ratio_knows_its_bar() -> None:
    row = pairs.ratio_of_times("x", ([2.0, 3.0], [1.0, 2.0]), bar=2)
    assert (row.ratio, row.spread, row.reached) == (1.75, (1.5, 2.0), True)
    gain = pairs.ratio_of_times(
        "x", ([2.0, 3.0], [1.0, 2.0]), bar=2, direction="at least", inverted=True
    )
    assert gain.reached is False


def test_whoever_went_second_goes_first_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "WARM_UP", True)
    ran: list[str] = []
    mine, theirs = pairs.timed_pairs(
        lambda: ran.append("a"), lambda: ran.append("b"), 3, clock=lambda: float(len(ran))
    )
    assert ran == [*"ab", *"ab", *"ba", *"ab"]  # the first pair does not count
    assert mine == theirs == [1.0, 1.0, 1.0]


C = scaling.Constants()
M = scaling.Model(name="hand", parameters=1e9, width=1000, sites=2)


def test_bytes_of_rows_by_hand() -> None:
    assert scaling.row_bytes(C, M, 100) == pytest.approx(100 * 2 * 1000 * 2 / 1.46)


def test_more_cards_share_what_is_theirs_and_not_the_bucket() -> None:
    one, many = (scaling.capture_stages(C, M, n, "bucket") for n in (8, 1000))
    assert many["forward"] == pytest.approx(one["forward"] * 8 / 1000)
    assert many["network"] == pytest.approx(one["network"] * 8 / 1000)
    assert many["bucket"] == one["bucket"]
    assert scaling.first_to_saturate(many)[0] == "bucket"


def test_the_slowest_stage_sets_the_pace_of_rows_by_hand() -> None:
    stages = scaling.capture_stages(C, M, 1, "disk")
    assert stages == pytest.approx(
        {
            "forward": 2e9 / C.forward,
            "copy": 4000 / C.lanes,
            "encoding": 4000 / (C.encode * 4),  # two sites of two shards: four encoders of sixteen
            "disk": 4000 / 1.46 / C.disk,
        }
    )
    assert scaling.seconds_per_token(stages) == stages["forward"]
    few = scaling.capture_stages(replace(C, cores=1), M, 1, "disk")
    assert scaling.first_to_saturate(few)[0] == "encoding"


def test_memory_of_rows_on_the_host_by_hand() -> None:
    assert scaling.host_bytes(8) == 8 * 3 * (2 << 30)


def test_analysis_is_linear_in_rows_and_cores_but_for_solves() -> None:
    few, many = (scaling.analysis_seconds(C, rows=n, width=64) for n in (1e4, 1e6))
    assert many["products"] == pytest.approx(100 * few["products"])
    assert many["solves"] == few["solves"] == pytest.approx(10 * 64**3 / C.solve)
    for spare in (0.5, 1.0):
        ahead = scaling.analysis_seconds(replace(C, spare=spare), rows=1e6, width=64)
        assert ahead["reading"] == pytest.approx(
            max(0.0, many["reading"] - spare * many["products"])
        )


def test_the_tables_of_the_page_are_the_simulators() -> None:
    page = Path(scaling.__file__).with_name("SCALING.md").read_text()
    for line in scaling.tables(C):
        assert line in page
