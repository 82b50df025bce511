"""One contract for every place that holds objects: each call of the protocol, on a disk and in a
bucket. What is there is set up and looked at without the code under test.
"""

import errno
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import xxhash
from places import Behind, BucketPlace, DiskPlace, place_of
from s3_server import S3

from lpp.store.errors import ErrorKind, FormatError, LppError, MachineError
from lpp.store.format.commit_record import ObjectRecord
from lpp.store.objects.disk import DiskObjects
from lpp.store.objects.locate import objects_at
from lpp.store.objects.owners import staged_name
from lpp.store.objects.protocol import Entry, Objects

ODD = (
    *("with space", "quote'\"", "100%", "100%25", "[a-z]*?.x", "{a}", "a#b", "a+b&c=d;e,f", "~"),
    *("日本/é", "a:b|c<d>^`", "..twice", "trailing.", "=1+1"),
)
"""Keys that a store may hold, and that a careless client would escape, expand or cut."""


@pytest.fixture(params=["disk", "bucket", pytest.param("azure", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest) -> Behind:
    return place_of(request.param, request)


@pytest.fixture
def objects(place: Behind) -> Objects:
    return place.objects


def recorded(data: bytes) -> ObjectRecord:
    return ObjectRecord(bytes=len(data), xxh3_128=xxhash.xxh3_128_hexdigest(data))


def ended_name(name: str) -> str:
    """What a process that has ended left beside `name`."""
    code = f"from lpp.store.objects.owners import staged_name; print(staged_name({name!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def part(objects: Objects, key: str, start: int, end: int, **how: Any) -> bytes:
    buffer = bytearray(end - start)
    with objects.open(key, **how) as source:
        source.read_into(memoryview(buffer), start)
    return bytes(buffer)


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


WRITER = """
import json, os, sys, time
from lpp.store.objects.locate import objects_at

url, writers, keys = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
start = time.monotonic() + 0.3
for writer in range(writers):
    if not os.fork():
        objects = objects_at(url)
        objects.exists("warm")
        time.sleep(max(0, start - time.monotonic()))
        won = [objects.put_new(f"key-{k}", f"{writer} {k}".encode()) for k in range(keys)]
        os.write(1, (json.dumps([writer, won]) + "\\n").encode())  # in one piece
        os._exit(0)
codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(writers)]
sys.exit(max(map(abs, codes)))
"""


class TestExclusive:
    """The two calls that decide between writers."""

    def test_a_new_object_is_put_once(self, place: Behind, objects: Objects) -> None:
        assert objects.put_new("a/b", b"first")
        assert not objects.put_new("a/b", b"second")
        assert not objects.below("a").put_new("b", b"third")
        assert place.held() == {"a/b": b"first"}
        place.put("c", b"theirs")
        assert not objects.put_new("c", b"ours")
        assert place.held()["c"] == b"theirs"
        place.remove("c")
        assert objects.put_new("c", b"ours")
        assert place.held() == {"a/b": b"first", "c": b"ours"}

    @pytest.mark.parametrize("writers", [2, 4, 8])
    def test_one_of_several_threads_puts_a_new_object(
        self, place: Behind, objects: Objects, writers: int
    ) -> None:
        barrier = threading.Barrier(writers)

        def write(writer: int) -> list[bool]:
            won = []
            for k in range(8):
                barrier.wait()
                won.append(objects.put_new(f"folder-{k}/key", f"{writer} {k}".encode()))
            return won

        with ThreadPoolExecutor(writers) as pool:
            won = list(pool.map(write, range(writers)))
        winners = [[w for w in range(writers) if won[w][k]] for k in range(8)]
        assert [len(each) for each in winners] == [1] * 8
        assert place.held() == {
            f"folder-{k}/key": f"{winners[k][0]} {k}".encode() for k in range(8)
        }

    @pytest.mark.parametrize("writers", [2, 4, 8])
    def test_one_of_several_processes_puts_a_new_object(self, place: Behind, writers: int) -> None:
        done = subprocess.run(
            [sys.executable, "-c", WRITER, place.url, str(writers), "10"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        won = dict(json.loads(line) for line in done.stdout.splitlines())
        winners = [[w for w in range(writers) if won[w][k]] for k in range(10)]
        assert [len(each) for each in winners] == [1] * 10
        assert place.held() == {f"key-{k}": f"{winners[k][0]} {k}".encode() for k in range(10)}

    def test_a_version_is_replaced_and_no_other(self, place: Behind, objects: Objects) -> None:
        place.put("a/b", b"one")
        data, version = objects.get_version("a/b", 9)
        assert data == b"one"
        assert objects.put_over("a/b", b"two", version)
        assert place.held() == {"a/b": b"two"}
        assert not objects.put_over("a/b", b"three", version)  # another by now
        assert place.held() == {"a/b": b"two"}
        _, version = objects.below("a").get_version("b", 9)
        place.remove("a/b")
        assert not objects.put_over("a/b", b"three", version)  # gone
        assert place.held() == {}
        place.put("a/b", b"three")
        assert not objects.put_over("a/b", b"four", version)
        assert place.held() == {"a/b": b"three"}

    def test_what_is_too_large_has_a_version_and_no_bytes(
        self, place: Behind, objects: Objects
    ) -> None:
        place.put("a", b"12345")
        data, version = objects.get_version("a", 4)
        assert data == b""
        assert objects.put_over("a", b"new", version)
        assert place.held() == {"a": b"new"}

    @pytest.mark.parametrize("writers", [2, 4, 8])
    def test_one_of_several_replaces_a_version(
        self, place: Behind, objects: Objects, writers: int
    ) -> None:
        barrier = threading.Barrier(writers)
        for k in range(8):
            place.put(f"key-{k}", b"old")
        versions = [objects.get_version(f"key-{k}", 9)[1] for k in range(8)]

        def write(writer: int) -> list[bool]:
            won = []
            for k in range(8):
                barrier.wait()
                won.append(objects.put_over(f"key-{k}", f"{writer} {k}".encode(), versions[k]))
            return won

        with ThreadPoolExecutor(writers) as pool:
            won = list(pool.map(write, range(writers)))
        winners = [[w for w in range(writers) if won[w][k]] for k in range(8)]
        assert [len(each) for each in winners] == [1] * 8
        assert place.held() == {f"key-{k}": f"{winners[k][0]} {k}".encode() for k in range(8)}

    def test_the_place_is_asked_whether_it_is_exclusive(
        self, place: Behind, objects: Objects
    ) -> None:
        objects.check_exclusive()
        objects.below("a").check_exclusive()
        assert place.held() == {}


class TestDisk:
    """What only a disk can hold: links, pipes, devices, folders in place of files."""

    @pytest.fixture
    def canary(self, tmp_path: Path) -> Path:
        """A folder outside the store that nobody may look into or change."""
        folder = tmp_path / "outside"
        (folder / "deep").mkdir(parents=True)
        (folder / "canary").write_bytes(b"canary")
        (folder / "deep" / "canary").write_bytes(b"canary")
        return folder

    @staticmethod
    def put_strange(kind: str, path: Path, canary: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            path.symlink_to(canary / "canary")
        elif kind == "link to a folder":
            path.symlink_to(canary, target_is_directory=True)
        elif kind == "link to nothing":
            path.symlink_to(canary / "made")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
            (path / "inside").write_bytes(b"inside")
        else:
            path.symlink_to("/dev/zero")

    @staticmethod
    def state(canary: Path) -> dict[str, Any]:
        return {
            path.relative_to(canary).as_posix(): path.is_dir() or path.read_bytes()
            for path in canary.rglob("*")
        }

    READING: tuple[Callable[[Objects, str], Any], ...] = (
        lambda o, k: o.stat(k),
        lambda o, k: o.get(k, 1 << 20),
        lambda o, k: part(o, k, 0, 1),
        lambda o, k: o.open_compared(k, recorded(b"canary")).__enter__(),
        lambda o, k: o.file(k, recorded(b"canary")),
        lambda o, k: o.local(k),
        lambda o, k: o.touch(k, b""),
        lambda o, k: o.flush([k]),
    )
    STRANGE = ("link", "link to a folder", "link to nothing", "pipe", "folder", "device")

    @pytest.mark.parametrize("kind", STRANGE)
    def test_in_place_of_an_object(self, kind: str, tmp_path: Path, canary: Path) -> None:
        before, objects = self.state(canary), DiskObjects(tmp_path / "store")
        path = tmp_path / "store" / "a" / "b"
        self.put_strange(kind, path, canary)
        for call in self.READING:
            with pytest.raises(FormatError, match=r"b: (a symbolic link|not a file)") as caught:
                call(objects, "a/b")
            assert caught.value.kind is ErrorKind.CORRUPT
        assert objects.exists("a/b")
        assert objects.entries("a") == [Entry(name="b", is_folder=kind == "folder")]
        assert list(objects.walk()) == ["a/b/inside" if kind == "folder" else "a/b"]
        with pytest.raises(FileExistsError):
            objects.write("a/b", [b"x"])
        assert not objects.put_new("a/b", b"x")
        assert os.path.lexists(path)
        assert self.state(canary) == before

    @pytest.mark.parametrize("kind", STRANGE)
    def test_it_is_replaced_or_removed_itself(
        self, kind: str, tmp_path: Path, canary: Path
    ) -> None:
        before, root = self.state(canary), tmp_path / "store"
        objects = DiskObjects(root)
        for key in ("a/b", "a/c", "a/d", "a/e", "a/f"):
            self.put_strange(kind, root / key, canary)
        _, version = objects.get_version("a/f", 1 << 20)
        assert objects.put_over("a/f", b"new", version)
        assert (root / "a" / "f").read_bytes() == b"new"
        with objects.scratch() as folder:
            (folder / "made").write_bytes(b"new")
            if kind == "folder":
                with pytest.raises(FormatError, match="not a file"):
                    objects.put("a/b", b"new")
                with pytest.raises(FormatError, match="not a file"):
                    objects.put_file("a/c", folder / "made")
                objects.delete(["a/d"])
                assert (root / "a" / "d" / "inside").exists()
            else:
                objects.put("a/b", b"new")
                objects.put_file("a/c", folder / "made")
                objects.delete(["a/d"])
                assert (root / "a" / "b").read_bytes() == (root / "a" / "c").read_bytes() == b"new"
                assert not (root / "a" / "b").is_symlink()
                assert not os.path.lexists(root / "a" / "d")
        objects.delete_below("a/e")
        assert not os.path.lexists(root / "a" / "e")
        assert self.state(canary) == before

    @pytest.mark.parametrize("kind", ["link to a folder", "link to nothing", "pipe", "device"])
    @pytest.mark.parametrize("depth", [0, 1])
    def test_in_place_of_a_folder(
        self, kind: str, depth: int, tmp_path: Path, canary: Path
    ) -> None:
        before, root = self.state(canary), tmp_path / "store"
        self.put_strange(kind, root / "a", canary)
        key = ("a/canary", "a/deep/canary")[depth]
        objects = DiskObjects(root)
        (root / "made").write_bytes(b"x")
        calls: tuple[Callable[[Objects, str], Any], ...] = (
            *self.READING,
            lambda o, k: o.entries(k.rpartition("/")[0]),
            lambda o, k: list(o.walk(k.rpartition("/")[0])),
            lambda o, k: o.write(f"{k}-new", [b"x"]),
            lambda o, k: o.put(k, b"x"),
            lambda o, k: o.put_file(k, root / "made"),
            lambda o, k: o.put_new(f"{k}-new", b"x"),
            lambda o, k: o.get_version(k, 100),
            lambda o, k: o.put_over(k, b"x", ((0, 0, 0), b"")),
            lambda o, k: o.delete([k]),
            lambda o, k: o.delete_below(k),
            lambda o, k: o.below(k).delete_below(""),
            lambda o, k: o.below(k.rpartition("/")[0]).sweep(),
            lambda o, k: o.below(k.rpartition("/")[0]).scratch().__enter__(),
        )
        for some, below in ((objects, key), (objects.below("a"), key.removeprefix("a/"))):
            for call in calls:
                with pytest.raises(FormatError, match=r"a: (a symbolic link|not a directory)"):
                    call(some, below)
        assert self.state(canary) == before
        assert (root / "made").read_bytes() == b"x"

    def test_a_store_reached_through_a_link_is_a_store(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        objects = DiskObjects(tmp_path / "link")
        objects.put("a/b", b"x")
        assert objects.get("a/b", 1) == b"x"
        assert (tmp_path / "real" / "a" / "b").read_bytes() == b"x"

    def test_walk_tells_what_a_store_may_not_hold(self, tmp_path: Path, canary: Path) -> None:
        for kind in self.STRANGE[:4]:
            self.put_strange(kind, tmp_path / "store" / "a" / kind, canary)
        (tmp_path / "store" / "a" / "empty").mkdir()
        found = ["a/empty", *(f"a/{kind}" for kind in sorted(self.STRANGE[:4]))]
        assert list(DiskObjects(tmp_path / "store").walk()) == found

    @pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
    def test_a_file_system_without_hard_links(
        self, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def link(*_: Any, **__: Any) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "link", link)
        objects = DiskObjects(tmp_path / "store")
        for call in (objects.check_exclusive, lambda: objects.put_new("a", b"x")):
            with pytest.raises(MachineError, match="has no hard links") as caught:
                call()
            assert caught.value.kind is ErrorKind.DENIED
            assert "\n" not in str(caught.value)
            assert "LPP_ONLY_WRITER=1" in str(caught.value)
        assert DiskPlace(tmp_path / "store").held() == {}
        monkeypatch.setenv("LPP_ONLY_WRITER", "1")
        objects.check_exclusive()
        assert objects.put_new("a", b"x")
        assert not objects.put_new("a", b"y")
        assert objects.put_over("a", b"z", objects.get_version("a", 9)[1])
        assert DiskPlace(tmp_path / "store").held() == {"a": b"z"}

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (errno.ENOSPC, ErrorKind.NO_SPACE),
            (errno.EDQUOT, ErrorKind.NO_SPACE),
            (errno.EACCES, ErrorKind.READ_ONLY),
            (errno.EROFS, ErrorKind.READ_ONLY),
            (errno.EIO, ErrorKind.DISK_FAILED),
        ],
    )
    def test_a_disk_that_refuses(
        self, code: int, kind: ErrorKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        objects = DiskObjects(tmp_path / "store")
        objects.put("a/b", b"x")
        version = objects.get_version("a/b", 9)[1]

        def fsync(_: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fsync)
        with objects.scratch() as folder:
            (folder / "made").write_bytes(b"y")
            calls: tuple[Callable[[], Any], ...] = (
                lambda: objects.flush(["a/b"]),
                lambda: objects.put("a/b", b"y"),
                lambda: objects.put_file("a/b", folder / "made"),
                lambda: objects.put_new("a/c", b"y"),
            )
            for call in calls:
                with pytest.raises(MachineError) as caught:
                    call()
                assert caught.value.kind is kind
                assert str(tmp_path) in str(caught.value)
        assert DiskPlace(tmp_path / "store").held() == {"a/b": b"x"}
        with pytest.raises(MachineError):
            objects.put_over("a/b", b"y", version)


class TestBucket:
    """What only a bucket does: ignore conditions, answer in parts, end before its answer does."""

    def test_a_store_that_ignores_conditions(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        s3.proxy.strip_conditions = True
        objects = objects_at(s3.url)
        with pytest.raises(MachineError, match="If-None-Match") as caught:
            objects.check_exclusive()
        assert caught.value.kind is ErrorKind.DENIED
        assert "LPP_ONLY_WRITER=1" in str(caught.value)
        assert s3.objects() == {}
        monkeypatch.setenv("LPP_ONLY_WRITER", "1")
        objects.check_exclusive()
        assert objects.put_new("a", b"x")
        assert not objects.put_new("a", b"y")
        _, version = objects.get_version("a", 9)
        assert objects.put_over("a", b"z", version)
        assert not objects.put_over("a", b"w", version)
        assert list(s3.objects().values()) == [b"z"]
        objects.delete(["a"])
        assert not objects.put_over("a", b"w", version)
        assert s3.objects() == {}

    def test_bytes_that_are_too_many_are_not_fetched(self, s3: S3) -> None:
        s3.put("some/store/a", bytes(3 << 20))
        objects = objects_at(s3.url)
        with pytest.raises(FormatError, match="more than 5 bytes"):
            objects.get("a", 5)
        with pytest.raises(ValueError, match="altered"):
            objects.file("a", recorded(b"x"))
        assert objects.get_version("a", 5)[0] == b""
        assert not objects.put_new("a", b"x")

    def test_a_range_of_several_parts_of_an_object_that_ends_before(
        self, s3: S3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lpp.store.objects.bucket.PART_BYTES", 4)
        s3.put("some/store/a", b"0123456789")
        objects = objects_at(s3.url)
        assert part(objects, "a", 1, 10, ahead=range(1, 10), size=10) == b"123456789"
        for end in (11, 14, 40):
            with pytest.raises(EOFError):
                part(objects, "a", 1, end, ahead=range(1, end), size=end)

    @pytest.mark.parametrize("keeps", [True, False])
    def test_a_request_on_a_version_costs_one(self, s3: S3, keeps: bool) -> None:
        objects = objects_at(s3.url)
        objects.put("a", b"old")
        _, version = objects.get_version("a", 9)
        if not keeps:
            s3.put("some/store/a", b"theirs")
        s3.proxy.seen.clear()
        assert objects.put_over("a", b"new", version) is keeps
        assert [seen.method for seen in s3.proxy.seen] == ["PUT"] + ["GET"] * (not keeps)

    def test_what_a_place_refuses_is_one_line(self, s3: S3) -> None:
        from s3_server import SECRET, Fault, always

        s3.proxy.rule = always(Fault(kind="answer", status=403, code="AccessDenied"))
        objects = objects_at(s3.url)
        calls: tuple[Callable[[], Any], ...] = (
            lambda: objects.exists("a"),
            objects.entries,
            lambda: list(objects.walk()),
            lambda: objects.get("a", 1),
            lambda: objects.stat("a"),
            lambda: objects.write("a", [b"x"]),
            lambda: objects.put_new("a", b"x"),
            lambda: objects.delete(["a"]),
            objects.check_exclusive,
        )
        for call in calls:
            with pytest.raises(LppError) as caught:
                call()
            assert caught.value.kind is ErrorKind.DENIED
            assert "\n" not in str(caught.value)
            assert SECRET not in str(caught.value)
