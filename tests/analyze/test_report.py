"""The report without a browser: its sections, pictures and sources, and what it refuses."""

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import polars as pl
import pytest
from click.testing import CliRunner
from made_runs import MakeRun
from polars.testing import assert_frame_equal
from report_tables import RANKS, database, make_store, run_id

from lpp.analyze import LayersSettings
from lpp.analyze.cli.command import main
from lpp.analyze.pages.page import Page, Section
from lpp.analyze.pages.words import Code, Run, plain
from lpp.analyze.pages.write import written
from lpp.analyze.report.answers import ask
from lpp.analyze.report.content import report
from lpp.analyze.report.drift_queries import (
    DRIFT_HISTOGRAM,
    DRIFT_POSITIONS,
    DRIFT_QUERIES,
    DRIFT_TOKENS,
)
from lpp.analyze.report.items import ITEM_MISTAKES, ITEM_QUERIES
from lpp.analyze.report.probes import PROBE_QUERIES
from lpp.analyze.report.queries import EIGENVALUES, LAYERS, QUERIES, SURPRISES
from lpp.analyze.report.report import write_report
from lpp.analyze.report.surprises import surprises
from lpp.analyze.studies.layers import layers, write_layers
from lpp.analyze.tables.build import build_database
from lpp.sql import TABLES, connect
from lpp.store.errors import ErrorKind, InputError, MachineError

EVERY = (*QUERIES, *DRIFT_QUERIES, *ITEM_QUERIES, *PROBE_QUERIES)
"""Queries that need only the tables."""


@pytest.mark.slow
def test_every_query_runs_on_the_declared_tables_and_its_key_identifies_a_row(
    tmp_path: Path,
) -> None:
    flags = ["template", "collapsed"]
    store = make_store(tmp_path, database(["a", "b", "c"], flags=flags, series="one"))
    for answer in ask(store, EVERY).values():
        assert answer.fault is None
        if not answer.query.name.startswith("all-") and answer.query.name != "apart":
            assert answer.frame.height > 0, answer.query.name
            key = list(answer.query.key)
            assert answer.frame.select(key).is_unique().all(), answer.query.name


@pytest.mark.slow
def test_metrics_that_were_asked_for_by_name_stand_beside_the_profiles(make_run: MakeRun) -> None:
    made = make_run()
    for asked, shown in (([], []), (["outlier_severity", "rsr"], ["outlier_severity", "rsr"])):
        options = ["--metrics", ",".join(asked)] if asked else []
        done = CliRunner().invoke(main, ["profile", str(made.root), *options])
        assert done.exit_code == 0, done.output
        (section,) = (one for one in report(str(made.root)).sections if one.name == "profiles")
        tables = {table.name: table for table in section.tables}
        assert ("metrics" in tables) == bool(asked)
        if shown:
            found = ask(made.root, QUERIES)["metrics"].frame
            assert found["metric"].unique(maintain_order=True).to_list() == shown
            assert found["value"].is_finite().all()


def test_tables_named_in_the_report_are_declared() -> None:
    assert {query.table for query in QUERIES} <= set(TABLES)


@pytest.mark.slow
def test_every_number_of_a_table_has_a_unit_or_a_meaning(tmp_path: Path) -> None:
    answers = ask(make_store(tmp_path, database(["a", "b"])), EVERY)
    for answer in answers.values():
        shown = answer.columns
        for column in answer.table().fields:
            if column.kind == "number":
                assert column.name in shown, f"{answer.query.name}.{column.name}"


