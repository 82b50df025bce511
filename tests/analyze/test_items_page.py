"""Items in charts, on a page of their own, and in the report of a store."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chart_frames import item_features, item_reliability, item_risk
from click.testing import CliRunner, Result
from evaluated_items import EvaluatedRun, evaluated_run
from every_chart import marks, panels, rows
from made_runs import Made, MakeRun
from pages import Page
from report_tables import database, make_store, run_id

import lpp.analyze
from lpp.analyze import ItemsSettings, item_depth_chart, reliability_chart, risk_chart
from lpp.analyze.cli.command import main
from lpp.analyze.evaluations.evaluated import EvaluatedItems, evaluated_items
from lpp.analyze.evaluations.mistakes import confident_mistakes
from lpp.analyze.evaluations.pages.items_page import items_page
from lpp.analyze.evaluations.pages.verdict import verdict
from lpp.analyze.evaluations.tables import MEANING, ItemAnalysis
from lpp.analyze.pages.page import Section
from lpp.analyze.pages.words import plain
from lpp.analyze.pages.write import written as page_in
from lpp.analyze.report.content import report
from lpp.analyze.report.report import write_report
from lpp.store.errors import InputError

HOSTILE = "x/<img src=x onerror=alert(1)>"
CURVES = ["items-depth", "items-reliability", "items-risk"]


@pytest.fixture(scope="module")
def written(make_shared_run: MakeRun) -> EvaluatedRun:
    """Items that the entropy before the answer tells apart, of a model and a task of odd names."""

    def calm(made: Made, prompt: int, answer: int) -> bool:
        return bool(made.entropy[prompt][answer] < 1.5 or prompt % 5 == 0)

    return evaluated_run(make_shared_run, items=80, right=calm, model=HOSTILE, task="<b>quiz")


@pytest.fixture(scope="module")
def some(written: EvaluatedRun) -> EvaluatedItems:
    return evaluated_items(written.root, "<b>quiz")


@pytest.fixture(scope="module")
def found(written: EvaluatedRun) -> ItemAnalysis:
    return lpp.analyze.items(written.root, "<b>quiz", settings=ItemsSettings(sites=["final"]))


# charts


def test_depth_has_the_shuffles_the_baselines_and_the_best_prediction() -> None:
    (panel,) = panels(item_depth_chart(item_features()))
    band, dashed = (layer["rows"] for layer in marks(panel, "rule")[:2])
    # two features: AUROC 0.5 and 0.55 at embed, 0.51 and 0.56 at block.1, 0.52 and 0.57 at final,
    # which stands apart
    assert [(row["depth"], row["shuffled_low"], row["shuffled_high"]) for row in band] == [
        (0, pytest.approx(0.45 - 0.055), pytest.approx(0.55 + 0.055)),
        (1, pytest.approx(0.45 - 0.056), pytest.approx(0.55 + 0.056)),
        (1.15, pytest.approx(0.45 - 0.057), pytest.approx(0.55 + 0.057)),
    ]
    # .28 is farther from .5 than .7; the gold answer's is no rule
    assert [(row["name"], row["value"]) for row in dashed] == [
        ("answer_length", 0.54),
        ("answer_entropy", 0.28),
    ]
    points = rows(panel)
    assert [row["value"] for row in points if row["curve"] == "row_norm"] == [0.5, 0.51, 0.52]
    assert [row["low"] for row in points if row["curve"] == "distance"] == [0.45, 0.46, 0.47]


def test_depth_goes_by_numbers_within_groups_where_there_are_any() -> None:
    frame = item_features().with_columns(
        within_auroc=pl.col("auroc") - 0.125, within_shuffled_low=0.4, within_shuffled_high=0.6
    )
    (panel,) = panels(item_depth_chart(frame))
    assert [row["value"] for row in rows(panel)][3:] == pytest.approx([0.375, 0.385, 0.395])
    assert "within groups" in panel["description"]


def test_reliability_and_risk_have_their_rows() -> None:
    (panel,) = panels(reliability_chart(item_reliability()))
    assert [(row["n"], row["confidence"], row["value"]) for row in rows(panel)] == [
        *((10, 0.3, 0.2), (12, 0.5, 0.5), (20, 0.875, 0.75)),
    ]
    assert rows(panel)[0]["low"] == pytest.approx(0.075)
    assert [(row["confidence"], row["value"]) for row in rows(panel, "line")] == [(0, 0), (1, 1)]
    (panel,) = panels(risk_chart(item_risk()))
    assert [(row["coverage"], row["value"]) for row in rows(panel, "line")] == [
        *((0.25, 0), (0.5, 0), (0.75, pytest.approx(1 / 3, abs=1e-6)), (1, 0.25)),
    ]
    assert [row["value"] for row in rows(panel, "rule")] == [0.25]


def test_a_chart_of_several_analyses_is_refused() -> None:
    two = pl.concat([item_risk(), item_risk().with_columns(task=pl.lit("other"))])
    with pytest.raises(InputError, match="2 analyses"):
        risk_chart(two)


# the page


def test_the_page_says_what_was_found_and_names_are_text(
    written: EvaluatedRun, some: EvaluatedItems, found: ItemAnalysis
) -> None:
    text = page_in(items_page(str(written.root), found), "html")
    page = Page(text)
    assert page.elements.count("script") == 3
    assert not {"img", "b"} & {*page.elements}
    assert len(page.ids) == len({*page.ids})
    assert {link[1:] for link in page.links if link.startswith("#")} <= {*page.ids}
    assert [link for link in page.links if not link.startswith("#")] == []
    assert f"{found.row['n_right']} of 80 items" in page.text
    gap = found.features_frame().filter(feature="answer_entropy").row(0, named=True)
    there = found.features_frame().drop_nulls("auroc")
    best = f"answer_entropy separates right from wrong answers best (AUROC {gap['auroc']:.2f} ["
    assert f"{best}{gap['ci_low']:.2f}" in page.text
    for flag in ("first_positions", "no_groups"):
        assert MEANING[flag] in page.text
    assert MEANING["items_left_out"] not in page.text
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    document = json.loads(data)
    assert [*document["charts"]] == CURVES
    tables, n_sites = document["tables"], len(there.filter(pl.col("site") != ""))
    assert {name: table["rows"] for name, table in tables.items()} == {
        **{"item-features": len(there) - n_sites, "item-sites": n_sites},
        **{"item-controls": len(found.features_frame()), "item-analyses": 1},
        **{"item-reliability": 10, "item-risk": 80, "item-mistakes": 10},
    }
    for table in tables.values():
        names = {column["name"] for column in table["columns"]}
        assert {*table["key"]} <= names
        assert not names & {"run", "seed", "source"}
        assert "within_auroc" not in names  # the items have no groups
    columns = [column["name"] for column in tables["item-features"]["columns"]]
    assert columns[:5] == ["feature", "auroc", "partial_auroc", "q_value", "role"]
    items = next(one for one in tables["item-mistakes"]["columns"] if one["name"] == "item")
    assert items["values"] == confident_mistakes(some)["item"].to_list()


def test_the_python_and_the_command_of_a_page_give_it_again(
    written: EvaluatedRun, some: EvaluatedItems, found: ItemAnalysis
) -> None:
    text = page_in(items_page(str(written.root), found), "html")
    (code,) = re.findall(r'<pre id="text-item-sites"[^>]*>(.*?)</pre>', text, re.DOTALL)
    for mark, character in (("&#39;", "'"), ("&#34;", '"'), ("&lt;", "<"), ("&gt;", ">")):
        code = code.replace(mark, character)
    *head, last = code.splitlines()
    scope: dict[str, Any] = {}
    exec("\n".join([*head, f"again = {last}"]), scope)
    sites = found.features_frame().filter(pl.col("site") != "").drop_nulls("auroc")
    assert scope["again"]["auroc"].to_list() == sites["auroc"].to_list()
    command = Page(text).text.partition("Again: ")[2].partition("\n")[0]
    words = shlex.split(command)
    assert words[:3] == ["lpp-analyze", "items", str(written.root)]
    assert "--sites=final" in words


def test_a_page_without_rows_or_confidence(make_run: MakeRun) -> None:
    def one_answer(item: dict[str, Any]) -> dict[str, Any]:
        chosen = item["chosen"]
        kept = {key: [item[key][chosen]] for key in ("prompt_ids", "log_likelihoods", "greedy")}
        return item | kept | {"chosen": None, "gold": None}

    made = evaluated_run(make_run, changes=one_answer)
    found = lpp.analyze.items(made.root, "tiny_task")
    of_no_site = {"item_features": found.features_frame().filter(site="")}
    bare = replace(found, tables={**found.tables, **of_no_site})
    text = page_in(items_page(str(made.root), bare), "html")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    document = json.loads(data)
    assert [*document["charts"]] == ["items-risk"]
    assert "better than chance" in Page(text).text
    names = [column["name"] for column in document["tables"]["item-mistakes"]["columns"]]
    assert names == ["item", "question", "chosen_answer", "confidence"]


def invoke(root: Path, *words: object) -> Result:
    words = ("items", root, "--task", *words)
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, [*map(str, words)])


@pytest.mark.slow
def test_the_command_writes_the_page_and_the_picture(written: EvaluatedRun, tmp_path: Path) -> None:
    for name, start in (("i.html", b"<!DOCTYPE html>"), ("d.svg", b"<svg"), ("d.png", b"\x89PNG")):
        output = tmp_path / name
        done = invoke(written.root, "<b>quiz", "--sites", "final", "-o", output)
        assert (done.exit_code, done.stdout) == (0, f"{output}\n"), done.output
        assert output.read_bytes().lstrip().startswith(start)


def test_markdown_has_the_sentences_and_the_mistakes(
    written: EvaluatedRun, some: EvaluatedItems, found: ItemAnalysis
) -> None:
    done = invoke(written.root, "<b>quiz", "--sites", "final", "--format", "md", "--all")
    assert done.exit_code == 0, done.output
    assert f"{found.row['n_right']} of 80 items" in done.stdout.partition("AUROC")[0]
    assert "<b>" not in re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", done.stdout)
    table = done.stdout.partition("### The most confident mistakes")[2].partition("\n\n")[2]
    rows = re.findall(r"^\| ([0-9]+) \|", table.partition("###")[0], re.MULTILINE)
    items = [int(item) for item in rows]
    assert items == confident_mistakes(some)["item"].to_list()


def test_without_charts_a_page_is_refused_first(
    written: EvaluatedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "altair", None)
    monkeypatch.delitem(sys.modules, "lpp.analyze.charts.theme")
    done = invoke(written.root, "<b>quiz", "--format", "html")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "pip install 'jinja2>=" in done.stderr


# the report of a store


def section(store: Path) -> Section | None:
    return next((one for one in report(str(store)).sections if one.name == "items"), None)


@pytest.mark.slow
def test_sentences_of_each_task_in_the_report(tmp_path: Path) -> None:
    names = [f"m{k}" for k in range(5)]
    store = make_store(tmp_path, database(names))
    shown = section(store)
    assert shown is not None
    every = [plain(one) for one in shown.notes]
    said = [one for one in every if "quiz" in one]
    assert len(said) == 5
    for number in (
        *(run_id(0, "m0"), "40 of 100", "0.40 [0.30, 0.50]"),
        *("answer_length (AUROC 0.55)", "answer_gap separates", "AUROC 0.80 [0.70, 0.90]"),
    ):
        assert number in said[0]
    telling = [one for one in every if "q below" in one]
    assert len(telling) == 3  # more are not told in full
    for number in ("1 of 10", "none beats the best baseline"):
        assert number in telling[0]
    assert [chart.name for chart in shown.charts] == CURVES
    assert [len(chart.specifications()) for chart in shown.charts] == [5, 5, 5]
    flags = report(str(store)).flags
    assert flags["small_groups"] == MEANING["small_groups"]
    text = write_report(str(store), tmp_path / "r.md", "md")[0].read_text()
    assert "### What separates right answers from wrong ones" in text


def test_a_store_without_evaluations_has_no_section(tmp_path: Path) -> None:
    names = ("item_analyses", "item_features", "item_reliability", "item_risk")
    store = make_store(tmp_path, database(["a", "b"]) | {name: [] for name in names})
    assert section(store) is None


@pytest.mark.slow
def test_what_was_evaluated_and_not_analysed_is_named(make_run: MakeRun) -> None:
    made = evaluated_run(make_run)
    evaluated_run(make_run, model="tiny/few", source="few", items=20, seed=5)
    shown = section(made.root)
    assert shown is not None
    few, enough = sorted(map(plain, shown.notes), key=len)
    assert "12 right and 8 wrong" in few
    words = shlex.split(enough.partition("not analysed: ")[2])
    assert CliRunner().invoke(main, words[1:]).exit_code == 0
    shown = section(made.root)
    assert shown is not None
    *told, last = [plain(note) for note in shown.notes]
    assert last == few
    assert "30 of 60 items" in told[0]
    frames = {answer.name: answer.frame for answer in shown.tables}
    assert frames["item-analyses"].height == 1
    mistakes = confident_mistakes(evaluated_items(made.root, "tiny_task", run=made.made.run_id))
    own = frames["item-mistakes"].filter(run=made.made.run_id)
    assert own["item"].to_list() == mistakes["item"].to_list()


def test_no_sentence_says_that_an_interval_with_zero_shows_equality(found: ItemAnalysis) -> None:
    """Ten wrong items: .80 against .43 is a gain whose interval holds 0."""
    gain = {"gain": 0.23, "gain_ci_low": -0.02, "gain_ci_high": 0.48, "gain_p_value": 0.08}
    features = (
        found.features_frame().filter(pl.col("role") != "baseline").drop_nulls("auroc").head(1)
    )
    baseline = found.features_frame().filter(role="baseline").drop_nulls("auroc").head(1)
    rows = features.with_columns(auroc=0.8, q_value=0.01, **{k: pl.lit(v) for k, v in gain.items()})
    result = verdict(pl.concat([rows, baseline.with_columns(auroc=0.43)]), within=False)
    assert result.beyond  # q is below .1, and the 95 % interval holds 0
    assert "but not significantly better" in result.best_feature("leads")
    assert "0.23 [-0.02, 0.48]" in result.best_feature("leads")
    assert "no more" not in result.sentence("right")
    sure = rows.with_columns(gain_ci_low=0.1, gain_p_value=0.001)
    result = verdict(pl.concat([sure, baseline.with_columns(auroc=0.43)]), within=False)
    assert ", significantly better" in result.best_feature("leads")
