"""Numbers that somebody else kept in a store: computed again, unless the user trusts them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from forged import OTHER, forge, give_away
from made_runs import MakeRun
from served_folder import served_folder

from lpp.analyze.cli.command import main
from lpp.sql.cli.command import main as sql_main
from lpp.store import trusting_kept, write_index
from lpp.store.format.keys import ANALYSIS_KEY, DATABASE_KEY
from lpp.store.objects.locate import objects_at
from lpp.store.shared.kept_files import KeptFiles

if TYPE_CHECKING:
    from s3_server import S3

LENGTHS = (12, 7, 20, 20, 3, 15, 9, 11, 20, 6, 8, 14)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")


@pytest.fixture
def root(make_run: MakeRun) -> Path:
    """A store of two runs, profiled and compared."""
    root = make_run(LENGTHS, model="tiny/base", sites=("block.1", "final")).root
    make_run(LENGTHS, model="tiny/tuned", seed=1, sites=("block.1", "final"))
    answer("profile", root, "--metrics", "anisotropy")
    answer("diff", root, "base", "tuned")
    return root


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def answer(*words: object) -> str:
    found = run(*words)
    assert found.exit_code == 0, found.output
    return str(found.stdout)


def questions(store: object) -> tuple[tuple[object, ...], ...]:
    """Commands whose answers come from every kind of kept file."""
    return (
        ("profile", store, "--metrics", "anisotropy", "--format", "csv"),
        ("diff", store, "base", "tuned", "--format", "csv"),
    )


@pytest.mark.slow
def test_forged_numbers_of_this_user_are_believed_until_fresh(root: Path) -> None:
    right = [answer(*words) for words in questions(root)]
    assert forge(root) >= 6
    assert [answer(*words) for words in questions(root)] != right
    assert [answer(*words, "--fresh") for words in questions(root)] == right
    assert [answer(*words) for words in questions(root)] == right  # and are replaced


@as_root
@pytest.mark.slow
def test_numbers_of_another_user_are_computed_again(root: Path) -> None:
    right = [answer(*words) for words in questions(root)]
    forge(root)
    give_away(root)
    trusted = [answer(*words, "--trust-kept") for words in questions(root)]
    assert trusted != right
    give_away(root)  # what --trust-kept wrote
    assert [answer(*words) for words in questions(root)] == right
    mine = {path for path in root.rglob("*.arrow") if path.stat().st_uid == os.geteuid()}
    assert mine  # kept for the next command, beside those of the other user
    before = {path: path.stat().st_mtime_ns for path in mine}
    assert [answer(*words) for words in questions(root)] == right
    assert {path: path.stat().st_mtime_ns for path in mine} == before


@pytest.mark.slow
@as_root
def test_the_database_of_another_user_gets_no_rows_of_this_one(root: Path) -> None:
    give_away(root)
    before = (root / DATABASE_KEY).read_bytes()
    for words in (("profile", root), ("layers", root), ("diff", root, "base", "tuned")):
        found = run(*words)
        assert found.exit_code == 0, found.output
        assert f"user {OTHER}" in " ".join(found.stderr.split())
    assert (root / DATABASE_KEY).read_bytes() == before
    answer("profile", root, "--skip-first", "2", "--trust-kept")
    assert (root / DATABASE_KEY).read_bytes() != before


@pytest.mark.slow
@as_root
@pytest.mark.parametrize(
    "words", [("report", "-o", "report.md"), ("publish", "--to", "public")], ids=lambda w: w[0]
)
def test_answers_of_the_database_say_who_wrote_it(
    root: Path, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"user {OTHER}" not in run(words[0], root, *words[1:]).stderr
    give_away(root)
    said = " ".join(run(words[0], root, *words[1:]).stderr.split())
    assert f"user {OTHER}" in said
    assert f"user {OTHER}" not in run(words[0], root, *words[1:], "--trust-kept").stderr


@pytest.mark.slow
@as_root
def test_sql_says_who_wrote_the_database(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    sql = [str(root), "SELECT count(*) FROM profiles"]
    assert f"user {OTHER}" not in CliRunner().invoke(sql_main, sql).stderr + caplog.text
    give_away(root)
    done = CliRunner().invoke(sql_main, sql)
    assert done.exit_code == 0
    assert f"user {OTHER}" in done.stderr + caplog.text


@as_root
@pytest.mark.slow
def test_a_publication_takes_no_numbers_of_another_user(root: Path, tmp_path: Path) -> None:
    words = ("--with-texts", "--licence", "CC0-1.0", "--source", "made up")
    answer("publish", root, "--to", tmp_path / "own", *words)
    give_away(root)
    answer("publish", root, "--to", tmp_path / "other", *words)
    copied = [len([*(tmp_path / name).rglob("spectra-*.arrow")]) for name in ("own", "other")]
    assert copied[0] > 0 == copied[1]


@pytest.mark.slow
def test_numbers_kept_at_an_address_are_computed_again(root: Path, tmp_path: Path) -> None:
    right = [answer(*words) for words in questions(root)]
    forge(root)
    write_index(str(root))
    with served_folder(root.parent) as server:
        url = f"http://127.0.0.1:{server.port}/{root.name}"
        assert [answer(*words) for words in questions(url)] == right
        assert [answer(*words, "--trust-kept") for words in questions(url)] != right


@pytest.mark.slow
def test_a_bucket_that_this_user_can_write_is_its_own(root: Path, s3: "S3") -> None:
    objects = objects_at(s3.url)
    for path in sorted(root.rglob("*")):
        if path.is_file():
            objects.put(path.relative_to(root).as_posix(), path.read_bytes())
    right = answer(*questions(s3.url)[0])
    before = s3.objects().keys()
    assert answer(*questions(s3.url)[0]) == right
    assert {k for k in s3.objects().keys() - before if "spectra-" in k} == set()


@pytest.mark.slow
def test_trust_is_a_block_in_python(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = next(root.glob(f"{ANALYSIS_KEY}/*/*/final/spectra-*")).parent.parent
    name = str(folder.relative_to(root / ANALYSIS_KEY))
    assert [*KeptFiles(root, name).files("final")]
    with trusting_kept():
        trusting = KeptFiles(root, name)
    assert [*trusting.files("final")]
    if os.geteuid() == 0:
        give_away(root)
        assert not [*KeptFiles(root, name).files("final")]
        assert [*trusting.files("final")]
