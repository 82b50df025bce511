"""`lpp-analyze diff`, end to end: two runs with heads in a store, in every format, with gates."""

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from kept_heads import keep_head
from made_runs import Made, MakeRun
from scipy.special import log_softmax

from lpp.analyze import DiffSettings, diff
from lpp.analyze.cli.command import main
from lpp.analyze.drift.drift import drift, n_steps
from lpp.analyze.drift.pair import pair_of
from lpp.analyze.drift.summaries import by_position, entropy_drift, prediction_drift
from lpp.analyze.drift.worst import order_of, worst_tokens
from lpp.analyze.evaluations.answers import page_of_drift
from lpp.analyze.numerics.jackknife import jackknife
from lpp.analyze.pages.words import number
from lpp.analyze.pages.write import written
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.store import open_store
from lpp.store.format.schedule import group_boundaries
from lpp.store.format.tables import VOCABULARY_SCHEMA
from lpp.store.progress import Progress
from lpp.store.shared.vocabularies import add_vocabulary

LENGTHS = (12, 7, 20, 20, 3, 15, 9, 11, 20, 6, 8, 14)
VOCABULARY = 50


def keep_vocabulary(made: Made) -> None:
    """Words for ids: token 3 is ` w3`, token 7 a control sequence, token 49 is not there."""
    spelled = [f" w{k}".encode() for k in range(VOCABULARY - 1)]
    spelled[7] = b"\x1b[31m\n"
    table = pa.table(
        [range(len(spelled)), spelled, [one.decode() for one in spelled]],
        schema=VOCABULARY_SCHEMA,
    )
    add_vocabulary(made.root, made.plan.tokenizer.fingerprint, table)


@pytest.fixture(scope="module")
def two(make_shared_run: MakeRun) -> tuple[Made, Made]:
    """Two models of the same texts, with their head and their vocabulary."""
    a = make_shared_run(LENGTHS, model="tiny/base", vary_tokens=True)
    b = make_shared_run(LENGTHS, model="tiny/tuned", seed=1, vary_tokens=True)
    keep_head(a.root, a.plan)
    keep_vocabulary(a)
    return a, b


def invoke(root: Path, *words: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["diff", str(root), *words])


