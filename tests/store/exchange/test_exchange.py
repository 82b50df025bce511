"""Export, import, and the conventions of each project, read and written by other hands here."""

import shutil
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exchanged import (
    LENGTHS,
    N_BLOCKS,
    SITES,
    WIDTH,
    ids_of,
    mask_of,
    states_of,
    write_run,
)
from on_disk import on_disk
from safetensors.torch import load_file, save_file
from stored import object_path

from lpp.analyze import diff, scan_spectra
from lpp.store import Run
from lpp.store.errors import FormatError, InputError, LppError
from lpp.store.exchange.export import export
from lpp.store.exchange.import_states import import_states
from lpp.store.exchange.projects import EXPORTED
from lpp.store.feed import prompts as feed_prompts
from lpp.store.progress import Progress

CONVENTIONS: Mapping[str, tuple[dict[int, str], str]] = {
    "speculators": ({0: "embed"} | {k: f"block.{k}" for k in range(1, 6)}, "block.6"),
}
"""Our site of each layer id, and of the last state: written at hand from each project's code."""

States = list[torch.Tensor]
Read = Callable[[Path], list[tuple[list[int], list[int], Mapping[str, torch.Tensor]]]]
"""Token ids, loss mask and states by our site of every sample."""


def sites_of(name: str) -> set[str]:
    """Our sites that a project can hold."""
    if name not in CONVENTIONS:
        return {*SITES}
    of_id, last = CONVENTIONS[name]
    return {*of_id.values(), last}


def bits(tensor: torch.Tensor) -> np.ndarray:
    assert tensor.dtype == torch.bfloat16
    return tensor.contiguous().view(torch.uint16).numpy()


def tensor(states: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(states).view(torch.bfloat16)


def by_site(name: str, ids: list[int], layers: States, last: torch.Tensor) -> dict[str, Any]:
    of_id, last_site = CONVENTIONS[name]
    states = {of_id[k]: state for k, state in zip(ids, layers, strict=True)}
    return states | {last_site: last}


def read_speculators(folder: Path) -> Any:
    from datasets import load_from_disk

    samples = []
    for number, row in enumerate(load_from_disk(str(folder))):
        states = load_file(folder / "hidden_states" / f"hs_{number}.safetensors")
        assert states["token_ids"].tolist() == row["input_ids"].tolist()
        assert row["seq_len"] == len(row["input_ids"])
        *layers, last = states["hidden_states"].unbind(1)
        of_ids = by_site("speculators", list(range(6)), layers, last)
        samples.append((row["input_ids"].tolist(), row["loss_mask"].tolist(), of_ids))
    return samples


def split_parts(columns: Mapping[str, torch.Tensor]) -> Any:
    starts = [*torch.nonzero(columns["position"] == 0).flatten().tolist(), len(columns["position"])]
    for start, end in pairwise(starts):
        part = {name: values[start:end] for name, values in columns.items()}
        ids, mask = part["token_id"].tolist(), part["loss_mask"].int().tolist()
        yield ids, mask, {site: part[site] for site in SITES}


def read_safetensors(folder: Path) -> Any:
    return [s for file in sorted(folder.iterdir()) for s in split_parts(load_file(file))]


def read_parquet(folder: Path) -> Any:
    import polars as pl

    frame = pl.read_parquet(folder)
    columns = {name: torch.from_numpy(frame[name].to_numpy().copy()) for name in frame.columns}
    assert columns["final"].dtype == torch.float32
    return [*split_parts({k: v.bfloat16() if k in SITES else v for k, v in columns.items()})]


READERS: Mapping[str, Read] = {
    "speculators": read_speculators,
    "safetensors": read_safetensors,
    "parquet": read_parquet,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("run") / "store")


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """An export of all sites for every project, in several parts."""
    from lpp.store.exchange import selection

    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "PART_BYTES", 2 * 8 * WIDTH * 32)  # 32 tokens at 8 sites
        for name in EXPORTED:
            export(run, name, folder / name)
    return {name: folder / name for name in EXPORTED}


