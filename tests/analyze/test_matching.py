"""Names of a source and runs of a store."""

import polars as pl
import pytest

from lpp.analyze.scores.matching import RunName, match_names, match_scores

RUNS = [
    RunName(id="qwen2-5-3b-1", model="Qwen/Qwen2.5-3B"),
    RunName(id="tiny-2", model="Tiny.gguf"),
    RunName(id="tiny-untrained-3", model="Tiny.gguf", untrained=True),
    RunName(id="llama-4", model="meta/Llama"),
    RunName(id="llama-5", model="meta/Llama"),
]


@pytest.mark.parametrize(
    ("name", "run", "how"),
    [
        ("Qwen/Qwen2.5-3B", "qwen2-5-3b-1", "exact"),
        ("qwen/qwen2.5-3b", "qwen2-5-3b-1", "name"),
        ("QWEN2.5-3B", "qwen2-5-3b-1", "name"),
        ("/models/Qwen2.5-3B/", "qwen2-5-3b-1", "name"),
        ("someone/Qwen2.5-3B", None, "none"),
        ("Qwen2.5-3B-Instruct", None, "none"),
        ("anyone/tiny", "tiny-2", "name"),
        ("Tiny.gguf", "tiny-2", "exact"),
        ("meta/Llama", None, "several"),
    ],
)
def test_fit(name: str, run: str | None, how: str) -> None:
    fit = match_names([name], RUNS)[name]
    assert (fit.run, fit.how) == (run, how)
    assert bool(fit.note) == (run is None)


def test_what_is_said_comes_first_even_for_a_twin() -> None:
    said = {"meta/Llama": "llama-5", "random": "tiny-untrained-3", "gone": "no-such-run"}
    fits = match_names(said, RUNS, said)
    assert [(f.run, f.how) for f in fits.values()] == [
        ("llama-5", "said"),
        ("tiny-untrained-3", "said"),
        (None, "none"),
    ]


def test_two_names_never_share_a_run() -> None:
    fits = match_names(["Qwen/Qwen2.5-3B", "qwen2.5-3b"], RUNS)
    assert fits["Qwen/Qwen2.5-3B"].run == "qwen2-5-3b-1"  # the exact one is surer
    assert fits["qwen2.5-3b"].how == "several"
    assert "so does Qwen/Qwen2.5-3B" in fits["qwen2.5-3b"].note
    fits = match_names(["QWEN2.5-3B", "qwen2.5-3b"], RUNS)
    assert [fit.run for fit in fits.values()] == [None, None]


def test_a_run_of_an_evaluation_counts_where_no_run_of_a_corpus_does() -> None:
    evaluations = [
        RunName(id=f"eval-{n}", model="Qwen/Qwen2.5-3B", evaluation=True) for n in (6, 7)
    ]
    name = "Qwen/Qwen2.5-3B"
    assert match_names([name], [*evaluations, *RUNS])[name].run == "qwen2-5-3b-1"
    assert match_names([name], evaluations[:1])[name].run == "eval-6"
    assert match_names([name], evaluations)[name].how == "several"
    two = [RunName(id="qwen2-5-3b-2", model=name), *RUNS, *evaluations]
    assert match_names([name], two)[name].note == "it fits 2 runs: qwen2-5-3b-2, qwen2-5-3b-1"
    assert match_names([name], [*evaluations, *RUNS], {name: "eval-7"})[name].run == "eval-7"


def test_the_order_of_names_does_not_matter() -> None:
    names = ["qwen2.5-3b", "Qwen/Qwen2.5-3B", "meta/Llama", "x"]
    assert match_names(names, RUNS) == match_names(names[::-1], RUNS)


def test_a_folder_is_known_by_its_name_and_the_first_digits_of_its_weights() -> None:
    runs = [
        RunName(id="final-1", model="final", weights="aaaa11112222"),
        RunName(id="final-2", model="final", weights="bbbb33334444"),
        RunName(id="a-3", model="org/a", weights="cccc"),
    ]
    fits = match_names(["final@aaaa1111", "final@bbbb3333", "final@cccc5555", "org/a@cccc"], runs)
    assert [(fit.run, fit.how) for fit in fits.values()] == [
        ("final-1", "exact"),
        ("final-2", "exact"),
        (None, "none"),
        ("a-3", "exact"),
    ]
    assert match_names(["final@", "final"], runs)["final@"].how == "none"
    assert match_names(["final"], runs)["final"].how == "several"


def test_tasks_of_one_source_may_be_of_several_runs_of_a_model() -> None:
    runs = [
        RunName(id="ar-1", model="tiny", evaluation=True, weights="aaaa"),
        RunName(id="spc-2", model="tiny", evaluation=True, weights="aaaa"),
        RunName(id="a-3", model="org/a"),
    ]
    pairs = [("tiny@aaaa", "ar-1"), ("tiny@aaaa", "spc-2"), ("tiny@aaaa", None), ("org/a", None)]
    rows = pl.DataFrame(pairs, {"model": pl.String, "run": pl.String}, orient="row")
    matched = match_scores(rows.with_columns(source=pl.lit("s")), runs)
    assert list(zip(pairs, matched["fit"], strict=True)) == [
        (("tiny@aaaa", "ar-1"), "ar-1"),
        (("tiny@aaaa", "spc-2"), "spc-2"),
        (("tiny@aaaa", None), "spc-2"),  # the last that was said
        (("org/a", None), "a-3"),
    ]
