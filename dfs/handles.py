"""Open files of `dfs://`: a reader that keeps the chunks it read last, a writer whose file appears when it is closed.

A file that is left by an exception, or never closed, is not published (decision 21).
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fsspec.compression import compr

from dfs.changes import ChunkRef, FileManifest
from dfs.options import READ_CACHE_BYTES_MAX
from dfs.reading import ChunkReader
from dfs.writing import FileWriter

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

log = logging.getLogger("dfs")

Fetch = Callable[[ChunkRef], bytes]


def read_pool() -> ThreadPoolExecutor:
    """The threads of this process that read chunks; reading, BLAKE3 and zstd release the interpreter lock."""
    return _pool(os.getpid())  # threads do not survive a fork


@lru_cache(maxsize=1)
def _pool(pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 2), "dfs-read")


class ReadFile(io.BufferedReader):
    """A stored file. `size` in bytes; `version_id`: the transaction, as text, since which its path held this content.

    For several threads: a read begins where its own thread sought just before, wherever others have moved meanwhile
    (DuckDB's threads seek and read one Python file without a lock); a thread that did not seek goes on where the last
    read of any thread ended. Raises ChunkLost when a chunk has no good copy left.
    """

    def __init__(self, path: str, refs: Sequence[ChunkRef], version_id: str, fetch: Fetch) -> None:
        super().__init__(_CachedReader(path, refs, fetch), buffer_size=128 * 1024)
        self.path = path
        self.size = refs[-1].offset + refs[-1].length if refs else 0
        self.version_id = version_id
        self._sought: dict[int, int] = {}  # where a thread sought to, and has not read yet
        self._turn = threading.Lock()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with self._turn:
            if whence == io.SEEK_CUR:
                offset, whence = offset + self.tell(), io.SEEK_SET
            position = self._sought[threading.get_ident()] = super().seek(offset, whence)
        return position

    def tell(self) -> int:
        sought = self._sought.get(threading.get_ident())
        return super().tell() if sought is None else sought

    def _resume(self) -> None:
        sought = self._sought.pop(threading.get_ident(), None)
        if sought is None:
            self._sought.clear()  # the threads take turns at one position: what they sought before is past
        elif sought != super().tell():
            super().seek(sought)

    def read(self, size: int | None = -1) -> bytes:
        with self._turn:
            self._resume()
            return super().read(size)

    def read1(self, size: int = -1) -> bytes:
        with self._turn:
            self._resume()
            return super().read1(size)

    def readinto(self, buffer: WriteableBuffer) -> int:
        with self._turn:
            self._resume()
            return super().readinto(buffer)

    def readline(self, size: int | None = -1) -> bytes:
        if self._sought:
            with self._turn:
                self._resume()
        return super().readline(size)


class _CachedReader(ChunkReader):
    mode = "rb"

    def __init__(self, path: str, refs: Sequence[ChunkRef], fetch: Fetch) -> None:
        self._chunks = _ChunkCache(refs, fetch)
        super().__init__(path, refs, self._chunks.get)

    def close(self) -> None:
        self._chunks.clear()
        super().close()


class _ChunkCache:
    """The chunks of one file that were used last; while they are read in order, the next one is fetched ahead."""

    def __init__(self, refs: Sequence[ChunkRef], fetch: Fetch) -> None:
        self._refs = refs
        self._fetch = fetch
        self._kept: OrderedDict[int, Future[bytes]] = OrderedDict()  # by position in the file; last used last
        self._bytes = 0
        self._last: int | None = None

    def get(self, index: int) -> bytes:
        if index not in self._kept:
            self._keep(index, Future()).set_result(self._fetch(self._refs[index]))
        self._kept.move_to_end(index)
        if self._last == index - 1 and index + 1 < len(self._refs) and index + 1 not in self._kept:
            self._keep(index + 1, read_pool().submit(self._fetch, self._refs[index + 1]))
        self._last = index
        try:
            return self._kept[index].result()
        except BaseException:
            self._drop(index)  # the next read tries again
            raise

    def _keep(self, index: int, future: Future[bytes]) -> Future[bytes]:
        self._kept[index] = future
        self._bytes += self._refs[index].length
        while self._bytes > READ_CACHE_BYTES_MAX and len(self._kept) > 2:
            self._drop(next(iter(self._kept)))
        return future

    def _drop(self, index: int) -> None:
        self._kept.pop(index).cancel()
        self._bytes -= self._refs[index].length

    def clear(self) -> None:
        for index in list(self._kept):
            self._drop(index)


class WriteFile(io.RawIOBase):
    """A file being written. `close` publishes it, or joins it to its transaction; `discard` does neither.

    `publish` takes its manifest and returns the transaction's number (None: not yet), which becomes `version_id`.
    `compression` is a name that fsspec knows; `position` counts the bytes that are in the file already.
    """

    mode = "wb"

    def __init__(
        self,
        path: str,
        writer: FileWriter,
        publish: Callable[[WriteFile, FileManifest], int | None],
        compression: str | None = None,
        position: int = 0,
    ) -> None:
        self.path = self.name = path
        self.version_id: str | None = None
        self._writer = writer
        self._publish = publish
        self._compressor = compr[compression](_Sink(writer), mode="w") if compression else None
        self._position = position
        self._handled = sys.exc_info()[1]

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        if self.closed:
            raise ValueError(f"dfs://{self.path} is closed")
        block = data if isinstance(data, (bytes, bytearray)) else memoryview(data).cast("B")
        (self._compressor or self._writer).write(block)
        self._position += len(block)
        return len(block)

    def tell(self) -> int:
        return self._position

    def discard(self) -> None:
        """Close without publishing."""
        if not self.closed:
            self._writer.__exit__()
            super().close()

    def close(self) -> None:
        """Publish the file, or join it to the open transaction. Raises as `Store.publish`."""
        if self.closed:
            return
        if _left_by_exception(self._handled):
            log.warning("dfs://%s is not published: an exception ended its writing", self.path)
            self.discard()
            return
        try:
            if self._compressor is not None:
                self._compressor.close()
            number = self._publish(self, self._writer.finish())
            self.version_id = None if number is None else str(number)
        finally:
            super().close()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        """A file that was never closed is never published."""
        self.discard()


class TextWriter(io.TextIOWrapper):
    """Text into a WriteFile; when an exception leaves it, or it is never closed, nothing is published."""

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.buffer.discard()  # type: ignore[attr-defined]
        self.close()

    def __del__(self) -> None:
        if not self.closed:
            self.buffer.discard()  # type: ignore[attr-defined]


class _Sink(io.RawIOBase):
    """What a compressor writes to."""

    def __init__(self, writer: FileWriter) -> None:
        self._writer = writer

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._writer.write(data)


def _left_by_exception(handled: BaseException | None) -> bool:
    """Whether some context manager is closing the file because an exception leaves its block.

    fsspec.open() and pandas close a file in their `__exit__` whatever happened, without telling it. `handled` is the
    exception that was being handled when the file was opened, if any: that one is not ours.
    """
    error = sys.exc_info()[1]
    if error is None or error is handled:
        return False
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_name != "__exit__":
        frame = frame.f_back
    return frame.f_code.co_name == "__exit__"
