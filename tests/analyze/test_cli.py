"""The commands as they are typed."""

import csv
import errno
import io
import json
import os
import re
import shutil
import sys
from typing import Any

import pytest
from click.testing import CliRunner, Result
from kept_heads import keep_head
from made_runs import MakeRun
from on_disk import on_disk

from lpp.analyze.cli.command import main
from lpp.sql.cli import main as sql
from lpp.store import open_store
from lpp.store.process.packages import install_command


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def profiles(*words: object) -> list[dict[str, Any]]:
    """The profiles that a command gives as JSON."""
    document: Any = json.loads(run(*words, "--format", "json").stdout)
    return [*document["tables"]["profiles"]]


def width(text: str) -> int:
    """Columns of the longest line, but for those with the path of the store, which is long here."""
    return max(len(line) for line in text.splitlines() if "/store" not in line)


@pytest.mark.slow
def test_the_first_sentence_is_a_conclusion_from_the_interval_of_a_difference(
    make_run: MakeRun,
) -> None:
    made = make_run(model="a/base")
    make_run(model="a/base, wide", seed=2, scale=lambda rows: rows**3)
    words = " ".join(run("profile", made.root).stdout.split())
    assert re.search(r"wide (is (more|less) certain|.*the differences? in entropy floor) \(", words)
    assert re.search(r"has a (smaller|larger) participation ratio|difference.* in .*parti", words)
    whole = run("profile", made.root, "--all").stdout
    assert "differs from 0" in whole or "may be 0" in whole


@pytest.mark.slow
def test_csv_and_json_hold_the_same_rows(make_run: MakeRun) -> None:
    made = make_run()
    asked = ("profile", made.root, "--context", "10,20", "--prompts", "2,6", "--sites", "all")
    objects = profiles(*asked)
    lines = list(csv.DictReader(io.StringIO(run(*asked, "--format", "csv").stdout)))
    assert len(objects) == len(lines) == 2 * 2 * 4
    for one, line in zip(objects, lines, strict=True):
        assert list(one) == list(line)
        assert float(line["effective_rank"]) == one["effective_rank"]
        assert line["flags"].split() == one["flags"]


@pytest.mark.slow
def test_aggregations_and_dropped_prefixes_are_printed(make_run: MakeRun) -> None:
    made = make_run()
    result = run(
        *("profile", made.root, "--entropy-by", "mean", "--rank-by", "median"),
        *("--drop-prefixes", "2,4", "--all"),
    )
    words = " ".join(result.stdout.split())
    assert "Prefixes 6, 8, 10, 12, 14, 16, 18, 20" in words
    assert "entropy floor" not in words


@pytest.mark.slow
def test_declared_metrics_follow_the_profile(make_run: MakeRun) -> None:
    made = make_run()
    other = make_run(model="HuggingFaceTB/SmolLM2-135M-Instruct-untrained", seed=2)
    asked = ("profile", made.root, "--metrics", "stable_rank,zscore_participation_ratio")
    result = run(*asked)
    assert width(result.stdout) <= 80
    declared = result.stdout.partition("Declared metrics at prefix 20")[2]
    rows = [line for line in declared.splitlines() if "stable_rank" in line]
    assert len(rows) == 2
    assert all("dimensions" in row and "±" in row for row in rows)
    assert all(set(row) & set("¹²³⁴⁵⁶") for row in rows)  # short texts, by the number of the flag
    assert "effective rank" in result.stdout  # needs nothing more than the stable rank does
    assert other.run_id in result.stdout
    every = run(*asked, "--sites", "all")
    assert width(every.stdout) <= 80
    assert every.stdout.count("stable_rank") == 2 * 4


@pytest.mark.slow
def test_runs_on_different_texts_are_flagged(make_run: MakeRun) -> None:
    made = make_run(model="a/one")
    make_run(model="b/two", prompt_set="other-texts")
    result = run("profile", made.root)
    row = next(line for line in result.stdout.splitlines() if line.startswith("prompt set"))
    sets = row.split()[2:]
    assert len(set(sets)) == 2
    assert all(len(name) == 8 for name in sets)
    assert "prompt set" not in run("profile", made.root, "one-*").stdout


@pytest.mark.slow
def test_runs_that_hold_less_are_named(make_run: MakeRun) -> None:
    long = make_run(model="long")
    short = make_run(model="short", context=10, shards=[0, 1])
    result = run("profile", long.root, "--context", "20", "--prompts", "5")
    assert f"{short.run_id}: captured at context 10, so it has no rows at 20" in result.stderr
    assert f"{short.run_id}: 4 prompts are committed, so it has no rows at 5" in result.stderr
    assert "1 of 3 shards are missing" in result.stderr
    assert long.run_id in result.stdout
    assert short.run_id not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sites", "block.7"), "no site 'block.7'"),
        (("nope",), "'nope' names no run"),
        (("--context", "500"), "--context 500"),
        (("--prompts", "ten"), "not a list of whole numbers"),
        (("--drop-prefixes", "2,4,6,8,10,12,14,16,18,20"), "every prefix of a schedule"),
        (("--drop-prefixes", "2,5"), "--drop-prefixes 5: no such prefix. There is 2, 4, 6, 8"),
        (("--prompts", "0"), "--prompts 0: it must be at least 1"),
        (("--context", "0"), "--context 0: it must be at least 1"),
        (("--sites", "fianl"), "did you mean final? There is embed, block.1, block.2, final."),
        (("--sites", "block3"), "did you mean block."),
        (("--rank-by", "mode"), "'mode' is not one of"),
        (("--metrics", "rank_me"), "no metric 'rank_me'"),
        (("--groups", "1"), "1 is not in the range x>=2"),
        (("--errors", "some"), "'some' is not one of"),
    ],
)
def test_bad_input_is_one_message(
    make_run: MakeRun, arguments: tuple[str, ...], message: str
) -> None:
    result = run("profile", make_run().root, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["profile", "layers", "diff"])
