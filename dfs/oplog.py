"""The operation log: the truth of the namespace, appended to every node before a transaction commits
(docs/formats/oplog.md).

`OpLog` is one node's copy. All appends happen under the database's write lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from blake3 import blake3
from msgspec import Struct

from dfs.changes import canonical_json
from dfs.disk import Disk, SyncFailed, mark_suspect, suspect_reason
from dfs.errors import NodeFailed, Unsupported
from dfs.options import OPLOG_SEGMENT_BYTES_MAX

MAGIC = b"MROP"
FORMAT = 1
_HEAD = struct.Struct("<4sIIQ")
_PREV = b'"prev":"'  # cannot be part of a text: quotes in it are escaped
_SEGMENT = re.compile(r"\d{16}-\d{3}\.log", re.ASCII)


class Operation(Struct, frozen=True):
    """One transaction, as it is decided."""

    txn: int
    request: str
    time_ms: int
    prev: str
    changes: Sequence[Mapping[str, Any]]

    def logged(self, changes: bytes | None = None) -> Logged:
        """As the log keeps it; `changes`: their JSON, when it is at hand (it may hold thousands of files)."""
        value = {"format": FORMAT, "txn": self.txn, "request": self.request, "time_ms": self.time_ms, "prev": self.prev}
        first = canonical_json(self.changes) if changes is None else changes
        return Logged(self.txn, b'{"changes":%b,%b' % (first, canonical_json(value)[1:]))


class Logged(Struct, frozen=True, dict=True):
    """A record of the log: its body is decoded only when it is needed, as it may hold thousands of files."""

    txn: int
    body: bytes

    @cached_property
    def chain(self) -> str:
        """Hash of this operation and, through `prev`, of all before it."""
        return blake3(self.body).hexdigest()

    @cached_property
    def prev(self) -> str:
        """Chain of the operation before, without decoding the rest."""
        at = self.body.rfind(_PREV) + len(_PREV)
        return self.body[at : self.body.find(b'"', at)].decode()

    def follows(self, other: Logged) -> bool:
        """Whether this is the next operation of the same history."""
        return self.txn == other.txn + 1 and self.prev == other.chain

    @cached_property
    def head(self) -> bytes:
        """What stands before the body."""
        return _HEAD.pack(MAGIC, len(self.body), zlib.crc32(self.body), self.txn)

    @property
    def size(self) -> int:
        """Bytes of the record."""
        return _HEAD.size + len(self.body)

    @property
    def frame(self) -> bytes:
        """The bytes of the record."""
        return self.head + self.body

    def operation(self) -> Operation:
        """Decode it. Raises Unsupported for a newer format."""
        value = json.loads(self.body)
        if value["format"] > FORMAT:
            raise Unsupported(f"operation log: format {value['format']} is of a newer release; update millrace")
        return Operation(value["txn"], value["request"], value["time_ms"], value["prev"], value["changes"])


def parse_segment(data: bytes) -> tuple[list[Logged], int]:
    """The whole records at the start of a segment that follow each other, and how many bytes they take.

    >>> record = Operation(1, "r", 0, "", []).logged()
    >>> parse_segment(record.frame + b"torn") == ([record], len(record.frame))
    True
    """
    records: list[Logged] = []
    at = 0
    while at + _HEAD.size <= len(data):
        magic, length, check, txn = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if magic != MAGIC or len(body) != length or zlib.crc32(body) != check:
            break
        record = Logged(txn, body)
        if records and not record.follows(records[-1]):
            break
        records.append(record)
        at += _HEAD.size + length
    return records, at


class _Seen(Struct, frozen=True):
    """The newest segment when it was last looked at; `clean`: it ends in a whole record."""

    name: str
    state: tuple[int, int, int]  # inode, size in bytes, mtime in ns
    records: tuple[Logged, ...]
    clean: bool

    @property
    def size(self) -> int:
        return self.state[1]

    def ends(self, file: FileIO) -> bool:
        """Whether the file still ends in the last record: another of its size may have taken its place within one tick
        of the file system's clock."""
        if not self.records or not self.clean:
            return True
        last = self.records[-1]
        return os.pread(file.fileno(), _HEAD.size, self.size - last.size) == last.head


