"""A page about more runs than it can hold: it names some, and where all of them are."""

from pathlib import Path

import pytest
from report_tables import database, make_store

from lpp.analyze.pages.html import as_html
from lpp.analyze.pages.markdown import as_markdown
from lpp.analyze.pages.words import plain
from lpp.analyze.report import answers
from lpp.analyze.report.content import report
from lpp.sql import connect


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(answers, "MOST_RUNS", 4)
    monkeypatch.setattr(answers, "SHOWN_RUNS", 3)
    return make_store(tmp_path, database(["a", "b", "c", "d", "e"]))


@pytest.mark.slow
def test_it_shows_the_ends_and_says_how_many_there_are(store: Path) -> None:
    page = report(str(store))
    with connect(store) as connection:
        (ends,) = connection.sql(
            "SELECT arg_min(run, entropy_floor), arg_max(run, entropy_floor) FROM profiles"
        ).fetchall()
        assert connection.sql("SELECT count(*) FROM runs").fetchall() == [(5,)]
    shown = set(page.runs.order)
    assert len(shown) == 3
    assert {*ends} <= shown
    assert {origin.run for origin in page.origin.runs} == shown
    for section in page.sections:
        for answer in section.tables:
            for name in {"run", "run_a", "run_b"} & {*answer.frame.columns}:
                assert {*answer.frame[name].drop_nulls()} <= shown, answer.name
    assert f"lpp-sql {store} --run surprises" in plain(page.lacking)
    letters = [page.runs.name(run) for run in page.runs.order]
    assert page.title == f"{store.name}: {letters[0]}, {letters[1]}, {letters[2]} and 2 more"
    about = plain(page.about)
    assert "3 of its 5 runs" in about
    assert f"lpp-sql {store} --run profiles" in about
    for text in (as_html(page), as_markdown(page)):
        assert "3 of its 5 runs" in text


@pytest.mark.slow
def test_a_page_of_few_has_every_run(tmp_path: Path) -> None:
    page = report(str(make_store(tmp_path, database(["a", "b", "c"]))))
    assert len(page.runs.order) == 3
    assert "runs" not in plain(page.about)
