"""A disk that fails, beneath `lpp.store.objects.disk`: for one test, in one process.

`FaultyDisk` replaces the calls of `os` and `io` that write. It counts every step that changes the
disk, and fails the chosen step in the chosen way. It also records what was flushed, so that
`power_cut` can remove everything that a disk may lose: names whose directory had no later `fsync`,
and contents whose file had none.
"""

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

FAULTS: Final = {
    "input/output error": errno.EIO,
    "no space": errno.ENOSPC,
    "quota": errno.EDQUOT,
    "read-only": errno.EROFS,
    "another disk": errno.EXDEV,
    "stale handle": errno.ESTALE,
}
"""Errors with which a step may fail."""

KINDS: Final = ("open", "write", "fsync", "mkdir", "link", "rename", "remove")
"""Steps that change a disk."""


class FaultyDisk:
    """root: only paths below it are affected. fail_at: the step, from 1, that fails."""

    def __init__(
        self,
        root: Path,
        *,
        fail_at: int | None = None,
        code: int = errno.EIO,
        kinds: tuple[str, ...] = KINDS,
        short: bool = False,
        space: int | None = None,
    ) -> None:
        self.root, self.fail_at, self.code, self.kinds = str(root), fail_at, code, kinds
        self.short = short
        """Whether each write takes only a few of its bytes."""
        self.space = space
        """Bytes that may still be written."""
        self.steps: list[tuple[str, str]] = []
        self.failed = False
        self.flushed: dict[int, int] = {}
        """Number of flushed bytes of each file, by inode."""
        self.kept: set[tuple[int, str, int]] = set()
        """Flushed names: inode of the directory, name, inode of the file."""

    def step(self, kind: str, path: str) -> None:
        """Count a step; fail if it is the chosen one."""
        if kind not in self.kinds:
            return
        self.steps.append((kind, path))
        if self.fail_at == len(self.steps):
            self.failed = True
            raise OSError(self.code, os.strerror(self.code), path)

    def mine(self, path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.root)

    @contextmanager
    def in_force(self) -> Iterator["FaultyDisk"]:
        """Replace the calls until the block ends."""
        real_fsync, real_mkdir, real_open = os.fsync, os.mkdir, io.open
        real_rename, real_replace, real_link = os.rename, os.replace, os.link
        real_unlink, real_rmdir = os.unlink, os.rmdir

        def fsync(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if path.startswith(self.root):
                self.step("fsync", path)
                self._remember(path)
            real_fsync(descriptor)

        def mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
            if self.mine(path):
                self.step("mkdir", os.fspath(path))
            real_mkdir(path, *args, **kwargs)

        def rename(source: Any, target: Any, **kwargs: Any) -> None:
            if self.mine(target):
                self.step("rename", os.fspath(target))
            real_rename(source, target, **kwargs)

        def replace(source: Any, target: Any, **kwargs: Any) -> None:
            if self.mine(target):
                self.step("rename", os.fspath(target))
            real_replace(source, target, **kwargs)

        def link(source: Any, target: Any, **kwargs: Any) -> None:
            if self.mine(target):
                self.step("link", os.fspath(target))
            real_link(source, target, **kwargs)

        def removal(real: Any) -> Any:
            def remove(path: Any, *, dir_fd: int | None = None) -> None:
                folder = "" if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
                full = os.path.join(folder, os.fspath(path))
                if self.mine(full):
                    self.step("remove", full)
                real(path, dir_fd=dir_fd)

            return remove

        def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not self.mine(path) or not set(mode) & set("wxa+"):
                return real_open(path, mode, *args, **kwargs)
            self.step("open", os.fspath(path))
            file = real_open(path, mode, *args, **kwargs)
            return _Writing(file, self, os.fspath(path)) if "b" in mode else file

        with (
            mock.patch("os.fsync", fsync),
            mock.patch("os.mkdir", mkdir),
            mock.patch("os.rename", rename),
            mock.patch("os.replace", replace),
            mock.patch("os.link", link),
            mock.patch("os.unlink", removal(real_unlink)),
            mock.patch("os.rmdir", removal(real_rmdir)),
            mock.patch("io.open", opened),
        ):
            yield self

    def _remember(self, path: str) -> None:
        if not os.path.exists(path):  # removed meanwhile, but still open
            return
        inode = os.stat(path).st_ino
        if not os.path.isdir(path):
            self.flushed[inode] = os.path.getsize(path)
            return
        self.kept = {kept for kept in self.kept if kept[0] != inode}
        self.kept |= {(inode, entry.name, entry.inode()) for entry in os.scandir(path)}

    def settle(self) -> None:
        """Treat everything that is there as flushed."""
        for folder, _, files in os.walk(self.root):
            for path in (folder, *(os.path.join(folder, name) for name in files)):
                self._remember(path)

    def power_cut(self) -> None:
        """Remove everything that was not flushed: the worst that a power cut can do."""
        for folder, folders, files in os.walk(self.root):
            inode = os.stat(folder).st_ino
            for name in (*folders, *files):
                path = Path(folder, name)
                if (inode, name, path.lstat().st_ino) not in self.kept:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            folders[:] = [name for name in folders if Path(folder, name).exists()]
            for name in files:
                path = Path(folder, name)
                if path.exists():
                    os.truncate(path, self.flushed.get(path.stat().st_ino, 0))


class _Writing:
    """A file that is written completely, in small pieces, or not at all."""

    def __init__(self, file: Any, disk: FaultyDisk, path: str) -> None:
        self._file, self._disk, self._path = file, disk, path

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._disk.short:
            view = view[:37]
        try:
            self._disk.step("write", self._path)
        except OSError:
            self._file.write(view[: len(view) // 2])  # midway
            raise
        if self._disk.space is not None:
            if self._disk.space < len(view):
                self._file.write(view[: self._disk.space])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
            self._disk.space -= len(view)
        return int(self._file.write(view))

    def __enter__(self) -> "_Writing":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
