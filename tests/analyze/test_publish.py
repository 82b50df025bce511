"""`lpp-analyze publish`: what others get, and what they do not."""

import importlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from kept_heads import keep_head
from served_folder import served_folder
from small_capture import make_capture, make_plan

from lpp.analyze.cli.command import main
from lpp.sql import TABLES, connect
from lpp.sql.cli.command import main as sql_main
from lpp.store import open_store
from lpp.store.format.tables import VOCABULARY_SCHEMA
from lpp.store.objects.disk import DiskObjects
from lpp.store.shared.vocabularies import add_vocabulary

if TYPE_CHECKING:
    from s3_server import S3

TEXT, LABEL, ID, TOKEN = "a zebra in the text", "giraffe", "okapi-", "wombat"
"""Words of texts, labels, ids and tokens: in no byte of what is published without texts."""

OTHER, KINDS, MARK = "pangolin", ("quokka", "numbat", "axolotl"), 1729053
"""The other label, those of a field with three, and one of tokens."""

OPEN = ("--with-texts", "--licence", "CC0-1.0", "--source", "made up here")


def analyze(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def published(*words: object) -> str:
    done = analyze("publish", *words)
    assert done.exit_code == 0, done.output
    return done.stdout


def answer(store: object, sql: str) -> list[dict[str, object]]:
    done = CliRunner().invoke(sql_main, [str(store), sql, "--format", "json"])
    assert done.exit_code == 0, done.output
    rows: list[dict[str, object]] = json.loads(done.stdout)
    return rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the same labelled texts, profiled, compared and probed."""
    root = tmp_path_factory.mktemp("private") / "lpp"
    for seed, model in enumerate(("a", "b")):
        capture = make_capture((6,) * 60, (0, 30, 60), **_changes(model))
        rng = np.random.default_rng(seed)
        values = {s.name: rng.standard_normal((360, 4), np.float32) for s in capture.plan.sites}
        prompts = capture.prompts
        for name, words in {
            "id": [f"{ID}{k}" for k in range(60)],
            "text": [f"{TEXT} {k}" for k in range(60)],
            "field.topic": [(LABEL, OTHER)[k % 2] for k in range(60)],
            "field.kind": [KINDS[k % 3] for k in range(60)],
            "field.note": [f"{OTHER} {k // 2}" for k in range(60)],
        }.items():
            prompts = prompts.append_column(name, pa.array(words, pa.string()))
        marks = pa.array([[MARK + k % 2, *[MARK] * 5] for k in range(60)], pa.list_(pa.int64()))
        prompts = prompts.append_column("token.mark", marks)
        of_tokens = replace(capture.plan.prompts, token_columns=("token.mark",))
        plan = replace(capture.plan, prompts=of_tokens)
        replace(capture, plan=plan, hidden=values, prompts=prompts).write(root)
        keep_head(root, plan, seed)
    words = [f"{TOKEN}{k}" for k in range(51)]
    columns = [range(51), [word.encode() for word in words], words]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, VOCABULARY_SCHEMA, strict=True)]
    add_vocabulary(root, "tok-print", pa.Table.from_arrays(arrays, schema=VOCABULARY_SCHEMA))
    for command in (
        ("profile", root),
        ("layers", root),
        ("diff", root, "a", "b"),
        ("probe", root, "a", "--label", f"topic={LABEL}"),
        ("probe", root, "a", "--label", "topic", "--cluster", "note", "--sites", "block.1"),
        ("probe", root, "a", "--label", "kind", "--group", "note", "--sites", "block.1,final"),
        ("probe", root, "a", "--label", "token.mark", "--rows", "each", "--sites", "final"),
        ("probe", root, "a", "--label", "topic", "--against", "b"),
        ("probe", root, "a", "--label", f"topic={LABEL}", "--against", "b"),
    ):
        done = analyze(*command)
        assert done.exit_code == 0, done.output
    return root


def _changes(model: str) -> dict[str, Any]:
    info = replace(make_plan().model, id=f"lab/{model}", weights=model)
    # statistics are made up: those of this backend are not compared with the head's
    compute = replace(make_plan().compute, backend="vllm+torch")
    return {"model": info, "prefixes": (3, 6), "stored_dtype": "float32", "compute": compute}


def readable(folder: Path) -> Iterator[tuple[str, str]]:
    """By name, everything that a reader gets out of a publication, as text."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            yield name, path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                yield name, json.dumps(pl.read_parquet(path).to_dicts(), default=str)
    for run in open_store(folder).runs.values():
        yield "prompts", str(run.prompts().to_pylist())
    with connect(folder) as connection:
        for table in TABLES:
            yield f"table {table}", str(connection.sql(f"FROM {table}").fetchall())


WITH_DATABASE = {"profiles.duckdb", "index.json", "README.md", "report.html"}
"""DuckDB's file, which may differ where it holds no row, and those with its checksum."""


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


LABELS = (LABEL, OTHER, *KINDS, str(MARK))


def secrets(store: Path) -> Iterator[str]:
    """Texts, labels, ids, tokens, token ids of a prompt in three notations, digests of prompts,
    and the place of the store.
    """
    yield from (TEXT, ID, TOKEN, *LABELS, str(store.parent))
    for row in next(iter(open_store(store).runs.values())).prompts().to_pylist():
        ids = np.array(row["token_ids"], "<i4")
        yield from (ids[:4].tobytes().decode("latin-1"), ", ".join(map(str, ids)), row["sha256"])


@pytest.mark.slow
def test_without_texts_no_text_token_or_label_is_in_any_byte(store: Path, tmp_path: Path) -> None:
    before = tree(store)
    to = tmp_path / "public & open"
    said = published(store, "--to", to)
    assert "no rows and no texts" in said
    assert tree(store) == before
    leaked = {*secrets(store), str(tmp_path)}
    told = [text for _, text in readable(store)]
    assert all(any(word in text for text in told) for word in (TEXT, ID, *LABELS))
    found = [(name, secret) for name, text in readable(to) for secret in leaked if secret in text]
    assert found == []
    folders = {path.name for path in (to).iterdir()}
    assert folders == {
        *("lpp.json", "card.json", "README.md", "report.html", "index.json", "profiles.duckdb"),
        "tables",
    }
    assert answer(to, "SELECT entropy_floor FROM profiles ORDER BY run") == answer(
        store, "SELECT entropy_floor FROM profiles ORDER BY run"
    )
    assert analyze("verify", to).exit_code == 0


@pytest.mark.slow
def test_with_texts_it_is_the_same_store_at_an_address(store: Path, tmp_path: Path) -> None:
    published(store, "--to", tmp_path / "lpp", *OPEN, "--fields", "topic,id,token.mark")
    assert "every byte as committed" in analyze("verify", tmp_path / "lpp").stdout
    diff = ("a", "b", "--format", "csv")
    expected = analyze("diff", store, *diff).stdout
    labels = "SELECT run, id, text, topic FROM prompts ORDER BY ALL"
    with served_folder(tmp_path) as server:
        assert analyze("diff", server.url, *diff).stdout == expected != ""
        assert answer(server.url, labels) == answer(store, labels)
        surprising = "SELECT * FROM token_stats JOIN vocabulary USING (run, token_id) ORDER BY ALL"
        assert answer(server.url, surprising) == answer(store, surprising)
        # numbers that the owner computed are there: no rows are read for them
        before, asked = server.sent, len(server.seen)
        profile = ("profile", server.url, "--trust-kept", "--format", "csv")
        assert analyze(*profile).exit_code == 0
        assert not any("/c/0/0" in key for key, _, _ in server.seen[asked:])
        assert server.sent > before


def labels_in(folder: Path) -> set[str]:
    texts = [text for _, text in readable(folder)]
    return {label for label in LABELS if any(label in text for text in texts)}


@pytest.mark.slow
def test_with_texts_only_the_named_labels_are_published(store: Path, tmp_path: Path) -> None:
    published(store, "--to", tmp_path / "none", *OPEN)
    assert labels_in(tmp_path / "none") == set()
    assert any(TEXT in text for _, text in readable(tmp_path / "none"))
    published(store, "--to", tmp_path / "kind", *OPEN, "--fields", "kind")
    assert labels_in(tmp_path / "kind") == {*KINDS}
    published(store, "--to", tmp_path / "mark", *OPEN, "--fields", "token.mark")
    assert labels_in(tmp_path / "mark") == {str(MARK)}
    classes = "SELECT label, classes, probe_auroc FROM probes WHERE task = '' ORDER BY ALL"
    kept, whole = (answer(root, classes) for root in (tmp_path / "kind", store))
    assert [row["classes"] for row in kept if row["label"] == "kind"] == [sorted(KINDS)] * 5
    masked = [row["classes"] for row in kept if row["label"] == "topic"]
    assert masked == [["class 1", "class 2"]] * len(masked) != []
    numbers = [row["probe_auroc"] for row in whole if "=" not in str(row["label"])]
    assert [row["probe_auroc"] for row in kept] == numbers


@pytest.mark.slow
@pytest.mark.parametrize("site", ["final", "embed", "block.1"])
def test_beside_probes_of_other_sites(store: Path, tmp_path: Path, site: str) -> None:
    to = tmp_path / "one"
    published(store, "--to", to, "--sites", site)
    probed = answer(to, "SELECT DISTINCT probe FROM probes WHERE role = 'site'")
    assert [row["probe"] for row in probed] == [site] * (site != "embed")  # there a control
    assert site in (to / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_chosen_runs_sites_tables_and_fields(store: Path, tmp_path: Path) -> None:
    to = tmp_path / "few"
    few = ("a", "--sites", "block.1", "--tables", "site_profiles,profiles,probe_scores,prompts")
    published(store, *few, "--to", to, *OPEN)
    (run,) = open_store(to).runs.values()
    source = open_store(store).run("a")
    assert run.sites == ("block.1",)
    assert np.array_equal(run.array("block.1")[:], source.array("block.1")[:])
    card = json.loads((to / "card.json").read_text("utf-8"))
    assert card["licence"] == "CC0-1.0"
    assert card["source"] == "made up here"
    assert [(r["run"], r["source_run"], r["sites"]) for r in card["runs"]] == [
        (run.id, source.id, ["block.1"])
    ]
    for table in ("site_profiles", "profiles"):
        assert answer(to, f"SELECT run, site FROM {table}") == [{"run": run.id, "site": "block.1"}]
    assert {path.stem for path in (to / "tables").iterdir()} == {
        *("runs", "prompts", "site_profiles", "profiles")  # scores by class are of a label
    }
    assert labels_in(to) == set()
    assert "outdated" not in analyze("report", to, "-o", tmp_path / "r.html").output


@pytest.mark.slow
def test_the_card_opens_the_publication(store: Path, tmp_path: Path) -> None:
    to = tmp_path / "open"
    published(store, "--to", to, *OPEN)
    text = (to / "README.md").read_text("utf-8")
    assert text.startswith('---\npretty_name: "open"\nlicense: "cc0-1.0"\n')
    assert "weights: a\n" in text
    languages = re.findall(r"```(\w+)\n(.+?)```", text, re.DOTALL)
    assert [language for language, _ in languages] == ["python", "python", "sql", "r", "js"]
    for _, code in languages[:2]:
        names: dict[str, object] = {}
        here = code.replace("STORE", str(to)).replace('"runs/', f'"{to}/runs/')
        exec(here.replace('"tables/', f'"{to}/tables/'), names)
        rows = names["rows"]
        assert isinstance(rows, np.ndarray)
        expected = np.asarray(open_store(to).run("a").array("final")[:])
        assert np.array_equal(rows[: len(expected)], expected[: len(rows)])
    assert languages[2][1].strip() == "FROM 'tables/profiles.parquet';"


@pytest.mark.slow
def test_killed_anywhere_and_repeated_it_is_whole(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(store, "--to", tmp_path / "whole" / "lpp", *OPEN)
    whole, to = tree(tmp_path / "whole" / "lpp"), tmp_path / "killed" / "lpp"
    calls = itertools.count()
    stop_at = [0]
    for name in ("put", "put_new", "write", "flush"):
        do = getattr(DiskObjects, name)

        def counted(self: DiskObjects, *words: object, do: object = do, **more: object) -> object:
            if next(calls) == stop_at[0]:
                raise KeyboardInterrupt
            return do(self, *words, **more)  # type: ignore[operator]

        monkeypatch.setattr(DiskObjects, name, counted)
    for stop_at[0] in (0, 4, 17, 40):
        calls = itertools.count()
        assert analyze("publish", store, "--to", to, *OPEN).exit_code != 0
    stop_at[0] = -1
    published(store, "--to", to, *OPEN)
    again = tree(to)
    assert again.keys() == whole.keys()
    assert [name for name in whole.keys() - WITH_DATABASE if again[name] != whole[name]] == []
    for name in TABLES:
        with connect(tmp_path / "whole" / "lpp") as first, connect(to) as second:
            query = f"FROM {name} ORDER BY ALL"
            assert second.execute(query).fetchall() == first.execute(query).fetchall()


REFUSED = {
    "texts without a licence": (("--with-texts", "--source", "x"), "--licence and --source"),
    "texts without a source": (("--with-texts", "--licence", "x"), "--licence and --source"),
    "labels without texts": (("--fields", "topic"), "add --with-texts"),
    "a label that is none": (
        (*OPEN, "--fields", "mood"),
        "there are: id, kind, note, token.mark, topic",
    ),
    "a site that is none": (("--sites", "block.9"), "embed, block.1, final"),
    "a table of prompts": (("--tables", "drift_tokens"), "with --with-texts alone"),
    "a run that is none": (("c",), "no run"),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_one_message(
    words: tuple[str, ...], said: str, store: Path, tmp_path: Path
) -> None:
    done = analyze("publish", store, *words, "--to", tmp_path / "new")
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / "new").exists()


def test_an_unfinished_run_is_refused_before_anything_is_written(
    store: Path, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "part")
    (run,) = (tmp_path / "part" / "runs").glob("a-*")
    (run / "shards" / "00001" / "COMMIT.json").unlink()
    done = analyze("publish", tmp_path / "part", *OPEN, "--to", tmp_path / "new")
    assert (done.exit_code, "lacks 1 of 2 shards" in done.stderr) == (2, True)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("column", ["spectra.flags", "runs.name"])
def test_tables_of_another_release_are_refused(store: Path, tmp_path: Path, column: str) -> None:
    shutil.copytree(store, tmp_path / "old")
    table, name = column.split(".")
    with connect(tmp_path / "old", write=True) as connection:
        connection.execute(f"ALTER TABLE lpp.{table} DROP COLUMN {name}")
    done = analyze("publish", tmp_path / "old", "--to", tmp_path / "new")
    assert done.exit_code == 2
    assert f"lpp-analyze profile {tmp_path / 'old'}" in done.stderr
    assert table in done.stderr
    assert not (tmp_path / "new").exists()
    again = ("publish", tmp_path / "old", "--tables", "layers", "--to", tmp_path / "new")
    assert analyze(*again).exit_code == (2 if table == "runs" else 0)


@pytest.mark.slow
def test_of_two_publications_at_once_one_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("lpp.analyze.publish.publish")
    inner, second = module._put_tables, list[Result]()

    def meanwhile(*args: Any, **how: Any) -> Any:
        if not second:
            second.append(analyze("publish", store, "b", "--to", tmp_path / "p"))
        return inner(*args, **how)

    monkeypatch.setattr(module, "_put_tables", meanwhile)
    published(store, "a", "--to", tmp_path / "p")
    assert second[0].exit_code == 2
    assert str(os.getpid()) in second[0].stderr
    assert {row["run"] for row in answer(tmp_path / "p", "SELECT run FROM runs")} == {
        run for run in open_store(store).runs if run.startswith("a-")
    }
    assert [path.name for path in (tmp_path / "p").iterdir() if path.name[0] == "."] == []


@pytest.mark.slow
def test_what_lies_at_the_target_stays(store: Path, tmp_path: Path) -> None:
    other, copy, few = tmp_path / "other", tmp_path / "copy", tmp_path / "few"
    other.mkdir()
    (other / "thesis.tex").write_text("mine", "utf-8")
    shutil.copytree(store, copy)
    published(store, "--to", few, *OPEN)
    for to, words, said in (
        (other, (), "holds other files"),
        (copy, (), "no publication"),
        (copy / "public", (), "inside the store"),
        (few, (), "which this command leaves out"),
        (few, ("a", *OPEN), "which this command leaves out"),
    ):
        before = tree(to)
        done = analyze("publish", store, *words, "--to", to)
        assert (done.exit_code, said in " ".join(done.stderr.split())) == (2, True), done.stderr
        assert tree(to) == before


@pytest.mark.slow
@pytest.mark.parametrize("runs", [("[ab]",), ("b", "a"), ()])
def test_several_runs(store: Path, tmp_path: Path, runs: tuple[str, ...]) -> None:
    published(store, *runs, "--sites", "final", "--to", tmp_path / "to")
    card = json.loads((tmp_path / "to" / "card.json").read_text("utf-8"))
    assert [run["source_run"] for run in card["runs"]] == [*open_store(store).runs]


def test_to_a_bucket(store: Path, tmp_path: Path, s3: "S3") -> None:
    words = ("a", "--sites", "final", *OPEN)
    published(store, *words, "--to", s3.url)
    published(store, *words, "--to", tmp_path / "store")  # the name that the card has
    objects = s3.objects()
    prefix = s3.url.partition(s3.bucket)[2].strip("/") + "/"
    here = tree(tmp_path / "store")
    in_bucket = {key.removeprefix(prefix): data for key, data in objects.items()}
    assert in_bucket.keys() == here.keys()
    differ = {key for key in here if here[key] != in_bucket[key]}
    assert differ <= WITH_DATABASE  # and surprises are not read from a bucket
    assert analyze("verify", s3.url).exit_code == 0
