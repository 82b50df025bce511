"""The Python beside the tables of a page, and the command that makes it again, run as printed."""

import ast
import json
import shlex
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from evaluated_items import evaluated_run
from flipped_items import TASK, two_runs
from kept_heads import keep_head
from made_runs import MakeRun

from lpp.analyze import DiffSettings, ItemsSettings, diff, flipped_items
from lpp.analyze.cli.command import main
from lpp.analyze.evaluations.analysis import analysis
from lpp.analyze.evaluations.answers import page_of_drift
from lpp.analyze.evaluations.evaluated import evaluated_items
from lpp.analyze.evaluations.pages.flips_page import flips_page
from lpp.analyze.evaluations.pages.items_page import items_page
from lpp.analyze.pages.page import Page
from lpp.analyze.pages.words import Code
from lpp.analyze.pages.write import written


def results(page: Page) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(table, value of the last line of its code, names that its code binds)."""
    for section in page.sections:
        for table in section.tables:
            lines = ast.parse(table.code).body
            if not any(isinstance(line, ast.ImportFrom) for line in lines):
                continue
            last, names = lines.pop(), dict[str, Any]()
            assert isinstance(last, ast.Expr), table.name
            exec(compile(ast.Module(lines, []), table.name, "exec"), names)
            value = eval(compile(ast.Expression(last.value), table.name, "eval"), names)
            yield table.name, value, names


def command(page: Page) -> list[str]:
    (section,) = (section for section in page.sections if section.name == "again")
    (code,) = (part.text for note in section.notes for part in note if isinstance(part, Code))
    return shlex.split(code)


@pytest.mark.slow
def test_a_comparison_is_repeated_with_its_settings(make_run: MakeRun) -> None:
    carried = {"field.document": pa.array([name for name in "aabbccdd" for _ in range(2)])}
    made = [
        make_run([9] * 16, vary_tokens=True, carried=carried, model=f"tiny/{name}", seed=seed)
        for seed, name in enumerate(("base", "other"))
    ]
    keep_head(made[0].root, made[0].plan)
    compared = diff(
        made[0].root,
        "base",
        "other",
        DiffSettings(prompts=12, sites=["embed", "final"], skip_first=2, cluster="document"),
    )
    page = page_of_drift(compared)
    names: list[str] = []
    for name, value, bound in results(page):
        names.append(name)
        assert len(value) > 0, name
        again, first = (x.sites_frame() for x in (bound["found"], compared))
        assert again.equals(first)
    assert {"drift_predictions", "drift_sites", "drift_positions", "drift_tokens"} <= {*names}
    program, *words = command(page)
    done = CliRunner().invoke(main, [*words, "--format", "json"])
    assert (program, done.exit_code) == ("lpp-analyze", 0), done.output
    assert json.loads(done.stdout)["tables"] == json.loads(written(page, "json"))["tables"]


@pytest.mark.slow
def test_an_analysis_of_items_is_repeated_with_its_settings(make_run: MakeRun) -> None:
    run = evaluated_run(make_run)
    settings = ItemsSettings(sites=["final"], skip_first=1, seed=2)
    items = evaluated_items(run.root, "tiny_task", run.made.run_id, settings)
    answer = analysis(items)
    names: list[str] = []
    for name, value, bound in results(items_page(str(run.root), answer)):
        names.append(name)
        assert len(value) > 0, name
        assert bound["found"]["item_features"].equals(answer.features_frame())
    assert len(names) >= 4


@pytest.mark.slow
def test_items_that_flip_are_repeated_with_their_settings(make_run: MakeRun) -> None:
    both = two_runs(make_run)
    runs = both.a.made.run_id, both.b.made.run_id
    answer = flipped_items(both.root, TASK, *runs, ItemsSettings(skip_first=1, seed=2))
    names: list[str] = []
    for name, value, bound in results(flips_page(str(both.root), answer)):
        names.append(name)
        assert len(value) > 0, name
        assert bound["found"]["item_features"].equals(answer.features_frame())
    assert "changed" in names
