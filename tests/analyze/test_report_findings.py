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
from lpp.analyze.report.queries import QUERIES
from lpp.analyze.report.report import write_report


def profiles_of(models: Sequence[str], **options: Any) -> dict[str, list[Row]]:
    """A database of runs that were not compared."""
    compared = ("drift_predictions", "drift_sites", "drift_tokens")
    return database(models, **options) | {name: [] for name in compared}


def said(store: Path) -> list[str]:
    """Sentences of the section on profiles."""
    (section,) = (s for s in report(str(store)).sections if s.name == "profiles")
    return [plain(sentence) for sentence in section.notes]


def first_screen(store: Path) -> Opening:
    return report(str(store)).opening


@pytest.mark.slow
def test_two_runs_are_told_by_what_exceeds_the_interval(tmp_path: Path) -> None:
    store = make_store(tmp_path, profiles_of(["a", "b"]))
    opening = first_screen(store)
    assert opening.setting == "final, context 200, 100 prompts"
    sentence = plain(opening.sentence)
    # half widths of 0.001 and 0.5, from one group of ten: of the differences sqrt(20 / 9) times
    assert "is less certain (+0.02 [0.019, 0.021] of ln V)" in sentence
    assert (
        "; the difference in participation ratio (+0.01 [-0.74, 0.76]) is not significant"
        in sentence
    )
    assert "has a larger effective rank (+10 [9.3, 11])" in sentence
    assert "prefix" not in sentence


@pytest.mark.slow
def test_extremes_of_different_prefixes_are_compared_at_that_of_the_base(tmp_path: Path) -> None:
    """The second run has its extreme at prefix 40; at 200, that of the first, it has 20 as well."""
    tables = profiles_of(["a", "b"])
    for row in tables["profiles"]:
        if row["run"] == run_id(1, "b"):
            row |= {"effective_rank_prefix": 40, "effective_rank": 21.0}
    store = make_store(tmp_path, tables)
    sentence = plain(first_screen(store).sentence)
    assert "a larger effective rank (+10 [9.3, 11] at prefix 200)" in sentence
    assert sentence.count("prefix") == 1
    pairs = ask(store, QUERIES)["differences"].frame.filter(metric="effective_rank")
    row = pairs.row(0, named=True)
    assert (row["value_a"], row["value_b"], row["difference"]) == (10.0, 20.0, 10.0)
    assert (row["prefix"], row["extreme_b"], row["extreme_b_prefix"]) == (200, 21.0, 40)
    assert row["flags"] == ["different_prefixes"]


@pytest.mark.slow
def test_an_interval_that_holds_zero_shows_no_equality(tmp_path: Path) -> None:
    tables = profiles_of(["a", "b"])
    of_a = {row["metric"]: row["value"] for row in tables["jackknife"] if not row["prompt_group"]}
    tables["jackknife"] = [
        row | {"value": of_a[row["metric"]] + row["prompt_group"] * (row["run"] == run_id(1, "b"))}
        for row in tables["jackknife"]
    ]
    sentence = plain(first_screen(make_store(tmp_path, tables)).sentence)
    assert re.search(r": the differences in entropy floor \(\+0\.02 \[-.* are not sig", sentence)
    assert not re.search("within error|certain|no better|does not differ|same", sentence)
    for metric in ("entropy_floor", "participation_ratio", "effective_rank"):
        tables["profiles"][1][metric] = tables["profiles"][0][metric]
    exact = plain(first_screen(make_store(tmp_path / "exact", tables)).sentence)
    assert "has the same entropy floor" in exact  # the values are equal


@pytest.mark.slow
def test_the_first_screen_of_two_runs_tells_them_apart(tmp_path: Path) -> None:
    tables = profiles_of(["a", "b"])
    tables["profiles"][1]["flags"] = ["duplicates"]
    screen = first_screen(make_store(tmp_path, tables))
    sentence = plain(screen.sentence)
    for words in ("0.2 of ln V", "5 of 500 dimensions", "less certain (+0.02"):
        assert words in sentence
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