MAIN = {
    **{"runs": "n_prompts", "profiles": "effective_rank", "differences": "difference"},
    **{"training": "effective_rank", "layers": "effective_rank", "hourglass": "score"},
    **{"spectra": "effective_rank", "eigenvalues": "eigenvalue", "entropy": "entropy"},
    **{"surprises": "surprisal"},
    **{"correlations": "coefficient", "benchmarks": "value", "published": "entropy_floor"},
    **{"flags": "n_rows", "apart": "other_texts", "metrics": "value"},
    **{"drift_predictions": "mean", "drift_sites": "relative_distance"},
    **{"drift_histogram": "share", "drift_positions": "flips", "drift_tokens": "kl"},
    **{"item-analyses": "accuracy", "item-features": "auroc", "item-sites": "auroc"},
    **{"item-controls": "partial_auroc", "item-reliability": "accuracy", "item-risk": "risk"},
    **{"item-mistakes": "confidence", "probe-labels": "probe_auroc"},
    **{"probe-sites": "probe_auroc", "probe-controls": "probe_auroc"},
    **{"probe-reliability": "accuracy", "probe-tests": "probe_auroc_change"},
}
"""The number that each table is about."""


@pytest.mark.slow
def test_every_table_shows_its_main_number_first(tmp_path: Path) -> None:
    every = {query.name: query for query in EVERY}
    further = (
        *(EIGENVALUES, SURPRISES, ITEM_MISTAKES),
        *(DRIFT_POSITIONS, DRIFT_HISTOGRAM, DRIFT_TOKENS),
    )
    every |= {query.name: query for query in further}
    shown = {name for name in every if name != "plans" and not name.startswith("all-")}
    assert shown == {*MAIN}
    for name, column in MAIN.items():
        assert column in every[name].first, name
    store = make_store(tmp_path, database(["a", "b", "c"], flags=["template"], series="one"))
    answers = ask(store, EVERY)
    for name, column in MAIN.items():
        if name in answers and answers[name].frame.width:
            first = [one.name for one in answers[name].table().fields if one.first]
            assert column in first, name
            assert {*answers[name].query.first} <= {*first}, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("models", "names"),
    [
        ("", ""),
        ("a", ": a-00000000"),
        ("ab", ": a-00000000 and b-00000001"),
        ("abcd", ": a-00000000, b-00000001, c-00000002 and 1 more"),
    ],
)
def test_the_report_is_called_by_its_store_and_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: str, names: str
) -> None:
    store = make_store(tmp_path / "my <store>", database([*models]))
    monkeypatch.chdir(store)
    for url in (".", f"{store}/", str(store)):
        assert report(url).title == f"my <store>{names}"
    page = written(report(str(store)), "html")
    assert re.findall(r"<(title|h1)>(.*)</\1>", page) == [
        (tag, f"my &lt;store&gt;{names}") for tag in ("title", "h1")
    ]
    first_screen, rest = re.split('<h2 id="h-(?!findings)', page.partition("</nav>")[2], maxsplit=1)
    assert "filter" not in first_screen.lower()
    assert "A filter keeps the rows" in rest


@pytest.mark.slow
def test_tables_and_letters_are_in_one_order(tmp_path: Path) -> None:
    tables = database(["b/model", "a/model"])  # by id the first, by model the second
    for name, rows in tables.items():
        swap = {run_id(0, "b/model"): "run-1", run_id(1, "a/model"): "run-2"}
        tables[name] = [
            {k: swap.get(v, v) if isinstance(v, str) else v for k, v in row.items()} for row in rows
        ]
    found = report(str(make_store(tmp_path, tables)))
    assert found.runs.order == ("run-1", "run-2")
    for section in found.sections:
        for answer in section.tables:
            if "run" in answer.frame.columns and "run_b" not in answer.frame.columns:
                runs = answer.frame["run"].unique(maintain_order=True).to_list()
                assert runs == ["run-1", "run-2"], answer.name


@pytest.mark.slow
@pytest.mark.parametrize("form", ["svg", "png"])
def test_pictures_are_one_for_each_chart(tmp_path: Path, form: Any) -> None:
    store = make_store(tmp_path, database(["a", "<img src=x onerror=alert(1)>"]))
    written = write_report(str(store), tmp_path / f"figure.{form}", form)
    assert [path.name for path in written] == [
        f"figure-{name}.{form}"
        for name in (
            *("profiles", "drift-depth", "drift-positions", "drift-histogram", "depth", "entropy"),
            *("items-depth", "items-reliability", "items-risk"),
            *("probe-depth", "probe-reliability"),
        )
    ]
    start = b"<svg" if form == "svg" else b"\x89PNG"
    assert all(path.read_bytes().startswith(start) for path in written)


