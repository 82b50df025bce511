"""Objects are read, on a disk and in buckets. The code under test did not put them there."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from places import Behind, BucketPlace, part, recorded

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.objects.protocol import Entry, Objects

ODD = (
    *("with space", "quote'\"", "100%", "100%25", "[a-z]*?.x", "{a}", "a#b", "a+b&c=d;e,f", "~"),
    *("日本/é", "a:b|c<d>^`", "..twice", "trailing.", "=1+1"),
)
"""Keys that a store may hold, and that a careless client would escape, expand or cut."""


class TestReading:
    """Objects that others wrote."""

    def test_what_is_not_there(self, place: Behind, objects: Objects) -> None:
        for some in (objects, objects.below("deeper")):
            assert not some.exists("a/b")
            assert some.entries() == some.entries("a") == []
            assert list(some.walk()) == list(some.walk("a")) == []
        for there in ((), ("a/bb", "b")):
            for key in there:
                place.put(key, b"x")
            for call in self.reading(objects):
                with pytest.raises(FileNotFoundError):
                    call()
            with pytest.raises(FileNotFoundError):
                objects.get_version("a/b", 9)

    def test_a_folder_is_no_object(self, place: Behind, objects: Objects) -> None:
        place.put("a/b/c", b"x")
        for call in self.reading(objects):
            # on a disk something bears the name, which is not the same as nothing
            with pytest.raises(FormatError if objects.is_local else FileNotFoundError):
                call()

    @staticmethod
    def reading(objects: Objects) -> tuple[Callable[[], Any], ...]:
        return (
            lambda: objects.stat("a/b"),
            lambda: objects.get("a/b", 9),
            lambda: part(objects, "a/b", 0, 1),
            lambda: part(objects, "a/b", 0, 1, ahead=range(1), size=1),
            lambda: objects.file("a/b", recorded(b"x")),
            lambda: objects.local("a/b"),
            lambda: objects.open_compared("a/b", recorded(b"x")).__enter__(),
        )

    def test_existence(self, place: Behind, objects: Objects) -> None:
        place.put("a/b/c", b"")
        place.put("a/bb", b"1")
        assert objects.exists("a/b/c")
        assert objects.exists("a/b")  # something bears the name
        assert objects.exists("a")
        assert objects.exists("")
        assert not objects.exists("a/b/d")
        assert not objects.exists("a/b/cc")
        assert not objects.exists("b")
        assert objects.below("a").exists("bb")
        assert objects.below("a").below("b").exists("c")

    def test_size_and_time(self, place: Behind, objects: Objects) -> None:
        place.put("a/b", b"12345")
        found = objects.stat("a/b")
        assert found.size == 5
        assert found.modified == place.written("a/b")
        assert abs(found.modified - time.time()) < 60

    def test_entries_are_what_lies_right_there(self, place: Behind, objects: Objects) -> None:
        for key in ("b/1", "b/2/3", "a", "ab/x", ".hidden", "Z", "c-d"):
            place.put(key, b"x")
        names = [(".hidden", 0), ("Z", 0), ("a", 0), ("ab", 1), ("b", 1), ("c-d", 0)]
        assert objects.entries() == [Entry(name=n, is_folder=bool(f)) for n, f in names]
        assert objects.entries("b") == objects.below("b").entries()
        assert [(e.name, e.is_folder) for e in objects.entries("b")] == [("1", False), ("2", True)]
        assert objects.entries("b/2") == [Entry(name="3", is_folder=False)]
        assert objects.entries("bb") == []

    def test_walk_is_everything_below_in_order(self, place: Behind, objects: Objects) -> None:
        keys = ["a", "b-c", "b/1", "b/2/3", "b0", "bb/x"]  # "-" < "/" < "0"
        for key in reversed(keys):
            place.put(key, b"x")
        assert list(objects.walk()) == keys
        assert list(objects.walk("b")) == ["b/1", "b/2/3"]
        assert list(objects.below("b").walk()) == ["1", "2/3"]
        assert list(objects.below("b").walk("2")) == ["2/3"]

    @pytest.mark.slow
    def test_more_than_one_page_of_objects(self, place: Behind, objects: Objects) -> None:
        if isinstance(place, BucketPlace):
            place.s3.fill([f"{place.BASE}many/{n:04d}" for n in range(1003)])
        else:
            for n in range(1003):
                place.put(f"many/{n:04d}", b"")
        assert list(objects.walk("many")) == [f"many/{n:04d}" for n in range(1003)]
        assert len(objects.entries("many")) == 1003
        objects.delete(f"many/{n:04d}" for n in range(1002))
        assert list(place.held()) == ["many/1002"]

    def test_small_objects_are_bounded(self, place: Behind, objects: Objects) -> None:
        place.put("a/b", b"12345")
        place.put("empty", b"")
        assert objects.get("a/b", 5) == objects.below("a").get("b", 1 << 40) == b"12345"
        assert objects.get("empty", 0) == b""
        with pytest.raises(FormatError, match="more than 4 bytes, which no b needs") as caught:
            objects.get("a/b", 4)
        assert caught.value.kind is ErrorKind.CORRUPT
        assert str(objects.place) in str(caught.value)

    def test_ranges(self, place: Behind, objects: Objects) -> None:
        place.put("x", b"0123456789")
        for how in ({}, {"size": 10}, {"ahead": range(2, 7)}, {"ahead": range(10), "size": 10}):
            with objects.open("x", **how) as source:
                for start, end in ((2, 7), (3, 4), (0, 10), (1, 7), (2, 9), (9, 10), (5, 5)):
                    buffer = bytearray(end - start)
                    source.read_into(memoryview(buffer), start)
                    assert bytes(buffer) == b"0123456789"[start:end], how
                assert source.size == 10

    def test_ranges_that_an_object_does_not_have(self, place: Behind, objects: Objects) -> None:
        place.put("x", b"0123456789")
        for start, end in ((8, 12), (10, 11), (20, 30)):
            for how in ({}, {"ahead": range(start, end)}, {"ahead": range(start, end), "size": 40}):
                with pytest.raises(EOFError, match="it ends"):
                    part(objects, "x", start, end, **how)

    def test_objects_that_are_compared(self, place: Behind, objects: Objects) -> None:
        place.put("a/x", b"0123456789")
        right = recorded(b"0123456789")
        with objects.open_compared("a/x", right) as source:
            buffer = bytearray(4)
            source.read_into(memoryview(buffer), 3)
            assert (bytes(buffer), source.size) == (b"3456", 10)
        assert objects.file("a/x", right).read_bytes() == b"0123456789"
        for wrong in (b"0123456780", b"012345678", b"01234567890", b""):
            with pytest.raises(ValueError, match="altered or cut short"):
                objects.file("a/x", recorded(wrong))
            with (
                pytest.raises(ValueError, match="altered or cut short"),
                objects.open_compared("a/x", recorded(wrong)),
            ):
                pass

    def test_files_of_this_machine(self, place: Behind, objects: Objects) -> None:
        place.put("a/x", b"old")
        was = objects.below("a").local("x")
        with was.open("rb") as reader:
            assert objects.local("a/x").read_bytes() == b"old"
            place.remove("a/x")
            place.put("a/x", b"newer")
            assert objects.local("a/x").read_bytes() == b"newer"
            assert reader.read() == b"old"  # whoever reads a copy keeps its bytes

    def test_odd_keys(self, place: Behind, objects: Objects) -> None:
        for number, key in enumerate(ODD):
            data = str(number).encode()
            place.put(f"theirs/{key}/end", data)
            assert objects.get(f"theirs/{key}/end", 9) == data
            assert objects.below("theirs").below(key).stat("end").size == len(data)
            assert objects.local(f"theirs/{key}/end").read_bytes() == data
            objects.write(f"ours/{key}", [data])
            assert place.held()[f"ours/{key}"] == data
        assert {
            key.removeprefix("theirs/").removesuffix("/end") for key in objects.walk("theirs")
        } == {*ODD}
        assert {entry.name for entry in objects.entries("ours")} == {
            key.partition("/")[0] for key in ODD
        }
        objects.delete(f"ours/{key}" for key in ODD)
        assert all(key.startswith("theirs/") for key in place.held())
        for key in ODD:
            objects.delete_below(f"theirs/{key}")
        assert place.held() == {}
