"""Heads in a store: the arithmetic, the names, the proof against the columns, and bad records."""

import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from on_disk import on_disk
from places import BUCKET, Behind, place_of, strays
from sealed import reseal
from small_capture import make_capture, make_plan
from stored import objects_dir
from zarr_arrays import array_in

from lpp.analyze.logits.proof import check_logits, logits_problems
from lpp.store import Run, create_store, open_store
from lpp.store.errors import FormatError
from lpp.store.format.plan import StoredDtype
from lpp.store.objects.locate import objects_at
from lpp.store.shared import logits
from lpp.store.shared.heads import commit_head, head_directories, open_head
from lpp.store.shared.logits import (
    EPSILON,
    Head,
    HeadContent,
    Steps,
    entropy_and_log_z,
    entropy_factor,
)
from lpp.store.shared.matrices import Matrix
from lpp.store.shared.verify import remove_damaged, verify_shared

VOCABULARY, WIDTH = 53, 4
MODEL = {
    "dtype": "float32",
    "quantization": None,
    "untrained_seed": None,
    "weights": "weights-print",
}
"""What decides the head of the plan in these tests."""


def bits(values: Any) -> np.ndarray:
    """The bits of bfloat16 of numbers that it has."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def content(
    dtype: StoredDtype = "bfloat16", *, bias: bool = False, seed: int = 0, **steps: float
) -> HeadContent:
    """A head of small integers, whose products no dtype rounds."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-3, 4, (VOCABULARY, WIDTH)).astype(np.float32)
    added = np.arange(VOCABULARY, dtype=np.float32)[:, None] - 20

    def stored(values: np.ndarray) -> Any:
        return bits(values) if dtype == "bfloat16" else values.astype(dtype)

    matrix = Matrix(dtype=dtype, weight=stored(weight), bias=stored(added) if bias else None)
    return HeadContent(matrix=matrix, steps=Steps(**steps))


# the arithmetic


@pytest.mark.parametrize(
    ("dtype", "product", "rounded"),
    [
        ("bfloat16", 1 + 2**-8, 1.0),  # a tie goes to the even neighbour
        ("bfloat16", 1 + 3 * 2**-8, 1 + 2**-6),
        ("bfloat16", 1 + 2**-8 + 2**-20, 1 + 2**-7),
        ("bfloat16", -1 - 3 * 2**-8, -1 - 2**-6),
        ("bfloat16", math.inf, math.inf),
        ("bfloat16", -math.inf, -math.inf),
        ("bfloat16", math.nan, math.nan),
        ("float16", 1 + 2**-11, 1.0),
        ("float16", 1 + 3 * 2**-11, 1 + 2**-9),
        ("float16", 1e6, math.inf),
        ("float32", 1 + 2**-23, 1 + 2**-23),
    ],
)
def test_a_product_is_rounded_to_the_dtype_of_the_head(
    dtype: StoredDtype, product: float, rounded: float
) -> None:
    one = np.ones((1, 1), np.float32)
    weight: Any = bits(one) if dtype == "bfloat16" else one.astype(dtype)
    head = Head(HeadContent(matrix=Matrix(dtype=dtype, weight=weight)))
    (made,) = head.logits(np.array([[product]], np.float32))[0]
    np.testing.assert_array_equal(made, np.float32(rounded))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("bias", [False, True])
def test_logits_are_the_product_and_the_steps(dtype: StoredDtype, bias: bool) -> None:
    rows = np.array([[1, 2, -1, 0], [3, 0, 0, -2]], np.float32)
    plain = content(dtype, bias=bias)
    weight = np.random.default_rng(0).integers(-3, 4, (VOCABULARY, WIDTH))
    z = rows @ weight.T + (np.arange(VOCABULARY) - 20 if bias else 0)
    np.testing.assert_array_equal(Head(plain).logits(rows), z)
    halved = Head(replace(plain, steps=Steps(divisor=4.0, scale=2.0))).logits(rows)
    np.testing.assert_array_equal(halved, z / 2)
    capped = Head(replace(plain, steps=Steps(softcap=8.0))).logits(rows)
    np.testing.assert_allclose(capped, 8 * np.tanh(z / 8), atol=16 * EPSILON[dtype])


