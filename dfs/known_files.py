"""What `dfs put` stored before: local file -> manifest, so that an unchanged file is not read again.

Only a cache: it may be deleted at any time, and whoever uses an answer verifies its chunks
(docs/formats/known-files.md)."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3
from msgspec import Struct

from dfs.changes import FileManifest, build_manifest
from dfs.errors import DfsError
from dfs.ids import ChunkId
from dfs.options import KNOWN_FILES_MAX, RACY_NS

log = logging.getLogger("dfs")

_HEAD = "millrace-known-files 1"


class Stamp(Struct, frozen=True):
    """What changes when a file's content does: device, inode, size in bytes, times in ns. `mode` is how it was stored
    (records, decompressed)."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: str

    @classmethod
    def of(cls, stat: os.stat_result, mode: str) -> Stamp:
        """The stamp of a file that was looked at."""
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, mode)

    def to_json(self) -> list[Any]:
        """A value that `json.dumps` takes."""
        return [self.device, self.inode, self.size, self.mtime_ns, self.ctime_ns, self.mode]


class KnownFiles:
    """The files that were put into one store; in 256 parts by folder, each read when it is first asked for."""

    def __init__(self, folder: Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._folder = folder
        self._clock_ns = clock_ns
        self._parts: dict[str, dict[str, list[Any]]] = {}
        self._changed: set[str] = set()

    def get(self, path: str, stamp: Stamp) -> FileManifest | None:
        """The manifest of an absolute path, if the file still has the stamp with which it was stored."""
        entry = self._part(path)[1].get(path)
        if entry is None or entry[0] != stamp.to_json():
            return None
        try:
            chunks = [(ChunkId.parse(i), length, records, bool(more)) for i, length, records, more in entry[2]]
            return build_manifest(chunks, entry[1], 0)
        except (DfsError, TypeError, ValueError, IndexError):
            return None

    def add(self, path: str, stamp: Stamp, manifest: FileManifest) -> None:
        """Remember a file that had this stamp before it was read; unless it is so young that it may yet change without
        a new stamp."""
        name, part = self._part(path)
        part.pop(path, None)  # to the end: the oldest are dropped first
        self._changed.add(name)
        if self._clock_ns() - max(stamp.mtime_ns, stamp.ctime_ns) >= RACY_NS:
            chunks = [[c.id, c.length, c.records, int(c.continues)] for c in manifest.chunks]
            part[path] = [stamp.to_json(), manifest.records_mode, chunks]

    def save(self) -> None:
        """Write what changed. A failure is logged: the files are stored all the same."""
        try:
            for name in sorted(self._changed):
                self._write(self._folder / name, self._parts[name])
        except OSError as error:
            log.info("known files are not saved in %s: %s", self._folder, error)
        self._changed.clear()

    def _part(self, path: str) -> tuple[str, dict[str, list[Any]]]:
        name = blake3(os.fsencode(os.path.dirname(path))).hexdigest()[:2]
        if name not in self._parts:
            self._parts[name] = _read(self._folder / name)
        return name, self._parts[name]

    def _write(self, target: Path, part: dict[str, list[Any]]) -> None:
        kept = dict(list(part.items())[-KNOWN_FILES_MAX:])
        text = json.dumps(kept, separators=(",", ":")).encode()
        self._folder.mkdir(exist_ok=True)
        temp = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        try:
            with open(temp, "xb") as file:
                file.write(f"{_HEAD} {blake3(text).hexdigest()}\n".encode() + text)
            os.replace(temp, target)
        finally:
            temp.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, list[Any]]:
    """A part; empty when it is missing, damaged, or of another release."""
    try:
        head, _, text = path.read_bytes().partition(b"\n")
    except OSError:
        return {}
    if head.decode(errors="replace") != f"{_HEAD} {blake3(text).hexdigest()}":
        return {}
    found: dict[str, list[Any]] = json.loads(text)
    return found
