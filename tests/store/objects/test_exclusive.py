"""The two calls that decide between writers, on a disk and in buckets."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from places import Behind

from lpp.store.objects.protocol import Objects

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

    @pytest.mark.slow
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

    def test_a_reader_always_finds_what_is_being_replaced(
        self, place: Behind, objects: Objects
    ) -> None:
        writers = 4
        read: list[int] = []
        place.put("a", b"0")

        def write(_: int) -> None:
            for _ in range(10):
                data, version = objects.get_version("a", 9)
                objects.put_over("a", b"%d" % (int(data) + 1), version)

        with ThreadPoolExecutor(writers) as pool:
            done = [pool.submit(write, k) for k in range(writers)]
            while not all(each.done() for each in done):
                read.append(int(objects.get("a", 9)))
            for each in done:
                each.result()
        assert read == sorted(read)
        assert int(objects.get("a", 9)) >= 10  # one of those that try at once succeeds
        assert list(place.held()) == ["a"]

    def test_the_place_is_asked_whether_it_is_exclusive(
        self, place: Behind, objects: Objects
    ) -> None:
        objects.check_exclusive()
        objects.below("a").check_exclusive()
        assert place.held() == {}
