"""Compressed input as a stream of its content, with limits on what may come out of it and on the memory it takes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from typing import IO, TYPE_CHECKING, Any

from dfs.errors import BadInput
from dfs.options import (
    DECOMPRESSED_BYTES_MAX,
    DECOMPRESSED_FREE_BYTES,
    DECOMPRESSED_RATIO_MAX,
    XZ_MEMORY_BYTES_MAX,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ENDINGS = (".gz", ".bz2", ".xz", ".zst")
_BLOCK_BYTES = 1 << 18


def open_decompressed(source: IO[bytes], name: str, size: int) -> IO[bytes]:
    """A buffered stream of what `source` (a file `name` of `size` bytes that ends in .gz, .bz2, .xz or .zst; several
    members are joined) holds.

    Reading raises BadInput for a damaged or truncated file, for one that needs more memory than `XZ_MEMORY_BYTES_MAX`
    (.xz; for .zst the codec's limit of 128 MiB), and for one that gives more than 1 TiB, or more than 1,100 times its
    size once 256 MiB have come out.
    """
    content: Any
    if name.endswith(".gz"):
        content = gzip.GzipFile(fileobj=source)
    elif name.endswith(".bz2"):
        content = bz2.BZ2File(source)
    elif name.endswith(".xz"):
        content = io.BufferedReader(_Xz(source), buffer_size=_BLOCK_BYTES)
    elif name.endswith(".zst"):
        import pyarrow as pa

        content = pa.input_stream(source, compression="zstd")
    else:
        raise BadInput(f"{name} has none of the endings {', '.join(ENDINGS)}")
    return io.BufferedReader(_Limited(content, name, size), buffer_size=1 << 20)


class _Xz(io.RawIOBase):
    """Streams of .xz one after the other, with a limit on the memory of each; `lzma.LZMAFile` has none."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._data = b""  # read, not yet given to the decoder
        self._decoder: lzma.LZMADecompressor | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer).cast("B")
        while True:
            decoder = self._decoder or self._next_stream()
            if decoder is None:
                return 0
            if decoder.needs_input and not self._data:
                self._data = self._source.read(_BLOCK_BYTES)
                if not self._data:
                    raise EOFError("the stream ends before its end marker")
            content = decoder.decompress(self._data, len(target))
            self._data = decoder.unused_data if decoder.eof else b""
            self._decoder = None if decoder.eof else decoder
            if content:
                target[: len(content)] = content
                return len(content)

    def _next_stream(self) -> lzma.LZMADecompressor | None:
        """A decoder for the stream after the zeros that may stand between two; None at the end of the file."""
        while True:
            self._data = self._data.lstrip(b"\0") or self._source.read(_BLOCK_BYTES)
            if not self._data:
                return None
            if self._data[0]:
                return lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY_BYTES_MAX)


class _Limited(io.RawIOBase):
    """Counts what comes out and turns every codec's errors into BadInput."""

    def __init__(self, source: IO[bytes], name: str, size: int) -> None:
        self._source = source
        self._size_max = min(DECOMPRESSED_BYTES_MAX, max(DECOMPRESSED_FREE_BYTES, size * DECOMPRESSED_RATIO_MAX))
        self._given = 0
        self.name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer).cast("B")
        try:
            data = self._source.read(len(target))
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            where = f"at byte {self._given} of its content"
            raise BadInput(f"{self.name} cannot be decompressed, {where}: {error}") from error
        self._given += len(data)
        if self._given > self._size_max:
            raise BadInput(f"{self.name} gives more than {self._size_max} bytes: it looks like a decompression bomb")
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._source.close()
        super().close()
