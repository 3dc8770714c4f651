"""FaultDisk: a disk that forgets what was not synced, and fails when it is told to.

It works on the real folders, so that all code above it runs as it is, and remembers what POSIX does not promise to
survive a power cut: bytes since the last `sync` of their file, and names since the last `sync_folder` of their folder.
`power_cut` rewrites the folders to one of the states that may be found after the machine has started again.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from pathlib import Path
from typing import Literal

from msgspec import Struct, field

from dfs.disk import Bytes, Disk, DiskFile, StrPath, SyncFailed

Operation = Literal["create", "write", "sync", "truncate", "link", "rename", "unlink", "mkdir", "sync_folder"]

_SECTOR = 512
_FOLDER = "folder"
_State = int | str | None  # what a name stands for: a file (its inode), a folder, nothing


class PowerCut(BaseException):
    """The machine went off in the middle of an operation; no handler of errors runs on it."""


class _Failure(Struct):
    operation: Operation
    error: int
    skip: int
    times: int | None


class _NameChange(Struct):
    """One operation's effect on names, all of it or none; `sync_folder` takes out what has become durable."""

    states: dict[str, _State] = field(default_factory=dict)


class FaultDisk(Disk):
    """`limbo` is an empty folder outside the store, on the same file system, for what a power cut may bring back. With
    `sync=False` nothing ever becomes durable. `operations` counts what was asked for. Folders cannot be renamed."""

    def __init__(self, limbo: Path, sync: bool = True) -> None:
        super().__init__(sync)
        self.operations = 0
        self._limbo = limbo
        self._lock = threading.RLock()
        self._failures: list[_Failure] = []
        self._cut_at: int | None = None
        self._off = False
        self._durable: dict[int, bytes] = {}  # inode -> what of it is durable
        self._names: dict[str, _State] = {}  # path -> what its name durably stands for
        self._pending: list[_NameChange] = []

    # -- what shall go wrong -------------------------------------------------------------------------------------------

    def fail(self, operation: Operation, error: int = errno.EIO, *, nth: int = 1, times: int | None = 1) -> None:
        """The nth such operation from now on raises this errno, `times` times (None: until `mend`). A failed write has
        written half of its bytes."""
        self._failures.append(_Failure(operation, error, nth - 1, times))

    def mend(self) -> None:
        """Nothing fails any more."""
        self._failures.clear()

    def cut_at(self, nth: int) -> None:
        """The nth operation from now on, and all that follow, raise PowerCut and do nothing."""
        self._cut_at = self.operations + nth

    def step(self, operation: Operation) -> None:
        """Count an operation. Raises what it was told to."""
        with self._lock:
            self.operations += 1
            if self._off or self.operations == self._cut_at:
                self._off = True
                raise PowerCut
            for failure in self._failures:
                if failure.operation != operation or failure.times == 0:
                    continue
                if failure.skip:
                    failure.skip -= 1
                    continue
                if failure.times is not None:
                    failure.times -= 1
                kind = SyncFailed if operation in ("sync", "sync_folder") else OSError
                raise kind(failure.error, os.strerror(failure.error))

    # -- the operations ------------------------------------------------------------------------------------------------

    def create(self, path: StrPath) -> DiskFile:
        with self._lock:
            self.step("create")
            change = self._before(path)
            with super().create(path) as file:
                return self._opened(path, file, change, b"")

    def append_to(self, path: StrPath) -> DiskFile:
        with self._lock, super().append_to(path) as file:
            return self._opened(path, file, None, None)

    def _opened(self, path: StrPath, file: DiskFile, change: _NameChange | None, durable: bytes | None) -> DiskFile:
        inode = os.fstat(file.fileno()).st_ino
        self._hold(path)
        if change is not None:
            self._after(path, change, inode)
        if inode not in self._durable:
            self._durable[inode] = (self._limbo / str(inode)).read_bytes() if durable is None else durable
        return _FaultFile(self, os.dup(file.fileno()), inode)

    def link(self, src: StrPath, dst: StrPath) -> None:
        with self._lock:
            self.step("link")
            change = self._before(dst)
            super().link(src, dst)
            self._hold(dst)
            self._after(dst, change, os.lstat(dst).st_ino)

    def rename(self, src: StrPath, dst: StrPath) -> None:
        with self._lock:
            self.step("rename")
            change = self._before(src, dst)
            super().rename(src, dst)
            self._after(dst, change, os.lstat(dst).st_ino)
            self._after(src, change, None)

    def unlink(self, path: StrPath) -> None:
        with self._lock:
            self.step("unlink")
            change = self._before(path)
            super().unlink(path)
            self._after(path, change, None)

    def mkdir(self, path: StrPath) -> None:
        with self._lock:
            self.step("mkdir")
            change = self._before(path)
            super().mkdir(path)
            self._after(path, change, _FOLDER)

    def sync_folder(self, path: StrPath) -> None:
        with self._lock:
            self.step("sync_folder")
            if not self.sync:
                return
            folder = _absolute(path)
            for change in self._pending:
                for name in [name for name in change.states if os.path.dirname(name) == folder]:
                    self._names[name] = change.states.pop(name)
            self._pending = [change for change in self._pending if change.states]

    def synced(self, inode: int) -> None:
        """All bytes of a file are durable."""
        if self.sync:
            self._durable[inode] = (self._limbo / str(inode)).read_bytes()

    # -- what is remembered --------------------------------------------------------------------------------------------

    def _before(self, *paths: StrPath) -> _NameChange:
        for path in paths:
            self._hold(path)
            self._names.setdefault(_absolute(path), _state(path))
        return _NameChange()

    def _after(self, path: StrPath, change: _NameChange, state: _State) -> None:
        change.states[_absolute(path)] = state
        if not self._pending or self._pending[-1] is not change:
            self._pending.append(change)

    def _hold(self, path: StrPath) -> None:
        """Give a file a name in limbo, so that it outlives its own."""
        state = _state(path)
        if isinstance(state, int) and not os.path.lexists(self._limbo / str(state)):
            os.link(path, self._limbo / str(state), follow_symlinks=False)

    # -- the power cut -------------------------------------------------------------------------------------------------

    def power_cut(self, seed: int) -> None:
        """Rewrite the folders to what may be found after a power cut now; every state that POSIX allows has a chance.
        Afterwards the disk is on again, and all that it holds is durable."""
        source = random.Random(seed)
        with self._lock:
            keep = source.choice((0.0, 0.5, 1.0))
            names = dict(self._names)
            for change in self._pending:
                if source.random() < keep:
                    names.update(change.states)
            for path in sorted(names):
                _restore(path, names[path], self._limbo)
            for inode, durable in self._durable.items():
                held = self._limbo / str(inode)
                if not held.is_symlink():
                    held.write_bytes(_survivor(durable, held.read_bytes(), source))
            shutil.rmtree(self._limbo)
            self._limbo.mkdir()
            self._durable, self._names, self._pending = {}, {}, []
            self._off, self._cut_at = False, None
            self._failures.clear()


