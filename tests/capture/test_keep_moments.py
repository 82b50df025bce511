"""A run that keeps moments says of ranks what a run that keeps rows says, and no more."""

import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.testing
import pytest
from click.testing import CliRunner, Result
from stored import stored_objects

from lpp.analyze import LayersSettings, scan_entropy, scan_metrics, scan_spectra
from lpp.analyze.cli.command import main as analyze
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.studies.layers import layers
from lpp.analyze.tables.eigenvalues import read_eigenvalues
from lpp.capture.cli.command import main
from lpp.store import Run, open_store
from lpp.store.errors import InputError

PROMPTS = 40
NEED_NO_ROWS = [m.name for m in METRICS.values() if m.needs in ("scatter", "eigenvalues")]

Stores = Mapping[str, Path]


def capture(store: Path, model: Path, corpus: Path, *more: str) -> Result:
    words = ["run", f"--model={model}", f"--corpus={corpus}", f"--store={store}", "--min-bytes=0"]
    return CliRunner().invoke(main, [*words, "--context=40", "--batch-tokens=300", *more])


def only(store: Path) -> Run:
    (run,) = open_store(store).runs.values()
    return run


def contents(run: Run) -> dict[str, bytes]:
    found = stored_objects(run.path)
    return {key: data for key, data in found.items() if key.startswith("shards/")}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty texts, some shorter than most prefixes."""
    words = ["dog", "fox", "lazy", "brown", "quick", "mind", "all"]
    lines = [
        " ".join(words[(n * k + k * k) % 7] for k in range(1, 4 + n % 5 * 9))
        for n in range(PROMPTS)
    ]
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n\n".join(lines))
    return path


CHOICES = {
    "rows": (),
    "moments": ("--keep=moments",),
    "both": ("--keep=both", "--shard-mib=1"),
    "float32": ("--keep=moments", "--moments-dtype=float32"),
}


@pytest.fixture(scope="module")
def stores(
    tiny_folder: Callable[[str], Path], texts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Stores:
    """The same forty prompts, kept in four ways."""
    place = tmp_path_factory.mktemp("kept")
    for name, options in CHOICES.items():
        done = capture(place / name, tiny_folder("llama"), texts, f"--prompts={PROMPTS}", *options)
        assert done.exit_code == 0, done.output
    return {name: place / name for name in CHOICES}


@pytest.fixture
def by_rows(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store with both, analysed from its rows, which are those that the moments are of: other
    shards make other batches, and those other last bits.
    """
    monkeypatch.setattr("lpp.analyze.engine.stored_moments.PRODUCT_ROWS", 1e9)
    for store in stores.values():
        shutil.rmtree(store / "analysis", ignore_errors=True)
    return stores["both"]


@pytest.mark.slow
def test_what_lies_on_disk(stores: Stores) -> None:
    held = {name: {path.split("/")[2] for path in contents(only(stores[name]))} for name in stores}
    tables = {"COMMIT.json", "tokens.arrow"}
    assert held["rows"] == {*tables, "hidden.zarr"}
    assert held["moments"] == {*tables, "moments.arrow", "moments.zarr"}
    assert held["both"] == {*tables, "hidden.zarr", "moments.arrow", "moments.zarr"}
    for name in ("moments", "both", "float32"):
        run = only(stores[name])
        assert run.verify() == []
        assert {run.commit.format, *(shard.record.format for shard in run.shards)} == {3}
        assert {*range(0, PROMPTS + 1, 4)} <= {*run.plan.shards}
    rows = only(stores["rows"])
    assert {rows.commit.format, *(shard.record.format for shard in rows.shards)} == {3}
    assert {"keep", "band_ends"}.isdisjoint(rows.plan.document)
    document = only(stores["moments"]).plan.document
    assert "moments_dtype" not in document
    assert document["band_ends"] == [1, 2, *document["prefixes"]]


