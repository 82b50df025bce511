"""Objects are written and deleted, on a disk and in buckets. Other code looks what is there."""

import os
import pickle
import time

import pytest
from ended_owner import ended_name
from places import Behind, DiskPlace

from lpp.store.objects.owners import staged_name
from lpp.store.objects.protocol import Objects


class TestWriting:
    """Objects that others find."""

    def test_objects_of_several_parts(self, place: Behind, objects: Objects) -> None:
        objects.write("a/b/c", [b"12", memoryview(b"345"), bytearray(b"")])
        objects.below("a").write("d", [])
        objects.flush(["a/b/c", "a/d"])
        assert place.held() == {"a/b/c": b"12345", "a/d": b""}

    def test_an_object_is_put_over_whatever_is_there(self, place: Behind, objects: Objects) -> None:
        place.put("a/b", b"old and longer")
        objects.put("a/b", b"new")
        objects.put("a/c", b"other")
        assert place.held() == {"a/b": b"new", "a/c": b"other"}

    def test_files_are_put(self, place: Behind, objects: Objects) -> None:
        place.put("a/b", b"old")
        for key in ("a/b", "a/deeper/c"):
            with objects.scratch() as folder:
                (folder / "made").write_bytes(b"made")
                objects.put_file(key, folder / "made")
                (folder / "left").write_bytes(b"left")
            assert not folder.exists()
        assert place.held() == {"a/b": b"made", "a/deeper/c": b"made"}

    def test_a_scratch_folder_goes_when_its_block_fails(
        self, place: Behind, objects: Objects
    ) -> None:
        def fail() -> None:
            with objects.below("a").scratch() as folder:
                (folder / "left").write_bytes(b"left")
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert place.held() == {}

    def test_touch_makes_an_object_look_new(self, place: Behind, objects: Objects) -> None:
        place.put("a/b", b"same")
        if isinstance(place, DiskPlace):
            os.utime(place.root / "a" / "b", (5, 5))
            before = 5.0
        else:
            before = place.written("a/b")
            time.sleep(1.1)  # S3 tells whole seconds
        objects.touch("a/b", b"same")
        assert place.written("a/b") > before
        assert place.held() == {"a/b": b"same"}

    def test_what_is_deleted_is_gone(self, place: Behind, objects: Objects) -> None:
        for key in ("a/b", "a/c", "a/d/e", "x"):
            place.put(key, b"1")
        objects.delete(["a/b", "never/there", "a/d/e"])
        objects.delete([])
        objects.below("a").delete(["d/e", "x"])
        assert place.held() == {"a/c": b"1", "x": b"1"}
        assert [entry.name for entry in objects.entries("a")] == ["c"]  # no empty folder stays
        objects.delete(["a/c"])
        assert [entry.name for entry in objects.entries()] == ["x"]

    def test_a_folder_is_deleted_whole(self, place: Behind, objects: Objects) -> None:
        for key in ("a/b/1", "a/b/2/3", "a/bb", "b"):
            place.put(key, b"1")
        objects.delete_below("never")
        objects.delete_below("a/b")
        assert place.held() == {"a/bb": b"1", "b": b"1"}
        objects.below("a").delete_below("")
        assert place.held() == {"b": b"1"}
        assert [entry.name for entry in objects.entries()] == ["b"]

    def test_what_ended_processes_left_is_swept(self, place: Behind, objects: Objects) -> None:
        gone, mine = ended_name("x"), staged_name("x")
        for name in (gone, mine, "x", ".other", "deeper/" + gone):
            place.put(f"a/{name}", b"1")
        objects.below("a").sweep()
        assert set(place.held()) == {f"a/{n}" for n in (mine, "x", ".other", "deeper/" + gone)}

    def test_any_number_of_calls_side_by_side(self, objects: Objects) -> None:
        assert objects.map(lambda n: n * n, range(40)) == [n * n for n in range(40)]
        with pytest.raises(ZeroDivisionError):
            objects.map(lambda n: 1 // n, [1, 0])

    def test_it_travels_to_another_process(self, place: Behind, objects: Objects) -> None:
        place.put("a/b", b"1")
        twin = pickle.loads(pickle.dumps(objects.below("a")))
        assert (twin.get("b", 1), twin.place, twin.root) == (
            b"1",
            objects.below("a").place,
            objects.place,
        )

    def test_it_says_what_it_is(self, place: Behind, objects: Objects) -> None:
        assert str(objects.place) == str(objects.root) == place.url
        assert str(objects.below("a/b").place) == f"{place.url}/a/b"
        assert str(objects.below("a").root) == place.url
        assert objects.is_local == isinstance(place, DiskPlace)
        assert objects.piece_bytes >= 1 << 20
