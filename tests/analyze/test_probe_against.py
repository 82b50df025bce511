"""A probe on another run: each verdict on planted changes, transfer, the gate, the direction."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from result_frames import check_frames, check_printed

from lpp.analyze import (
    LabelProbeSettings,
    ProbeTestSettings,
    probe,
    probe_against,
    write_direction,
    write_probe_tests,
)
from lpp.analyze.cli.command import main
from lpp.analyze.numerics.linear_probe import cross_fit, fit, label_folds
from lpp.analyze.numerics.probe_change import (
    ALL,
    ProbeChange,
    carried_scores,
    change_verdict,
    probe_change,
)
from lpp.analyze.tables.database import read_table
from lpp.sql import connect
from lpp.store import sink
from lpp.store.errors import InputError
from lpp.store.exchange.tensor_file import read_with_metadata

N, D = 400, 6
WORDS = ("news", "sport")
Move = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
MOVES: dict[str, Move] = {
    "a": lambda rows, topic, rng: rows,
    "same": lambda rows, topic, rng: rows + 0.02 * rng.normal(size=rows.shape),
    "shifted": lambda rows, topic, rng: rows + 1.5 * (np.arange(D) == 0),
    "worse": lambda rows, topic, rng: rows + 4 * rng.normal(size=rows.shape),
    "noisier": lambda rows, topic, rng: rows + 0.7 * rng.normal(size=rows.shape),
    "moved": lambda rows, topic, rng: (
        rows + 0.8 * rng.normal(size=rows.shape) + 1.5 * (np.arange(D) == 0)
    ),
}
"""What each run's rows are, of those of `a`."""


def write(root: Path, name: str, seed: int, count: int = N, width: int = D) -> None:
    """A run whose `b` knows `topic` in its first column; `late` swaps the columns."""
    rng = np.random.default_rng(seed)
    topic, tokens = (rng.random(N) < 0.5).astype(int), rng.integers(0, 90, (N, 6))
    rows = rng.normal(size=(N, D))
    rows[:, 0] += 2 * topic
    moved = MOVES[name](rows, topic, np.random.default_rng(9)).astype(np.float32)
    prompts: list[dict[str, Any]] = [
        {
            "input_ids": tokens[k].tolist(),
            "topic": WORDS[topic[k]],
            "kind": WORDS[topic[k]],
            "other": "yn"[topic[k]],
            "number": float(k),
            "doc": k // 4,
        }
        for k in range(count)
    ]
    sites = {"b": width, "late": width}
    with sink(root, model=f"tiny/{name}", sites=sites, prompts=prompts) as rows_of:
        for prompt in rows_of.missing():
            values = np.zeros((6, width), np.float32)
            values[-1, :D] = moved[prompt.number]
            rows_of.put(prompt.number, {"b": values, "late": values[:, ::-1]})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("against") / "store"
    for name in MOVES:
        write(root, name, 1)
    write(root.parent / "elsewhere", "a", 2)
    write(root.parent / "few", "same", 1, count=300)
    write(root.parent / "wide", "same", 1, width=D + 1)
    return root


def invoke(store: Path, *options: str) -> Any:
    return CliRunner().invoke(main, ["probe", str(store), "a", "--label", "topic", *options])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("b", "expected"),
    [
        ("a", "PASS"),
        ("same", "PASS"),
        ("shifted", "THRESHOLD STALE"),
        ("worse", "SCORER DEGRADED"),
        ("noisier", "INCONCLUSIVE"),
        ("moved", "NOT SERVING"),
    ],
)
def test_each_verdict_comes_where_its_change_is_planted(store: Path, b: str, expected: str) -> None:
    found = probe_against(store, "topic", ("a", b))
    assert [site.site for site in found.sites] == ["b", "late"]
    best = found.best
    assert (best.verdict, best.rerun, found.lost.share) == (expected, None, 0)
    assert best.number.value == pytest.approx(probe(store, "topic", "a").best.number.value)
    assert best.tested.value - best.number.value == pytest.approx(best.change.auroc.value, abs=1e-6)
    if b == "a":
        assert best.change.auroc.value == best.change.flagged.difference == 0
    if b == "shifted":
        assert best.change.probe.false_alarms > best.change.reference.false_alarms + 0.2


