"""From a stream to durable chunks: cut in the caller's thread; compress, hash and write in a few others."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Literal

from dfs.changes import FileManifest, build_manifest
from dfs.chunking import Cutter, Piece, RecordsMode, detect_records
from dfs.codec import Record, encode
from dfs.errors import BadInput, UsageProblem
from dfs.ids import ChunkId
from dfs.options import BATCH_BYTES_MAX, BATCH_CHUNKS_MAX, MIB, SNIFF_BYTES, ChunkSizes
from dfs.pins import Pins
from dfs.replication import ReplicatedChunks

Source = IO[bytes] | bytes | bytearray | memoryview
Records = Literal["auto", "lines", "none"]


class WritePool:
    """Threads that store chunks; zstd, BLAKE3, write and fsync release the interpreter lock. Started with the first
    chunk. A chunk is pinned before it is looked for or written, so that no collection takes it before it is published.
    """

    def __init__(self, chunks: ReplicatedChunks, pins: Pins) -> None:
        self.chunks = chunks
        self._pins = pins
        self.threads = min(8, (os.cpu_count() or 1) + 2)  # two more than cores: some are always waiting for the disk
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._storing: dict[ChunkId, threading.Event] = {}

    def submit(self, data: bytes, replicas: int | None = None) -> Future[tuple[ChunkId, bool]]:
        """Store one chunk on `replicas` nodes (default: the store's); the result is its id and whether it is new."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.threads, "dfs-write")
        return self._executor.submit(self._store, data, replicas)

    def _store(self, data: bytes, replicas: int | None) -> tuple[ChunkId, bool]:
        chunk_id = ChunkId.of(data)
        with self._lock:
            other = self._storing.get(chunk_id)
            mine = self._storing.setdefault(chunk_id, threading.Event())
        if other is not None:  # the same bytes twice at once: let the first be written, so that only it counts as new
            other.wait()
        try:
            with self._pins.writing():
                self._pins.add([chunk_id])
                if self.chunks.verified(chunk_id, replicas):
                    return chunk_id, False
                return chunk_id, self.chunks.put_many([encode(data, chunk_id)], replicas)[0]
        finally:
            with self._lock:
                self._storing.pop(chunk_id, None)
            mine.set()

    def put_many(self, records: Sequence[Record], replicas: int | None = None) -> list[bool]:
        """Store these in the caller's thread; for each whether it is new."""
        with self._pins.writing():
            self._pins.add([record.id for record in records])
            return self.chunks.put_many(records, replicas)

    def close(self) -> None:
        """Wait for what was submitted, end the threads."""
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None


class FileWriter:
    """Takes a file's bytes in blocks and stores its chunks as they are cut. For one thread; a context manager that
    drops an unfinished file."""

    def __init__(
        self,
        pool: WritePool,
        sizes: ChunkSizes,
        records: Records,
        name_hint: str | None,
        replicas: int | None = None,
    ) -> None:
        if records not in ("auto", "lines", "none"):
            raise UsageProblem(f"records {records!r}: auto, lines or none")
        self._pool = pool
        self._sizes = sizes
        self._records = records
        self._name_hint = name_hint
        self._replicas = replicas
        self._head = bytearray()  # until the mode is known
        self._cutter: Cutter | None = None
        self._mode: RecordsMode = "none"
        self._running: deque[tuple[Future[tuple[ChunkId, bool]], Piece, int]] = deque()
        self._chunks: list[tuple[ChunkId, int, int | None, bool]] = []
        self._new: set[ChunkId] = set()

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        for future, _, _ in self._running:
            future.cancel()

    def write(self, block: bytes | bytearray | memoryview) -> int:
        """Take more bytes; waits while too many chunks are being stored. Raises NotEnoughNodes."""
        size = memoryview(block).nbytes
        if self._cutter is None:
            self._head += block
            if len(self._head) >= SNIFF_BYTES:
                self._begin()
        else:
            self._store(self._cutter.feed(block))
        return size

    def write_from(self, source: Source) -> None:
        """Take all of a stream or buffer. Raises BadInput when the stream cannot be read."""
        if isinstance(source, (bytes, bytearray, memoryview)):
            source = memoryview(source).cast("B")
            for at in range(0, len(source), 16 * MIB):
                self.write(source[at : at + 16 * MIB])
            return
        size = max(SNIFF_BYTES, min(self._sizes.avg, 16 * MIB))
        while block := _read(source, size):
            self.write(block)

    def finish(self) -> FileManifest:
        """All chunks are durable; the manifest to publish."""
        cutter = self._begin()
        self._store(cutter.finish())
        while self._running:
            self._collect()
        return build_manifest(self._chunks, self._mode, len(self._new))

    def _begin(self) -> Cutter:
        if self._cutter is None:
            head = bytes(self._head)
            self._mode = detect_records(head, self._name_hint) if self._records == "auto" else self._records
            self._cutter = Cutter(self._sizes, self._mode)
            self._head.clear()
            self._store(self._cutter.feed(head))
        return self._cutter

    def _store(self, pieces: Iterator[Piece]) -> None:
        for piece in pieces:
            length = len(piece.data)
            future = self._pool.submit(piece.data, self._replicas)
            self._running.append((future, Piece(b"", piece.records, piece.continues), length))
            if len(self._running) > self._pool.threads:
                self._collect()

    def _collect(self) -> None:
        future, piece, length = self._running[0]
        chunk_id, new = future.result()  # a failure stays first in the queue: `finish` after it must not leave a hole
        self._running.popleft()
        if new:
            self._new.add(chunk_id)
        self._chunks.append((chunk_id, length, piece.records, piece.continues))


def write_batched(
    pool: WritePool,
    sizes: ChunkSizes,
    sources: Iterable[tuple[str, IO[bytes] | bytes]],
    records: Records,
    replicas: int | None = None,
) -> Iterator[FileManifest]:
    """The manifests of many files, in order; files of one chunk are stored by one `put_many` for up to 512 of them or 8
    MiB."""
    batch: list[tuple[Record, Piece, RecordsMode]] = []
    size = 0
    for name, source in sources:
        head = (
            bytes(source) if isinstance(source, (bytes, bytearray, memoryview)) else _read_up_to(source, sizes.min + 1)
        )
        if 0 < len(head) <= sizes.min:
            mode = detect_records(head, name) if records == "auto" else records
            cutter = Cutter(sizes, mode)
            (piece,) = [*cutter.feed(head), *cutter.finish()]
            batch.append((encode(piece.data), Piece(b"", piece.records, piece.continues), mode))
            size += len(head)
            if size < BATCH_BYTES_MAX and len(batch) < BATCH_CHUNKS_MAX:
                continue
        yield from _flush(pool, batch, replicas)
        batch, size = [], 0 if 0 < len(head) <= sizes.min else size
        if not 0 < len(head) <= sizes.min:
            with FileWriter(pool, sizes, records, name, replicas) as writer:
                writer.write_from(head)
                if not isinstance(source, (bytes, bytearray, memoryview)):
                    writer.write_from(source)
                yield writer.finish()
            size = 0
    yield from _flush(pool, batch, replicas)


def _flush(
    pool: WritePool, batch: list[tuple[Record, Piece, RecordsMode]], replicas: int | None
) -> Iterator[FileManifest]:
    flags = pool.put_many([record for record, _, _ in batch], replicas) if batch else []
    for (record, piece, mode), new in zip(batch, flags, strict=True):
        yield build_manifest([(record.id, record.length, piece.records, piece.continues)], mode, int(new))


def _read(source: IO[bytes], size: int) -> bytes:
    try:
        return source.read(size)
    except (OSError, EOFError) as error:
        raise BadInput(f"{getattr(source, 'name', 'the input')} cannot be read: {error}") from error


def _read_up_to(source: IO[bytes], size: int) -> bytes:
    parts, have = [], 0
    while have < size and (block := _read(source, size - have)):
        parts.append(block)
        have += len(block)
    return b"".join(parts)
