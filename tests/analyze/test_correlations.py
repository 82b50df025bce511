"""Correlations over a store: families, refusals, which runs take part."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from profiled_store import MODELS, profiled_store, run_of, score

from lpp.analyze import CorrelateSettings, correlate
from lpp.analyze.cli.command import main
from lpp.analyze.quantities.correlations import MEANING
from lpp.analyze.scores.correlations import _flag_turns, why_unranked
from lpp.sql import connect
from lpp.store import create_store
from lpp.store.errors import ErrorKind, InputError
from lpp.store.scores.scores import SCORES_SCHEMA, add_scores


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], env={"COLUMNS": "80"})


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Path]:
    """`store(n)`: a store of the first n MODELS; `runs` and `profiles` alter rows by model."""
    return partial(profiled_store, tmp_path / "store")


@pytest.mark.parametrize(
    ("pearson", "spearman", "partial", "turns"),
    [(-0.75, -0.62, 0.42, True), (-0.75, 0.1, 0.42, False), (0.75, -0.1, 0.42, True)],
)
def test_ranks_are_compared_with_ranks(
    pearson: float, spearman: float, partial: float, *, turns: bool
) -> None:
    """A rank correlation and its partial; the linear one is of another kind."""
    keys = ("source", "profile_metric", "benchmark", "benchmark_metric")
    methods = {"pearson": pearson, "spearman": spearman, "rank_partial": partial}
    rows = [
        {
            **dict.fromkeys(keys, "x"),
            "method": method,
            "coefficient": value,
            "flags": ["few_models"],
        }
        for method, value in methods.items()
    ]
    found = _flag_turns(pl.DataFrame(rows))["flags"].to_list()
    assert found == [["few_models", "sign_turns"] if turns else ["few_models"]] * 3


@pytest.mark.parametrize("count", [1, 4])
def test_fewer_than_five_models_are_not_ranked(store: Callable[..., Path], count: int) -> None:
    root = store(count)
    score(root)
    found = correlate(root)
    assert found["coefficient"].is_null().all()
    assert found["q_value"].is_null().all()
    assert set(found["family_size"]) == {0}
    assert all("too_few_models" in flags for flags in found["flags"].to_list())
    error = why_unranked(found)
    assert error is not None
    assert f"fewer than 5 models, {count} at most" in str(error)
    assert error.kind is ErrorKind.INCOMPLETE


def test_five_models_are_ranked(store: Callable[..., Path]) -> None:
    root = store(5)
    score(root)
    found = correlate(root)
    assert why_unranked(found) is None
    assert set(found["n_models"]) == {5}
    assert all("few_models" in flags for flags in found["flags"].to_list())
    names = "entropy_floor", "effective_rank"
    rows = {r["profile_metric"]: r for r in found.filter(method="spearman").iter_rows(named=True)}
    assert [rows[name]["coefficient"] for name in names] == pytest.approx([-0.9, 0.6])


def test_sources_make_families_of_their_own(store: Callable[..., Path]) -> None:
    root = store()
    score(root, "one")
    names = [m[0] for m in MODELS]
    score(root, "two", model=names, Bench=[5, 4, 3, 2, 1, 6], Other=[1, 2, 3, 4, 6, 5])
    found = correlate(root, CorrelateSettings(metrics=("entropy_floor", "effective_rank")))
    sizes = found.group_by("source", "method").agg(pl.col("family_size").unique(), n=pl.len())
    assert {(r["source"], *r["family_size"], r["n"]) for r in sizes.iter_rows(named=True)} == {
        ("one", 2, 2),
        ("two", 4, 4),
    }
    assert set(correlate(root, CorrelateSettings(sources=("two",)))["source"]) == {"two"}
    asked = CorrelateSettings(benchmarks=("Other:score",))
    assert set(correlate(root, asked)["benchmark"]) == {"Other"}


@pytest.mark.slow
def test_probes_of_earlier_and_of_this_release_are_one_source(store: Callable[..., Path]) -> None:
    """Earlier rows have the bare name; those of now a name with digits, and the run."""
    root, source = store(), "lpp-probes-1 10-shot"
    rows = [
        {
            **{"benchmark": "lpp_spc", "metric": "char_f1,none", "value": value / 100, "n": 100},
            **{"stderr": None, "source": source, "kind": "probe"},
            **(
                {"model": model, "run": None}
                if model < "org/d"
                else {"model": f"{model}@1234abcd", "run": run_of(model)}
            ),
        }
        for model, *_, value in MODELS
    ]
    add_scores(root, source, pa.Table.from_pylist(rows, SCORES_SCHEMA), {})
    found = correlate(root, CorrelateSettings(metrics=("entropy_floor",))).filter(method="spearman")
    assert found["n_models"].to_list() == [6]
    asked = store()
    score(asked)
    same = correlate(asked, CorrelateSettings(metrics=("entropy_floor",), sources=("mine",)))
    (expected,) = same.filter(method="spearman")["coefficient"]
    assert found["coefficient"].to_list() == [pytest.approx(expected)]


def test_runs_without_a_number_a_score_or_the_setting_take_no_part(
    store: Callable[..., Path],
) -> None:
    root = store(
        runs={"org/a": {"untrained_seed": 0}},
        profiles={"org/b": {"context": 50}, "org/c": {"effective_rank": None}},
    )
    scored = [m[0] for m in MODELS if m[0] != "org/d"]
    score(root, model=[*scored, "org/stranger"], Bench=[*range(10, 16)])
    found = correlate(root, CorrelateSettings(metrics=("effective_rank",)))
    assert found["models"].to_list()[0] == ["e-0000", "f-0000"]


def test_a_name_of_two_runs_takes_no_part_until_one_is_chosen(
    store: Callable[..., Path],
) -> None:
    root = store(runs={"org/b": {"model": "org/a"}})
    score(root)
    (row,) = (
        correlate(root, CorrelateSettings(metrics=("effective_rank",)))
        .filter(method="pearson")
        .to_dicts()
    )
    assert row["n_models"] == 4
    chosen = correlate(root, CorrelateSettings(metrics=("effective_rank",), runs=("[!b]-*",)))
    assert chosen["models"].to_list()[0] == [f"{x}-0000" for x in "acdef"]


def test_flags_fire_and_stay_silent(store: Callable[..., Path]) -> None:
    root = store()
    score(root)
    clean = correlate(root, CorrelateSettings(metrics=("entropy_floor",)))
    assert {flag for flags in clean["flags"].to_list() for flag in flags} <= {
        "few_models",
        "sign_turns",
    }
    root = store(
        runs={"org/c": {"prompt_set": "p1"}},
        profiles={"org/d": {"flags": ["short_text"]}, "org/e": {"entropy_floor": 0.4}},
    )
    marked = correlate(root, CorrelateSettings(metrics=("entropy_floor",)))
    assert all({"different_prompts", "flagged_profiles"} <= set(flags) for flags in marked["flags"])


def test_undefined_tests_are_flagged_and_not_counted(store: Callable[..., Path]) -> None:
    root = store(profiles={m[0]: {"effective_rank": 7.0} for m in MODELS})
    score(root, model=[m[0] for m in MODELS], Bench=[m[4] for m in MODELS], Size=[*range(2, 8)])
    found = correlate(root, CorrelateSettings(metrics=("effective_rank", "entropy_floor")))
    rows = {
        (r["profile_metric"], r["benchmark"], r["method"]): r for r in found.iter_rows(named=True)
    }
    constant = rows["effective_rank", "Bench", "pearson"]
    assert constant["coefficient"] is None
    assert "constant" in constant["flags"]
    assert constant["family_size"] == 2  # entropy x Bench, entropy x Size
    ordered = rows["entropy_floor", "Size", "rank_partial"]
    assert "same_order_as_size" in ordered["flags"]
    assert ordered["family_size"] == 1
    used = {flag for flags in found["flags"].to_list() for flag in flags}
    assert used <= MEANING.keys()


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (
            CorrelateSettings(metrics=("entropi",)),
            "no profile metric entropi; there is entropy_floor",
        ),
        (CorrelateSettings(runs=("nobody",)), "no profiled run 'nobody'; there is a-0000"),
        (CorrelateSettings(sources=("other",)), "no source 'other'; there is mine"),
        (CorrelateSettings(benchmarks=("GSM*",)), "no benchmark is among those asked for"),
        (CorrelateSettings(context=7), "there is context 100 with 50 prompts"),
        (CorrelateSettings(site="embed"), "no profile at embed .* there is none"),
    ],
)
def test_a_name_that_fits_nothing(
    store: Callable[..., Path], question: CorrelateSettings, message: str
) -> None:
    root = store()
    score(root)
    with pytest.raises(InputError, match=message):
        correlate(root, question)


def test_no_profiles_and_no_scores_say_the_next_command(
    store: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="lpp-analyze profile"):
        correlate(create_store(tmp_path / "new").path)
    with pytest.raises(InputError, match="lpp-analyze benchmarks add"):
        correlate(store())


@pytest.mark.slow
def test_command_refuses_and_writes_the_table(store: Callable[..., Path]) -> None:
    root = store(3)
    score(root)
    done = run("correlate", root)
    assert done.exit_code == 2
    assert "not ranked: fewer than 5 models, 3 at most" in done.stderr
    assert "No correlation with the scores of mine: at most 3 models have both." in done.stdout
    assert "Next:" not in done.stdout
    with connect(root) as connection:
        rows = connection.sql("SELECT DISTINCT coefficient, n_models FROM correlations").fetchall()
    assert rows == [(None, 3)]


@pytest.mark.slow
def test_one_corpus_of_several_is_chosen(store: Callable[..., Path]) -> None:
    corpora = {m[0]: {"corpus": "songs" if m[0] == "org/b" else "prose"} for m in MODELS}
    root = store(runs=corpora)
    score(root)
    found = correlate(root, CorrelateSettings(metrics=("entropy_floor",), corpora=("pro*",)))
    assert found["models"].to_list()[0] == [f"{x}-0000" for x in "acdef"]
    with pytest.raises(InputError, match=r"no corpus 'verse'; .*There is .*songs.* --corpus"):
        correlate(root, CorrelateSettings(corpora=("verse",)))
    done = run("correlate", root, "--corpus", "songs")
    assert done.exit_code == 2
    assert "choose: --corpus, or name RUNs" in " ".join(done.output.split())
