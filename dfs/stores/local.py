"""A node in a local folder: one file per chunk, small chunks in SQLite (layout and write protocol:
docs/formats/chunk.md)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import apsw

from dfs.chunk_store import ChunkStore
from dfs.codec import Record, decode
from dfs.errors import AlreadyExists, ChunkDamaged, ChunkMissing, NodeFailed, NoStore, StoreDamaged, Unsupported
from dfs.ids import ChunkId
from dfs.metadata import create_database, open_database
from dfs.oplog import sync_folder
from dfs.options import SMALL_CHUNK_BYTES

log = logging.getLogger("dfs")

FORMAT = 1
SMALL_DB_APPLICATION_ID = 0x4D52534D  # "MRSM"
_SMALL_SCHEMA = "CREATE TABLE small_chunk(id BLOB PRIMARY KEY CHECK(length(id) = 32), record BLOB NOT NULL) STRICT"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MEDIA_ERRORS = (errno.EIO, errno.ELOOP, errno.EISDIR, getattr(errno, "EUCLEAN", errno.EIO))


def create_node(path: Path, store_uuid: str) -> str:
    """Make a node folder for a store; returns its new uuid. Raises AlreadyExists when the folder is a node already."""
    if (path / "node.json").exists():
        raise AlreadyExists(f"{path} is a node of a store already; choose another folder")
    node_id = str(uuid.uuid4())
    for name in ("tmp", "quarantine", "oplog", *(f"chunks/{byte:02x}" for byte in range(256))):
        (path / name).mkdir(parents=True, exist_ok=True)
    sync_folder(path / "chunks")
    create_database(path / "small.db", _SMALL_SCHEMA, SMALL_DB_APPLICATION_ID, FORMAT)
    identity = json.dumps({"format": FORMAT, "uuid": node_id, "store": store_uuid})
    with open(path / "node.json", "x") as file:
        file.write(identity + "\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path)
    return node_id


def read_identity(path: Path) -> dict[str, object]:
    """A node folder's identity. Raises NodeFailed when it is absent or unreadable, Unsupported when it is newer."""
    try:
        identity = json.loads((path / "node.json").read_text())
    except (OSError, ValueError) as error:
        raise NodeFailed(f"node folder {path} cannot be used: {error}") from None
    if not isinstance(identity, dict) or not isinstance(identity.get("format"), int):
        raise NodeFailed(f"node folder {path} cannot be used: its node.json is damaged")
    if identity["format"] > FORMAT:
        raise Unsupported(f"node folder {path} has format {identity['format']} of a newer release; update millrace")
    return identity


class LocalChunkStore(ChunkStore):
    """The chunks under one node folder. Raises NodeFailed when the folder is not the node `node_id`."""

    def __init__(self, path: Path, node_id: str) -> None:
        self.path = path
        self.node_id = node_id
        if read_identity(path).get("uuid") != node_id:
            raise NodeFailed(f"node folder {path} is not node {node_id} of this store (another disk mounted there?)")
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []
        self._lock = threading.Lock()
        self._small()  # a damaged small.db is found now, not in the middle of a job
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
                names += os.listdir(self.path / "chunks" / folder)
        except OSError as error:
            raise NodeFailed(f"node {self.path}: {error}") from error
        with self._sqlite("listing chunks"):
            names += [row[0] for row in self._small().execute("SELECT lower(hex(id)) FROM small_chunk")]
        return (ChunkId.parse(name) for name in sorted(set(names)) if len(name) == 64)

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
                self._synced_fd(file.fileno())
                if not os.path.isdir(os.path.dirname(final)):
                    os.makedirs(os.path.dirname(final), exist_ok=True)
                    self._synced(self.path / "chunks")
                os.link(temp, final, follow_symlinks=False)
            except FileExistsError:
                return False
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temp)
        return True

    def _put_small(self, records: Sequence[Record]) -> set[ChunkId]:
        if not records:
            return set()
        new = set()
        bad: dict[ChunkId, bytes] = {}
        with self._sqlite("writing small chunks"):
            db = self._small()
            db.execute("BEGIN IMMEDIATE")
            try:
                for record in records:
                    row = db.execute("SELECT record FROM small_chunk WHERE id = ?", (record.id.digest,)).fetchone()
                    if row is not None and _damaged(row[0], record.id):
                        bad[record.id] = bytes(row[0])
                    elif row is not None:
                        continue
                    db.execute("INSERT OR REPLACE INTO small_chunk VALUES (?, ?)", (record.id.digest, record.encoded))
                    new.add(record.id)
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
        for chunk_id, record_bytes in bad.items():
            self._keep(chunk_id, record_bytes)
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
        try:
            os.rename(self._file(chunk_id), self._quarantine_name(chunk_id))
            self._synced(self.path / "chunks" / chunk_id[:2])
        except FileNotFoundError:
            self._keep(chunk_id, record)
            with self._sqlite("quarantine"):
                self._small().execute("DELETE FROM small_chunk WHERE id = ? AND record = ?", (chunk_id.digest, record))
        except OSError as error:
            raise NodeFailed(f"node {self.path}: {error}") from error

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
            self._synced_fd(handle)
        finally:
            os.close(handle)

    def _synced_fd(self, handle: int) -> None:
        """fsync; a failure is never retried (the kernel may have dropped the pages): the node is marked suspect."""
        try:
            os.fsync(handle)
        except OSError as error:
            with contextlib.suppress(OSError):
                (self.path / "suspect").write_text(f"fsync failed: {error}\n")
            raise

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
        """This thread's connection to the small.db that is there now."""
        db, inode = getattr(self._local, "db", (None, 0))
        try:
            if db is not None and os.stat(self.path / "small.db").st_ino == inode:
                return db  # type: ignore[no-any-return]
        except FileNotFoundError:
            pass
        db = self._opened_small()
        self._local.db = (db, os.stat(self.path / "small.db").st_ino)
        with self._lock:
            self._connections.append(db)
        return db

    def _opened_small(self) -> apsw.Connection:
        """Open small.db. One that is gone or no database any more is set aside and begun anew: its chunks are healed
        from other nodes."""
        path = self.path / "small.db"
        with open(self.path / "node.json") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                return open_database(path, SMALL_DB_APPLICATION_ID, FORMAT)
            except (NoStore, StoreDamaged) as error:
                log.warning("node %s: %s; its small chunks will be healed from other nodes", self.path, error)
            for name in ("small.db", "small.db-wal", "small.db-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.path / name, self.path / "quarantine" / f"{name}.{secrets.token_hex(4)}")
            create_database(path, _SMALL_SCHEMA, SMALL_DB_APPLICATION_ID, FORMAT)
            return open_database(path, SMALL_DB_APPLICATION_ID, FORMAT)

    @contextlib.contextmanager
    def _sqlite(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (apsw.IOError, apsw.CorruptError) as error:
            raise ChunkDamaged(f"{doing}: small.db of node {self.path} is damaged: {error}") from error
        except apsw.Error as error:
            raise NodeFailed(f"{doing}: small.db of node {self.path}: {error}") from error

    def close(self) -> None:
        with self._lock:
            for db in self._connections:
                db.close()
            self._connections.clear()
        self._local = threading.local()


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
