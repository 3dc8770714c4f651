"""Checkpoints: whole copies of `store.db` on every node, so that the log before them is not needed
(docs/formats/checkpoint.md).

Memory is bounded whatever the size of the database. What is no longer needed is deleted only when enough nodes hold
what takes its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3
from msgspec import Struct

from dfs.checkpoint_file import FOLDER, RAW, ZSTD, Checkpoint, listed, read_header
from dfs.disk import Disk, DiskFile, SyncFailed, mark_suspect, suspect_reason
from dfs.errors import DfsError, NodeFailed, NotEnoughNodes, StoreLocked
from dfs.failpoints import failpoint
from dfs.metadata import Namespace
from dfs.oplog import OpLog, backfill
from dfs.options import (
    CHECKPOINT_COMPRESSED_BYTES_MIN,
    CHECKPOINT_LOG_BYTES_MIN,
    CHECKPOINT_TXNS,
    COPY_BYTES,
)

if TYPE_CHECKING:
    from dfs.store import Store

log = logging.getLogger("dfs")


def due(log_bytes: int, database_bytes: int) -> bool:
    """Whether the log since the last checkpoint has grown so far that the next is worth its cost (sizes in bytes).

    >>> due(65 << 20, 60 << 20), due(65 << 20, 600 << 20)
    (True, False)
    """
    return log_bytes > max(CHECKPOINT_LOG_BYTES_MIN, database_bytes)


def write(store: Store) -> Checkpoint:
    """Copy the namespace as it is now to every node that can be written to, then delete what it replaces.

    Raises StoreLocked when another process is at it, NotEnoughNodes when fewer nodes than replicas took it (then
    nothing is deleted).
    """
    folders = [folder for node, folder in store.node_paths().items() if node not in store.absent]
    logs = [OpLog(folder, store.disk) for folder in folders]
    with alone(store.path):
        made, took = save(store.path, store.namespace, folders, store.disk, 1)
        kept = [oplog for oplog in logs if oplog.folder.parent in took]
        with store.namespace.write():  # no record is appended meanwhile
            for oplog in kept:
                with contextlib.suppress(NodeFailed, OSError):
                    catch_up(oplog, logs, made.txn, store.disk)
        if len(took) < store.replicas:
            raise NotEnoughNodes(f"checkpoint {made.txn} was taken by {len(took)} nodes, {store.replicas} are needed")
        _drop_replaced(made.txn, kept, store.disk, store.replicas)
    return made


def write_if_due(store: Store) -> Checkpoint | None:
    """Called after a publication. A failure is logged: what was published is safe without it."""
    return write_now(store) if _is_due(store) else None


def write_now(store: Store) -> Checkpoint | None:
    """Like `write`; a failure is logged."""
    try:
        return write(store)
    except StoreLocked:  # another process is at it
        return None
    except (DfsError, OSError) as error:
        log.warning("no checkpoint was written: %s", error)
        return None


def _is_due(store: Store) -> bool:
    folders = [folder for node, folder in store.node_paths().items() if node not in store.absent]
    newest, node = max(((number, folder) for folder in folders for number, _ in listed(folder)), default=(-1, None))
    if node is None:
        return True
    if store.txn() % CHECKPOINT_TXNS:
        return False
    return due(_log_bytes(node, newest), os.stat(store.namespace.path).st_size)


def _log_bytes(node: Path, txn: int) -> int:
    """Bytes of a node's log segments that begin after `txn`."""
    with os.scandir(node / "oplog") as entries:
        return sum(entry.stat().st_size for entry in entries if entry.name[:16] > f"{txn:016d}")


