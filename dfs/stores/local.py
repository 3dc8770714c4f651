"""A node in a local folder: one file per chunk, small chunks in SQLite (layout and write protocol:
docs/formats/chunk.md)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import apsw

from dfs.chunk_store import ChunkStore
from dfs.codec import Record, decode
from dfs.errors import (
    ChunkDamaged,
    ChunkMissing,
    DfsError,
    InvalidChunkId,
    NodeFailed,
    NoStore,
    StoreDamaged,
    Unsupported,
)
from dfs.ids import ChunkId
from dfs.oplog import sync_or_suspect
from dfs.options import SMALL_CHUNK_BYTES
from dfs.stores.node import create_small, newest_small, open_small, read_identity, readable_rows

log = logging.getLogger("dfs")

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MEDIA_ERRORS = (errno.EIO, errno.ELOOP, errno.EISDIR, getattr(errno, "EUCLEAN", errno.EIO))


class LocalChunkStore(ChunkStore):
    """The chunks under one node folder. Raises NodeFailed when the folder is not the node `node_id`."""

    def __init__(self, path: Path, node_id: str) -> None:
        self.path = path
        self.node_id = node_id
        if read_identity(path).get("uuid") != node_id:
            raise NodeFailed(f"node folder {path} is not node {node_id} of this store (another disk mounted there?)")
        self._folders: set[str] = set()
        self._local = threading.local()
        self._connections: weakref.WeakSet[apsw.Connection] = weakref.WeakSet()  # a thread's ends with it
        self._lock = threading.Lock()
        with self._sqlite("opening"):
            self._small()  # a lost database is found now, not in the middle of a job
        self._sweep()

    # -- reading -----------------------------------------------------------------------------------

    def get(self, chunk_id: ChunkId) -> bytes:
        return decode(self._read(chunk_id), chunk_id)

    def _read(self, chunk_id: ChunkId) -> bytes:
        try:
            with open(os.open(self._file(chunk_id), _READ), "rb", buffering=0) as file:
                return file.readall()
        except FileNotFoundError:
            return self._read_small(chunk_id)
        except OSError as error:
            if error.errno in _MEDIA_ERRORS:
                raise ChunkDamaged(f"chunk {chunk_id} on node {self.path}: {error.strerror}") from error
            raise NodeFailed(f"node {self.path}: {error}") from error

    def _read_small(self, chunk_id: ChunkId) -> bytes:
        with self._sqlite(f"chunk {chunk_id}"):
            row = self._small().execute("SELECT record FROM small_chunk WHERE id = ?", (chunk_id.digest,)).fetchone()
        if row is None:
            raise ChunkMissing(f"chunk {chunk_id} is not on node {self.path}")
        return bytes(row[0])

    def held(self, chunk_ids: Iterable[ChunkId]) -> set[ChunkId]:
        found, rest = set(), []
        for chunk_id in chunk_ids:
            if os.path.lexists(self._file(chunk_id)):
                found.add(chunk_id)
            else:
                rest.append(chunk_id)
        with self._sqlite("looking up chunks"):
            find = "SELECT 1 FROM small_chunk WHERE id = ?"
            db = self._small()
            found.update(i for i in rest if db.execute(find, (i.digest,)).fetchone())
        return found

    def ids(self) -> Iterator[ChunkId]:
        names = []
        try:
            for folder in os.listdir(self.path / "chunks"):
                if len(folder) == 2:
                    names += [name for name in os.listdir(self.path / "chunks" / folder) if name[:2] == folder]
        except FileNotFoundError:
            pass  # no chunk here needed a file yet, or they are gone, which is for fsck to tell
        except OSError as error:
            raise NodeFailed(f"node {self.path}: {error}") from error
        with self._sqlite("listing chunks"):
            names += [row[0] for row in self._small().execute("SELECT lower(hex(id)) FROM small_chunk")]
        return _chunk_ids(names)

    # -- writing -----------------------------------------------------------------------------------

    def put_many(self, records: Sequence[Record]) -> list[bool]:
        if (self.path / "suspect").exists():
            raise NodeFailed(
                f"node {self.path} is suspect after a failed fsync; check the disk, then remove {self.path / 'suspect'}"
            )
        small = [r for r in records if r.length < SMALL_CHUNK_BYTES]
        try:
            new = self._put_files([r for r in records if r.length >= SMALL_CHUNK_BYTES])
            new |= self._put_small(small)
        except OSError as error:
            raise NodeFailed(f"node {self.path} cannot be written to: {error.strerror or error}") from error
        except ChunkDamaged as error:
            raise NodeFailed(str(error)) from error
        flags = []
        for record in records:
            flags.append(record.id in new)
            new.discard(record.id)  # a duplicate within the batch is written once
        return flags

    def _put_files(self, records: Sequence[Record]) -> set[ChunkId]:
        new: set[ChunkId] = set()
        folders = set()
        for record in records:
            self.quarantine(record.id)
            if record.id not in new and self._write_file(record):
                new.add(record.id)
            folders.add(record.id[:2])  # also for one that was there: its writer may not have synced the folder yet
        for folder in folders:
            self._synced(self.path / "chunks" / folder)
        return new

    def _write_file(self, record: Record) -> bool:
        """Temp file -> fsync -> link; the caller syncs the folder. False when the name was there already."""
        final = self._file(record.id)
        if os.path.lexists(final):
            return False
        temp = self.path / "tmp" / f"{record.id}.{os.getpid()}.{secrets.token_hex(4)}"
        with self._new_temp(temp) as file:
            try:
                _write_all(file.fileno(), record.head)
                _write_all(file.fileno(), record.payload)
                sync_or_suspect(file.fileno(), self.path)
                self._ensure_folder(record.id[:2])
                os.link(temp, final, follow_symlinks=False)
            except FileExistsError:
                return False
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temp)
        return True

    def _ensure_folder(self, name: str) -> None:
        """A folder that is there may be another process's, not durable yet: it is synced once in each process."""
        folder = self.path / "chunks" / name
        if name not in self._folders or not folder.is_dir():
            folder.mkdir(exist_ok=True)
            self._synced(folder.parent)
            self._folders.add(name)

    def _put_small(self, records: Sequence[Record]) -> set[ChunkId]:
        if not records:
            return set()
        while True:
            which, new = (0, 0), None
            try:
                with self._sqlite("writing small chunks"):
                    db = self._small()
                    which = self._local.small[1]
                    new = self._put_rows(db, which, records)
            except ChunkDamaged as error:
                if not _is_page_damage(error.__cause__):
                    raise
                self._salvage_small(which)
            if new is not None:
                return new

    def _put_rows(self, db: apsw.Connection, which: tuple[int, int], records: Sequence[Record]) -> set[ChunkId] | None:
        """One transaction; None when the database was replaced before the write lock was ours."""
        new = set()
        db.execute("BEGIN IMMEDIATE")
        try:
            if not self._is_current(which):
                return None
            for record in records:
                row = db.execute("SELECT record FROM small_chunk WHERE id = ?", (record.id.digest,)).fetchone()
                if row is not None and not _damaged(row[0], record.id):
                    continue
                if row is not None:
                    self._keep(record.id, bytes(row[0]))
                db.execute("INSERT OR REPLACE INTO small_chunk VALUES (?, ?)", (record.id.digest, record.encoded))
                new.add(record.id)
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
        return new

    def quarantine(self, chunk_id: ChunkId) -> None:
        try:
            record = self._read(chunk_id)
        except ChunkMissing:
            return
        except ChunkDamaged:
            record = b""
        if not _damaged(record, chunk_id):
            return
        log.warning("quarantined a damaged copy of chunk %s on node %s", chunk_id, self.path)
        kept = self._quarantine_name(chunk_id)
        try:
            os.rename(self._file(chunk_id), kept)
            self._put_back(chunk_id, kept)
            self._synced(self.path / "chunks" / chunk_id[:2])
        except FileNotFoundError:
            self._keep(chunk_id, record)
            with self._sqlite("quarantine"):
                self._small().execute("DELETE FROM small_chunk WHERE id = ? AND record = ?", (chunk_id.digest, record))
        except OSError as error:
            raise NodeFailed(f"node {self.path}: {error}") from error

    def _put_back(self, chunk_id: ChunkId, kept: Path) -> None:
        """Undo the move of a good copy, which another writer put there after we had looked."""
        try:
            with open(os.open(kept, _READ), "rb") as file:
                good = not _damaged(file.read(), chunk_id)
        except OSError:
            return
        if good:
            with contextlib.suppress(FileExistsError):
                os.link(kept, self._file(chunk_id), follow_symlinks=False)
            os.unlink(kept)

    def _keep(self, chunk_id: ChunkId, record: bytes) -> None:
        with open(os.open(self._quarantine_name(chunk_id), _CREATE, 0o644), "wb") as file:
            file.write(record)

    def _quarantine_name(self, chunk_id: ChunkId) -> Path:
        return self.path / "quarantine" / f"{chunk_id}.{secrets.token_hex(4)}"

    # -- the folder --------------------------------------------------------------------------------

    def _file(self, chunk_id: ChunkId) -> str:
        return f"{self.path}/chunks/{chunk_id[:2]}/{chunk_id}"

    def _synced(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_or_suspect(handle, self.path)
        finally:
            os.close(handle)

    def _new_temp(self, temp: Path) -> BinaryIO:
        """Create a temp file and lock it; the sweep cannot come between the two."""
        with self._temp_lock(fcntl.LOCK_SH):
            file = open(os.open(temp, _CREATE, 0o644), "wb", buffering=0)  # noqa: SIM115 - the caller closes it
            fcntl.flock(file, fcntl.LOCK_EX)
        return cast(BinaryIO, file)

    def _sweep(self) -> None:
        """Remove temp files whose writer is gone: a living one holds the file's flock."""
        if not os.listdir(self.path / "tmp"):
            return
        with self._temp_lock(fcntl.LOCK_EX):
            for name in os.listdir(self.path / "tmp"):
                temp = self.path / "tmp" / name
                with contextlib.suppress(OSError), open(os.open(temp, _READ), "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(temp)

    @contextlib.contextmanager
    def _temp_lock(self, kind: int) -> Iterator[None]:
        handle = os.open(self.path / "tmp", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, kind)
            yield
        finally:
            os.close(handle)

    # -- SQLite ------------------------------------------------------------------------------------

    def _small(self) -> apsw.Connection:
        """This thread's connection to the newest database of small chunks."""
        db, which = getattr(self._local, "small", (None, (0, 0)))
        if db is None or not self._is_current(which):
            db, which = self._open_small()
            self._local.small = (db, which)
            with self._lock:
                self._connections.add(db)
        return cast(apsw.Connection, db)

    def _is_current(self, which: tuple[int, int]) -> bool:
        """Whether the database (number, inode) is still the one in its place, and has no successor."""
        number, inode = which
        try:
            there = os.stat(self.path / f"small-{number}.db").st_ino == inode
        except FileNotFoundError:
            return False
        return there and not (self.path / f"small-{number + 1}.db").exists()

    def _open_small(self) -> tuple[apsw.Connection, tuple[int, int]]:
        """Open it. If it is gone or no database any more, the next is begun: its chunks are healed from other nodes."""
        with open(self.path / "node.json") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            number = newest_small(self.path)
            try:
                db = open_small(self.path / f"small-{number}.db")
            except (NoStore, StoreDamaged) as error:  # not what has a passing cause: too many open files, a lock
                log.warning("node %s: %s; its small chunks will be healed from other nodes", self.path, error)
                number += 1
                create_small(self.path / f"small-{number}.db")
                db = open_small(self.path / f"small-{number}.db")
            except Unsupported:
                raise
            except DfsError as error:
                raise NodeFailed(f"node {self.path}: {error}") from error
            return db, (number, os.stat(self.path / f"small-{number}.db").st_ino)

    def _salvage_small(self, which: tuple[int, int]) -> None:
        """Copy what can be read of a database with damaged pages to the next one; the rest is healed from other nodes.

        The old one's write lock is held until the new one is in place, and writers look again once they have it.
        """
        number, _ = which
        draft = self.path / f"small-{number + 1}.draft"
        with open(self.path / "node.json") as lock, self._sqlite("salvage"):
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._is_current(which):
                return
            create_small(draft)
            with contextlib.closing(open_small(self.path / f"small-{number}.db")) as old:
                old.execute("BEGIN IMMEDIATE")
                with contextlib.closing(open_small(draft)) as new, new:
                    new.executemany("INSERT OR IGNORE INTO small_chunk VALUES (?, ?)", readable_rows(old))
                os.rename(draft, self.path / f"small-{number + 1}.db")
                self._synced(self.path)
            log.warning("node %s: small-%d.db has damaged pages; what was good is kept", self.path, number)

    @contextlib.contextmanager
    def _sqlite(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (apsw.IOError, apsw.CorruptError) as error:
            raise ChunkDamaged(f"{doing}: the small chunks of node {self.path} is damaged: {error}") from error
        except (apsw.Error, OSError) as error:
            raise NodeFailed(f"{doing}: the small chunks of node {self.path}: {error}") from error

    def close(self) -> None:
        with self._lock:
            for db in list(self._connections):
                db.close()
            self._connections.clear()
        self._local = threading.local()


def _chunk_ids(names: Sequence[str]) -> Iterator[ChunkId]:
    for name in sorted(set(names)):
        with contextlib.suppress(InvalidChunkId):  # somebody else's file
            yield ChunkId.parse(name)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _damaged(record: bytes, chunk_id: ChunkId) -> bool:
    try:
        decode(record, chunk_id)
    except ChunkDamaged:
        return True
    except Unsupported:
        return False
    return False


def _is_page_damage(error: BaseException | None) -> bool:
    """A wrong checksum or structure; not a disk that does not answer."""
    damage = isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA
    return damage or isinstance(error, apsw.CorruptError)
