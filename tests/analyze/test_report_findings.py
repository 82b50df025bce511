"""What the report says first: its first screen, and how runs differ."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from report_tables import Row, database, make_store, run_id

from lpp.analyze.pages.page import Opening
from lpp.analyze.pages.words import Flag, Run, plain
from lpp.analyze.report.answers import ask
from lpp.analyze.report.content import report
from lpp.analyze.report.findings import findings
from lpp.analyze.report.queries import QUERIES
from lpp.analyze.report.report import write_report


def profiles_of(models: Sequence[str], **options: Any) -> dict[str, list[Row]]:
    """A database of runs that were not compared."""
    compared = ("drift_predictions", "drift_sites", "drift_tokens")
    return database(models, **options) | {name: [] for name in compared}


def said(store: Path) -> list[str]:
    """Sentences on the profiles and how they differ."""
    return [plain(sentence) for sentence in findings(ask(store, QUERIES))]


def first_screen(store: Path) -> Opening:
    return report(str(store)).opening


def test_two_runs_are_told_by_what_exceeds_the_interval(tmp_path: Path) -> None:
    a, b = (run_id(k, name) for k, name in enumerate(("a", "b")))
    store = make_store(tmp_path, profiles_of(["a", "b"]))
    where, pair = said(store)
    assert "final, context 200, 100 prompts" in where
    assert pair.startswith(f"{a} and {b} differ in")
    beyond, within = pair.split("; they may be equal in ")
    # half widths of 0.001 and 0.5, from one group of ten: of the differences sqrt(20 / 9) times
    assert "entropy floor (0.2 and 0.22, difference -0.02 [-0.02149, -0.01851]" in beyond
    assert "effective rank (10 and 20, difference -10 [-10.75, -9.255]" in beyond
    assert "participation ratio (5 and 5.01, difference -0.01 [-0.7554, 0.7354]" in within
    assert "different prefixes" not in pair
    assert "another prefix" not in plain(first_screen(store).sentence)


def test_extremes_of_different_prefixes_are_told_apart(tmp_path: Path) -> None:
    tables = profiles_of(["a", "b"])
    for row in (*tables["profiles"], *tables["jackknife"]):
        if row["run"] == run_id(1, "b") and row.get("metric") in (None, "effective_rank"):
            row["prefix" if "metric" in row else "effective_rank_prefix"] = 40
    store = make_store(tmp_path, tables)
    _, pair = said(store)
    assert re.search(r"effective rank \(10 and 20, .* dimensions, at different prefixes\)", pair)
    assert pair.count("different prefixes") == 1
    sentence = plain(first_screen(store).sentence)
    assert "larger effective rank (20, at another prefix)" in sentence
    assert sentence.count("another prefix") == 1


def test_two_runs_that_nothing_tells_apart_may_be_equal(tmp_path: Path) -> None:
    tables = profiles_of(["a", "b"])
    of_a = {row["metric"]: row["value"] for row in tables["jackknife"] if not row["prompt_group"]}
    tables["jackknife"] = [
        row | {"value": of_a[row["metric"]] + row["prompt_group"]} for row in tables["jackknife"]
    ]
    for metric in ("entropy_floor", "participation_ratio", "effective_rank"):
        tables["profiles"][1][metric] = tables["profiles"][0][metric]
    _, pair = said(make_store(tmp_path, tables))
    assert pair.startswith(f"{run_id(0, 'a')} and {run_id(1, 'b')} may be equal in entropy floor")


def test_the_first_screen_of_two_runs_tells_them_apart(tmp_path: Path) -> None:
    tables = profiles_of(["a", "b"])
    tables["profiles"][1]["flags"] = ["duplicates"]
    screen = first_screen(make_store(tmp_path, tables))
    sentence = plain(screen.sentence)
    for words in ("0.2 of ln V", "5 of 500 dimensions", "less certain (0.22)"):
        assert words in sentence
    assert "same participation ratio within error (5)" in sentence  # 5.01: the difference may be 0
    assert "larger effective rank (20)" in sentence
    assert [[cell.text for cell in row[1:]] for row in screen.rows] == [
        ["0.2", "5", "10"],
        ["0.22", "5.01", "20"],
    ]
    assert [cell.interval for cell in screen.rows[0][1:]] == [
        "[0.199, 0.201]",
        "[4.5, 5.5]",
        "[9.5, 10.5]",
    ]
    assert [row[0].run for row in screen.rows] == [run_id(0, "a"), run_id(1, "b")]
    assert [warning[0] for warning in screen.warnings] == [Flag("collapsed"), Flag("duplicates")]
    assert {part.text for part in screen.warnings[1] if isinstance(part, Run)} == {run_id(1, "b")}


def test_the_first_screen_of_compared_runs_says_how_far_and_where(tmp_path: Path) -> None:
    """Model 2 was compared with model 0: its KL is 0.02, its flips 1 %, final moves most."""
    tables = database(["a", "b", "c"])
    tables["profiles"][1]["flags"] = ["duplicates"]
    page = report(str(make_store(tmp_path, tables)))
    a, b, c = (run_id(k, name) for k, name in enumerate("abc"))
    assert plain(page.opening.sentence) == (
        f"{c} differs from {a} by KL 0.02 [0.016, 0.024] nats a token; 1 % of the most likely next "
        "tokens flip; the rows first move at embed and most at final, by 0.016 of their length."
    )
    figures = [[cell.run or cell.text for cell in row] for row in page.opening.rows]
    assert figures == [[c, "0.02", "1", "embed"], [b, "0.01", "0.5", "embed"]]
    later = dict(tables)
    later["drift_sites"] = [row for row in tables["drift_sites"] if row["site"] != "embed"]
    opening = report(str(make_store(tmp_path / "later", later))).opening
    assert "first move at block.1, the first site compared, or before it, and most at" in plain(
        opening.sentence
    )
    assert [row[-1].text for row in opening.rows] == ["block.1 or before"] * 2
    assert page.opening.rows[0][1].interval == "[0.016, 0.024]"
    assert [chart.name for chart in page.charts if chart.opens] == ["drift-depth"]
    assert Flag("duplicates") in [warning[0] for warning in page.opening.warnings]
    assert plain(page.findings[0]).startswith(f"At final, {a} has an entropy floor of 0.2")
    alone = report(str(make_store(tmp_path / "alone", profiles_of(["a", "b"]))))
    assert [chart.name for chart in alone.charts if chart.opens] == ["depth"]
    assert alone.findings == ()


@pytest.mark.slow
def test_a_difference_is_told_with_its_direction(tmp_path: Path) -> None:
    tables = profiles_of(["a", "b", "c"])
    for row in (*tables["profiles"], *tables["jackknife"]):
        if row["run"] == run_id(1, "b"):  # the first of them by far
            shift = {"entropy_floor": -0.1, "participation_ratio": -3.0}
            for metric, by in shift.items():
                if metric in row:
                    row[metric] += by
                elif row.get("metric") == metric:
                    row["value"] += by
    _, b, c = plain(first_screen(make_store(tmp_path, tables)).sentence).split("; ")
    assert "more certain (0.12)" in b
    assert "smaller participation ratio (2)" in b
    assert "less certain (0.24)" in c
    assert "within error (5)" in c


@pytest.mark.slow
def test_the_first_screen_of_many_runs_has_the_ends_of_each_range(tmp_path: Path) -> None:
    names = [f"m{k}" for k in range(20)]
    screen = first_screen(make_store(tmp_path, profiles_of(names)))
    sentence = plain(screen.sentence)
    for words in ("20 runs", f"0.2 ({run_id(0, 'm0')})", f"0.58 of ln V ({run_id(19, 'm19')})"):
        assert words in sentence
    assert "of 190 pairs, 190 differ" in sentence
    (floor, low, high), ratio, rank = screen.rows
    assert (low.text, low.interval, low.run) == ("0.2", "[0.199, 0.201]", run_id(0, "m0"))
    assert (high.text, high.run) == ("0.58", run_id(19, "m19"))
    assert "entropy floor" in floor.text
    assert [ratio[2].text, rank[2].text] == ["5.19", "200"]


@pytest.mark.slow
def test_the_first_screen_of_one_run_of_none_and_of_runs_apart(tmp_path: Path) -> None:
    one = first_screen(make_store(tmp_path / "one", profiles_of(["a"])))
    assert len(one.rows) == 1
    assert "0.2 of ln V" in plain(one.sentence)
    none = first_screen(make_store(tmp_path / "none"))
    assert (none.rows, none.warnings) == ((), ())
    tables = profiles_of(["a", "b"])
    tables["profiles"][1]["prompt_set"] = "other"
    apart = first_screen(make_store(tmp_path / "apart", tables))
    assert len(apart.rows) == 2
    assert "certain" not in plain(apart.sentence)  # nothing is compared
    assert "0.22 of ln V" in plain(apart.sentence)
    tables = profiles_of(["a", "b", "c"])
    tables["profiles"][1]["n_prompts"] = 50
    some = first_screen(make_store(tmp_path / "some", tables))
    assert [row[0].run for row in some.rows] == [run_id(0, "a"), run_id(2, "c")]
    assert "1 more run" in plain(some.sentence)


def test_values_without_intervals_or_missing_are_told_as_such(tmp_path: Path) -> None:
    tables = profiles_of(["a", "b"])
    tables["jackknife"] = [
        row for row in tables["jackknife"] if row["metric"] != "participation_ratio"
    ]
    tables["profiles"][1]["entropy_floor"] = None
    screen = first_screen(make_store(tmp_path, tables))
    assert screen.rows[1][1].text == "–"
    sentence = plain(screen.sentence)
    assert "entropy floor – (a value to compare is missing)" in sentence
    assert "participation ratio 5 without an interval" in sentence


def test_many_runs_are_counted(tmp_path: Path) -> None:
    where, floor, ratio, *_ = said(make_store(tmp_path, profiles_of([f"m{k}" for k in range(4)])))
    assert "6 pairs" in where
    for number in ("6 differ", "0.2 (m0-00000000)", "0.26 of ln V (m3-00000003)"):
        assert number in floor
    assert "0 differ" in ratio
    assert "6 may be equal" in ratio


def test_values_without_intervals_or_missing_are_not_compared(tmp_path: Path) -> None:
    tables = profiles_of(["a", "b"])
    tables["jackknife"] = [row for row in tables["jackknife"] if row["metric"] != "effective_rank"]
    tables["profiles"][1]["entropy_floor"] = None
    clauses = said(make_store(tmp_path, tables))[1].split("; ")
    assert "effective rank (10 and 20, difference -10 (no interval) dimensions)" in clauses[1]
    assert "entropy floor (0.2 and – of ln V)" in clauses[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "shared"),
    [
        ({"prompt_set": "texts-2"}, "other_texts"),
        ({"context": 100}, "other_context"),
        ({"n_prompts": 50}, "other_n_prompts"),
    ],
)
def test_runs_without_a_common_setting_are_told_apart(
    tmp_path: Path, other: dict[str, Any], shared: str
) -> None:
    tables = profiles_of(["a"])
    beside = profiles_of(["none", "b"], **other)
    for name, rows in beside.items():
        tables[name] += [row for row in rows if "-00000001" in str(row.get("run", ""))]
    store = make_store(tmp_path, tables)
    assert "1 pair of runs" in said(store)[1]
    apart = ask(store, QUERIES)["apart"].frame.row(0, named=True)
    assert [k for k, v in apart.items() if v is True] == [shared]
    page = write_report(str(store), tmp_path / "r.html")[0].read_text()
    assert "Pairs of runs without a common setting" in page


def test_one_run_and_none(tmp_path: Path) -> None:
    one = said(make_store(tmp_path / "one", profiles_of(["a"])))
    for number in ("0.2 [0.199, 0.201] of ln V", "5 [4.5, 5.5]", "10 [9.5, 10.5]"):
        assert number in one[1]
    assert len(said(make_store(tmp_path / "none"))) == 1
    assert len(said(make_store(tmp_path / "empty", profiles_of([])))) == 1


@pytest.mark.slow
def test_values_that_are_not_finite_are_dashes(tmp_path: Path) -> None:
    tables = profiles_of(["a", "b"])
    tables["profiles"][0]["effective_rank"] = float("nan")
    tables["spectra"][0]["participation_ratio"] = float("inf")
    page = write_report(str(make_store(tmp_path, tables)), tmp_path / "r.html")[0].read_text()
    data = page.partition('id="data">')[2].partition("</script>")[0]
    assert "effective rank (– and 20 dimensions)" in said(tmp_path)[1]
    assert "NaN" not in data
    assert "Infinity" not in data