_NOTHING = _Seen("", (0, 0, 0), (), True)


class OpLog:
    """The log on one node. Every method raises NodeFailed when the node cannot be used."""

    def __init__(self, node: Path, disk: Disk | None = None) -> None:
        self.folder = node / "oplog"
        self._node = node
        self._disk = disk or Disk()
        self._disk.guard(node)
        self._seen = _NOTHING  # replaced as a whole: several threads may look while one appends

    # -- reading -------------------------------------------------------------------------------------------------------

    def tail(self) -> Sequence[Logged]:
        """The records of the newest segment that has any, oldest first; read again only when the file has changed."""
        with self._errors("read"):
            seen = self._seen = self._look(self._seen)
            if seen.records or not seen.name:
                return seen.records
            for name in reversed(self._names()):  # the newest holds nothing but a torn record
                records, _ = parse_segment(self._disk.read(self.folder / name))
                if records:
                    return records
        return ()

    def last(self) -> Logged | None:
        """The newest record."""
        tail = self.tail()
        return tail[-1] if tail else None

    def records(self, from_txn: int = 1) -> Iterator[Logged]:
        """All records from that transaction on, oldest first, over all segments; ends before the first that does not
        follow the one before it (in number and chain)."""
        names = self._names()
        starts = [_first_txn(name) for name in names]
        begin = max(bisect_right(starts, from_txn) - 1, 0)
        while begin > 0 and starts[begin - 1] == starts[begin]:
            begin -= 1  # the first of several segments that begin with the same transaction may be torn
        before: Logged | None = None
        for name in names[begin:]:
            with self._errors("read"):
                records, _ = parse_segment(self._disk.read(self.folder / name))
            for record in records:
                if before is not None and not record.follows(before):
                    return
                before = record
                if record.txn >= from_txn:
                    yield record

    def bytes(self) -> int:
        """Size of the log."""
        with self._errors("read"), self._disk.folder(self.folder) as folder:
            return sum(os.stat(name, dir_fd=folder, follow_symlinks=False).st_size for name in self._names())

    def _names(self) -> list[str]:
        with self._errors("read"), self._disk.folder(self.folder) as folder:
            return sorted(name for name in os.listdir(folder) if _SEGMENT.fullmatch(name))

    def _look(self, seen: _Seen) -> _Seen:
        name = max(self._names(), default="")
        if not name:
            return _NOTHING
        with self._disk.open(self.folder / name) as file:
            state = _state(os.fstat(file.fileno()))
            if (name, state) == (seen.name, seen.state) and seen.ends(file):
                return seen
            data = os.pread(file.fileno(), state[1], 0)
        records, end = parse_segment(data)
        return _Seen(name, state, tuple(records), end == len(data))

    # -- writing -------------------------------------------------------------------------------------------------------

    def writable(self) -> bool:
        """Whether nothing is known that forbids it."""
        return suspect_reason(self._node) is None

    def append(self, record: Logged) -> None:
        """Durable on return. On failure the log is as it was, as far as that is possible.

        Raises NodeFailed also when the record does not follow the log's last: such a node was away, and `backfill`
        gives it what it lacks.
        """
        self.extend([record])

    def extend(self, records: Sequence[Logged]) -> None:
        """Append these with one fsync a segment."""
        reason = suspect_reason(self._node)
        if reason is not None:
            raise NodeFailed(reason)
        last = self.last()
        for record in records:
            if last is not None and not record.follows(last):
                raise NodeFailed(
                    f"operation log {self.folder} ends with transaction {last.txn}, which {record.txn} does not "
                    "follow: the node was away, and gets what it lacks when the store is opened with the other nodes"
                )
            last = record
        for group in _segments(records, self._seen):
            self._append(group)

    def _append(self, records: Sequence[Logged]) -> None:
        """To the newest segment, or to a fresh one when that is full or torn."""
        seen = self._seen
        fresh = _is_full(seen)
        with self._errors("written"):
            name = self._fresh_name(records[0].txn) if fresh else seen.name
            path = self.folder / name
            size = 0 if fresh else seen.size
            with self._disk.create(path) if fresh else self._disk.append_to(path) as file:
                try:
                    file.write(*(part for record in records for part in (record.head, record.body)))
                    file.sync()
                    if fresh:
                        self._disk.sync_folder(self.folder)
                except OSError:
                    file.truncate(size)
                    raise
                state = _state(os.fstat(file.fileno()))
        self._seen = _Seen(name, state, tuple(records) if fresh else (*seen.records, *records), True)

    def sync(self) -> None:
        """Make durable what the newest segment holds: a writer that died may not have been so far."""
        with self._errors("written"):
            for name in self._names()[-1:]:
                with self._disk.append_to(self.folder / name) as file:
                    file.sync()
                self._disk.sync_folder(self.folder)

    def take_back(self, record: Logged) -> None:
        """Cut off `record`, which this process has just appended and which was not committed."""
        seen = self._seen
        if not seen.records or seen.records[-1] != record:
            return
        with self._errors("written"):
            self._disk.truncate(self.folder / seen.name, seen.size - record.size)

    def drop_before(self, txn: int) -> int:
        """Remove whole segments that hold only records before `txn`, never the newest; returns the bytes freed."""
        names = self._names()
        freed = 0
        with self._errors("written"):
            for name, following in pairwise(names):
                if _first_txn(following) > txn:
                    break
                freed += os.lstat(self.folder / name).st_size
                self._disk.unlink(self.folder / name)
            if freed:
                self._disk.sync_folder(self.folder)
        return freed

    def _fresh_name(self, txn: int) -> str:
        taken = sum(name.startswith(f"{txn:016d}-") for name in self._names())
        return f"{txn:016d}-{taken:03d}.log"

    @contextlib.contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, SyncFailed):
                mark_suspect(self._disk, self._node, error)
            raise NodeFailed(f"operation log {self.folder} cannot be {done}: {error}") from error