@pytest.mark.parametrize("kept", ["moments", "both"])
def test_every_band_is_that_of_its_rows(stores: Stores, kept: str) -> None:
    rows, run = only(stores["both"]), only(stores[kept])
    assert run.plan.moment_ends[:4] == (1, 2, 4, 8)
    edges = [0, *run.plan.moment_ends]
    for site in run.sites:
        blocks = list(rows.blocks(site))
        values = np.concatenate([block.values for block in blocks]).astype(np.float64)
        prompt = np.concatenate([block.prompt_id for block in blocks])
        position = np.concatenate([block.position for block in blocks])
        stored = run.moments(site)
        for shard in run.shards:
            for band in range(len(run.plan.moment_ends)):
                inside = (prompt >= shard.first_prompt) & (prompt < shard.end_prompt)
                inside &= (position >= edges[band]) & (position < edges[band + 1])
                some, found = values[inside], stored.band(shard, band)
                assert found.n == len(some)
                if not len(some):
                    assert not found.mean.any()
                    assert not found.scatter.any()
                    continue
                centred = some - some.mean(axis=0)
                scatter = (centred.T @ centred)[np.triu_indices(values.shape[1])]
                np.testing.assert_allclose(found.mean, some.mean(axis=0), rtol=1e-12, atol=1e-12)
                scale = np.abs(scatter).max()
                np.testing.assert_allclose(found.scatter, scatter, rtol=0, atol=1e-13 * scale)


NEED_ROWS = ("n_sinks", "sink_end")


def compared(pair: Iterable[pl.LazyFrame], *, rel_tol: float = 1e-5, abs_tol: float = 1e-8) -> int:
    one, other = (frame.drop("run", *NEED_ROWS, strict=False).collect() for frame in pair)
    polars.testing.assert_frame_equal(one, other, rel_tol=rel_tol, abs_tol=abs_tol)
    return one.height


def metrics_compared(pair: Iterable[pl.LazyFrame], within: float) -> int:
    """Rows of the metrics table: a value, its error and its interval all to `within` of the value.

    An error is a difference of values: no digits of it are right beyond those of the values.
    """
    one, other = (frame.drop("run").collect() for frame in pair)
    keys = [name for name in one.columns if one[name].dtype != pl.Float64]
    polars.testing.assert_frame_equal(one.select(keys), other.select(keys))
    scale = other["value"].abs() + 1e-9
    for name in (name for name in one.columns if name not in keys):
        assert (one[name].is_null() == other[name].is_null()).all()
        assert ((one[name] - other[name]).abs() <= within * scale).fill_null(value=True).all(), name
    return one.height


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [None, [4, 20]])
def test_every_number_that_needs_no_rows_is_that_from_rows(
    stores: Stores, by_rows: Path, prompts: list[int] | None
) -> None:
    """Values, errors and intervals. Four prompts have fewer rows than columns: the other route."""
    groups = None if prompts else 10
    options: Any = {"prompts": prompts, "groups": groups}
    pair = (stores["moments"], by_rows)
    spectra = [scan_spectra(store, **options) for store in pair]
    assert compared(spectra, rel_tol=1e-6, abs_tol=1e-9) == 5 * 10 * (2 if prompts else 1)
    metrics = [scan_metrics(store, metrics=NEED_NO_ROWS, **options) for store in pair]
    assert metrics_compared(metrics, within=1e-6) > 500
    if groups:
        assert spectra[0].collect()["effective_rank_stderr"].null_count() == 0


