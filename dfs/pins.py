"""Pins: what an open store has stored, or found stored, and will publish. Garbage collection keeps it
(docs/formats/pins.md).

A writer pins under a shared lock before it looks for a chunk; a collection holds the lock exclusively from its marking
to its last deletion. So a chunk that a writer has seen is not deleted before that writer is done.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from dfs.errors import DfsError, InvalidChunkId, StoreLocked, Unsupported
from dfs.ids import ChunkId
from dfs.options import COLLECTION_WAIT_S, LOCK_POLL_S, WRITER_WAIT_S

log = logging.getLogger("dfs")

_FIRST_LINE = "millrace-pins 1"
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_live: weakref.WeakSet[Pins] = weakref.WeakSet()


class Pins:
    """The pins of one open store; `folder` is STORE/pins. For several threads; a forked child begins with none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reset()
        _live.add(self)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._entered = threading.local()  # .count: how often this thread has entered writing()
        self._handles: set[int] = set()  # every open descriptor: what a forked child must close
        self._file: tuple[Path, int] | None = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """The shared lock: no collection runs meanwhile. A thread may enter it again inside.

        Raises StoreLocked when a collection takes longer than the limit. Inside, wait for no other thread that enters.
        """
        entered, owner = self._entered, os.getpid()
        entered.count = getattr(entered, "count", 0) + 1
        handle = -1
        try:
            if entered.count == 1:
                handle = self._lock_shared()
            yield
        finally:
            if os.getpid() == owner:  # else a forked child leaves the body: the lock is its parent's
                entered.count -= 1
                if handle >= 0:
                    fcntl.flock(handle, fcntl.LOCK_UN)  # also if a child still has it open
                    self._close(handle)

    def add(self, chunk_ids: Iterable[ChunkId]) -> None:
        """Keep these chunks until `close`. Call it before the chunks are looked for or written, inside one `writing`
        with that."""
        self._append("".join(f"c {chunk_id}\n" for chunk_id in chunk_ids))

    def hold(self, txn: int) -> None:
        """Keep transaction `txn` readable until `close`; it must be one that is still kept."""
        self._append(f"t {txn}\n")

    def _append(self, lines: str) -> None:
        if not lines:
            return
        with self.writing(), self._mutex, _typed(self.folder):
            _, handle = self._file = self._file or self._create()
            size = os.fstat(handle).st_size
            data = lines.encode()
            try:
                if os.write(handle, data) != len(data):
                    raise OSError("short write (disk full?)")
            except OSError:
                os.ftruncate(handle, size)
                raise

    def _create(self) -> tuple[Path, int]:
        path = self.folder / f"{uuid.uuid4()}.pin"
        handle = self._open(path, os.O_APPEND | os.O_EXCL)
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            os.write(handle, f"{_FIRST_LINE}\n".encode())
        except OSError:
            path.unlink(missing_ok=True)
            self._close(handle)
            raise
        return path, handle

    def _lock_shared(self) -> int:
        with _typed(self.folder):
            self.folder.mkdir(exist_ok=True)
            handle = self._open(self.folder / "gc.lock")
            try:
                with open(os.open(self.folder / "gc.intent", _LOCK, 0o644)) as turnstile:
                    deadline = time.monotonic() + WRITER_WAIT_S
                    busy = f"{self.folder}: garbage collection is running; try again when it is done"
                    _flock(turnstile.fileno(), fcntl.LOCK_EX, deadline, busy)
                    _flock(handle, fcntl.LOCK_SH, deadline, busy)
                    fcntl.flock(turnstile, fcntl.LOCK_UN)
            except BaseException:
                self._close(handle)
                raise
            return handle

    def _open(self, path: Path, flags: int = 0) -> int:
        handle = os.open(path, _LOCK | flags, 0o644)
        self._handles.add(handle)
        return handle

    def _close(self, handle: int) -> None:
        self._handles.discard(handle)
        os.close(handle)

    def close(self) -> None:
        """Give all pins up. Idempotent; pins made later go to a new file."""
        with self._mutex:
            if self._file is None:
                return
            path, handle = self._file
            self._file = None
            path.unlink(missing_ok=True)
            self._close(handle)

    def forget(self) -> None:
        """After a fork, in the child: let go of the parent's files, which stay as they are."""
        for handle in self._handles:
            with contextlib.suppress(OSError):
                os.close(handle)
        self._reset()


