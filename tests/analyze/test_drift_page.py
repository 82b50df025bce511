"""Drift in the report of a store, and as a page of its own."""

import json
import math
import re
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from click.testing import CliRunner, Result
from kept_heads import keep_head
from made_runs import Made, MakeRun
from pages import Page
from report_tables import database, make_store, run_id

from lpp.analyze import DiffSettings, diff, drift_histogram_chart, drift_positions_chart
from lpp.analyze.cli.command import main
from lpp.analyze.drift.gate.conditions import parse_condition
from lpp.analyze.drift.gate.verdicts import verdict
from lpp.analyze.drift.summaries import by_position
from lpp.analyze.drift.tables import write_drift
from lpp.analyze.drift.worst import worst_tokens
from lpp.analyze.evaluations.answers import page_of_drift
from lpp.analyze.pages.words import number, plain
from lpp.analyze.pages.write import written
from lpp.analyze.report.content import report
from lpp.analyze.report.report import write_report
from lpp.store.process.packages import install_command

LENGTHS = (12, 7, 20, 20, 3, 15, 9, 11)
HOSTILE = "x/<img src=x onerror=alert(1)>"


@pytest.fixture
def two(make_run: MakeRun) -> tuple[Made, Made]:
    """Two models of the same texts, with their head, the second of an odd name."""
    a = make_run(LENGTHS, model="tiny/base", vary_tokens=True)
    keep_head(a.root, a.plan)
    return a, make_run(LENGTHS, model=HOSTILE, seed=1, vary_tokens=True)


def section(store: Path) -> Any:
    found = [one for one in report(str(store)).sections if one.name == "drift"]
    return found[0] if found else None


# the report of a store


@pytest.mark.slow
def test_a_sentence_for_each_pair_and_a_count_of_the_rest(tmp_path: Path) -> None:
    names = [f"m{k}" for k in range(6)]
    store = make_store(tmp_path, database(names) | {"item_analyses": []})
    sentences = [plain(one) for one in section(store).notes]
    for words in (
        run_id(5, "m5"),
        run_id(0, "m0"),
        "by KL 0.05 nats a token",
        "2.5 %",
        "first differ at embed, and differ most at final, by 4",
    ):
        assert words in sentences[0]
    assert sentences[1].startswith(run_id(4, "m4"))
    assert sentences[3].startswith("2 more pairs")
    assert len(sentences) == 4


@pytest.mark.slow
def test_sites_that_were_not_compared_are_named_with_their_command(tmp_path: Path) -> None:
    tables = database(["a", "b"])
    a, b = run_id(0, "a"), run_id(1, "b")
    tables["drift_sites"] = [row for row in tables["drift_sites"] if row["site"] == "block.1"]
    found = report(str(make_store(tmp_path / "one", tables)))
    (sentence,) = [plain(one) for s in found.sections if s.name == "drift" for one in s.notes]
    assert "Hidden states differ at block.1, by 0.2 % of their norm" in sentence
    assert f"lpp-analyze diff {tmp_path / 'one'} {a} {b}" in plain(found.lacking)
    tables = database(["a", "b", "c"])
    tables["drift_sites"] = [row for row in tables["drift_sites"] if row["site"] == "block.1"]
    lacking = report(str(make_store(tmp_path / "two", tables))).lacking
    words = f"lpp-analyze diff {tmp_path / 'two'} --against {a} {run_id(2, 'c')} {b}"
    assert words in plain(lacking)
    whole = report(str(make_store(tmp_path / "all", database(["a", "b"])))).lacking
    assert "diff" not in plain(whole)


