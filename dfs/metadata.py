"""The namespace in SQLite: every question about it. Transactions are in `dfs.transactions`.

The tables are temporal (dfs/schema.sql, docs/formats/namespace.md): a question is asked *at* a transaction number, and
answered by rows with `from_txn <= at < to_txn`. So a caller that fixes `at` sees one state, whatever is committed
meanwhile.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from dfs.changes import ChunkRef
from dfs.chunking import RecordsMode
from dfs.database import Database, create_database, open_database
from dfs.errors import NotFound, UsageProblem, WrongKind
from dfs.history import Difference, PathVersion, compare, versions_of
from dfs.ids import ChunkId
from dfs.marking import ROOT, marked, needed_chunks, paths_of
from dfs.migration import FORMAT, migrate
from dfs.options import REPLICAS
from dfs.paths import join

APPLICATION_ID = 0x4D524446  # "MRDF"
RETENTION_DAYS = 7


class FileInfo(Struct, frozen=True):
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


class StorageNode(Struct, frozen=True):
    """A node as the namespace knows it; `capacity` in bytes, None: what the disk has."""

    id: str
    path: str
    weight: float
    capacity: int | None
    state: Literal["active", "draining"]


class Snapshot(Struct, frozen=True):
    """A name for a transaction's number, and when it was given (ms since the epoch)."""

    name: str
    txn: int
    time_ms: int


class Totals(Struct, frozen=True):
    """Sums over files: each counted as often as it is there (`logical_bytes`), and each chunk once (`unique_*`)."""

    files: int
    folders: int
    logical_bytes: int
    unique_chunks: int
    unique_bytes: int


class Found(Struct, frozen=True):
    """A resolved path: its node, kind, and the newest `from_txn` on the way to it."""

    node: int
    kind: str
    since: int


__all__ = ["Difference", "FileInfo", "Found", "Namespace", "PathVersion", "Snapshot", "StorageNode", "Totals"]


