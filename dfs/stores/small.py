"""The small chunks of a node, as rows of SQLite: many in one file and in one fsync (docs/formats/chunk.md)."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, cast

import apsw

from dfs.codec import Record, is_damaged, is_intact
from dfs.disk import Disk, SyncFailed, mark_suspect
from dfs.errors import ChunkDamaged, DfsError, NodeFailed, NoStore, StoreDamaged, Unsupported
from dfs.ids import ChunkId
from dfs.stores.node import create_small, newest_small, open_small, readable_rows

log = logging.getLogger("dfs")

T = TypeVar("T")
_Which = tuple[int, int]  # number and inode of a database
_DAMAGE = (apsw.SQLITE_IOERR_DATA, apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS)
_FAILED_SYNC = (apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC)
_LOOK_MAX = 64  # records in memory at once, each below 64 KiB
_QUESTION_MAX = 512  # ids asked for in one statement


class SmallChunks:
    """The rows of one node, unverified. Safe for several threads, and for several processes on one node.

    A database that is lost or damaged is succeeded by the next: what cannot be read is healed from other nodes. Every
    method raises ChunkDamaged for damaged pages, and NodeFailed when the database cannot be used now.
    """

    def __init__(self, node: Path, disk: Disk) -> None:
        self._node = node
        self._disk = disk
        self._local = threading.local()
        self._connections: weakref.WeakSet[apsw.Connection] = weakref.WeakSet()  # a thread's ends with it
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # SQLite would let this process's writers sleep and try again
        with self._errors("opening"):
            self._current()  # a lost database is found now, not in the middle of a job

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, chunk_id: ChunkId) -> bytes | None:
        """The record under an id."""
        with self._errors(f"chunk {chunk_id}"):
            row = self._current().execute("SELECT record FROM small_chunk WHERE id = ?", (chunk_id.digest,)).fetchone()
        return None if row is None else bytes(row[0])

    def held(self, chunk_ids: Collection[ChunkId]) -> tuple[set[ChunkId], set[ChunkId]]:
        """Which of these have a row, and of which damaged pages hide whether they have."""
        found: set[ChunkId] = set()
        unknown: set[ChunkId] = set()
        ordered = sorted(chunk_ids)
        for at in range(0, len(ordered), _QUESTION_MAX):
            some = ordered[at : at + _QUESTION_MAX]
            try:
                found |= self._held(some)
            except ChunkDamaged:
                for chunk in some:
                    try:
                        found |= self._held([chunk])
                    except ChunkDamaged:
                        unknown.add(chunk)
        return found, unknown

    def _held(self, chunk_ids: Sequence[ChunkId]) -> set[ChunkId]:
        marks = ",".join("?" * len(chunk_ids))
        with self._errors("looking up chunks"):
            digests = [chunk.digest for chunk in chunk_ids]
            rows = self._current().execute(f"SELECT id FROM small_chunk WHERE id IN ({marks})", digests)
            return {ChunkId.from_digest(row[0]) for row in rows}

    def intact(self, chunk_ids: Sequence[ChunkId]) -> set[ChunkId]:
        """Which of these have a row that is as it was written."""
        found: set[ChunkId] = set()
        with self._errors("looking at chunks"):
            for at in range(0, len(chunk_ids), _LOOK_MAX):
                digests = [chunk.digest for chunk in chunk_ids[at : at + _LOOK_MAX]]
                marks = ",".join("?" * len(digests))
                rows = self._current().execute(f"SELECT id, record FROM small_chunk WHERE id IN ({marks})", digests)
                for digest, record in rows:
                    if is_intact(record, chunk := ChunkId.from_digest(digest)):
                        found.add(chunk)
        return found

    def listing(self, first_byte: int) -> list[tuple[ChunkId, int]]:
        """Ids that begin with this byte, and the bytes of their records."""
        sql = "SELECT id, length(record) FROM small_chunk WHERE id >= ?"
        values = [bytes([first_byte])]
        if first_byte < 255:
            sql, values = f"{sql} AND id < ?", [*values, bytes([first_byte + 1])]
        with self._errors("listing chunks"):
            return [(ChunkId.from_digest(row[0]), row[1]) for row in self._current().execute(sql, values)]

    def totals(self) -> tuple[int, int]:
        """How many rows, and the bytes of their records."""
        with self._errors("counting chunks"):
            row = self._current().execute("SELECT count(*), coalesce(sum(length(record)), 0) FROM small_chunk").get
        return cast(tuple[int, int], row)

    # -- writing -------------------------------------------------------------------------------------------------------

    def put_many(self, records: Sequence[Record], keep: Callable[[ChunkId, bytes], None]) -> set[ChunkId]:
        """Store these in one transaction; returns those that had no good row. `keep` gets the damaged ones first."""

        def put(db: apsw.Connection) -> set[ChunkId]:
            new = set()
            for record in records:
                row = db.execute("SELECT record FROM small_chunk WHERE id = ?", (record.id.digest,)).fetchone()
                if row is not None and not is_damaged(row[0], record.id):
                    continue
                if row is not None:
                    keep(record.id, bytes(row[0]))
                db.execute("INSERT OR REPLACE INTO small_chunk VALUES (?, ?)", (record.id.digest, record.encoded))
                new.add(record.id)
            return new

        return self._write("writing small chunks", put)

    def delete_many(self, chunk_ids: Iterable[ChunkId]) -> list[tuple[ChunkId, int]]:
        """Remove rows; returns the ids that had one, and the bytes of their records."""
        digests = [(chunk.digest,) for chunk in chunk_ids]

        def delete(db: apsw.Connection) -> list[tuple[ChunkId, int]]:
            rows = db.executemany("DELETE FROM small_chunk WHERE id = ? RETURNING id, length(record)", digests)
            return [(ChunkId.from_digest(row[0]), row[1]) for row in rows]

        return self._write("deleting small chunks", delete) if digests else []

    def delete(self, chunk_id: ChunkId, record: bytes) -> None:
        """Remove a row if it still is this record."""

        def delete(db: apsw.Connection) -> None:
            db.execute("DELETE FROM small_chunk WHERE id = ? AND record = ?", (chunk_id.digest, record))

        self._write("quarantine", delete)

    def salvage(self) -> None:
        """Go on with a new database, to which what can be read of this one is copied: its pages are damaged."""
        with self._errors("salvage"):
            self._current()
        self._salvage(self._local.small[1])

    def _write(self, doing: str, action: Callable[[apsw.Connection], T]) -> T:
        """One transaction on the newest database. Damaged pages in its way: what is good goes to the next one, then
        again."""
        while True:
            which = (0, 0)
            try:
                with self._errors(doing):
                    db = self._current()
                    which = self._local.small[1]
                    with self._turn, _transaction(db):
                        if self._is_current(which):
                            return action(db)
            except ChunkDamaged:
                self._salvage(which)

    # -- the databases -------------------------------------------------------------------------------------------------

    def _current(self) -> apsw.Connection:
        """This thread's connection to the newest database."""
        db, which = getattr(self._local, "small", (None, (0, 0)))
        if db is None or not self._is_current(which):
            db, which = self._open()
            self._local.small = (db, which)
            with self._lock:
                self._connections.add(db)
        return cast(apsw.Connection, db)

    def _is_current(self, which: _Which) -> bool:
        """Whether the database is still the one in its place, and has no successor."""
        number, inode = which
        try:
            there = os.stat(self._path(number)).st_ino == inode
        except FileNotFoundError:
            return False
        return there and not os.path.exists(self._path(number + 1))

    def _path(self, number: int) -> str:
        return f"{self._node}/small-{number}.db"

    def _open(self) -> tuple[apsw.Connection, _Which]:
        """Open it. If it is gone or no database any more, the next is begun."""
        with self._locked():
            number = newest_small(self._node)
            try:
                db = open_small(Path(self._path(number)), self._disk.sync)
            except (NoStore, StoreDamaged) as error:  # not what has a passing cause: too many open files, a lock
                log.warning("node %s: %s; its small chunks will be healed from other nodes", self._node, error)
                number += 1
                create_small(Path(self._path(number)))
                self._disk.sync_folder(self._node)
                db = open_small(Path(self._path(number)), self._disk.sync)
            except Unsupported:
                raise
            except DfsError as error:
                raise NodeFailed(f"node {self._node}: {error}") from error
            return db, (number, os.stat(self._path(number)).st_ino)

    def _salvage(self, which: _Which) -> None:
        """Copy what can be read of a database with damaged pages to the next one.

        The old one's write lock is held until the new one is in place, and writers look again once they have it.
        """
        number, _ = which
        draft = self._node / f"small-{number + 1}.draft"
        with self._errors("salvage"), self._locked():
            if not self._is_current(which):
                return
            create_small(draft)
            with contextlib.ExitStack() as stack:
                with contextlib.suppress(NoStore, StoreDamaged):  # nothing of it can be read any more
                    old = stack.enter_context(contextlib.closing(open_small(Path(self._path(number)), self._disk.sync)))
                    old.execute("BEGIN IMMEDIATE")
                    with contextlib.closing(open_small(draft, self._disk.sync)) as new, new:
                        new.executemany("INSERT OR IGNORE INTO small_chunk VALUES (?, ?)", readable_rows(old))
                self._disk.rename(draft, self._path(number + 1))
                self._disk.sync_folder(self._node)
            log.warning("node %s: small-%d.db has damaged pages; what was good is kept", self._node, number)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time opens or replaces a database of this node."""
        with open(self._node / "node.json") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (apsw.Error, OSError) as error:
            if _is_damage(error):
                raise ChunkDamaged(f"{doing}: the small chunks of node {self._node} are damaged: {error}") from error
            if getattr(error, "extendedresult", 0) in _FAILED_SYNC or isinstance(error, SyncFailed):
                mark_suspect(self._disk, self._node, error)
            raise NodeFailed(f"{doing}: the small chunks of node {self._node}: {error}") from error

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            for db in list(self._connections):
                db.close()
            self._connections.clear()
        self._local = threading.local()


@contextlib.contextmanager
def _transaction(db: apsw.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _is_damage(error: BaseException) -> bool:
    """A wrong checksum or structure, or pages that cannot be read; not a disk that does not answer now."""
    if isinstance(error, apsw.IOError):
        return getattr(error, "extendedresult", 0) in _DAMAGE
    return isinstance(error, (apsw.CorruptError, apsw.NotADBError))
