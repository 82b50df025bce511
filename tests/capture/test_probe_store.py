"""Scores of several tasks and models in one source: what is replaced, refused and kept."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from golden_stores import OF_3, golden_3

from lpp.capture.evaluation import score_source
from lpp.capture.evaluation.score_source import keep_scores
from lpp.capture.evaluation.scores import (
    PROBE_KIND,
    EvalScore,
    TaskResult,
    keep_result,
    probe_source,
    run_of_profile,
    scored_name,
)
from lpp.store import Store, create_store, open_store, read_scores
from lpp.store.errors import ConflictError, ErrorKind
from lpp.store.scores.scores import add_scores, score_sets

SOURCE = "lpp-probes-1 10-shot"
RUN = golden_3()[OF_3]
MODEL = replace(RUN.plan.model, id="lab/tiny", source="hub", untrained_seed=None)


def result(
    task: str, value: float, time: str = "t1", *, model: str = "lab/tiny", weights: str = "f00d"
) -> TaskResult:
    source = "hub" if "/" in model else "folder"
    info = replace(MODEL, id=model, source=source, weights=weights)  # type: ignore[arg-type]
    name = scored_name(info, None)
    scores = (EvalScore(task=task, metric="answer_acc,none", value=value, stderr=0.03, n=80),)
    return TaskResult(
        task=task,
        source=SOURCE,
        kind=PROBE_KIND,
        model=name,
        info=info,
        run="tiny-1a2b3c4d",
        scores=scores,
        files={f"{task}/{name.replace('/', '__')}/results_{time}.json": time.encode()},
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "store")


def held(store: Store) -> dict[tuple[str, str], float]:
    rows = read_scores(store.path).to_pylist()
    return {(row["model"], row["benchmark"]): row["value"] for row in rows}


def files(store: Store) -> set[str]:
    (only,) = score_sets(store.path)
    return {name for name in only.original() if name.endswith(".json")}


def keep(store: Store, *results: TaskResult, replace: bool = False) -> list[bool]:
    return [keep_result(store, one, replace=replace) for one in results]


def test_a_score_becomes_a_row(store: Store) -> None:
    assert keep(store, result("lpp_ar_options", 0.75)) == [True]
    assert read_scores(store.path).to_pylist() == [
        {
            "model": "lab/tiny",
            "run": "tiny-1a2b3c4d",
            "benchmark": "lpp_ar_options",
            "metric": "answer_acc,none",
            "value": 0.75,
            "stderr": 0.03,
            "n": 80,
            "source": SOURCE,
            "kind": "probe",
        }
    ]


def test_models_and_tasks_share_a_source(store: Store) -> None:
    keep(store, result("lpp_ar_options", 0.75), result("lpp_spc", 0.25))
    keep(store, result("lpp_ar_options", 0.5, model="lab/big", weights="beef"))
    assert held(store) == {
        ("lab/tiny", "lpp_ar_options"): 0.75,
        ("lab/tiny", "lpp_spc"): 0.25,
        ("lab/big", "lpp_ar_options"): 0.5,
    }
    assert files(store) == {
        "lpp_ar_options/lab__tiny/results_t1.json",
        "lpp_spc/lab__tiny/results_t1.json",
        "lpp_ar_options/lab__big/results_t1.json",
    }
    assert all(found.problems() == [] for found in score_sets(store.path))


def test_a_task_asked_again_takes_its_old_place_alone(store: Store) -> None:
    keep(store, result("lpp_ar_options", 0.75), result("lpp_spc", 0.25))
    again = result("lpp_ar_options", 0.625, "t2")
    with pytest.raises(ConflictError, match="--replace") as caught:
        keep(store, again)
    assert caught.value.kind is ErrorKind.PLAN_DIFFERS
    assert keep(store, again, replace=True) == [True]
    assert held(store) == {("lab/tiny", "lpp_ar_options"): 0.625, ("lab/tiny", "lpp_spc"): 0.25}
    assert files(store) == {
        "lpp_ar_options/lab__tiny/results_t2.json",
        "lpp_spc/lab__tiny/results_t1.json",
    }
    assert keep(store, again) == [False]


def test_folders_of_one_name_have_scores_of_their_own(store: Store) -> None:
    keep(
        store,
        result("lpp_spc", 0.5, model="final", weights="aaaa1111bbbb"),
        result("lpp_spc", 0.75, model="final", weights="cccc2222dddd"),
    )
    assert held(store) == {
        ("final@aaaa1111", "lpp_spc"): 0.5,
        ("final@cccc2222", "lpp_spc"): 0.75,
    }


def earlier_row(model: str, run: str | None, value: float) -> dict[str, object]:
    """As earlier releases kept it: a folder goes by its name alone."""
    row = {"model": model, "run": run, "benchmark": "lpp_spc", "metric": "answer_acc,none"}
    return row | {"value": value, "stderr": 0.03, "n": 80, "source": SOURCE, "kind": "probe"}


def earlier(store: Store, rows: Sequence[dict[str, object]]) -> None:
    keep_scores(store.path, SOURCE, rows, {"spc/old/results_t0.json": b"{}"}, lambda _: False)


@pytest.mark.parametrize(("value", "weights_match"), [(0.5, True), (0.25, True), (0.25, False)])
def test_earlier_scores_of_the_same_weights_are_this_model_s(
    tmp_path: Path, value: float, weights_match: bool
) -> None:
    """A row of the bare name says by its run which of the folders of this name it is of."""
    import shutil

    root = create_store(tmp_path / "store").path
    shutil.copytree(str(RUN.path), tmp_path / "store" / "runs" / RUN.id)
    store = open_store(root)
    (run,) = store.runs.values()
    earlier(store, [earlier_row("final", run.id, 0.5), earlier_row("other", None, 0.125)])
    weights = run.plan.model.weights if weights_match else "0" * 64
    found = result("lpp_spc", value, model="final", weights=weights)
    info = replace(found.info, untrained_seed=run.plan.model.untrained_seed)
    found = replace(found, info=info)
    if weights_match and value != 0.5:
        with pytest.raises(ConflictError):
            keep(store, found)
    keep(store, found, replace=value != 0.5)
    expected = {("other", "lpp_spc"): 0.125, (found.model, "lpp_spc"): value}
    if not weights_match:
        expected["final", "lpp_spc"] = 0.5
    assert held(store) == expected


def test_models_may_be_added_at_once(store: Store) -> None:
    models = [f"lab/m{i}" for i in range(4)]

    def add(model: str) -> None:
        keep(store, result("lpp_spc", 0.5 + 0.01 * int(model[-1]), model=model))

    with ThreadPoolExecutor(len(models)) as pool:
        list(pool.map(add, models))
    assert held(store) == {(m, "lpp_spc"): 0.5 + 0.01 * i for i, m in enumerate(models)}
    assert files(store) == {f"lpp_spc/lab__m{i}/results_t1.json" for i in range(4)}


def test_scores_that_another_adds_between_two_readings_are_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(store, result("lpp_spc", 0.25, model="lab/old"))
    met: list[bool] = []

    def late(*arguments: Any, **options: Any) -> bool:
        if not met:  # a whole other evaluation, after this one has read and before it writes
            met.append(True)
            keep(store, result("lpp_spc", 0.5, model="lab/one"))
        return add_scores(*arguments, **options)

    monkeypatch.setattr(score_source, "add_scores", late)
    keep(store, result("lpp_spc", 0.75, model="lab/two"))
    assert held(store) == {
        ("lab/old", "lpp_spc"): 0.25,
        ("lab/one", "lpp_spc"): 0.5,
        ("lab/two", "lpp_spc"): 0.75,
    }


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "lpp-probes-1 10-shot"),
        ({"shots": 2, "chat": True}, "lpp-probes-1 2-shot chat"),
        ({"limit": 20}, "lpp-probes-1 10-shot first-20"),
        ({"version": 2}, "lpp-probes-2 10-shot"),
    ],
)
def test_what_changes_the_questions_is_in_the_source_s_name(
    changes: dict[str, object], name: str
) -> None:
    settings = {"version": 1, "shots": 10, "chat": False, "limit": None, **changes}
    assert probe_source("lpp-probes", **settings) == name  # type: ignore[arg-type]


def test_a_run_is_of_a_model_with_the_same_weights() -> None:
    runs = {RUN.id: RUN}
    captured = RUN.plan.model  # an untrained twin
    assert run_of_profile(runs, captured, "own") == RUN.id
    assert run_of_profile(runs, replace(captured, untrained_seed=None), "own") == "own"
    assert run_of_profile(runs, replace(captured, weights="0"), None) is None
    twice = {"a": RUN, "b": RUN}
    assert run_of_profile(twice, captured, "own") is None
