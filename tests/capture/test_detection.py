"""The study of detection on a tiny model: damage by value, and the command from end to end."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.detection import page
from benchmarks.detection.__main__ import THREADS, main
from benchmarks.detection.damage import (
    GROUP,
    Dose,
    doses,
    linear_layers,
    noisy,
    pruned,
    rounded,
)
from benchmarks.detection.measure import (
    OF_SITES,
    base_of,
    floor_of,
    key,
    measured,
    on_all_draws,
    over_all,
)
from benchmarks.detection.power import shown
from benchmarks.detection.runs import captured, changed_model
from benchmarks.detection.setting import DRAWN, Setting
from lpp.analyze import scan_entropy
from lpp.analyze.drift.pair import pair_of
from lpp.analyze.drift.predictions import token_drift

BLOCKS = 3
NULL = "null-batches-of-512-tokens"


def by_name(name: str, n_blocks: int = BLOCKS) -> Dose:
    return next(dose for dose in doses(n_blocks) if dose.name == name)


@pytest.fixture
def setting(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Setting:
    return Setting(
        model=tiny_folder("llama"),
        n_blocks=BLOCKS,
        root=tmp_path,
        prompts=12,
        context=16,
        n_sites=3,
        sizes=(6, 10),
        draws=5,
    )


WEIGHT = torch.randn((7, 150), generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("group", [None, GROUP])
def test_no_weight_moves_by_more_than_half_a_step(bits: int, group: int | None) -> None:
    found = rounded(WEIGHT, bits, group)
    for part, new in zip(WEIGHT.split(group or 150, 1), found.split(group or 150, 1), strict=True):
        step = part.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((part - new).abs() <= step / 2 * (1 + 1e-12)).all()
        assert torch.allclose((new / step).round(), new / step, atol=1e-9)
        assert len(new[0].unique()) <= 2**bits - 1
    assert not found.equal(WEIGHT)


def test_pruning_takes_the_smallest_and_no_more_than_its_share() -> None:
    found = pruned(WEIGHT, 0.3)
    gone = found == 0
    assert gone.sum() == 315
    assert WEIGHT[gone].abs().max() <= WEIGHT[~gone].abs().min()
    assert found[~gone].equal(WEIGHT[~gone])
    assert (pruned(torch.ones(10), 0.5) == 0).tolist() == [True] * 5 + [False] * 5


def test_noise_has_its_size_and_a_seed() -> None:
    large = WEIGHT.float().repeat(20, 20)
    moved = noisy(large, 0.1, 3) - large
    share = (moved.square().mean() / large.square().mean()).sqrt()
    assert float(share) == pytest.approx(0.1, rel=0.01)
    assert noisy(large, 0.1, 3).equal(noisy(large, 0.1, 3))
    assert not noisy(large, 0.1, 4).equal(noisy(large, 0.1, 3))


def hidden(model: Any) -> list[torch.Tensor]:
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        return list(model(input_ids=ids, output_hidden_states=True).hidden_states)


def test_a_block_that_is_left_out_is_the_identity(setting: Setting) -> None:
    dose = next(dose for dose in doses(BLOCKS) if dose.kind == "block" and dose.amount == 2)
    before, after = (hidden(changed_model(setting, one)[0]) for one in (by_name(NULL), dose))
    assert after[2].equal(after[1])
    assert after[1].equal(before[1])
    assert not before[2].equal(before[1])


def test_units_in_another_order_compute_the_same(setting: Setting) -> None:
    dose = by_name("null-mlp-units-in-another-order-seed-1")
    base, other = (changed_model(setting, one)[0] for one in (by_name(NULL), dose))
    first = [next(linear_layers(model)).weight for model in (base, other)]
    assert first[0].equal(first[1])  # attention stays
    up = [model.model.layers[0].mlp.up_proj.weight for model in (base, other)]
    assert not up[0].equal(up[1])
    assert up[0].sort(dim=0).values.equal(up[1].sort(dim=0).values)
    for before, after in zip(hidden(base), hidden(other), strict=True):
        assert torch.allclose(before, after, atol=1e-5)


def test_numbers_on_draws_are_those_of_the_package(setting: Setting) -> None:
    setting = dataclasses.replace(setting, sizes=(12,), draws=1)  # a draw of all prompts
    pair = pair_of(base_of(setting).run, captured(setting, by_name("noise-0.1")))
    frame = token_drift(pair)
    points = over_all(setting, pair, frame, DRAWN)
    found = on_all_draws(setting, pair, frame)
    numbers = shown(setting.middle)
    assert found.keys() == {key(one.of, one.site) for one in numbers}
    for one in numbers:
        own = points["sites"][one.site] if one.of in OF_SITES else points
        value = found[key(one.of, one.site)]
        assert value.shape == (1, 1)
        assert value[0, 0] == pytest.approx(own[one.of][0], rel=1e-5, abs=1e-9), one.name


def test_entropies_after_prefixes_are_those_of_the_profile(setting: Setting) -> None:
    run = base_of(setting).run
    floor = floor_of(pair_of(run, run))
    profile = scan_entropy(setting.store("base")).filter(context=16, n_prompts=12).collect()
    assert floor.a.mean(axis=0) == pytest.approx(profile.sort("prefix")["entropy_norm"].to_list())
    assert floor(np.ones((1, 12))) == 0


@pytest.mark.slow
def test_the_study_from_end_to_end(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREADS:
        monkeypatch.setenv(name, "1")
    (tmp_path / page.PAGE).write_text("<!-- table: doses -->\n<!-- end -->\n")
    words = ["--model", str(tiny_folder("llama")), "--store", str(tmp_path), "--jobs", "1"]
    words += ["--doses", "noise-0.1,noise-0.1-seed-1,prune-20"]
    done = CliRunner().invoke(main, [*words, "--prompts", "12"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["base"]
    assert "pruned by magnitude, 20 %" in (tmp_path / page.PAGE).read_text()
    pictures = {
        name: svg_words(tmp_path / f"{name}.svg") for name in ("power-10", "values", "depth")
    }
    assert {"20 %", "0.1", "KL", "flips", "1 - CKA, block.1", "100"} <= pictures["power-10"]
    assert {"pruned by magnitude", "noise on the weights", "20 %", "KL"} <= pictures["values"]
    assert {"pruned by magnitude, 20 %", "block", "1", "2", "3", "final"} <= pictures["depth"]

    found = json.loads((tmp_path / page.RESULTS).read_text())
    kl = {dose["name"]: dose["points"]["2"]["kl"][0] for dose in found["doses"]}
    assert list(kl)[5:] == ["prune-20", "noise-0.1", "noise-0.1-seed-1"]
    assert kl[NULL] == 0
    assert kl["noise-0.1"] == pytest.approx(0.01357, rel=0.1)  # of tiny_folder("llama")
    assert kl["prune-20"] == pytest.approx(0.00573, rel=0.1)
    nulls = [value for name, value in kl.items() if name.startswith("null")]
    assert max(nulls) < 1e-6 < kl["noise-0.1"]
    power = {dose["name"]: dose["power"]["KL"]["10"] for dose in found["doses"]}
    assert power[NULL] == 0
    assert power["noise-0.1"] == power["noise-0.1-seed-1"] == 1
    for name, table in page.TABLES.items():
        rows = table(found).count("\n") - 1
        # of a tiny model perplexity may notice every dose: it depends on the processor's sums
        assert rows >= (0 if name == "unseen" else 1), name
    with np.load(tmp_path / page.VALUES) as draws:
        assert draws.keys() == {one.name for one in shown("block.1")}
        assert all(draws[name].shape == (8, 1, 100) for name in draws)
        assert all(np.isfinite(draws[name]).all() for name in draws)

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "doses").iterdir()}
    folder = tiny_folder("llama")
    setting = Setting(model=folder, n_blocks=BLOCKS, root=tmp_path, prompts=12, sizes=(10,))
    assert measured(setting, by_name("noise-0.1")).endswith("there")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "doses").iterdir()} == before
    other = CliRunner().invoke(main, [*words, "--prompts", "13"])
    assert other.exit_code != 0
    assert "--store" in other.output


def svg_words(path: Path) -> set[str]:
    """Every text of a picture."""
    texts = ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")
    return {"".join(text.itertext()) for text in texts}
