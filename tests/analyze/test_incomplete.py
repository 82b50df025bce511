"""What of a run is not committed is named once, with the reason and the next command."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from made_runs import MakeRun
from on_disk import on_disk

from lpp.analyze import (
    analyze,
    build_database,
    read_eigenvalues,
    scan_entropy,
    scan_metrics,
    scan_spectra,
    scan_tokens,
    write_report,
)
from lpp.analyze.cli.command import main
from lpp.store import open_store
from lpp.store.errors import ErrorKind, InputError

SITES = ("block.1", "final")
RULE = ": prompts count up to the first such shard."
RESUME = "Repeat the `lpp-capture run` command: it resumes."
NO_RECORD = "have no valid record"
LEFT_OUT, FIRST_TWO = "so it is left out", "so it counts as its first 2 of 6 prompts"


def spoil(record: Path) -> None:
    data = bytearray(record.read_bytes())
    data[len(data) // 2] ^= 4
    record.write_bytes(data)


def damage(shards: Path, *indices: int) -> None:
    for index in indices:
        spoil(shards / f"{index:05}" / "COMMIT.json")


def remove(shards: Path, *indices: int) -> None:
    for index in indices:
        shutil.rmtree(shards / f"{index:05}")


def damage_and_remove(shards: Path) -> None:
    damage(shards, 0)
    remove(shards, 2)


REPAIR = "`lpp-capture repair {store}` computes such shards again."
GAPS: dict[str, tuple[Callable[[Path], None], str]] = {
    "the first damaged": (
        lambda shards: damage(shards, 0),
        f"1 of 3 shards {NO_RECORD} (0), {LEFT_OUT}{RULE} {REPAIR}",
    ),
    "the first missing": (
        lambda shards: remove(shards, 0),
        f"1 of 3 shards are missing (0), {LEFT_OUT}{RULE} {RESUME}",
    ),
    "all missing": (
        lambda shards: remove(shards, 0, 1, 2),
        f"no shard is committed yet, {LEFT_OUT}. {RESUME}",
    ),
    "a middle one damaged": (
        lambda shards: damage(shards, 1),
        f"1 of 3 shards {NO_RECORD} (1), {FIRST_TWO}{RULE} {REPAIR}",
    ),
    "a middle one missing": (
        lambda shards: remove(shards, 1),
        f"1 of 3 shards are missing (1), {FIRST_TWO}{RULE} {RESUME}",
    ),
    "both": (
        damage_and_remove,
        f"1 of 3 shards {NO_RECORD} (0) and 1 of 3 shards are missing (2), "
        f"{LEFT_OUT}{RULE} {REPAIR} {RESUME}",
    ),
}


@pytest.fixture(params=GAPS)
def gap(request: pytest.FixtureRequest, make_run: MakeRun) -> tuple[Path, str, str]:
    """(store, run, its line): a whole run and one with a gap."""
    make_run(model="whole", sites=SITES)
    made = make_run(model="gappy", sites=SITES, seed=1)
    harm, says = GAPS[request.param]
    harm(on_disk(open_store(made.root).runs[made.run_id].path) / "shards")
    line = f"{made.run_id}: {says.format(store=made.root)}"
    return made.root, made.run_id, line


def invoke(*words: object) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.slow
@pytest.mark.parametrize("command", ["profile", "layers", "cka"])
def test_every_command_says_it_once(gap: tuple[Path, str, str], command: str) -> None:
    root, _, line = gap
    assert invoke(command, root, "--format=csv").stderr.splitlines().count(line) == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", ["profile", "cka"])
def test_alone_it_is_an_error_where_no_prompt_is_left(
    gap: tuple[Path, str, str], command: str
) -> None:
    root, run, line = gap
    done = CliRunner().invoke(main, [command, str(root), run, "--format=csv"])
    if LEFT_OUT not in line:
        assert (done.exit_code, done.stderr.splitlines().count(line)) == (0, 1)
        return
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.count(line) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_report_names_it_with_the_reason(gap: tuple[Path, str, str], tmp_path: Path) -> None:
    root, run, line = gap
    invoke("profile", root)
    done = invoke("report", root, "-o", tmp_path / "r.md")
    assert "Warning" not in done.stderr
    text = (tmp_path / "r.md").read_text().replace("\\", "")
    assert f"`{run}`" in text
    reason = line.removeprefix(f"{run}: ").partition(",")[0]
    assert reason in text
    page = write_report(str(root), tmp_path / "r.html", "html")[0].read_text()
    assert reason in page


@pytest.mark.slow
@pytest.mark.parametrize("scan", [scan_spectra, scan_entropy, scan_metrics, read_eigenvalues])
def test_functions_warn_of_it(gap: tuple[Path, str, str], scan: Callable[[Path], Any]) -> None:
    root, run, line = gap
    with pytest.warns(UserWarning, match="shard") as caught:
        found = scan(root)
    assert [str(warning.message) for warning in caught] == [line]
    assert caught[0].filename == __file__
    there = set(found.lazy().collect()["run"])
    assert (run in there) is (LEFT_OUT not in line)


@pytest.mark.slow
def test_the_database_warns_and_an_analysis_holds_the_line(gap: tuple[Path, str, str]) -> None:
    root, _, line = gap
    assert analyze(root).left_out == (line,)
    with pytest.warns(UserWarning, match="shard") as caught:
        build_database(root)
    assert [str(warning.message) for warning in caught] == [line]


def test_tokens_of_absent_shards_are_named(gap: tuple[Path, str, str]) -> None:
    root, run, line = gap
    with pytest.warns(UserWarning, match="shard") as caught:
        tokens = scan_tokens(root)
    (said,) = (str(warning.message) for warning in caught)
    assert said.startswith(line.partition(", so")[0])
    held = open_store(root).runs[run].shards
    found = tokens.filter(run=run).collect()["prompt_id"].unique().to_list()
    assert sorted(found) == [p for s in held for p in range(s.first_prompt, s.end_prompt)]


def test_a_store_of_such_runs_alone_is_one_message(make_run: MakeRun) -> None:
    made = make_run(shards=[1, 2])
    with pytest.raises(InputError, match=r"1 of 3 shards are missing \(0\)") as caught:
        analyze(made.root)
    assert caught.value.kind is ErrorKind.INCOMPLETE
    assert RESUME in str(caught.value)


@pytest.mark.slow
def test_a_whole_store_warns_of_nothing(make_run: MakeRun) -> None:
    made = make_run()
    for scan in (scan_spectra, scan_entropy, scan_metrics, scan_tokens, read_eigenvalues):
        scan(made.root)
    assert analyze(made.root).left_out == ()


@pytest.mark.slow
def test_a_run_whose_record_is_lost_is_named(make_run: MakeRun) -> None:
    runs = [make_run(model=name, sites=SITES) for name in ("first", "second")]
    root = runs[0].root
    records = [root / "runs" / made.run_id / "COMMIT.json" for made in runs]
    records[0].unlink()
    line = f"{runs[0].run_id}: left out, its record, COMMIT.json, is lost"
    told = invoke("profile", root, "--format=csv").stderr.splitlines()
    assert sum(one.startswith(line) for one in told) == 1
    records[1].unlink()
    alone = CliRunner().invoke(main, ["profile", str(root)])
    assert alone.exit_code == 2
    assert line in alone.stderr
    assert "holds no runs yet" not in alone.stderr
