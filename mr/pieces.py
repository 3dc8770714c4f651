"""Pieces of input files, opened: bytes from a map of a local file, from chunks of the store, or from a URL."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import mmap
import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
from blake3 import blake3

from mr.errors import InputError
from mr.options import DECOMPRESSED_BYTES_MAX
from mr.storage import read_chunk, stamp_of, system_of
from mr.tasks import PieceRef


class OpenedPiece:
    """A `PieceRef` opened (see `formats.base.Piece`): bytes come from a map of a local file, chunks, or a URL."""

    def __init__(self, ref: PieceRef) -> None:
        self._ref = ref
        self.path = ref.path
        self.offset = 0 if ref.compression else ref.offset
        self.row_groups = ref.row_groups
        self.consumed = 0  # bytes given out by `blocks`, for progress

    def buffer(self) -> pa.Buffer:
        """All bytes at once. Raises InputError."""
        if self._ref.compression:
            return pa.py_buffer(b"".join(block.to_pybytes() for block in self.blocks(1 << 22)))
        if self._ref.chunks:
            blocks = [self._chunk(id) for id, _ in self._ref.chunks]
            return pa.py_buffer(blocks[0] if len(blocks) == 1 else b"".join(blocks))
        if system_of(self.path) != "local":
            with self.file() as file:
                file.seek(self._ref.offset)
                return pa.py_buffer(file.read(self._ref.length))
        return self._mapped()

    def blocks(self, block_bytes: int) -> Iterator[pa.Buffer]:
        """The same bytes a block at a time. Raises InputError."""
        for block in self._blocks(block_bytes):
            self.consumed += block.size
            yield block

    def _blocks(self, block_bytes: int) -> Iterator[pa.Buffer]:
        if self._ref.compression:
            yield from self._decompressed(block_bytes)
        elif len(self._ref.chunks) > 1:
            for id, _ in self._ref.chunks:
                yield from _sliced(pa.py_buffer(self._chunk(id)), block_bytes)
        else:
            yield from _sliced(self.buffer(), block_bytes)

    def head(self, size: int) -> bytes:
        """The first `size` bytes, or all if there are fewer. Raises InputError."""
        found = b""
        for block in self.blocks(size):
            found += block.to_pybytes()
            if len(found) >= size:
                break
        return found[:size]

    def file(self) -> BinaryIO:
        """A seekable file over all bytes of the file. Raises InputError."""
        if self._ref.compression:
            return io.BytesIO(self.buffer().to_pybytes())
        return self._raw()

    def check_unchanged(self) -> None:
        """Raise InputError if a local file no longer holds the bytes that the job was planned with.

        Called when all was read: the result will be recorded as that of the planned bytes. A file may have grown.
        """
        ref = self._ref
        try:
            if not ref.stamp or stamp_of(os.stat(ref.path)) == ref.stamp:
                return
            with open(ref.path, "rb") as file:
                file.seek(ref.offset)
                found = str(blake3(file.read(ref.length)).hexdigest())
        except OSError:
            found = ""
        if found != ref.digest:
            raise InputError(f"{ref.path}: the file has changed since the job began; submit the job again")

    def _raw(self) -> BinaryIO:
        """The stored bytes of the whole file, compressed as they may be."""
        try:
            if self._ref.store is not None:
                return io.BufferedReader(_ChunksFile(self._ref), buffer_size=1 << 20)
            if system_of(self.path) == "local":
                return open(self.path, "rb")
            opened: BinaryIO = fsspec.open(self.path, "rb").open()
            return opened
        except OSError as error:
            raise InputError(f"{self.path}: cannot be opened: {error}") from None

    def _chunk(self, id: str) -> bytes:
        return read_chunk(self._ref, id)

    def _mapped(self) -> pa.Buffer:
        if self._ref.length == 0:
            return pa.py_buffer(b"")
        with self._raw() as file:
            if os.fstat(file.fileno()).st_size < self._ref.offset + self._ref.length:
                raise InputError(f"{self.path}: the file has become shorter since the job began")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return pa.py_buffer(mapped).slice(self._ref.offset, self._ref.length)

    def _decompressed(self, block_bytes: int) -> Iterator[pa.Buffer]:
        codec = self._ref.compression or ""
        done = 0
        with self._raw() as raw:
            try:
                stream = _decoder(codec, raw)
                while block := stream.read(block_bytes):
                    done += len(block)
                    if done > DECOMPRESSED_BYTES_MAX:
                        raise InputError(f"{self.path}: more than {DECOMPRESSED_BYTES_MAX:,} bytes when decompressed")
                    yield pa.py_buffer(block)
            except (EOFError, OSError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
                text = f"the {codec} data is corrupt or cut short after {done:,} decompressed bytes"
                raise InputError(f"{self.path}: {text}: {error}") from None


def _sliced(buffer: pa.Buffer, block_bytes: int) -> Iterator[pa.Buffer]:
    for start in range(0, buffer.size, block_bytes):
        yield buffer.slice(start, min(block_bytes, buffer.size - start))


class _ZstdStream:
    """pyarrow's zstd stream, with the end of a frame told from the end of a file that was cut short."""

    def __init__(self, raw: BinaryIO) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")

    def read(self, size: int) -> bytes:
        return bytes(self._stream.read(size))


def _decoder(codec: str, raw: BinaryIO) -> Any:
    openers = {"gzip": gzip.GzipFile, "bz2": bz2.BZ2File, "xz": lzma.LZMAFile}
    if codec == "zstd":
        return _ZstdStream(raw)
    return openers[codec](filename="", fileobj=raw) if codec == "gzip" else openers[codec](raw)


class _ChunksFile(io.RawIOBase):
    """A store's file as it was when the job began, read a chunk at a time."""

    def __init__(self, ref: PieceRef) -> None:
        self._ref = ref
        self._ends: list[int] = []
        for _, length in ref.chunks:
            self._ends.append((self._ends[-1] if self._ends else 0) + length)
        self._position = 0
        self._held: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._ends[-1] if self._ends else 0}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, into: Any) -> int:
        index = next((i for i, end in enumerate(self._ends) if end > self._position), None)
        if index is None:
            return 0
        if self._held[0] != index:
            self._held = (index, read_chunk(self._ref, self._ref.chunks[index][0]))
        data = self._held[1]
        start = self._position - (self._ends[index] - len(data))
        count = min(len(into), len(data) - start)
        into[:count] = data[start : start + count]
        self._position += count
        return count