class Namespace(Database):
    """`store.db`, opened; one of an older format is migrated first. Raises as `open_database`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, APPLICATION_ID, FORMAT)
        migrate(self)
        self._durable = self.settings()["durability"] != "none"
        if not self._durable:
            self.disconnect()  # it was opened before that was known

    @classmethod
    def create(cls, path: Path, settings: dict[str, Any], nodes: list[tuple[str, str]]) -> None:
        """Make `store.db` with its settings and nodes (uuid, path)."""
        schema = resources.files("dfs").joinpath("schema.sql").read_text()
        draft = path.with_name(path.name + ".init")
        draft.unlink(missing_ok=True)
        create_database(draft, schema, APPLICATION_ID, FORMAT)
        with contextlib.closing(open_database(draft, APPLICATION_ID, FORMAT)) as db, db:
            db.executemany("INSERT INTO store VALUES (?, ?)", list(settings.items()))
            db.executemany("INSERT INTO storage_node(id, path, weight) VALUES (?, ?, 1.0)", nodes)
        os.rename(draft, path)

    # -- the store as a whole ----------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """Table `store` (docs/formats/namespace.md); durability, retention_days and horizon are always there."""
        absent = {"durability": "fsync", "retention_days": RETENTION_DAYS, "horizon": 0}
        return {**absent, **dict(self.rows("SELECT key, value FROM store"))}

    def default_replicas(self) -> int:
        """Copies of a chunk where no path says otherwise: as `dfs init` was told, else 3, or as many as there are
        active nodes."""
        active = sum(node.state == "active" for node in self.nodes())
        return int(self.settings().get("replicas") or max(1, min(REPLICAS, active)))

    def set_local(self, key: Literal["safe_mode", "clock_ms"], value: str | int | None) -> None:
        """Set a key that is in no log (None: remove it), durable on return."""
        with self.write() as db:
            if value is None:
                db.execute("DELETE FROM store WHERE key = ?", (key,))
            else:
                db.execute("INSERT OR REPLACE INTO store VALUES (?, ?)", (key, value))

    def nodes(self) -> list[StorageNode]:
        """Every node, by id."""
        rows = self.rows("SELECT id, path, weight, capacity, state FROM storage_node ORDER BY id")
        return [StorageNode(*row) for row in rows]

    def snapshots(self) -> list[Snapshot]:
        """Every snapshot, oldest number first."""
        return [Snapshot(*row) for row in self.rows("SELECT name, txn, time_ms FROM snapshot ORDER BY txn, name")]

    def last(self) -> tuple[int, str | None]:
        """(number, chain) of the newest transaction; (0, None) when there is none."""
        rows = self.rows("SELECT id, lower(hex(chain)) FROM txn ORDER BY id DESC LIMIT 1")
        return rows[0] if rows else (0, None)

    def txn_of(self, request: str) -> int | None:
        """The number that a request got, None when it is not known (any more)."""
        rows = self.rows("SELECT id FROM txn WHERE request = ?", request)
        return int(rows[0][0]) if rows else None

    def time_ms(self, txn: int) -> int:
        """When a transaction was committed, in ms since the epoch by its writer's clock; 0 for the empty store."""
        rows = self.rows("SELECT time_ms FROM txn WHERE id = ?", txn)
        return int(rows[0][0]) if rows else 0

    def txn_at_time(self, time_ms: int) -> int:
        """The newest transaction that is not later. Raises NotFound when history does not reach so far back."""
        rows = self.rows("SELECT id FROM txn WHERE time_ms <= ? ORDER BY id DESC LIMIT 1", time_ms)
        txn, horizon = int(rows[0][0]) if rows else 0, self.settings()["horizon"]
        if txn < horizon:
            raise NotFound(f"no state of that time is kept any more: {self._kept(horizon)}")
        return txn

    def check_kept(self, at: int) -> int:
        """`at`, when it can be read. Raises UsageProblem for a number of the future, NotFound for one that is not kept
        any more."""
        newest, horizon = self.last()[0], self.settings()["horizon"]
        if not 0 <= at <= newest:
            raise UsageProblem(f"there is no transaction {at}; the newest is {newest}")
        if at < horizon and not self.rows("SELECT 1 FROM snapshot WHERE txn = ?", at):
            raise NotFound(f"transaction {at} is no longer kept ({self._kept(horizon)})")
        return at

    def _kept(self, horizon: int) -> str:
        names = ", ".join(f"{snapshot.name} = {snapshot.txn}" for snapshot in self.snapshots())
        return f"history begins at {horizon}; snapshots: {names or 'none'}"

    def backup(self, target: Path) -> tuple[int, str]:
        """A consistent copy of the database, durable on return; returns (number, chain) of the newest transaction in
        it, the chain "" for number 0."""
        self.copy_to(target)
        with contextlib.closing(Database(target, APPLICATION_ID, FORMAT)) as copy:
            rows = copy.rows("SELECT id, lower(hex(chain)) FROM txn ORDER BY id DESC LIMIT 1")
        return (rows[0][0], rows[0][1]) if rows else (0, "")

    # -- paths -------------------------------------------------------------------------------------

    def resolve(self, path: str, at: int, folder: Found | None = None) -> Found | None:
        """What a normalised path leads to, from `folder` on (None: the root), or None."""
        found = folder or Found(ROOT, "dir", 0)
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
        rows = self.rows("SELECT max(txn) FROM changed WHERE node = ? AND txn <= ?", found.node, at)
        return max(found.since, rows[0][0] or 0)

    def stat(self, path: str, at: int) -> FileInfo:
        """One path. Raises NotFound."""
        found = self.need(path, at)
        if found.kind == "dir":
            return _folder_info(path, self._version(found, at))
        rows = self.rows(f"SELECT {_FILE_COLUMNS} FROM file f WHERE f.node = ?", found.node)
        return _file_info(path, found.since, *rows[0])

    def find(self, path: str, at: int) -> list[FileInfo]:
        """Every file at or below, in bytewise order of paths. Raises NotFound."""
        return list(self.walk(path, at))

    def walk(self, path: str, at: int) -> Iterator[FileInfo]:
        """Like `find`, for more files than memory should hold: it keeps one folder a level."""
        found = self.need(path, at)
        if found.kind == "file":
            yield self.stat(path, at)
            return
        pending = [self._entries(path, found, at)]
        while pending:
            entry = next(pending[-1], None)
            if entry is None:
                pending.pop()
                continue
            child, below = entry
            if isinstance(child, FileInfo):
                yield child
            else:
                pending.append(self._entries(below, child, at))

    def _entries(self, path: str, folder: Found, at: int) -> Iterator[tuple[FileInfo | Found, str]]:
        """Files and folders (with their paths), so that all paths come in bytewise order: a folder sorts as `name/`."""
        rows = self.rows(
            f"SELECT d.name, d.node, max(d.from_txn, ?2), {_FILE_COLUMNS}"
            " FROM dentry d LEFT JOIN file f ON f.node = d.node"
            " WHERE d.parent = ?1 AND d.from_txn <= ?3 AND d.to_txn > ?3"
            " ORDER BY d.name || iif(f.node IS NULL, '/', '')",
            *(folder.node, folder.since, at),
        )
        for name, node, since, *columns in rows:
            child = join(path, name)
            if columns[0] is None:
                yield Found(node, "dir", since), child
            else:
                yield _file_info(child, since, *columns), child

    def ls(self, path: str, at: int) -> list[FileInfo]:
        """A folder's entries by name, or the one file. Raises NotFound."""
        found = self.need(path, at)
        if found.kind == "file":
            return [self.stat(path, at)]
        rows = self.rows(
            "SELECT d.name, max(d.from_txn, ?2, iif(f.node IS NOT NULL, 0,"
            "    coalesce((SELECT max(c.txn) FROM changed c WHERE c.node = d.node AND c.txn <= ?3), 0))),"
            f" {_FILE_COLUMNS} FROM dentry d LEFT JOIN file f ON f.node = d.node"
            " WHERE d.parent = ?1 AND d.from_txn <= ?3 AND d.to_txn > ?3 ORDER BY d.name",
            *(found.node, found.since, at),
        )
        return [
            _folder_info(join(path, name), since)
            if columns[0] is None
            else _file_info(join(path, name), since, *columns)
            for name, since, *columns in rows
        ]

    def chunks(self, path: str, at: int) -> list[ChunkRef]:
        """A file's chunks in order. Raises NotFound, WrongKind."""
        return self.chunks_of(self.need(path, at, "file"))

    def chunks_of(self, file: Found) -> list[ChunkRef]:
        """The chunks of a file that was resolved."""
        rows = self.rows(f"SELECT {_CHUNK_COLUMNS} FROM file_chunk WHERE node = ? ORDER BY seq", file.node)
        return [ChunkRef(ChunkId.from_digest(i), offset, n, records, bool(c)) for i, offset, n, records, c in rows]

    def chunks_below(self, path: str, at: int) -> dict[str, list[ChunkRef]]:
        """The chunks of every file at or below that has any, in order, by its path. Raises NotFound."""
        rows = self.rows(
            "WITH RECURSIVE tree(path, node) AS (SELECT ?1, ?2 UNION ALL"
            " SELECT iif(tree.path = '', '', tree.path || '/') || d.name, d.node FROM tree JOIN dentry d"
            " ON d.parent = tree.node WHERE d.from_txn <= ?3 AND d.to_txn > ?3)"
            f" SELECT path, {_CHUNK_COLUMNS} FROM tree JOIN file_chunk USING (node) ORDER BY path, seq",
            *(path, self.need(path, at).node, at),
        )
        found: dict[str, list[ChunkRef]] = {}
        for name, i, offset, n, records, c in rows:
            found.setdefault(name, []).append(ChunkRef(ChunkId.from_digest(i), offset, n, records, bool(c)))
        return found

    def replicas_of(self, path: str, at: int) -> int | None:
        """The replica count set for a path or the nearest folder above it, None when none is. Raises NotFound."""
        self.need(path, at)
        names = path.split("/") if path else []
        for depth in range(len(names), -1, -1):
            found = self.need("/".join(names[:depth]), at)
            rows = self.rows("SELECT replicas FROM replication WHERE node = ?", found.node)
            if rows:
                return int(rows[0][0])
        return None

    def largest_replica_count(self) -> int:
        """The most copies that any path asks for by itself; 0 when none does."""
        return int(self.rows("SELECT coalesce(max(replicas), 0) FROM replication")[0][0])

    # -- history -----------------------------------------------------------------------------------

    def versions(self, path: str) -> list[PathVersion]:
        """What a path held in retained history, newest first. Raises NotFound when it never held anything."""
        return versions_of(self, path)

    def diff(self, a: int, b: int, path: str = "") -> Iterator[Difference]:
        """What differs at or below `path` between two retained numbers, by path. Raises NotFound when nothing is there
        in either. Its cost follows the changes, not the files."""
        return compare(self, a, b, path)

    # -- chunks ------------------------------------------------------------------------------------

    def totals(self, path: str, at: int) -> Totals:
        """Sums over the files at or below a path. Raises NotFound."""
        found = self.need(path, at)
        tree = (
            "WITH RECURSIVE tree(node) AS (SELECT ?1 UNION ALL SELECT d.node FROM tree JOIN dentry d"
            " ON d.parent = tree.node WHERE d.from_txn <= ?2 AND d.to_txn > ?2) "
        )
        rows = self.rows(
            f"{tree} SELECT count(f.node), count(*) - count(f.node), coalesce(sum(f.size), 0)"
            " FROM tree LEFT JOIN file f ON f.node = tree.node",
            *(found.node, at),
        )
        unique = self.rows(
            f"{tree} SELECT count(*), coalesce(sum(length), 0) FROM (SELECT c.chunk, max(c.length) AS length"
            " FROM tree JOIN file_chunk c ON c.node = tree.node GROUP BY c.chunk)",
            *(found.node, at),
        )
        files, folders, size = rows[0]
        return Totals(files, folders - (found.kind == "dir"), size, *unique[0])

    def usage(self) -> Totals:
        """Sums over all that is kept, with history."""
        rows = self.rows(
            "SELECT count(*), (SELECT count(*) - 1 FROM node WHERE kind = 'dir'), coalesce(sum(size), 0) FROM file"
        )
        unique = self.rows(
            "SELECT count(*), coalesce(sum(length), 0)"
            " FROM (SELECT max(length) AS length FROM file_chunk GROUP BY chunk)"
        )
        return Totals(*rows[0], *unique[0])

    def needed(self, horizon: int | None = None, also: Collection[int] = ()) -> Iterator[tuple[ChunkId, int, int]]:
        """(chunk, length in bytes, replicas) of every file that a retained number sees, or a number of `also`; each
        chunk once, ascending.

        `horizon`: as if history began there. `replicas` is the most that one of the chunk's files asks for; 0 where
        that is the store's default. It reads one state, on a connection of its own, and keeps little in memory.
        """
        with self.reading() as db, marked(db, horizon, also):
            yield from needed_chunks(db, self.default_replicas())

    def files_of(self, chunk_id: ChunkId, at: int) -> list[str]:
        """Paths of the files that hold this chunk; see `files_of_many`."""
        return self.files_of_many([chunk_id], at)[chunk_id]

    def files_of_many(self, chunks: Collection[ChunkId], at: int) -> dict[ChunkId, list[str]]:
        """For each chunk the paths of the files that hold it at `at`, and then of older versions, each with the
        transaction that ended it. One scan for all of them."""
        with self.reading() as db:
            return paths_of(db, chunks, at)


_FILE_COLUMNS = "f.size, f.records, f.chunk_count, lower(hex(f.content_id)), f.records_mode"
_CHUNK_COLUMNS = "chunk, offset, length, records, continues"


def _folder_info(path: str, version: int) -> FileInfo:
    return FileInfo(path, "dir", 0, None, 0, "", version, "")


def _file_info(
    path: str, since: int, size: int, records: int | None, chunk_count: int, content: str, mode: RecordsMode
) -> FileInfo:
    return FileInfo(path, "file", size, records, chunk_count, content, since, mode)