@pytest.mark.slow
def test_provenance_names_checksums_and_a_command_that_exists(make_run: MakeRun) -> None:
    from lpp.capture.cli.run import run as capture

    made = make_run(model="org/<b>tiny</b>")
    build_database(made.root)
    found = report(str(made.root))
    (origin,) = found.origin.runs
    assert origin.problem is None
    assert [path for path, _ in origin.checksums] == [
        "COMMIT.json",
        *(f"shards/0000{k}/COMMIT.json" for k in range(3)),
    ]
    assert dict(origin.facts)["weights"] == made.plan.model.weights
    database_file = (made.root / "profiles.duckdb").read_bytes()
    assert found.origin.database == hashlib.sha256(database_file).hexdigest()
    words = shlex.split(origin.command)
    known = {option for p in capture.params for option in p.opts if isinstance(p, click.Option)}
    assert {word for word in words if word.startswith("--")} <= known
    assert words[words.index("--model") + 1] == "org/<b>tiny</b>"
    drawn = {c.name: c.specifications() for s in found.sections for c in s.charts}
    assert any(drawn["spectrum"][""]["datasets"].values())


@pytest.mark.slow
def test_spectra_are_shown_where_they_were_kept_and_never_computed(make_run: MakeRun) -> None:
    made = make_run(model="a/one")
    build_database(made.root)
    other = make_run(model="b/two", seed=3)
    build_database(made.root)
    shutil.rmtree(made.root / "analysis" / other.run_id)
    found = report(str(made.root))
    depth = next(section for section in found.sections if section.name == "depth")
    (spectra,) = (answer for answer in depth.tables if answer.name == "eigenvalues")
    assert spectra.frame["run"].unique().to_list() == [made.run_id]
    assert [plain(note) for note in depth.notes if "spectrum" in plain(note)] == [
        f"{other.run_id}: its spectrum at final is not in the analysis cache: lpp-analyze profile."
    ]
    shutil.rmtree(made.root / "analysis")
    titles, command = advice(report(str(made.root)))
    assert not (made.root / "analysis").exists()
    assert "Spectra" in titles
    assert command[:3] == ["lpp-analyze", "profile", str(made.root)]


@pytest.mark.slow
def test_a_training_has_its_section_where_three_steps_are_comparable(tmp_path: Path) -> None:
    hostile = "a|b <i>"
    store = make_store(tmp_path / "three", database(["a", "b", "c"], series=hostile))
    (section,) = [s for s in report(str(store)).sections if s.name == "training"]
    (chart,) = section.charts
    assert list(chart.specifications()) == ["0", "1", "2"]
    (answer,) = section.tables
    assert answer.frame["step"].to_list() == [0, 1000, 2000]
    assert answer.frame["effective_rank"].to_list() == pytest.approx([10, 20, 30])
    text = write_report(str(store), tmp_path / "r.md", "md")[0].read_text()
    table = text.partition("### How profiles change along a training")[2].partition("###")[0]
    rows = [line.split(" | ") for line in table.splitlines() if " | a\\|b &lt;i" in line]
    assert [row[:2] for row in rows] == [
        ["| A a-00000000", "0"],
        ["| B b-00000001", "1,000"],
        ["| C c-00000002", "2,000"],
    ]
    assert "0.24 \\[0.239, 0.241\\]" in rows[2][2]
    page = write_report(str(store), tmp_path / "r.html")[0].read_text()
    assert 'id="chart-training"' in page
    two = make_store(tmp_path / "two", database(["a", "b"], series="s"))
    assert "training" not in [s.name for s in report(str(two)).sections]
    other = database(["a", "b", "c"], series="s")
    other["profiles"][2] |= {"prompt_set": "other"}
    apart = make_store(tmp_path / "apart", other)
    assert "training" not in [s.name for s in report(str(apart)).sections]


