"""`lpp-analyze diff STORE --against BASE`: many runs beside one, end to end."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from chart_frames import Picture
from click.testing import CliRunner, Result
from kept_heads import keep_head
from made_runs import MakeRun

from lpp.analyze import DiffSettings, diff, diff_against, drift_grid_chart
from lpp.analyze.cli.command import main
from lpp.analyze.drift.against import against
from lpp.analyze.drift.frames import frames_of
from lpp.analyze.drift.pages.drift_page_tables import FACTS
from lpp.analyze.drift.pages.drift_page_tables import SITES as SITE_ROWS
from lpp.analyze.pages.page import Frames
from lpp.analyze.pages.words import number
from lpp.store.errors import InputError
from lpp.store.format.plan import Series
from lpp.store.progress import Progress

LENGTHS = (6, 4, 9, 3, 8, 5)
SITES = ("embed", "block.1", "final")
NAMES = ("near", "far", "few")
"""Runs that can be compared with `base`, by KL."""


@pytest.fixture(scope="module")
def many(make_shared_run: MakeRun) -> Path:
    """A base and three runs that it can be compared with, each farther away, one of fewer prompts;
    and four that it cannot.
    """
    make_run = make_shared_run
    options = {"vary_tokens": True, "sites": SITES, "context": 9}
    for name, scale in (("base", 1.0), ("near", 1.1), ("far", 2.0)):
        made = make_run(LENGTHS, model=f"tiny/{name}", scale=stretched(scale), **options)
        keep_head(made.root, made.plan)
    few = make_run(LENGTHS[:4], model="tiny/few", scale=stretched(4.0), **options)
    keep_head(few.root, few.plan)
    make_run(LENGTHS, model="tiny/other", tokenizer="t1", **options)
    make_run(LENGTHS, model="tiny/texts", first_row=500, **options)
    make_run(LENGTHS, model="tiny/nothing", per_shard=1, shards=(), **options)
    make_run(LENGTHS, model="tiny/elsewhere", **{**options, "sites": ("block.2",)})
    return Path(few.root)


def stretched(by: float) -> Callable[[Any], Any]:
    """Rows `by` times as long."""
    return lambda rows: rows * np.float32(by)


def invoke(root: Path, *words: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["diff", str(root), *words])


def shown(root: Path, *words: str) -> Any:
    done = invoke(root, "--against", "base", *words, "--format", "json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def compared_runs(found: Any) -> list[str]:
    """Names of the compared runs, in order."""
    return [name_of(one["run_b"]) for one in found["tables"]["comparisons"]]


def csv_rows(text: str) -> list[dict[str, Any]]:
    return pl.read_csv(text.encode(), infer_schema_length=None).to_dicts()


def name_of(run: str) -> str:
    return run.rpartition("-")[0]


@pytest.mark.slow
def test_every_document_is_that_of_the_two_runs(many: Path) -> None:
    found = shown(many, "--skip-first", "1")
    tables = found["tables"]
    assert {name_of(one["run_a"]) for one in tables["comparisons"]} == {"base"}
    assert [name_of(one["run_b"]) for one in tables["comparisons"]] == [*NAMES]
    assert [*found["runs"].values()] == ["base", *NAMES]
    for one in tables["comparisons"]:
        done = invoke(many, "base", one["run_b"], "--skip-first", "1", "--format", "json")
        alone = json.loads(done.stdout)["tables"]
        for name in ("comparisons", "drift_predictions", "drift_sites"):
            assert alone[name] == [r for r in tables[name] if r["run_b"] == one["run_b"]]


@pytest.mark.slow
def test_runs_that_cannot_be_compared_are_left_out_with_a_reason(many: Path) -> None:
    reasons = {
        "other": "another tokenizer",
        "texts": "other prompts (prompt 0 has other token ids",
        "nothing": "no prompt",
        "elsewhere": "no site in common",
    }
    done = invoke(many, "--against", "base", "--format", "json")
    lines = [line for line in done.stderr.splitlines() if "left out" in line]
    assert len(lines) == len(reasons)
    left_out = json.loads(done.stdout)["tables"]["left_out"]
    left = {name_of(one["run"]): one["why"] for one in left_out}
    assert left.keys() == reasons.keys()
    for name, why in reasons.items():
        assert why in left[name]
        (line,) = [line for line in lines if line.startswith(f"{name}-")]
        assert why in line


@pytest.mark.slow
def test_the_table_has_the_numbers_of_each_run_in_order(many: Path) -> None:
    done = invoke(many, "--against", "base")
    assert done.exit_code == 0, done.output
    assert "Of 3 runs, near differs least from base, by KL " in done.stdout
    table = done.stdout.partition("\nEvery run\n")[2].partition("\n\n")[0]
    assert re.findall(r"^(near|far|few) ", table, re.MULTILINE) == [*NAMES]
    csv = invoke(many, "--against", "base", "--format", "csv").stdout
    for row, name in zip(csv_rows(csv), NAMES, strict=True):
        one = diff(many, "base", name)
        final = one.sites[-1]
        assert row["n_prompts"] == one.pair.n_prompts
        for column in ("kl", "flips", "log_perplexity"):
            assert row[column] == one.predictions[column].mean
            assert row[f"{column}_stderr"] == one.predictions[column].stderr
        for column in ("relative_distance", "cka"):
            assert (row[column], row[f"{column}_stderr"]) == final[column][:2]
        assert number(row["kl"]) in table
    assert "--prompts 4 compares all" in " ".join(done.stdout.split())
    alike = invoke(many, "--against", "base", "--prompts", "4")
    assert "over the first 4 prompts, 22 tokens each, " in alike.stdout
    drawn = invoke(many, "--against", "base", "--tokens", "20", "--skip-first", "1")
    assert "Predictions: of 20 tokens each, drawn with seed 0." in drawn.stdout
    assert "positions from 1 on" in drawn.stdout


@pytest.mark.slow
def test_runs_are_named_and_patterns_name_several(many: Path) -> None:
    found = shown(many, "far", "ne*")
    assert compared_runs(found) == ["near", "far"]
    assert found["tables"]["left_out"] == []
    found = shown(many, "far", "*ar-*", "base")  # twice, and BASE itself
    assert compared_runs(found) == ["near", "far"]


@pytest.mark.slow
def test_runs_of_another_store(many: Path, make_run: MakeRun, tmp_path: Path) -> None:
    far = make_run(LENGTHS, model="tiny/away", root=tmp_path / "away", vary_tokens=True, context=9)
    found = shown(many, f"{far.root}::away", "near")
    assert {*compared_runs(found)} == {"away", "near"}


@pytest.fixture
def with_bare(many: Path, make_run: MakeRun, tmp_path: Path) -> tuple[Path, str]:
    """The same store with a run that shares no vocabulary with the others, and that run's id."""
    root = shutil.copytree(many, tmp_path / "bare")
    options = {"vary_tokens": True, "sites": SITES, "context": 9, "logits_width": 51}
    return root, make_run(LENGTHS, model="tiny/bare", most_likely=8, root=root, **options).run_id