def test_tests_have_the_rows_of_the_database_as_frames(store: Path) -> None:
    found = probe_against(store, "topic", ("a", "noisier"), LabelProbeSettings(seed=7))
    write_probe_tests(found)
    check_frames(found, store)
    check_printed(found, "probe_tests", "probe", "probe_auroc")


def change(auroc: tuple[float, float], flagged: tuple[float, float]) -> ProbeChange:
    """A change of which the intervals alone count."""
    labels = np.tile([0.0, 1.0], 20)
    made = probe_change(labels - 0.5, labels - 0.5, labels, np.zeros(40, int), np.arange(40))
    assert made is not None
    object.__setattr__(made.auroc, "interval", auroc)
    object.__setattr__(made.flagged, "interval", flagged)
    return made


@pytest.mark.parametrize(
    ("auroc", "flagged", "rerun", "expected"),
    [
        ((-0.04, 0.2), (-0.04, 0.04), None, "PASS"),
        ((-0.04, 0.2), (-0.04, 0.06), None, "INCONCLUSIVE"),
        ((-0.04, 0.2), (0.04, 0.2), None, "INCONCLUSIVE"),
        ((-0.04, 0.2), (0.06, 0.2), None, "THRESHOLD STALE"),
        ((-0.04, 0.2), (-0.2, -0.06), None, "THRESHOLD STALE"),
        ((-0.06, 0.0), (0.06, 0.2), None, "NOT SERVING"),
        ((-0.06, 0.0), (-0.2, -0.06), None, "NOT SERVING"),
        ((-0.06, 0.0), (0.04, 0.2), None, "INCONCLUSIVE"),
        ((-0.06, 0.0), (0.06, 0.2), ((0.0, 0.0), (0.0, 0.07)), "INCONCLUSIVE"),
        ((-0.3, -0.06), (0.06, 0.2), None, "SCORER DEGRADED"),
        ((-0.3, -0.04), (0.0, 0.0), None, "INCONCLUSIVE"),
        ((-0.3, -0.06), (0.0, 0.0), ((-0.07, 0.0), (0.0, 0.0)), "INCONCLUSIVE"),
        ((0.0, 0.0), (0.06, 0.2), ((0.0, 0.0), (0.0, 0.07)), "INCONCLUSIVE"),
        ((0.0, 0.0), (0.0, 0.0), ((-0.3, 0.3), (-0.3, 0.3)), "PASS"),
    ],
)
def test_verdicts_of_intervals_at_a_margin_of_a_twentieth(
    auroc: Any, flagged: Any, rerun: Any, expected: str
) -> None:
    floor = None if rerun is None else change(*rerun)
    assert change_verdict(change(auroc, flagged), 0.05, floor) == expected


def test_scores_are_of_probes_that_did_not_see_the_item() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(90) < 0.5).astype(float)
    rows = rng.normal(size=(90, 4)) + labels[:, None]
    fold = label_folds(labels.astype(int), np.arange(90), 3)
    fitted = cross_fit(rows, labels, fold, classes=True)
    everywhere = np.full(90, ALL)
    own, every = carried_scores(
        rows, labels, fold, fitted.strengths, [(rows, fold), (rows, everywhere)]
    )
    np.testing.assert_allclose(own, fitted.scores, atol=1e-6)
    whole = fit(rows, labels, sorted(fitted.strengths)[1], classes=True)
    np.testing.assert_allclose(every, rows @ whole.weights + whole.intercept)


@pytest.mark.slow
def test_a_rerun_is_a_floor_that_the_page_names(store: Path) -> None:
    done = invoke(store, "--against", "shifted", "--rerun", "shifted", "--sites", "b")
    assert "INCONCLUSIVE: the probe of topic at b" in " ".join(done.stdout.split()), done.output
    assert "A rerun changes the AUROC by up to" in done.stdout
    assert "not compared with a rerun" in invoke(store, "--against", "same").stdout