def sweep(root: Path) -> None:
    """Remove what a process left that died while it wrote a checkpoint; called when a store is opened."""
    if any(root.glob("checkpoint.new*")):
        with contextlib.suppress(StoreLocked), alone(root):
            pass


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """STORE/checkpoint.lock: one writer of checkpoints; what a dead one left is removed. Raises StoreLocked."""
    with open(root / "checkpoint.lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreLocked(f"another process writes a checkpoint of {root}; try again when it is done") from None
        try:
            _remove_copy(root)
            yield
        finally:
            _remove_copy(root)


def _remove_copy(root: Path) -> None:
    for left in root.glob("checkpoint.new*"):
        left.unlink(missing_ok=True)


def save(
    root: Path, namespace: Namespace, folders: Sequence[Path], disk: Disk, copies: int
) -> tuple[Checkpoint, list[Path]]:
    """Write a checkpoint to these nodes; returns it and the nodes that took it. Raises NotEnoughNodes below `copies`.

    The caller sees to it that nobody else does the same.
    """
    usable = [folder for folder in folders if suspect_reason(folder) is None]
    if len(usable) < copies:
        raise NotEnoughNodes(f"a checkpoint needs {copies} nodes, {len(usable)} can be written to")
    copy = root / "checkpoint.new"
    txn, chain = namespace.backup(copy)
    store = str(namespace.settings()["uuid"])
    made = _measure(copy, txn, chain or blake3(store.encode()).hexdigest(), store)
    failpoint("checkpoint.copied")
    with contextlib.ExitStack() as stack:
        drafts = []
        failures = []
        for folder in usable:
            try:
                drafts.append(stack.enter_context(_draft(folder, made.txn, disk)))
            except OSError as error:
                failures.append(f"{folder}: {error}")
        tee = _Tee(drafts, failures)
        tee.write(made.header)
        with open(copy, "rb", buffering=0) as source, _encoded(tee, made.codec) as sink:
            for block in iter(lambda: source.read(COPY_BYTES), b""):
                sink.write(block)
        took = tee.finish()
    if len(took) < copies:
        raise NotEnoughNodes(
            f"a checkpoint needs {copies} nodes, {len(took)} took it ({'; '.join(failures) or 'none'})"
        )
    failpoint("checkpoint.written")
    return made, took


def _measure(database: Path, txn: int, chain: str, store: str) -> Checkpoint:
    hasher, length = blake3(), 0
    with open(database, "rb", buffering=0) as source:
        for block in iter(lambda: source.read(COPY_BYTES), b""):
            hasher.update(block)
            length += len(block)
    codec = ZSTD if length >= CHECKPOINT_COMPRESSED_BYTES_MIN else RAW
    return Checkpoint(txn, chain, store, length, hasher.digest(), codec)


class _Draft(Struct, frozen=True):
    """A checkpoint that is being written to one node."""

    node: Path
    temp: Path
    final: Path
    file: DiskFile
    disk: Disk

    def finish(self) -> None:
        self.file.sync()
        self.disk.rename(self.temp, self.final)
        self.disk.sync_folder(self.final.parent)


@contextlib.contextmanager
def _draft(node: Path, txn: int, disk: Disk) -> Iterator[_Draft]:
    """A file in the node's tmp/, created and locked so that no sweep takes it (docs/formats/chunk.md)."""
    disk.make_folders(node / FOLDER)
    final = node / FOLDER / f"{txn:016d}.ckpt"
    temp = node / "tmp" / f"{final.name}.{secrets.token_hex(4)}"
    with disk.folder(temp.parent) as folder:
        fcntl.flock(folder, fcntl.LOCK_SH)
        file = disk.create(temp)
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
    try:
        yield _Draft(node, temp, final, file, disk)
    finally:
        with contextlib.suppress(OSError):
            disk.unlink(temp)
        file.close()


class _Tee(io.RawIOBase):
    """Writes the same bytes to several drafts; one that fails is left behind."""

    def __init__(self, drafts: Sequence[_Draft], failures: list[str]) -> None:
        self._drafts = list(drafts)
        self._failures = failures

    def writable(self) -> bool:
        return True

    def write(self, block: Any) -> int:
        for draft in list(self._drafts):
            self._try(draft, partial(draft.file.write, block))
        return len(block)

    def finish(self) -> list[Path]:
        """Make them durable; the nodes where that went well."""
        for draft in list(self._drafts):
            self._try(draft, draft.finish)
        return [draft.node for draft in self._drafts]

    def _try(self, draft: _Draft, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as error:
            if isinstance(error, SyncFailed):
                mark_suspect(draft.disk, draft.node, error)
            self._failures.append(f"{draft.node}: {error}")
            self._drafts.remove(draft)


@contextlib.contextmanager
def _encoded(tee: _Tee, codec: int) -> Iterator[Any]:
    if codec == RAW:
        yield tee
        return
    import pyarrow as pa

    with pa.CompressedOutputStream(pa.PythonFile(tee, mode="w"), "zstd") as sink:
        yield sink


def _drop_replaced(txn: int, logs: Sequence[OpLog], disk: Disk, copies: int) -> None:
    """Keep the new checkpoint and the newest before it that enough nodes hold; drop what neither of them needs."""
    held = {oplog: _whole(oplog.folder.parent, txn) for oplog in logs}
    older = newest_on(list(held.values()), copies)
    if older is None:
        return
    for oplog, numbers in held.items():
        node = oplog.folder.parent
        try:
            for number in numbers:
                if number < older:
                    disk.unlink(node / FOLDER / f"{number:016d}.ckpt")
            oplog.drop_before(older + 1)
        except (DfsError, OSError) as error:
            log.warning("what the new checkpoint replaces stays on node %s: %s", node, error)


def catch_up(oplog: OpLog, logs: Sequence[OpLog], txn: int, disk: Disk) -> None:
    """Bring the log of a node that holds checkpoint `txn` up to it; where what lies between is gone, begin it anew: the
    checkpoint says all that the old records said. Raises NodeFailed, OSError."""
    last = oplog.last()
    if last is not None and last.txn >= txn:
        return
    try:
        backfill(oplog, [other for other in logs if other is not oplog], txn)
    except NodeFailed:
        for name in sorted(os.listdir(oplog.folder)):
            disk.unlink(oplog.folder / name)
        disk.sync_folder(oplog.folder)


def _whole(node: Path, before: int) -> set[int]:
    """Numbers of a node's checkpoints below `before` whose header is good."""
    found = set()
    for number, file in listed(node):
        with contextlib.suppress(DfsError, OSError):
            if number < before and read_header(file).txn == number:
                found.add(number)
    return found


def newest_on(held: Sequence[set[int]], copies: int) -> int | None:
    """The greatest number that at least `copies` of these hold.

    >>> newest_on([{0, 5}, {0, 5}, {0, 9}], 2), newest_on([{1}, {2}], 2)
    (5, None)
    """
    counts: dict[int, int] = {}
    for numbers in held:
        for number in numbers:
            counts[number] = counts.get(number, 0) + 1
    return max((number for number, count in counts.items() if count >= copies), default=None)
