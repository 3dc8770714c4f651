"""A node in memory: for tests of what lies above a ChunkStore. It keeps encoded records, so they can be damaged like
those on a disk."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from io import BytesIO

from dfs.chunk_store import ChunkStore, Usage
from dfs.codec import Record, decode, decode_blocks, is_intact
from dfs.errors import ChunkDamaged, ChunkMissing
from dfs.ids import ChunkId


class MemoryChunkStore(ChunkStore):
    """Chunks in a dict; nothing survives the process.

    >>> from dfs.codec import encode
    >>> node = MemoryChunkStore("n1")
    >>> node.put_many([encode(b"abc")]), node.get(ChunkId.of(b"abc"))
    ([True], b'abc')
    """

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.records: dict[ChunkId, bytes] = {}
        self.kept: dict[ChunkId, bytes] = {}
        self._lock = threading.Lock()

    def put_many(self, records: Sequence[Record]) -> list[bool]:
        return [self._put(record) for record in records]

    def _put(self, record: Record) -> bool:
        self.quarantine(record.id)
        with self._lock:
            if record.id in self.records:
                return False
            self.records[record.id] = record.encoded
            return True

    def get_blocks(self, chunk_id: ChunkId, block_bytes: int) -> list[bytes]:
        with self._lock:
            record = self.records.get(chunk_id)
        if record is None:
            raise ChunkMissing(f"chunk {chunk_id} is not on node {self.node_id}")
        return decode_blocks(BytesIO(record).read, block_bytes, chunk_id)

    def held(self, chunk_ids: Iterable[ChunkId]) -> set[ChunkId]:
        with self._lock:
            return {chunk_id for chunk_id in chunk_ids if chunk_id in self.records}

    def intact(self, chunk_ids: Iterable[ChunkId]) -> set[ChunkId]:
        with self._lock:
            return {chunk for chunk in chunk_ids if is_intact(self.records.get(chunk, b""), chunk)}

    def listing(self) -> Iterator[tuple[ChunkId, int]]:
        with self._lock:
            return iter(sorted((chunk, len(record)) for chunk, record in self.records.items()))

    def delete_many(self, chunk_ids: Iterable[ChunkId]) -> tuple[int, int]:
        with self._lock:
            gone = [self.records.pop(chunk) for chunk in set(chunk_ids) if chunk in self.records]
        return len(gone), sum(map(len, gone))

    def usage(self) -> Usage:
        with self._lock:
            return Usage(len(self.records), sum(map(len, self.records.values())), sum(map(len, self.kept.values())))

    def quarantine(self, chunk_id: ChunkId) -> None:
        with self._lock:
            record = self.records.get(chunk_id)
            if record is None:
                return
            try:
                decode(record, chunk_id)
            except ChunkDamaged:
                self.kept[chunk_id] = self.records.pop(chunk_id)

    def quarantined(self) -> set[ChunkId]:
        with self._lock:
            return set(self.kept)

    def discard_quarantined(self, chunk_ids: Container[ChunkId]) -> tuple[int, int]:
        with self._lock:
            gone = [self.kept.pop(chunk) for chunk in list(self.kept) if chunk in chunk_ids]
        return len(gone), sum(map(len, gone))

    def sweep(self) -> int:
        return 0

    def close(self) -> None:
        return None
