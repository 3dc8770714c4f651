"""From the changes of one transaction to rows of the namespace.

It works on the JSON values that the operation log keeps, and is deterministic (node ids in order of use, no clock): a
logged operation is applied again after a crash, or when a store is rebuilt, and must give the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dfs.changes import ANY, Expected
from dfs.errors import AlreadyExists, Conflict, NotFound, Unsupported, UsageProblem, WrongKind
from dfs.ids import content_id
from dfs.marking import FOREVER, ROOT, marked, sweep
from dfs.metadata import Found, Namespace
from dfs.paths import join

Manifest = Mapping[str, Any]


class Application:
    """One transaction being applied; runs inside `Namespace.write`. New rows are gathered, and written before the
    tables are next read."""

    def __init__(self, namespace: Namespace, txn: int, time_ms: int) -> None:
        self._namespace = namespace
        self._db = namespace.db()
        self._txn = txn
        self._time_ms = time_ms
        self._next_node: int = self._db.execute("SELECT max(id) + 1 FROM node").get
        self._written = self._next_node  # a folder from here on has no rows in the tables yet
        self._folders: dict[str, tuple[int, ...]] = {"": (ROOT,)}  # path -> nodes on the way
        self._touched: set[int] = set()  # folders at or below which something began or ended
        self._dentries: dict[tuple[int, str], tuple[int, str]] = {}  # (folder, name) -> (node, kind), to be written
        self._nodes: list[tuple[int, str]] = []
        self._files: list[tuple[Any, ...]] = []
        self._chunks: list[tuple[Any, ...]] = []

    def apply(self, changes: Iterable[Mapping[str, Any]]) -> None:
        """Apply all of them. Raises AlreadyExists, Conflict, NotFound, WrongKind, UsageProblem: the caller rolls back;
        Unsupported for an operation of a newer release."""
        for change in changes:
            self._apply(change)
        self._flush()
        touched = [(node, self._txn) for node in sorted(self._touched)]
        self._db.executemany("INSERT INTO changed VALUES (?, ?)", touched)

    def _apply(self, change: Mapping[str, Any]) -> None:
        match change:
            case {"op": "put_file", "path": path, "manifest": manifest, "expected": expected}:
                self._check_version(path, expected)
                self._put_file(path, manifest)
            case {"op": "put_folder", "path": path, "files": files, "mode": mode, "expected": expected}:
                self._check_version(path, expected)
                self._put_folder(path, files, mode)
            case {"op": "remove", "path": path, "recursive": recursive}:
                self._remove(path, recursive)
            case {"op": "move", "src": src, "dst": dst}:
                self._move(src, dst, change.get("replace", False))
            case {"op": "copy", "src": src, "dst": dst, "at": at}:
                self._copy(src, dst, at, change.get("replace", False))
            case {"op": "make_dir", "path": path}:
                self._folder(path)
            case _:
                self._flush()
                self._apply_setting(change)

    def _apply_setting(self, change: Mapping[str, Any]) -> None:
        match change:
            case {"op": "set_replicas", "path": path, "replicas": replicas}:
                node = self._namespace.need(path, self._txn).node
                self._db.execute("DELETE FROM replication WHERE node = ?", (node,))
                if replicas is not None:
                    self._db.execute("INSERT INTO replication VALUES (?, ?)", (node, replicas))
            case {"op": "take_snapshot", "name": name, "at": at}:
                self._take_snapshot(name, at)
            case {"op": "drop_snapshot", "name": name}:
                self._delete("snapshot", "name", name, "snapshot")
            case {"op": "set_node", "id": node, "path": path}:
                if self._namespace.rows("SELECT 1 FROM storage_node WHERE path = ? AND id <> ?", path, node):
                    raise AlreadyExists(f"{path} is the folder of another node")
                values = (node, path, change["weight"], change["capacity"], change["state"])
                self._db.execute("INSERT OR REPLACE INTO storage_node VALUES (?, ?, ?, ?, ?)", values)
            case {"op": "drop_node", "id": node}:
                self._delete("storage_node", "id", node, "node")
            case {"op": "set_retention", "days": days}:
                self._db.execute("INSERT OR REPLACE INTO store VALUES ('retention_days', ?)", (days,))
            case {"op": "expire", "before": before, "keep": keep}:
                self._expire(before, keep)
            case {"op": op}:
                raise Unsupported(f"operation {op!r} is of a newer release; update millrace")

    # -- files and folders -------------------------------------------------------------------------

    def _check_version(self, path: str, expected: Expected) -> None:
        if expected == ANY:
            return
        found = self._namespace.version(path, self._txn - 1)
        if found != expected:
            if expected is None:
                raise AlreadyExists(f"dfs://{path} exists (version {found})")
            raise Conflict(
                f"dfs://{path} has version {found or 'none'} where {expected} was expected: somebody else changed it"
            )

    def _put_file(self, path: str, manifest: Manifest) -> None:
        folder, name = self._parent(path)
        found = self._child(folder, name)
        if found is not None and found[1] == "dir":
            raise AlreadyExists(f"dfs://{path} is a folder; remove it first")
        self._bind(folder, name, (self._new_file(manifest), "file"), found)

    def _put_folder(self, path: str, files: Mapping[str, Manifest], mode: str) -> None:
        found = self._find(path)
        if found is not None and mode == "create":
            raise AlreadyExists(f"dfs://{path} exists; replace it, append to it, or choose another path")
        if mode != "append" or found is None:
            folder, name = self._parent(path)
            self._bind(folder, name, (self._new_node("dir"), "dir"), found)
        top = self._folder(path)
        parents = {"": top}
        for relative, manifest in sorted(files.items()):
            below, _, name = relative.rpartition("/")
            parent = parents.get(below)
            if parent is None:
                parent = parents[below] = self._folder(join(path, below))
            if self._child(parent, name) is not None:
                raise AlreadyExists(f"dfs://{join(path, relative)} exists")
            self._bind(parent, name, (self._new_file(manifest), "file"), None)

    def _remove(self, path: str, recursive: bool) -> None:
        found = self._need(path)
        folder, name = self._parent(path)
        if found[1] == "dir" and not recursive and self._children(found[0], self._txn):
            raise WrongKind(f"dfs://{path} is a folder that is not empty; remove it recursively")
        self._end(folder, name, found[1])

    def _move(self, src: str, dst: str, replace: bool) -> None:
        found = self._need(src)
        if f"{dst}/".startswith(f"{src}/"):
            raise UsageProblem(f"dfs://{src} cannot be moved into itself (dfs://{dst})")
        old = self._find(dst)
        if old is not None and not (replace and old[1] == "file"):
            raise AlreadyExists(f"dfs://{dst} exists")
        if old is not None and found[1] == "dir":
            raise WrongKind(f"dfs://{dst} is a file; the folder dfs://{src} cannot replace it")
        self._end(*self._parent(src), found[1])
        self._bind(*self._parent(dst), found, old)

    def _copy(self, src: str, dst: str, at: int | None, replace: bool) -> None:
        self._flush()
        if at is None and f"{dst}/".startswith(f"{src}/" if src else ""):
            raise UsageProblem(f"dfs://{src} cannot be copied into itself (dfs://{dst})")
        when = self._txn if at is None else self._namespace.check_kept(at)
        found = self._namespace.need(src, when)
        if dst == "":
            self._restore_root(found, when, replace)
            return
        old = self._find(dst)
        if old is not None and not replace:
            raise AlreadyExists(f"dfs://{dst} exists")
        node = found.node if found.kind == "file" else self._new_node("dir")
        self._bind(*self._parent(dst), (node, found.kind), old)
        if found.kind == "dir":
            self._copy_below(found.node, node, when)

    def _restore_root(self, found: Found, when: int, replace: bool) -> None:
        """The root stays the node it is; all in it is replaced."""
        if found.kind != "dir" or not replace:
            raise AlreadyExists("the root folder exists; only a folder can be copied over it, with replace")
        for name, _, kind in self._children(ROOT, self._txn):
            self._end((ROOT,), name, kind)
        self._copy_below(found.node, ROOT, when)

    def _copy_below(self, src: int, dst: int, when: int) -> None:
        pending: list[tuple[int, tuple[int, ...]]] = [(src, (dst,))]
        while pending:
            source, target = pending.pop()
            for name, node, kind in self._children(source, when):
                copy = node if kind == "file" else self._new_node("dir")
                self._bind(target, name, (copy, kind), None)
                if kind == "dir":
                    pending.append((node, (*target, copy)))

    def _parent(self, path: str) -> tuple[tuple[int, ...], str]:
        """(nodes from the root to the folder, last name), making the folders on the way."""
        if path == "":
            raise UsageProblem("the root folder cannot be replaced, moved or removed")
        folder, _, name = path.rpartition("/")
        return self._folder(folder), name

    def _folder(self, path: str) -> tuple[int, ...]:
        """Nodes from the root to a folder, which is made when it is not there."""
        known = self._folders.get(path)
        if known is not None:
            return known
        depth = path.count("/") + 1
        names = path.split("/")
        while (known := self._folders.get("/".join(names[: depth - 1]))) is None:
            depth -= 1
        for at in range(depth - 1, len(names)):
            child = self._child(known, names[at])
            if child is None:
                child = (self._new_node("dir"), "dir")
                self._bind(known, names[at], child, None)
            if child[1] != "dir":
                raise WrongKind(f"dfs://{path}: {names[at]!r} is a file, not a folder")
            known = self._folders["/".join(names[: at + 1])] = (*known, child[0])
        return known

    def _find(self, path: str) -> tuple[int, str] | None:
        """(node, kind) of what is at a path now."""
        self._flush()
        found = self._namespace.resolve(path, self._txn)
        return None if found is None else (found.node, found.kind)

    def _need(self, path: str) -> tuple[int, str]:
        self._flush()
        found = self._namespace.need(path, self._txn)
        return found.node, found.kind

    def _child(self, folder: Sequence[int], name: str) -> tuple[int, str] | None:
        """(node, kind) of what is in a folder now."""
        known = self._dentries.get((folder[-1], name))
        if known is not None or folder[-1] >= self._written:
            return known
        row = self._db.execute(
            "SELECT n.id, n.kind FROM dentry d JOIN node n ON n.id = d.node"
            " WHERE d.parent = ? AND d.name = ? AND d.to_txn = ?",
            (folder[-1], name, FOREVER),
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def _children(self, node: int, at: int) -> list[tuple[str, int, str]]:
        """(name, node, kind) of what a folder held, by name."""
        self._flush()
        return self._namespace.rows(
            "SELECT d.name, n.id, n.kind FROM dentry d JOIN node n ON n.id = d.node"
            " WHERE d.parent = ?1 AND d.from_txn <= ?2 AND d.to_txn > ?2 ORDER BY d.name",
            *(node, at),
        )

    def _bind(self, folder: tuple[int, ...], name: str, child: tuple[int, str], old: tuple[int, str] | None) -> None:
        """Begin a dentry, in place of what is there, if it is: that hands its replica count on."""
        if old is not None:
            self._end(folder, name, old[1])
            count = self._db.execute("SELECT replicas FROM replication WHERE node = ?", (old[0],)).fetchone()
            if count is not None:
                self._flush()  # the row names the node
                self._db.execute("INSERT OR IGNORE INTO replication VALUES (?, ?)", (child[0], *count))
        self._dentries[folder[-1], name] = child
        self._touched.update(folder)

    def _end(self, folder: tuple[int, ...], name: str, kind: str) -> None:
        """End a dentry; one that this transaction began was never there."""
        if self._dentries.pop((folder[-1], name), None) is None:
            now = (folder[-1], name, FOREVER)
            self._db.execute(
                "DELETE FROM dentry WHERE parent = ? AND name = ? AND to_txn = ? AND from_txn = ?", (*now, self._txn)
            )
            self._db.execute(
                "UPDATE dentry SET to_txn = ? WHERE parent = ? AND name = ? AND to_txn = ?", (self._txn, *now)
            )
        self._touched.update(folder)
        if kind == "dir":
            self._folders = {"": (ROOT,)}

    def _new_node(self, kind: str) -> int:
        node, self._next_node = self._next_node, self._next_node + 1
        self._nodes.append((node, kind))
        return node

    def _new_file(self, manifest: Manifest) -> int:
        node = self._new_node("file")
        size, records, chunks = 0, 0, []
        for chunk, length, begun, continues in manifest["chunks"]:
            digest = bytes.fromhex(chunk)
            if digest.hex() != chunk:
                raise UsageProblem(f"not a chunk id: {chunk!r}")
            chunks.append((digest, length))
            self._chunks.append((node, len(chunks) - 1, digest, size, length, begun, continues))
            size += length
            records += begun or 0
        mode, content = manifest["records_mode"], manifest["content_id"]
        total = None if mode == "none" else records
        if (size, total, content_id(chunks)) != (manifest["size"], manifest["records"], content):
            raise UsageProblem(f"manifest of content {content} does not fit its chunks")
        self._files.append((node, size, total, mode, bytes.fromhex(content), len(chunks)))
        return node

    def _flush(self) -> None:
        """Write what was gathered."""
        if self._nodes:
            self._db.executemany("INSERT INTO node VALUES (?, ?)", self._nodes)
            self._db.executemany("INSERT INTO file VALUES (?, ?, ?, ?, ?, ?)", self._files)
            self._db.executemany("INSERT INTO file_chunk VALUES (?, ?, ?, ?, ?, ?, ?)", self._chunks)
            self._nodes, self._files, self._chunks = [], [], []
            self._written = self._next_node
        if self._dentries:
            rows = [(parent, name, node, self._txn, FOREVER) for (parent, name), (node, _) in self._dentries.items()]
            self._db.executemany("INSERT INTO dentry VALUES (?, ?, ?, ?, ?)", rows)
            self._dentries = {}

    # -- settings ----------------------------------------------------------------------------------

    def _take_snapshot(self, name: str, at: int | None) -> None:
        if self._namespace.rows("SELECT 1 FROM snapshot WHERE name = ?", name):
            raise AlreadyExists(f"snapshot {name} exists; delete it first, or choose another name")
        number = self._txn if at is None else self._namespace.check_kept(at)
        self._db.execute("INSERT INTO snapshot VALUES (?, ?, ?)", (name, number, self._time_ms))

    def _delete(self, table: str, key: str, value: str, what: str) -> None:
        if not self._namespace.rows(f"DELETE FROM {table} WHERE {key} = ? RETURNING 1", value):
            raise NotFound(f"there is no {what} {value}")

    def _expire(self, before: int, keep: Sequence[int]) -> None:
        if before > self._txn:
            raise UsageProblem(f"history cannot begin at {before}; this is transaction {self._txn}")
        horizon = max(before, self._namespace.settings()["horizon"])
        self._db.execute("INSERT OR REPLACE INTO store VALUES ('horizon', ?)", (horizon,))
        with marked(self._db, also=keep):
            sweep(self._db)
