"""Scores that are there twice, and units that do not go together."""

from dataclasses import replace
from typing import Any

import pytest

from lpp.analyze.scores.score_rows import (
    Score,
    Unit,
    check_once,
    check_storable,
    check_units,
)
from lpp.store.errors import InputError


def scores(*values: float, benchmark: str = "BBH") -> list[Score]:
    return [
        Score(model=f"m{k}", benchmark=benchmark, metric="acc", value=value, where=f"row {k}")
        for k, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    "changes",
    [{name: "a\ud800"} for name in ("model", "benchmark", "metric")]
    + [{"n": n} for n in (-1, 1 << 31, 10**30)],
)
def test_what_no_table_can_hold_is_refused_with_its_place(changes: dict[str, Any]) -> None:
    one, other = scores(0.5, 0.25)
    check_storable([replace(one, n=0), replace(other, n=(1 << 31) - 1)])
    with pytest.raises(InputError, match="row 1: ") as refused:
        check_storable([one, replace(other, **changes)])
    assert "row 0" not in str(refused.value)
    str(refused.value).encode()


def test_twice_names_both_places() -> None:
    one, other = scores(0.5, 0.25)
    twin = Score(model="m0", benchmark="BBH", metric="acc", value=0.75, where="row 9")
    check_once([one, other])
    with pytest.raises(InputError, match=r"BBH \(acc\) of m0 .* 0\.5 at row 0, 0\.75 at row 9"):
        check_once([one, other, twin])


def test_percent_beside_fraction_is_a_mixture() -> None:
    with pytest.raises(InputError, match=r"BBH \(acc\) mixes .* 0\.34 at row 1, 34 at row 0") as e:
        check_units(scores(34.0, 0.34, 0.0), "auto")
    assert "--unit percent" in str(e.value)


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ((0.0, 0.5, 1.0), "auto"),
        ((0.0, 1.0, 34.0, 99.0), "auto"),
        ((0.34, 34.0), "percent"),
        ((0.34, 34.0, -7.0, 900.0), "other"),
        ((0.0, 1.0), "fraction"),
    ],
)
def test_one_unit_passes(values: tuple[float, ...], unit: Unit) -> None:
    check_units(scores(*values), unit)


def test_each_benchmark_has_a_unit_of_its_own() -> None:
    check_units([*scores(34.0, 45.0), *scores(0.3, 0.4, benchmark="AR")], "auto")


@pytest.mark.parametrize(
    ("values", "unit"), [((101.0,), "percent"), ((-1.0,), "percent"), ((1.5,), "fraction")]
)
def test_what_a_stated_unit_excludes(values: tuple[float, ...], unit: Unit) -> None:
    with pytest.raises(InputError, match=f"no {unit}, at row 0"):
        check_units(scores(*values), unit)