def backfill(lagging: OpLog, others: Sequence[OpLog], txn: int) -> int:
    """Give a node that was away the records it lacks, up to transaction `txn`, from the other nodes. Returns how many.

    Raises NodeFailed when no other log continues it: part of them is gone (dropped after a checkpoint), or it holds
    another history.
    """
    given = 0
    for other in others:
        last = lagging.last()
        lacking = [r for r in other.records(last.txn + 1 if last else 1) if r.txn <= txn]
        if lacking and (last is None or lacking[0].follows(last)):
            lagging.extend(lacking)
            given += len(lacking)
    last = lagging.last()
    if last is None or last.txn < txn:
        raise NodeFailed(
            f"operation log {lagging.folder} ends with transaction {last.txn if last else 0} and no other node has "
            f"what follows up to {txn}"
        )
    return given


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _first_txn(name: str) -> int:
    return int(name[:16])


def _is_full(seen: _Seen) -> bool:
    """An empty one counts too: its name may not be durable."""
    return seen.size == 0 or not seen.clean or seen.size >= OPLOG_SEGMENT_BYTES_MAX


def _segments(records: Sequence[Logged], seen: _Seen) -> Iterator[Sequence[Logged]]:
    """Records in groups, each for one segment."""
    group: list[Logged] = []
    size = OPLOG_SEGMENT_BYTES_MAX if _is_full(seen) else seen.size
    for record in records:
        if group and size >= OPLOG_SEGMENT_BYTES_MAX:
            yield group
            group, size = [], 0
        elif size >= OPLOG_SEGMENT_BYTES_MAX:
            size = 0
        group.append(record)
        size += record.size
    if group:
        yield group
