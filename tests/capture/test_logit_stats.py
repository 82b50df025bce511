"""The eight statistics against float64 numpy, hand values, and each family's own logits."""

import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from logit_reference import Columns, Given, assert_equal, assert_within, levels, odd_rows, reference
from torch import nn

from lpp.capture.backends.logit_statistics.fused import fused_reduction
from lpp.capture.backends.logit_statistics.partial import PartialStatistics, VocabularyShard, joined
from lpp.capture.backends.logit_statistics.statistics import (
    STATISTICS,
    TokenStatistics,
    logit_statistics,
    token_statistics,
)
from lpp.capture.models.structure.anatomy import forward_inputs
from lpp.capture.models.structure.find_sites import find_sites
from lpp.capture.models.structure.sites import hooked
from lpp.capture.models.structure.unembedding import Unembedding, find_unembedding
from lpp.store.errors import ErrorKind, InputError

INF, NAN = math.inf, math.nan
Way = Callable[[torch.Tensor, torch.Tensor, int | None], TokenStatistics]


def _whole(logits: torch.Tensor, next_ids: torch.Tensor, tile_rows: int | None) -> TokenStatistics:
    """By the way that a CPU takes."""
    return logit_statistics(logits, Unembedding(Given(), logits), next_ids, tile_rows)


def _fused(logits: torch.Tensor, next_ids: torch.Tensor, tile_rows: int | None) -> TokenStatistics:
    """By the plain code of the reduction that a GPU compiles."""
    shard = VocabularyShard(columns=range(logits.shape[1]))
    tile = tile_rows or max(1, len(logits))
    parts = [
        PartialStatistics(**fused_reduction(piece, shard.next_logit(piece, following)))
        for piece, following in zip(logits.split(tile), next_ids.split(tile), strict=True)
    ]
    return token_statistics(joined(parts), next_ids < 0)


_WAYS = pytest.mark.parametrize("way", [_whole, _fused])


def _statistics(
    logits: Any, next_ids: Any, tile_rows: int | None = None, way: Way = _whole
) -> Columns:
    tensor = logits if isinstance(logits, torch.Tensor) else torch.tensor(logits)
    following = torch.tensor(next_ids, dtype=torch.int64)
    return way(tensor.clone(), following, tile_rows).numpy()


