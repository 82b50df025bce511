"""Which runs read the same first prompts, by token ids and across tokenizers."""

from pathlib import Path

import duckdb
import polars as pl
import pytest
from made_runs import MakeRun

from lpp.analyze import ProfileSettings, analyze, build_database
from lpp.analyze.runs.comparable import prompt_sets
from lpp.analyze.runs.keys import views

SIX = (12, 7, 20, 20, 3, 15)


def classes(root: Path, size: int) -> list[set[str]]:
    """The classes of runs over `size` prompts, runs by the first part of their names."""
    found = prompt_sets(views(root), [size])
    groups = found.group_by("prompt_set").agg(pl.col("run"))["run"].to_list()
    return sorted(({run.split("-")[0] for run in group} for group in groups), key=sorted)


@pytest.mark.slow
def test_a_longer_run_that_begins_with_the_same_prompts(make_run: MakeRun) -> None:
    made = make_run(SIX, model="six", prompt_set="p6", texts="t")
    make_run(SIX * 2, model="twelve", prompt_set="p12", texts="t")
    assert classes(made.root, 6) == classes(made.root, 4) == [{"six", "twelve"}]
    assert classes(made.root, 12) == [{"twelve"}]  # the other has not so many
    assert classes(made.root, 13) == []


def test_the_first_texts_may_be_the_same_where_later_ones_are_not(make_run: MakeRun) -> None:
    made = make_run(SIX, model="one", texts="t", order=[0, 1, 2, 3, 4, 5])
    make_run(SIX, model="two", texts="t", order=[0, 1, 2, 3, 5, 4])
    assert classes(made.root, 4) == [{"one", "two"}]
    assert classes(made.root, 5) == [{"one"}, {"two"}]


def test_ids_decide_whatever_the_corpus_is_called(make_run: MakeRun) -> None:
    made = make_run(model="one", prompt_set="a", texts="t", corpus="here")
    make_run(model="two", prompt_set="b", texts="t", corpus="there")
    make_run(model="other", prompt_set="a", texts="u")  # the same name, other ids
    assert classes(made.root, 6) == [{"one", "two"}, {"other"}]


def test_tokenizers_that_differ_are_compared_by_rows_of_the_corpus(make_run: MakeRun) -> None:
    made = make_run(model="one", tokenizer="t1")
    make_run(model="two", tokenizer="t2")
    make_run(model="rows", tokenizer="t3", first_row=103)  # one row further on
    assert classes(made.root, 6) == [{"one", "two"}, {"rows"}]


def test_a_run_cut_at_another_context_read_the_same_texts(make_run: MakeRun) -> None:
    made = make_run(model="long")
    make_run(model="short", context=10)
    assert classes(made.root, 6) == [{"long", "short"}]


@pytest.mark.slow
def test_names_join_what_is_comparable(make_run: MakeRun) -> None:
    made = make_run(SIX, model="six", prompt_set="p6", texts="t")
    make_run(SIX * 2, model="twelve", prompt_set="p12", texts="t")
    make_run(SIX, model="other", first_row=500)
    database = build_database(made.root, ProfileSettings(sites=["final"], prompts=[4, 6, 12]))
    with duckdb.connect(str(database), read_only=True) as connection:
        pairs = connection.execute(
            "SELECT split_part(a.run, '-', 1), split_part(b.run, '-', 1), n_prompts "
            "FROM profiles a JOIN profiles b USING (context, n_prompts, prompt_set) "
            "WHERE a.run < b.run ORDER BY ALL"
        ).fetchall()
        lengths = connection.execute("SELECT DISTINCT length(prompt_set) FROM profiles")
        assert lengths.fetchall() == [(16,)]
    assert pairs == [("six", "twelve", 4), ("six", "twelve", 6)]


@pytest.mark.slow
def test_a_name_does_not_depend_on_what_is_selected(make_run: MakeRun) -> None:
    made = make_run(model="one", tokenizer="t1")
    make_run(model="two", tokenizer="t2")
    together = analyze(made.root, ProfileSettings(sites=["final"])).profiles()
    alone = analyze(made.root, ProfileSettings(runs=["two-*"], sites=["final"])).profiles()
    assert together["prompt_set"].n_unique() == 1
    assert alone["prompt_set"].to_list() == together["prompt_set"].to_list()[:1]
