"""What a vLLM worker does around forward passes, on a model of a few lines; no vLLM needed."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from backend_contract import make_batch
from hypothesis import given
from hypothesis import strategies as st
from tested_device import DEVICE
from torch import nn

from lpp.capture.backends.host_memory import host_memory
from lpp.capture.backends.vllm.checks import EPSILON, check_causal
from lpp.capture.backends.vllm.recorder import Recorded, Recorder
from lpp.capture.backends.vllm.sites import SiteProbe
from lpp.capture.backends.vllm.unembedding import find_unembedding
from lpp.capture.models.structure.sites import SiteModules, Sites
from lpp.capture.plan.backend import Batch, Captured, Outputs
from lpp.store.errors import InputError
from lpp.store.format.plan import StoredDtype

VOCABULARY, WIDTH = 11, 4
SITES = ("embed", "block.1", "block.2", "final")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, positions: Any, hidden: Any, residual: Any) -> tuple[Any, Any]:
        hidden = hidden if residual is None else hidden + residual
        return torch.tanh(self.mix(hidden)), hidden


class FlatModel(nn.Module):
    """A model with the manners of vLLM's: flat rows, a residual that is added one norm later."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: Any, positions: Any) -> Any:
        hidden, residual = self.embedding(input_ids) + positions[:, None] / 7, None
        for block in self.layers:
            hidden, residual = block(positions, hidden, residual)
        return self.norm(hidden + residual)

    def compute_logits(self, rows: Any) -> Any:
        return self.head(rows)


class BatchedModel(FlatModel):
    """The same as vLLM runs a class of transformers: states (1, T, d), and no residual apart.

    Positions have three rows, as those of a model that reads images too.
    """

    def forward(self, input_ids: Any, positions: Any) -> Any:
        state = (self.embedding(input_ids) + positions[0, :, None] / 7)[None]
        for block in self.layers:
            state = sum(block(positions, state, None))
        return self.norm(state)[0]


@pytest.fixture(scope="module")
def model() -> FlatModel:
    torch.manual_seed(3)
    return FlatModel().requires_grad_(False).to(DEVICE)


def run(model: nn.Module, *prompts: Sequence[int], padding: Sequence[int] = ()) -> None:
    """One step: prompts one after the other, then padding at positions that count from 0."""
    ids = [token for prompt in (*prompts, padding) for token in prompt]
    positions = [place for prompt in (*prompts, padding) for place in range(len(prompt))]
    given = {"input_ids": torch.tensor(ids), "positions": torch.tensor(positions)}
    if isinstance(model, BatchedModel):
        given["positions"] = given["positions"].expand(3, -1)
    model(**{name: values.to(DEVICE) for name, values in given.items()})


def found_sites(model: FlatModel) -> SiteModules:
    probe = SiteProbe(model, 2, WIDTH)
    with probe.watching():
        run(model, [1, 2, 3])
    assert probe.difference() < 4
    return probe.modules()


def recorder(model: FlatModel, outputs: Outputs | None = None) -> Recorder:
    outputs = outputs or Outputs(sites=SITES, dtype="float32")
    unembed = find_unembedding(model, torch.zeros(1, WIDTH, device=DEVICE), VOCABULARY, None)
    return Recorder(found_sites(model), outputs, unembed, torch.device(DEVICE), takes_rows=True)


def with_rows(batch: Batch) -> Batch:
    """The batch with memory that begins as NaN."""
    shape = (len(SITES), len(batch.token_ids), WIDTH)
    rows = host_memory(4 * math.prod(shape), DEVICE).view(np.float32).reshape(shape)
    rows[...] = np.nan
    return replace(batch, hidden=dict(zip(SITES, rows, strict=True)))


def alone(model: FlatModel, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
    """(rows, statistics) of a batch whose prompts run one at a time."""
    batch = with_rows(batch)
    one = recorder(model)
    one.expect(batch)
    for place, ids in enumerate(np.split(batch.token_ids, np.cumsum(batch.lengths)[:-1])):
        run(model, ids.tolist())
        one.finished([place])
    result = one.result()
    one.close()
    assert result is not None
    return dict(batch.hidden), dict(result.statistics)


def check(
    batch: Batch, result: Recorded | None, want: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    assert result is not None
    assert result.lost == 0
    for site, rows in want[0].items():
        np.testing.assert_allclose(batch.hidden[site], rows, atol=1e-6, err_msg=site)
    for name, values in want[1].items():
        np.testing.assert_allclose(result.statistics[name], values, atol=1e-5, err_msg=name)


def test_the_sites_are_the_sums_that_blocks_return(model: FlatModel) -> None:
    modules = found_sites(model)
    assert modules.sites.names == SITES
    assert modules.final_norm is model.norm
    batch = make_batch([[1, 2, 3]])
    rows, _ = alone(model, batch)
    places = torch.arange(3, device=DEVICE)
    embed = model.embedding(places + 1) + places[:, None] / 7
    state, residual = model.layers[0](None, embed, None)
    np.testing.assert_allclose(rows["embed"], embed.cpu())
    np.testing.assert_allclose(rows["block.1"], (state + residual).cpu())


@pytest.mark.slow
@given(data=st.data(), lengths=st.lists(st.integers(1, 5), min_size=1, max_size=7))
def test_a_batch_is_the_same_however_steps_cut_and_order_it(
    model: FlatModel, data: st.DataObject, lengths: list[int]
) -> None:
    # few token ids, so that prompts repeat and begin alike
    prompts = [data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)) for n in lengths]
    asked = data.draw(st.sets(st.integers(0, sum(lengths) - 1), min_size=1))
    batch = with_rows(make_batch(prompts, sorted(asked)))
    order = data.draw(st.permutations(range(len(lengths))))
    cut = data.draw(st.integers(0, len(lengths)))
    padding = data.draw(st.lists(st.integers(0, 2), max_size=4))
    one = recorder(model)
    one.expect(batch)
    for places in (order[:cut], order[cut:]):
        if places:
            run(model, *(prompts[place] for place in places), padding=padding)
            one.finished(places)
    result = one.result()
    one.close()
    check(batch, result, alone(model, batch))


