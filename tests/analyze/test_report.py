"""The report without a browser: what it says, what it escapes, what it refuses."""

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pytest
from click.testing import CliRunner
from report_tables import database, make_store, run_id
from terminal import HOSTILE as STEERS
from terminal import SHOWN, steering

from lpp.analyze.cli.command import main
from lpp.analyze.report.answers import ask
from lpp.analyze.report.content import Section, report
from lpp.analyze.report.drift_queries import DRIFT_QUERIES
from lpp.analyze.report.findings import findings
from lpp.analyze.report.item_queries import ITEM_QUERIES
from lpp.analyze.report.queries import QUERIES
from lpp.analyze.report.report import write_report
from lpp.analyze.report.surprises import surprises
from lpp.analyze.report.tables import TableView
from lpp.analyze.report.words import plain
from lpp.analyze.tables.build import build_database
from lpp.sql import TABLES, connect
from lpp.store.errors import ErrorKind, InputError, MachineError
from lpp.store.format.tables import VOCABULARY_SCHEMA
from lpp.store.shared.vocabularies import add_vocabulary

HOSTILE = ("<img src=x onerror=alert(1)>", "'; DROP TABLE profiles; --", "</script><script>")


def said(store: Path) -> list[str]:
    """Sentences of the first paragraph."""
    return [plain(sentence) for sentence in findings(ask(store, QUERIES))]


def test_two_runs_are_told_by_what_exceeds_the_interval(tmp_path: Path) -> None:
    a, b = (run_id(k, name) for k, name in enumerate(("a", "b")))
    assert said(make_store(tmp_path, database(["a", "b"]))) == [
        f"At final, context 200, 100 prompts, on the same prompts: {a} and {b}.",
        # half widths of 0.001 and 0.5, from one group of ten: of the differences sqrt(20 / 9) times
        "They differ beyond the interval of the difference in entropy floor (0.2 and 0.22, "
        "difference -0.02 [-0.02149, -0.01851] of ln V) and effective rank (10 and 20, "
        "difference -10 [-10.75, -9.255] dimensions).",
        "They do not in participation ratio (5 and 5.01, difference -0.01 [-0.7554, 0.7354] "
        "dimensions).",
    ]


def test_many_runs_are_counted(tmp_path: Path) -> None:
    sentences = said(make_store(tmp_path, database([f"m{k}" for k in range(4)])))
    assert (
        sentences[0]
        == "At final, context 200, 100 prompts, on the same prompts, the runs make 6 pairs."
    )
    assert sentences[1] == (
        "In entropy floor, 6 differ beyond the interval of the difference; it runs from "
        "0.2 (m0-00000000) to 0.26 (m3-00000003) of ln V."
    )
    assert sentences[2].startswith(
        "In participation ratio, 0 differ beyond the interval of the difference and 6 do not; "
    )


def test_values_without_intervals_or_missing_are_not_compared(tmp_path: Path) -> None:
    tables = database(["a", "b"])
    tables["jackknife"] = [row for row in tables["jackknife"] if row["metric"] != "effective_rank"]
    tables["profiles"][1]["entropy_floor"] = None
    sentences = said(make_store(tmp_path, tables))
    assert (
        "Without an interval nothing is said of effective rank (10 and 20, difference -10 "
        "(no interval) dimensions)." in sentences
    )
    assert (
        "A value is missing, so nothing is said of entropy floor (0.2 and – of ln V)." in sentences
    )


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
    tables = database(["a"])
    beside = database(["none", "b"], **other)
    for name, rows in beside.items():
        tables[name] += [row for row in rows if "-00000001" in str(row.get("run", ""))]
    store = make_store(tmp_path, tables)
    assert said(store) == [
        "No two runs share a site, a context and the same prompts.",
        "1 pair of runs shares no such setting and cannot be compared.",
    ]
    apart = ask(store, QUERIES)["apart"].frame.row(0, named=True)
    assert [k for k, v in apart.items() if v is True] == [shared]
    page = write_report(str(store), tmp_path / "r.html")[0].read_text()
    assert "Pairs of runs without a common setting" in page


def test_one_run_and_none(tmp_path: Path) -> None:
    one = said(make_store(tmp_path / "one", database(["a"])))
    assert one[0] == "There is one run, so there is nothing to compare it with."
    assert one[1].endswith(
        "entropy floor 0.2 [0.199, 0.201] of ln V, participation ratio 5 [4.5, 5.5] dimensions, "
        "effective rank 10 [9.5, 10.5] dimensions."
    )
    none = ["There are no profiles, so there is nothing to compare."]
    assert said(make_store(tmp_path / "none")) == none
    assert said(make_store(tmp_path / "empty", database([]))) == none