@pytest.mark.slow
def test_both_are_read_by_what_costs_less(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            read.append(method.__name__)
            return method(*arguments, **options)

        return call

    for method in (Run.blocks, Run.moments):
        monkeypatch.setattr(Run, method.__name__, watched(method))
    for limit, from_what in ((1e9, "blocks"), (0.1, "moments")):
        monkeypatch.setattr("lpp.analyze.engine.stored_moments.PRODUCT_ROWS", limit)
        cases: list[tuple[dict[str, Any], set[str]]] = [
            ({}, {from_what}),
            ({"prompts": [4, 40]}, {from_what}),
            ({"prompts": [7]}, {"blocks"}),  # no whole shards
            ({"contexts": [20]}, {from_what, "blocks"}),  # some prefixes end no band
        ]
        for asked, expected in cases:
            shutil.rmtree(stores["both"] / "analysis", ignore_errors=True)
            read.clear()
            found = scan_spectra(stores["both"], **asked).filter(site="final")
            found.drop(NEED_ROWS).collect()
            assert {*read} == expected


@pytest.mark.slow
def test_errors_of_few_rows_are_those_from_rows(
    tiny_folder: Callable[[str], Path], texts: Path, tmp_path: Path, by_rows: Path
) -> None:
    """Eleven prompts: below the first prefixes fewer rows than columns, with a group left out."""
    for name in ("both", "moments"):
        options = (f"--keep={name}", "--prompts=11")
        done = capture(tmp_path / name, tiny_folder("llama"), texts, *options)
        assert done.exit_code == 0, done.output
    pair = [scan_spectra(tmp_path / name, groups=10) for name in ("moments", "both")]
    assert (pair[0].collect()["n_tokens"] < 48).any()
    compared(pair, rel_tol=1e-6, abs_tol=1e-9)
    zscore = [
        scan_metrics(tmp_path / name, metrics=["zscore_*"], groups=10)
        for name in ("moments", "both")
    ]
    assert metrics_compared(zscore, within=1e-6) == 200


@pytest.mark.slow
def test_float32_matrices_are_within_their_bound(stores: Stores, by_rows: Path) -> None:
    exact, rounded = only(stores["moments"]), only(stores["float32"])
    unit = 2.0**-24
    for site in exact.sites:
        for one, other in zip(exact.moments(site), rounded.moments(site), strict=True):
            assert (np.abs(one.scatter - other.scatter) <= unit * np.abs(one.scatter)).all()
            assert (one.mean == other.mean).all()  # means are float64 either way
    keys = ["site", "context", "prefix", "n_prompts"]
    of_exact, of_rounded = (scan_spectra(stores[name]) for name in ("moments", "float32"))
    both = of_exact.join(of_rounded, on=keys, suffix="_rounded").collect()
    pieces = 10 * 10  # shards x bands that a cell is a sum of, at most
    for name in ("participation_ratio", "participation_ratio_norm"):
        error = (both[f"{name}_rounded"] / both[name] - 1).abs().to_numpy().max()
        assert 0 < error <= 2 * unit * (1 + pieces**0.5)
    # singular values, and slopes of small eigenvalues, see what is left of a zero eigenvalue
    some = [name for name in NEED_NO_ROWS if name not in ("rankme", "alpha_req", "alpha_req_r2")]
    pair = [scan_metrics(store, metrics=some, groups=10) for store in (stores["float32"], by_rows)]
    assert metrics_compared(pair, within=1e-6) > 500


@pytest.mark.slow
def test_eigenvalues_and_layers(stores: Stores, by_rows: Path) -> None:
    every = LayersSettings()
    pair = [read_eigenvalues(store, every).lazy() for store in (stores["moments"], by_rows)]
    compared(pair, rel_tol=1e-6, abs_tol=1e-9)
    ours, theirs = (
        layers(store, replace(every, errors="all")) for store in (stores["moments"], by_rows)
    )
    some = [
        c
        for c in ours.layers.columns
        if "robust" not in c and c not in ("run", "flags", *NEED_ROWS)
    ]
    polars.testing.assert_frame_equal(
        ours.layers.select(some), theirs.layers.select(some), rel_tol=1e-6
    )
    assert ours.layers["robust_effective_rank"].null_count() == 5
    assert any("robust_effective_rank need" in line for line in ours.left_out)
    scores = pl.col("metric").str.starts_with("robust_").not_()
    polars.testing.assert_frame_equal(
        ours.scores.filter(scores).drop("run"), theirs.scores.filter(scores).drop("run")
    )


def test_entropy_and_statistics_of_tokens_are_untouched(stores: Stores) -> None:
    options: Any = {"contexts": [10, 40], "prompts": [7, PROMPTS]}
    pair = [scan_entropy(stores[name], **options) for name in ("moments", "both")]
    assert compared(pair) == 40


@pytest.mark.slow
def test_profile_says_what_needs_rows(stores: Stores) -> None:
    words = ["profile", str(stores["moments"]), "--metrics=paper,anisotropy,stable_rank"]
    done = CliRunner().invoke(analyze, words)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "keeps moments and no rows, which anisotropy need" in said
    assert "stable_rank" in done.stdout
    found = scan_metrics(stores["moments"]).collect()
    assert {*found["metric"]}.isdisjoint(m.name for m in METRICS.values() if m.needs == "rows")
    assert found.filter(metric="stable_rank", site="final").height == 10


def test_what_moments_do_not_tell_is_refused_in_one_line(stores: Stores) -> None:
    store = str(stores["moments"])
    done = CliRunner().invoke(analyze, ["profile", store, "--prompts=7"])
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert "--prompts 7: no rows are kept here" in said
    assert "4, 8, 12, 16, 20, 24, 28, 32, 36, 40" in said
    assert "Traceback" not in done.output
    done = CliRunner().invoke(analyze, ["profile", store, "--skip-first=3"])
    assert done.exit_code == 2
    assert "1, 2, 4, 8" in done.stderr
    run = only(stores["moments"])
    done = CliRunner().invoke(analyze, ["cka", store, "--site=embed,final"])
    assert done.exit_code == 2, done.output
    assert "keeps moments of its rows and not the rows" in " ".join(done.stderr.split())
    with pytest.raises(InputError, match="--keep rows or --keep both"):
        list(run.blocks("final"))
    with pytest.raises(InputError, match="keeps rows and no moments"):
        only(stores["rows"]).moments("final")
    with pytest.raises(InputError, match=r"no site 'block.9'"):
        run.moments("block.9")


@pytest.mark.slow
def test_a_context_with_part_of_its_schedule_has_no_profile(stores: Stores) -> None:
    """Prefixes of context 20 are 2, 4, ..., 20, of which 2 and every second one end a band."""
    shown = scan_spectra(stores["moments"], contexts=[20]).collect()
    assert shown["prefix"].unique().to_list() == [2, 4, 8, 12, 16, 20]
    done = CliRunner().invoke(
        analyze, ["profile", str(stores["moments"]), "--context=20,40", "--format=csv"]
    )
    assert done.exit_code == 0, done.output
    assert "context 20 has ranks at 2, 4, 8, 12, 16, 20 alone" in " ".join(done.stderr.split())
    found = pl.read_csv(done.stdout.encode())
    by_context = {row["context"]: row for row in found.filter(site="final").iter_rows(named=True)}
    assert by_context[20]["effective_rank"] is None
    assert by_context[20]["entropy_norm"] is not None
    assert by_context[40]["effective_rank"] is not None


@pytest.mark.slow
def test_errors_where_groups_are_no_whole_shards_are_null(stores: Stores, by_rows: Path) -> None:
    """Eight prompts are two shards: they have ranks, and no ten groups."""
    found = scan_spectra(stores["moments"], prompts=[8, 40], groups=10).collect()
    errors = found.group_by("n_prompts").agg(pl.col("effective_rank_stderr").null_count())
    assert dict(errors.iter_rows()) == {8: 50, 40: 0}
    assert found["effective_rank"].null_count() == 0
    halves = [scan_spectra(store, groups=5) for store in (stores["moments"], by_rows)]
    compared(halves, rel_tol=1e-6, abs_tol=1e-9)


def test_a_comparison_is_refused_with_the_command_that_makes_it_possible(
    stores: Stores, tiny_folder: Callable[[str], Path], texts: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "moments"
    shutil.copytree(stores["moments"], bare)
    lies = stored_objects(bare)
    words = ["diff", str(stores["rows"]), only(stores["rows"]).id, f"{bare}::{only(bare).id}"]
    output = tmp_path / "drift.md"
    done = CliRunner().invoke(analyze, [*words, "-o", str(output)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("Error: ") == 1
    assert not output.exists()
    assert stored_objects(bare) == lies
    command = shlex.split(done.stderr[done.stderr.index("lpp-capture run") :].replace("\\\n", ""))
    assert command[command.index("--keep") + 1] == "both"
    here = (f"--model={tiny_folder('llama')}", f"--corpus={texts}")  # a plan knows their names
    again = CliRunner().invoke(main, [*command[1:], *here])
    assert again.exit_code == 0, again.output
    (both,) = (run for run in open_store(bare).runs.values() if run.plan.keeps_rows)
    done = CliRunner().invoke(analyze, [*words[:-1], f"{bare}::{both.id}"])
    assert done.exit_code == 0, done.output
