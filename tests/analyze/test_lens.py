"""The logit lens of items against plain arithmetic in float64, and why there may be none."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from evaluated_items import EvaluatedRun, evaluated_run, row_at
from made_runs import MakeRun

import lpp.analyze
from lpp.analyze import ItemsSettings
from lpp.analyze.evaluations.evaluated import evaluated_items
from lpp.analyze.evaluations.lens import OF_ITEMS, ItemLens, lens_of
from lpp.analyze.evaluations.rows import read_rows
from lpp.analyze.logits import lens as module
from lpp.analyze.logits.lens import agreement_depth
from lpp.analyze.logits.products import NUMPY
from lpp.store import open_store
from lpp.store.arrays.reader import to_float32
from lpp.store.objects.locate import objects_at
from lpp.store.shared.heads import commit_head
from lpp.store.shared.logits import HeadContent, Steps
from lpp.store.shared.matrices import Matrix

Array = npt.NDArray[np.float64]
VOCABULARY, D, BLOCKS = 50, 6, 4
SITES = ("embed", *(f"block.{k}" for k in range(1, BLOCKS + 1)), "final")
TOLERANCE = 2e-4


@dataclass(frozen=True)
class Model:
    """What stands behind the last block."""

    kind: str
    w: Array
    b: Array
    head: npt.NDArray[np.float32]
    softcap: float | None = None

    def norm(self, row: Array) -> Array:
        """Of one row or several, in float64."""
        centred = row - (row.mean(axis=-1, keepdims=True) if self.kind == "LayerNorm" else 0)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        normed: Array = self.w * centred / scale + self.b
        return normed

    def stored(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return self.norm(rows.astype(np.float64)).astype(np.float32)

    def log_p(self, after: Array) -> list[float]:
        """Of each token, of one row after the norm; in nats."""
        z = [sum(a * b for a, b in zip(after.tolist(), w, strict=True)) for w in self.head.tolist()]
        if self.softcap:
            z = [self.softcap * math.tanh(one / self.softcap) for one in z]
        log_z = math.log(math.fsum(map(math.exp, z)))
        return [one - log_z for one in z]


def model(kind: str = "RMSNorm", softcap: float | None = None) -> Model:
    rng = np.random.default_rng(len(kind))
    head = rng.normal(0, 0.5, (VOCABULARY, D)).astype(np.float32)
    b = rng.normal(size=D) if kind == "LayerNorm" else np.zeros(D)
    return Model(kind, rng.normal(1, 0.3, D), b, head, softcap)


def written_by(
    make_run: MakeRun, some: Model, *, matrix: Matrix | None = None, **options: Any
) -> EvaluatedRun:
    """A run of a model with that norm, and its head in the store."""
    settings: dict[str, Any] = {
        "sites": SITES,
        "dim": D,
        "norm": some.stored,
        "logits_width": VOCABULARY,
    }
    written = evaluated_run(make_run, **settings | options)
    plan = open_store(written.root).runs[written.made.run_id].plan
    matrix = matrix or Matrix(dtype="float32", weight=some.head)
    content = HeadContent(matrix=matrix, steps=Steps(softcap=some.softcap))
    commit_head(objects_at(written.root), plan, content)
    return written


def expected(written: EvaluatedRun, some: Model, blocks: list[int]) -> dict[str, list[float]]:
    """Features of each item, those of blocks by `name block`."""
    names = [f"{name} {k}" for name in ("lens_logprob", "lens_share") for k in blocks]
    found: dict[str, list[float]] = {name: [] for name in (*OF_ITEMS, *names)}
    for item in written.rows:
        ids = item["prompt_ids"]
        first = [written.made.prompts[i][written.context[i]] for i in ids]
        prompt = ids[item["chosen"]]
        at = written.context[prompt] - 1
        final = some.log_p(row_at(written.made, "final", prompt, at))
        top, chosen = final.index(max(final)), first[item["chosen"]]
        depths = {"agreement_depth": 1.0, "answer_depth": 1.0}
        holds = {"agreement_depth": True, "answer_depth": True}
        for k in reversed(range(1, BLOCKS + 1)):
            log_p = some.log_p(some.norm(row_at(written.made, f"block.{k}", prompt, at)))
            if k in blocks:
                found[f"lens_logprob {k}"].append(log_p[top])
                several = len({*first}) > 1
                total = math.fsum(math.exp(log_p[one]) for one in {*first})
                share = math.exp(log_p[chosen]) / total if several else math.nan
                found[f"lens_share {k}"].append(share)
            if k == BLOCKS or k in blocks:
                holds["agreement_depth"] &= log_p[top] >= max(log_p)
                holds["answer_depth"] &= log_p[chosen] >= max(log_p[one] for one in first)
                depths = {n: k / BLOCKS if holds[n] else value for n, value in depths.items()}
        if len({*first}) == 1 or final[chosen] < max(final[one] for one in first):
            depths["answer_depth"] = math.nan
        for name, value in depths.items():
            found[name].append(value)
    return found


def computed(written: EvaluatedRun, blocks: list[int]) -> dict[str, list[float]]:
    read = evaluated_items(written.root, "tiny_task")
    sites = [f"block.{k}" for k in blocks]
    lens = lens_of(read, sites)
    assert isinstance(lens, ItemLens)
    found: dict[str, Any] = {}
    for k, site in zip(blocks, sites, strict=True):
        answers, _ = read_rows(read, site)
        of_site = lens.features(site, answers)
        found |= {f"{name} {k}": values.tolist() for name, values in of_site.items()}
    return found | {name: values.tolist() for name, values in lens.of_items().items()}


@pytest.mark.parametrize(
    ("kind", "softcap", "blocks"),
    [
        ("RMSNorm", None, [1, 2, 3, 4]),
        ("RMSNorm", 2.0, [1, 3]),
        ("LayerNorm", None, [1, 2, 3, 4]),
        ("LayerNorm", None, [2, 3]),
        ("LayerNorm", 2.0, [4]),
    ],
)
def test_features_are_those_of_the_plain_computation(
    make_run: MakeRun, kind: str, softcap: float | None, blocks: list[int]
) -> None:
    some = model(kind, softcap)
    written = written_by(make_run, some, items=20)
    found, wanted = computed(written, blocks), expected(written, some, blocks)
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, abs=TOLERANCE, nan_ok=True), name
    if blocks == [1, 2, 3, 4] and softcap is None:
        assert len(set(found["agreement_depth"])) > 1
        assert np.isnan(found["answer_depth"]).any()


@pytest.mark.slow
@pytest.mark.parametrize("place", [NUMPY, "cpu"])
def test_a_head_of_bfloat16(make_run: MakeRun, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are rounded to it, by one part of 256 at most, wherever they are computed."""
    plain = model()
    stored = (plain.head.view(np.uint32) >> 16).astype(np.uint16)
    some = replace(plain, head=to_float32(stored))
    written = written_by(make_run, some, items=20, matrix=Matrix(dtype="bfloat16", weight=stored))
    monkeypatch.setattr(module, "place_of", lambda _: place)
    found, wanted = computed(written, [1, 2]), expected(written, some, [1, 2])
    for name in ("lens_logprob 1", "lens_logprob 2", "lens_share 1", "lens_share 2"):
        assert found[name] == pytest.approx(wanted[name], abs=0.1, nan_ok=True), name


