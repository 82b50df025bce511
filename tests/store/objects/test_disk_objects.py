"""What only a disk does."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from places import DiskPlace, part, recorded

from lpp.store.errors import ConflictError, ErrorKind, FormatError, MachineError
from lpp.store.objects.disk import DiskObjects
from lpp.store.objects.protocol import Entry, Objects


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

    @pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EBADF])
    def test_a_file_system_without_locks(
        self, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def flock(*_: Any) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", flock)
        objects = DiskObjects(tmp_path / "store")
        assert objects.put_new("a", b"x")
        version = objects.get_version("a", 9)[1]
        with pytest.raises(MachineError, match="has no locks") as caught:
            objects.put_over("a", b"y", version)
        assert caught.value.kind is ErrorKind.DENIED
        assert "LPP_ONLY_WRITER=1" in str(caught.value)
        assert DiskPlace(tmp_path / "store").held() == {"a": b"x"}
        monkeypatch.setenv("LPP_ONLY_WRITER", "1")
        assert objects.put_over("a", b"y", version)
        assert not objects.put_over("a", b"z", version)
        assert DiskPlace(tmp_path / "store").held() == {"a": b"y"}

    def test_a_file_that_may_only_be_read_is_replaced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        objects, opened = DiskObjects(tmp_path), os.open
        objects.put("a", b"x")
        version = objects.get_version("a", 9)[1]

        def read_only(path: Any, flags: int, *mode: Any) -> int:
            if flags & os.O_RDWR and not flags & os.O_CREAT:
                raise PermissionError(errno.EACCES, "denied")
            return opened(path, flags, *mode)

        monkeypatch.setattr(os, "open", read_only)
        assert objects.put_over("a", b"y", version)
        assert objects.get("a", 9) == b"y"

    @pytest.mark.slow
    def test_a_writer_that_is_suspended_with_a_lock(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lpp.store.objects.locks.LOCK_SECONDS", 0.05)
        objects = DiskObjects(tmp_path)
        objects.put("a", b"x")
        version = objects.get_version("a", 9)[1]
        with (tmp_path / "a").open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(ConflictError, match=r"a: another process has held its lock"):
                objects.put_over("a", b"y", version)
        assert DiskPlace(tmp_path).held() == {"a": b"x"}
        assert objects.put_over("a", b"y", version)

    @pytest.mark.parametrize("same", ["size and time", "bytes", "everything"])
    def test_what_another_writes_while_a_record_is_staged_stays(
        self, same: str, tmp_path: Path
    ) -> None:
        """The last comparison, under the lock: by identity, and by bytes where that is the same."""

        class Raced(DiskObjects):
            @contextlib.contextmanager
            def _staged(self, *words: Any, **how: Any) -> Iterator[Path]:
                path = self.place / "a"
                with super()._staged(*words, **how) as staged:
                    time = path.stat().st_mtime_ns
                    if same != "everything":
                        path.write_bytes(b"first" if same == "bytes" else b"other")
                        os.utime(path, ns=(time, time + (same == "bytes")))
                    yield staged

        objects = DiskObjects(tmp_path)
        objects.put("a", b"first")
        version = objects.get_version("a", 9)[1]
        put = Raced(tmp_path).put_over("a", b"third", version)
        left = {"size and time": b"other", "bytes": b"first", "everything": b"third"}
        assert put is (same == "everything")
        assert DiskPlace(tmp_path).held() == {"a": left[same]}

    def test_a_staged_file_that_another_writer_sweeps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        objects, replace = DiskObjects(tmp_path), Path.replace
        objects.put("a", b"x")
        version = objects.get_version("a", 9)[1]

        def swept(self: Path, target: Path) -> Path:
            self.unlink()
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", swept)
        assert not objects.put_over("a", b"y", version)
        monkeypatch.undo()
        assert DiskPlace(tmp_path).held() == {"a": b"x"}

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


@pytest.mark.parametrize("lasting", [True, False])
def test_only_what_has_to_last_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lasting: bool
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    objects = DiskObjects(tmp_path)
    objects.put("a/b", b"one", lasting=lasting)
    objects.put("a/b", b"two", lasting=lasting)
    assert objects.get("a/b", 9) == b"two"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert bool(flushed) == lasting
