"""Parts of a run: who takes which shard, as the user or Slurm says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpp.capture.plan.parts import WHOLE, Part, parse_part, slurm_part
from lpp.store.errors import ErrorKind, InputError


@given(count=st.integers(1, 9), shards=st.integers(0, 40))
def test_parts_share_no_shard_and_leave_none(count: int, shards: int) -> None:
    dealt = [list(Part(k, count).shards(shards)) for k in range(count)]
    assert sorted(k for part in dealt for k in part) == list(range(shards))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_one_part_of_one_is_the_whole() -> None:
    assert list(WHOLE.shards(4)) == [0, 1, 2, 3]
    assert parse_part("0/1", {}) == WHOLE
    assert parse_part("2/8", {}) == Part(2, 8)
    assert str(Part(2, 8)) == "2/8"


@pytest.mark.parametrize("text", ["8/8", "2", "-1/4", "1/0", "a/b", "1/2/3", "", "1.0/2", "slurms"])
def test_what_is_no_part_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InputError, match="K from 0 to N - 1") as caught:
        parse_part(text, {})
    assert caught.value.kind is ErrorKind.INVALID_VALUE


def step(rank: int, tasks: int) -> dict[str, str]:
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_NTASKS": str(tasks),
    }


def array(identity: int, first: int, last: int, count: int) -> dict[str, str]:
    names = ("ID", "MIN", "MAX", "COUNT")
    values = (identity, first, last, count)
    return {f"SLURM_ARRAY_TASK_{n}": str(v) for n, v in zip(names, values, strict=True)}


def test_a_task_of_srun_is_its_rank() -> None:
    assert parse_part("slurm", step(3, 8)) == Part(3, 8)


@pytest.mark.parametrize(
    ("element", "part"),
    [
        (array(0, 0, 7, 8), Part(0, 8)),
        (array(8, 1, 8, 8), Part(7, 8)),  # counted from 1
        (array(14, 10, 18, 3), Part(1, 3)),  # --array=10-18:4
        (array(5, 5, 5, 1), Part(0, 1)),
    ],
)
def test_an_element_of_an_array_is_its_place(element: dict[str, str], part: Part) -> None:
    assert slurm_part(element) == part
    assert slurm_part(element | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) == part


def test_tasks_within_an_array_are_numbered_through() -> None:
    parts = [slurm_part(array(a, 1, 2, 2) | step(r, 3)) for a in (1, 2) for r in range(3)]
    assert parts == [Part(k, 6) for k in range(6)]


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "srun or sbatch --array"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, "Put srun before"),
        (array(4, 1, 9, 3), "not evenly spaced"),  # --array=1,4,9
        ({"SLURM_ARRAY_TASK_ID": "4"}, "SLURM_ARRAY_TASK_MIN is ''"),
        (step(0, 2) | {"SLURM_PROCID": "x"}, "SLURM_PROCID is 'x'"),
    ],
)
def test_where_slurm_says_nothing_certain_it_is_refused(
    environment: dict[str, str], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        parse_part("slurm", environment)