@pytest.mark.slow
def test_the_first_screen_of_compared_runs_says_how_far_and_where(tmp_path: Path) -> None:
    """Model 2 was compared with model 0: its KL is 0.02, its flips 1 %, final moves most."""
    tables = database(["a", "b", "c"])
    tables["profiles"][1]["flags"] = ["duplicates"]
    page = report(str(make_store(tmp_path, tables)))
    a, b, c = (run_id(k, name) for k, name in enumerate("abc"))
    assert plain(page.opening.sentence) == (
        f"{c} differs from {a} by KL 0.02 nats a token, and the most likely next token changes "
        "at 1 % of the tokens. Hidden states first differ at embed, and differ most at final, by "
        "1.6 % of their norm."
    )
    figures = [[cell.run or cell.text for cell in row] for row in page.opening.rows]
    assert figures == [[c, "0.02", "1", "embed"], [b, "0.01", "0.5", "embed"]]
    later = dict(tables)
    later["drift_sites"] = [row for row in tables["drift_sites"] if row["site"] != "embed"]
    opening = report(str(make_store(tmp_path / "later", later))).opening
    assert "already differ at block.1, the earliest site compared, and differ most at" in plain(
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
    _, b, c = plain(first_screen(make_store(tmp_path, tables)).sentence).split(". ")
    assert "more certain (-0.08 " in b
    assert "smaller participation ratio (-3 " in b
    assert "less certain (+0.04 " in c
    assert "; the difference in participation ratio (+0.02 " in c


@pytest.mark.slow
def test_the_first_screen_of_many_runs_has_the_ends_of_each_range(tmp_path: Path) -> None:
    names = [f"m{k}" for k in range(20)]
    screen = first_screen(make_store(tmp_path, profiles_of(names)))
    sentence = plain(screen.sentence)
    for words in ("20 runs", f"0.2 ({run_id(0, 'm0')})", f"0.58 of ln V ({run_id(19, 'm19')})"):
        assert words in sentence
    assert f"Of the other 19, 19 differ significantly from {run_id(0, 'm0')} in ent" in sentence
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


@pytest.mark.slow
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
    assert "participation ratio 5 (the difference has no interval)" in sentence


@pytest.mark.slow
def test_what_was_not_computed_is_no_zero(tmp_path: Path) -> None:
    tables = profiles_of([f"m{k}" for k in range(6)])
    of_last = run_id(5, "m5")
    tables["jackknife"] = [
        row
        for row in tables["jackknife"]
        if row["metric"] != "effective_rank" and row["run"] != of_last
    ]
    sentence = plain(first_screen(make_store(tmp_path, tables)).sentence)
    for words in (
        f"Of the other 5, 4 differ significantly from {run_id(0, 'm0')} in entropy floor (1 ",
        "0 in participation ratio (1 without an interval)",
        "0 in effective rank (5 without an interval)",
    ):
        assert words in sentence


@pytest.mark.slow
def test_further_settings_have_a_sentence_each(tmp_path: Path) -> None:
    tables = profiles_of(["a", "b"])
    for name in ("profiles", "jackknife", "spectra", "entropy"):
        tables[name] += [row | {"n_prompts": 50} for row in tables[name]]
    notes = said(make_store(tmp_path, tables))
    assert notes[0].startswith("final, context 200, 50 prompts. At final, a-00000000 has")


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
    assert "1 pair of runs" in said(store)[0]
    apart = ask(store, QUERIES)["apart"].frame.row(0, named=True)
    assert [k for k, v in apart.items() if v is True] == [shared]
    page = write_report(str(store), tmp_path / "r.html")[0].read_text()
    assert "Pairs of runs without a common setting" in page


@pytest.mark.slow
def test_values_that_are_not_finite_are_dashes(tmp_path: Path) -> None:
    tables = profiles_of(["a", "b"])
    tables["profiles"][0]["effective_rank"] = float("nan")
    tables["spectra"][0]["participation_ratio"] = float("inf")
    page = write_report(str(make_store(tmp_path, tables)), tmp_path / "r.html")[0].read_text()
    data = page.partition('id="data">')[2].partition("</script>")[0]
    assert "effective rank 20 (a value to compare is missing)" in plain(
        first_screen(tmp_path).sentence
    )
    assert "NaN" not in data
    assert "Infinity" not in data


@pytest.mark.slow
def test_the_first_screen_leads_with_what_holds_without_attention_sinks(tmp_path: Path) -> None:
    """Sites and profiles with sinks were also measured without the first 2 positions."""
    tables = database(["a", "b"])
    without = {"first_position": 2}
    for name in ("profiles", "layers", "drift_sites"):
        rows = tables[name]
        tables[name] = [row | {"flags": ["collapsed", "sink"]} for row in rows]
        tables[name] += [row | without | {"flags": []} for row in rows]
    tables["drift_sites"] = [
        row | ({"relative_distance": 0.9} if row["first_position"] == 0 else {})
        for row in tables["drift_sites"]
    ]
    page = report(str(make_store(tmp_path, tables)))
    sentence = plain(page.opening.sentence)
    assert "Hidden states after the first 2 positions first differ at embed" in sentence
    assert "0.9" not in sentence
    flags = {warning[0].text for warning in page.opening.warnings if isinstance(warning[0], Flag)}
    assert "collapsed" not in flags  # the rows without sinks are not
    assert "sink" in flags
    alone = dict(tables)
    for name in ("drift_predictions", "drift_sites", "drift_tokens"):
        alone[name] = []
    screen = first_screen(make_store(tmp_path / "alone", alone))
    assert screen.setting.endswith("without the first 2 positions")
    flags = {warning[0].text for warning in screen.warnings if isinstance(warning[0], Flag)}
    assert flags == {"sink"}