@pytest.mark.slow
def test_the_section_is_there_where_something_was_compared(tmp_path: Path) -> None:
    empty: dict[str, list[Any]] = {"drift_predictions": [], "drift_sites": [], "drift_tokens": []}
    assert section(make_store(tmp_path / "none", database(["a", "b"]) | empty)) is None
    found = section(make_store(tmp_path / "some", database(["a", "b"])))
    assert [chart.name for chart in found.charts] == [
        *("drift-depth", "drift-positions", "drift-histogram")
    ]
    frames = {answer.name: answer.frame for answer in found.tables}
    assert frames["drift_predictions"]["mean"].to_list() == pytest.approx([0.01, 0.005, 0.1])
    assert frames["drift_sites"].height == 8
    kl = pl.Series([k / 1000 for k in range(90)])
    bins = frames["drift_histogram"]
    assert bins["n_tokens"].sum() == 90
    assert bins.filter(pl.col("kl_from").is_null())["n_tokens"].to_list() == [1]
    for low, high, count in bins.drop_nulls().select("kl_from", "kl_below", "n_tokens").rows():
        assert ((kl >= low) & (kl < high)).sum() == count
    assert frames["drift_positions"]["n_tokens"].sum() == 90
    text = write_report(str(tmp_path / "some"), tmp_path / "r.md", "md")[0].read_text()
    assert "### What changed between two models" in text


@pytest.mark.slow
def test_the_section_has_the_numbers_and_words_of_the_store(two: tuple[Made, Made]) -> None:
    a, b = two
    found = diff(a.root, "base", b.run_id)
    write_drift(found)
    frames = {one.name: one.frame for one in section(a.root).tables}
    for table in section(a.root).tables:
        assert {*table.key} <= {*table.frame.columns}
    positions = by_position(found.tokens)
    assert frames["drift_positions"]["kl"].to_list() == positions["kl"].to_list()
    worst = worst_tokens(found)
    assert frames["drift_tokens"]["position"].to_list() == worst["position"].to_list()
    assert frames["drift_tokens"]["came"].to_list() == worst["came"].to_list()


# charts


def test_charts_without_values_say_so() -> None:
    tokens = drift_positions_chart(
        by_position(
            pl.DataFrame(
                schema={
                    "prompt_id": pl.Int32,
                    "position": pl.Int32,
                    "kl": pl.Float64,
                    "flip": pl.Boolean,
                }
            )
        ).with_columns(run_a=pl.lit("a"), run_b=pl.lit("b"))
    )
    assert "lpp-analyze diff" in tokens.description
    same = {"run_a": ["a"], "run_b": ["b"], "kl_from": [None], "kl_below": [None]}
    zeros = pl.DataFrame(
        {**same, "n_tokens": [9], "share": [1.0]},
        schema_overrides={"kl_from": pl.Float64, "kl_below": pl.Float64},
    )
    assert "none of them with a value" in drift_histogram_chart(zeros).description


@pytest.mark.slow
def test_a_table_of_an_earlier_release_ends_no_report(two: tuple[Made, Made]) -> None:
    a, b = two
    write_drift(diff(a.root, "base", b.run_id, DiffSettings(sites=["final"])))
    with duckdb.connect(str(a.root / "profiles.duckdb")) as connection:
        connection.execute("ALTER TABLE drift_sites DROP COLUMN sqnr")
    done = CliRunner().invoke(main, ["report", str(a.root), "-o", str(a.root / "report.html")])
    assert done.exit_code == 0, done.output


# the page of one comparison


@pytest.mark.slow
def test_the_page_holds_the_numbers_and_names_are_text(two: tuple[Made, Made]) -> None:
    a, b = two
    found = diff(
        a.root, "base", b.run_id, DiffSettings(skip_first=1, tokens=60, seed=3, sites=["final"])
    )
    gate = [
        verdict(parse_condition(text), found.predictions, found.sites)
        for text in ("kl > 0.01", "kl > 99")
    ]
    text = written(page_of_drift(found, gate), "html")
    page = Page(text)
    assert page.elements.count("script") == 3
    assert "img" not in page.elements
    assert len(page.ids) == len({*page.ids})
    assert {link[1:] for link in page.links if link.startswith("#")} <= {*page.ids}
    assert [link for link in page.links if not link.startswith("#")] == []
    assert b.run_id in page.text
    assert number(found.predictions["kl"].mean) in page.text
    assert number(found.sites[0].relative_distance.value) in page.text
    assert "profiles.duckdb" not in page.text
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    tables = json.loads(data)["tables"]
    assert {name: table["rows"] for name, table in tables.items()} == {
        **{"gate": 2, "drift_predictions": 13, "drift_sites": 1, "drift_tokens": 10},
        **{"drift_positions": 5, "drift_histogram": tables["drift_histogram"]["rows"]},
    }
    outcome = next(one for one in tables["gate"]["columns"] if one["name"] == "outcome")
    assert [outcome["words"][code] for code in outcome["codes"]] == ["FAIL", "not met"]
    assert page.text.index("FAIL: of 2 conditions 1 is met.") < page.text.index("differs from")
    for table in tables.values():
        names = {column["name"] for column in table["columns"]}
        assert {*table["key"]} <= names
        assert not names & {"run_a", "run_b"}
    first = [one["name"] for one in tables["drift_tokens"]["columns"] if one["first"]]
    assert first[:4] == ["kl", "at", "text_so_far", "came"]


