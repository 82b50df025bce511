"""Two runs of one task: counts by hand, the items that changed, what is refused."""

import json
import math
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner, Result
from evaluated_items import write_items
from flipped_items import TASK, TwoRuns, two_runs
from made_runs import MakeRun
from pages import Page
from result_frames import check_printed

import lpp.analyze
from lpp.analyze import ItemsSettings
from lpp.analyze.cli.command import main
from lpp.analyze.evaluations.flips import (
    FLIPPED,
    Flips,
    changed_items,
    flip_tables,
    flips,
    flips_of_runs,
)
from lpp.analyze.evaluations.pages.flips_page import IN_SHORT, flips_frames
from lpp.analyze.evaluations.tables import CHANGES
from lpp.analyze.runs.keys import RunView
from lpp.store import open_store
from lpp.store.errors import ErrorKind, InputError

LOST = range(12)
GAINED = (40, 41)
MOVED = (50, 51, 52)


def hand_made(make_run: MakeRun, **options: Any) -> TwoRuns:
    """60 items: right in both 28, in A alone 12, in B alone 2, in neither 18, of these 3 moved."""
    return two_runs(
        make_run,
        items=60,
        right=lambda item: item < 40,
        flips=lambda a, b, prompt, answer: prompt // 3 in LOST,
        gained=GAINED,
        moved=MOVED,
        **options,
    )


@pytest.fixture(scope="module")
def written(make_shared_run: MakeRun) -> TwoRuns:
    return hand_made(make_shared_run)


def row(found: Flips) -> dict[str, Any]:
    return flip_tables(found)["item_flips"].row(0, named=True)


def counts(found: Flips) -> tuple[int, ...]:
    kinds = ("right_in_both", "right_to_wrong", "wrong_to_right", "wrong_in_both")
    return tuple(row(found)[kind] for kind in kinds)


def test_the_table_of_two_by_two(written: TwoRuns) -> None:
    found = flips(written.root, TASK, "first", "second")
    assert counts(found) == (28, 12, 2, 18)
    names = ("n_items", "accuracy_a", "accuracy_b")
    assert [row(found)[name] for name in names] == [60, 40 / 60, 30 / 60]
    assert row(found)["mcnemar_p"] == pytest.approx(212 / 2**14)  # 2 (1 + 14 + 91) of 2^14
    assert (row(found)["n_alone_a"], row(found)["n_alone_b"]) == (0, 0)
    exchanged = flips(written.root, TASK, "second", "first")
    assert counts(exchanged) == (28, 2, 12, 18)


def test_the_items_that_changed(written: TwoRuns) -> None:
    found = flips(written.root, TASK, written.a.made.run_id, written.b.made.run_id)
    assert found.table.schema == FLIPPED
    assert found.table["item"].to_list() == list(range(60))
    changed = changed_items(found)
    by_change = {
        change: sorted(changed.filter(change=change)["item"].to_list()) for change in CHANGES
    }
    assert list(by_change.values()) == [list(LOST), list(GAINED), list(MOVED)]
    assert changed["change"].unique(maintain_order=True).to_list() == list(CHANGES)
    gaps = changed.filter(change=CHANGES[0])["gap_a"].to_list()
    assert gaps == sorted(gaps, reverse=True)
    assert changed["text"].is_null().all()  # the store has no vocabulary
    for one in changed.iter_rows(named=True):
        a, b = (some.rows[one["item"]] for some in (written.a, written.b))
        assert (one["logprobs_a"], one["logprobs_b"]) == (
            a["log_likelihoods"],
            b["log_likelihoods"],
        )
        assert (one["chosen_a"], one["chosen_b"], one["gold"]) == (
            a["chosen"],
            b["chosen"],
            a["gold"],
        )
        first, second = sorted(a["log_likelihoods"], reverse=True)[:2]
        assert one["gap_a"] == pytest.approx(first - second)
        assert one["share_a"] == pytest.approx(
            math.exp(first) / sum(map(math.exp, a["log_likelihoods"]))
        )
        assert one["share_b"] == pytest.approx(one["share_a"])  # the same ln p, of other answers


def test_items_that_one_run_lacks_are_counted(make_run: MakeRun) -> None:
    def without_three(row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"correct": None} if row["item"] in (1, 30, 45) else {})

    written = hand_made(make_run, changes=without_three)
    found = flips(written.root, TASK, "first", "second")
    assert counts(found) == (27, 11, 2, 17)
    assert (row(found)["n_alone_a"], row(found)["n_alone_b"]) == (3, 0)
    assert sum(found.b.left_out.values()) == 3