@pytest.mark.slow
def test_a_database_from_before_series_has_every_other_section(tmp_path: Path) -> None:
    store = make_store(tmp_path, database(["a", "b", "c"], series="s"))
    with connect(store, write=True) as connection:
        for column in ("series", "step"):
            connection.execute(f"ALTER TABLE lpp.runs DROP COLUMN {column}")
    found = report(str(store))
    assert [s.name for s in found.sections] == [
        *("models", "profiles", "drift", "depth", "steadiness", "items"),
        *("probes", "benchmarks", "distrust"),
    ]
    (lacking,) = found.lacking  # without runs no spectra, and no command has them
    assert "Spectra" in str(lacking)
    assert str(store) in str(lacking)


@pytest.mark.slow
def test_the_page_says_what_attention_sinks_do(tmp_path: Path) -> None:
    tables = database(["a"])
    page = write_report(str(make_store(tmp_path, tables)), tmp_path / "r.html")[0].read_text()
    assert "attention sinks (Xiao et al. 2023, arXiv 2309.17453)" in page
    for row in tables["spectra"]:
        row["participation_ratio"] = 9.0  # no layer is collapsed
    for row in tables["layers"]:
        row["flags"] = []
    page = write_report(str(make_store(tmp_path, tables)), tmp_path / "r.html")[0].read_text()
    assert "2309.17453" not in page


@pytest.mark.slow
def test_what_to_distrust_is_told_of_sites_too_and_of_nothing(tmp_path: Path) -> None:
    tables = database(["a"])
    for rows in tables.values():
        for row in rows:
            if "flags" in row:
                row["flags"] = []

    def section() -> Section:
        found = report(str(make_store(tmp_path, tables)))
        return next(section for section in found.sections if section.name == "distrust")

    assert section().tables == ()
    assert report(str(tmp_path)).flags == {}  # those of the published models are in no table
    assert ("No number of this database carries a flag.",) in section().notes
    for row in tables["site_profiles"]:
        row["flags"] = ["collapsed"]
    (flagged,) = section().tables
    counts = flagged.frame.select("table", "flag", "n_rows").rows()
    # the profile is that of the deepest site
    assert counts == [("profiles", "collapsed", 1), ("site_profiles", "collapsed", 8)]
    assert ("No number of this database carries a flag.",) not in section().notes
    for row in tables["site_profiles"]:
        row["flags"] = []
    tables["layers"] = []  # what the page shows of layers is computed from their spectra
    assert ("No number of this database carries a flag.",) not in section().notes
    assert section().tables == ()
    assert set(report(str(tmp_path)).flags) >= {"collapsed"}


@pytest.mark.slow
def test_probes_say_their_best_site_or_the_control_that_explains_it(tmp_path: Path) -> None:
    tables = database(["a", "b"])
    for row in tables["probes"][-10:]:  # of the second run
        row["flags"] = ["explained"]
    (section,) = [
        s for s in report(str(make_store(tmp_path, tables))).sections if s.name == "probes"
    ]
    a, b = (run_id(k, name) for k, name in enumerate("ab"))
    assert [plain(note) for note in section.notes] == [
        f"In {a}, a probe at final predicts topic (news or sport) with AUROC 0.82. The best "
        "control, length, reaches AUROC 0.60; the gain of +0.27 is significant (q 0.01).",
        "The length of prompts alone predicts topic (news or sport) with AUROC 0.60. No probe in "
        f"{b} does better (best: final, AUROC 0.82), so the probes may read no more than length.",
        f"PASS: the probe of topic at final, the best site of {a}, still works on {b}. It flags "
        "0.39 of the prompts; the reference flags 0.40.",
    ]
    best = section.tables[0]
    assert best.frame.select("run", "probe").rows() == [(a, "final"), (b, "final")]
    first = {field.name for field in best.fields if field.first}
    assert {"probe_auroc", "control", "probe_gain", "q_value"} <= first
    assert [*best.fields[3].parts] == ["ci_low", "ci_high"]
    assert [[*chart.specifications()] for chart in section.charts] == [["0", "1"]] * 2


