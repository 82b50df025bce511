"""`--stored-dtype`: rows are rounded, all else is as it was, and numbers from such rows say so."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from stored import object_path, stored_objects
from zarr_arrays import rows_of

from lpp.analyze import DiffSettings, LayersSettings, ProfileSettings, analyze, diff
from lpp.analyze.logits.divergences import logit_drift
from lpp.analyze.logits.heads import LOSSY_KL
from lpp.analyze.logits.lens import why_no_lens
from lpp.analyze.pages.provenance import origin_of
from lpp.analyze.runs.capture_command import capture_command
from lpp.analyze.runs.keys import views
from lpp.analyze.studies.cka_table import compute, plan
from lpp.analyze.studies.layers import layers
from lpp.capture.cli.command import main
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.settings import CaptureSettings
from lpp.capture.plan.sizes import run_size
from lpp.store import Run, open_store
from lpp.store.arrays.encoder import encode_array
from lpp.store.arrays.float8 import decode_rows, encode_rows
from lpp.store.arrays.layout import site_array

PROMPTS = 20
CHOICES = {
    "exact": (),
    "mixed": ("--stored-dtype=float8_e4m3,final=auto",),
    "rounded": ("--stored-dtype=float8_e4m3", "--keep-head=yes"),
}


def capture(store: Path, place: Path, *more: str) -> Result:
    words = ["run", f"--model={place / 'llama'}", f"--corpus={place / 'texts.txt'}"]
    words += [f"--store={store}", "--min-bytes=0", f"--prompts={PROMPTS}", "--context=40"]
    return CliRunner().invoke(main, [*words, "--batch-tokens=300", *more])


@pytest.fixture(scope="module", autouse=True)
def small_shards() -> Iterator[None]:
    """Shards of a few prompts each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpp.capture.plan.planning.shard_bytes", lambda *_: 60_000)
        yield