@pytest.mark.slow
def test_without_heads_runs_stand_by_flips(with_bare: tuple[Path, str]) -> None:
    many, _ = with_bare
    found = shown(many)
    assert compared_runs(found)[-1] == "bare"
    flips = [one["flips"] for one in found["tables"]["against"]]
    assert (flips, flips[-1]) == (sorted(flips), 1)
    done = invoke(many, "--against", "base")
    assert "No KL" in done.stdout


@pytest.mark.slow
def test_comparisons_are_computed_one_by_one(many: Path) -> None:
    class Counter(Progress):
        units = 0

        def advance(self, amount: int = 1) -> None:
            self.units += amount

    counter = Counter()
    every = diff_against(many, "base", NAMES, DiffSettings(sites=["final"]), progress=counter)
    assert counter.units == 0
    tokens = sum(LENGTHS)
    for expected in (2 * tokens, 4 * tokens, 4 * tokens + 2 * sum(LENGTHS[:4])):
        next(every)
        assert counter.units == expected
    assert next(every, None) is None


@pytest.mark.slow
def test_a_run_that_is_the_same_is_exactly_so(many: Path, make_run: MakeRun) -> None:
    options = {"vary_tokens": True, "sites": SITES, "context": 9, "scale": stretched(1.0)}
    twin = make_run(LENGTHS, model="tiny/base", **options)
    done = invoke(many, "--against", "base", f"{twin.root}::base", "near")
    assert "base: Every difference is exactly 0." in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("base ")]
    assert rows[0][2:] == ["–", "0", "0", "0", "1"]  # the other store holds no head
    assert done.stdout.count("[0, 0.3903]") == 2  # flips of other prompts: Wilson, n = 6
    assert rows[1][1:] == ["0", "embed"]


