"""Shared by tests of both kinds of buckets: a store as files, concurrent writers, a comparison."""

import threading
from pathlib import Path

import numpy as np
from small_capture import Capture

from lpp.store import RunWriter
from lpp.store.objects.place import Url
from lpp.store.runs.read import Run

BASE = "some/store/"
"""Prefix of the keys of a store."""


class StoreFiles:
    """A bucket whose store is copied to files, and back."""

    def objects(self) -> dict[str, bytes]:
        """Everything in the bucket, by key."""
        raise NotImplementedError

    def put(self, key: str, data: bytes) -> None:
        """Write an object directly, without the code under test."""
        raise NotImplementedError

    def copy_to(self, folder: Path) -> Path:
        """The bucket's store as files."""
        for key, data in self.objects().items():
            path = folder / key.removeprefix(BASE)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    def copy_from(self, folder: Path) -> None:
        """Files as a store in the bucket."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(BASE + path.relative_to(folder).as_posix(), path.read_bytes())


def same(run: Run, capture: Capture) -> bool:
    """Whether `run` returns everything of `capture`, bit for bit."""
    assert run.missing_shards == ()
    for site, rows in capture.hidden.items():
        values = np.concatenate(list(run.hidden(site)))
        assert np.array_equal(values.view(np.uint32), rows.astype(np.uint32) << 16)
    assert run.tokens().to_table().equals(capture.tokens)
    return bool(run.prompts().equals(capture.prompts))


def write_at_once(root: Url, capture: Capture, n_writers: int) -> tuple[list[int], list[int]]:
    """Let several writers write every shard at once; returns the indices of shards won and lost."""
    won: list[int] = []
    lost: list[int] = []
    start = threading.Barrier(n_writers)

    def work() -> None:
        start.wait()
        writer = RunWriter(root, capture.plan, capture.prompts)
        for index in range(capture.plan.n_shards):
            start.wait()
            writer.write_shard(index, *capture.shard(index))
        won.extend(writer.written)
        lost.extend(writer.lost_race)

    threads = [threading.Thread(target=work) for _ in range(n_writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(won), sorted(lost)
