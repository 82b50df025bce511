"""What prompts carry as labels: numbers of tokens grouped by a field, in one plain query."""

import io
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from made_runs import MakeRun

from lpp.analyze import ProfileSettings, analyze, build_database
from lpp.analyze.tables.build import write_database
from lpp.analyze.tables.database import read_table, refresh_database
from lpp.sql import connect
from lpp.sql.cli.command import main

BY_LABEL = """
SELECT label, count(*) AS tokens, avg(entropy) AS entropy, avg(-next_logprob) AS surprisal
FROM token_stats JOIN prompts USING (run, prompt_id) GROUP BY label ORDER BY label
"""


def asked(root: Path, sql: str) -> pl.DataFrame:
    """The answer of `lpp-sql`."""
    done = CliRunner().invoke(main, [str(root), sql, "--format", "csv"])
    assert done.exit_code == 0, done.output
    return pl.read_csv(io.StringIO(done.stdout))


def test_tokens_grouped_by_label(make_run: MakeRun) -> None:
    labels = ["news", "sport", None, "news", "sport", "news"]
    made = make_run(carried={"field.label": labels})
    build_database(made.root)
    found = asked(made.root, BY_LABEL)
    assert found["label"].to_list() == ["news", "sport", None]
    for row in found.iter_rows(named=True):
        of_label = [k for k, label in enumerate(labels) if label == row["label"]]
        entropy = np.concatenate([made.entropy[k] for k in of_label])
        assert row["tokens"] == len(entropy)
        assert row["entropy"] == pytest.approx(entropy.mean(), rel=1e-6)
        followed = [(1.5 + k, len(made.entropy[k]) - 1) for k in of_label]  # as made
        surprisal = np.average([s for s, _ in followed], weights=[n for _, n in followed])
        assert row["surprisal"] == pytest.approx(surprisal, rel=1e-6)


@pytest.mark.slow
def test_runs_with_other_fields_and_none(make_run: MakeRun) -> None:
    one = make_run(model="a/one", carried={"id": [7 * k for k in range(6)], "field.n": range(6)})
    two = make_run(
        model="b/two",
        carried={
            "id": [f"row {k}" for k in range(6)],
            "text": [f"text {k}" for k in range(6)],
            "field.n": [k / 2 for k in range(6)],
            "field.entropy": [True, None] * 3,
        },
    )
    three = make_run(model="c/three")
    build_database(one.root)
    prompts = read_table(one.root, "prompts").sort("run", "prompt_id")
    assert [name for name in prompts.columns if name in ("id", "text")] == ["id", "text"]
    assert prompts.columns[-2:] == ["field.entropy", "n"]
    assert prompts.schema["n"] == pl.String()  # an integer in one corpus, a fraction in another
    assert prompts.schema["field.entropy"] == pl.Boolean()
    by_run = {run: prompts.filter(run=run) for run in (one.run_id, two.run_id, three.run_id)}
    assert by_run[one.run_id]["id"].to_list() == ["0", "7", "14", "21", "28", "35"]
    assert by_run[one.run_id]["n"].to_list() == ["0", "1", "2", "3", "4", "5"]
    assert by_run[two.run_id]["n"].to_list() == ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5"]
    assert by_run[two.run_id]["text"].to_list() == [f"text {k}" for k in range(6)]
    assert by_run[two.run_id]["field.entropy"].to_list() == [True, None] * 3
    for name in ("id", "text", "field.entropy", "n"):
        assert by_run[three.run_id][name].null_count() == 6
    with connect(one.root) as connection:  # a field never makes a join ambiguous
        sql = 'SELECT "field.entropy", avg(entropy) FROM token_stats JOIN prompts USING '
        rows = connection.execute(sql + "(run, prompt_id) GROUP BY ALL").fetchall()
    assert {label for label, _ in rows} == {True, None}


@pytest.mark.slow
def test_a_field_without_a_value_has_no_type_to_keep(make_run: MakeRun) -> None:
    made = make_run(model="a/one", carried={"field.n": range(6), "field.m": [None] * 5 + ["x"]})
    make_run(model="b/two", carried={"field.n": pa.nulls(6, pa.string())})
    make_run(model="c/three", carried={"field.none": pa.nulls(6, pa.string())})
    build_database(made.root)
    prompts = read_table(made.root, "prompts")
    assert prompts.schema["n"] == pl.Int64()
    assert sorted(prompts["n"].drop_nulls()) == list(range(6))
    assert (prompts.schema["none"], prompts["none"].null_count()) == (pl.String(), 18)


@pytest.mark.slow
def test_every_command_keeps_them(make_run: MakeRun) -> None:
    made = make_run(carried={"field.label": ["x", "y"] * 3})
    write_database(made.root, analyze(made.root, ProfileSettings(sites=["final"])))
    before = read_table(made.root, "prompts").sort("prompt_id")
    assert before["label"].to_list() == ["x", "y"] * 3
    make_run(model="b/two", carried={"field.more": range(6)})
    assert refresh_database(made.root)
    after = read_table(made.root, "prompts").sort("run", "prompt_id")
    assert after.filter(run=made.run_id)["label"].to_list() == ["x", "y"] * 3
    assert after["more"].null_count() == 6


def test_only_prompts_that_can_be_analysed(make_run: MakeRun) -> None:
    made = make_run(shards=[0, 2], carried={"field.label": list("abcdef")})
    with pytest.warns(UserWarning, match="counts as its first 2 of 6 prompts"):
        build_database(made.root)
    assert read_table(made.root, "prompts")["label"].sort().to_list() == ["a", "b"]