@pytest.mark.slow
def test_equal_rows_are_said_to_be_equal(two: tuple[Made, Made]) -> None:
    """Their SQNR is infinite: a word in texts and to page.js, null in JSON, a number in SQL."""
    a, _ = two
    found = diff(a.root, "base", "base", DiffSettings(sites=["final"]))
    assert found.is_nothing
    assert found.sites[0].sqnr[:2] == (math.inf, 0.0)
    shown = page_of_drift(found)
    for form in ("text", "md", "html"):
        assert "equal" in written(shown, form).replace("exactly equal", "")
    (table,) = [table for table in shown.tables if table.name == "drift_sites"]
    columns = {column["name"]: column for column in table.data()["columns"]}
    assert columns["sqnr"]["values"] == ["Infinity"]
    assert found.sites_frame()["sqnr"].to_list() == [math.inf]
    done = CliRunner().invoke(main, ["diff", str(a.root), "base", "base", "--format", "json"])
    assert {row["sqnr"] for row in json.loads(done.stdout)["tables"]["drift_sites"]} == {None}


@pytest.mark.slow
def test_the_python_of_a_table_gives_it(two: tuple[Made, Made]) -> None:
    a, b = two
    found = diff(a.root, "base", b.run_id, DiffSettings(skip_first=2, sites=["final"]))
    (table,) = [table for table in page_of_drift(found).tables if table.name == "drift_sites"]
    *head, last = table.code.splitlines()
    scope: dict[str, Any] = {}
    exec("\n".join([*head, f"again = {last}"]), scope)
    again, before = scope["again"], found.sites_frame()
    assert again.filter(site="final")["cka"].to_list() == before["cka"].to_list()


@pytest.mark.slow
def test_a_page_of_two_stores_and_of_one_run(
    two: tuple[Made, Made], make_run: MakeRun, tmp_path: Path
) -> None:
    a, _ = two
    far = make_run(LENGTHS, model="tiny/far", seed=2, root=tmp_path / "far")
    done = invoke(a.root, "base", f"{far.root}::far", "--format", "html")
    assert done.exit_code == 0, done.output
    assert f"{far.root}::{far.run_id}" in Page(done.stdout).text
    same = Page(written(page_of_drift(diff(a.root, "base", "base")), "html"))
    assert "the same predictions" in same.text
    assert "plan-1" in same.ids
    assert "plan-2" not in same.ids  # one run in the provenance


def invoke(root: Path, *words: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["diff", str(root), *words])


@pytest.mark.slow
def test_the_command_writes_the_page(two: tuple[Made, Made], tmp_path: Path) -> None:
    a, b = two
    file = tmp_path / "drift.html"
    done = invoke(a.root, "base", b.run_id, "-o", str(file), "--fail-if", "kl > 0.01")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == str(file)
    assert file.read_text().lstrip().startswith("<!DOCTYPE html>")
    assert "FAIL" in done.stdout.splitlines()[0]


def test_without_charts_a_page_is_refused_first(
    two: tuple[Made, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "altair", None)
    monkeypatch.delitem(sys.modules, "lpp.analyze.charts.theme")
    done = invoke(two[0].root, "base", two[1].run_id, "--format", "html")
    assert (done.exit_code, done.stdout) == (2, "")
    assert install_command("report") in done.stderr
