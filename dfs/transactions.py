"""The metadata commit of DESIGN section 6: one writer, request id first, validate, operation log, COMMIT.

What a transaction does to the tables is in `dfs.applying`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from blake3 import blake3

from dfs.applying import Application
from dfs.changes import canonical_json, collector_paused
from dfs.errors import Conflict, MembersChanged, NodeFailed, NotEnoughNodes, OutcomeUnknown, StoreDamaged
from dfs.failpoints import failpoint
from dfs.metadata import Namespace, StorageNode
from dfs.oplog import Logged, Operation, OpLog, backfill

log = logging.getLogger("dfs")

REPLAY_RECORDS = 256  # so many records are replayed in one transaction of SQLite: few fsyncs, little to repeat


class Committer:
    """Commits operations to one store: its namespace, and the logs of the nodes that are there. Safe for several
    threads and processes.

    With `members`, a commit raises MembersChanged when these are not the store's nodes any more: its logs would be too
    few, or those of others.
    """

    def __init__(
        self,
        namespace: Namespace,
        logs: Sequence[OpLog],
        copies_min: int,
        store_uuid: str,
        members: Sequence[StorageNode] | None = None,
    ) -> None:
        self._namespace = namespace
        self._members = members
        self._logs = logs
        self._copies_min = copies_min
        self._first_chain = _first_chain(store_uuid)

    def commit(self, changes: list[Mapping[str, Any]], request: str, time_ms: int) -> int:
        """Apply these changes as the next transaction and return its number; the same request again returns the same
        number.

        Raises Conflict, AlreadyExists, NotFound, WrongKind, and DfsError for a full disk: nothing has changed then.
        Raises OutcomeUnknown when it is in the log but could not be committed: the same request tells later.
        """
        encoded = canonical_json(changes)
        while True:
            self.recover()
            decided: list[Logged] = []
            try:
                with self._namespace.write(), collector_paused():
                    if self._pending() is None:
                        return self._commit(changes, encoded, request, time_ms, decided)
            except Exception as error:
                if not decided:
                    raise
                self._namespace.disconnect()  # what SQLite remembers of a failed write is not trusted
                raise OutcomeUnknown(
                    f"transaction {decided[0].txn} is in the log but not yet in {self._namespace.path} ({error}); "
                    f"it will be done when the store can be written: ask again with the same request id {request!r}"
                ) from error
            # a writer died between our recovery and our lock: recover again

    def _commit(
        self, changes: list[Mapping[str, Any]], encoded: bytes, request: str, time_ms: int, decided: list[Logged]
    ) -> int:
        digest = blake3(encoded).digest()
        if self._members is not None and self._namespace.nodes() != self._members:
            raise MembersChanged("nodes were added or removed meanwhile; open the store again")
        done = self._namespace.rows("SELECT id, changes_digest FROM txn WHERE request = ?", request)
        if done:
            if done[0][1] != digest:
                raise Conflict(f"request id {request!r} was used for other changes in transaction {done[0][0]}")
            return int(done[0][0])
        number, chain = self._namespace.last()
        time_ms = max(time_ms, self._namespace.time_ms(number))  # a clock set back does not turn history round
        operation = Operation(number + 1, request, time_ms, chain or self._first_chain, changes)
        record = operation.logged(encoded)
        _apply(self._namespace, record, operation, digest)
        self._append(record)
        failpoint("commit.logged")
        decided.append(record)
        return record.txn

    def recover(self) -> None:
        """Roll forward the operation that a dead writer logged but did not commit; give nodes that were away what
        their logs lack.

        Raises StoreDamaged when a node has seen transactions that the namespace does not know.
        """
        self._roll_forward()
        self._catch_up()

    def _catch_up(self) -> None:
        if not self.behind():
            return
        with self._namespace.write():
            number, _ = self._namespace.last()
            for oplog in self.behind():
                try:
                    backfill(oplog, [other for other in self._logs if other is not oplog], number)
                except NodeFailed as error:
                    log.warning("%s", error)

    def behind(self) -> list[OpLog]:
        """Logs that can be written to and end before the namespace does."""
        number, _ = self._namespace.last()
        found = []
        for oplog in self._logs:
            with contextlib.suppress(NodeFailed):
                last = oplog.last()
                if (last.txn if last else 0) < number and oplog.writable():
                    found.append(oplog)
        return found

    def _roll_forward(self) -> None:
        if self._pending(check_only=True) is None:
            return
        with self._namespace.write():
            record = self._pending()
            if record is None:
                return
            log.warning("transaction %d was logged but not committed; rolling it forward", record.txn)
            operation = record.operation()
            _apply(self._namespace, record, operation, _digest(operation.changes))
            for oplog in self._logs:
                try:
                    if record in oplog.tail():
                        oplog.sync()  # its writer may have died before it did
                    else:
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
                failpoint("commit.appended")
                done.append(oplog)
            except NodeFailed as error:
                failures.append(str(error))
        if len(done) >= self._copies_min:
            return
        left = 0
        for oplog in done:
            try:
                oplog.take_back(record)
            except NodeFailed as error:  # the others still must forget it
                failures.append(str(error))
                left += 1
        told = (
            f"the operation log needs {self._copies_min} nodes, {len(done)} took it: "
            f"{'; '.join(failures) or 'the others are absent'}"
        )
        if left:
            raise OutcomeUnknown(f"{told}; one of them could not forget it: ask again with the same request id")
        raise NotEnoughNodes(told)


def apply_logged(namespace: Namespace, records: Iterable[Logged], store_uuid: str) -> int:
    """Replay records of a log onto a namespace, writing them to no log; returns how many.

    They must follow one another, and the namespace's newest transaction. Raises StoreDamaged when one does not; those
    before it may have been applied.
    """
    number, chain = namespace.last()
    expected, done = (number + 1, chain or _first_chain(store_uuid)), 0
    remaining = iter(records)
    while batch := list(islice(remaining, REPLAY_RECORDS)):
        with namespace.write(), collector_paused():
            for record in batch:
                operation = record.operation()
                if (record.txn, operation.prev) != expected or operation.txn != record.txn:
                    raise StoreDamaged(f"record {record.txn} of the log does not follow transaction {expected[0] - 1}")
                _apply(namespace, record, operation, _digest(operation.changes))
                expected = (record.txn + 1, record.chain)
        done += len(batch)
    return done


def _apply(namespace: Namespace, record: Logged, operation: Operation, digest: bytes) -> None:
    """Make the rows of one operation, inside `Namespace.write`."""
    Application(namespace, operation.txn, operation.time_ms).apply(operation.changes)
    namespace.db().execute(
        "INSERT INTO txn VALUES (?, ?, ?, ?, ?)",
        (operation.txn, operation.request, digest, operation.time_ms, bytes.fromhex(record.chain)),
    )


def _first_chain(store_uuid: str) -> str:
    """The chain before transaction 1 (docs/formats/oplog.md)."""
    return blake3(store_uuid.encode()).hexdigest()


def _digest(changes: Sequence[Mapping[str, Any]]) -> bytes:
    return blake3(canonical_json(changes)).digest()