def test_every_export_is_read_by_other_hands() -> None:
    assert {*READERS} == {*EXPORTED}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_an_export_has_every_state_under_the_id_that_the_project_gives_it(
    name: str, exported: Mapping[str, Path]
) -> None:
    samples = READERS[name](exported[name])
    assert len(samples) == len(LENGTHS)
    for prompt, (ids, mask, states) in enumerate(samples):
        assert (ids, mask) == (ids_of(prompt), mask_of(prompt))
        sites = (
            {*CONVENTIONS[name][0].values(), CONVENTIONS[name][1]} if name in CONVENTIONS else SITES
        )
        assert {*states} == {*sites}
        for site, state in states.items():
            np.testing.assert_array_equal(bits(state), states_of(prompt, site))


def check_imported(run: Run, sites: tuple[str, ...]) -> None:
    """Every state of every sample, and what else the run says."""
    assert run.verify() == []
    assert run.sites == sites
    depths = dict(zip(SITES, (*range(N_BLOCKS + 1), N_BLOCKS), strict=True))
    assert [run.plan.depth_of(site) for site in sites] == [depths[site] for site in sites]
    table = run.prompts("id", "token.loss_mask")
    assert table["id"].to_pylist() == [*range(len(LENGTHS))]
    assert table["token_ids"].to_pylist() == [ids_of(k) for k in range(len(LENGTHS))]
    assert table["token.loss_mask"].to_pylist() == [mask_of(k) for k in range(len(LENGTHS))]
    for site in sites:
        rows = np.concatenate([b.values for b in run.blocks(site, dtype="stored")])
        expected = np.concatenate([states_of(k, site) for k in range(len(LENGTHS))])
        np.testing.assert_array_equal(rows, expected)


OPTIONS: Mapping[str, dict[str, Any]] = {
    "speculators": {"model": "lab/tiny", "layers": [0, 1, 2, 3, 4, 5, 6]},
}
"""What the files of a project do not say."""


@pytest.mark.parametrize("name", READERS)
def test_an_import_names_every_state_as_here(
    name: str, exported: Mapping[str, Path], tmp_path: Path
) -> None:
    run = import_states(exported[name], name, tmp_path / "s", **OPTIONS.get(name, {}))
    check_imported(run, tuple(site for site in SITES if site in sites_of(name)))
    assert (run.plan.model.id, run.plan.compute.backend) == ("lab/tiny", name)
    again = import_states(exported[name], name, tmp_path / "s", **OPTIONS.get(name, {}))
    assert (again.id, again.fingerprint) == (run.id, run.fingerprint)


@pytest.mark.slow
def test_an_imported_store_is_analysed_compared_and_fed(
    run: Run, exported: Mapping[str, Path], tmp_path: Path
) -> None:
    sites = SITES[1:]
    imported = import_states(exported["safetensors"], "safetensors", tmp_path / "s")
    assert scan_spectra(tmp_path / "s").collect()["participation_ratio"].is_not_null().all()
    root = on_disk(run.path).parents[1]
    compared = diff(tmp_path / "s", imported.id, f"{root}::{run.id}")
    moved = {site.site: site["relative_distance"].value for site in compared.sites}
    assert moved == dict.fromkeys(("embed", *sites), 0.0)
    (batch,) = feed_prompts(imported, ["block.2", "final"], max_tokens=100)
    of_first = batch.documents == batch.prompt_ids.tolist().index(1)
    np.testing.assert_array_equal(bits(batch.hidden["final"][of_first]), states_of(1, "final"))
    assert batch.labels["loss_mask"][of_first].tolist() == mask_of(1)


# --- what stops an export ---


