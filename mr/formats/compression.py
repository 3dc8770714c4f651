"""Compressed text files, whose bytes depend on what was written alone, not on how it was cut into writes."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, Literal, cast

import pyarrow as pa

from mr.options import COMPRESSED_BLOCK_BYTES, GZIP_LEVEL

Codec = Literal["gzip", "zstd"]
EXTENSIONS: Final[dict[Codec | None, str]] = {None: "", "gzip": ".gz", "zstd": ".zst"}


@contextmanager
def compressed(out: BinaryIO, codec: Codec | None) -> Iterator[BinaryIO]:
    """A file that compresses into `out`, which stays open; `out` itself without a codec.

    >>> sink = io.BytesIO()
    >>> with compressed(sink, "gzip") as file:
    ...     _ = file.write(b"abc")
    >>> gzip.decompress(sink.getvalue())
    b'abc'
    """
    if codec is None:
        yield out
        return
    if codec == "gzip":
        stream: Any = gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=out, mtime=0)
    else:
        stream = pa.CompressedOutputStream(_StaysOpen(out), "zstd")
    blocks = _EvenBlocks(stream)
    yield cast("BinaryIO", blocks)
    blocks.close()


class _StaysOpen:
    """A file that others may close as they like; Arrow closes what it writes to."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.closed = False

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True


class _EvenBlocks(io.RawIOBase):
    """Hands a compressor blocks of `COMPRESSED_BLOCK_BYTES`: where writes end must not reach its output."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._held += data
        whole = len(self._held) - len(self._held) % COMPRESSED_BLOCK_BYTES
        for start in range(0, whole, COMPRESSED_BLOCK_BYTES):
            self._stream.write(bytes(self._held[start : start + COMPRESSED_BLOCK_BYTES]))
        del self._held[:whole]
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.write(bytes(self._held))
            self._stream.close()
        super().close()
