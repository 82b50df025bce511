"""Faults of an engine, one at a time: `diff` names the block where each begins."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import LlamaConfig, LlamaForCausalLM

from lpp.analyze import DiffSettings, diff
from lpp.analyze.cli.command import main
from lpp.analyze.drift.frames import frames_of
from lpp.analyze.drift.pages.drift_page_tables import moved
from lpp.capture import capture
from lpp.store import Run

BLOCKS, HEADS, WIDTH = 6, 4, 32


def _mlp_noise(model: Any) -> None:
    weight = model.model.layers[1].mlp.down_proj.weight
    weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))


def _stale_adapter(model: Any) -> None:
    draw = torch.Generator().manual_seed(2)
    a, b = (torch.randn(WIDTH, 2, generator=draw) for _ in range(2))
    model.model.layers[3].self_attn.q_proj.weight.add_(0.02 * a @ b.T)


def _swapped_norms(model: Any) -> None:
    block = model.model.layers[2]
    block.input_layernorm, block.post_attention_layernorm = (
        block.post_attention_layernorm,
        block.input_layernorm,
    )


def _zeroed_heads(model: Any) -> None:
    model.model.layers[4].self_attn.o_proj.weight[:, : 3 * WIDTH // HEADS] = 0


def _key_heads_in_another_order(model: Any) -> None:
    weight = model.model.layers[3].self_attn.k_proj.weight
    weight.copy_(weight.view(HEADS, -1, WIDTH).flip(0).reshape(weight.shape))


def _no_scale(model: Any) -> None:
    model.model.layers[1].self_attn.scaling = 1.0


def _rotary_base(model: Any) -> None:
    model.model.rotary_emb.inv_freq.mul_(0.5)


def _positions_start_anew(model: Any) -> None:
    rotary = model.model.rotary_emb
    forward = rotary.forward
    rotary.forward = lambda x, position_ids: forward(x, position_ids % 8)


def _activation(model: Any) -> None:
    model.model.layers[2].mlp.act_fn = torch.nn.GELU().eval()


def _late_norm(model: Any) -> None:
    model.model.layers[5].post_attention_layernorm.variance_epsilon = 0.1


def _embedding_scale(model: Any) -> None:
    model.model.embed_tokens.weight.mul_(1.01)


def _last_norm(model: Any) -> None:
    model.model.norm.weight.fill_(1.0)


FAULTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "noise in the MLP of block 2": (_mlp_noise, "block.2"),
    "a stale adapter in block 4": (_stale_adapter, "block.4"),
    "swapped norms in block 3": (_swapped_norms, "block.3"),
    "three heads of block 5 are zero": (_zeroed_heads, "block.5"),
    "key heads of block 4 in another order": (_key_heads_in_another_order, "block.4"),
    "no scale of attention in block 2": (_no_scale, "block.2"),
    "another rotary base": (_rotary_base, "block.1"),
    "positions that start anew": (_positions_start_anew, "block.1"),
    "another activation in block 3": (_activation, "block.3"),
    "another epsilon in block 6": (_late_norm, "block.6"),
    "embeddings of another scale": (_embedding_scale, "embed"),
    "no weights in the last norm": (_last_norm, "final"),
}


@pytest.fixture(scope="module")
def right() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=120, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=64,
        tie_word_embeddings=False, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.uniform_(0.5, 1.5)
    return model


def captured(model: Any, folder: Path, name: str) -> Run:
    draw = np.random.default_rng(0)
    records = [{"input_ids": draw.integers(3, 119, size).tolist()} for size in (30, 12, 41)]
    sites = ["embed", *(f"block.{k + 1}" for k in range(BLOCKS)), "final"]
    return capture(model, None, records, store=folder / name, name=name, sites=sites, context=64)


@pytest.fixture(scope="module")
def of_right(right: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return captured(right, tmp_path_factory.mktemp("right"), "right")


def in_another_order(model: Any, seed: int) -> Any:
    """The same function, whose sums over heads and neurons round in another order."""
    other = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in other.model.layers:
            mlp, attention = block.mlp, block.self_attn
            neurons = torch.randperm(48, generator=draw)
            rows = torch.randperm(HEADS, generator=draw)[:, None] * (WIDTH // HEADS)
            rows = (rows + torch.arange(WIDTH // HEADS)).flatten()
            for linear, order in (
                (mlp.gate_proj, neurons), (mlp.up_proj, neurons),
                (attention.q_proj, rows), (attention.k_proj, rows), (attention.v_proj, rows),
            ):  # fmt: skip
                linear.weight.copy_(linear.weight[order])
            mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, neurons])
            attention.o_proj.weight.copy_(attention.o_proj.weight[:, rows])
    return other


@pytest.fixture(scope="module")
def both(right: Any, of_right: Run) -> tuple[Run, str]:
    """`of_right`, and the id of its rerun: the right model in another order."""
    folder = Path(str(of_right.path)).parents[2]
    return of_right, captured(in_another_order(right, 0), folder, "again").id


def beyond_rerun(a: Run, b: Run, again: str) -> list[str]:
    """Sites that `diff` says have moved."""
    store, there = (str(run.path.parent.parent) for run in (a, b))
    rerun = f"{Path(store).with_name('again')}::{again}"
    found = diff(store, a.id, f"{there}::{b.id}", DiffSettings(rerun=rerun, errors="none"))
    return moved(frames_of(found)["drift_sites"])["site"].to_list()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["the same", "another"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_site_that_moves_is_where_the_fault_is(
    fault: str, order: str, right: Any, both: tuple[Run, str], tmp_path: Path
) -> None:
    """In the same order of sums nothing else moves; in another, a rerun says what rounding does."""
    (plant, where), (of_right, again) = FAULTS[fault], both
    wrong = copy.deepcopy(right)
    with torch.no_grad():
        plant(wrong)
    same = order == "the same"
    run = captured(wrong if same else in_another_order(wrong, 1), tmp_path, "wrong")
    stores = [str(one.path.parent.parent) for one in (of_right, run)]
    found = diff(stores[0], of_right.id, f"{stores[1]}::{run.id}")
    differ = [one.site for one in found.sites if one.relative_distance.value]
    if not same:
        assert differ[0] in ("embed", "block.1")
        differ = beyond_rerun(of_right, run, again)
    assert differ == [one.site for one in found.sites][-len(differ) :]
    assert differ[0] == where
    assert (found.predictions["kl"].mean or 0) > 0


@pytest.mark.slow
def test_rounding_alone_never_counts_as_moved(
    right: Any, both: tuple[Run, str], tmp_path: Path
) -> None:
    of_right, again = both
    for seed in range(1, 21):
        run = captured(in_another_order(right, seed), tmp_path, f"order-{seed}")
        assert beyond_rerun(of_right, run, again) == []


def test_the_answer_with_a_rerun_names_it(
    right: Any, both: tuple[Run, str], tmp_path: Path
) -> None:
    of_right, again = both
    run = captured(in_another_order(right, 1), tmp_path, "right")
    store = Path(str(of_right.path)).parents[1]
    words = ["diff", str(store), of_right.id, f"{run.path.parent.parent}::{run.id}"]
    rerun = ["--rerun", f"{store.with_name('again')}::{again}"]
    text = " ".join(CliRunner().invoke(main, [*words, *rerun]).stdout.split())
    assert "do not differ by more than the rerun at any site" in text
    itself = CliRunner().invoke(main, [*words, "--rerun", of_right.id])
    assert itself.exit_code == 2
    assert "that is the run itself" in itself.stderr


@pytest.mark.slow
def test_a_temperature_moves_no_row(right: Any, of_right: Run, tmp_path: Path) -> None:
    wrong = copy.deepcopy(right)
    with torch.no_grad():
        wrong.lm_head.weight.div_(0.8)
    run = captured(wrong, tmp_path, "wrong")
    stores = [str(one.path.parent.parent) for one in (of_right, run)]
    found = diff(stores[0], of_right.id, f"{stores[1]}::{run.id}")
    assert [one.relative_distance.value for one in found.sites] == [0.0] * len(found.sites)
    assert found.predictions["flips"].mean == 0
    assert (found.predictions["kl"].mean or 0) > 0
    words = ["diff", stores[0], of_right.id, f"{stores[1]}::{run.id}"]
    text = " ".join(CliRunner().invoke(main, words).stdout.split())
    assert "Hidden states do not differ at any site" in text