@pytest.mark.slow
def test_prompts_that_were_set_aside_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "s", aside=(1, 3))
    export(run, "parquet", tmp_path / "x")
    assert [ids for ids, _, _ in read_parquet(tmp_path / "x")] == [ids_of(k) for k in (0, 2, 4, 5)]


def test_a_damaged_shard_is_named_and_a_repeated_export_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = write_run(tmp_path / "s"), tmp_path / "x"
    monkeypatch.setattr("lpp.store.exchange.selection.PART_BYTES", 2 * 2 * WIDTH * 12)
    file = object_path(on_disk(run.path) / "shards" / "00002", "hidden.zarr/block.6/c/0/0")
    whole = file.read_bytes()
    file.write_bytes(bytes([whole[20] ^ 1]).join((whole[:20], whole[21:])))
    with pytest.raises(FormatError, match="00002"):
        export(run, "speculators", out, sites=["block.2"])
    assert not out.exists()
    partial = tmp_path / ".x.partial"
    kept = {p.name: p.stat().st_mtime_ns for p in (partial / "hidden_states").iterdir()}
    assert kept
    file.write_bytes(whole)
    export(run, "speculators", out, sites=["block.2"])
    assert not partial.exists()
    assert {p.name: p.stat().st_mtime_ns for p in (out / "hidden_states").iterdir()}.items() >= {
        *kept.items()
    }
    assert len([*(out / "hidden_states").iterdir()]) == len(LENGTHS)
    assert not (out / "export.json").exists()


