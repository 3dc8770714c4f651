"""The metadata commit of DESIGN section 6: one writer, request id first, validate, operation log, COMMIT.

`apply` turns an operation into rows. It is deterministic (node ids in order of use, no clock), because a logged
operation is applied again after a crash and must give the same rows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from blake3 import blake3

from dfs.changes import (
    ANY,
    Change,
    Expected,
    FileManifest,
    MakeDir,
    Move,
    PutFile,
    PutFolder,
    Remove,
    canonical_json,
    changes_from_json,
)
from dfs.errors import AlreadyExists, Conflict, NodeFailed, NotEnoughNodes, StoreDamaged, UsageProblem, WrongKind
from dfs.metadata import FOREVER, ROOT, Namespace
from dfs.oplog import Logged, Operation, OpLog

log = logging.getLogger("dfs")


class Committer:
    """Commits operations to one store: its namespace, and the logs of the nodes that are there. Safe for several
    threads and processes."""

    def __init__(self, namespace: Namespace, logs: Sequence[OpLog], copies_min: int, store_uuid: str) -> None:
        self._namespace = namespace
        self._logs = logs
        self._copies_min = copies_min
        self._first_chain = blake3(store_uuid.encode()).hexdigest()

    def commit(self, changes: list[Mapping[str, Any]], request: str, time_ms: int) -> int:
        """Apply these changes as the next transaction and return its number; the same request again returns the same
        number.

        Raises Conflict, AlreadyExists, NotFound, WrongKind: nothing has changed then.
        """
        digest = blake3(canonical_json(changes)).digest()
        while True:
            self.recover()
            with self._namespace.write():
                if self._pending() is None:
                    return self._commit(changes, request, time_ms, digest)
            # a writer died between our recovery and our lock: recover again

    def _commit(self, changes: list[Mapping[str, Any]], request: str, time_ms: int, digest: bytes) -> int:
        done = self._namespace.rows("SELECT id, changes_digest FROM txn WHERE request = ?", request)
        if done:
            if done[0][1] != digest:
                raise Conflict(f"request id {request!r} was used for other changes in transaction {done[0][0]}")
            return int(done[0][0])
        number, chain = self._namespace.last()
        record = Operation(number + 1, request, time_ms, chain or self._first_chain, changes).logged()
        self._apply(record, digest)
        self._append(record)
        return record.txn

    def recover(self) -> None:
        """Roll forward the operation that a dead writer logged but did not commit.

        Raises StoreDamaged when a node has seen transactions that the namespace does not know.
        """
        if self._pending(check_only=True) is None:
            return
        with self._namespace.write():
            record = self._pending()
            if record is None:
                return
            log.warning("transaction %d was logged but not committed; rolling it forward", record.txn)
            self._apply(record, blake3(canonical_json(record.operation().changes)).digest())
            for oplog in self._logs:
                try:
                    if record not in oplog.tail():
                        oplog.append(record)
                except NodeFailed as error:
                    log.warning("%s", error)

    def _pending(self, check_only: bool = False) -> Logged | None:
        """The one record beyond the namespace, if some node has it. Without the write lock (`check_only`) any sign of
        one is enough."""
        number, chain = self._namespace.last()
        pending: Logged | None = None
        for oplog in self._logs:
            try:
                tail = oplog.tail()
            except NodeFailed as error:
                log.warning("%s", error)
                continue
            beyond = [record for record in tail if record.txn > number]
            if beyond and check_only:
                return beyond[0]
            known = next((record for record in tail if record.txn == number), None)
            if known is not None and known.chain != chain:
                raise StoreDamaged(
                    f"{self._namespace.path} and {oplog.folder} differ on transaction {number}: rebuild it"
                )
            if beyond:
                expected = (number + 1, chain or self._first_chain)
                if len(beyond) > 1 or (beyond[0].txn, beyond[0].operation().prev) != expected:
                    raise StoreDamaged(
                        f"{self._namespace.path} ends at transaction {number}, "
                        f"but {oplog.folder} has seen {beyond[-1].txn}: "
                        "it is an old copy, or its -wal file was lost; rebuild it from the nodes"
                    )
                pending = beyond[0]
        return pending

    def _append(self, record: Logged) -> None:
        done, failures = [], []
        for oplog in self._logs:
            try:
                oplog.append(record)
                done.append(oplog)
            except NodeFailed as error:
                failures.append(str(error))
        if len(done) < self._copies_min:
            for oplog in done:
                try:
                    oplog.take_back(record)
                except NodeFailed as error:  # the others still must forget it
                    failures.append(str(error))
            raise NotEnoughNodes(
                f"the operation log needs {self._copies_min} nodes, {len(done)} took it: "
                f"{'; '.join(failures) or 'the others are absent'}"
            )

    def _apply(self, record: Logged, digest: bytes) -> None:
        operation = record.operation()
        application = _Application(self._namespace, operation.txn)
        for change in changes_from_json(operation.changes):
            application.apply(change)
        self._namespace.db().execute(
            "INSERT INTO txn VALUES (?, ?, ?, ?, ?)",
            (operation.txn, operation.request, digest, operation.time_ms, bytes.fromhex(record.chain)),
        )


class _Application:
    """One transaction being applied; runs inside `Namespace.write`."""

    def __init__(self, namespace: Namespace, txn: int) -> None:
        self._namespace = namespace
        self._db = namespace.db()
        self._txn = txn
        self._next_node: int = self._db.execute("SELECT max(id) + 1 FROM node").get

    def apply(self, change: Change) -> None:
        match change:
            case PutFile(path, manifest, expected):
                self._check_version(path, expected)
                self._put_file(path, manifest)
            case PutFolder(path, files, mode, expected):
                self._check_version(path, expected)
                self._put_folder(path, files, mode)
            case Remove(path, recursive):
                self._remove(path, recursive)
            case Move(src, dst):
                self._move(src, dst)
            case MakeDir(path):
                self._folder(path)

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

    def _put_file(self, path: str, manifest: FileManifest) -> None:
        parent, name = self._parent(path)
        found = self._namespace.resolve(path, self._txn)
        if found is not None and found.kind == "dir":
            raise AlreadyExists(f"dfs://{path} is a folder; remove it first")
        if found is not None:
            self._end(parent, name)
        self._begin(parent, name, self._new_file(manifest))

    def _put_folder(self, path: str, files: Mapping[str, FileManifest], mode: str) -> None:
        found = self._namespace.resolve(path, self._txn)
        if found is not None and mode == "create":
            raise AlreadyExists(f"dfs://{path} exists; replace it, append to it, or choose another path")
        if mode == "append" and found is not None:
            self._namespace.need(path, self._txn, "dir")
            top = found.node
        else:
            parent, name = self._parent(path)
            if found is not None:
                self._end(parent, name)
            top = self._new_node("dir")
            self._begin(parent, name, top)
        folders: dict[str, int] = {"": top}
        for relative, manifest in sorted(files.items()):
            folder, _, name = relative.rpartition("/")
            if folder not in folders:
                folders[folder] = self._folder(folder, top)
            if self._child(folders[folder], name) is not None:
                raise AlreadyExists(f"dfs://{path}/{relative} exists")
            self._begin(folders[folder], name, self._new_file(manifest))

    def _remove(self, path: str, recursive: bool) -> None:
        found = self._namespace.need(path, self._txn)
        if not recursive and found.kind == "dir" and self._namespace.ls(path, self._txn):
            raise WrongKind(f"dfs://{path} is a folder that is not empty; remove it recursively")
        self._end(*self._parent(path))

    def _move(self, src: str, dst: str) -> None:
        found = self._namespace.need(src, self._txn)
        if f"{dst}/".startswith(f"{src}/"):
            raise UsageProblem(f"dfs://{src} cannot be moved into itself (dfs://{dst})")
        if self._namespace.resolve(dst, self._txn) is not None:
            raise AlreadyExists(f"dfs://{dst} exists")
        self._end(*self._parent(src))
        self._begin(*self._parent(dst), found.node)

    def _parent(self, path: str) -> tuple[int, str]:
        """(folder's node, last name), making the folders on the way."""
        if path == "":
            raise UsageProblem("the root folder cannot be replaced, moved or removed")
        folder, _, name = path.rpartition("/")
        return self._folder(folder), name

    def _folder(self, path: str, node: int = ROOT) -> int:
        for name in path.split("/") if path else ():
            child = self._child(node, name)
            if child is None:
                child = (self._new_node("dir"), "dir")
                self._begin(node, name, child[0])
            if child[1] != "dir":
                raise WrongKind(f"dfs://{path}: {name!r} is a file, not a folder")
            node = child[0]
        return node

    def _child(self, parent: int, name: str) -> tuple[int, str] | None:
        row = self._db.execute(
            "SELECT n.id, n.kind FROM dentry d JOIN node n ON n.id = d.node"
            " WHERE d.parent = ? AND d.name = ? AND d.to_txn = ?",
            (parent, name, FOREVER),
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def _begin(self, parent: int, name: str, node: int) -> None:
        self._db.execute("INSERT INTO dentry VALUES (?, ?, ?, ?, ?)", (parent, name, node, self._txn, FOREVER))

    def _end(self, parent: int, name: str) -> None:
        now = (parent, name, FOREVER)
        self._db.execute(
            "DELETE FROM dentry WHERE parent = ? AND name = ? AND to_txn = ? AND from_txn = ?", (*now, self._txn)
        )
        self._db.execute("UPDATE dentry SET to_txn = ? WHERE parent = ? AND name = ? AND to_txn = ?", (self._txn, *now))

    def _new_node(self, kind: str) -> int:
        node, self._next_node = self._next_node, self._next_node + 1
        self._db.execute("INSERT INTO node VALUES (?, ?)", (node, kind))
        return node

    def _new_file(self, manifest: FileManifest) -> int:
        node = self._new_node("file")
        self._db.execute(
            "INSERT INTO file VALUES (?, ?, ?, ?, ?, ?)",
            (
                node,
                manifest.size,
                manifest.records,
                manifest.records_mode,
                bytes.fromhex(manifest.content_id),
                len(manifest.chunks),
            ),
        )
        self._db.executemany(
            "INSERT INTO file_chunk VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (node, seq, ref.id.digest, ref.offset, ref.length, ref.records, int(ref.continues))
                for seq, ref in enumerate(manifest.chunks)
            ],
        )
        return node
