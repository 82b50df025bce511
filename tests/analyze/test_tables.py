"""The database that a store turns into."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from made_runs import MakeRun
from result_frames import check_frames, check_printed

from lpp.analyze import (
    ProfileSettings,
    analyze,
    build_database,
    scan_entropy,
    scan_metrics,
    scan_spectra,
)
from lpp.analyze.cli.command import main
from lpp.analyze.tables.build import write_database
from lpp.store.errors import FormatError, InputError, LppError
from lpp.store.objects.place import Place


def query(database: Place, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(database), read_only=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.slow
def test_every_row_of_the_scans_is_in_the_database(make_run: MakeRun) -> None:
    made = make_run(model="a/one")
    make_run(model="b/two", seed=5, context=10)
    asked = ProfileSettings(contexts=[10, 20], prompts=[3, 6])
    database = build_database(made.root, asked)
    assert database == made.root / "profiles.duckdb"
    options: dict[str, Any] = {"contexts": [10, 20], "prompts": [3, 6]}
    sure = scan_spectra(made.root, **options, groups=10).filter(site="final")
    rest = scan_spectra(made.root, **options).filter(pl.col("site") != "final")
    spectra = pl.concat([sure, rest]).collect()
    of_scans = "SELECT * EXCLUDE (flags, cluster) FROM spectra ORDER BY ALL"
    assert query(database, of_scans) == sorted(spectra.rows())
    entropy = scan_entropy(made.root, **options).collect()
    assert query(database, "SELECT * EXCLUDE (cluster) FROM entropy ORDER BY ALL") == sorted(
        entropy.rows()
    )
    assert query(database, "SELECT count(cluster) FROM spectra") == [(0,)]
    assert query(database, "SELECT count(*) FROM prompts") == [(12,)]
    # contexts and prompts: two by two of the longer run, one by two of the shorter
    assert query(database, "SELECT count(*) FROM site_profiles") == [(6 * 4,)]
    assert query(database, "SELECT site, count(*) FROM profiles GROUP BY site") == [("final", 6)]


@pytest.mark.slow
def test_without_final_the_profile_is_that_of_the_deepest_site(
    make_run: MakeRun,
) -> None:
    made = make_run()
    database = build_database(made.root, ProfileSettings(sites=("embed", "block.*")))
    assert query(database, "SELECT site FROM profiles") == [("block.2",)]


@pytest.mark.slow
def test_a_profile_is_the_extremes_of_its_rows(make_run: MakeRun) -> None:
    made = make_run(model="a/one")
    database = build_database(made.root, ProfileSettings(drop_prefixes=[2, 4]))
    (row,) = query(
        database,
        "SELECT model, corpus, prompt_set, prefixes, entropy_floor, entropy_floor_prefix, "
        "participation_ratio, participation_ratio_prefix, participation_ratio_norm, "
        "effective_rank, effective_rank_norm, effective_rank_norm_prefix, flags "
        "FROM profiles",
    )
    (expected,) = query(
        database,
        "SELECT (SELECT min(entropy_norm) FROM entropy WHERE prefix > 4), "
        "(SELECT arg_min(prefix, entropy_norm) FROM entropy WHERE prefix > 4), "
        "max(participation_ratio), arg_max(prefix, participation_ratio), "
        "max(participation_ratio_norm), max(effective_rank), max(effective_rank_norm), "
        "arg_max(prefix, effective_rank_norm) FROM spectra WHERE site = 'final' AND prefix > 4",
    )
    assert row[:2] == ("a/one", "words")
    assert row[3] == list(range(6, 21, 2))
    assert row[4:12] == expected
    assert row[12] == ["padded_vocab", "short_text", "small_sample"]


def test_a_profile_has_the_error_of_the_prefix_it_came_from(make_run: MakeRun) -> None:
    database = build_database(make_run().root)
    for metric in ("participation_ratio", "effective_rank_norm"):
        columns = f"{metric}_stderr, {metric}_ci_low, {metric}_ci_high"
        (found,) = query(database, f"SELECT {columns} FROM profiles")
        (expected,) = query(
            database,
            f"SELECT {columns} FROM spectra WHERE site = 'final' ORDER BY {metric} DESC LIMIT 1",
        )
        assert found == expected
        assert None not in found
    ends = "entropy_norm_stderr, entropy_norm_ci_low, entropy_norm_ci_high"
    assert query(database, f"SELECT {ends.replace('norm', 'floor')} FROM profiles") == query(
        database, f"SELECT {ends} FROM entropy ORDER BY entropy_norm LIMIT 1"
    )


@pytest.mark.parametrize(
    ("errors", "sites"),
    [("none", []), ("final", ["block.2"]), ("all", ["block.1", "block.2", "embed"])],
)
def test_errors_are_computed_where_they_are_wanted(
    make_run: MakeRun, errors: Any, sites: list[str]
) -> None:
    made = make_run()
    selection = ProfileSettings(sites=("embed", "block.*"))
    found = analyze(made.root, replace(selection, errors=errors, metrics=["stable_rank"]))
    sure = found.spectra.filter(pl.col("effective_rank_stderr").is_not_null())
    assert sorted(sure["site"].unique()) == sites
    assert found.spectra["effective_rank"].null_count() == 0
    sure = found.metrics.filter(pl.col("stderr").is_not_null())
    assert sorted(sure["site"].unique()) == sites


@pytest.mark.slow
def test_other_metrics_are_a_table_of_their_own(make_run: MakeRun) -> None:
    made = make_run()
    names = ["renyi2_entropy", "participation_ratio"]
    analysis = analyze(made.root, ProfileSettings(metrics=names))
    database = write_database(made.root, analysis)
    check_frames(analysis, made.root)
    check_printed(analysis, "site_profiles", "site", "participation_ratio")
    long = scan_metrics(made.root, metrics=["renyi2_entropy"], groups=10).filter(site="final")
    stored = query(
        database,
        "SELECT run, site, context, prefix, n_prompts, first_position, n_quarantined, metric, unit,"
        " value, stderr, ci_low, ci_high FROM metrics WHERE site = 'final' ORDER BY prefix",
    )
    assert stored == long.collect().rows()
    assert query(database, "SELECT count(*) FROM metrics") == [(4 * 10,)]
    flagged = "SELECT DISTINCT prefix FROM metrics WHERE 'short_text' IN flags ORDER BY ALL"
    assert query(database, flagged) == [(prefix,) for prefix in range(4, 21, 2)]
    ((ratios, ranks, flags),) = query(
        database,
        "SELECT count(participation_ratio), count(effective_rank), any_value(flags) FROM profiles",
    )
    assert (ratios, ranks) == (1, 0)
    assert "not_finite" not in flags


def test_a_metric_collapses_with_its_own_matrix(make_run: MakeRun) -> None:
    def lined(rows: Any) -> Any:
        return rows * np.array([1e4, 1, 1, 1, 1, 1], np.float32)

    made = make_run([20] * 6, scale=lined)
    names = ["zscore_effective_rank", "rankme", "two_nn", "robust_effective_rank"]
    found = analyze(made.root, ProfileSettings(sites=["final"], metrics=names)).metrics.filter(
        prefix=20
    )
    flagged = {row["metric"]: "collapsed" in row["flags"] for row in found.iter_rows(named=True)}
    assert not flagged["zscore_effective_rank"]
    assert flagged["rankme"]
    assert flagged["two_nn"]
    assert flagged["robust_effective_rank"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["robust_participation_ratio", "curvature"])
def test_metrics_of_rows_alone_know_what_befell_the_rows(
    make_run: MakeRun, name: str, tmp_path: Path
) -> None:
    def lined(rows: Any) -> Any:
        return np.outer(np.arange(len(rows)) + rows[0, 0], [1, 2, 3, 4, 5, 6]).astype(np.float32)

    def broken(rows: Any) -> Any:
        return np.where(np.arange(len(rows))[:, None] < 15, rows, np.float32(np.nan))

    for scale, flag, prefix in ((lined, "collapsed", 8), (broken, "not_finite", 20)):
        made = make_run([20] * 6, scale=scale, root=tmp_path / flag)
        found = analyze(made.root, ProfileSettings(sites=["final"], metrics=[name])).metrics
        (row,) = found.filter(metric=name, prefix=prefix).iter_rows(named=True)
        assert {"collapsed", "not_finite"} & set(row["flags"]) == {flag}


@pytest.mark.slow
def test_profiles_of_different_texts_say_so(make_run: MakeRun) -> None:
    make_run(model="a/one")
    made = make_run(model="b/two", prompt_set="other")
    assert query(
        build_database(made.root), "SELECT list_contains(flags, 'different_prompts') FROM profiles"
    ) == [(True,), (True,)]
    alone = analyze(made.root, ProfileSettings(runs=["two-*"])).profiles()
    assert "different_prompts" not in alone["flags"].explode().to_list()


@pytest.mark.slow
def test_the_run_row_says_what_was_run(make_run: MakeRun) -> None:
    made = make_run(shards=[0, 1], logits_width=61)
    with pytest.warns(UserWarning, match="1 of 3 shards are missing"):
        database = build_database(made.root)
    ((n_prompts, n_tokens, width, tokens, hash_, context),) = query(
        database,
        "SELECT n_prompts, n_tokens, logits_width, tokenizer_size, plan_hash, "
        "plan->>'$.context' FROM runs",
    )
    assert (n_prompts, n_tokens, width, tokens) == (4, 12 + 7 + 20 + 20, 61, 48)
    assert (hash_, context) == (made.plan.hash, "20")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (ProfileSettings(runs=["nope"]), r"'nope' names no run; there is:\n  one: one-"),
        (
            ProfileSettings(sites=["block.7"]),
            "no site 'block.7'; .* There is embed, block.1",
        ),
        (ProfileSettings(contexts=[21]), "--context 21: no run holds that many.*Ask for 1 to 20"),
        (ProfileSettings(contexts=[0]), "--context 0"),
        (ProfileSettings(prompts=[7]), "--prompts 7: no run holds that many.*Ask for 1 to 6"),
    ],
)
def test_what_the_store_does_not_hold_is_named(
    make_run: MakeRun, asked: ProfileSettings, message: str
) -> None:
    made = make_run(model="a/one")
    with pytest.raises(InputError, match=message):
        analyze(made.root, asked)


@pytest.mark.slow
def test_a_schedule_capture_has_ranks_at_other_contexts(make_run: MakeRun) -> None:
    made = make_run(logit_positions="schedule")
    (row,) = (
        analyze(made.root, ProfileSettings(contexts=[15], sites=["final"])).profiles().to_dicts()
    )
    ranks = scan_spectra(made.root, contexts=[15]).filter(site="final").collect()
    assert row["effective_rank"] == ranks["effective_rank"].max()
    assert row["participation_ratio"] == ranks["participation_ratio"].max()
    assert row["entropy_floor"] is None
    done = CliRunner().invoke(main, ["profile", str(made.root), "--context", "15"])
    assert done.exit_code == 0, done.output
    assert f"{made.run_id}: no entropy at context 15: logit statistics at its own" in done.stderr


@pytest.mark.slow
def test_the_first_texts_are_compared_whatever_follows(make_run: MakeRun) -> None:
    make_run(model="a/six", prompt_set="p6", texts="p")
    made = make_run((12, 7, 20, 20, 3, 15) * 2, model="b/twelve", prompt_set="p12", texts="p")

    def flagged(*sizes: int) -> set[str]:
        found = analyze(made.root, ProfileSettings(sites=["final"], prompts=sizes)).profiles()
        return {
            row["run"].split("-")[0]
            for row in found.iter_rows(named=True)
            if "different_prompts" in row["flags"]
        }

    assert flagged(6) == flagged(4, 12) == set()
    make_run(model="c/other", prompt_set="q6", first_row=500)
    assert flagged(6) == {"six", "twelve", "other"}


@pytest.mark.slow
def test_every_build_has_every_run_of_the_store(make_run: MakeRun) -> None:
    made = make_run(model="a/one", lengths=(4, 5), context=5, sites=("block.1", "final"))
    root = str(made.root)
    table = made.root.parent / "mine.csv"
    table.write_text("model,BBH\norg/Late,45\na/one,34.5\n")

    def invoke(*arguments: str) -> str:
        done = CliRunner().invoke(main, [*arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    def state() -> list[tuple[Any, ...]]:
        return query(
            made.root / "profiles.duckdb",
            "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM prompts), "
            "(SELECT count(run) FROM benchmarks), (SELECT count(*) FROM published), "
            "(SELECT count(*) FROM layers ANTI JOIN runs USING (run))",
        )

    invoke("profile", root)
    make_run(model="org/Late", lengths=(4, 5), context=5, sites=("block.1", "final"))
    assert "2 of 2 models have a run." in invoke("benchmarks", "add", root, str(table))
    assert state() == [(2, 4, 2, 8, 0)]
    for command in ("layers", "cka"):
        invoke(command, root)
        assert state() == [(2, 4, 2, 8, 0)], command
    invoke("profile", root, "one-*")
    assert state() == [(2, 4, 2, 8, 0)]
    assert query(made.root / "profiles.duckdb", "SELECT count(*) FROM profiles") == [(1,)]
    (made.root / "profiles.duckdb").unlink()
    invoke("cka", root)  # first of all, it brings the scores along
    assert state() == [(2, 4, 2, 8, 0)]


def test_nothing_captured_yet(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run(shards=[])
    with pytest.raises(InputError, match="no shard is committed yet"):
        analyze(made.root)
    with pytest.raises(FormatError, match="not an lpp store") as caught:
        analyze(tmp_path)
    assert isinstance(caught.value, LppError)