@pytest.mark.slow
def test_labels_without_probes_have_the_command(make_run: MakeRun) -> None:
    made = make_run(carried={"field.topic": ["x", "y"] * 3})
    build_database(made.root)
    titles, _ = advice(report(str(made.root)))
    assert "Probes of labels, such as topic" in titles


@pytest.mark.slow
def test_what_was_not_computed_is_one_sentence_with_a_command_that_has_not_run(
    tmp_path: Path,
) -> None:
    tables = database(["a", "b"]) | {"hourglass": [], "correlations": []}
    titles, command = advice(report(str(make_store(tmp_path / "it's", tables))))
    assert "Hourglass" in titles
    assert "Correlations" in titles
    assert command[1:] == ["layers", str(tmp_path / "it's"), "--errors", "final"]


def advice(page: Page) -> tuple[str, list[str]]:
    """The numbers that the page lacks, and the words of the next command."""
    titles, command, _ = page.lacking
    assert isinstance(titles, str)
    assert isinstance(command, Code)
    return titles, shlex.split(command.text)


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [100, 40])
def test_runs_of_other_texts_are_told_beside_their_charts(tmp_path: Path, prompts: int) -> None:
    tables = database(["a", "b", "c"])
    for table in ("runs", "profiles", "site_profiles", "layers", "spectra"):
        for row in tables[table]:
            if row["run"] == run_id(2, "c"):
                row["n_prompts"] = prompts
                row["prompt_set"] = "texts-2"
    found = report(str(make_store(tmp_path, tables)))
    texts = {chart.name: chart.text for section in found.sections for chart in section.charts}
    for name in ("profiles", "depth"):
        groups = f"A, B (context 200, 100 prompts); C (context 200, {prompts} prompts)"
        assert groups in texts[name]
    doubts = next(section for section in found.sections if section.name == "distrust").notes
    assert any("2 sets of texts" in plain(sentence) for sentence in doubts)
    same = report(str(make_store(tmp_path / "same", database(["a", "b"]))))
    for section in same.sections:
        assert all("can be compared:" not in chart.text for chart in section.charts)
        assert all("sets of texts" not in plain(note) for note in section.notes)


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 2])
def test_a_second_curve_is_explained_where_it_is_drawn(tmp_path: Path, first: int) -> None:
    tables = database(["a"])
    tables["layers"] += [row | {"first_position": first} for row in tables["layers"]]
    if not first:
        tables["layers"] = database(["a"])["layers"]
    found = report(str(make_store(tmp_path, tables)))
    (depth,) = (c for section in found.sections for c in section.charts if c.name == "depth")
    assert ("second curve" in depth.text) == bool(first)


@pytest.mark.slow
def test_layers_without_errors_show_those_of_the_spectra(make_run: MakeRun) -> None:
    made = make_run(sites=("embed", "block.1", "final"))
    build_database(made.root)

    def ranks() -> pl.DataFrame:
        frame = ask(str(made.root), [LAYERS])["layers"].frame
        assert "no_error" not in frame["flags"].explode()
        errors = [f"{rank}_{end}" for rank in RANKS for end in ("stderr", "ci_low", "ci_high")]
        return frame.select("site", *errors)

    before = ranks()
    assert before.filter(site="final").null_count().sum_horizontal().item() == 0
    write_layers(made.root, layers(made.root, LayersSettings(errors="none")))
    assert_frame_equal(ranks(), before)


