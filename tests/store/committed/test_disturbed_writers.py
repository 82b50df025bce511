"""Writers of a shard that are killed, fail, are suspended or interrupted, at any step."""

import errno
from typing import Any

import pytest
from disturbed_writers import (
    REFUSED,
    EachStep,
    between,
    failing,
    killed,
    record_key,
    undisturbed,
    undo,
    whole,
    write,
)
from places import Behind, BucketPlace, committed, place_of, strays
from small_capture import Capture

from lpp.store import RunWriter, open_store
from lpp.store.errors import ConflictError, ErrorKind, LppError, MachineError
from lpp.store.runs.write import sweep_run


@pytest.mark.slow
def test_a_writer_that_is_killed_before_any_step_loses_nothing(
    place: Behind, capture: Capture, expected: dict[str, Any], each_step: EachStep
) -> None:
    capture.write(place.url, shards=(0,))

    def kill(number: int) -> bool:
        with killed(place, number) as reached:
            write(place, capture)
        whole(place, expected)
        others = {key for key in expected if "shards/00001" not in key}
        assert set(committed(place.held())) >= others
        if record_key(capture) in place.held():
            sweep_run(open_store(place.url).runs[capture.plan.run_id])
        write(place, capture)  # sweeps what was left
        undisturbed(place, expected)
        undo(place, capture)
        return bool(reached)

    assert each_step(kill) > 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "code"),
    [("disk", errno.ENOSPC), ("disk", errno.EIO), ("bucket", 403)],
    indirect=["place"],
)
def test_a_step_that_fails_is_one_line_and_the_same_command_resumes(
    place: Behind, code: int, capture: Capture, expected: dict[str, Any], each_step: EachStep
) -> None:
    capture.write(place.url, shards=(0,))
    refused: list[str] = []

    def fail(number: int) -> bool:
        with failing(place, number, code) as reached:
            try:
                write(place, capture)
            except MachineError as error:
                refused.append(str(error))
        whole(place, expected)
        write(place, capture)
        assert committed(place.held()) == expected
        sweep_run(open_store(place.url).runs[capture.plan.run_id])
        assert strays(place.held()) == set()
        undo(place, capture)
        return bool(reached)

    each_step(fail)
    assert len(refused) > 3
    for message in refused:
        assert "\n" not in message
        assert "same command" in message


@pytest.mark.slow
@pytest.mark.parametrize("place", ["bucket"], indirect=True)
def test_an_answer_that_is_lost_with_the_writer_loses_nothing(
    place: Behind, capture: Capture, expected: dict[str, Any], each_step: EachStep
) -> None:
    """Whoever does not learn whether its record is there removes none of its objects."""
    capture.write(place.url, shards=(0,))

    def lose(number: int) -> bool:
        with killed(place, number, lost=True) as reached:
            write(place, capture)
        whole(place, expected)
        write(place, capture)
        assert committed(place.held()) == expected
        undo(place, capture)
        return bool(reached)

    assert each_step(lose) > 4


@pytest.mark.slow
def test_a_writer_that_is_suspended_at_any_step_while_another_commits_loses(
    place: Behind, capture: Capture, expected: dict[str, Any], each_step: EachStep
) -> None:
    capture.write(place.url, shards=(0,))
    won = []

    def suspend(number: int) -> bool:
        others: list[RunWriter] = []
        with between(place, number, lambda: others.append(write(place, capture))) as reached:
            mine = write(place, capture)
        undisturbed(place, expected)
        for other in others:
            assert sorted([*mine.written, *other.written]) == [1]
            assert sorted([*mine.lost_race, *other.lost_race]) == [1]
        won.append(bool(mine.written))
        undo(place, capture)
        return bool(reached)

    each_step(suspend)
    assert not won[0]
    assert won[-1]
    assert won == sorted(won)  # lost whenever it is suspended before its record is there


@pytest.mark.slow
def test_a_shard_that_is_removed_under_the_hands_of_its_writer(
    place: Behind, capture: Capture, expected: dict[str, Any], each_step: EachStep
) -> None:
    """Another commits it, and then everything of it is removed: a record never lacks an object."""
    capture.write(place.url, shards=(0,))

    def vanish() -> None:
        write(place, capture)
        undo(place, capture)

    refused: list[str] = []

    def suspend(number: int) -> bool:
        with between(place, number, vanish) as reached:
            try:
                write(place, capture)
            except ConflictError as error:
                refused.append(str(error))
        whole(place, expected)
        write(place, capture)
        assert committed(place.held()) == expected
        undo(place, capture)
        return bool(reached)

    each_step(suspend)
    assert refused
    assert all("was removed" in message for message in refused)  # "removed" is in the path


@pytest.mark.parametrize("keep", ["last", "between"])
def test_an_interrupt_right_after_the_record_keeps_its_objects(
    place: Behind,
    keep: str,
    capture: Capture,
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C and a failing flush come when the record is there already."""
    capture.write(place.url, shards=(0,))
    writer = RunWriter(place.url, capture.plan, capture.prompts)
    kind = type(place.objects)
    real = kind.put_new

    def interrupted(self: Any, key: str, data: bytes) -> bool:
        real(self, key, data)
        raise KeyboardInterrupt if keep == "last" else MachineError("x", kind=ErrorKind.DISK_FAILED)

    monkeypatch.setattr(kind, "put_new", interrupted)
    with pytest.raises((KeyboardInterrupt, MachineError)):
        writer.write_shard(1, *capture.shard(1))
    assert committed(place.held()) == expected


@pytest.mark.slow
def test_every_error_is_one_line(request: pytest.FixtureRequest, capture: Capture) -> None:
    place = place_of("bucket", request)
    assert isinstance(place, BucketPlace)
    capture.write(place.url, shards=(0,))
    place.proxy.rule = lambda method, _key: REFUSED if method == "PUT" else None
    with pytest.raises(LppError) as caught:
        write(place, capture)
    assert "\n" not in str(caught.value)
