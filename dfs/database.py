"""SQLite as the store uses it: made whole or not at all, opened with every setting read back, its errors told apart.

`Database` is what the namespace is built on: one connection a thread, one writer at a time.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import apsw.sqlite_extra

from dfs.errors import DfsError, NoStore, StoreDamaged, StoreLocked, Unsupported
from dfs.one_process import OneProcess
from dfs.options import BUSY_TIMEOUT_MS

Connection = apsw.Connection
_VFS = "cksmvfs"
_VFS_LOCK = threading.Lock()
_DAMAGE = {apsw.SQLITE_IOERR_DATA, apsw.SQLITE_IOERR_CORRUPTFS, apsw.SQLITE_IOERR_SHORT_READ}  # other I/O may pass
CACHE_KIB = 16 << 10  # of a connection: what a transaction of 10,000 files changes must fit, else it is written twice
WAL_PAGES = 4096  # 16 MiB: the log is copied into the file, with two fsyncs, every few such transactions
_WAL_HEAD, _FRAME_HEAD = 32, 24  # bytes; a frame begins with its page's number (sqlite.org/fileformat2.html, 4.1)
_PAGE_TRIES = 3  # a page that a checkpoint writes just now may be read half old, half new


def create_database(path: Path, schema: str, application_id: int, version: int) -> None:
    """Make a database under a temporary name and rename it into place: it exists whole or not at all."""
    _load_checksums()
    temp = path.with_name(path.name + ".new")
    temp.unlink(missing_ok=True)
    db = apsw.Connection(str(temp), vfs=_VFS)
    try:
        db.reserve_bytes(reserve=8)
        _demand(db, "journal_mode", "wal", "wal")
        db.execute(
            f"BEGIN; {schema}; PRAGMA application_id = {application_id}; PRAGMA user_version = {version}; COMMIT"
        )
    finally:
        db.close()
    os.rename(temp, path)


def open_database(path: Path, application_id: int, version: int, durable: bool = True) -> apsw.Connection:
    """Open a database that `create_database` made, with every setting read back. Without `durable` nothing is fsynced.

    Raises NoStore when it is missing or foreign, Unsupported when newer, StoreDamaged when empty, truncated or corrupt,
    DfsError when it cannot be opened now (too many open files, no permission, disk full), which is no damage.
    """
    _load_checksums()
    if not path.exists():
        raise NoStore(f"there is no {path}; only `dfs init` makes a store")
    with _told(path):
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=_VFS)
        try:
            _prepare(db, path, application_id, version, durable)
        except apsw.SQLError as error:
            db.close()
            raise StoreDamaged(f"{path} is damaged: {error}") from error
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: apsw.Connection, path: Path, application_id: int, version: int, durable: bool) -> None:
    _check_file(db, path)
    db.set_busy_timeout(BUSY_TIMEOUT_MS)
    found = db.pragma("application_id")
    if found != application_id:
        raise NoStore(f"{path} is not a database of this store (application id {found:#x})")
    if db.pragma("user_version") > version:
        raise Unsupported(f"{path} has format {db.pragma('user_version')} of a newer release; update millrace")
    _demand(db, "journal_mode", None, "wal")
    _demand(db, "synchronous", *(("FULL", 2) if durable else ("OFF", 0)))
    _demand(db, "foreign_keys", "ON", 1)
    _demand(db, "checksum_verification", "ON", 1)
    _demand(db, "cache_size", str(-CACHE_KIB), -CACHE_KIB)
    _demand(db, "wal_autocheckpoint", str(WAL_PAGES), WAL_PAGES)


def _check_file(db: apsw.Connection, path: Path) -> None:
    """Refuse what SQLite would take for a new database, or would only notice when it reads the missing part.

    It is read through SQLite: to close another handle of the file would drop the locks that this process has on it.
    """
    head, size = db.read("main", 0, 0, 100)[1], path.stat().st_size
    if size == 0:
        raise StoreDamaged(f"{path} is empty; it is refused, so that nothing is lost by starting anew")
    if size < 100 or head[:16] != b"SQLite format 3\0":
        raise StoreDamaged(f"{path} is not an SQLite database any more")
    page = int.from_bytes(head[16:18], "big") or 1
    pages = int.from_bytes(head[28:32], "big")
    wal = Path(f"{path}-wal")
    if size < pages * (65536 if page == 1 else page) and not (wal.exists() and wal.stat().st_size):
        raise StoreDamaged(f"{path} is truncated: {size} bytes where its header says {pages} pages")


def _demand(db: apsw.Connection, name: str, value: str | None, expected: object) -> None:
    if value is not None:
        db.pragma(name, value)
    found = db.pragma(name)
    if str(found) != str(expected):
        raise DfsError(f"SQLite has {name} = {found} where {expected} is needed")


def _load_checksums() -> None:
    """Register cksumvfs, once a process; loading it needs some connection."""
    with _VFS_LOCK:
        if _VFS not in apsw.vfs_names():
            with contextlib.closing(apsw.Connection(":memory:")) as db:
                apsw.sqlite_extra.load(db, "cksumvfs")


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """SQLite's errors as the store's."""
    try:
        yield
    except apsw.BusyError as error:
        raise StoreLocked(
            f"{path}: another process held the lock for {BUSY_TIMEOUT_MS // 1000} s; retry later"
        ) from error
    except apsw.FullError as error:
        raise DfsError(
            f"{path} cannot be written: the disk is full; the store is read-only until there is space"
        ) from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StoreDamaged(f"{path} is damaged: {error}") from error
    except apsw.IOError as error:
        code = getattr(error, "extendedresult", None)
        if code in _DAMAGE:
            raise StoreDamaged(f"{path} is damaged: {error}") from error
        if code == apsw.SQLITE_IOERR_SHMSIZE:
            raise DfsError(f"{path} cannot be opened: the disk is full, and even reading needs 32 KiB") from error
        raise DfsError(f"{path} cannot be read or written now: {error}; look at the disk, then retry") from error
    except (apsw.CantOpenError, apsw.PermissionsError, apsw.NoMemError, apsw.ReadOnlyError) as error:
        raise DfsError(f"{path} cannot be opened or written now: {error}") from error


class Database:
    """One SQLite file, one connection a thread. Every method raises StoreDamaged on corruption, StoreLocked when it
    waited too long, and DfsError when the disk is full or fails."""

    def __init__(self, path: Path, application_id: int, version: int) -> None:
        self.path = path
        self._kind = (application_id, version)
        self._durable = True
        self._process = OneProcess()
        self._local = threading.local()
        self._connections: weakref.WeakSet[apsw.Connection] = weakref.WeakSet()  # a thread's ends with it
        self._lock = threading.Lock()

    def connect(self) -> apsw.Connection:
        """Another connection, which the caller closes."""
        self._process.check()
        return open_database(self.path, *self._kind, self._durable)

    def db(self) -> apsw.Connection:
        """This thread's connection."""
        self._process.check()
        db: apsw.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = self.connect()
            with self._lock:
                self._connections.add(db)
        return db

    def close(self) -> None:
        """Close all connections. Idempotent."""
        with self._lock:
            for db in list(self._connections):
                db.close()
            self._connections.clear()
        self._local = threading.local()

    def disconnect(self) -> None:
        """Close this thread's connection; the next question opens another."""
        db: apsw.Connection | None = getattr(self._local, "db", None)
        if db is not None:
            self._local.db = None
            db.close()

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a question."""
        with _told(self.path):
            return self.db().execute(sql, values).fetchall()

    @contextlib.contextmanager
    def write(self) -> Iterator[apsw.Connection]:
        """The one write lock, held for the body; committed at its end, rolled back when it raises."""
        with _told(self.path):
            db = self.db()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    @contextlib.contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """A connection of its own that sees one state for the body, whatever is committed meanwhile."""
        with _told(self.path), contextlib.closing(self.connect()) as db:
            db.execute("BEGIN")
            yield db

    def check(self) -> list[str]:
        """Faults of the file: what SQLite's own check finds, and pages (free ones too) whose checksum is wrong."""
        try:
            found = [str(row[0]) for row in self.rows("PRAGMA integrity_check")]
            found = [] if found == ["ok"] else found
            found += [f"table {row[0]} names what is not there" for row in self.rows("PRAGMA foreign_key_check")]
        except StoreDamaged as error:
            found = [str(error)]
        return found + self._bad_pages()

    def _bad_pages(self) -> list[str]:
        with _told(self.path):
            db = self.db()
            size: int = db.pragma("page_size")
            newer = self._pages_of_wal(size)
            return [
                f"{self.path} is damaged: page {page} has a wrong checksum"
                for page in range(1, self.path.stat().st_size // size + 1)
                if page not in newer and not any(_page_is_good(db, (page - 1) * size, size) for _ in range(_PAGE_TRIES))
            ]

    def _pages_of_wal(self, size: int) -> set[int]:
        """Pages whose present state is in the -wal file only: after a power cut, what the database file holds of them
        may be torn, and it is no damage. None are left when all of it can be copied into the database file now."""
        with contextlib.suppress(apsw.FullError, apsw.BusyError, apsw.IOError):
            _, frames, copied = self.db().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()[0]
            if frames == copied:
                return set()
        with contextlib.suppress(OSError), open(f"{self.path}-wal", "rb") as file:
            frames = range(_WAL_HEAD, os.fstat(file.fileno()).st_size, _FRAME_HEAD + size)
            return {int.from_bytes(os.pread(file.fileno(), 4, at), "big") for at in frames}
        return set()

    def copy_to(self, target: Path) -> None:
        """A consistent copy under another name, durable when this returns; what is there is replaced."""
        temp = target.with_name(target.name + ".new")
        temp.unlink(missing_ok=True)
        try:
            self._copy(temp)
            os.rename(temp, target)
        finally:
            temp.unlink(missing_ok=True)
        _sync(target.parent)

    def _copy(self, target: Path) -> None:
        with (
            _told(self.path),
            contextlib.closing(self.connect()) as source,
            contextlib.closing(apsw.Connection(str(target), vfs=_VFS)) as db,
        ):
            db.reserve_bytes(reserve=8)
            db.pragma("user_version", 1)  # writes the first page: cksumvfs must have seen it before a large copy spills
            with db.backup("main", source, "main") as backup:
                backup.step()
        _sync(target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _page_is_good(db: apsw.Connection, offset: int, size: int) -> bool:
    """Read a page of the file past all caches; the VFS verifies what it reads."""
    try:
        whole, _ = db.read("main", 0, offset, size)
    except apsw.IOError:
        return False
    return whole
