"""Where the scores of the probes go, and what is refused."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lpp.capture.evaluation import score_source
from lpp.capture.models.spec import ModelSpec
from lpp.capture.probes.items import Probe
from lpp.capture.probes.model import ProbedModel, ProbeRequest
from lpp.capture.probes.scoring import ProbeResult, ProbeScore
from lpp.capture.probes.store import keep, matching_run, refuse_second, source_name
from lpp.store import Store, create_store, open_store, read_scores
from lpp.store.errors import ConflictError, ErrorKind, InputError
from lpp.store.scores import score_sets

GOLDEN = Path(__file__).resolve().parents[1] / "store" / "golden" / "v1"
SOURCE = "lpp-probes-1 10-shot"


def request(**changes: object) -> ProbeRequest:
    return ProbeRequest(model=ModelSpec(id="lab/tiny"), **changes)  # type: ignore[arg-type]


def subject(model: str = "lab/tiny", weights: str = "f00d") -> ProbedModel:
    return ProbedModel(id=model, weights=weights, lm=None, arguments={})


def result(probe: Probe, value: float, time: str, model: str = "lab__tiny") -> ProbeResult:
    task = {"ar": "lpp_ar_options", "spc": "lpp_spc"}[probe]
    score = ProbeScore(
        task=task, metric="answer_acc,none", value=value, stderr=0.03, n=80, clusters=40
    )
    file = f"{probe}/{model}/results_{time}.json"
    return ProbeResult(probe=probe, scores=(score,), file=file, document=b"{%s}" % time.encode())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "store")


def held(store: Store) -> dict[tuple[str, str], float]:
    rows = read_scores(store.path).to_pylist()
    return {(row["model"], row["benchmark"]): row["value"] for row in rows}


def files(store: Store) -> set[str]:
    (only,) = score_sets(store.path)
    return {name for name in only.original() if name.endswith(".json")}


def test_a_score_becomes_a_row(store: Store) -> None:
    keep(store, SOURCE, [result("ar", 0.75, "t1")], subject(), "tiny-1a2b3c4d")
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
    assert files(store) == {"ar/lab__tiny/results_t1.json"}


def test_models_and_probes_share_a_source(store: Store) -> None:
    keep(store, SOURCE, [result("ar", 0.75, "t1")], subject(), None)
    keep(store, SOURCE, [result("spc", 0.25, "t2")], subject(), None)
    keep(store, SOURCE, [result("ar", 0.5, "t3", "big")], subject("big", "beef"), None)
    assert held(store) == {
        ("lab/tiny", "lpp_ar_options"): 0.75,
        ("lab/tiny", "lpp_spc"): 0.25,
        ("big", "lpp_ar_options"): 0.5,
    }
    assert files(store) == {
        "ar/lab__tiny/results_t1.json",
        "spc/lab__tiny/results_t2.json",
        "ar/big/results_t3.json",
    }
    assert all(found.problems() == [] for found in score_sets(store.path))


def test_a_model_asked_again_takes_its_old_place(store: Store) -> None:
    keep(store, SOURCE, [result("ar", 0.75, "t1"), result("spc", 0.25, "t1")], subject(), None)
    keep(store, SOURCE, [result("ar", 0.625, "t2")], subject(), None)
    assert held(store) == {("lab/tiny", "lpp_ar_options"): 0.625, ("lab/tiny", "lpp_spc"): 0.25}
    assert files(store) == {"ar/lab__tiny/results_t2.json", "spc/lab__tiny/results_t1.json"}


def test_models_may_be_added_at_once(store: Store) -> None:
    models = [f"lab/m{i}" for i in range(4)]

    def add(model: str) -> None:
        scores = result("ar", 0.5 + 0.01 * int(model[-1]), "t1", model.replace("/", "__"))
        keep(store, SOURCE, [scores], subject(model), None)

    with ThreadPoolExecutor(len(models)) as pool:
        list(pool.map(add, models))
    assert held(store) == {(m, "lpp_ar_options"): 0.5 + 0.01 * i for i, m in enumerate(models)}
    assert files(store) == {f"ar/lab__m{i}/results_t1.json" for i in range(4)}


def test_a_second_score_is_refused_before_it_is_made(store: Store) -> None:
    keep(store, SOURCE, [result("ar", 0.75, "t1")], subject(), None)
    refuse_second(store.path, SOURCE, "lab/tiny", request(probes=("spc",)))
    refuse_second(store.path, SOURCE, "big", request())
    refuse_second(store.path, "another", "lab/tiny", request())
    with pytest.raises(ConflictError, match=r"lpp_ar already .*--replace") as caught:
        refuse_second(store.path, SOURCE, "lab/tiny", request(probes=("spc", "ar")))
    assert caught.value.kind is ErrorKind.PLAN_DIFFERS


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "lpp-probes-1 10-shot"),
        ({"backend": "vllm", "batch_size": 1, "probes": ("ar",)}, "lpp-probes-1 10-shot"),
        ({"shots": 2, "chat": True}, "lpp-probes-1 2-shot chat"),
        ({"limit": 20, "item_seed": 7}, "lpp-probes-1 10-shot first-20 seed-7"),
    ],
)
def test_what_changes_the_questions_is_in_the_source_s_name(
    changes: dict[str, object], name: str
) -> None:
    assert source_name(request(**changes)) == name


def test_a_run_is_matched_by_its_weights(store: Store) -> None:
    golden = open_store(GOLDEN)
    (run,) = golden.runs.values()
    untrained = subject(weights=run.plan.model.weights)  # the golden run is an untrained twin
    assert matching_run(golden.runs, untrained, None)[0] is None
    run_id, why = matching_run(store.runs, subject(), None)
    assert run_id is None
    assert why == "no run of this store captured lab/tiny"


def test_a_run_that_is_none_of_this_model_is_refused() -> None:
    with pytest.raises(InputError, match="has no run x of lab/tiny; of this model it has none"):
        matching_run(open_store(GOLDEN).runs, subject(), "x")


def test_scores_that_another_adds_between_two_readings_are_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(store, SOURCE, [result("spc", 0.25, "t0", "old")], subject("old", "aa"), None)
    write, met = score_source.add_scores, []

    def late(*arguments: object, **options: object) -> bool:
        if not met:  # a whole other probe, after this one has read and before it writes
            met.append(True)
            keep(store, SOURCE, [result("spc", 0.5, "t1", "one")], subject("one", "bb"), None)
        return write(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(score_source, "add_scores", late)
    keep(store, SOURCE, [result("spc", 0.75, "t2", "two")], subject("two", "cc"), None)
    assert held(store) == {
        ("old", "lpp_spc"): 0.25,
        ("one", "lpp_spc"): 0.5,
        ("two", "lpp_spc"): 0.75,
    }
