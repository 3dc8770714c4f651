"""Disk: the one way by which chunk files, logs, pins and checkpoints are written. Tests put a `FaultDisk` in its place.

Nothing here is durable before it is synced: a file's bytes by `DiskFile.sync`, its name by `sync_folder` of the folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from io import FileIO

StrPath = str | os.PathLike[str]
Bytes = bytes | bytearray | memoryview

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a planted pipe must not hold the reader
_PARTS_MAX = 1024  # IOV_MAX of Linux
_WRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class SyncFailed(OSError):
    """An fsync failed. It is never repeated: the kernel may have dropped the pages, and a second one would succeed."""


class DiskFile:
    """A file open for writing at its end. For one thread; a context manager that closes it."""

    def __init__(self, handle: int, synced: bool) -> None:
        self._handle = handle
        self._synced = synced

    def write(self, *parts: Bytes) -> None:
        """Add all parts. Raises OSError; some of the bytes may be written then."""
        views = [view for part in parts if (view := memoryview(part).cast("B"))]
        while views:
            count = os.writev(self._handle, views[:_PARTS_MAX])
            done = 0
            while done < len(views) and count >= len(views[done]):
                count -= len(views[done])
                done += 1
            del views[:done]
            if count:
                views[0] = views[0][count:]

    def sync(self) -> None:
        """On return the bytes are durable (not the name). Raises SyncFailed."""
        if self._synced:
            _sync(self._handle)

    def truncate(self, size: int) -> None:
        """Cut it off after `size` bytes."""
        os.ftruncate(self._handle, size)

    def fileno(self) -> int:
        """For locks and stat."""
        return self._handle

    def close(self) -> None:
        """Idempotent."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __enter__(self) -> DiskFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Disk:
    """Files and folders of the operating system. Every method raises OSError; safe for several threads.

    `sync=False` leaves out every fsync: for stores that may be lost with the machine's power.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     disk = Disk()
    ...     disk.write_whole(folder + "/a", b"one ", b"two")
    ...     disk.read(folder + "/a")
    b'one two'
    """

    def __init__(self, sync: bool = True) -> None:
        self.sync = sync
        self._guarded: tuple[str, ...] = ()

    def guard(self, folder: StrPath) -> None:
        """From now on no link below `folder` is followed: what is planted there leads nowhere (NotADirectoryError for
        one in the place of a folder, ELOOP in the place of a file)."""
        prefix = os.path.join(os.fspath(folder), "")
        if prefix not in self._guarded:
            self._guarded += (prefix,)

    # -- reading -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def folder(self, path: StrPath) -> Iterator[int]:
        """A handle of a folder, for calls that take `dir_fd`."""
        name = os.fspath(path)
        root = next((prefix for prefix in self._guarded if name.startswith(prefix)), None)
        handle = os.open(root or name, _FOLDER)
        try:
            for part in name[len(root) :].split("/") if root else ():
                if part:
                    above, handle = handle, os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
                    os.close(above)
            yield handle
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _place(self, path: StrPath) -> Iterator[tuple[int, str]]:
        """(handle of the folder, name) of a path."""
        folder, name = os.path.split(os.fspath(path))
        with self.folder(folder or ".") as handle:
            yield handle, name

    @contextlib.contextmanager
    def open(self, path: StrPath) -> Iterator[FileIO]:
        """A regular file to read from; EISDIR for anything else."""
        with self._place(path) as (folder, name):
            handle = os.open(name, _READ, dir_fd=folder)
        with FileIO(handle) as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise IsADirectoryError(errno.EISDIR, "not a regular file", os.fspath(path))
            yield file

    def read(self, path: StrPath) -> bytes:
        """All bytes of a regular file."""
        with self.open(path) as file:
            return file.readall()

    # -- writing -------------------------------------------------------------------------------------------------------

    def create(self, path: StrPath) -> DiskFile:
        """A new, empty file. Raises FileExistsError."""
        with self._place(path) as (folder, name):
            return DiskFile(os.open(name, _WRITE | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder), self.sync)

    def append_to(self, path: StrPath) -> DiskFile:
        """An existing file, to be written at its end."""
        with self._place(path) as (folder, name):
            return DiskFile(os.open(name, _WRITE | os.O_APPEND, dir_fd=folder), self.sync)

    def truncate(self, path: StrPath, size: int) -> None:
        """Cut a file off after `size` bytes, durably."""
        with self.append_to(path) as file:
            file.truncate(size)
            file.sync()

    def link(self, src: StrPath, dst: StrPath) -> None:
        """Give a file a second name. Raises FileExistsError: nothing is ever overwritten."""
        with self._place(src) as (from_folder, old), self._place(dst) as (to_folder, new):
            os.link(old, new, src_dir_fd=from_folder, dst_dir_fd=to_folder, follow_symlinks=False)

    def rename(self, src: StrPath, dst: StrPath) -> None:
        """Move a file, over what was at `dst`."""
        with self._place(src) as (from_folder, old), self._place(dst) as (to_folder, new):
            os.rename(old, new, src_dir_fd=from_folder, dst_dir_fd=to_folder)

    def unlink(self, path: StrPath) -> None:
        """Remove a name."""
        with self._place(path) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def mkdir(self, path: StrPath) -> None:
        """Make a folder. Raises FileExistsError."""
        with self._place(path) as (folder, name):
            os.mkdir(name, dir_fd=folder)

    def sync_folder(self, path: StrPath) -> None:
        """On return the names in a folder are durable. Raises SyncFailed."""
        if self.sync:
            with self.folder(path) as handle:
                _sync(handle)

    def make_folders(self, path: StrPath) -> None:
        """Make a folder and what is missing above it, durably."""
        name = os.path.abspath(path)
        if os.path.isdir(name):
            return
        self.make_folders(os.path.dirname(name))
        with contextlib.suppress(FileExistsError):
            self.mkdir(name)
        self.sync_folder(os.path.dirname(name))

    def write_whole(self, path: StrPath, *parts: Bytes) -> None:
        """Make or replace a file, durably: a reader sees the old one or all of the new one. What a crash may leave
        beside it ends in `.new`."""
        name = os.fspath(path)
        temp = f"{name}.{secrets.token_hex(4)}.new"
        try:
            with self.create(temp) as file:
                file.write(*parts)
                file.sync()
            self.rename(temp, name)
        except OSError:
            with contextlib.suppress(OSError):
                self.unlink(temp)
            raise
        self.sync_folder(os.path.dirname(name) or ".")


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        raise SyncFailed(error.errno, f"fsync failed: {error.strerror}") from error


def size_in(folder: int, name: str) -> int | None:
    """Bytes of what is under a name, whatever it is; None when nothing is."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
    except FileNotFoundError:
        return None


def suspect_reason(node: StrPath) -> str | None:
    """Why nothing may be written to a node; None when it may."""
    marker = os.path.join(os.fspath(node), "suspect")
    if not os.path.lexists(marker):
        return None
    return f"node {os.fspath(node)} is suspect after a failed fsync; check the disk, then remove {marker}"


def mark_suspect(disk: Disk, node: StrPath, reason: Exception) -> None:
    """After a failed fsync: the node is read, but not written to, until somebody removes its file `suspect`."""
    with contextlib.suppress(OSError), disk.create(os.path.join(os.fspath(node), "suspect")) as file:
        file.write(f"{reason}\n".encode())
        file.sync()
        disk.sync_folder(node)
