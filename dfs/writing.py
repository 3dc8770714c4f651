"""From a stream to durable chunks: cut in the caller's thread; compress, hash and write in a few others."""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Literal

from msgspec.structs import replace

from dfs.changes import FileManifest, build_manifest
from dfs.chunking import Cutter, Piece, RecordsMode, detect_records, only_piece
from dfs.codec import encode
from dfs.errors import BadInput, UsageProblem
from dfs.ids import ChunkId
from dfs.one_process import OneProcess
from dfs.options import BATCH_BYTES_MAX, BATCH_CHUNKS_MAX, READ_BYTES, SNIFF_BYTES, ChunkSizes
from dfs.pins import Pins
from dfs.replication import ReplicatedChunks

Data = bytes | bytearray | memoryview
Source = IO[bytes] | Data
Stored = tuple[ChunkId, bool]  # id of a chunk, and whether it is new
Records = Literal["auto", "lines", "none"]


class WritePool:
    """Threads that store chunks; zstd, BLAKE3, write and fsync release the interpreter lock. Started with the first
    chunk. A chunk is pinned before it is looked for or written, so that no collection takes it before it is published.
    """

    def __init__(self, chunks: ReplicatedChunks, pins: Pins) -> None:
        self._chunks = chunks
        self._pins = pins
        self._process = OneProcess()
        self._threads = min(8, (os.cpu_count() or 1) + 2)  # two more than cores: some are always waiting for the disk
        self._free = threading.Semaphore(self._threads + 1)  # bounds what is in memory, whoever writes
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._storing: dict[ChunkId, threading.Event] = {}

    def submit(self, datas: Sequence[Data], replicas: int | None = None) -> Future[list[Stored]]:
        """Store chunks on `replicas` nodes each (default: the store's), durably when the future is done; its result has
        the id of each and whether it is new. Waits while too many are being stored."""
        self._process.check()
        self._free.acquire()
        try:
            with self._lock:
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(self._threads, "dfs-write")
                future = self._executor.submit(self._store, datas, replicas)
        except BaseException:
            self._free.release()
            raise
        future.add_done_callback(lambda _: self._free.release())
        return future

    def _store(self, datas: Sequence[Data], replicas: int | None) -> list[Stored]:
        ids = [ChunkId.of(data) for data in datas]
        mine = threading.Event()
        with self._lock:
            others = {other for chunk in ids if (other := self._storing.get(chunk)) is not None}
            self._storing.update(dict.fromkeys(ids, mine))
        for other in others:  # the same bytes twice at once: let the first be written, so that only it counts as new
            other.wait()
        try:
            with self._pins.writing():
                self._pins.add(ids)
                good = self._chunks.intact(ids, replicas)
                records = [encode(data, chunk) for data, chunk in zip(datas, ids, strict=True) if chunk not in good]
                new = iter(self._chunks.put_many(records, replicas))
                return [(chunk, chunk not in good and next(new)) for chunk in ids]
        finally:
            with self._lock:
                for chunk in ids:
                    if self._storing.get(chunk) is mine:
                        del self._storing[chunk]
            mine.set()

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
        self._ended = False
        self._running: deque[tuple[Future[list[Stored]], Piece, int]] = deque()
        self._chunks: list[tuple[ChunkId, int, int | None, bool]] = []
        self._new: set[ChunkId] = set()

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Store nothing more that is not under way."""
        for future, _, _ in self._running:
            future.cancel()

    def done(self) -> bool:
        """Whether `finish` need not wait, after `end`."""
        return all(future.done() for future, _, _ in self._running)

    def write(self, block: Data) -> int:
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
            for at in range(0, len(source), READ_BYTES):
                self.write(source[at : at + READ_BYTES])
            return
        while block := _read(source, READ_BYTES):
            self.write(block)

    def end(self) -> None:
        """No more bytes come: the last chunks are on their way. Raises NotEnoughNodes."""
        if not self._ended:
            cutter = self._begin()
            self._ended = True
            self._store(cutter.finish())

    def finish(self) -> FileManifest:
        """All chunks are durable; the manifest to publish. Raises NotEnoughNodes."""
        self.end()
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
            future = self._pool.submit([piece.data], self._replicas)
            self._running.append((future, Piece(b"", piece.records, piece.continues), len(piece.data)))
            while self._running and self._running[0][0].done():
                self._collect()

    def _collect(self) -> None:
        future, piece, length = self._running[0]
        [(chunk_id, new)] = future.result()  # a failure stays first in the queue: no `finish` after it leaves a hole
        self._running.popleft()
        if new:
            self._new.add(chunk_id)
        self._chunks.append((chunk_id, length, piece.records, piece.continues))


class _Batch:
    """Small files that are stored by one call."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._modes: list[RecordsMode] = []
        self._size = 0
        self._stored: Future[list[Stored]] | None = None

    def add(self, piece: Piece, mode: RecordsMode) -> int:
        """Returns the number of this file in the batch."""
        self._pieces.append(piece)
        self._modes.append(mode)
        self._size += len(piece.data)
        return len(self._pieces) - 1

    def is_full(self) -> bool:
        return self._size >= BATCH_BYTES_MAX or len(self._pieces) >= BATCH_CHUNKS_MAX

    def submit(self, pool: WritePool, replicas: int | None) -> None:
        if self._pieces:
            self._stored = pool.submit([piece.data for piece in self._pieces], replicas)
        self._lengths = [len(piece.data) for piece in self._pieces]
        self._pieces = [replace(piece, data=b"") for piece in self._pieces]

    def done(self) -> bool:
        return self._stored is not None and self._stored.done()

    def cancel(self) -> None:
        if self._stored is not None:
            self._stored.cancel()

    def manifest(self, number: int) -> FileManifest:
        assert self._stored is not None
        chunk_id, new = self._stored.result()[number]
        piece = self._pieces[number]
        chunk = (chunk_id, self._lengths[number], piece.records, piece.continues)
        return build_manifest([chunk], self._modes[number], int(new))


