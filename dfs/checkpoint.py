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
import struct
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from blake3 import blake3

from dfs.disk import Disk, DiskFile, SyncFailed, mark_suspect, suspect_reason
from dfs.errors import DfsError, NodeFailed, NotEnoughNodes, StoreDamaged, StoreLocked, Unsupported
from dfs.failpoints import failpoint
from dfs.metadata import Namespace
from dfs.oplog import OpLog, backfill
from dfs.options import (
    CHECKPOINT_COMPRESSED_BYTES_MIN,
    CHECKPOINT_LOG_BYTES_MIN,
    CHECKPOINT_TXNS,
    COPY_BYTES,
    ZSTD_LEVEL,
)

if TYPE_CHECKING:
    from dfs.store import Store

log = logging.getLogger("dfs")

MAGIC = b"MRCP"
VERSION = 1
RAW, ZSTD = 0, 1
FOLDER = "checkpoints"
_FIELDS = struct.Struct("<4sBBHQ16s32sQ32s")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECK.size


@dataclass(frozen=True)
class Checkpoint:
    """A copy of the database of `store` (uuid) after transaction `txn`, whose chain is `chain`: `length` bytes
    (uncompressed) with BLAKE3-256 `digest`."""

    txn: int
    chain: str
    store: str
    length: int
    digest: bytes
    codec: int

    @property
    def header(self) -> bytes:
        """The first bytes of its file.

        >>> import uuid
        >>> one = Checkpoint(7, "ab" * 32, str(uuid.UUID(int=1)), 4096, bytes(32), RAW)
        >>> len(one.header), parse_header(one.header, "here") == one
        (108, True)
        """
        store = uuid.UUID(self.store).bytes
        chain = bytes.fromhex(self.chain)
        fields = _FIELDS.pack(MAGIC, VERSION, self.codec, 0, self.txn, store, chain, self.length, self.digest)
        return fields + _CHECK.pack(zlib.crc32(fields))


def parse_header(head: bytes, where: object) -> Checkpoint:
    """The inverse of `Checkpoint.header`. Raises StoreDamaged, Unsupported, naming `where`."""
    if len(head) < HEADER_BYTES:
        raise StoreDamaged(f"checkpoint {where} is damaged: {len(head)} bytes are too few for a header")
    magic, version, codec, _, txn, store, chain, length, digest = _FIELDS.unpack_from(head)
    if magic != MAGIC or _CHECK.unpack_from(head, _FIELDS.size)[0] != zlib.crc32(head[: _FIELDS.size]):
        raise StoreDamaged(f"checkpoint {where} is damaged: its header is")
    if version > VERSION or codec not in (RAW, ZSTD):
        raise Unsupported(
            f"checkpoint {where}: version {version}, codec {codec} is of a newer release; update millrace"
        )
    return Checkpoint(txn, chain.hex(), str(uuid.UUID(bytes=store)), length, digest, codec)


def due(log_bytes: int, database_bytes: int) -> bool:
    """Whether the log since the last checkpoint has grown so far that the next is worth its cost (sizes in bytes).

    >>> due(65 << 20, 60 << 20), due(65 << 20, 600 << 20)
    (True, False)
    """
    return log_bytes > max(CHECKPOINT_LOG_BYTES_MIN, database_bytes)


# -- reading ----------------------------------------------------------------------------------------------------------


def listed(node: Path) -> list[tuple[int, Path]]:
    """(txn, file) of a node's checkpoints by their names, newest first. Raises OSError."""
    try:
        names = os.listdir(node / FOLDER)
    except FileNotFoundError:
        return []
    numbers = {name: name.removesuffix(".ckpt") for name in names if name.endswith(".ckpt")}
    return sorted(((int(n), node / FOLDER / name) for name, n in numbers.items() if n.isdecimal()), reverse=True)


def read_header(file: Path) -> Checkpoint:
    """What a checkpoint says it is; its payload is not read. Raises StoreDamaged, Unsupported, OSError."""
    with open(file, "rb", buffering=0) as source:
        return parse_header(source.read(HEADER_BYTES), file)


def restore(file: Path, target: Path, disk: Disk) -> Checkpoint:
    """Write the database of a checkpoint to `target`, verified; durable but for its name. Raises StoreDamaged,
    Unsupported, OSError."""
    with open(file, "rb") as source:
        found = parse_header(source.read(HEADER_BYTES), file)
        hasher, length = blake3(), 0
        with disk.create(target) as copy:
            for block in _decoded(source, found.codec, file):
                length += len(block)
                if length > found.length:
                    break
                hasher.update(block)
                copy.write(block)
            copy.sync()
    if (length, hasher.digest()) != (found.length, found.digest):
        raise StoreDamaged(f"checkpoint {file} is damaged: its bytes do not have the check in its header")
    return found


def _decoded(source: IO[bytes], codec: int, file: Path) -> Iterator[bytes]:
    if codec == RAW:
        yield from iter(lambda: source.read(COPY_BYTES), b"")
        return
    import pyarrow as pa

    try:
        with pa.CompressedInputStream(source, "zstd") as stream:
            yield from iter(lambda: stream.read(COPY_BYTES), b"")
    except OSError as error:  # pyarrow's ArrowIOError: truncated, or no zstd
        raise StoreDamaged(f"checkpoint {file} is damaged: {error}") from None


# -- writing ----------------------------------------------------------------------------------------------------------


def write(store: Store) -> Checkpoint:
    """Copy the namespace as it is now to every node that can be written to, then delete what it replaces.

    Raises StoreLocked when another process is at it, NotEnoughNodes when fewer nodes than replicas took it (then
    nothing is deleted).
    """
    folders = [folder for node, folder in store.node_paths().items() if node not in store.absent]
    logs = [OpLog(folder, store.disk) for folder in folders]
    with alone(store.path):
        made, took = save(store.path, store.namespace, folders, store.disk, store.replicas)
        _drop_replaced(made.txn, [oplog for oplog in logs if oplog.folder.parent in took], store.disk, store.replicas)
    return made


def write_if_due(store: Store) -> Checkpoint | None:
    """Called after a publication. A failure is logged: what was published is safe without it."""
    txn = store.txn()
    folders = [folder for node, folder in sorted(store.node_paths().items()) if node not in store.absent]
    try:
        if txn % CHECKPOINT_TXNS or not folders:
            return None
        newest = max((number for number, _ in listed(folders[0])), default=-1)
        if newest >= 0 and not due(_log_bytes(folders[0], newest), os.stat(store.path / "store.db").st_size):
            return None
        return write(store)
    except (DfsError, OSError) as error:
        log.warning("no checkpoint was written: %s", error)
        return None


def _log_bytes(node: Path, txn: int) -> int:
    """Bytes of a node's log segments that begin after `txn`."""
    with os.scandir(node / "oplog") as entries:
        return sum(entry.stat().st_size for entry in entries if entry.name[:16] > f"{txn:016d}")


def sweep(root: Path) -> None:
    """Remove what a process left that died while it wrote a checkpoint; called when a store is opened."""
    if (root / "checkpoint.new").exists():
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
    for suffix in ("", "-journal", "-wal", "-shm"):
        (root / f"checkpoint.new{suffix}").unlink(missing_ok=True)


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
    made = _measure(copy, txn, chain, str(namespace.settings()["uuid"]))
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


@dataclass(frozen=True)
class _Draft:
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

    with pa.CompressedOutputStream(
        pa.PythonFile(tee, mode="w"), pa.Codec("zstd", compression_level=ZSTD_LEVEL)
    ) as sink:
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
            catch_up(oplog, logs, txn, disk)
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