@pytest.mark.slow
def test_prompts_that_b_lacks_decide_nothing(store: Path) -> None:
    few = f"{store.parent / 'few'}::*"
    done = invoke(store, "--against", few, "--fail-if", "probe_auroc_change < -0.5")
    assert done.exit_code == 1
    assert "100 labelled prompts of A are not in B" in done.stdout
    assert "100 of the 400 prompts of A take no part" in " ".join(done.stdout.split())
    allowed = ("--fail-if", "probe_auroc_change < -0.5", "--allow-missing", "0.3")
    assert invoke(store, "--against", few, *allowed).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("b", "condition", "code"),
    [
        ("same", "degraded", 0),
        ("worse", "degraded", 1),
        ("worse", "stale", 0),
        ("shifted", "stale", 1),
        ("noisier", "inconclusive", 1),
        ("noisier", "stale", 0),
        ("moved", "degraded", 1),
        ("moved", "stale", 1),
        ("moved", "inconclusive", 1),
        ("worse", "probe_auroc_change < -0.1", 1),
        ("worse", "probe_auroc_change.b < -0.1", 1),
        ("same", "probe_auroc_change < -0.1", 0),
        ("shifted", "probe_flagged_change.b > 0.05", 1),
        ("same", "missing > 0", 0),
        ("same", "kl.mean > 1", 2),
        ("same", "probe_auroc_change.x < -0.1", 2),
    ],
)
def test_the_gate_fails_for_a_verdict_or_a_number(
    store: Path, b: str, condition: str, code: int
) -> None:
    done = invoke(store, "--against", b, "--fail-if", condition, "--format", "json")
    assert done.exit_code == code, done.output
    if code < 2:
        assert json.loads(done.stdout)["tables"]["probe_tests"]