def write_batched(
    pool: WritePool,
    sizes: ChunkSizes,
    sources: Iterable[tuple[str, IO[bytes] | bytes]],
    records: Records,
    replicas: int | None = None,
) -> Iterator[FileManifest]:
    """The manifests of many files, in order; files of one chunk are stored by one call for up to 2,048 of them or 16
    MiB."""
    waiting: deque[tuple[_Batch | FileWriter, int]] = deque()
    batch = _Batch()
    try:
        for name, source in sources:
            stream = io.BytesIO(source) if isinstance(source, (bytes, bytearray, memoryview)) else source
            head = _read_up_to(stream, sizes.min + 1)
            if 0 < len(head) <= sizes.min:
                mode = detect_records(head, name) if records == "auto" else records
                waiting.append((batch, batch.add(only_piece(head, mode), mode)))
                if batch.is_full():
                    batch.submit(pool, replicas)
                    batch = _Batch()
            else:
                writer = FileWriter(pool, sizes, records, name, replicas)
                waiting.append((writer, 0))
                writer.write_from(head)
                writer.write_from(stream)
                writer.end()
            while waiting and waiting[0][0].done():
                yield _manifest(*waiting.popleft())
        batch.submit(pool, replicas)
        while waiting:
            yield _manifest(*waiting.popleft())
    finally:
        for pending, _ in waiting:
            pending.cancel()


def _manifest(stored: _Batch | FileWriter, number: int) -> FileManifest:
    return stored.manifest(number) if isinstance(stored, _Batch) else stored.finish()


def _read(source: IO[bytes], size: int) -> bytes:
    try:
        return source.read(size)
    except (OSError, EOFError) as error:
        raise BadInput(f"{getattr(source, 'name', 'the input')} cannot be read: {error}") from error


def _read_up_to(source: IO[bytes], size: int) -> bytes:
    """Fewer bytes only at the end. Most files are short, and memory for `size` bytes costs more than they do."""
    parts: list[bytes] = []
    have = 0
    while have < size and (block := _read(source, min(SNIFF_BYTES if not parts else READ_BYTES, size - have))):
        parts.append(block)
        have += len(block)
    return b"".join(parts)