@pytest.fixture(scope="module")
def place(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, texts and `lpp`, a store of a run for each of `CHOICES`."""
    place = tmp_path_factory.mktemp("rounded")
    shutil.copytree(tiny_folder("llama"), place / "llama")
    texts = ["the dog and the fox do mind " * (1 + n % 5) + str(n) for n in range(PROMPTS)]
    (place / "texts.txt").write_text("\n\n".join(texts))
    for options in CHOICES.values():
        done = capture(place / "lpp", place, *options)
        assert done.exit_code == 0, done.output
    return place


@pytest.fixture(scope="module")
def runs(place: Path) -> Mapping[str, Run]:
    """The runs of `place`, by the name of their choice."""
    dtypes = {"float32": "exact", "float8_e4m3,final=float32": "mixed", "float8_e4m3": "rounded"}
    return {dtypes[r.plan.rows_dtype]: r for r in open_store(place / "lpp").runs.values()}


@pytest.mark.slow
def test_rows_are_rounded(runs: Mapping[str, Run]) -> None:
    exact, mixed = runs["exact"], runs["mixed"]
    assert mixed.verify() == exact.verify() == runs["rounded"].verify() == []
    assert [site.dtype for site in mixed.plan.sites] == ["float8_e4m3"] * 4 + [None]
    for site in exact.sites:
        as_computed, stored = (rows_of(run.array(site)) for run in (exact, mixed))
        expected = as_computed.copy()
        if site != "final":
            decode_rows(encode_rows(as_computed), expected)
        assert stored.tobytes() == expected.tobytes()
    kept = [
        {key: data for key, data in stored_objects(run.path).items() if "hidden.zarr" not in key}
        for run in (exact, mixed)
    ]
    arrays = {key for key in kept[0] if key.endswith("tokens.arrow")}
    assert len(arrays) == exact.plan.n_shards > 2
    assert {key: kept[0][key] for key in arrays} == {key: kept[1][key] for key in arrays}


def test_a_damaged_run_is_computed_again(
    runs: Mapping[str, Run], place: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(place / "lpp", tmp_path / "lpp"))
    run = runs["mixed"]
    before = stored_objects(run.path)
    shard = store / "runs" / run.id / "shards" / "00001"
    path = object_path(shard, "hidden.zarr/block.1/c/0/0")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    shutil.rmtree(store / "runs" / run.id / "shards" / "00002")
    words = ["repair", str(store), "--missing", f"--model={place / 'llama'}"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert stored_objects(store / "runs" / run.id) == before
    again = capture(store, place, *CHOICES["mixed"])
    assert again.exit_code == 0
    assert stored_objects(store / "runs" / run.id) == before


def flagged(rows: Any, run: Run, *columns: str) -> set[Any]:
    """Values of `columns` in the rows of `run` that have the flag."""
    of_run = [row for row in rows.iter_rows(named=True) if row["run"] == run.id]
    assert of_run
    return {tuple(row[c] for c in columns) for row in of_run if "lossy" in row["flags"]}


@pytest.mark.slow
def test_numbers_of_rounded_rows_have_the_flag(runs: Mapping[str, Run], place: Path) -> None:
    store = place / "lpp"
    every, blocks = set(runs["exact"].sites), set(runs["exact"].sites) - {"final"}
    names = ("two_nn", "zscore_participation_ratio", "surprisal")
    found = analyze(store, ProfileSettings(metrics=names, errors="none"))
    profiles, metrics = found.profiles(), found.metrics
    curves = layers(store, LayersSettings(errors="none")).layers_frame()
    for rows in (profiles, curves):
        assert flagged(rows, runs["exact"], "site") == set()
        assert flagged(rows, runs["rounded"], "site") == {(site,) for site in every}
        assert flagged(rows, runs["mixed"], "site") == {(site,) for site in blocks}
    assert flagged(metrics, runs["exact"], "metric") == set()
    assert flagged(metrics, runs["rounded"], "metric") == {(name,) for name in names[:2]}
    of_blocks = {(site, name) for site in blocks for name in names[:2]}
    assert flagged(metrics, runs["mixed"], "site", "metric") == of_blocks
    ratios = {
        name: found.spectra.filter(run=run.id)["participation_ratio"].to_numpy()
        for name, run in runs.items()
    }
    np.testing.assert_allclose(ratios["mixed"], ratios["exact"], rtol=0.05)
    assert (ratios["rounded"] != ratios["exact"]).all()
    np.testing.assert_allclose(ratios["rounded"], ratios["exact"], rtol=0.05)
    pairs = compute(plan(views(store), every)[0])
    assert flagged(pairs, runs["exact"], "site") == set()
    assert len(flagged(pairs, runs["mixed"], "site")) == len(blocks)  # also block.3 with final


@pytest.mark.slow
def test_rows_of_the_database_have_the_flag(runs: Mapping[str, Run], place: Path) -> None:
    store = place / "lpp"
    found = analyze(store, ProfileSettings(errors="none"))
    spectra = found.spectra_frame()
    every = {(site,) for site in runs["exact"].sites}
    assert flagged(spectra, runs["exact"], "site") == set()
    assert flagged(spectra, runs["rounded"], "site") == every
    scores = layers(store, LayersSettings(errors="none")).hourglass_frame()
    assert flagged(scores, runs["exact"], "metric") == set()
    assert flagged(scores, runs["rounded"], "metric") == {(name,) for name in scores["metric"]}
    of_logits = {"kl", "kl_reverse", "js", "tv", "ear", "flips", "same_top_p", "top10"}
    for other, expected in (("mixed", set[str]()), ("rounded", of_logits)):
        compared = diff(store, runs["exact"].id, runs[other].id, DiffSettings(errors="none"))
        rows = compared.predictions_frame()
        flags = dict(rows.select("number", "flags").iter_rows())
        assert {number for number in flags if "lossy" in flags[number]} == expected
        assert flags.keys() > of_logits


def test_a_comparison_says_what_rounding_does(runs: Mapping[str, Run], place: Path) -> None:
    a, b = runs["mixed"].id, runs["rounded"].id
    found = diff(place / "lpp", a, b, DiffSettings(errors="none"))
    flags = dict(zip([site.site for site in found.sites], found.flags, strict=True))
    assert all("lossy" in of_site for of_site in flags.values())
    assert [note for note in found.notes if "rounded to float8_e4m3" in note and " in B " in note]
    assert "of rows stored as float8_e4m3" in found.arithmetic
    alone = diff(place / "lpp", runs["exact"].id, a, DiffSettings(errors="none"))
    assert not [note for note in alone.notes if "float8" in note]
    flags = dict(zip([site.site for site in alone.sites], alone.flags, strict=True))
    assert [site for site in flags if "lossy" not in flags[site]] == ["final"]
    why = [*why_no_lens(runs["rounded"], ["block.1"])]
    assert why[0].startswith("rows of block.3 and final are rounded to float8_e4m3")
    assert not [line for line in why_no_lens(runs["exact"], ["block.1"]) if "float8" in line]


@pytest.mark.parametrize(
    ("name", "option"),
    [("exact", None), ("mixed", "float8_e4m3,final=auto"), ("rounded", "float8_e4m3")],
)
def test_the_command_of_a_run_has_the_setting(
    runs: Mapping[str, Run], name: str, option: str | None
) -> None:
    printed = capture_command(runs[name].plan.document)
    assert printed.partition("--stored-dtype ")[2] == (option or "")
    facts = dict(origin_of([runs[name]]).runs[0].facts)
    assert facts["stored in"] == (option or "float32").replace("auto", "float32")
    mixed = runs["mixed"].plan
    few = [replace(s, dtype="float8_e4m3" if s.name == "block.1" else None) for s in mixed.sites]
    printed = capture_command(replace(mixed, sites=tuple(few)).document)
    assert printed.endswith("--stored-dtype block.1=float8_e4m3")


def test_sizes_count_each_site(runs: Mapping[str, Run]) -> None:
    lengths = runs["exact"].lengths.tolist()
    rows = sum(lengths) * 5 * 48 * 4
    packed = {name: run_size(run.plan).packed for name, run in runs.items()}
    assert packed["exact"] == round(rows / 1.49)
    assert packed["rounded"] == round(rows / 2 / 2.3)
    assert packed["mixed"] == round(rows * (4 / 5 / 2 / 2.3 + 1 / 5 / 1.49))
    exact = runs["exact"].plan
    without = replace(exact, sites=exact.sites[1:])
    assert run_size(without).packed == round(rows * 4 / 5 / 1.45)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (("auto",), {}),
        (("final=auto",), {}),
        (("float8_e4m3",), {"all": "float8_e4m3"}),
        (("final=auto", "float8_e4m3"), {"all": "float8_e4m3", "final": None}),
        (("block.*=float8_e4m3",), {"all": None, "block.*": "float8_e4m3"}),
    ],
)
def test_a_request_says_the_type_of_each_site(given: tuple[str, ...], stored: Any) -> None:
    settings = CaptureSettings(model="m", corpus="pydoc", stored_dtype=given)
    assert request_of(settings).stored_dtype == stored


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--stored-dtype=int4",), "--stored-dtype int4: give auto or float8_e4m3"),
        (("--stored-dtype=final=float32",), "--stored-dtype final=float32: give auto or float8"),
        (("--stored-dtype=block.9=float8_e4m3",), "no site of that name is captured, of embed,"),
        (("--sites=final", "--stored-dtype=embed=float8_e4m3"), "captured, of final. Leave it out"),
    ],
)
def test_what_cannot_be_is_refused(
    options: tuple[str, ...], message: str, place: Path, tmp_path: Path
) -> None:
    done = capture(tmp_path / "s", place, *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_real_model_packs_and_predicts_as_the_documents_say(tmp_path: Path) -> None:
    words = ["run", "--model=demo", "--corpus=pydoc", "--prompts=12", "--sites=block.15,final"]
    done = CliRunner().invoke(main, [*words, "--keep-head=yes", f"--store={tmp_path}"])
    assert done.exit_code == 0, done.output
    (run,) = open_store(tmp_path).runs.values()
    for site in run.plan.sites:
        bits = rows_of(run.array(site.name, dtype="stored"))
        encoded = encode_array(site_array(site, "float8_e4m3", len(bits)), bits)
        assert bits.nbytes / encoded.bytes >= 2.25
    rows = rows_of(run.array("final"))[::2]
    rounded, head, kl = np.empty_like(rows), run.head(), []
    decode_rows(encode_rows(rows), rounded)
    assert head is not None
    for part in np.array_split(np.arange(len(rows)), 20):
        columns = logit_drift(head.logits(rows[part]), head.logits(rounded[part]), ["kl"])
        kl += columns["kl"].tolist()
    assert np.mean(kl) <= 0.008
    assert abs(np.mean(kl) - float(LOSSY_KL)) < 0.001