def test_depths_by_hand() -> None:
    never, late, always, once = [False] * 3, [False, False, True], [True] * 3, [True, False, False]
    agrees = np.array([never, late, always, once]).T
    assert agreement_depth(agrees, [1, 2, 4], 8).tolist() == [1, 0.5, 0.125, 1]
    assert agreement_depth(np.empty((0, 2), bool), [], 8).tolist() == [1, 1]


def test_a_tie_agrees(make_run: MakeRun) -> None:
    """Two tokens with equal rows of the head are equally likely everywhere."""
    some = model()
    half = some.head[: VOCABULARY // 2]
    alone, twins = replace(some, head=half), replace(some, head=np.repeat(half, 2, axis=0))
    written = written_by(make_run, twins, items=20)
    found = computed(written, [1, 2, 3])
    for place, item in enumerate(written.rows):
        prompt = item["prompt_ids"][item["chosen"]]
        at = written.context[prompt] - 1
        log_p = [
            alone.log_p(alone.norm(row_at(written.made, f"block.{k}", prompt, at)))
            for k in range(1, BLOCKS + 1)
        ]
        top = int(np.argmax(log_p[-1]))
        depth = BLOCKS
        while depth > 1 and np.argmax(log_p[depth - 2]) == top:
            depth -= 1
        assert found["agreement_depth"][place] == depth / BLOCKS
        assert found["lens_logprob 1"][place] == pytest.approx(
            log_p[0][top] - math.log(2), abs=TOLERANCE
        )


def test_prompts_that_were_set_aside_have_no_answer_to_choose(make_run: MakeRun) -> None:
    def first_is_chosen(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"chosen": 0, "log_likelihoods": [-1.0, -2.0, -3.0]}

    some = model()
    written = written_by(make_run, some, items=10, changes=first_is_chosen, set_aside=[1, 2, 4, 6])
    read = evaluated_items(written.root, "tiny_task")
    assert read.table["item"].to_list() == [0, 1, 3, 4, 5, 6, 7, 8, 9]  # prompt 6 is of item 2
    assert read.table["first_tokens"].list.drop_nulls().list.len().to_list()[:3] == [1, 2, 3]
    share = computed(written, [2])["lens_share 2"]
    assert np.isnan(share).tolist()[:3] == [True, False, False]


def test_an_empty_answer_has_no_share(make_run: MakeRun) -> None:
    written = written_by(make_run, model(), items=10)
    read = evaluated_items(written.root, "tiny_task")
    tokens = read.table["first_tokens"].to_list()
    tokens[0], tokens[1][read.table["chosen"][1]] = [None, None, None], None
    table = read.table.with_columns(pl.Series("first_tokens", tokens, dtype=pl.List(pl.Int32())))
    lens = lens_of(replace(read, table=table), ["block.1"])
    assert isinstance(lens, ItemLens)
    found = lens.features("block.1", read_rows(read, "block.1")[0])
    assert np.isnan(found["lens_share"]).tolist()[:3] == [True, True, False]
    assert np.isfinite(found["lens_logprob"]).all()


@pytest.mark.slow
def test_the_analysis_has_them_by_depth(make_run: MakeRun) -> None:
    written = written_by(make_run, model())
    found = lpp.analyze.items(
        written.root, "tiny_task", settings=ItemsSettings(sites=["embed", "block.*"])
    )
    blocks = [f"block.{k}" for k in range(1, BLOCKS + 1)]
    for name in ("lens_logprob", "lens_share"):
        some = found.features_frame().filter(feature=name)
        assert some["site"].to_list() == blocks
        assert some["auroc"].is_not_null().all()
    later = lpp.analyze.items(
        written.root, "tiny_task", settings=ItemsSettings(sites=blocks, skip_first=7)
    ).features_frame()
    same = [name for name in found.features_frame()["feature"].unique() if name.startswith("lens_")]
    for name in (*same, *OF_ITEMS):
        of_all, of_some = (
            f.filter(feature=name).drop("q_value", "skip_first")
            for f in (found.features_frame(), later)
        )
        assert of_all.equals(of_some)  # the answer's position is never skipped


def scaled_alone(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """No norm: divided by the largest value."""
    scaled: npt.NDArray[np.float32] = rows / np.abs(rows).max(axis=1, keepdims=True)
    return scaled


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sites", "said"),
    [
        ({"sites": ("embed", "block.1", "block.2"), "norm": None}, ["block.*"], "final"),
        ({"sites": ("block.1", "block.3", "final")}, ["block.*"], "block.2"),
        ({}, ["final", "embed"], "--sites"),
        ({"norm": scaled_alone}, ["*"], "RMSNorm"),
        ({"head": False}, ["*"], "--keep-head"),
    ],
)
def test_without_a_lens_the_reason_is_given(
    make_run: MakeRun, options: dict[str, Any], sites: list[str], said: str
) -> None:
    if "head" in options:
        written = evaluated_run(make_run, sites=SITES, dim=D, norm=model().stored)
    else:
        written = written_by(make_run, model(), **options)
    features = lpp.analyze.items(
        written.root, "tiny_task", settings=ItemsSettings(sites=sites)
    ).features_frame()
    assert features.filter(features["feature"].str.starts_with("lens_")).is_empty()
    reasons = features.filter(features["feature"].is_in(OF_ITEMS))["why_none"]
    assert len(reasons) == len(OF_ITEMS)
    assert reasons.str.contains(said, literal=True).all()
