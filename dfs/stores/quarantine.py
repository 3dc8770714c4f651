"""The quarantine of a node: records found damaged, kept for inspection and never read again."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Container
from pathlib import Path

from dfs.disk import Disk
from dfs.errors import InvalidChunkId
from dfs.ids import ChunkId

log = logging.getLogger("dfs")


class Quarantine:
    """NODE/quarantine/<id>.<random>. Every method raises OSError; safe for several threads and processes."""

    def __init__(self, node: Path, disk: Disk) -> None:
        self._node = node
        self._folder = node / "quarantine"
        self._disk = disk

    def place(self, name: str) -> str:
        """A new path for what is moved here."""
        return f"{self._folder}/{name}.{secrets.token_hex(4)}"

    def place_for(self, chunk_id: ChunkId) -> str:
        """A new path for a damaged record, which is told to the log."""
        log.warning("quarantined a damaged copy of chunk %s on node %s", chunk_id, self._node)
        return self.place(chunk_id)

    def keep(self, chunk_id: ChunkId, record: bytes) -> None:
        """Write a damaged record here."""
        with self._disk.create(self.place_for(chunk_id)) as file:
            file.write(record)

    def chunks(self) -> set[ChunkId]:
        """Of which chunks records are kept."""
        return {chunk for chunk, _ in self._records()}

    def stored_bytes(self) -> int:
        """Of all that is here."""
        size = 0
        with self._disk.folder(self._folder) as handle:
            for name in os.listdir(handle):
                with contextlib.suppress(FileNotFoundError):  # discarded meanwhile
                    size += os.stat(name, dir_fd=handle, follow_symlinks=False).st_size
        return size

    def discard(self, chunk_ids: Container[ChunkId]) -> tuple[int, int]:
        """Remove the records of these chunks: how many they were, and their bytes."""
        count = size = 0
        for chunk, name in self._records():
            if chunk in chunk_ids:
                with contextlib.suppress(FileNotFoundError):  # another process does the same
                    status = os.lstat(self._folder / name)
                    self._disk.unlink(self._folder / name)
                    count, size = count + 1, size + status.st_size
        return count, size

    def _records(self) -> list[tuple[ChunkId, str]]:
        """Kept records by chunk; what else was put there is passed over."""
        found = []
        with self._disk.folder(self._folder) as handle:
            for name in os.listdir(handle):
                with contextlib.suppress(InvalidChunkId):
                    found.append((ChunkId.parse(name.partition(".")[0]), name))
        return found
