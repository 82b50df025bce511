"""The run of an evaluation in a store changes nothing about the runs on a corpus beside it."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from made_runs import MakeRun

from lpp.analyze.cli.command import main
from lpp.sql import connect, saved_queries
from lpp.store import add_scores, open_store
from lpp.store.errors import InputError
from lpp.store.format.run_names import matching_runs, run_names
from lpp.store.format.tables import SCORES_SCHEMA

MODELS = ("lab/tiny-Q4_1", "lab/tiny-Q4_1, rounded to 4 bits", "lab/other")
CARRIED = {"field.doc": ["a", "a", "b", "b", "c", "c"]}


@pytest.fixture
def stores(make_run: MakeRun, tmp_path: Path) -> tuple[Path, Path, str]:
    """A store of runs on a corpus, the same with an evaluation, and the evaluation's id."""
    for seed, model in enumerate(MODELS):
        made = make_run(model=model, seed=seed, carried=CARRIED, vary_tokens=True)
    beside = tmp_path / "beside"
    shutil.copytree(made.root, beside)
    evaluation = make_run(
        (9, 8, 7), root=beside, model=MODELS[0], corpus="quiz", texts="q", task="quiz", context=10
    )
    return made.root, beside, evaluation.run_id


def test_names_of_runs_on_a_corpus_stay(stores: tuple[Path, Path, str]) -> None:
    alone, beside, evaluation = stores
    plans = open_store(beside).plans
    known = {run: plan for run, plan in plans.items() if plan is not None}
    names = run_names(known)
    assert {run: names[run] for run in names if run != evaluation} == open_store(alone).names
    assert names[evaluation] == "tiny Q4_1, quiz"
    assert len({*names.values()}) == len(names)
    assert run_names({evaluation: known[evaluation]}) == {evaluation: "tiny Q4_1"}


def test_a_pattern_means_an_evaluation_if_it_fits_no_corpus(
    stores: tuple[Path, Path, str],
) -> None:
    alone, beside, evaluation = stores
    plans = open_store(beside).plans
    corpora = [*open_store(alone).runs]
    assert matching_runs(["*"], plans) == matching_runs(["all"], plans) == corpora
    assert open_store(beside).run("*Q4_1").id == open_store(alone).run("*Q4_1").id
    for name in (evaluation, "*quiz", "tiny Q4_1, quiz"):
        assert matching_runs([name], plans) == [evaluation]
    assert {*matching_runs(["*", "*quiz"], plans)} == {*plans}
    assert {*matching_runs(["*"], plans, evaluations=True)} == {*plans}
    alone_there = {evaluation: plans[evaluation]}
    assert matching_runs(["*"], alone_there) == [evaluation]
    with pytest.raises(InputError):
        matching_runs(["*none*"], plans)


def said(words: Sequence[str], store: Path) -> str:
    """What a command prints, with STORE for the store."""
    done = CliRunner().invoke(main, [*words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.replace(str(store), "STORE")


COMMANDS = (
    "profile STORE --all",
    "profile STORE --cluster doc --format json",
    "profile STORE *Q4_1 --format json",
    "layers STORE --format json",
    "cka STORE --format json",
    "diff STORE --against *Q4_1 --format json",
    "diff STORE *Q4_1 *bits --format json",
    "profile STORE --format md",
)


@pytest.mark.slow
def test_every_command_says_the_same(stores: tuple[Path, Path, str]) -> None:
    alone, beside, evaluation = stores
    for command in COMMANDS:
        texts = [
            said([word.replace("STORE", str(store)) for word in command.split()], store)
            for store in (alone, beside)
        ]
        assert texts[0] == texts[1], command
    rows: list[list[dict[str, Any]]] = []
    for store in (alone, beside):
        with connect(store) as connection:
            of_store = [
                {"query": name, **row}
                for name, query in saved_queries().items()
                if name != "provenance"
                for row in connection.sql(query.text).to_arrow_table().to_pylist()
                if evaluation not in row.values()
            ]
            rows.append(of_store)
    assert rows[0] == rows[1]
    reports = []
    for store in (alone, beside):
        said(["report", str(store), "-o", str(store.parent / "r.md")], store)
        reports.append((store.parent / "r.md").read_text().replace(str(store), "STORE"))
    of_runs = [
        [
            line
            for line in report.splitlines()[1:]  # below the title
            if not {"quiz", "SHA-256"} & {*re.findall(r"[\w-]+", line)}
        ]
        for report in reports
    ]
    assert of_runs[0] == of_runs[1]
    for store in (alone, beside):
        public = str(store.parent / f"public-{store.name}")
        said(["publish", str(store), "*Q4_1", "--to", public], store)
        with connect(public) as connection:
            published = connection.sql("SELECT run FROM runs").fetchall()
        assert published == [(open_store(store).run("*Q4_1").id,)]


@pytest.mark.slow
def test_scores_of_an_evaluation_are_those_of_the_model(
    stores: tuple[Path, Path, str], tmp_path: Path
) -> None:
    """The evaluation came before the runs on a corpus, so the scores name its run."""
    _, beside, evaluation = stores
    said(["profile", str(beside)], beside)
    score = {"model": MODELS[0], "benchmark": "quiz", "metric": "acc", "value": 0.5, "source": "s"}
    row = {**score, "kind": "lm-eval", "run": evaluation}
    add_scores(beside, "s", pa.Table.from_pylist([row], schema=SCORES_SCHEMA), {"s.json": b"{}"})
    done = CliRunner().invoke(main, ["correlate", str(beside), "--format", "json"])
    assert evaluation not in done.output
    assert open_store(beside).run("*Q4_1").id in done.output