def shown(root: Path, *words: str) -> Any:
    done = invoke(root, *words, "--format", "json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    (fact,) = document["tables"]["comparisons"]
    numbers = {row["number"]: row for row in document["tables"]["drift_predictions"]}
    short = {"fact": fact, "predictions": numbers, "sites": document["tables"]["drift_sites"]}
    return {**document, **document["tables"], **short}


@pytest.mark.slow
def test_the_document_is_what_programs_expect(two: tuple[Made, Made]) -> None:
    a, b = two
    found = shown(a.root, "base", "tuned")
    fact = found["fact"]
    assert found["runs"] == {a.run_id: "base", b.run_id: "tuned"}
    assert (fact["run_a"], fact["run_b"], fact["n_prompts"]) == (a.run_id, b.run_id, len(LENGTHS))
    assert fact["n_compared"] == sum(LENGTHS)
    assert [*found["predictions"]] == [*PREDICTIONS]
    assert [site["site"] for site in found["sites"]] == ["embed", "block.1", "block.2", "final"]
    assert [site["depth"] for site in found["sites"]] == [0, 1, 2, 2]
    for site in found["sites"]:
        assert {*SITE_CHANGES} <= site.keys()
        assert site["flags"] == ([] if site["site"] == "final" else ["no_error"])
    assert (fact["exactly_equal"], found["gate"], fact["seed"]) == (False, [], None)
    assert fact["no_logits"] is None


@pytest.mark.slow
def test_the_document_has_bands_of_positions(two: tuple[Made, Made]) -> None:
    a, _ = two
    bands = shown(a.root, "base", "tuned")["drift_positions"]
    frame = by_position(diff(a.root, "base", "tuned").tokens)
    assert [{name: one[name] for name in frame.columns} for one in bands] == frame.to_dicts()
    assert [one["end"] for one in bands] == [1, 2, 4, 8, 16, 20]
    for form in ("text", "md"):
        done = invoke(a.root, "base", "tuned", "--format", form, "--all")
        lines = [line.replace("|", " ").split() for line in done.stdout.splitlines()]
        (line,) = [line for line in lines if line[:2] == ["8", "16"]]
        assert number(bands[4]["kl"]) in line
        short = invoke(a.root, "base", "tuned").stdout
        assert "KL and flips by position" not in short.partition("--all adds")[0]


@pytest.mark.slow
def test_numbers_are_those_of_a_plain_computation(two: tuple[Made, Made]) -> None:
    a, _ = two
    head = open_store(a.root).runs[a.run_id].head()
    assert head is not None
    rows = [np.concatenate([r[2:] for r in made.hidden["final"]]) for made in two]
    p, q = (log_softmax(some.astype(np.float64) @ head.weight.T, axis=1) for some in rows)
    found = shown(a.root, "base", "tuned", "--skip-first", "2")
    kl = found["predictions"]["kl"]
    plain = (np.exp(p) * (p - q)).sum(1)
    assert kl["mean"] == pytest.approx(plain.mean(), rel=1e-5)
    assert kl["p99"] == pytest.approx(np.quantile(plain, 0.99), rel=1e-5)
    assert kl["maximum"] == pytest.approx(plain.max(), rel=1e-5)
    distance = np.linalg.norm(rows[1] - rows[0], axis=1) / np.linalg.norm(rows[0], axis=1)
    at_final = found["sites"][-1]["relative_distance"]
    assert at_final == pytest.approx(distance.mean(), rel=1e-6)
    assert found["fact"]["n_compared"] == len(plain)
    assert found["fact"]["first_position"] == 2


@pytest.mark.parametrize("first", [0, 4])
def test_entropy_is_the_paired_difference_of_means(first: int, two: tuple[Made, Made]) -> None:
    a, b = two
    runs = open_store(a.root).runs
    found = entropy_drift(pair_of(runs[a.run_id], runs[b.run_id]), first_position=first)
    changes = [
        other[first:].astype(np.float64) - one[first:]
        for one, other in zip(a.entropy, b.entropy, strict=True)
    ]
    changes = [change for change in changes if len(change)]
    every = np.concatenate(changes)
    edges = group_boundaries(len(changes))
    without = [
        np.concatenate([c for k, c in enumerate(changes) if not start <= k < end]).mean()
        for start, end in itertools.pairwise(edges)
    ]
    expected = jackknife(every.mean(), without)
    assert found.n_tokens == len(every)
    assert found.mean == pytest.approx(expected.value, rel=1e-12)
    assert found.stderr == pytest.approx(expected.stderr, rel=1e-9)
    assert (found.ci_low, found.ci_high) == pytest.approx(expected[2:4], rel=1e-9)
    assert found.median == pytest.approx(np.median(every))


def test_entropy_is_of_tokens_that_have_one_in_both(make_run: MakeRun) -> None:
    a = make_run(LENGTHS, model="tiny/base")
    b = make_run(LENGTHS, model="tiny/tuned", logit_positions="schedule", seed=1)
    runs = open_store(a.root).runs
    found = entropy_drift(pair_of(runs[a.run_id], runs[b.run_id]))
    assert 0 < found.n_tokens < sum(LENGTHS)


# exactly nothing


def test_a_run_and_itself(two: tuple[Made, Made]) -> None:
    a, _ = two
    done = invoke(a.root, "base", "base", "--fail-if", "kl.max > 0", "--fail-if", "cka < 1")
    assert done.exit_code == 0, done.output
    assert "A and B are one run. Every difference is exactly 0." in done.stdout
    assert "is largest" not in done.stdout
    assert "PASS: none of 2 conditions is met. base makes the same predictions" in done.stdout
    assert done.stdout.count("not met") == 2
    assert not re.search(r"-0\b", done.stdout)
    document = shown(a.root, "base", "base")
    assert document["fact"]["exactly_equal"]
    assert document["predictions"]["kl"]["maximum"] == 0
    assert document["predictions"]["top10"]["mean"] == 1
    assert all(site["cosine"] == 1 for site in document["sites"])


@pytest.mark.slow
def test_equal_runs_of_two_stores(make_run: MakeRun, tmp_path: Path) -> None:
    a = make_run(LENGTHS, model="tiny/base", vary_tokens=True)
    b = make_run(LENGTHS, model="tiny/base", vary_tokens=True, root=tmp_path / "far")
    done = invoke(a.root, "base", f"{b.root}::base")
    assert "\nEvery difference is exactly 0." in done.stdout
    document = shown(a.root, f"{a.root}::base", f"{b.root}::base")
    fact = document["fact"]
    assert (fact["exactly_equal"], fact["run_a"]) == (True, fact["run_b"])


@pytest.mark.parametrize("column", ["next_logprob_b", "kl"])
def test_one_token_is_not_nothing(column: str, two: tuple[Made, Made]) -> None:
    a, _ = two
    same = diff(a.root, "base", "base")
    assert same.is_nothing
    moved = pl.when(pl.int_range(pl.len()) == 3).then(pl.col(column) + 1e-9).otherwise(column)
    tokens = same.tokens.with_columns(moved.cast(same.tokens.schema[column]).alias(column))
    if column == "next_logprob_b":  # which float32 would round away
        tokens = same.tokens.with_columns(
            pl.when(pl.int_range(pl.len()) == 3).then(0.0).otherwise(column).alias(column)
        )
    predictions = {**same.predictions, **prediction_drift(tokens)}
    assert not replace(same, tokens=tokens, predictions=predictions).is_nothing


# what is compared


@pytest.mark.slow
def test_options_choose_prompts_positions_sites_and_tokens(two: tuple[Made, Made]) -> None:
    a, _ = two
    options = ("--prompts", "6", "--skip-first", "3", "--sites", "final,block.*")
    document = shown(a.root, "base", "tuned", *options, "--tokens", "20", "--seed", "4")
    every = sum(max(n - 3, 0) for n in LENGTHS[:6])
    fact = document["fact"]
    assert (fact["n_prompts"], fact["n_compared"]) == (6, 20)
    assert (fact["n_tokens"], fact["seed"], document["settings"]["seed"]) == (every, 4, 4)
    assert [site["site"] for site in document["sites"]] == ["block.1", "block.2", "final"]
    assert {site["n_tokens"] for site in document["sites"]} == {every}
    done = invoke(a.root, "base", "tuned", *options, "--tokens", "20", "--seed", "4")
    said = f"The first 6 prompts of 12 in A and 12 in B, {every} tokens, positions from 3 on."
    assert said in " ".join(done.stdout.split())
    assert "Predictions are of 20 tokens, drawn with seed 4." in done.stdout


@pytest.mark.slow
def test_prompts_that_either_set_aside_are_left_out_and_told(make_run: MakeRun) -> None:
    a = make_run(LENGTHS, model="tiny/base", set_aside=[1])
    make_run(LENGTHS, model="tiny/tuned", seed=1, set_aside=[4, 5])
    document = shown(a.root, "base", "tuned")
    assert document["fact"]["left_out"] == [1, 4, 5]
    left = [n for k, n in enumerate(LENGTHS) if k not in (1, 4, 5)]
    assert document["fact"]["n_compared"] == sum(left)
    done = invoke(a.root, "base", "tuned")
    assert "3 of the 12 prompts set aside by A or B take no part: 1, 4, 5." in done.stdout


@pytest.mark.slow
def test_without_a_head_everything_but_the_divergences(make_run: MakeRun) -> None:
    a = make_run(LENGTHS, model="tiny/base", sites=("block.1", "final"))
    make_run(
        LENGTHS, model="tiny/tuned", seed=1, most_likely=8, sites=("embed", "block.1", "final")
    )
    document = shown(a.root, "base", "tuned")
    assert "--keep-head yes" in document["fact"]["no_logits"]
    assert "kl" not in document["predictions"]
    assert document["predictions"]["flips"]["mean"] == 1
    assert document["predictions"]["entropy"]["mean"] is not None
    assert document["fact"]["notes"] == ["B alone holds embed."]
    done = invoke(a.root, "base", "tuned", "--format", "md")
    assert "\n| kl |" not in done.stdout


@pytest.mark.slow
def test_runs_of_different_widths_have_a_cka(make_run: MakeRun) -> None:
    a = make_run(LENGTHS, model="tiny/base", sites=("final",))
    make_run(LENGTHS, model="tiny/wide", dim=8, sites=("final",))
    (site,) = shown(a.root, "base", "wide")["sites"]
    assert 0 < site["cka"] < 1
    assert site["cosine"] is site["effective_rank"] is None
    done = invoke(a.root, "base", "wide")
    done = invoke(a.root, "base", "wide", "--fail-if", "cosine < 0.5")
    assert done.exit_code == 1


def test_progress_reaches_its_end(two: tuple[Made, Made]) -> None:
    class Counter(Progress):
        units = 0

        def advance(self, amount: int = 1) -> None:
            self.units += amount

    runs = open_store(two[0].root).runs
    pair = pair_of(runs[two[0].run_id], runs[two[1].run_id])
    for settings in (DiffSettings(), DiffSettings(tokens=30, skip_first=2)):
        counter = Counter()
        drift(pair, settings, progress=counter)
        assert counter.units == n_steps(pair, settings)


# words


def test_the_tokens_that_changed_most(
    two: tuple[Made, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = two
    found = diff(a.root, "base", "tuned")
    worst = worst_tokens(found, 3)
    top = found.tokens.sort("kl", descending=True).head(3)
    keys = ("prompt_id", "position", "kl")
    assert worst.select(keys).equals(top.select(keys))
    first = worst.row(0, named=True)
    ids, position = a.prompts[first["prompt_id"]], first["position"]
    assert first["text_so_far"] == "".join(f" w{k}" for k in ids[: position + 1])
    assert first["came"] == f" w{ids[position + 1]}"
    assert first["expected_a"] == "\x1b[31m\n"
    assert 0 < first["probability_a"] < 1
    assert len(worst_tokens(found)) == 10
    monkeypatch.setattr("lpp.analyze.drift.worst.CONTEXT_TOKENS", 2)
    last = ids[position - 1 : position + 1]
    assert worst_tokens(found, 1)["text_so_far"].item() == "".join(f" w{k}" for k in last)
    assert position >= 2


@pytest.mark.slow
def test_without_logits_they_are_ordered_by_the_next_token(two: tuple[Made, Made]) -> None:
    found = diff(two[0].root, "base", "tuned", DiffSettings(sites=["final"]))
    lost = pl.when(pl.int_range(pl.len()) == 5).then(-9.0).otherwise("next_logprob_b")
    tokens = found.tokens.with_columns(next_logprob_b=lost.cast(pl.Float32))
    changed = replace(found, tokens=tokens, no_logits="no head")
    (one,) = worst_tokens(changed).to_dicts()
    assert (order_of(found), order_of(changed)) == ("kl", "next_logprob")
    assert (one["prompt_id"], one["position"]) == (0, 5)
    text = written(page_of_drift(changed), "text", everything=True)
    assert "Where ln p(next) changed most" in text


@pytest.mark.slow
def test_flags_stand_beside_the_sites(make_run: MakeRun) -> None:
    def sunk(rows: Any) -> Any:
        return np.concatenate([rows[:1] * 500, rows[1:]])

    root = make_run(LENGTHS, model="tiny/base").root
    make_run(LENGTHS, model="tiny/tuned", seed=1, scale=sunk)
    table = invoke(root, "base", "tuned").stdout.partition("\nsite ")[2]
    marked = {line.split()[0]: line.split()[-1] for line in table.splitlines() if "." in line[:9]}
    assert marked["block.1"] == marked["block.2"] == "¹"
    assert "no_error" not in table  # the rows have no ±
    assert "\n[1] sink: " in table
    document = invoke(root, "base", "tuned", "--format", "md").stdout
    assert re.search(r"^\| final .* \| `sink` \|$", document, re.MULTILINE)
    assert "\n- `sink`: " in document
    every = invoke(root, "--against", "base", "--errors", "none")
    assert "\n[1] sink: " in every.stdout
    assert re.search(r"^tuned .* ¹$", every.stdout, re.MULTILINE)


# the gate


@pytest.mark.slow
def test_a_gate_fails_after_everything_is_printed(two: tuple[Made, Made]) -> None:
    conditions = ("--fail-if", "kl.mean > 0.01", "--fail-if", "flips<0.1")
    done = invoke(two[0].root, "base", "tuned", *conditions)
    assert done.exit_code == 1
    assert done.stdout.startswith(f"A  base  {two[0].run_id}\nB  tuned  {two[1].run_id}\n")
    lines = done.stdout.splitlines()
    assert lines[2].startswith("FAIL: of 2 conditions 1 is met. tuned differs from base by KL ")
    gate = [line.split() for line in lines[lines.index("Gate") :]]
    (met,) = [line for line in gate if line[:4] == ["FAIL", "kl.mean", ">", "0.01"]]
    assert met[-2:] == ["99", "%"]  # two conditions share 2 %
    assert [line for line in gate if line[:3] == ["not", "met", "flips<0.1"]]
    (predictions,) = [n for n, line in enumerate(lines) if line.startswith("Predictions")]
    assert lines.index("Gate") < predictions
    done = invoke(two[0].root, "base", "tuned", "--format", "json", *conditions)
    assert done.exit_code == 1
    gate = json.loads(done.stdout)["tables"]["gate"]
    assert [(one["condition"], one["failed"]) for one in gate] == [
        ("kl.mean > 0.01", True),
        ("flips<0.1", False),
    ]


@pytest.mark.slow
def test_strict_takes_the_number_itself(two: tuple[Made, Made]) -> None:
    kl = shown(two[0].root, "base", "tuned")["predictions"]["kl"]
    between = ("--fail-if", f"kl > {(kl['mean'] + kl['mean_ci_low']) / 2}")
    assert invoke(two[0].root, "base", "tuned", *between).exit_code == 0
    assert invoke(two[0].root, "base", "tuned", *between, "--strict").exit_code == 1


def test_strict_without_a_gate_is_a_mistake(two: tuple[Made, Made]) -> None:
    done = invoke(two[0].root, "base", "tuned", "--strict")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--strict says how --fail-if decides" in done.stderr


@pytest.mark.slow
def test_errors_are_computed_where_a_gate_needs_them(two: tuple[Made, Made]) -> None:
    gate = ("--fail-if", "cka.embed < 0.0001")
    assert invoke(two[0].root, "base", "tuned", *gate).exit_code == 0
    done = invoke(two[0].root, "base", "tuned", *gate, "--errors", "final")
    assert done.exit_code == 1


@pytest.mark.slow
def test_a_file_is_written_whole_and_the_gate_is_told(
    two: tuple[Made, Made], tmp_path: Path
) -> None:
    for name, start in (
        *(("d.md", "## Drift between"), ("d.json", "{"), ("d.txt", "A  base  base-")),
        ("d.csv", "run_a,run_b,"),
    ):
        file = tmp_path / name
        done = invoke(two[0].root, "base", "tuned", "-o", str(file), "--fail-if", "kl > 0.01")
        assert done.exit_code == 1
        assert file.read_text().startswith(start)
        assert done.stdout.splitlines()[0].startswith("FAIL     kl > 0.01")
        assert done.stdout.splitlines()[1:] == [str(file)]


BAD = (
    (("base", "tund"), "'tund' names no run; "),
    (("bose", "tuned"), "'bose' names no run"),
    (("base", "tuned", "--sites", "blok.1"), "no site 'blok.1'"),
    (("base", "tuned", "--prompts", "13"), "share their first 12 prompts"),
    (("base", "tuned", "--skip-first", "20"), "Skip fewer"),
    (("base", "tuned", "--fail-if", "kl.men > 1"), "did you mean kl.mean?"),
    (("base", "tuned", "--fail-if", "cka.block.9 < 1"), "block.9 is not compared"),
    (("base", "tuned", "--sites", "final", "--fail-if", "cka.embed < 1"), "is not compared"),
    (("base", "nowhere::tuned"), "nowhere"),
    (("base", "other"), "lpp-capture run --store"),
    (("base", "bare", "--fail-if", "kl > 1"), "--keep-head yes"),
)
"""Words of a command, and what it says."""


def test_bad_input_is_one_message_and_nothing_is_written(
    two: tuple[Made, Made], make_run: MakeRun, tmp_path: Path
) -> None:
    make_run(LENGTHS, model="tiny/other", corpus="other", first_row=500)
    far = make_run(LENGTHS, model="tiny/bare")
    file = tmp_path / "drift.md"
    for words, told in BAD:
        named = [f"{far.root}::{word}" if word in ("bare", "other") else word for word in words]
        done = invoke(two[0].root, *named, "-o", str(file))
        assert (done.exit_code, done.stdout) == (2, ""), words
        assert done.stderr.count("Error: ") == 1
        assert told in done.stderr
        assert not file.exists()


def test_an_output_that_cannot_be_written_is_told_first(two: tuple[Made, Made]) -> None:
    done = invoke(two[0].root, "base", "tuned", "-o", "/nowhere/d.md")
    assert (done.exit_code, done.stdout) == (2, "")
    for words in (("base", "tuned", "-o", "x.pdf"), ("--against", "base", "-o", "d.gif")):
        done = invoke(two[0].root, *words)
        assert (done.exit_code, done.stdout) == (2, "")
        assert ".md, .html" in done.stderr


def test_numbers_that_are_not_finite_are_null(two: tuple[Made, Made]) -> None:
    found = diff(two[0].root, "base", "tuned", DiffSettings(sites=["final"]))
    infinite = replace(found.predictions["kl"], mean=math.inf, max=math.inf, stderr=math.nan)
    changed = replace(found, predictions={**found.predictions, "kl": infinite})
    page = page_of_drift(changed)
    rows = json.loads(written(page, "json"))["tables"]["drift_predictions"]
    (kl,) = [row for row in rows if row["number"] == "kl"]
    assert kl["mean"] is kl["maximum"] is kl["mean_stderr"] is None
    assert "differs from base by KL – nats a token" in written(page, "text")