def test_an_item_of_one_answer_has_no_share(make_run: MakeRun) -> None:
    def one_answer(row: dict[str, Any]) -> dict[str, Any]:
        kept = {key: row[key][:1] for key in ("prompt_ids", "log_likelihoods", "greedy")}
        return row | kept | {"chosen": None, "gold": None}

    written = hand_made(make_run)
    write_items(written.root, [one_answer(row) for row in written.a.rows])
    write_items(written.root, [one_answer(row) for row in written.b.rows])
    found = flips(written.root, TASK, "first", "second")
    assert counts(found) == (28, 12, 2, 18)
    assert set(changed_items(found)["change"]) == set(CHANGES[:2])
    assert found.table.select("gap_a", "share_a", "share_b").null_count().row(0) == (60, 60, 60)
    done = run("items", written.root, "--task", TASK, "sec*", "--against", "fir*")
    assert done.exit_code == 0, done.output


# what is refused


def kind_of(root: Path, a: str, b: str, **options: Any) -> ErrorKind:
    with pytest.raises(InputError) as caught:
        lpp.analyze.flipped_items(root, TASK, a, b, ItemsSettings(**options))
    return caught.value.kind


def test_a_run_against_itself(written: TwoRuns) -> None:
    assert kind_of(written.root, "first", "first") is ErrorKind.INVALID_VALUE
    (_, view) = (RunView(run) for run in open_store(written.root).runs.values())
    assert flips_of_runs(view, view) == []


def test_other_documents_are_named_with_both_sources(make_run: MakeRun) -> None:
    written = hand_made(make_run, changes=lambda row: row | {"doc_sha256": f"{row['item'] % 59}"})
    with pytest.raises(InputError) as caught:
        flips(written.root, TASK, "first", "second")
    assert caught.value.kind is ErrorKind.INVALID_VALUE
    assert all(word in str(caught.value) for word in ("59", "of a", "of b"))


def test_other_filters_are_named(make_run: MakeRun) -> None:
    written = hand_made(make_run, changes=lambda row: row | {"filter": "strict"})
    with pytest.raises(InputError) as caught:
        flips(written.root, TASK, "first", "second")
    assert caught.value.kind is ErrorKind.INVALID_VALUE
    assert "none in A" in str(caught.value)
    assert "strict in B" in str(caught.value)


def test_no_item_in_common(make_run: MakeRun) -> None:
    written = hand_made(make_run, changes=lambda row: row | {"item": row["item"] + 100})
    assert kind_of(written.root, "first", "second") is ErrorKind.INCOMPLETE


def test_a_run_of_another_store(make_run: MakeRun, tmp_path: Path) -> None:
    written = hand_made(make_run, options={"root": tmp_path / "other"})
    with pytest.raises(InputError):
        flips(written.root, TASK, "first", "second")
    other = f"{tmp_path / 'other'}::second"
    assert counts(flips(written.root, TASK, "first", other)) == (28, 12, 2, 18)


# the commands


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def test_too_few_flips_give_counts_and_no_ranking(written: TwoRuns) -> None:
    asked = ("items", written.root, "--task", TASK, "second", "--against", "first")
    done = run(*asked, "--format", "json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    (task,), names = document["tables"]["item_flips"], document["runs"]
    assert task["why_no_ranking"]
    assert document["tables"]["item_features"] == []
    assert (task["run_a"], task["run_b"]) == (written.a.made.run_id, written.b.made.run_id)
    assert (names[task["run_a"]], names[task["run_b"]]) == ("first", "second")
    counts = ("right_in_both", "right_to_wrong", "wrong_to_right", "wrong_in_both")
    assert [task[name] for name in counts] == [28, 12, 2, 18]
    assert task["other_wrong_answer"] == len(MOVED)
    assert len(document["tables"]["item_changes"]) == 12 + 2 + 3
    found = lpp.analyze.flipped_items(written.root, TASK, "first", "second")
    assert found.features_frame().is_empty()
    check_printed(found, "item_flips", "task")
    assert found.changes_frame().height == 12 + 2 + 3
    with pytest.raises(InputError, match=r"no table item_risk\. It has item_features, item_flips"):
        found.risk_frame()
    for form in ("text", "md"):
        done = run(*asked, "--format", form)
        assert done.exit_code == 0
        assert str(found.row["why_no_ranking"])[:20] in done.stdout.replace("\\", "")


@pytest.mark.slow
def test_diff_names_the_items(written: TwoRuns, tmp_path: Path) -> None:
    asked = ("diff", written.root, "first", "second")
    document = json.loads(run(*asked, "--format", "json").stdout)
    tables = document["tables"]
    (task,) = tables["item_flips"]
    several = json.loads(run("diff", written.root, "--against", "first", "--format", "json").stdout)
    assert several["tables"]["item_flips"] == tables["item_flips"]
    assert several["tables"]["item_changes"] == tables["item_changes"]
    assert (task["task"], task["n_items"], task["right_to_wrong"]) == (TASK, 60, 12)
    done = run(*asked)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if str(written.root) not in line) <= 80
    (start,) = [place for place, line in enumerate(lines) if line.startswith(f"Items of {TASK}: ")]
    rows = [line.split() for line in lines[start:]]
    listed = [int(row[0]) for row in rows if len(row) > 6 and row[0].isdigit() and ">" in row]
    assert len(listed) == 3 * IN_SHORT
    assert "14 of 60 items" in " ".join(done.stdout.split())
    output = tmp_path / "drift.md"
    assert run(*asked, "-o", output).exit_code == 0
    assert f"### Items of {TASK}".replace("_", "\\_") in output.read_text("utf-8")


