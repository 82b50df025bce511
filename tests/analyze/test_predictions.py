"""Drift of predictions between two runs: rows and heads in stores, samples, summaries."""

import itertools
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch
from kept_heads import random_matrix
from made_runs import MakeRun
from on_disk import on_disk
from polars.testing import assert_frame_equal
from scipy.special import log_softmax

from lpp.analyze.drift import predictions as module
from lpp.analyze.drift.kept import KeptDrift
from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.predictions import TOKEN_DRIFT, compared_tokens, token_drift
from lpp.analyze.drift.summaries import Summary, prediction_drift
from lpp.analyze.logits import tiles
from lpp.analyze.logits.products import NUMPY, Products, place_of, products
from lpp.analyze.runs.keys import RunView
from lpp.store import Run, open_store
from lpp.store.errors import FormatError, InputError
from lpp.store.format.plan import StoredDtype
from lpp.store.objects.locate import objects_at
from lpp.store.shared.heads import commit_head
from lpp.store.shared.logits import Head, HeadContent, Steps
from lpp.store.shared.matrices import Matrix

VOCABULARY = 50
LENGTHS = (12, 7, 20, 20, 3, 15)
FULL = ("kl", "kl_reverse", "js", "tv", "top10")


def matrix(width: int, seed: int, dtype: StoredDtype = "float32", rows: int = VOCABULARY) -> Matrix:
    return random_matrix(rows, width, seed, dtype)


@dataclass
class Side:
    """A run with its head, as they were written."""

    run: Run
    hidden: list[npt.NDArray[np.float32]]
    content: HeadContent | None

    @property
    def logits(self) -> list[npt.NDArray[np.float64]]:
        """Of each prompt, by a plain product in float64."""
        assert self.content is not None
        weight = np.asarray(self.content.matrix.weight, np.float64)
        return [rows.astype(np.float64) @ weight.T for rows in self.hidden]


@pytest.fixture
def side(make_run: MakeRun, tmp_path: Path) -> Callable[..., Side]:
    """`side("a", dim=6)`: a run in a store of its own, and its head."""

    def make(name: str, *, head: HeadContent | bool = True, **options: Any) -> Side:
        number = ord(name) - ord("a")
        options = {"seed": number, "dim": 6, "vary_tokens": True} | options
        root = tmp_path / name
        made = make_run(LENGTHS, model=f"tiny/{name}", root=root, **options)
        content = (
            HeadContent(matrix=matrix(options["dim"], number)) if head is True else head or None
        )
        run = open_store(root).runs[made.run_id]
        if content:
            commit_head(objects_at(root), run.plan, content)
        return Side(run, made.hidden.get("final", []), content)

    return make


def pair_of(
    a: Side, b: Side, n_prompts: int = len(LENGTHS), excluded: tuple[int, ...] = ()
) -> Pair:
    return Pair(
        a=RunView(a.run),
        b=RunView(b.run),
        n_prompts=n_prompts,
        excluded=np.array(excluded, np.int32),
    )


def forget(pair: Pair) -> None:
    """Remove what was kept."""
    shutil.rmtree(on_disk(KeptDrift(pair).folder))


def reference(a: Side, b: Side) -> pl.DataFrame:
    """KL both ways, total variation and flips of every token, as the definitions stand."""
    found = []
    for prompt, (z_a, z_b) in enumerate(zip(a.logits, b.logits, strict=True)):
        p, q = log_softmax(z_a, axis=1), log_softmax(z_b, axis=1)
        for position in range(len(p)):
            one, other = p[position], q[position]
            kl, reverse = np.exp(one) @ (one - other), np.exp(other) @ (other - one)
            tv = np.abs(np.exp(one) - np.exp(other)).sum() / 2
            flip = bool(one.argmax() != other.argmax())
            found.append((prompt, position, kl, reverse, tv, flip))
    names = ["prompt_id", "position", "kl", "kl_reverse", "tv", "flip"]
    return pl.DataFrame(found, schema=names, orient="row").cast(
        {"prompt_id": pl.Int32, "position": pl.Int32}
    )


