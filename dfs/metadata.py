"""The namespace in SQLite: opening it safely, and every question about it. Transactions are in `dfs.transactions`.

The tables are temporal (dfs/schema.sql, docs/formats/namespace.md): a question is asked *at* a transaction number, and
answered by rows with `from_txn <= at < to_txn`. So a caller that fixes `at` sees one state, whatever is committed
meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import apsw
import apsw.sqlite_extra

from dfs.changes import ChunkRef
from dfs.chunking import RecordsMode
from dfs.errors import DfsError, NoStore, NotFound, StoreDamaged, StoreLocked, Unsupported, WrongKind
from dfs.ids import ChunkId
from dfs.options import BUSY_TIMEOUT_MS
from dfs.paths import join

APPLICATION_ID = 0x4D524446  # "MRDF"
FORMAT = 1
FOREVER = 1 << 62
ROOT = 1
_VFS = "cksmvfs"
_VFS_LOCK = threading.Lock()


@dataclass(frozen=True)
class FileInfo:
    """What is at a path. Sizes in bytes; for a folder size is 0, records None, chunk_count 0, content_id and
    records_mode ""."""

    path: str
    kind: Literal["file", "dir"]
    size: int
    records: int | None
    chunk_count: int
    content_id: str
    version: int
    records_mode: RecordsMode | Literal[""]


@dataclass(frozen=True)
class Found:
    """A resolved path: its node, kind, and the newest `from_txn` on the way to it."""

    node: int
    kind: str
    since: int


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


def open_database(path: Path, application_id: int, version: int) -> apsw.Connection:
    """Open a database that `create_database` made, with every setting read back.

    Raises NoStore when it is missing or foreign, Unsupported when newer, StoreDamaged when empty, truncated or corrupt,
    DfsError when it cannot be opened now (too many open files, no permission), which is no damage.
    """
    _load_checksums()
    if not path.exists():
        raise NoStore(f"there is no {path}; only `dfs init` makes a store")
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=_VFS)
        _check_file(db, path)
        db.set_busy_timeout(BUSY_TIMEOUT_MS)
        found = db.pragma("application_id")
        if found != application_id:
            db.close()
            raise NoStore(f"{path} is not a database of this store (application id {found:#x})")
        if db.pragma("user_version") > version:
            raise Unsupported(f"{path} has format {db.pragma('user_version')} of a newer release; update millrace")
        _demand(db, "journal_mode", None, "wal")
        _demand(db, "synchronous", "FULL", 2)
        _demand(db, "foreign_keys", "ON", 1)
        _demand(db, "checksum_verification", "ON", 1)
    except apsw.BusyError as error:
        raise StoreLocked(f"{path} is locked by another process") from error
    except (apsw.CantOpenError, apsw.PermissionsError, apsw.NoMemError) as error:
        raise DfsError(f"{path} cannot be opened now: {error}") from error
    except apsw.Error as error:
        raise StoreDamaged(f"{path} is damaged: {error}") from error
    return db


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


class Namespace:
    """`store.db`, one connection a thread. Every method raises StoreDamaged on corruption and StoreLocked when it
    waited too long."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._connections: weakref.WeakSet[apsw.Connection] = weakref.WeakSet()  # a thread's ends with it
        self._lock = threading.Lock()
        self.db()

    @classmethod
    def create(cls, path: Path, settings: dict[str, Any], nodes: list[tuple[str, str]]) -> None:
        """Make `store.db` with its settings and nodes (uuid, path)."""
        schema = resources.files("dfs").joinpath("schema.sql").read_text()
        draft = path.with_name(path.name + ".init")
        draft.unlink(missing_ok=True)
        create_database(draft, schema, APPLICATION_ID, FORMAT)
        with contextlib.closing(open_database(draft, APPLICATION_ID, FORMAT)) as db, db:
            db.executemany("INSERT INTO store VALUES (?, ?)", list(settings.items()))
            db.executemany("INSERT INTO storage_node VALUES (?, ?, 1.0)", nodes)
        os.rename(draft, path)

    def db(self) -> apsw.Connection:
        """This thread's connection."""
        db: apsw.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = open_database(self.path, APPLICATION_ID, FORMAT)
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

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a question."""
        with self._errors():
            return self.db().execute(sql, values).fetchall()

    @contextlib.contextmanager
    def write(self) -> Iterator[apsw.Connection]:
        """The store's one write lock, held for the body; committed at its end, rolled back when it raises."""
        with self._errors():
            db = self.db()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except apsw.BusyError as error:
            raise StoreLocked(
                f"{self.path}: another writer held the lock for {BUSY_TIMEOUT_MS // 1000} s; retry later"
            ) from error
        except (apsw.FullError, apsw.ReadOnlyError, apsw.CantOpenError) as error:
            raise DfsError(f"{self.path} cannot be written: {error}") from error
        except (apsw.IOError, apsw.CorruptError, apsw.NotADBError) as error:
            raise StoreDamaged(f"{self.path} is damaged: {error}") from error

    # -- questions ---------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """What `dfs init` fixed."""
        return dict(self.rows("SELECT key, value FROM store"))

    def nodes(self) -> list[tuple[str, str, float]]:
        """(uuid, path, weight) of every node, by uuid."""
        return self.rows("SELECT id, path, weight FROM storage_node ORDER BY id")

    def last(self) -> tuple[int, str | None]:
        """(number, chain) of the newest transaction; (0, None) when there is none."""
        rows = self.rows("SELECT id, lower(hex(chain)) FROM txn ORDER BY id DESC LIMIT 1")
        return rows[0] if rows else (0, None)

    def time_ms(self, txn: int) -> int:
        """When a transaction was committed, in ms since the epoch by its writer's clock; 0 for the empty store."""
        rows = self.rows("SELECT time_ms FROM txn WHERE id = ?", txn)
        return int(rows[0][0]) if rows else 0

    def resolve(self, path: str, at: int) -> Found | None:
        """What a normalised path leads to, or None."""
        found = Found(ROOT, "dir", 0)
        for name in path.split("/") if path else ():
            rows = self.rows(
                "SELECT d.node, n.kind, d.from_txn FROM dentry d JOIN node n ON n.id = d.node"
                " WHERE d.parent = ? AND d.name = ? AND d.from_txn <= ? AND d.to_txn > ?",
                *(found.node, name, at, at),
            )
            if not rows:
                return None
            node, kind, since = rows[0]
            found = Found(node, kind, max(found.since, since))
        return found

    def need(self, path: str, at: int, kind: str | None = None) -> Found:
        """Like `resolve`; raises NotFound, or WrongKind when it is not a "file" or "dir" as asked for."""
        found = self.resolve(path, at)
        if found is None:
            raise NotFound(f"no such file or folder: dfs://{path}")
        if kind is not None and found.kind != kind:
            raise WrongKind(f"dfs://{path} is a {'folder' if found.kind == 'dir' else 'file'}")
        return found

    def version(self, path: str, at: int) -> int | None:
        """docs/formats/namespace.md, "Version of a path"."""
        found = self.resolve(path, at)
        return None if found is None else self._version(found, at)

    def _version(self, found: Found, at: int) -> int:
        if found.kind == "file":
            return found.since
        rows = self.rows(
            "WITH RECURSIVE tree(node) AS (SELECT ?1 UNION"
            "  SELECT d.node FROM tree JOIN dentry d ON d.parent = tree.node WHERE d.from_txn <= ?2 AND d.to_txn > ?2)"
            " SELECT max(iif(d.to_txn <= ?2, d.to_txn, d.from_txn)) FROM tree JOIN dentry d ON d.parent = tree.node"
            " WHERE d.from_txn <= ?2",
            *(found.node, at),
        )
        return max(found.since, rows[0][0] or 0)

    def stat(self, path: str, at: int) -> FileInfo:
        """One path. Raises NotFound."""
        found = self.need(path, at)
        if found.kind == "dir":
            return self._folder(path, found, at)
        return self._files([(path, found.since, found.node)])[0]

    def find(self, path: str, at: int) -> list[FileInfo]:
        """Every file at or below, in bytewise order of paths, by one query. Raises NotFound."""
        found = self.need(path, at)
        rows = self.rows(
            "WITH RECURSIVE tree(path, since, node) AS (SELECT ?1, ?2, ?3 UNION ALL"
            "  SELECT iif(tree.path = '', d.name, tree.path || '/' || d.name), max(tree.since, d.from_txn), d.node"
            "  FROM tree JOIN dentry d ON d.parent = tree.node WHERE d.from_txn <= ?4 AND d.to_txn > ?4)"
            f" SELECT tree.path, tree.since, {_FILE_COLUMNS} FROM tree JOIN file f ON f.node = tree.node"
            " ORDER BY tree.path",
            *(path, found.since, found.node, at),
        )
        return [_file_info(row) for row in rows]

    def ls(self, path: str, at: int) -> list[FileInfo]:
        """A folder's entries by name, or the one file. Raises NotFound."""
        found = self.need(path, at)
        if found.kind == "file":
            return [self.stat(path, at)]
        rows = self.rows(
            f"SELECT d.name, max(d.from_txn, ?2), {_FILE_COLUMNS}, d.node"
            " FROM dentry d LEFT JOIN file f ON f.node = d.node"
            " WHERE d.parent = ?1 AND d.from_txn <= ?3 AND d.to_txn > ?3 ORDER BY d.name",
            *(found.node, found.since, at),
        )
        entries = []
        for name, since, *columns, node in rows:
            child = join(path, name)
            is_folder = columns[0] is None
            entries.append(
                self._folder(child, Found(node, "dir", since), at)
                if is_folder
                else _file_info((child, since, *columns))
            )
        return entries

    def chunks(self, path: str, at: int) -> list[ChunkRef]:
        """A file's chunks in order. Raises NotFound, WrongKind."""
        found = self.need(path, at, "file")
        rows = self.rows(
            "SELECT chunk, offset, length, records, continues FROM file_chunk WHERE node = ? ORDER BY seq", found.node
        )
        return [ChunkRef(ChunkId.from_digest(i), offset, n, records, bool(c)) for i, offset, n, records, c in rows]

    def check(self) -> list[str]:
        """What SQLite's own check (with every page's checksum) finds wrong; empty when all is well."""
        try:
            found = [row[0] for row in self.rows("PRAGMA integrity_check")]
        except StoreDamaged as error:
            return [str(error)]
        return [] if found == ["ok"] else found

    def referenced(self) -> dict[ChunkId, int]:
        """Every chunk of every retained file -> its length in bytes."""
        rows = self.rows("SELECT chunk, max(length) FROM file_chunk GROUP BY chunk")
        return {ChunkId.from_digest(digest): length for digest, length in rows}

    def files_of(self, chunk_id: ChunkId, at: int) -> list[str]:
        """Paths of the files that hold this chunk now; an older version of a file is shown with the transaction that
        ended it."""
        rows = self.rows(
            "WITH RECURSIVE up(path, parent, ended) AS ("
            "  SELECT d.name, d.parent, d.to_txn FROM dentry d"
            "    WHERE d.node IN (SELECT node FROM file_chunk WHERE chunk = ?1) AND d.from_txn <= ?2"
            "  UNION SELECT d.name || '/' || up.path, d.parent, min(up.ended, d.to_txn)"
            "    FROM up JOIN dentry d ON d.node = up.parent)"
            " SELECT DISTINCT path, ended FROM up WHERE parent = 1 ORDER BY ended DESC, path",
            *(chunk_id.digest, at),
        )
        return [path if ended > at else f"{path} (until transaction {ended})" for path, ended in rows]

    def _folder(self, path: str, found: Found, at: int) -> FileInfo:
        return FileInfo(path, "dir", 0, None, 0, "", self._version(found, at), "")

    def _files(self, found: list[tuple[str, int, int]]) -> list[FileInfo]:
        query = f"SELECT {_FILE_COLUMNS} FROM file f WHERE f.node = ?"
        return [_file_info((path, since, *self.rows(query, node)[0])) for path, since, node in found]


_FILE_COLUMNS = "f.size, f.records, f.chunk_count, lower(hex(f.content_id)), f.records_mode"


def _file_info(row: tuple[Any, ...]) -> FileInfo:
    path, since, size, records, chunk_count, content, mode = row
    return FileInfo(path, "file", size, records, chunk_count, content, since, mode)
