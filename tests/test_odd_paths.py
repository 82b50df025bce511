"""A store lies wherever its owner puts it: every command, at paths that some library would expand.

Numbers at each path are those of the same store at a plain one. Beside a path that is a pattern,
or that some library decodes, lies a decoy: a store of the same runs with other numbers, at the path
that the pattern would match.
"""

import csv
import json
import shutil
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from on_disk import on_disk
from small_capture import Capture, make_capture
from stored import stored_objects

import lpp.analyze.cli.command
import lpp.capture.cli.command
import lpp.sql.cli
from lpp.analyze import (
    read_eigenvalues,
    scan_entropy,
    scan_metrics,
    scan_spectra,
    scan_tokens,
)
from lpp.capture.models.gguf import packaged_model
from lpp.sql import TABLES
from lpp.store import open_store
from lpp.store.objects.place import Url
from lpp.store.terminal.escaping import escape

PROGRAMS: Mapping[str, click.Command] = {
    "lpp-analyze": lpp.analyze.cli.command.main,
    "lpp-capture": lpp.capture.cli.command.main,
    "lpp-sql": lpp.sql.cli.main,
}
MODELS = [f"lab/m{k}" for k in range(5)]

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é-å-日本") for form in ("NFC", "NFD"))
PLACES: Mapping[str, tuple[str, str | None]] = {
    "brackets and a star": ("lab[1]/l*[!x]", "lab1/lab1"),
    "a question mark": ("lab?/lab?", "labx/labx"),
    "stars and braces": ("**/lab{1,2}", "lab/lab1"),
    "escapes, spaces and quotes": ('100%/ my%31/it\'s a "lab"#1', '100%/ my1/it\'s a "lab"'),
    "for a shell": ("~/$HOME[/lab&1;2[", None),
    "a backslash and a newline": ("a\\b/lab\n1/lab", "a/b/lab\n1/lab"),
    "a dash and a newline": ("-lab\n1/--format\u202e", "-lab1/--format"),
    "composed and decomposed": (f"{COMPOSED}/{DECOMPOSED}", f"{DECOMPOSED}/{COMPOSED}"),
    "a hive key, a database and a scheme": ("run=1/md:lab/C:lab/s3:/lab@1/lab,1", None),
}
"""Where the store lies below some folder, and where the decoy, if anywhere: what a pattern would
match, or what another reading of the path would name."""

RELATIVE = {
    "brackets": "lab[1]",
    "a star": "l*",
    "a tilde": "./~lab",
    "a user": "./~root",
    "a dash": "-lab",
    "MotherDuck": "md:lab",
    "SQLite": "sqlite:lab",
    "memory": ":memory:",
    "a scheme": "s3:lab",
    "an escape": "lab%31",
    "above": "../below/it's",
    "here": ".",
}
"""What a user types in the folder where the store lies."""


READ_ONLY = ("a question mark", "a backslash and a newline")
"""Of them, where DuckDB misreads the path: its file is copied before it is read."""


def run(program: str, *words: object) -> str:
    """Standard output of a command that ends well."""
    done = CliRunner(env={"COLUMNS": "80"}).invoke(PROGRAMS[program], [str(w) for w in words])
    assert done.exit_code == 0, (program, words, done.output)
    return done.stdout


def small(model: str, seed: int) -> Capture:
    """Eight prompts of seven tokens in two shards; the rows and the entropies are of `seed`."""
    plan = make_capture().plan
    found = make_capture(
        lengths=(7,) * 8,
        shards=(0, 4, 8),
        stored_dtype="float32",
        model=replace(plan.model, id=model, n_parameters=1000 + 100 * MODELS.index(model)),
    )
    rng = np.random.default_rng([seed, MODELS.index(model)])
    rows = {site: rng.normal(size=v.shape).astype("float32") for site, v in found.hidden.items()}
    place = found.tokens.schema.get_field_index("entropy")
    nats = pa.array(rng.uniform(0.1, 3, found.tokens.num_rows).astype("float32"))
    tokens = found.tokens.set_column(place, found.tokens.schema.field(place), nats)
    return replace(found, hidden=rows, tokens=tokens)