@pytest.mark.parametrize(
    ("sites", "settings", "to", "says"),
    [
        (SITES[1:4], {}, "speculators", "has no site block.6"),
        (SITES, {"sites": ["final"]}, "speculators", "speculators has no layer for final"),
        (SITES, {"sites": ["block.9"]}, "parquet", "has no site 'block.9'"),
        (SITES, {"only_prompts": True}, "parquet", "parquet: no program reads prompts alone"),
        (SITES, {}, "deepspec", "no project 'deepspec'"),
    ],
)
def test_an_export_that_does_not_fit_is_refused(
    tmp_path: Path, sites: tuple[str, ...], settings: dict[str, Any], to: str, says: str
) -> None:
    run = write_run(tmp_path / "s", sites)
    with pytest.raises(InputError, match=says):
        export(run, to, tmp_path / "x", **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_nothing_is_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists, and is not overwritten"):
        export(run, "parquet", tmp_path / "there")


# --- what stops an import ---


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


DAMAGE: Mapping[str, tuple[str, Callable[[Path], object]]] = {
    "speculators": ("hidden_states/hs_3.safetensors", cut),
    "safetensors": ("part-00001.safetensors", cut),
    "parquet": ("part-00001.parquet", cut),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named(name: str, exported: Mapping[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(exported[name], tmp_path / "c")
    file, damage = DAMAGE[name]
    damage(folder / file)
    with pytest.raises(FormatError, match=file) as raised:
        import_states(folder, name, tmp_path / "s", **OPTIONS.get(name, {}))
    assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*set aside")  # ids beyond the vocabulary
@pytest.mark.parametrize("name", DAMAGE)
def test_altered_bytes_give_a_run_or_one_line(
    name: str, exported: Mapping[str, Path], tmp_path: Path
) -> None:
    """Formats without checksums cannot tell every altered bit; none may end in a traceback."""
    settings = OPTIONS.get(name, {})
    shutil.copytree(exported[name], tmp_path / "f")
    files = sorted(path for path in (tmp_path / "f").rglob("*") if path.is_file())
    rng, refusals = np.random.default_rng(2), list[str]()
    for number in range(25):
        file = files[rng.integers(len(files))]
        whole = file.read_bytes()
        altered = bytearray(whole)
        altered[rng.integers(min(len(whole), 800))] ^= 1 << rng.integers(8)
        file.write_bytes(altered)
        try:
            import_states(tmp_path / "f", name, tmp_path / f"s{number}", **settings)
        except LppError as error:
            refusals.append(str(error))
        file.write_bytes(whole)
    assert refusals
    assert not any("\n" in line for line in refusals)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("speculators", {"model": None}, "Name it with --model"),
        ("speculators", {"layers": None}, "Give their ids as speculators counts them.*--layers"),
        ("speculators", {"layers": [1, 2]}, "--layers names 2"),
        ("speculators", {"layers": [0, 1, 2, 3, 4, 5]}, "how many blocks the model has"),
        ("speculators", {"n_blocks": 7}, "the last layer is 6, and --blocks 7"),
        ("speculators", {"layers": [0, 1, 2, 3, 4, 9, 6]}, "layer 9 of speculators: .* 0 to 6"),
        ("speculators", {"layers": [0, 1, 2, 3, 4, 4, 6]}, "a layer is there twice"),
    ],
)
def test_an_import_that_does_not_fit_is_refused(
    name: str,
    changes: dict[str, Any],
    says: str,
    exported: Mapping[str, Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=says):
        import_states(exported[name], name, tmp_path / "s", **OPTIONS.get(name, {}) | changes)
    assert not (tmp_path / "s").exists()


def test_ids_beyond_the_vocabulary_are_set_aside(
    exported: Mapping[str, Path], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=r"4 of 6 prompts are set aside, such as prompts\[1\]: id"):
        run = import_states(
            exported["speculators"],
            "speculators",
            tmp_path / "s",
            **OPTIONS["speculators"],
            vocabulary=17,
        )
    assert run.texts_set_aside()["reason"].to_pylist() == ["bad_tokens"] * 4


@pytest.mark.parametrize("name", EXPORTED)
def test_a_folder_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Name the folder that the program wrote"):
        import_states(tmp_path, name, tmp_path / "s", model="m")


@pytest.mark.parametrize("name", ["safetensors", "parquet"])
def test_a_missing_part_is_noticed(name: str, exported: Mapping[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(exported[name], tmp_path / "c")
    parts = sorted(folder.iterdir())
    parts[-1].unlink()
    with pytest.raises(FormatError, match=f"{len(parts) - 1} files of {len(parts)}"):
        import_states(folder, name, tmp_path / "s")


class Told(Progress):
    """Keeps what the user has to see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.slow
def test_samples_without_a_file_or_a_data_set(exported: Mapping[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(exported["speculators"], tmp_path / "c")
    (folder / "hidden_states" / "hs_2.safetensors").unlink()
    told = Told()
    settings = OPTIONS["speculators"] | {"progress": told}
    run = import_states(folder, "speculators", tmp_path / "s", **settings)
    assert told.lines == [f"1 prompt has no states in {folder} and will not be in the run."]
    assert run.prompts("id")["id"].to_pylist() == [0, 1, 3, 4, 5]
    other = load_file(folder / "hidden_states" / "hs_4.safetensors")
    other["token_ids"][2] += 1
    save_file(other, folder / "hidden_states" / "hs_4.safetensors")
    with pytest.raises(FormatError, match="ids are not those of row 4 of the data set"):
        import_states(folder, "speculators", tmp_path / "u", **OPTIONS["speculators"])
    other["token_ids"][2] -= 1
    save_file(other, folder / "hidden_states" / "hs_4.safetensors")
    (folder / "state.json").unlink()
    bare = import_states(folder, "speculators", tmp_path / "t", **OPTIONS["speculators"])
    assert bare.plan.prompts.token_columns == ()
    assert bare.plan.prompts.sha256 == run.plan.prompts.sha256
    states = {"hidden_states": torch.zeros(1, 7, WIDTH)}
    save_file(states, folder / "hidden_states" / "hs_4.safetensors")
    with pytest.raises(FormatError, match=r"hs_4\.safetensors: no tensor token_ids"):
        import_states(folder, "speculators", tmp_path / "u", **OPTIONS["speculators"])
