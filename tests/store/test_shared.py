"""What runs share: one directory for each name, whole or absent, on a disk as in a bucket."""

import json
import threading
from typing import Any

import pytest
from places import BUCKET, Behind, place_of, strays
from sealed import seal

from lpp.store import create_store
from lpp.store.committed.commit import Attempt
from lpp.store.committed.compare import verify_each
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import MatrixRecord
from lpp.store.shared.directory import SharedDirectory
from lpp.store.shared.matrices import MATRICES
from lpp.store.shared.verify import remove_damaged, verify_shared

NAME = "00112233445566aa"
KEY = f"matrices/{NAME}"
RECORD = f"{KEY}/COMMIT.json"


@pytest.fixture(params=["disk", BUCKET])
def place(request: pytest.FixtureRequest) -> Behind:
    """A store with nothing in it."""
    found = place_of(request.param, request)
    create_store(found.url)
    return found


def commit(place: Behind, data: bytes = b"values", rows: int = 3) -> bool:
    def write(stage: Attempt) -> None:
        stage.write("a/b", [data])

    record = MatrixRecord(dtype="float32", rows=rows, width=2, content="c0ffee", objects={})
    return MATRICES.commit(place.objects, NAME, record, write)


def opened(place: Behind) -> SharedDirectory[MatrixRecord] | None:
    return MATRICES.open(place.objects, NAME)


def object_key(place: Behind) -> str:
    return next(key for key in place.held() if key.endswith("/a/b"))


def test_the_first_one_stays(place: Behind) -> None:
    assert opened(place) is None
    assert not MATRICES.holds(place.objects, NAME)
    assert commit(place)
    before = place.held()
    assert not commit(place, b"other", rows=4)
    assert place.held() == before
    found = opened(place)
    assert found is not None
    assert (found.record.rows, found.document("a/b")) == (3, b"values")
    (verified,) = verify_each(place.objects, "matrices", MatrixRecord)
    assert verified[1] == []
    assert strays(place.held()) == set()


def test_of_many_writers_at_once_one_wins(place: Behind) -> None:
    gate, won = threading.Barrier(4), []

    def write(number: int) -> None:
        gate.wait()
        if commit(place, b"%d" % number, rows=number):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = opened(place)
    assert found is not None
    assert won == [found.record.rows]
    assert found.document("a/b") == b"%d" % won[0]
    assert strays(place.held()) == set()


def damage_record(place: Behind) -> str:
    data = place.held()[RECORD]
    place.put(RECORD, data.replace(b"c0ffee", b"c0ffef"))
    return "altered since it was written"


def damage_object(place: Behind) -> str:
    place.put(object_key(place), b"valuez")
    return "altered: its checksum does not match"


def remove_object(place: Behind) -> str:
    place.remove(object_key(place))
    return "not readable"


@pytest.mark.parametrize("damage", [damage_record, damage_object, remove_object])
def test_damage_is_told_with_its_place_and_removed(place: Behind, damage: Any) -> None:
    commit(place)
    what = damage(place)
    (problem,) = verify_shared(place.url)
    assert problem.where.startswith(f"{KEY}/")
    assert what in problem.what
    assert remove_damaged(place.url, dry_run=True) == [problem]
    assert any(key.startswith(KEY) for key in place.held())
    assert remove_damaged(place.url) == [problem]
    assert set(place.held()) == {"lpp.json"}
    assert verify_shared(place.url) == []
    assert commit(place)


def test_an_altered_byte_is_refused_with_the_next_command(place: Behind) -> None:
    commit(place)
    damage_object(place)
    found = opened(place)
    assert found is not None
    with pytest.raises(FormatError, match=r"a/b: altered.*lpp-capture repair.*lpp-capture run"):
        found.document("a/b")
    damage_record(place)
    with pytest.raises(FormatError, match=r"COMMIT\.json: altered.*lpp-capture repair") as caught:
        opened(place)
    assert caught.value.kind is ErrorKind.CORRUPT


def test_a_damaged_record_is_replaced(place: Behind) -> None:
    commit(place)
    damage_record(place)
    assert not MATRICES.holds(place.objects, NAME)
    assert commit(place, b"again", rows=5)
    found = opened(place)
    assert found is not None
    assert found.document("a/b") == b"again"
    assert strays(place.held()) == set()


def test_what_a_newer_release_wrote_stays(place: Behind) -> None:
    commit(place)
    record = json.loads(place.held()[RECORD]) | {"format": 6}
    place.put(RECORD, seal(record))
    with pytest.raises(FormatError, match="Install a newer") as caught:
        opened(place)
    assert caught.value.kind is ErrorKind.UNSUPPORTED_VERSION
    with pytest.raises(FormatError, match="Install a newer"):
        commit(place)
    before = place.held()
    (problem,) = verify_shared(place.url)
    assert "store format 6" in problem.what
    assert remove_damaged(place.url) == []
    assert place.held() == before


def test_what_a_killed_writer_left_is_no_problem(place: Behind) -> None:
    place.put(f"{KEY}/0123456789abcdef/a/b", b"half")
    assert opened(place) is None
    assert verify_shared(place.url) == []
    assert commit(place)
    assert strays(place.held()) == set()