@pytest.mark.parametrize("tile_rows", [1, 4, 256])
def test_every_token_is_that_of_the_plain_computation(
    side: Callable[..., Side], tile_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of other widths and other shards: their blocks end at different tokens."""
    monkeypatch.setattr(tiles, "TILE_ROWS", tile_rows)
    a, b = side("a"), side("b", dim=9, per_shard=5)
    found = token_drift(pair_of(a, b))
    assert found.schema == TOKEN_DRIFT
    assert len(found) == sum(LENGTHS) == compared_tokens(pair_of(a, b))
    want = reference(a, b)
    columns = ["prompt_id", "position", "flip"]
    assert_frame_equal(found.select(columns), want.select(columns))
    for name in ("kl", "kl_reverse", "tv"):
        np.testing.assert_allclose(found[name], want[name], rtol=1e-5, err_msg=name)
    tokens = pl.DataFrame(pl.from_arrow(a.run.tokens().to_table()))
    assert found["token_id"].equals(tokens["token_id"])
    assert found["next_logprob_a"].equals(tokens["next_logprob"].alias("next_logprob_a"))
    assert found["next_logprob_b"].null_count() == len(LENGTHS)


def test_small_divergences_are_right_to_a_ten_thousandth(side: Callable[..., Side]) -> None:
    """Whole rows, and weights of 13 bits: float32 rounds no product, as a model's own would be."""
    drawn: Any = matrix(6, 0).weight
    weight = np.round(drawn * 4096) / 4096
    noise = np.random.default_rng(0).normal(size=weight.shape) * np.geomspace(1e-4, 1e-2, 6)
    moved = weight + np.round(noise * 4096) / 4096
    a, b = (
        side(
            name,
            seed=0,
            scale=np.round,
            head=HeadContent(matrix=Matrix(dtype="float32", weight=one)),
        )
        for name, one in zip("ab", (weight, moved.astype(np.float32)), strict=True)
    )
    found, want = token_drift(pair_of(a, b)), reference(a, b)
    small = want["kl"].is_between(1e-6, 1e-3)
    assert small.sum() > 10
    np.testing.assert_allclose(found["kl"].filter(small), want["kl"].filter(small), rtol=1e-8)


def test_a_run_against_itself_has_not_changed_at_all(side: Callable[..., Side]) -> None:
    a = side("a")
    again = side("b", seed=0, per_shard=4, head=a.content)
    for pair in (pair_of(a, a), pair_of(a, again)):
        found = token_drift(pair)
        for name in ("kl", "kl_reverse", "js", "tv", "flip"):
            assert found[name].sum() == 0, name
        assert found["top10"].to_list() == [1.0] * len(found)
        for name, summary in prediction_drift(found).items():
            value = 1.0 if name in ("ear", "same_top_p", "top10", "perplexity_ratio") else 0.0
            numbers = (summary.mean, summary.median, summary.p99, summary.max)
            assert numbers == (value,) * 4, name
            assert summary.stderr == 0.0
            ends = (summary.ci_low, summary.ci_high)
            # a share of equal counts has Wilson's interval: other prompts may flip
            near, far = ends[::-1] if value and name != "perplexity_ratio" else ends
            assert near == value
            assert far is not None
            counts = name in ("flips", "same_top_p", "top10")
            assert 0 < abs(far - value) < 0.5 if counts else far == value


def test_swapping_the_runs_swaps_the_divergences(side: Callable[..., Side]) -> None:
    a, b = side("a"), side("b")
    found, swapped = token_drift(pair_of(a, b)), token_drift(pair_of(b, a))
    assert found["kl"].equals(swapped["kl_reverse"].alias("kl"))
    for name in ("flip", "top10"):
        assert found[name].equals(swapped[name])
    for name in ("js", "tv"):
        np.testing.assert_allclose(found[name], swapped[name], rtol=1e-12)
    log_perplexity = [prediction_drift(one)["log_perplexity"].mean for one in (found, swapped)]
    assert log_perplexity[0] == -log_perplexity[1]  # type: ignore[operator]


def test_prompts_and_positions_that_are_left_out(side: Callable[..., Side]) -> None:
    a, b = side("a"), side("b")
    whole = token_drift(pair_of(a, b))
    pair = pair_of(a, b, 5, excluded=(1, 4))
    found = token_drift(pair, first_position=2)
    assert found["prompt_id"].unique().to_list() == [0, 2, 3]
    assert len(found) == 10 + 18 + 18 == compared_tokens(pair, first_position=2)
    keys = ["prompt_id", "position"]
    same = whole.join(found, on=keys, how="semi", maintain_order="left")
    assert_frame_equal(found, same, rel_tol=1e-5)  # the tiles begin at other tokens
    with pytest.raises(InputError, match="at position 20 or later"):
        token_drift(pair, first_position=20)


@pytest.mark.parametrize("jobs", [2, 5])
def test_any_number_of_jobs_gives_the_same_bits(
    side: Callable[..., Side], jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE_ROWS", 3)
    pair = pair_of(side("a"), side("b"))
    found = token_drift(pair, jobs=jobs)
    forget(pair)
    assert token_drift(pair, jobs=1).equals(found)


# samples


def test_a_sample_is_the_same_tokens_and_part_of_a_larger_one(side: Callable[..., Side]) -> None:
    a, b = side("a"), side("b")
    pair, keys = pair_of(a, b), ["prompt_id", "position"]
    whole = token_drift(pair)
    some = {n: token_drift(pair, tokens=n, seed=3) for n in (1, 20, 50)}
    assert {n: len(found) for n, found in some.items()} == {1: 1, 20: 20, 50: 50}
    assert compared_tokens(pair, tokens=20) == 20
    for smaller, larger in itertools.pairwise([*some.values(), whole]):
        same = larger.join(smaller, on=keys, how="semi", maintain_order="left")
        assert_frame_equal(smaller, same, rel_tol=1e-5)
    other = token_drift(pair_of(b, a), tokens=20, seed=3)
    assert_frame_equal(other.select(keys), some[20].select(keys))
    assert not token_drift(pair, tokens=20, seed=4).select(keys).equals(some[20].select(keys))
    assert_frame_equal(token_drift(pair, tokens=1000), whole)


def test_a_sample_of_nothing_is_a_bug_of_the_caller(side: Callable[..., Side]) -> None:
    pair = pair_of(side("a"), side("b"))
    cases: list[dict[str, Any]] = [{"tokens": 0}, {"tokens": 5, "seed": -1}]
    for options in cases:
        with pytest.raises(ValueError, match="should be 1 and 0 or more"):
            token_drift(pair, **options)


def test_every_token_is_drawn_as_often_as_any_other() -> None:
    """400 draws of 10 of 40 tokens: each 100 times, within five standard deviations."""
    frame = pl.DataFrame({"prompt_id": [k // 8 for k in range(40)], "position": [*range(8)] * 5})
    counts = sum(module._drawn(frame, 10, seed).cast(pl.Int32) for seed in range(400))
    assert isinstance(counts, pl.Series)
    assert counts.sum() == 4000
    assert (counts - 100).abs().max() < 5 * math.sqrt(400 * 0.25 * 0.75)  # type: ignore[operator]
    assert counts.n_unique() > 5


# without logits


def test_without_a_head_flips_and_next_come_from_the_statistics(
    side: Callable[..., Side],
) -> None:
    a, b = side("a"), side("b", head=False)
    pair = pair_of(a, b)
    why = pair.no_logits
    assert why is not None
    assert f"run {b.run.id} of " in why
    assert "--keep-head yes" in why
    found = token_drift(pair)
    assert found.schema == TOKEN_DRIFT
    assert found.select(FULL).null_count().row(0) == (len(found),) * len(FULL)
    assert found["flip"].to_list() == [False] * len(found)  # 7 was the most likely in both
    margins = (pair.statistics[f"margin_{side}"] == 0 for side in "ab")
    assert found["flip_tie"].equals(next(margins) | next(margins), check_names=False)
    other = side("c", head=False, most_likely=9)
    assert token_drift(pair_of(a, other))["flip"].to_list() == [True] * len(found)
    summary = prediction_drift(found)
    assert summary["kl"] == Summary(
        mean=None,
        median=None,
        p99=None,
        max=None,
        stderr=None,
        ci_low=None,
        ci_high=None,
        n_tokens=0,
    )
    assert summary["flips"].n_tokens == len(found)
    assert summary["next_logprob"].n_tokens == len(found) - len(LENGTHS)


def test_other_vocabularies_have_no_full_divergence(side: Callable[..., Side]) -> None:
    head = HeadContent(matrix=matrix(6, 1, rows=53))
    pair = pair_of(side("a"), side("b", logits_width=53, head=head))
    assert pair.no_logits == (
        "the models have 50 and 53 logits: they share no vocabulary to compare over."
    )
    assert token_drift(pair)["kl"].null_count() == sum(LENGTHS)


def test_a_run_without_final_has_no_full_divergence(side: Callable[..., Side]) -> None:
    pair = pair_of(side("a"), side("b", sites=("embed", "block.1"), head=False))
    assert "capture again with --sites final" in str(pair.no_logits)


def test_a_matrix_of_another_width_is_refused(side: Callable[..., Side]) -> None:
    b = side("b", head=HeadContent(matrix=matrix(5, 1)))
    with pytest.raises(FormatError, match=r"5 columns, final has 6, so it is not the head of run"):
        token_drift(pair_of(side("a"), b))


def test_logits_that_are_no_numbers_are_refused_by_their_token(side: Callable[..., Side]) -> None:
    spoilt = matrix(6, 1)
    spoilt.weight[3, 2] = np.nan
    pair = pair_of(side("a"), side("b", head=HeadContent(matrix=spoilt)))
    with pytest.raises(FormatError, match="after position 0 of prompt 0 are no finite numbers"):
        token_drift(pair)


def test_two_runs_of_one_model_open_its_head_once(
    side: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    head = Run.head

    def counted(run: Run) -> Head | None:
        opened.append(run.id)
        return head(run)

    monkeypatch.setattr(Run, "head", counted)
    a, b = side("a"), side("b")
    token_drift(pair_of(a, a))
    assert opened == [a.run.id]
    token_drift(pair_of(a, b))
    assert opened == [a.run.id, a.run.id, b.run.id]


def test_altered_rows_are_refused(side: Callable[..., Side]) -> None:
    a, b = side("a"), side("b")
    shutil.rmtree(b.run.path / "shards" / "00002", ignore_errors=True)  # type: ignore[arg-type]
    fresh = Side(open_store(b.run.path.parent.parent).runs[b.run.id], b.hidden, b.content)
    with pytest.raises(FormatError, match="verify"):
        token_drift(pair_of(a, fresh))


def test_a_prompt_without_rows_in_one_run_is_refused_or_left_out(
    side: Callable[..., Side],
) -> None:
    """Of prompt 2, twenty tokens, B has none."""
    a, b = side("a"), side("b", set_aside=(2,))
    for pair in (pair_of(a, b), pair_of(b, a)):
        with pytest.raises(FormatError, match=r"has 57 rows of `final` for 77 tokens"):
            token_drift(pair)
    found = token_drift(pair_of(a, b, excluded=(2,)))
    assert len(found) == 57
    whole = token_drift(pair_of(a, side("c", seed=1, head=b.content)))
    keys = ["prompt_id", "position"]
    same = whole.join(found, on=keys, how="semi", maintain_order="left")
    assert_frame_equal(found, same, rel_tol=1e-5)


# products


def logits(made: Products, rows: npt.NDArray[np.float32], group: int = 2) -> Any:
    """(n, V), from a tile that is used a second time."""
    tile = made(7, group)
    for _ in tile(rows[:3]):
        pass
    return np.concatenate([some.copy() for some in tile(rows)])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "steps", [Steps(), Steps(divisor=4.0, scale=2.0), Steps(scale=0.5, softcap=8.0)]
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_torch_and_numpy_agree_where_no_product_is_rounded(
    dtype: StoredDtype, steps: Steps, bias: bool
) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-3, 4, (VOCABULARY, 4)).astype(np.float32)
    added = np.arange(VOCABULARY, dtype=np.float32)[:, None] - 20

    def stored(values: npt.NDArray[np.float32]) -> Any:
        if dtype == "bfloat16":
            return (values.view(np.uint32) >> 16).astype(np.uint16)
        return values.astype(dtype)

    kept = Matrix(dtype=dtype, weight=stored(weight), bias=stored(added) if bias else None)
    head = Head(HeadContent(matrix=kept, steps=steps))
    rows = rng.integers(-2, 3, (7, 4)).astype(np.float32)
    for group in (1, 3, 7):
        found = logits(products(head, "cpu"), rows, group)
        np.testing.assert_allclose(found, head.logits(rows), rtol=2**-6, atol=2**-7)
        if steps.softcap is None:
            np.testing.assert_array_equal(found, head.logits(rows))
        by_numpy = logits(products(head, NUMPY), rows, group)
        np.testing.assert_array_equal(by_numpy, head.logits(rows))


def test_the_matrix_as_stored_gives_torch_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    content = HeadContent(matrix=matrix(6, 0, "bfloat16"))
    rows = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    widened = logits(products(Head(content), "cpu"), rows)
    monkeypatch.setattr("lpp.store.shared.logits.WIDENED_BYTES", 0)
    as_stored = Head(content)
    assert as_stored.weight.dtype == np.uint16
    np.testing.assert_array_equal(logits(products(as_stored, "cpu"), rows), widened)


def test_tasks_of_a_cluster_open_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [place_of("bfloat16"), place_of("float32")] == ["cuda", "cuda"]
    found = [place_of(dtype, cluster=True) for dtype in ("bfloat16", "float32")]
    assert found == ["cpu", NUMPY]


def test_bfloat16_heads_on_any_number_of_threads(
    side: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE_ROWS", 8)
    a, b = (side(n, head=HeadContent(matrix=matrix(6, k, "bfloat16"))) for k, n in enumerate("ab"))
    found = token_drift(pair_of(a, b), jobs=1)
    forget(pair_of(a, b))
    assert token_drift(pair_of(a, b), jobs=3).equals(found)
    assert token_drift(pair_of(a, a))["kl"].sum() == 0