@pytest.mark.slow
def test_equal_prompts_pair_by_place(tmp_path: Path) -> None:
    """Sixty prompts, each of them twice, with other labels and rows: a probe of A on the rows of A
    is the probe itself, and nothing is missing.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 120)
    rows = rng.normal(size=(120, D)) + 2 * labels[:, None] * (np.arange(D) == 0)
    for name, count in (("a", 120), ("b", 120), ("few", 100)):
        prompts = [{"input_ids": [k % 60, 1], "label": int(labels[k])} for k in range(count)]
        with sink(tmp_path / "s", model=f"tiny/{name}", sites={"b": D}, prompts=prompts) as into:
            for prompt in into.missing():
                into.put(
                    prompt.number, {"b": np.stack([rows[prompt.number]] * 2).astype(np.float32)}
                )
    found = probe_against(tmp_path / "s", "label", ("a", "b"))
    np.testing.assert_array_equal(found.tested.place, np.arange(120))
    assert (found.lost.n_missing, found.best.change.auroc.value) == (0, 0)
    few = probe_against(tmp_path / "s", "label", ("a", "few"))
    np.testing.assert_array_equal(few.tested.place, np.arange(100))
    assert few.lost.n_missing == 20
    more = probe_against(tmp_path / "s", "label", ("few", "b"))
    np.testing.assert_array_equal(more.tested.prompts, np.arange(100))
    frame = found.tests_frame()
    assert "duplicates" in frame["flags"][0].to_list()
    refused = CliRunner().invoke(
        main, ["probe", str(tmp_path / "s"), "few", "--label", "label", "--test-on", "b"]
    )
    assert "120 labelled prompts of 120 are in both runs" in " ".join(refused.stderr.split())


def test_diff_refuses_numbers_of_probes(store: Path) -> None:
    limit = ("--fail-if", "probe_auroc_change < 0")
    done = CliRunner().invoke(main, ["diff", str(store), "a", "same", *limit])
    assert done.exit_code == 2
    assert "a number of `lpp-analyze probe --against`" in done.stderr


@pytest.mark.slow
def test_a_probe_is_tested_on_other_prompts_with_their_own_labels(store: Path) -> None:
    other = f"{store.parent / 'elsewhere'}::a"
    found = probe_against(store, "topic", ("a", other), own_labels=True)
    best = found.best
    assert (found.n_shared, len(found.tested.prompts), set(found.tested.fold)) == (0, N, {ALL})
    assert best.tested.value > 0.9
    assert best.verdict in {"PASS", "INCONCLUSIVE"}
    crossed = ProbeTestSettings(site_pairs={"b": "late"})
    moved = probe_against(store, "topic", ("a", other), tests=crossed, own_labels=True)
    assert moved.best.site_b == "late"
    assert moved.best.tested.value < 0.7  # the direction lies in another column there
    assert moved.best.verdict == "SCORER DEGRADED"
    field = ProbeTestSettings(test_label="kind")
    renamed = probe_against(store, "topic", ("a", other), tests=field, own_labels=True)
    assert renamed.best.tested.value == best.tested.value


def test_prompts_of_both_runs_are_refused_left_out_or_the_purpose(store: Path) -> None:
    done = invoke(store, "--test-on", "same")
    assert done.exit_code == 2
    assert "400 labelled prompts of 400 are in both runs" in done.stderr
    assert (
        "of both classes"
        in invoke(store, "--test-on", "same", "--shared-prompts", "leave-out").stderr
    )
    only = ProbeTestSettings(shared_prompts="only", site_pairs={"b": "b"})
    found = probe_against(store, "topic", ("a", "a"), tests=only, own_labels=True)
    np.testing.assert_array_equal(found.tested.fold, found.labels.target.fold)
    assert found.best.tested.value == pytest.approx(found.best.number.value, abs=1e-6)
    rest = ProbeTestSettings(shared_prompts="leave-out")
    left = probe_against(
        store.parent / "few", "topic", (None, f"{store}::a"), tests=rest, own_labels=True
    )
    assert (left.n_shared, len(left.tested.prompts)) == (300, 100)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--against", "{root}/elsewhere::a"), "no labelled prompt of"),
        (("--against", "{root}/wide::*"), "no probe reads both"),
        (("--against", "same", "--site-pair", "b=c"), "no site 'c'"),
        (("--against", "same", "--rerun", "a"), "that is the run itself"),
        (("--test-on", "{root}/elsewhere::a", "--test-label", "other"), "Say which one"),
        (("--test-on", "{root}/elsewhere::a", "--test-label", "number"), "two classes"),
        (("--against", "same", "--test-on", "same"), "give one of them"),
        (("--against", "same", "--shared-prompts", "only"), "goes with --test-on"),
        (
            (
                "--fail-if",
                "stale",
            ),
            "goes with --against or --test-on",
        ),
        (("--direction", "{root}/none/x"), "its folder does not exist"),
        (("--direction", "{root}/store"), "exists already"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_reason(
    store: Path, options: tuple[str, ...], words: str
) -> None:
    done = invoke(store, *(text.format(root=store.parent) for text in options))
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_direction_appears_when_it_is_whole(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr("lpp.analyze.probes.direction.write_tensors", half)
        done = invoke(store, "--direction", str(tmp_path / "d.safetensors"))
    assert done.exit_code == 2
    assert [*tmp_path.iterdir()] == []
    done = invoke(store, "--direction", str(tmp_path / "d.safetensors"))
    assert done.exit_code == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["d.safetensors"]


@pytest.mark.slow
def test_the_table_of_the_database(store: Path) -> None:
    for b in ("same", "worse", "worse"):
        done = invoke(store, "--against", b, "--cluster", "doc")
        assert done.exit_code == 0, done.stderr
    rows = read_table(store, "probe_tests").filter(cluster_field="doc")
    assert rows.height == 4
    with connect(store) as connection:
        statement = (
            "SELECT verdict FROM probe_tests WHERE probe = 'b' AND cluster_field > '' ORDER BY 1"
        )
        assert connection.execute(statement).fetchall() == [("PASS",), ("SCORER DEGRADED",)]


def test_the_direction_of_a_site_is_a_file(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "topic.safetensors"
    found = probe(store, "topic", "a", LabelProbeSettings(sites=["b"]))
    write_direction(found, file)
    tensors, metadata = read_with_metadata(file)
    t = {name: tensor.values.astype(np.float64) for name, tensor in tensors.items()}
    assert (metadata["site"], json.loads(metadata["classes"])) == ("b", ["news", "sport"])
    rows = np.concatenate([b.values[b.position == 5] for b in found.view.run.blocks("b")])
    y = found.labels.target.labels
    standard = (rows - t["mean"]) / t["scale"]
    scores = standard @ t["weight"] + t["bias"]
    whole = fit(rows, y, sorted(found.best.fitted.strengths)[2], classes=True)
    np.testing.assert_allclose(scores, rows @ whole.weights + whole.intercept, atol=1e-5)
    means = [rows[y == label].mean(axis=0) for label in (0, 1)]
    np.testing.assert_allclose(t["difference_of_means"], means[1] - means[0], atol=1e-5)
    by_means = standard @ (t["difference_of_means"] / t["scale"])
    assert ((by_means > t["difference_threshold"]) == (y > 0)).mean() > 0.8
    with pytest.raises(InputError, match="exists already"):
        write_direction(found, file)