# the gate


@pytest.mark.slow
def test_a_condition_applies_to_every_run(many: Path) -> None:
    done = invoke(many, "--against", "base", "--fail-if", "kl > 0", "--format", "json")
    gate = json.loads(done.stdout)["tables"]["gate"]
    ends = {name_of(one["run"]): one["decisive"] for one in gate if one["condition"]}
    assert ends["near"] < ends["far"]
    limit = f"kl > {(ends['near'] + ends['far']) / 2}"
    done = invoke(many, "--against", "base", "--fail-if", limit, "--format", "json")
    assert done.exit_code == 1
    gate = json.loads(done.stdout)["tables"]["gate"]
    assert {name_of(one["run"]): one["failed"] for one in gate if one["condition"]} == {
        "near": False,
        "far": True,
        "few": ends["few"] > (ends["near"] + ends["far"]) / 2,
    }
    assert invoke(many, "--against", "base", "near", "--fail-if", limit).exit_code == 0
    done = invoke(many, "--against", "base", "near", "far", "--fail-if", limit)
    assert "FAIL: of 2 conditions on all runs 1 is met." in done.stdout
    gate = done.stdout.partition("\nGate\n")[2].partition("decided by:")[0]
    verdicts = [line.split()[:2] for line in gate.splitlines() if re.match("(near|far) ", line)]
    assert verdicts == [["near", "not"], ["far", "FAIL"]]


@pytest.mark.slow
def test_a_run_that_should_be_compared_and_cannot_be_is_not_decided(many: Path) -> None:
    """`few` has four of the six prompts, `nothing` and `elsewhere` no site or row in common."""
    passes = ("--fail-if", "log_perplexity > 1e9")
    assert invoke(many, "--against", "base", "near", *passes).exit_code == 0
    for run in ("few", "nothing", "other", "texts", "elsewhere"):
        done = invoke(many, "--against", "base", "near", run, *passes)
        assert done.exit_code == 1, run
        gate = done.stdout.partition("\nGate\n")[2]
        assert re.search(rf"^{run} +not decided", gate, re.MULTILINE), gate
    done = invoke(many, "--against", "base", *passes, "--format", "json")
    left_out = json.loads(done.stdout)["tables"]["left_out"]
    left = {name_of(one["run"]): one["undecided"] for one in left_out}
    assert left == {"other": False, "texts": False, "nothing": True, "elsewhere": True}
    done = invoke(many, "--against", "base", *passes, "--format", "md")
    assert re.search(r"^\| . nothing \| not decided \|", done.stdout, re.MULTILINE)
    allowed = ("--allow-missing", "0.4")
    assert invoke(many, "--against", "base", "near", "few", *passes, *allowed).exit_code == 0


def test_a_number_that_one_run_lacks_is_an_error_that_names_it(
    with_bare: tuple[Path, str],
) -> None:
    many, bare = with_bare
    done = invoke(many, "--against", "base", "--fail-if", "kl > 1")
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"Error: {bare}: --fail-if 'kl > 1'" in done.stderr


# files


@pytest.mark.slow
def test_files_hold_tables_and_pictures(many: Path, tmp_path: Path) -> None:
    starts = {
        "d.md": b"## Drift from",
        "d.csv": b"run,n_prompts,kl,",
        "d.json": b"{",
        "d.txt": b"A  base  base-",
    }
    starts |= {"d.svg": b"<svg", "d.png": b"\x89PNG", "d.html": b"<!DOCTYPE html>"}
    for name, start in starts.items():
        file = tmp_path / name
        done = invoke(many, "--against", "base", "near", "-o", str(file), "--fail-if", "kl > 99")
        assert done.exit_code == 0, done.output
        assert file.read_bytes().startswith(start)
        assert done.stdout.splitlines()[1].split()[0] == "not"
        assert done.stdout.splitlines()[-1] == str(file)