@dataclass(frozen=True)
class Stores:
    """The same store twice over, but for the numbers."""

    store: Path
    decoy: Path
    scores: Path
    """A table of scores of its models."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Five runs, and five runs with the same ids and other numbers, profiled."""
    place = tmp_path_factory.mktemp("plain")
    for seed, name in enumerate(("store", "decoy")):
        for model in MODELS:
            small(model, seed).write(place / name)
    run("lpp-analyze", "profile", place / "decoy")
    scores = place / "scores.csv"
    with scores.open("w") as file:
        csv.writer(file).writerow(["model", "task"])
        csv.writer(file).writerows([model, 10 + 7 * k % 31] for k, model in enumerate(MODELS))
    return Stores(place / "store", place / "decoy", scores)


def answers(root: Path, scores: Path, *, write: bool = True) -> dict[str, str]:
    """What each command says of the store at `root`, numbers alone; its reports are beside."""
    said = {
        "profile": tables_of("profile", "--metrics=all", "--", root),
        "layers": tables_of("layers", "--", root),
        "cka": run("lpp-analyze", "cka", "--format=csv", "--", root),
        "diff": tables_of("diff", "--", root, "m0", f"{root}::m1"),
        "verify": run("lpp-analyze", "verify", "--", root),
        "tokens": run("lpp-sql", "--format=csv", "--", root, TOKENS),
        "saved": run("lpp-sql", "--format=csv", "--run=entropy", "--", root),
        "repair": run("lpp-capture", "repair", "--dry-run", "--", root),
    }
    run("lpp-analyze", "benchmarks", "add", "--", root, scores)
    said["correlate"] = tables_of("correlate", "--", root)
    said["listed"] = run("lpp-analyze", "benchmarks", "list", "--", root)
    for table in TABLES:
        said[table] = run("lpp-sql", "--format=json", "--", root, f"FROM {table} ORDER BY ALL")
    said["report"] = report(root)
    if write:
        run("lpp-sql", "--write", "--", root, "CREATE TABLE mine AS SELECT 7 AS x")
        said["written"] = run("lpp-sql", "--format=csv", "--", root, "FROM mine")
    status = json.loads(run("lpp-capture", "status", "--format=json", "--", root))
    said["status"] = str([(one["run"], one["state"]) for one in status["runs"]])
    run("lpp-analyze", "benchmarks", "remove", "--", root, "scores")
    return said


def tables_of(command: str, *words: object) -> str:
    """The numbers of an answer, without what names the store."""
    found = json.loads(run("lpp-analyze", command, "--format=json", *words))
    if isinstance(found, list):
        return json.dumps(found)
    return json.dumps(
        {name: rows for name, rows in found["tables"].items() if name != "comparisons"}
    )


def report(root: Path) -> str:
    """The summary of a report written beside the store, without its title and what names place and
    database.
    """
    target = root.parent / f"{root.name}.md"
    run("lpp-analyze", "report", "-o", target, "--", root)
    _, text = target.read_text().split("\n", 1)  # the title names the store
    for name in (str(target), str(root)):  # a name of several lines is part of a command of several
        text = text.replace(escape(name), "STORE").replace(name, "STORE")
    lines = text.split("\n")
    return "\n".join(line for line in lines if "SHA-256" not in line and "lpp-analyze" not in line)


TOKENS = "SELECT run, prompt_id, position, entropy, margin FROM token_stats ORDER BY ALL"


def frames(root: Url) -> list[pl.DataFrame]:
    """What the functions of the library read there."""
    return [
        scan_tokens(root).collect(),
        scan_entropy(root).collect(),
        scan_spectra(root, groups=2).collect(),
        scan_metrics(root, metrics=["stable_rank", "surprisal"]).collect(),
        read_eigenvalues(root),
        pl.concat(
            pl.DataFrame(pl.from_arrow(run.tokens().to_table()))
            for run in open_store(root).runs.values()
        ),
    ]


