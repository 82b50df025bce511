"""Sources of scores are committed as shards are: disturbed at any step."""

import contextlib
import shutil
from typing import Any

import pyarrow as pa
import pytest
from disturbed_writers import EachStep, KilledError, between, killed
from faulty_disk import FaultyDisk
from places import Behind, DiskPlace, committed, strays

from lpp.store import add_scores, create_store, read_scores, remove_scores
from lpp.store.errors import ConflictError, FormatError
from lpp.store.scores.scores import SCORES_SCHEMA, verify_scores


def scores_table(value: float) -> pa.Table:
    row = dict.fromkeys(SCORES_SCHEMA.names) | {"model": "m", "benchmark": "b", "metric": "acc"}
    row |= {"value": value, "source": "mine", "kind": "csv"}
    return pa.Table.from_pylist([row], schema=SCORES_SCHEMA)


def add(place: Behind, value: float, **how: Any) -> None:
    add_scores(place.url, "mine", scores_table(value), {"a/x.csv": str(value).encode()}, **how)


class TestScores:
    """Sources of scores are committed alike."""

    @pytest.fixture(autouse=True)
    def store(self, place: Behind) -> None:
        create_store(place.url)

    @staticmethod
    def values(place: Behind) -> list[float]:
        assert verify_scores(place.url) == []
        committed(place.held())
        found: list[float] = read_scores(place.url)["value"].to_pylist()
        return found

    @staticmethod
    def clear(place: Behind) -> None:
        for key in place.held():
            if key.startswith("benchmarks/"):
                place.remove(key)

    def test_a_writer_that_is_killed_before_any_step(
        self, place: Behind, each_step: EachStep
    ) -> None:
        def kill(number: int) -> bool:
            with killed(place, number) as reached:
                add(place, 0.5)
            assert self.values(place) in ([], [0.5])
            add(place, 0.5)
            assert self.values(place) == [0.5]
            self.clear(place)
            return bool(reached)

        assert each_step(kill) > 2

    @pytest.mark.slow
    def test_a_killed_writer_that_replaces(self, place: Behind, each_step: EachStep) -> None:
        def kill(number: int) -> bool:
            add(place, 0.5)
            with killed(place, number) as reached:
                add(place, 0.25, replace=True)
            assert self.values(place) in ([0.5], [0.25])
            add(place, 0.25, replace=True)
            assert self.values(place) == [0.25]
            self.clear(place)
            return bool(reached)

        assert each_step(kill) > 2

    @pytest.mark.parametrize("place", ["disk"], indirect=True)
    def test_power_cuts_leave_whole_sources_or_none(
        self, place: DiskPlace, each_step: EachStep
    ) -> None:
        def cut(number: int) -> bool:
            shutil.rmtree(place.root)
            create_store(place.url)
            disk = FaultyDisk(place.root)
            disk.settle()

            def stop(kind: str, path: str) -> None:
                disk.steps.append((kind, path))
                if len(disk.steps) >= number:
                    raise KilledError

            disk.step = stop  # type: ignore[method-assign]
            with disk.in_force(), contextlib.suppress(KilledError):
                add(place, 0.5)
            disk.power_cut()
            assert self.values(place) in ([], [0.5])
            add(place, 0.5)
            assert self.values(place) == [0.5]
            return len(disk.steps) >= number

        assert each_step(cut) > 2

    @pytest.mark.slow
    @pytest.mark.parametrize("then", ["", "removed"])
    def test_a_writer_that_is_suspended_at_any_step(
        self, place: Behind, then: str, each_step: EachStep
    ) -> None:
        def other() -> None:
            add(place, 0.5)
            if then:
                remove_scores(place.url, "mine")

        def suspend(number: int) -> bool:
            with between(place, number, other) as reached:
                try:
                    add(place, 0.5)
                except ConflictError:
                    assert then
            assert self.values(place) in ([0.5], *([[]] if then else ()))
            add(place, 0.5)
            assert self.values(place) == [0.5]
            assert strays(place.held()) == set()
            self.clear(place)
            return bool(reached)

        each_step(suspend)

    def test_a_damaged_record_of_scores_is_named(self, place: Behind) -> None:
        add(place, 0.5)
        (key,) = (key for key in place.held() if key.endswith("COMMIT.json"))
        place.put(key, place.held()[key][:-9])
        with pytest.raises(FormatError, match="Remove that directory, then add"):
            add(place, 0.5)