def test_a_mistake_in_the_runs_is_found_before_a_cluster_is_needed(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    root = make_run().root
    ray = ("--executor", "ray")
    wrong = ("nope",) * (2 if command == "diff" else 1)
    refused = run(command, root, *wrong, *ray)
    assert refused.exit_code == 2
    if command != "diff":
        lacking = run(command, root, *ray)
        assert lacking.exit_code == 2
        assert install_command("ray") in lacking.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("profile",),
        ("layers",),
        ("cka",),
        ("diff", "base", "pruned"),
    ],
    ids=lambda words: words[0],
)
def test_a_store_that_cannot_be_written_gets_its_numbers_printed(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    root = make_run(model="tiny/base").root
    make_run(model="tiny/base, pruned", seed=1)
    command, *rest = words

    def refused(path: object, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as read_only:
        read_only.setattr(os, "mkdir", refused)
        result = run(command, root, *rest)
    assert result.exit_code == 0, result.output
    assert "pruned" in result.stdout
    assert "Next:" not in result.stdout
    (line,) = (x for x in result.stderr.splitlines() if " not in the database: " in x)
    assert f"cannot write in {root}: " in line
    assert "--store" not in line
    assert not (root / "profiles.duckdb").exists()
    progress = [x for x in result.stderr.splitlines() if " after " in x]
    assert re.search(r" (of|of base and|for) pruned$", progress[-1])  # short names, as in the table
    table = result.stdout.rpartition("───\n")[2].partition("--all adds")[0]
    assert table in run(command, root, *rest).stdout


def test_verify_lists_every_problem(make_run: MakeRun) -> None:
    made = make_run()
    assert run("verify", made.root).exit_code == 0
    shards = open_store(made.root).runs[made.run_id].shards
    for shard in shards[:2]:
        with (on_disk(shard.objects_dir) / "tokens.arrow").open("r+b") as file:
            file.truncate(100)
    result = run("verify", made.root)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    place = f"runs/{made.run_id}/shards/00001/{shards[1].objects_dir.name}"
    assert f"{place}/tokens.arrow: 100 bytes" in result.stdout
    assert "2 problems. `lpp-capture repair" in result.stderr
    assert "lpp-capture run" not in result.stderr  # advice is for what is wrong
    shutil.rmtree(on_disk(shards[2].objects_dir).parent)
    result = run("verify", made.root)
    assert "resumes what was not captured" in result.stderr


@pytest.mark.parametrize("kept", ["record", "run"])
def test_verify_goes_on_behind_a_damaged_record(make_run: MakeRun, kept: str) -> None:
    """The only shard of one run, or the run, has a damaged record; the other run lost a byte."""
    made = [make_run(model=f"m/{name}", seed=k, per_shard=100) for k, name in enumerate("ab")]
    root = made[0].root
    for one in made:
        keep_head(root, one.plan)
    first, second = sorted(one.run_id for one in made)
    tokens = on_disk(open_store(root).runs[second].shards[0].objects_dir) / "tokens.arrow"
    where = f"runs/{first}/" + ("shards/00000/" if kept == "record" else "")
    (root / where / "COMMIT.json").write_bytes(b"{}")
    with tokens.open("r+b") as file:
        file.truncate(100)
    result = run("verify", root)
    assert result.exit_code == 1
    assert f"{where}COMMIT.json" in result.stdout
    assert ("writes the record, plan" in result.stderr) == (kept == "run")
    assert f"runs/{second}/shards/00000/{tokens.parent.name}/tokens.arrow: 100" in result.stdout


@pytest.mark.slow
def test_no_differences_names_the_runs_without_a_profile(make_run: MakeRun) -> None:
    made = [make_run(model=f"m/{name}", seed=k) for k, name in enumerate("ab")]
    assert run("profile", made[0].root, "b").exit_code == 0
    done = CliRunner().invoke(sql, [str(made[0].root), "--run", "differences"])
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (0, "Without a profile: a")


@pytest.mark.slow
def test_saved_answers_name_runs(make_run: MakeRun) -> None:
    made = make_run(model="lab/Tiny.Q4_1.gguf")
    other = make_run(model="lab/Tiny.Q4_1.gguf, rounded to 4 bits", seed=2)
    assert run("profile", made.root).exit_code == 0
    words = (str(made.root), "--run", "profiles")
    done = CliRunner().invoke(sql, words, env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert f"Tiny Q4_1          {made.run_id}" in lines
    assert f"rounded to 4 bits  {other.run_id}" in lines
    assert max(map(len, lines)) <= 80
    assert "── row" not in done.stdout
    csv_text = CliRunner().invoke(sql, [*words, "--format", "csv"]).stdout
    assert {row["run"] for row in csv.DictReader(io.StringIO(csv_text))} == {
        made.run_id,
        other.run_id,
    }
    rows = CliRunner().invoke(sql, [str(made.root), "SELECT name FROM runs", "--format", "json"])
    assert {row["name"] for row in json.loads(rows.stdout)} == {"Tiny Q4_1", "rounded to 4 bits"}
