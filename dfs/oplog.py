"""The operation log: the truth of the namespace, appended to every node before a transaction commits
(docs/formats/oplog.md).

`OpLog` is one node's copy. All appends happen under the database's write lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from blake3 import blake3

from dfs.changes import canonical_json
from dfs.errors import NodeFailed, Unsupported
from dfs.options import OPLOG_SEGMENT_BYTES_MAX

MAGIC = b"MROP"
FORMAT = 1
_HEAD = struct.Struct("<4sIIQ")


@dataclass(frozen=True)
class Operation:
    """One transaction, as it is decided."""

    txn: int
    request: str
    time_ms: int
    prev: str
    changes: Sequence[Mapping[str, Any]]

    def logged(self) -> Logged:
        """As the log keeps it."""
        value = {"format": FORMAT, "txn": self.txn, "request": self.request, "time_ms": self.time_ms, "prev": self.prev}
        return Logged(self.txn, canonical_json({**value, "changes": self.changes}))


@dataclass(frozen=True)
class Logged:
    """A record of the log: its body is decoded only when it is needed, as it may hold thousands of files."""

    txn: int
    body: bytes

    @cached_property
    def chain(self) -> str:
        """Hash of this operation and, through `prev`, of all before it."""
        return blake3(self.body).hexdigest()

    @property
    def frame(self) -> bytes:
        """The bytes of the record."""
        return _HEAD.pack(MAGIC, len(self.body), zlib.crc32(self.body), self.txn) + self.body

    def operation(self) -> Operation:
        """Decode it. Raises Unsupported for a newer format."""
        value = json.loads(self.body)
        if value["format"] > FORMAT:
            raise Unsupported(f"operation log: format {value['format']} is of a newer release; update millrace")
        return Operation(value["txn"], value["request"], value["time_ms"], value["prev"], value["changes"])


def parse_segment(data: bytes) -> tuple[list[Logged], int]:
    """The whole records at the start of a segment, and how many bytes they take.

    >>> record = Operation(1, "r", 0, "", []).logged()
    >>> parse_segment(record.frame + b"torn") == ([record], len(record.frame))
    True
    """
    records, at = [], 0
    while at + _HEAD.size <= len(data):
        magic, length, check, txn = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if magic != MAGIC or len(body) != length or zlib.crc32(body) != check:
            break
        records.append(Logged(txn, body))
        at += _HEAD.size + length
    return records, at


@dataclass(frozen=True)
class _Seen:
    """The newest segment when it was last looked at; `clean`: it ends in a whole record."""

    name: str
    size: int
    mtime_ns: int
    records: tuple[Logged, ...]
    clean: bool


class OpLog:
    """The log on one node. Every method raises NodeFailed when the node cannot be used."""

    def __init__(self, node: Path) -> None:
        self.folder = node / "oplog"
        self._seen = _Seen("", 0, 0, (), True)  # replaced as a whole: several threads may look while one appends

    def tail(self) -> Sequence[Logged]:
        """The records of the newest segment, oldest first; read again only when the file has changed."""
        try:
            self._seen = self._look(self._seen)
        except OSError as error:
            raise NodeFailed(f"operation log {self.folder} cannot be read: {error}") from error
        return self._seen.records

    def _look(self, seen: _Seen) -> _Seen:
        name = max(os.listdir(self.folder), default="")
        if not name:
            return _Seen("", 0, 0, (), True)
        with open(self.folder / name, "rb") as file:
            status = os.fstat(file.fileno())
            if (name, status.st_size, status.st_mtime_ns) == (seen.name, seen.size, seen.mtime_ns):
                return seen
            data = file.read(status.st_size)
        records, end = parse_segment(data)
        return _Seen(name, len(data), status.st_mtime_ns, tuple(records), end == len(data))

    def append(self, record: Logged) -> None:
        """Durable on return. On failure the log is as it was, as far as that is possible."""
        if (self.folder.parent / "suspect").exists():
            raise NodeFailed(f"node {self.folder.parent} is suspect after a failed fsync")
        self.tail()
        seen = self._seen
        fresh = not seen.name or not seen.clean or seen.size >= OPLOG_SEGMENT_BYTES_MAX
        name, size = (self._fresh_name(record.txn), 0) if fresh else (seen.name, seen.size)
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if fresh else 0)
        data = record.frame
        try:
            with open(os.open(self.folder / name, flags, 0o644), "wb", buffering=0) as file:
                try:
                    if file.write(data) != len(data):
                        raise OSError("short write (disk full?)")
                    sync_or_suspect(file.fileno(), self.folder.parent)
                    if fresh:
                        self._sync_names()
                except OSError:
                    os.ftruncate(file.fileno(), size)
                    raise
                status = os.fstat(file.fileno())
        except OSError as error:
            raise NodeFailed(f"operation log {self.folder / name} cannot be written: {error}") from error
        records = (record,) if fresh else (*seen.records, record)
        self._seen = _Seen(name, status.st_size, status.st_mtime_ns, records, True)

    def take_back(self, record: Logged) -> None:
        """Cut off `record`, which this process has just appended and which was not committed."""
        seen = self._seen
        if not seen.records or seen.records[-1] != record:
            return
        try:
            os.truncate(self.folder / seen.name, seen.size - len(record.frame))
        except OSError as error:
            raise NodeFailed(f"operation log {self.folder / seen.name} cannot be written: {error}") from error

    def _sync_names(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_or_suspect(handle, self.folder.parent)
        finally:
            os.close(handle)

    def _fresh_name(self, txn: int) -> str:
        taken = sum(name.startswith(f"{txn:016d}-") for name in os.listdir(self.folder))
        return f"{txn:016d}-{taken:03d}.log"


def sync_or_suspect(handle: int, node: Path) -> None:
    """fsync; a failure is never retried (the kernel may have dropped the pages): the node is marked suspect."""
    try:
        os.fsync(handle)
    except OSError as error:
        with contextlib.suppress(OSError):
            (node / "suspect").write_text(f"fsync failed: {error}\n")
        raise


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that the names in it are durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