def test_a_prompt_that_runs_again_counts_once_with_the_rows_of_its_last_run(
    model: FlatModel,
) -> None:
    batch = with_rows(make_batch([[1, 2], [3, 3, 4]]))
    one = recorder(model)
    one.expect(batch)
    run(model, [1, 2], [3, 3, 4])  # the scheduler sets the second back
    batch.hidden["block.1"][2:] = np.nan
    one.finished([0])
    run(model, [3, 3, 4])
    one.finished([1])
    result = one.result()
    one.close()
    check(batch, result, alone(model, batch))


def test_padding_that_spells_a_prompt_is_not_one(model: FlatModel) -> None:
    batch = with_rows(make_batch([[1, 2], [5]]))
    one = recorder(model)
    one.expect(batch)
    run(model, [1, 2], padding=[5])
    one.finished([0])
    run(model, [5])
    one.finished([1])
    result = one.result()
    one.close()
    check(batch, result, alone(model, batch))


def test_a_prompt_that_finished_unseen_is_lost(model: FlatModel) -> None:
    one = recorder(model)
    one.expect(with_rows(make_batch([[1], [2, 2], [3]])))
    run(model, [1], [3], [2])
    one.finished([0, 1, 2])
    result = one.result()
    one.close()
    assert result is not None
    assert result.lost == 1


def test_a_step_without_a_pass_finishes_nothing(model: FlatModel) -> None:
    one = recorder(model)
    one.expect(with_rows(make_batch([[1], [2, 2]])))
    run(model, [1], [2, 2])
    one.finished([0])
    one.finished([1])
    result = one.result()
    one.close()
    assert result is not None
    assert result.lost == 1


def test_hooks_come_off(model: FlatModel) -> None:
    one = recorder(model)
    one.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_states_with_a_batch_axis_and_three_rows_of_positions(model: FlatModel) -> None:
    other = BatchedModel().requires_grad_(False).to(DEVICE)
    other.load_state_dict(model.state_dict())
    batch = with_rows(make_batch([[1, 2], [3, 3, 4], [5]]))
    one = recorder(other)
    one.expect(batch)
    run(other, [1, 2], [3, 3, 4], [5], padding=[1])
    one.finished([0, 1, 2])
    result = one.result()
    one.close()
    check(batch, result, alone(model, batch))


def test_inputs_that_are_not_token_ids_are_refused(model: FlatModel) -> None:
    one = recorder(model)
    one.expect(with_rows(make_batch([[1]])))
    with pytest.raises(InputError, match="are not token ids at positions"):
        model(input_ids=None, positions=torch.zeros(3, 1))
    one.close()


def test_a_model_without_its_blocks_is_refused(model: FlatModel) -> None:
    with pytest.raises(InputError, match="one list of 3 blocks, and has 0"):
        SiteProbe(model, 3, WIDTH)


class LeakyBackend:
    """Every row knows the last token: what the check after loading must see."""

    sites = Sites(n_blocks=1, hidden_size=8, final_size=8, final_norm=True)

    def __init__(self, dtype: StoredDtype) -> None:
        module = SimpleNamespace(info=SimpleNamespace(id="leaky", logits_width=100), dtype=dtype)
        self.model: Any = module

    def allocate(self, size: int) -> Any:
        return np.zeros(size, np.uint8)

    def capture(self, batches: Iterable[Batch], outputs: Outputs) -> Iterator[Captured]:
        for batch in batches:
            rows = batch.hidden["block.1"]
            rows[...] = np.linspace(1, 2, rows.size).reshape(rows.shape)
            rows[:, 0] *= 25_000  # as massive as activations get
            rows[:, 1:] += batch.token_ids[-1] / 100
            yield Captured(batch=batch, statistics={})


@pytest.mark.parametrize("dtype", EPSILON)
def test_a_model_that_looks_ahead_is_seen(dtype: Any) -> None:
    backend: Any = LeakyBackend(dtype)
    with pytest.raises(InputError, match=r"a later token changes block\.1"):
        check_causal(backend)