class _FaultFile(DiskFile):
    def __init__(self, disk: FaultDisk, handle: int, inode: int) -> None:
        super().__init__(handle, synced=False)
        self._disk = disk
        self._inode = inode

    def write(self, *parts: Bytes) -> None:
        data = b"".join(parts)
        try:
            self._disk.step("write")
        except OSError:
            super().write(data[: len(data) // 2])
            raise
        super().write(data)

    def sync(self) -> None:
        self._disk.step("sync")
        self._disk.synced(self._inode)

    def truncate(self, size: int) -> None:
        self._disk.step("truncate")
        super().truncate(size)


def _absolute(path: StrPath) -> str:
    return os.path.abspath(os.fspath(path))


def _state(path: StrPath) -> _State:
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _FOLDER if os.path.isdir(path) and not os.path.islink(path) else status.st_ino


def _restore(path: str, state: _State, limbo: Path) -> None:
    """Make a name stand for what it shall; folders come before what is in them."""
    if _state(path) == state or not os.path.isdir(os.path.dirname(path)):
        return  # it is so already, or its folder is lost and it with it
    if _state(path) == _FOLDER:
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
    if state == _FOLDER:
        os.mkdir(path)
    elif state is not None:
        os.link(limbo / str(state), path, follow_symlinks=False)


def _survivor(durable: bytes, now: bytes, source: random.Random) -> bytes:
    """What is found of a file: what was durable, all of it, or, where it grew, some of the new sectors, zeros in the
    place of others, and any end."""
    choice = source.choice(("durable", "now", "torn"))
    if choice == "durable" or durable == now:
        return durable
    if choice == "now" or not now.startswith(durable):
        return now
    end = source.randint(len(durable), len(now))
    found = bytearray(now[:end])
    for at in range(len(durable), end, _SECTOR):
        if source.random() < 0.3:
            upto = min(end, at - at % _SECTOR + _SECTOR)
            found[at:upto] = bytes(upto - at)
    return bytes(found)