# the picture


@pytest.fixture(scope="module")
def kept(many: Path) -> list[Frames]:
    """What stays of each comparison, in order."""
    pairs = against(many, "base", NAMES).pairs
    assert [name_of(pair.b.run.id) for pair in pairs] == [*NAMES]
    with pytest.warns(UserWarning, match="left out"):
        every = diff_against(many, "base")
    ordered = sorted(every, key=lambda one: one.predictions["kl"].mean or 0.0)
    return [frames_of(one, tokens=False) for one in ordered]


def site_rows(kept: list[Frames]) -> pl.DataFrame:
    """The rows of every comparison, as the picture takes them."""
    rows = pl.concat([one[SITE_ROWS.name] for one in kept])
    return rows.rename({"run_a": "a", "run_b": "b"})


def run_b(one: Frames) -> str:
    return str(one[FACTS]["run_b"].item())


def distances(one: Frames) -> list[float]:
    found: list[float] = one[SITE_ROWS.name]["relative_distance"].fill_null(0.0).to_list()
    return found


def test_a_cell_for_each_run_and_site(kept: list[Frames], tmp_path: Path) -> None:
    frame = site_rows(kept)
    assert frame["b"].unique(maintain_order=True).to_list() == [run_b(one) for one in kept]
    picture = Picture(drift_grid_chart(frame), tmp_path)
    assert picture.marks["rect mark"] == 9
    assert [word for word in picture.words if word in SITES] == [*SITES]
    assert f"few: {max(distances(kept[-1])):.4g} at" in picture.label
    for row in frame.iter_rows(named=True):
        assert f"{row['relative_distance']:.2g}" in picture.words


# checkpoints of one training


@pytest.mark.slow
def test_a_checkpoint_without_the_last_ones_sites_is_compared_with_the_base_alone(
    make_run: MakeRun,
) -> None:
    made = make_run(LENGTHS, model="tiny/base", sites=SITES, context=9, vary_tokens=True)
    for step, sites in ((1, SITES), (2, ("embed",)), (3, ("block.1", "final"))):
        make_run(
            LENGTHS, model=f"tiny/step-{step}", sites=sites, context=9, vary_tokens=True,
            seed=step, series=Series(name="out", step=step),
        )  # fmt: skip
    tables = shown(made.root)["tables"]
    assert [name_of(row["run_b"]) for row in tables["comparisons"]] == [
        "step-1",
        "step-2",
        "step-3",
    ]
    pairs = {(name_of(r["run_a"]), name_of(r["run_b"])) for r in tables["drift_predictions"]}
    assert pairs == {*(("base", f"step-{k}") for k in (1, 2, 3)), ("step-3", "step-1")}


# words that do not fit


def test_usage_errors_are_one_message(many: Path) -> None:
    wrong = (
        ((), "--against BASE"),
        (("base",), "--against BASE"),
        (("base", "near", "far"), "--against BASE"),
        (("--against", "base", "base"), "the only one named"),
        (("--against", "nobody"), "names no run"),
        (("--against", "base", "nobody"), "names no run"),
        (("--against", "base", "no*body"), "'no*body' names no run"),
        (("--against", "base", "other", "texts"), "another tokenizer"),
        (("--against", "base", "--sites", "blok.1"), "no site 'blok.1'"),
        (("--against", "base", "--prompts", "7"), "fewer than the 7"),
        (("--against", "base", "--fail-if", "kl.men > 1"), "did you mean"),
    )
    for words, told in wrong:
        done = invoke(many, *words)
        assert (done.exit_code, done.stdout) == (2, ""), words
        assert done.stderr.count("Error: ") == 1, words
        assert told in " ".join(done.stderr.split()), words


def test_a_base_without_a_prompt_is_refused(many: Path) -> None:
    with pytest.raises(InputError, match="no shard is committed yet"):
        against(many, "nothing")


def test_a_store_of_one_run(make_run: MakeRun) -> None:
    made = make_run(LENGTHS, model="tiny/alone")
    with pytest.raises(InputError, match="only one of the store"):
        diff_against(made.root, "alone")