@_WAYS
@pytest.mark.parametrize("width", [2, 3, 255, 256, 257, 511, 512, 600, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_statistic_agrees_with_float64(width: int, dtype: torch.dtype, way: Way) -> None:
    generator = torch.Generator().manual_seed(width)
    logits = (torch.randn(37, width, generator=generator) * 4).to(dtype)
    following = torch.randint(-1, width, (37,), generator=generator).tolist()
    mine = _statistics(logits, following, tile_rows=16, way=way)
    assert_equal(mine, reference(logits.float().numpy(), following), atol=3e-6)


@_WAYS
@pytest.mark.parametrize("vocabulary", [49_152, 151_936, 262_144])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_vocabularies_keep_the_documented_bounds(
    vocabulary: int, dtype: torch.dtype, way: Way
) -> None:
    for logits, entropy, varentropy in levels(vocabulary):
        rounded = logits.to(dtype)
        following = [5] * len(rounded)
        expected = reference(rounded.float().numpy(), following)
        assert_within(_statistics(rounded, following, way=way), expected, entropy, varentropy)


@_WAYS
@pytest.mark.parametrize("width", [1, 2, 5, 255, 256, 257, 600, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_odd_rows_side_by_side(width: int, dtype: torch.dtype, way: Way) -> None:
    logits, following = odd_rows(width)
    logits = logits.to(dtype)
    expected = reference(logits.float().numpy(), following)
    assert_equal(_statistics(logits, following, way=way), expected, atol=3e-6)


@_WAYS
def test_a_common_offset_costs_no_digits(way: Way) -> None:
    """GPT-2's logits lie near -100; only log_z may know."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(50, 700, generator=generator) * 3 - 100
    mine = _statistics(logits, [5] * 50, way=way)
    assert_equal(mine, reference(logits.numpy(), [5] * 50), atol=3e-6)


@pytest.mark.slow
@_WAYS
@given(
    st.integers(1, 300).flatmap(
        lambda width: st.lists(
            st.lists(st.integers(-40, 40), min_size=width, max_size=width), min_size=1, max_size=3
        )
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_quarters_with_many_ties_agree_with_float64(
    way: Way, rows: list[list[int]], random: Random
) -> None:
    logits = np.array(rows, np.float32) / 4
    following = [random.randrange(-1, logits.shape[1]) for _ in rows]
    assert_equal(_statistics(logits, following, way=way), reference(logits, following), atol=3e-6)


@_WAYS
def test_uniform_and_one_hot_rows_by_hand(way: Way) -> None:
    mine = _statistics([[0.5] * 8, [40.0] + [-80.0] * 7], [3, 1], way=way)
    np.testing.assert_allclose(mine["entropy"], [math.log(8), 0], atol=1e-6)
    np.testing.assert_allclose(mine["varentropy"], [0, 0], atol=1e-6)
    np.testing.assert_allclose(mine["log_z"], [0.5 + math.log(8), 40], rtol=1e-6)
    np.testing.assert_allclose(mine["max_logprob"], [-math.log(8), 0], rtol=1e-6)
    np.testing.assert_allclose(mine["margin"], [0, 120])
    np.testing.assert_allclose(mine["next_logprob"], [-math.log(8), -120], rtol=1e-6)
    assert mine["next_rank"].tolist() == [1, 2]
    assert mine["top1_id"].tolist() == [0, 0]


@_WAYS
def test_three_tokens_by_hand(way: Way) -> None:
    """Probabilities 1/2, 1/3, 1/6."""
    mine = _statistics([[math.log(2), math.log(3), 0.0]], [2], way=way)
    assert mine["log_z"][0] == pytest.approx(math.log(6))
    assert mine["entropy"][0] == pytest.approx(
        math.log(2) / 2 + math.log(3) / 3 + math.log(6) / 6, rel=1e-6
    )
    second_moment = math.log(2) ** 2 / 2 + math.log(3) ** 2 / 3 + math.log(6) ** 2 / 6
    assert mine["varentropy"][0] == pytest.approx(second_moment - 1.0114042647**2, rel=1e-5)
    assert mine["max_logprob"][0] == pytest.approx(math.log(1 / 2), rel=1e-6)
    assert mine["margin"][0] == pytest.approx(math.log(3 / 2), rel=1e-6)
    assert mine["next_logprob"][0] == pytest.approx(math.log(1 / 6), rel=1e-6)
    assert (mine["next_rank"][0], mine["top1_id"][0]) == (3, 1)


@_WAYS
def test_ties_rank_by_strictly_larger_and_the_smallest_id_wins(way: Way) -> None:
    row = [1.0] * 700
    row[131] = row[257] = row[600] = 2.0  # in three groups of 256, the last one partial
    mine = _statistics([row, row, row], [600, 0, 131], way=way)
    assert mine["next_rank"].tolist() == [1, 4, 1]
    assert mine["top1_id"].tolist() == [131] * 3
    assert mine["margin"].tolist() == [0.0] * 3


@_WAYS
@pytest.mark.parametrize("first", [0, 255, 256, 343, 344, 511, 512, 599])
@pytest.mark.parametrize("second", [1, 254, 257, 342, 345, 510, 513, 598])
def test_margin_wherever_the_two_largest_lie(first: int, second: int, way: Way) -> None:
    """600 columns: groups begin at 0, 256 and, overlapping, 344."""
    row = [0.0] * 600
    row[first], row[second] = 9.0, 6.5
    mine = _statistics([row], [second], way=way)
    assert mine["margin"][0] == 2.5
    assert (mine["top1_id"][0], mine["next_rank"][0]) == (first, 2)


@_WAYS
def test_two_logits_that_a_shift_would_merge_keep_their_ranks(way: Way) -> None:
    tiny = [1e-6, 2e-6, 100.0]
    assert _statistics([tiny, tiny], [0, 1], way=way)["next_rank"].tolist() == [3, 2]


@_WAYS
def test_a_vocabulary_of_one(way: Way) -> None:
    mine = _statistics([[7.5], [-3.0]], [0, -1], way=way)
    assert mine["entropy"].tolist() == [0.0, 0.0]
    assert mine["log_z"].tolist() == [7.5, -3.0]
    assert mine["max_logprob"].tolist() == [0.0, 0.0]
    assert mine["varentropy"].tolist() == [0.0, 0.0]
    assert mine["margin"].tolist() == [INF, INF]
    assert mine["next_rank"].tolist() == [1, 0]
    assert mine["top1_id"].tolist() == [0, 0]


@_WAYS
def test_masked_columns_weigh_nothing(way: Way) -> None:
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(20, 500, generator=generator)
    logits[:, 300:] = -INF
    following = [17] * 19 + [400]
    mine = _statistics(logits, following, way=way)
    assert_equal(mine, reference(logits.numpy(), following), atol=3e-6)
    assert mine["next_logprob"][-1] == -INF
    assert mine["next_rank"][-1] == 301
    only = _statistics([[-INF, 3.0, -INF]], [1], way=way)
    assert (only["entropy"][0], only["margin"][0], only["log_z"][0]) == (0.0, INF, 3.0)


@_WAYS
def test_a_nan_logit_stays_visible_and_stays_in_its_row(way: Way) -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(2))
    logits[2, 290] = NAN
    mine = _statistics(logits, [1, 1, 1, 1], way=way)
    for name in ("entropy", "log_z", "max_logprob", "margin", "next_logprob", "varentropy"):
        assert np.isnan(mine[name]).tolist() == [False, False, True, False], name


@_WAYS
def test_no_next_token_is_rank_zero_and_nan(way: Way) -> None:
    mine = _statistics([[1.0, 2.0, 3.0]] * 3, [-1, 2, -1], way=way)
    assert mine["next_rank"].tolist() == [0, 1, 0]
    assert np.isnan(mine["next_logprob"]).tolist() == [True, False, True]
    assert not np.isnan(mine["entropy"]).any()


def test_no_rows_give_empty_columns() -> None:
    mine = _statistics(torch.empty(0, 40), torch.empty(0, dtype=torch.int64).tolist() or [])
    assert {name: len(column) for name, column in mine.items()} == dict.fromkeys(STATISTICS, 0)
    assert mine["next_rank"].dtype == np.int32


@_WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tile_sizes_change_nothing(dtype: torch.dtype, way: Way) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = (torch.randn(70, 1000, generator=generator) * 3).to(dtype)
    following = torch.randint(-1, 1000, (70,), generator=generator).tolist()
    whole = _statistics(logits, following, tile_rows=70, way=way)
    for tile in (1, 3, 16, 64, 256, None):
        for name, column in _statistics(logits, following, tile, way=way).items():
            np.testing.assert_array_equal(column, whole[name], err_msg=f"{name}, tile {tile}")


def test_a_linear_layer_with_bias_equals_its_own_logits() -> None:
    torch.manual_seed(6)
    layer = nn.Linear(24, 333)
    rows = torch.randn(90, 24)
    with torch.no_grad():
        logits = layer(rows)
    unembed = Unembedding(layer, logits)
    mine = logit_statistics(rows, unembed, torch.arange(90), tile_rows=32).numpy()
    assert_equal(mine, reference(logits.numpy(), list(range(90))), atol=1e-5)


def _through_the_model(model: Any) -> tuple[Columns, np.ndarray, list[int]]:
    modules = find_sites(model)
    unembed = find_unembedding(model, modules)
    ids = torch.randint(
        3, model.config.vocab_size, (3, 13), generator=torch.Generator().manual_seed(1)
    )
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad(), hooked(modules, ("final",), seen.__setitem__):
        modules.trunk(**forward_inputs(ids))
    with torch.no_grad():
        logits = model(ids).logits.float().flatten(0, 1).numpy()
    following = torch.cat([ids[:, 1:], torch.full((3, 1), -1)], 1).flatten()
    mine = logit_statistics(seen["final"].flatten(0, 1), unembed, following, tile_rows=16).numpy()
    return mine, logits, following.tolist()


def test_each_family_gives_the_statistics_of_its_own_logits(
    family: str, tiny_model: Callable[[str], Any]
) -> None:
    mine, logits, following = _through_the_model(tiny_model(family))
    assert_equal(mine, reference(logits, following), atol=1e-5)


def test_weights_offloaded_to_disk_give_the_same_statistics(
    tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    """As with `--device-map auto` on a model larger than memory: weights arrive when called."""
    from accelerate import disk_offload

    whole = tiny_model("llama")
    expected, _, _ = _through_the_model(whole)
    model = type(whole)(whole.config)
    model.load_state_dict(whole.state_dict())
    disk_offload(model.eval(), str(tmp_path), execution_device=torch.device("cpu"))
    assert model.get_output_embeddings().weight.is_meta
    mine, _, _ = _through_the_model(model)
    assert_equal(mine, expected, atol=1e-6)


_SMALL: dict[str, Any] = {
    "vocab_size": 113,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize(
    ("config", "extra"),
    [("CohereConfig", {"logit_scale": 0.0625}), ("GraniteConfig", {"logits_scaling": 8.0})],
)
def test_scaled_logits_are_found_from_the_config(config: str, extra: dict[str, float]) -> None:
    torch.manual_seed(9)
    model = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, config)(**_SMALL, **extra)
    ).eval()
    mine, logits, following = _through_the_model(model)
    assert_equal(mine, reference(logits, following), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_unknown_change_to_the_logits_is_refused(
    dtype: torch.dtype, tiny_model: Callable[[str], Any]
) -> None:
    model = tiny_model("llama")

    class Changed(type(model)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            return SimpleNamespace(logits=output.logits * 1.01, hidden_states=output.hidden_states)

    changed = Changed(model.config)
    changed.load_state_dict(model.state_dict())
    changed.eval().to(dtype)
    with pytest.raises(InputError, match="its logits are not its unembedding") as e:
        find_unembedding(changed, find_sites(changed))
    assert e.value.kind is ErrorKind.UNSUPPORTED_MODEL