@pytest.mark.slow
def test_a_run_without_shards_or_profiles_is_told(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run(shards=[0, 2])
    with pytest.warns(UserWarning, match="1 of 3 shards are missing"):
        build_database(made.root)
    other = make_run(model="tiny/other", seed=3)
    found = report(str(made.root))
    assert found.origin.runs[0].problem == (
        "1 of 3 shards are missing (1), so it counts as its first 2 of 6 prompts: prompts count "
        "up to the first such shard. Repeat the `lpp-capture run` command: it resumes"
    )
    assert found.origin.unprofiled == (other.run_id,)
    text = write_report(str(made.root), tmp_path / "r.md", "md")[0].read_text()
    notes = [note for section in found.sections for note in section.notes]
    assert (Run(other.run_id)) in {part for note in notes for part in note}
    assert other.run_id in text


@pytest.mark.slow
def test_a_database_of_another_release_is_told(tmp_path: Path) -> None:
    store = make_store(tmp_path, database(["a", "b"]))
    with connect(store, write=True) as connection:
        connection.execute("ALTER TABLE profiles DROP COLUMN entropy_floor_ci_low")
        connection.execute("DROP TABLE layers")
    page = write_report(str(store), tmp_path / "report.html")[0].read_text()
    assert "Another release made this database" in page


def test_a_store_of_many_tokens_names_the_command(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    build_database(str(run.root))
    assert surprises(str(run.root)).missing is None
    monkeypatch.setattr("lpp.analyze.report.surprises.MOST_TOKENS", 9)
    missing = surprises(str(run.root)).missing
    assert missing is not None
    assert missing.endswith(f"lpp-sql {shlex.quote(str(run.root))} --run surprises")


@pytest.mark.slow
def test_a_full_disk_names_the_report(tmp_path: Path) -> None:
    store = make_store(tmp_path, database(["a", "b"]))
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from lpp.analyze.cli.command import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); main()"
    )
    for name in ("full.html", "full.md"):
        output = tmp_path / name
        output.write_text("before")
        words = [sys.executable, "-c", code, "report", str(store), "-o", str(output)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert f"Error: {output}: no room to write (File too large)" in done.stderr
        assert "bug" not in done.stderr
        assert output.read_text() == "before"
    left = {path.name for path in tmp_path.iterdir()} - {"lpp.json", "profiles.duckdb"}
    assert left == {"full.html", "full.md"}
    with pytest.raises(MachineError, match=r"^/dev/full: no room to write") as caught:
        write_report(str(store), Path("/dev/full"))
    assert caught.value.kind is ErrorKind.NO_SPACE


@pytest.mark.parametrize("place", ["", "no/such/folder/r.html"])
def test_an_unwritable_path_is_found_before_the_work(tmp_path: Path, place: str) -> None:
    store = tmp_path / "not-a-store-even"
    with pytest.raises(InputError) as caught:
        write_report(str(store), tmp_path / place)
    assert caught.value.kind is ErrorKind.INVALID_VALUE
    assert "Name a file with -o" in str(caught.value)


def test_a_file_system_that_takes_no_files_is_found_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_report(str(tmp_path / "none"), Path("/proc/report.html"))
    assert caught.value.kind is ErrorKind.READ_ONLY


@pytest.mark.slow
def test_the_command_prints_what_it_wrote(tmp_path: Path) -> None:
    store = make_store(tmp_path / "it's", database(["a", "b"]))
    result = CliRunner().invoke(main, ["report", str(store), "-o", str(tmp_path / "out.md")])
    assert result.exit_code == 0, result.output
    assert f"{tmp_path}/out.md" in result.stdout
    assert (tmp_path / "out.md").read_text().startswith("## it's: ")
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "not an lpp store" in result.stderr


@pytest.mark.slow
def test_report_to_standard_output_is_only_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "store", database(["a", "b"]))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["report", str(store), "--format", "md", "-o", "-"])
    assert result.exit_code == 0, result.output
    write_report(str(store), tmp_path / "r.md", "md")
    assert result.stdout == (tmp_path / "r.md").read_text()
    for words in (["-o", "-", "--format", "svg"], ["-o", "x.pdf"]):
        assert CliRunner().invoke(main, ["report", str(store), *words]).exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.md", "store"]


@pytest.mark.slow
def test_a_format_alone_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store", database(["a", "b"]))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["report", str(store), "--format", "md"])
    assert result.exit_code == 0, result.output
    assert Path("report.md").read_text().startswith("## ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.md", "store"]


@pytest.mark.slow
def test_an_empty_store_has_no_pictures(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    result = CliRunner().invoke(main, ["report", str(store), "-o", str(tmp_path / "a.svg")])
    assert result.exit_code == 0, result.output
    assert "No chart has data" in result.stdout