@pytest.fixture(scope="module")
def plain(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The answers at a plain path."""
    root = tmp_path_factory.mktemp("answers") / "store"
    shutil.copytree(stores.store, root)
    return answers(root, stores.scores)


def placed(stores: Stores, folder: Path, kind: str) -> tuple[Path, Path | None]:
    """A copy of the store at an odd place below `folder`, and the decoy beside it."""
    place, decoy = PLACES[kind]
    shutil.copytree(stores.store, folder / place)
    if decoy is None:
        return folder / place, None
    shutil.copytree(stores.decoy, folder / decoy)
    return folder / place, folder / decoy


@pytest.mark.slow
def test_the_decoy_has_other_numbers(stores: Stores) -> None:
    for own, other in zip(frames(stores.store), frames(stores.decoy), strict=True):
        assert own.columns == other.columns
        assert not own.equals(other)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLACES)
def test_every_command_reads_the_store_it_is_given(
    kind: str, stores: Stores, plain: Mapping[str, str], tmp_path: Path
) -> None:
    root, decoy = placed(stores, tmp_path, kind)
    before = {} if decoy is None else contents(decoy)
    found = answers(root, stores.scores, write=kind not in READ_ONLY)
    for name, said in plain.items():
        if name != "written" or kind not in READ_ONLY:
            assert found[name].replace(str(root), "STORE") == said, name
    assert decoy is None or contents(decoy) == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", READ_ONLY)
def test_a_database_that_duckdb_would_write_elsewhere_is_not_written(
    kind: str, stores: Stores, tmp_path: Path
) -> None:
    root, decoy = placed(stores, tmp_path, kind)
    assert decoy is not None
    shutil.copy(decoy / "profiles.duckdb", root)
    before = contents(root), contents(decoy)
    (tmp_path / "link").symlink_to(root)
    for path in (root, tmp_path / "link"):
        words = [str(path), "DELETE FROM runs", "--write"]
        done = CliRunner().invoke(PROGRAMS["lpp-sql"], words)
        assert done.exit_code == 2, done.output
        assert "Rename the directory, or leave --write out." in done.stderr
    assert (contents(root), contents(decoy)) == before


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WORDS = ("profile", "--format=csv", "--")


@pytest.fixture(scope="module")
def profiled(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The profile of one run at an absolute path, and the statistics of all tokens."""
    root = tmp_path_factory.mktemp("profiled") / "store"
    shutil.copytree(stores.store, root)  # which others copy, without a database
    return run("lpp-analyze", *WORDS, root, "m0*"), run("lpp-sql", "--format=csv", root, TOKENS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RELATIVE)
def test_a_path_is_relative_to_the_current_folder(
    kind: str,
    stores: Stores,
    profiled: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    typed = RELATIVE[kind]
    shutil.copytree(stores.store, tmp_path / "below" / typed, dirs_exist_ok=True)
    assert run("lpp-analyze", *WORDS, typed, "m0*") == profiled[0]
    assert run("lpp-sql", "--format=csv", "--", typed, TOKENS) == profiled[1]
    assert (
        run("lpp-sql", "--format=csv", "--", typed, "SELECT count() FROM profiles")
        == "count_star()\n1\n"
    )
    assert "every byte as committed" in run("lpp-analyze", "verify", "--", typed)
    assert run("lpp-capture", "status", "--", typed).count("complete") == len(MODELS)
    assert Path(tmp_path / "below" / typed, "profiles.duckdb").is_file()


@pytest.mark.slow
def test_a_link_of_the_owner_leads_to_the_store(
    stores: Stores, plain: Mapping[str, str], tmp_path: Path
) -> None:
    shutil.copytree(stores.store, tmp_path / "it's[1]" / "lab")
    (tmp_path / "it's[1]" / "direct[1]").symlink_to("lab")
    (tmp_path / "link*").symlink_to(tmp_path / "it's[1]")
    shutil.copytree(stores.decoy, tmp_path / "linked" / "direct1")
    found = answers(tmp_path / "link*" / "direct[1]", stores.scores)
    assert {name for name in plain if found[name] != plain[name]} == set()


def test_a_capture_writes_where_it_is_told(
    capture_packaged: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "it's 100% [1]*" / "a?b\\c #é~"
    decoy = tmp_path / "it's 100% 1" / "axb"
    decoy.mkdir(parents=True)
    words = ("--prompts", 2, "--context", 20, "--sites", "final")
    for done in (capture_packaged(root, *words), capture_packaged(root, *words)):
        assert done.returncode == 0, done.stderr
    (found,) = open_store(root).runs.values()
    (shard,) = found.shards
    before = stored_objects(root)
    on_disk(shard.objects_dir / "tokens.arrow").write_bytes(b"")
    listing = CliRunner().invoke(PROGRAMS["lpp-analyze"], ["verify", str(root)])
    assert (listing.exit_code, listing.stdout.count("tokens.arrow")) == (1, 1)
    run("lpp-capture", "repair", "--model", packaged_model(), root)
    assert "every byte as committed" in run("lpp-analyze", "verify", root)
    after = stored_objects(root)
    tables = {key for key in before if key.endswith(".arrow")}
    assert {key: after[key] for key in tables} == {key: before[key] for key in tables}
    monkeypatch.chdir(root.parent)
    status = json.loads(run("lpp-capture", "status", "--format=json", root.name))
    assert [one["state"] for one in status["runs"]] == ["complete"]
    assert contents(decoy) == {}