def test_tasks_that_are_not_compared_have_rows_beside_others(written: TwoRuns) -> None:
    found = flip_tables(flips(written.root, TASK, "first", "second"))
    parts = [flips_frames([found, "other documents"]), flips_frames(["damaged"])]
    rows = pl.concat([part["item_flips"] for part in parts])  # as of several runs
    assert rows["why_none"].to_list() == [None, "other documents", "damaged"]
    assert rows["n_items"].to_list() == [60, None, None]
    changes = parts[0]["item_changes"]
    assert (len(changes), {*changes["task"]}) == (12 + 2 + 3, {TASK})
    assert "item_changes" not in parts[1]


@pytest.mark.slow
def test_diff_says_why_items_are_not_compared(make_run: MakeRun) -> None:
    written = hand_made(make_run, changes=lambda row: row | {"doc_sha256": "other"})
    asked = ("diff", written.root, "first", "second")
    (one,) = json.loads(run(*asked, "--format", "json").stdout)["tables"]["item_flips"]
    assert one["why_none"]
    for form in ("text", "md"):
        done = run(*asked, "--format", form)
        assert done.exit_code == 0
        assert "of a and of b" in " ".join(done.stdout.split())


@pytest.mark.slow
def test_diff_of_runs_of_a_corpus_has_no_items(make_run: MakeRun) -> None:
    first, second = make_run(model="tiny/first"), make_run(model="tiny/second", seed=1)
    done = run("diff", first.root, first.run_id, second.run_id, "--format", "json")
    assert "item_flips" not in json.loads(done.stdout)["tables"]


def test_the_run_that_is_compared_is_named(written: TwoRuns) -> None:
    done = run("items", written.root, "--task", TASK, "--against", "first")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "name the RUN" in done.stderr


@pytest.mark.slow
def test_the_page_has_the_items_and_their_counts(written: TwoRuns, tmp_path: Path) -> None:
    page = tmp_path / "flips.html"
    asked = ("items", written.root, "--task", TASK, "second", "--against", "first")
    assert run(*asked, "-o", page).exit_code == 0
    source = page.read_text("utf-8")
    text = Page(source).text
    assert "14 of 60 items" in text
    assert "-0.17" in text
    (data,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text()
    )
    assert json.loads(data)["tables"]["changed"]["rows"] == 12 + 2 + 3
    done = run(*asked, "--format", "csv")
    assert len(done.stdout.splitlines()) == 1 + 12 + 2 + 3


def test_the_difference_is_by_cluster(make_run: MakeRun) -> None:
    def scene(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"item_cluster": str(row["item"] // 6)}

    written = hand_made(make_run, changes=scene)
    found = flips(written.root, TASK, "first", "second")
    alone = flips(written.root, TASK, "first", "second", ItemsSettings(cluster="item"))
    a, b = row(found), row(alone)
    assert (a["cluster"], a["n_clusters"], b["n_clusters"]) == ("item_cluster", 10, 60)
    # two scenes of six lost items, one of two gained: two alike, so 2 of 2^2 exchanges are as far
    # with the third one either way
    means = [1, 1, 2 / 6]
    every = [abs(a + b + c * means[2]) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]
    as_far = sum(one >= abs(1 + 1 - 2 / 6) - 1e-9 for one in every)
    assert a["mcnemar_p"] == pytest.approx(as_far / 8)
    assert b["mcnemar_p"] == pytest.approx(212 / 2**14)
    assert a["difference_ci_low"] < b["difference_ci_low"]
    done = CliRunner().invoke(
        main,
        ["items", str(written.root), "--task", TASK, "second", "--against", "first"],
    )
    assert "10 clusters by item_cluster" in done.output
    assert "p by cluster (Durkalski et al. 2003)" in " ".join(done.output.split())
