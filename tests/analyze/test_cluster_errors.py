"""Errors over clusters: prompts of one document are left out together, wherever they lie."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from kept_heads import keep_head
from made_runs import Made, MakeRun

from lpp.analyze import DiffSettings, ProfileSettings
from lpp.analyze.cli.command import main
from lpp.analyze.drift.drift import diff
from lpp.analyze.drift.frames import facts
from lpp.analyze.numerics.jackknife import clustered_error, floor_bias, jackknife
from lpp.analyze.numerics.statistics.clusters import cluster_codes, recoded
from lpp.analyze.report.content import report
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.groups import Clusters, group_of, spans
from lpp.analyze.runs.prompt_clusters import prompt_values
from lpp.analyze.tables.analysis import analyze
from lpp.analyze.tables.build import write_database
from lpp.analyze.tables.database import read_table
from lpp.sql import connect
from lpp.sql.queries.saved import saved_query
from lpp.store import open_store
from lpp.store.errors import ErrorKind, InputError

DOCUMENTS = ("a", "b", "a", "c", "b", "a", "d", "c")
"""Documents of eight prompts; no two of one lie side by side."""

LENGTHS = (12, 7, 20, 20, 9, 15, 18, 11)


def of_documents(make_run: MakeRun, **options: Any) -> Made:
    carried = {"field.document": pa.array(DOCUMENTS), "field.same": pa.array([1] * len(DOCUMENTS))}
    return make_run(LENGTHS, vary_tokens=True, carried=carried, **options)


def without(document: str) -> list[int]:
    return [prompt for prompt, name in enumerate(DOCUMENTS) if name != document]


def participation_ratio(rows: list[Any], prefix: int) -> float:
    """From its definition, in float64."""
    every = np.concatenate([some[:prefix] for some in rows]).astype(np.float64)
    values = np.linalg.eigvalsh(np.cov(every.T))
    return float(values.sum() ** 2 / np.square(values).sum())


@pytest.mark.slow
@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.integers(2, 12))
def test_groups_are_whole_clusters(clusters: list[int], groups: int) -> None:
    of = np.array(clusters)
    group = group_of(Clusters(of, groups), len(of))
    assert all(len({*group[of == one]}) == 1 for one in {*clusters})
    assert sorted({*group}) == list(range(group.max() + 1))
    assert group.max() < min(groups, len({*clusters}))
    found = spans(Clusters(of, groups), len(of))
    covered = sorted(prompt for part in found for span in part for prompt in range(*span))
    assert covered == (list(range(len(of))) if group.max() else [])


@given(st.integers(1, 60), st.integers(2, 12))
def test_clusters_of_one_prompt_are_the_groups_of_neighbours(n: int, groups: int) -> None:
    alone = Clusters(np.arange(n), groups)
    assert spans(alone, n) == spans(groups, n)
    assert Cell(n, 10).parts(alone) == Cell(n, 10).parts(groups)


def test_the_error_of_a_mean_is_that_of_the_sums_of_clusters() -> None:
    rng = np.random.default_rng(3)
    of = rng.integers(0, 9, 50)
    values = rng.normal(size=50) + rng.normal(size=9)[of]
    error, freedom = clustered_error(values, of)
    residuals = [sum(v - values.mean() for v in values[of == one]) for one in range(9)]
    assert freedom == 8
    assert error == pytest.approx(math.sqrt(9 / 8 * sum(r**2 for r in residuals)) / 50)
    alone, freedom = clustered_error(values, np.arange(50))
    assert alone == pytest.approx(values.std(ddof=1) / math.sqrt(50), rel=1e-12)
    assert freedom == 49
    assert math.isnan(clustered_error(values, np.zeros(50, int))[0])


@pytest.mark.slow
def test_the_least_of_several_noisy_means_is_too_low() -> None:
    """Of ten means that do not differ the least is 1.539 standard errors too low. Resamples see .41
    of that: the sample's own means lie apart already.
    """
    rng = np.random.default_rng(5)
    for n in (10, 100):
        found = [floor_bias(rng.normal(size=(10, n)), np.arange(n)) for _ in range(60)]
        expected = -1.5388 * (math.sqrt(2) - 1) / math.sqrt(n)
        assert np.mean(found) == pytest.approx(expected, rel=0.2)
    values = rng.normal(size=(4, 30))
    direct = (
        np.mean([values[:, rng.integers(0, 30, 30)].mean(axis=1).min() for _ in range(20_000)])
        - values.mean(axis=1).min()
    )
    assert floor_bias(values, np.arange(30)) == pytest.approx(direct, rel=0.08)
    pairs = np.repeat(values, 2, axis=1)  # every prompt twice: as many clusters as before
    assert floor_bias(pairs, np.repeat(np.arange(30), 2)) == floor_bias(values, np.arange(30))
    assert math.isnan(floor_bias(np.full((2, 9), np.nan), np.arange(9)))


@pytest.mark.slow
def test_the_bias_of_the_floor_is_printed_where_prompts_are_few(make_run: MakeRun) -> None:
    made = of_documents(make_run)
    done = command("profile", made.root, "--format", "table")
    said = " ".join(done.stdout.split())
    assert "the least of 10 means over" in said
    (row,) = read_table(made.root, "profiles").iter_rows(named=True)
    ends = [[e[min(L, len(e)) - 1] for e in made.entropy] for L in made.plan.prefixes]
    values = np.array(ends, np.float64) / math.log(50)
    assert row["entropy_floor_bias"] == pytest.approx(floor_bias(values, np.arange(8)), rel=1e-6)
    dropped = command("profile", made.root, "--drop-prefixes", "2", "--format", "table")
    assert "too low" not in dropped.stdout


@pytest.mark.slow
@pytest.mark.parametrize("dim", [6, 90])
def test_ranks_and_entropies_leave_whole_documents_out(make_run: MakeRun, dim: int) -> None:
    """With more rows than columns (sums are subtracted), and with fewer (one Gram matrix)."""
    made = of_documents(make_run, dim=dim)
    found = analyze(
        made.root, ProfileSettings(cluster="document", metrics=("paper", "surprisal", "min_k"))
    )
    for row in found.spectra.filter(site="final").iter_rows(named=True):
        hidden = made.hidden["final"]
        value, *parts = (
            participation_ratio([hidden[prompt] for prompt in some], row["prefix"])
            for some in (range(8), *map(without, "abcd"))
        )
        assert row["participation_ratio"] == pytest.approx(value, rel=1e-9)
        expected = jackknife(value, parts).stderr
        assert row["participation_ratio_stderr"] == pytest.approx(expected, rel=1e-7)
    of = np.array([ord(name) for name in DOCUMENTS])
    for row in found.entropy.iter_rows(named=True):
        ends = [e[min(row["prefix"], len(e)) - 1] for e in made.entropy]
        error, _ = clustered_error(np.array(ends, np.float64), of)
        assert row["entropy_stderr"] == pytest.approx(error, rel=1e-6)
    plain = analyze(made.root, ProfileSettings(metrics=("paper", "surprisal", "min_k")))
    for table, columns in (("spectra", ["participation_ratio", "effective_rank"]), ("metrics", [])):
        ours, theirs = getattr(found, table), getattr(plain, table)
        assert ours.select(columns).equals(theirs.select(columns))  # the numbers are the same
        errors = [name for name in ours.columns if name.endswith("stderr")]
        assert ours.select(errors).null_count().equals(theirs.select(errors).null_count())
        assert not ours.select(errors).equals(theirs.select(errors))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["anisotropy", "block_influence", "curvature"])
def test_metrics_of_rows_leave_whole_documents_out(make_run: MakeRun, metric: str) -> None:
    made = of_documents(make_run)
    found = analyze(made.root, ProfileSettings(cluster="document", metrics=(metric,), errors="all"))
    parts = [
        analyze(
            make_run(LENGTHS, root=made.root.with_name(name), order=without(name)).root,
            ProfileSettings(metrics=(metric,), errors="none"),
        ).metrics.filter(metric=metric)
        for name in "abcd"
    ]
    rows = found.metrics.filter(metric=metric)
    assert rows["stderr"].drop_nulls().len() > 10
    for k, row in enumerate(rows.iter_rows(named=True)):
        values = [part["value"][k] for part in parts]
        if row["value"] is not None and None not in values:
            assert row["stderr"] == pytest.approx(jackknife(row["value"], values).stderr, rel=1e-6)


def test_metrics_of_tokens_leave_whole_documents_out(make_run: MakeRun) -> None:
    made = of_documents(make_run)
    found = analyze(made.root, ProfileSettings(cluster="document", metrics=("margin", "min_k")))
    tokens = open_store(made.root).run(made.run_id).tokens().to_table().to_pylist()

    def margin(prompts: list[int], prefix: int) -> float:
        inside = [t for t in tokens if t["prompt_id"] in prompts and t["position"] < prefix]
        return float(np.mean([t["margin"] for t in inside]))

    for row in found.metrics.filter(metric="margin").iter_rows(named=True):
        parts = [margin(without(name), row["prefix"]) for name in "abcd"]
        expected = jackknife(margin([*range(8)], row["prefix"]), parts)
        assert row["stderr"] == pytest.approx(expected.stderr, rel=1e-6)
    assert found.metrics.filter(metric="min_k")["stderr"].null_count() < len(found.entropy)


def two_runs(make_run: MakeRun) -> tuple[Made, Made]:
    return of_documents(make_run, model="m/base"), of_documents(make_run, model="m/tuned", seed=1)


@pytest.mark.slow
def test_a_difference_leaves_whole_documents_out_of_both(make_run: MakeRun) -> None:
    a, b = two_runs(make_run)
    keep_head(a.root, a.plan)
    found = diff(a.root, "base", "tuned", DiffSettings(cluster="document", errors="all"))
    both = [list(zip(a.hidden[s], b.hidden[s], strict=True)) for s in ("embed", "final")]
    for site, hidden in zip((found.sites[0], found.sites[-1]), both, strict=True):

        def distance(prompts: list[int], hidden: Any = hidden) -> float:
            some = [hidden[prompt] for prompt in prompts]
            x, y = (np.concatenate(rows).astype(np.float64) for rows in zip(*some, strict=True))
            return float((np.linalg.norm(x - y, axis=1) / np.linalg.norm(x, axis=1)).mean())

        def ranks(prompts: list[int], hidden: Any = hidden) -> float:
            x, y = zip(*(hidden[prompt] for prompt in prompts), strict=True)
            return participation_ratio(list(y), 20) - participation_ratio(list(x), 20)

        for number, reference in (("relative_distance", distance), ("participation_ratio", ranks)):
            value, *parts = (reference(some) for some in ([*range(8)], *map(without, "abcd")))
            estimate = getattr(site, number)
            assert estimate.value == pytest.approx(value, rel=1e-6)
            assert estimate.groups == pytest.approx(parts, rel=1e-6)
    prompt, kl = (found.tokens[name].to_numpy() for name in ("prompt_id", "kl"))
    parts = [kl[np.isin(prompt, without(name))].mean() for name in "abcd"]
    expected = jackknife(float(kl.mean()), parts)
    assert found.predictions["kl"].mean == pytest.approx(expected.value)
    assert found.predictions["kl"].stderr == pytest.approx(expected.stderr, rel=1e-6)
    assert found.predictions["entropy"].groups == 4
    assert facts(found)["cluster"].item() == "document"
    neighbours = diff(a.root, "base", "tuned", DiffSettings(errors="all"))
    assert neighbours.predictions["entropy"].mean == found.predictions["entropy"].mean
    assert neighbours.predictions["entropy"].groups == 8
    assert facts(neighbours)["cluster"].item() is None


def command(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.slow
def test_the_output_and_the_database_say_what_errors_are_over(make_run: MakeRun) -> None:
    a, _ = two_runs(make_run)
    done = command("profile", a.root, "--cluster", "document", "--format", "table")
    assert done.exit_code == 0, done.output
    assert read_table(a.root, "profiles")["cluster"].to_list() == ["document"] * 2
    again = json.loads(
        command("profile", a.root, "--cluster", "document", "--format", "json").stdout
    )
    assert {row["cluster"] for row in again["tables"]["profiles"]} == {"document"}
    done = command("diff", a.root, "base", "tuned", "--cluster", "document")
    for table in ("drift_predictions", "drift_sites"):
        assert set(read_table(a.root, table)["cluster"]) == {"document"}
    document = command("diff", a.root, "base", "tuned", "--cluster", "document", "--format", "json")
    bands = json.loads(document.stdout)["tables"]["drift_positions"]
    page = command("report", a.root, "-o", a.root.with_name("report.md"))
    assert page.exit_code == 0, page.output
    assert bands


@pytest.mark.slow
def test_differences_pair_only_errors_of_one_kind(make_run: MakeRun) -> None:
    a, b = two_runs(make_run)
    halves = ProfileSettings(runs=(a.run_id,)), ProfileSettings(runs=(b.run_id,))
    verdicts = []
    for cluster in ("document", None):
        write_database(a.root, analyze(a.root, replace(halves[0], cluster="document")))
        write_database(a.root, analyze(a.root, replace(halves[1], cluster=cluster)))
        with connect(a.root) as connection:
            rows = connection.sql(saved_query("differences").statement).pl()
        verdicts.append({*rows["verdict"]})
    assert verdicts[1] == {"no interval"}
    assert verdicts[0] <= {"differs from 0", "may be 0"}
    # rows with errors of both kinds stand side by side: a column says so
    tables = {table.name: table for s in report(str(a.root)).sections for table in s.tables}
    for name in ("profiles", "spectra", "entropy"):
        assert "cluster" in {f.name for f in tables[name].fields if f.first}, name
    with connect(a.root) as connection:
        said = connection.sql(f"SELECT run, cluster FROM ({saved_query('profiles').statement})")
        assert {*said.fetchall()} == {(a.run_id, "document"), (b.run_id, None)}


@pytest.mark.slow
def test_an_error_of_one_kind_does_not_complete_a_row_of_the_other(make_run: MakeRun) -> None:
    made = of_documents(make_run)
    write_database(made.root, analyze(made.root))
    ranks = ("participation_ratio",)
    write_database(
        made.root, analyze(made.root, ProfileSettings(metrics=ranks, cluster="document"))
    )
    (row,) = read_table(made.root, "profiles").iter_rows(named=True)
    assert row["cluster"] == "document"
    assert row["participation_ratio_stderr"] is not None
    assert row["effective_rank"] is not None  # the number is the same
    assert row["effective_rank_stderr"] is None


@pytest.mark.parametrize(
    ("field", "said"),
    [("documnet", ["documnet", "did you mean document"]), ("same", ["one value", "--cluster"])],
)
@pytest.mark.parametrize(
    "words", [["profile"], ["diff", "base", "tuned"], ["diff", "--against", "base"]]
)
def test_a_field_that_makes_no_clusters_is_one_message(
    make_run: MakeRun, words: list[str], field: str, said: list[str]
) -> None:
    a, _ = two_runs(make_run)
    done = command(words[0], a.root, *words[1:], "--cluster", field)
    assert (done.exit_code, done.stdout) == (2, "")
    assert all(part in done.stderr for part in said)
    assert len(done.stderr.strip().splitlines()) == 1


def test_documents_that_share_their_change_are_not_taken_for_evidence() -> None:
    """Thirty documents of four prompts whose mean change is 0: the interval of 95 % holds it."""
    rng = np.random.default_rng(11)
    document = np.tile(np.arange(30), 4)  # the prompts of one do not lie side by side
    held = {"clusters": 0, "neighbours": 0}
    for _ in range(500):
        values = math.sqrt(0.9) * rng.normal(size=30)[document] + math.sqrt(0.1) * rng.normal(
            size=120
        )
        for name, groups in (("clusters", Clusters(document)), ("neighbours", 10)):
            parts = [values[part.stays].mean() for part in Cell(120, 1).parts(groups)]
            found = jackknife(float(values.mean()), parts)
            assert found.ci_low is not None
            assert found.ci_high is not None
            held[name] += found.ci_low <= 0 <= found.ci_high
    assert 0.93 <= held["clusters"] / 500 <= 0.97
    assert held["neighbours"] / 500 < 0.8


def test_equal_values_are_one_cluster_and_no_value_is_a_cluster_of_its_own() -> None:
    assert cluster_codes(["b", "a", "b", None, None]).tolist() == [0, 1, 0, 2, 3]
    assert cluster_codes([3, 1, 1, 3]).tolist() == [0, 1, 1, 0]
    assert cluster_codes([0, None, 0]).tolist() == [0, 1, 0]
    assert cluster_codes([]).tolist() == []


def test_some_of_the_items_are_numbered_again() -> None:
    codes = cluster_codes(list("abcabc"))
    assert recoded(codes[2:]).tolist() == [0, 1, 2, 0]


def test_prompts_are_in_clusters_by_a_field_that_they_carry(make_run: MakeRun) -> None:
    documents = ["one", "two", "one", None, "two", "one"]
    made = make_run(carried={"id": [9, 8, 9, 8, 7, 7], "field.document": documents})
    run = open_store(made.root).runs[made.run_id]
    assert prompt_values(run, "document") == documents
    assert cluster_codes(prompt_values(run, "id")).tolist() == [0, 1, 0, 1, 2, 2]
    with pytest.raises(InputError, match=r"--cluster documnt: .*document") as caught:
        prompt_values(run, "documnt")
    assert caught.value.kind is ErrorKind.NOT_FOUND


def test_prompts_without_fields_are_in_no_clusters(make_run: MakeRun) -> None:
    made = make_run()
    run = open_store(made.root).runs[made.run_id]
    with pytest.raises(
        InputError,
        match=r"there is none\. Add it: lpp-capture label STORE \S+ --from FILE --fields document",
    ):
        prompt_values(run, "document")