def test_every_query_runs_on_the_declared_tables_and_its_key_identifies_a_row(
    tmp_path: Path,
) -> None:
    flags = ["template", "collapsed"]
    store = make_store(tmp_path, database(["a", "b", "c"], flags=flags, series="one"))
    for answer in ask(store, (*QUERIES, *DRIFT_QUERIES, *ITEM_QUERIES)).values():
        assert answer.fault is None
        if not answer.query.name.startswith("all-") and answer.query.name not in (
            "agreement",
            "apart",
        ):
            assert answer.frame.height > 0, answer.query.name
            key = list(answer.query.key)
            assert answer.frame.select(key).is_unique().all(), answer.query.name


def test_every_number_of_a_table_has_a_unit_or_a_meaning(tmp_path: Path) -> None:
    answers = ask(
        make_store(tmp_path, database(["a", "b"])), (*QUERIES, *DRIFT_QUERIES, *ITEM_QUERIES)
    )
    for answer in answers.values():
        shown = answer.columns
        view = TableView(answer)
        for column in view.columns:
            if column.kind == "number":
                assert column.name in shown, f"{answer.query.name}.{column.name}"


class Texts(HTMLParser):
    """Elements by name, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.handlers: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
def test_hostile_names_are_text_and_links_lead_somewhere(tmp_path: Path) -> None:
    store = make_store(tmp_path, database(HOSTILE, flags=list(HOSTILE[:1])))
    (path,) = write_report(str(store), tmp_path / "report.html")
    page = Texts()
    page.feed(path.read_text())
    assert page.elements.count("script") == 3
    assert "img" not in page.elements
    assert page.handlers == []
    for name in HOSTILE:
        assert name in page.text
    assert len(page.ids) == len(set(page.ids))
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    assert [link for link in page.links if not link.startswith("#")] == []


@pytest.mark.slow
@pytest.mark.parametrize("form", ["html", "md"])
def test_no_name_brings_controls_into_a_report(tmp_path: Path, form: Any) -> None:
    tables = database([STEERS, "b"], flags=[STEERS])
    store = make_store(tmp_path / f"it's {STEERS}", tables)
    (path,) = write_report(str(store), tmp_path / f"report.{form}", form)
    text = path.read_text()
    body = re.sub("<script>.*?</script>", "", text, flags=re.DOTALL)  # Vega holds some as text
    assert steering(body) == set()
    assert not {character for character in text if character < " "} - {"\n", "\t"}
    if form == "html":
        page = Texts()
        page.feed(body)
        assert SHOWN in page.text
    else:
        assert SHOWN.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]") in text


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


def test_markdown_is_a_summary_in_which_names_stay_text(tmp_path: Path) -> None:
    store = make_store(tmp_path, database(["a|b`c\n# d", "<img src=x>"]))
    (path,) = write_report(str(store), tmp_path / "summary.md", "md")
    text = path.read_text()
    assert "\n# d" not in text
    assert "<img" not in re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    assert len(rows) > 8
    assert len(counts) <= 5  # as many as tables
    assert "They differ beyond the interval of the difference in entropy floor" in text
    assert "- database: SHA-256 `" in text


@pytest.mark.slow
@pytest.mark.parametrize("form", ["svg", "png"])
def test_pictures_are_one_for_each_chart(tmp_path: Path, form: Any) -> None:
    store = make_store(tmp_path, database(["a", HOSTILE[0]]) | {"sensitivity": []})
    written = write_report(str(store), tmp_path / f"figure.{form}", form)
    assert [path.name for path in written] == [
        f"figure-{name}.{form}"
        for name in (
            *("profiles", "drift-depth", "drift-positions", "drift-histogram", "depth", "entropy"),
            *("items-depth", "items-reliability", "items-risk"),
            *("correlations-pearson", "correlations-spearman", "correlations-rank_partial"),
        )
    ]
    start = b"<svg" if form == "svg" else b"\x89PNG"
    assert all(path.read_bytes().startswith(start) for path in written)


@pytest.mark.slow
def test_provenance_names_checksums_and_a_command_that_exists(
    make_run: Any, tmp_path: Path
) -> None:
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
    assert dict(origin.facts)["weights"] == "w0"
    database_file = (made.root / "profiles.duckdb").read_bytes()
    assert found.origin.database == hashlib.sha256(database_file).hexdigest()
    words = shlex.split(origin.command)
    known = {option for p in capture.params for option in p.opts if isinstance(p, click.Option)}
    assert {word for word in words if word.startswith("--")} <= known
    assert words[words.index("--model") + 1] == "org/<b>tiny</b>"
    drawn = {c.name: c.specifications() for s in found.sections for c in s.charts}
    assert len(drawn["spectrum"][""]["datasets"]) > 0


@pytest.mark.slow
def test_spectra_are_shown_where_they_were_kept_and_never_computed(
    make_run: Any, tmp_path: Path
) -> None:
    made = make_run(model="a/one")
    build_database(made.root)
    other = make_run(model="b/two", seed=3)
    build_database(made.root)
    shutil.rmtree(made.root / "analysis" / other.run_id)
    found = report(str(made.root))
    depth = next(section for section in found.sections if section.name == "depth")
    (spectra,) = (answer for answer in depth.answers if answer.query.name == "eigenvalues")
    assert spectra.frame["run"].unique().to_list() == [made.run_id]
    assert [plain(note) for note in depth.notes if "spectrum" in plain(note)] == [
        f"{other.run_id}: its spectrum at final is not in the analysis cache: lpp-analyze profile."
    ]
    shutil.rmtree(made.root / "analysis")
    page = write_report(str(made.root), tmp_path / "r.html")[0].read_text()
    assert not (made.root / "analysis").exists()
    assert "No chart. The analysis cache has no rows for it. <code>lpp-analyze profile" in page


@pytest.mark.slow
def test_a_training_has_its_section_where_three_steps_are_comparable(tmp_path: Path) -> None:
    hostile = "a|b <i>"
    store = make_store(tmp_path / "three", database(["a", "b", "c"], series=hostile))
    (section,) = [s for s in report(str(store)).sections if s.name == "training"]
    (chart,) = section.charts
    assert list(chart.specifications()) == [
        "entropy_floor",
        "participation_ratio",
        "effective_rank",
    ]
    (answer,) = section.answers
    assert answer.frame["step"].to_list() == [0, 1000, 2000]
    assert answer.frame["effective_rank"].to_list() == pytest.approx([10, 20, 30])
    text = write_report(str(store), tmp_path / "r.md", "md")[0].read_text()
    table = text.partition("### How profiles change along a training")[2].partition("###")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| a\\|b &lt;i")]
    assert [row[1:3] for row in rows] == [
        ["0", "a-00000000"],
        ["1,000", "b-00000001"],
        ["2,000", "c-00000002"],
    ]
    assert "0.24 \\[0.239, 0.241\\]" in rows[2][-5]
    page = write_report(str(store), tmp_path / "r.html")[0].read_text()
    assert 'id="chart-training"' in page
    two = make_store(tmp_path / "two", database(["a", "b"], series="s"))
    assert "training" not in [s.name for s in report(str(two)).sections]
    other = database(["a", "b", "c"], series="s")
    other["profiles"][2] |= {"prompt_set": "other"}
    apart = make_store(tmp_path / "apart", other)
    assert "training" not in [s.name for s in report(str(apart)).sections]


def test_a_database_from_before_series_has_every_other_section(tmp_path: Path) -> None:
    store = make_store(tmp_path, database(["a", "b", "c"], series="s"))
    with connect(store, write=True) as connection:
        for column in ("series", "step"):
            connection.execute(f"ALTER TABLE lpp.runs DROP COLUMN {column}")
    found = report(str(store))
    assert [s.name for s in found.sections] == [
        *(
            "models",
            "profiles",
            "drift",
            "depth",
            "steadiness",
            "surprises",
            "items",
            "benchmarks",
            "distrust",
        ),
    ]
    faults = [a.query.name for s in found.sections for a in s.answers if a.fault]
    assert faults == ["eigenvalues"]  # this store holds no runs


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


def test_what_to_distrust_is_told_of_sites_too_and_of_nothing(tmp_path: Path) -> None:
    tables = database(["a"])
    for rows in tables.values():
        for row in rows:
            if "flags" in row:
                row["flags"] = []

    def section() -> Section:
        found = report(str(make_store(tmp_path, tables)))
        return next(section for section in found.sections if section.name == "distrust")

    assert section().answers == ()
    assert ("No number of this database carries a flag.",) in section().notes
    for row in tables["site_profiles"]:
        row["flags"] = ["collapsed"]
    (flagged,) = section().answers
    counts = flagged.frame.select("table", "flag", "n_rows").rows()
    # the profile is that of the deepest site
    assert counts == [("profiles", "collapsed", 1), ("site_profiles", "collapsed", 8)]
    assert ("No number of this database carries a flag.",) not in section().notes


def test_a_run_without_shards_or_profiles_is_told(make_run: Any, tmp_path: Path) -> None:
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
    assert f"`{other.run_id}` is in the store and not in its profiles" in text


@pytest.mark.slow
def test_a_database_of_another_release_is_told(tmp_path: Path) -> None:
    store = make_store(tmp_path, database(["a", "b"]))
    with connect(store, write=True) as connection:
        connection.execute("ALTER TABLE profiles DROP COLUMN entropy_floor_ci_low")
        connection.execute("DROP TABLE sensitivity")
    page = write_report(str(store), tmp_path / "report.html")[0].read_text()
    assert "Another release made this database" in page


@pytest.mark.slow
def test_values_that_are_not_finite_are_dashes(tmp_path: Path) -> None:
    tables = database(["a", "b"])
    tables["profiles"][0]["effective_rank"] = float("nan")
    tables["spectra"][0]["participation_ratio"] = float("inf")
    page = write_report(str(make_store(tmp_path, tables)), tmp_path / "r.html")[0].read_text()
    data = page.partition('id="data">')[2].partition("</script>")[0]
    assert (
        "A value is missing, so nothing is said of effective rank (– and 20 dimensions)."
        in said(tmp_path)
    )
    assert "NaN" not in data
    assert "Infinity" not in data


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


def test_the_command_prints_what_it_wrote(tmp_path: Path) -> None:
    store = make_store(tmp_path / "it's", database(["a", "b"]))
    result = CliRunner().invoke(main, ["report", str(store), "-o", str(tmp_path / "out.md")])
    assert result.exit_code == 0, result.output
    assert f"{tmp_path}/out.md" in result.stdout
    assert (tmp_path / "out.md").read_text().startswith("## Latent performance profiles")
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2 or "not an lpp store" in str(result.exception)


def test_an_empty_store_has_no_pictures(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    result = CliRunner().invoke(main, ["report", str(store), "-o", str(tmp_path / "a.svg")])
    assert result.exit_code == 0, result.output
    assert "No chart has data" in result.stdout


def test_tables_named_in_the_report_are_declared() -> None:
    assert {query.table for query in QUERIES} <= set(TABLES)


TOKEN = "<script>alert(4)</script> the\n\x1b[2J\u202eabc|*a*`&lt;"
"""What a token may be, at worst."""


def add_words(root: Path, tokenizer: str) -> None:
    """Give the tokens 0 to 98 of a tokenizer texts that mean something to a page."""
    texts = [f"{TOKEN}{token}" for token in range(99)]
    columns = {"id": range(99), "bytes": [text.encode() for text in texts], "text": texts}
    add_vocabulary(root, tokenizer, pa.table(columns).cast(VOCABULARY_SCHEMA))


@pytest.mark.slow
def test_surprising_tokens_are_words_that_mean_nothing_to_a_page(
    make_run: Any, tmp_path: Path
) -> None:
    run = make_run()
    build_database(str(run.root))
    (path,) = write_report(str(run.root), tmp_path / "report.html")
    assert "alert(4)" not in path.read_text()
    add_words(run.root, run.plan.tokenizer.fingerprint)
    (path,) = write_report(str(run.root), tmp_path / "report.html")
    text = path.read_text()
    page = Texts()
    page.feed(text)
    assert page.elements.count("script") == 3
    assert "<script>alert(4)</script>␣the\\n\\x1b[2J\\u202eabc|*a*`&lt;" in page.text
    assert steering(re.sub("<script>.*?</script>", "", text, flags=re.DOTALL)) == set()


def test_a_store_of_many_tokens_names_the_command(
    make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    build_database(str(run.root))
    assert surprises(str(run.root)).missing is None
    monkeypatch.setattr("lpp.analyze.report.surprises.MOST_TOKENS", 9)
    missing = surprises(str(run.root)).missing
    assert missing is not None
    assert missing.endswith(f"lpp-sql {shlex.quote(str(run.root))} --run surprises")
