"""A file as a seekable raw stream over its chunks, one chunk in memory at a time."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dfs.changes import ChunkRef
from dfs.replication import ReplicatedChunks

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class StoredFile(io.BufferedReader):
    """A buffered, seekable file of a store; `size` in bytes, as fsspec expects it."""

    def __init__(self, chunks: ReplicatedChunks, path: str, refs: Sequence[ChunkRef]) -> None:
        super().__init__(ChunkReader(path, refs, _OneChunk(chunks, path, refs).get), buffer_size=1 << 20)
        self.size = refs[-1].offset + refs[-1].length if refs else 0


class _OneChunk:
    """The chunk that was asked for last."""

    def __init__(self, chunks: ReplicatedChunks, path: str, refs: Sequence[ChunkRef]) -> None:
        self._chunks = chunks
        self._path = path
        self._refs = refs
        self._current: tuple[int, bytes] = (-1, b"")

    def get(self, index: int) -> bytes:
        if self._current[0] != index:
            self._current = (-1, b"")  # let go of the old chunk before the new one is read
            self._current = (index, self._chunks.get(self._refs[index].id, self._path))
        return self._current[1]


class ChunkReader(io.RawIOBase):
    """Reads the chunks that `chunk` gives by their number, verified; it raises ChunkLost. For one thread."""

    def __init__(self, path: str, refs: Sequence[ChunkRef], chunk: Callable[[int], bytes]) -> None:
        self._chunk = chunk
        self._offsets = [ref.offset for ref in refs]
        self._size = refs[-1].offset + refs[-1].length if refs else 0
        self._position = 0
        self.name = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, before the start of dfs://{self.name}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self._position >= self._size:
            return 0
        index = bisect_right(self._offsets, self._position) - 1
        begin = self._position - self._offsets[index]
        with memoryview(buffer).cast("B") as target, memoryview(self._chunk(index)) as source:
            count = min(len(target), len(source) - begin)
            target[:count] = source[begin : begin + count]
        self._position += count
        return count