def _forget_all() -> None:
    for pins in list(_live):
        pins.forget()


os.register_at_fork(after_in_child=_forget_all)


class Pinned(Struct, frozen=True):
    """What living owners pin: digests of chunks (32 bytes each), and transactions."""

    chunks: frozenset[bytes]
    txns: frozenset[int]
    dead: int = 0  # files of owners that are gone


def living(folder: Path) -> Pinned:
    """What is pinned now, without keeping anybody from pinning more. Raises Unsupported, DfsError."""
    with _typed(folder):
        return _read_all(folder, sweep=False)


@contextlib.contextmanager
def collecting(folder: Path, *, sweep: bool = True, wait_s: float = COLLECTION_WAIT_S) -> Iterator[Pinned]:
    """The exclusive lock, for a collection: nobody pins, stores or publishes in the body. Removes files of dead owners
    (`sweep`; else they are only counted).

    Raises StoreLocked when a writer or another collection keeps it for longer than `wait_s` seconds, Unsupported for
    the pins of a newer release.
    """
    with contextlib.ExitStack() as stack:
        with _typed(folder):
            folder.mkdir(exist_ok=True)
            deadline = time.monotonic() + wait_s
            for name in ("gc.intent", "gc.lock"):
                file = stack.enter_context(open(os.open(folder / name, _LOCK, 0o644)))
                busy = f"{folder}: a writer or another collection holds {name}; try again when it is done"
                _flock(file.fileno(), fcntl.LOCK_EX, deadline, busy)
                stack.callback(fcntl.flock, file, fcntl.LOCK_UN)
            pinned = _read_all(folder, sweep)
        yield pinned


@contextlib.contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """The exclusive lock `name` in `folder`: of work that two processes must not do at once.

    Raises StoreLocked when another process keeps it for longer than the limit.
    """
    with contextlib.ExitStack() as stack:
        with _typed(folder):
            folder.mkdir(exist_ok=True)
            file = stack.enter_context(open(os.open(folder / name, _LOCK, 0o644)))
            busy = f"{folder}: another process holds {name}; try again when it is done"
            _flock(file.fileno(), fcntl.LOCK_EX, time.monotonic() + COLLECTION_WAIT_S, busy)
            stack.callback(fcntl.flock, file, fcntl.LOCK_UN)
        yield


def _read_all(folder: Path, sweep: bool) -> Pinned:
    chunks: set[bytes] = set()
    txns: set[int] = set()
    dead = 0
    for path in sorted(folder.glob("*.pin")):
        try:
            file = open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="utf-8")  # noqa: SIM115
        except FileNotFoundError:  # its owner has just closed it
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _read(path, file, chunks, txns)
            else:
                if sweep:
                    path.unlink(missing_ok=True)
                dead += 1
    return Pinned(frozenset(chunks), frozenset(txns), dead)


def _read(path: Path, lines: Iterable[str], chunks: set[bytes], txns: set[int]) -> None:
    for number, line in enumerate(lines):
        kind, _, value = line.partition(" ")
        try:
            if not line.endswith("\n"):
                return
            if number == 0 and line != f"{_FIRST_LINE}\n":
                raise ValueError(line)
            if kind == "c":
                chunks.add(ChunkId.parse(value[:-1]).digest)
            elif kind == "t":
                txns.add(int(value))
            elif number:
                raise ValueError(line)
        except (ValueError, InvalidChunkId):
            raise Unsupported(
                f"{path}: line {number + 1} is of a newer release; close the program that made it, or update millrace"
            ) from None


def _flock(handle: int, kind: int, deadline: float, busy: str) -> None:
    """flock with an end: the system call itself would wait for ever."""
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise StoreLocked(busy) from None
        time.sleep(LOCK_POLL_S)


@contextlib.contextmanager
def _typed(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DfsError(f"pins of the store cannot be kept in {folder}: {error}") from error