def test_a_large_matrix_is_widened_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(1).integers(-5, 6, (7, WIDTH)).astype(np.float32)
    whole = Head(content(bias=True)).logits(rows)
    monkeypatch.setattr(logits, "WIDENED_BYTES", 0)
    monkeypatch.setattr(logits, "BLOCK_BYTES", 4 * WIDTH * 10)  # 53 columns in blocks of ten
    head = Head(content(bias=True))
    assert head.weight.dtype == np.uint16
    np.testing.assert_array_equal(head.logits(rows), whole)


def test_tiles_lie_in_one_memory_and_hold_every_row() -> None:
    rows = np.random.default_rng(1).integers(-5, 6, (7, WIDTH)).astype(np.float32)
    head = Head(content())
    whole, memory = head.logits(rows), set()
    for tile, found in head.tiles(rows, tile_rows=3):
        np.testing.assert_array_equal(found, whole[tile])
        memory.add(found.ctypes.data)
    assert len(memory) == 1
    out = np.empty_like(whole)
    assert head.logits(rows, out=out) is out
    np.testing.assert_array_equal(out, whole)


@pytest.mark.parametrize(
    ("rows", "out"),
    [
        (np.ones((2, 5), np.float32), None),
        (np.ones(4, np.float32), None),
        (np.ones((2, 4), np.float32), np.empty((2, 52), np.float32)),
        (np.ones((2, 4), np.float32), np.empty((2, 53))),
        (np.ones((2, 4), np.float32), np.empty((53, 2), np.float32).T),
    ],
)
def test_other_shapes_are_refused(rows: Any, out: Any) -> None:
    with pytest.raises(ValueError, match="should be"):
        Head(content()).logits(rows, out=out)


