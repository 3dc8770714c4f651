"""Compressed files as a stream of their content, with limits on what may come out and on the memory it takes.

Every member of a file is decoded by its own decoder and must reach its own end: what is behind the last one is an
error unless it is padding. The standard library's file objects pass over it in silence where it is no member (.bz2,
.xz), which would make a damaged header look like the end of the file.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, Protocol

import pyarrow as pa

from mr.errors import CorruptInput
from mr.options import (
    DECOMPRESSED_BYTES_MAX,
    DECOMPRESSED_FREE_BYTES,
    DECOMPRESSED_RATIO_MAX,
    XZ_MEMORY_BYTES_MAX,
)

FEED_BYTES: Final = 1 << 18
"""So many stored bytes are given to a decoder at a time."""


def decoded(codec: str, raw: BinaryIO, path: str, stored_bytes: int, block_bytes: int) -> Iterator[bytes]:
    """The content of a file of `stored_bytes` in pieces of at most `block_bytes`; all its members, one after the other.

    Raises `CorruptInput` naming `path`, the bytes given so far and how many stored ones were read: for damaged or
    truncated data, for what is no member behind the last one, for a file without a byte, for one that needs more
    than XZ_MEMORY_BYTES_MAX to decode, and for one that gives more than DECOMPRESSED_BYTES_MAX, or more than
    DECOMPRESSED_RATIO_MAX times its size once DECOMPRESSED_FREE_BYTES have come out.

    >>> import gzip, io
    >>> data = gzip.compress(b"one") + gzip.compress(b"two")
    >>> b"".join(decoded("gzip", io.BytesIO(data), "x.gz", len(data), 1 << 20))
    b'onetwo'
    """
    given = 0
    most = min(DECOMPRESSED_BYTES_MAX, max(DECOMPRESSED_FREE_BYTES, stored_bytes * DECOMPRESSED_RATIO_MAX))
    source = _Source(raw)
    blocks = _zstd(source, block_bytes) if codec == "zstd" else _members(_DECODERS[codec], source, block_bytes)
    while True:
        try:
            block = next(blocks, b"")
        except (EOFError, OSError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
            if source.failed:
                raise
            where = f"within its first {source.position:,} of {stored_bytes:,} bytes"
            raise CorruptInput(path, given, f"the {codec} data is corrupt or cut short {where}: {error}") from None
        if not block:
            return
        given += len(block)
        if given > most:
            text = f"more than {most:,} bytes when decompressed from {stored_bytes:,}; is it a decompression bomb?"
            raise CorruptInput(path, given - len(block), text)
        yield block


class _Source:
    """The stored bytes, and whether reading them failed, which is no damage of theirs."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.position = 0
        self.failed = False
        self.closed = False

    def read(self, size: int = FEED_BYTES) -> bytes:
        try:
            data = self._raw.read(size)
        except BaseException:
            self.failed = True
            raise
        self.position += len(data)
        return data

    def close(self) -> None:
        """Whoever opened the file closes it; pyarrow asks for this."""


class _Decoder(Protocol):
    """What `bz2` and `lzma` have: gives at most `max_length` bytes, keeps the input that it did not need."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """A gzip member by zlib, which checks its CRC and length."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        block = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._full = len(block) == max_length  # zlib may hold more
        return block


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, XZ_MEMORY_BYTES_MAX)


_DECODERS: Final[dict[str, Callable[[], _Decoder]]] = {"gzip": _Gzip, "bz2": bz2.BZ2Decompressor, "xz": _xz}


def _members(new: Callable[[], _Decoder], source: _Source, block_bytes: int) -> Iterator[bytes]:
    data, decoder, first = source.read(), new(), True
    while data or first:
        first = False
        while not decoder.eof:
            if decoder.needs_input and not data:
                data = source.read()
                if not data:
                    raise EOFError("the data ends before its end mark")
            block = decoder.decompress(data, block_bytes)
            data = b""
            if block:
                yield block
        data, decoder = decoder.unused_data.lstrip(b"\0"), new()
        while not data:  # zeros between or behind members are padding
            more = source.read()
            data = more.lstrip(b"\0")
            if not more:
                break


def _zstd(source: _Source, block_bytes: int) -> Iterator[bytes]:
    """By pyarrow, which goes on from frame to frame, knows a cut one and limits the memory of a decoder to 128 MiB."""
    stream = pa.CompressedInputStream(pa.PythonFile(source, mode="r"), "zstd")
    seen = False
    while block := stream.read(block_bytes):
        seen = True
        yield bytes(block)
    if not seen and source.position == 0:
        raise EOFError("the file is empty")
