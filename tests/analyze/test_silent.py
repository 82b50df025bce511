"""The library prints nothing: what its public functions have to say is a value, an exception, a
warning, or goes to the `Progress` that they are given.
"""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from every_chart import CHARTS
from flipped_items import TASK, two_runs
from made_runs import MakeRun
from teachers import write_teacher

import lpp.analyze
import lpp.sql
import lpp.store
from lpp.analyze.probes.tables import probe_tables
from lpp.store.runs.add_fields import add_fields

PURE = {
    *("effective_rank", "eigenvalues", "linear_cka", "participation_ratio", "top_share"),
    *("aggregate", "difference_chart", "arrow_schema", "build", "saved_queries"),
}
"""Functions of numbers, frames and declarations; `build` is what `build_database` calls."""


def functions(package: ModuleType) -> set[str]:
    """The public functions of a package."""
    named = {name: getattr(package, name) for name in package.__all__}
    return {name for name, value in named.items() if callable(value) and name.islower()}


@pytest.fixture
def pair(make_run: MakeRun) -> tuple[Path, str, str]:
    """A store with two evaluated runs of one task, and their ids."""
    made = two_runs(make_run, right=lambda item: item % 3 > 0)
    return made.root, made.a.made.run_id, made.b.made.run_id


def of_analysis(root: Path, a: str, b: str, folder: Path) -> Iterator[tuple[str, Any]]:
    """Each public function of `lpp.analyze` that reads a store or draws, with its result."""
    analyze = lpp.analyze
    yield "analyze", analyze.analyze(root)
    yield "build_database", analyze.build_database(root)
    yield "layers", analyze.layers(root)
    for name in ("scan_entropy", "scan_metrics", "scan_spectra", "scan_tokens"):
        yield name, getattr(analyze, name)(root).collect()
    yield "read_eigenvalues", analyze.read_eigenvalues(root)
    drift = analyze.diff(root, a, b)
    yield "diff", drift
    yield "write_drift", analyze.write_drift(drift)
    yield "diff_against", [*analyze.diff_against(root, a)]
    yield "scan_drift_sites", analyze.scan_drift_sites(root, a, b).collect()
    yield "scan_drift_tokens", analyze.scan_drift_tokens(root, a, b).collect()
    answers = analyze.items(root, TASK, a)
    yield "items", answers
    yield "write_items", analyze.write_items(root, answers)
    yield "flipped_items", analyze.flipped_items(root, TASK, a, b)
    scores = folder / "scores.csv"
    models = ["tiny/first", "tiny/second"]
    pl.DataFrame({"model": models, "mmlu": [0.3, 0.4]}).write_csv(scores)
    yield (
        "add_benchmarks",
        analyze.add_benchmarks(root, [scores], analyze.ScoreSettings(source="a table")),
    )
    yield "correlate", analyze.correlate(root)
    add_fields(lpp.store.open_store(root).runs[a], pa.table({"field.kind": ["x", "y"] * 180}))
    probed = analyze.probe(root, "kind", a)
    yield "probe", probed
    yield "write_probes", analyze.write_probes(root, probed)
    tables = probe_tables(probed)
    yield "probe_depth_chart", analyze.probe_depth_chart(tables["probes"])
    bins = tables["probe_reliability"]
    yield "probe_reliability_chart", analyze.probe_reliability_chart(bins)
    analyze.write_direction(probed, folder / "kind.safetensors")
    yield "write_direction", None
    tested = analyze.probe_against(root, "kind", (a, b))
    yield "probe_against", tested
    yield "write_probe_tests", analyze.write_probe_tests(tested)
    teacher = write_teacher(folder / "teacher")
    path, few = folder / "targets.parquet", analyze.TargetSettings(k=5)
    yield "export_targets", analyze.export_targets(teacher, path, "topk", few)
    yield "write_report", analyze.write_report(str(root), folder / "report.html")
    for draw, frame, _ in CHARTS.values():
        yield draw.__name__, draw(frame())
    chart = lpp.analyze.profile_chart(CHARTS["profile"][1]())
    yield "save_chart", analyze.save_chart(chart, folder / "chart.svg")


@pytest.mark.slow
def test_analysis_prints_nothing(
    pair: tuple[Path, str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    called = set()
    for name, _ in of_analysis(*pair, tmp_path):
        called.add(name)
        assert capfd.readouterr() == ("", ""), name
    assert functions(lpp.analyze) == called | (functions(lpp.analyze) & PURE)


def test_store_and_sql_print_nothing(
    pair: tuple[Path, str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = pair[0]
    store = lpp.store
    other = store.create_store(tmp_path / "other")
    for run in store.open_store(root).runs.values():
        assert not run.verify()
        assert [*run.blocks(run.plan.site_names[0])]
    for source in store.read_scores(root)["source"].unique().to_pylist():
        store.remove_scores(root, source)
    lpp.analyze.build_database(root)
    with lpp.sql.connect(root) as connection:
        statement = lpp.sql.saved_query("differences").statement
        assert connection.sql(statement).fetchall() is not None
    assert other.runs == {}
    assert capfd.readouterr() == ("", "")