def reference(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entropy and ln of the sum, in float64."""
    z = logits.astype(np.float64)
    log_z = np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1)
    p = np.exp(z - log_z[:, None])
    return log_z - np.where(p > 0, p * np.where(p > 0, z, 0), 0).sum(1), log_z


def test_entropy_and_log_z_agree_with_float64() -> None:
    rng = np.random.default_rng(2)
    logits = (rng.standard_normal((9, 5000)) * np.array([[0.01], [1], [5]] * 3)).astype(np.float32)
    logits[4] = 7.5
    logits[5, 3:] = -np.inf
    for made, want in zip(entropy_and_log_z(logits), reference(logits), strict=True):
        np.testing.assert_allclose(made, want, rtol=1e-6, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 50]), st.floats(0.01, 3))
def test_no_change_of_the_logits_moves_the_statistics_beyond_the_bound(
    seed: int, vocabulary: int, by: float
) -> None:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((20, vocabulary)) * rng.choice([0.1, 1, 10])
    moved = z + rng.choice([-by, by], z.shape)
    (entropy, log_z), (entropy_2, log_z_2) = reference(z), reference(moved)
    assert np.abs(log_z - log_z_2).max() <= by + 1e-9
    assert np.abs(entropy - entropy_2).max() <= by * entropy_factor(vocabulary) + 1e-9


# in a store


@pytest.fixture(params=["disk", BUCKET])
def place(request: pytest.FixtureRequest) -> Behind:
    found = place_of(request.param, request)
    create_store(found.url)
    return found


def sha256(document: Any) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def test_names_come_from_the_plan_and_from_the_values(place: Behind) -> None:
    plan, kept = make_plan(), content(bias=True, softcap=30.0, divisor=0.1)
    assert open_head(place.objects, plan) is None
    assert head_directories(place.objects, plan) == ()
    matrix = commit_head(place.objects, plan, kept)
    assert (
        matrix
        == sha256(
            {
                "dtype": "bfloat16",
                "rows": 53,
                "width": 4,
                "weight": hashlib.sha256(kept.matrix.weight.tobytes()).hexdigest(),
                "bias": hashlib.sha256(kept.matrix.bias.tobytes()).hexdigest(),  # type: ignore[union-attr]
            }
        )[:16]
    )
    name = sha256(MODEL)[:16]
    assert head_directories(place.objects, plan) == (f"heads/{name}", f"matrices/{matrix}")
    record = json.loads(place.held()[f"heads/{name}/COMMIT.json"])
    assert record["objects"] == {}
    assert record["model"] == MODEL
    told = {key: record[key] for key in ("divisor", "scale", "softcap", "matrix", "rows", "width")}
    assert told == {
        "divisor": "0.1",
        "scale": None,
        "softcap": "30",
        "matrix": matrix,
        "rows": 53,
        "width": 4,
    }
    head = open_head(place.objects, plan)
    assert head is not None
    assert (head.name, head.steps) == (name, kept.steps)
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(head.logits(rows), Head(kept).logits(rows))
    assert verify_shared(place.url) == []
    assert strays(place.held()) == set()


def test_each_model_has_a_head_and_equal_matrices_lie_once(place: Behind) -> None:
    plan = make_plan()
    others = (
        replace(plan, model=replace(plan.model, weights="other")),
        replace(plan, model=replace(plan.model, untrained_seed=0)),
        replace(plan, compute=replace(plan.compute, dtype="bfloat16")),
        replace(plan, compute=replace(plan.compute, quantization="nf4")),
        replace(plan, context=9, prefixes=(9,)),  # the same model
    )
    found = [commit_head(place.objects, one, content(softcap=2.0)) for one in (plan, *others)]
    assert len(set(found)) == 1
    assert len({head_directories(place.objects, one) for one in (plan, *others)}) == 5
    assert commit_head(place.objects, others[0], content(seed=1)) != found[0]
    first = open_head(place.objects, others[0])
    assert first is not None
    assert first.steps.softcap == 2.0  # the first one stays


def test_a_stranger_reads_the_matrix_with_zarr(tmp_path: Path) -> None:
    root = create_store(tmp_path / "s").path
    kept = content("float32", bias=True)
    name = commit_head(objects_at(root), make_plan(), kept)
    group = zarr.open_group(objects_dir(root / "matrices" / name) / "matrix.zarr", mode="r")
    for array, values in kept.matrix.arrays.items():
        found = array_in(group, array)
        np.testing.assert_array_equal(found[...], values)
        assert found.attrs["lpp"] == {"matrix": array, "dtype": "float32"}


def test_a_head_of_other_rows_is_a_bug_of_the_caller(tmp_path: Path) -> None:
    root = objects_at(create_store(tmp_path / "s").path)
    plan = make_plan()
    wider = replace(plan, model=replace(plan.model, logits_width=54))
    with pytest.raises(ValueError, match="53 rows, the logits have 54"):
        commit_head(root, wider, content())
    assert not (tmp_path / "s/matrices").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("softcap", "1e999", "softcap is '1e999'"),
        ("scale", "0", "scale is '0'"),
        ("divisor", "nan", "divisor is 'nan'"),
        ("matrix", "../../runs", "is no name of a matrix"),
        ("rows", 54, "has another dtype or shape"),
        ("width", 0, "53 rows of 0 columns"),
        ("model", {**MODEL, "weights": "another"}, "it is the head of another model"),
    ],
)
def test_a_record_of_a_careless_writer_is_refused_and_removed(
    field: str, value: Any, message: str, tmp_path: Path
) -> None:
    root = on_disk(create_store(tmp_path / "s").path)
    commit_head(objects_at(root), make_plan(), content())
    (directory,) = (root / "heads").iterdir()
    reseal(directory, lambda record: record.update({field: value}))
    (problem,) = verify_shared(root)
    assert problem.where == f"heads/{directory.name}"
    assert message in problem.what
    with pytest.raises(FormatError, match="lpp-capture repair"):
        open_head(objects_at(root), make_plan())
    assert remove_damaged(root) == [problem]
    assert open_head(objects_at(root), make_plan()) is None


def test_a_head_whose_matrix_is_missing_is_none_and_a_problem(tmp_path: Path) -> None:
    root = on_disk(create_store(tmp_path / "s").path)
    name = commit_head(objects_at(root), make_plan(), content())
    shutil.rmtree(root / "matrices")
    assert open_head(objects_at(root), make_plan()) is None
    (problem,) = verify_shared(root)
    assert f"its matrix matrices/{name} is missing" in str(problem)


def test_values_that_are_not_those_of_the_name_are_found(tmp_path: Path) -> None:
    root = on_disk(create_store(tmp_path / "s").path)
    names = [commit_head(objects_at(root), make_plan(), content(seed=k)) for k in range(2)]
    first, second = (root / "matrices" / name for name in names)
    shutil.rmtree(objects_dir(first) / "matrix.zarr")
    shutil.copytree(objects_dir(second) / "matrix.zarr", objects_dir(first) / "matrix.zarr")
    reseal(first)
    assert [problem.where for problem in verify_shared(root)] == [f"matrices/{names[0]}"]
    shutil.rmtree(first)
    shutil.copytree(second, first)
    (problem,) = verify_shared(root)
    assert "not its name" in problem.what


# the proof


@pytest.fixture
def proven(root: Path) -> Run:
    """A run of three shards whose columns are those of a head."""
    rows = np.random.default_rng(5).integers(-3, 4, (21, WIDTH)).astype(np.float32)
    made = make_capture(hidden={"final": bits(rows)})
    head = content(softcap=12.0)
    entropy, log_z = reference(Head(head).logits(rows))
    tokens = made.tokens
    for name, values in (
        ("entropy", entropy),
        ("log_z", log_z),
        ("top1_id", Head(head).logits(rows).argmax(1)),
    ):
        field = tokens.schema.field(name)
        column = tokens.schema.get_field_index(name)
        tokens = tokens.set_column(column, field, pa.array(values, field.type))
    run: Run = replace(made, tokens=tokens).write(root)
    commit_head(objects_at(root), run.plan, head)
    return run


def other(run: Run, kept: HeadContent) -> Run:
    """The same run with another head."""
    root = run.path.parent.parent
    shutil.rmtree(root / "heads")  # type: ignore[arg-type]
    commit_head(objects_at(root), run.plan, kept)
    return open_store(root).runs[run.id]


def test_the_columns_are_recomputed_at_some_tokens_of_every_shard(proven: Run) -> None:
    check = check_logits(proven)
    assert check is not None
    assert (check.tokens, check.problem) == (21, "")
    assert max(check.entropy, check.log_z) < 1e-5
    assert logits_problems(proven, check) == []
    few = check_logits(proven, tokens=4)
    assert few is not None
    assert few.tokens == 4


@pytest.mark.parametrize(
    ("kept", "what"),
    [
        (content(softcap=12.5), "entropy from final differs"),
        (content(), "entropy from final differs"),
        (content(softcap=12.0, seed=1), "entropy from final differs"),
        (
            replace(
                content(softcap=12.0),
                matrix=Matrix(dtype="bfloat16", weight=np.roll(content().matrix.weight, 1, axis=0)),
            ),
            "the logit of the most likely token from final differs",
        ),
    ],
)
def test_a_wrong_head_is_found(kept: HeadContent, what: str, proven: Run) -> None:
    run = other(proven, kept)
    check = check_logits(run)
    assert check is not None
    assert check.problem.startswith(what)
    (problem,) = logits_problems(run, check)
    head = run.head()
    assert head is not None
    assert problem.where == f"heads/{head.name}"
    assert f"not the head of run {run.id}" in problem.what


def test_a_matrix_of_another_width_is_found(proven: Run) -> None:
    narrow = Matrix(dtype="bfloat16", weight=np.zeros((VOCABULARY, 3), np.uint16))
    check = check_logits(other(proven, HeadContent(matrix=narrow)))
    assert check is not None
    assert check.problem == "its matrix has 3 columns, final has 4"


def test_a_unit_in_the_last_place_of_some_tokens_is_no_problem(proven: Run) -> None:
    """As where a kernel rounds a product on an edge the other way."""
    head = content(softcap=12.0)
    rows = np.concatenate(list(proven.hidden("final")))
    logits = Head(head).logits(rows)
    nudged = logits.copy()
    nudged[::3] *= 1 + EPSILON["bfloat16"]
    bound = Head(head).error_bound(logits)
    for made, want, factor in zip(
        entropy_and_log_z(nudged),
        entropy_and_log_z(logits),
        (entropy_factor(VOCABULARY), 1),
        strict=True,
    ):
        assert (np.abs(made - want) <= bound * factor).all()


def test_runs_without_a_head_or_without_final_have_no_check(tmp_path: Path) -> None:
    run = make_capture().write(tmp_path / "a")
    assert run.head() is None
    assert check_logits(run) is None
    blocks = make_capture(hidden={"block.1": np.zeros((21, 4), np.uint16)}).write(tmp_path / "b")
    commit_head(objects_at(tmp_path / "b"), blocks.plan, content())
    assert blocks.head() is not None
    assert check_logits(blocks) is None
