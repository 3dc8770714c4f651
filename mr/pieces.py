"""Pieces of input files, opened: bytes from a map of a local file, from chunks of the store, or from a URL."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import pyarrow as pa
from blake3 import blake3
from msgspec.structs import replace

from mr.decoding import decoded
from mr.errors import CorruptInput, InputError
from mr.options import FILE_RECORD_BYTES_MAX
from mr.storage import file_system, open_local, read_chunk, stamp_of, stamp_of_url, system_of
from mr.tasks import PieceRef

_HELD_BLOCK_BYTES = 1 << 20


class OpenedPiece:
    """A `PieceRef` opened (see `formats.base.Piece`): bytes come from a local file, chunks of the store, or a URL.

    Local files are read, not mapped: a file that is cut short while it is mapped kills the process that looks at it.
    `counts_lines`: count the line ends that `blocks` gives out.
    """

    def __init__(self, ref: PieceRef, counts_lines: bool = False) -> None:
        self._ref = ref
        self._counts_lines = counts_lines
        self.path = ref.path
        self.offset = 0 if ref.compression else ref.offset
        self.row_groups = ref.row_groups
        self.consumed = 0  # bytes given out by `blocks`, for progress
        self.lines = 0

    def buffer(self) -> pa.Buffer:
        """All bytes at once. Raises InputError, also for more than FILE_RECORD_BYTES_MAX."""
        parts: list[bytes] = []
        size = 0
        for block in self.blocks(1 << 22):
            size += len(block)
            if size > FILE_RECORD_BYTES_MAX:
                most = f"a file that is one record holds at most {FILE_RECORD_BYTES_MAX:,} bytes"
                raise CorruptInput(self.path, 0, f"{most}; read it by lines or records")
            parts.append(block)
        return pa.py_buffer(parts[0] if len(parts) == 1 else b"".join(parts))

    def blocks(self, block_bytes: int) -> Iterator[bytes]:
        """The same bytes, at most `block_bytes` at a time. Raises InputError."""
        for block in self._blocks(block_bytes):
            self.consumed += len(block)
            if self._counts_lines:
                self.lines += block.count(b"\n")
            yield block

    def _blocks(self, block_bytes: int) -> Iterator[bytes]:
        if self._ref.compression:
            with self._raw() as raw:
                yield from decoded(self._ref.compression, raw, self.path, self._ref.length, block_bytes)
        elif self._ref.store is not None:
            for id, _ in self._ref.chunks:
                blocks = read_chunk(self._ref, id, block_bytes)[::-1]
                while blocks:
                    yield blocks.pop()  # nobody but who asked for it keeps it
        else:
            yield from self._stored(block_bytes)

    def _stored(self, block_bytes: int) -> Iterator[bytes]:
        with self._raw() as raw:
            raw.seek(self._ref.offset)
            missing = self._ref.length
            while missing:
                block = raw.read(min(missing, block_bytes))
                if not block:
                    raise InputError(f"{self.path}: the file has become shorter since the job began")
                missing -= len(block)
                yield block

    def head(self, size: int) -> bytes:
        """The first `size` bytes, or all if there are fewer. Raises InputError."""
        found = b""
        for block in self.blocks(size):
            found += block
            if len(found) >= size:
                break
        return found[:size]

    def file(self) -> BinaryIO:
        """A seekable file over all bytes of the file. Raises InputError."""
        if self._ref.compression:
            return io.BytesIO(self.buffer().to_pybytes())
        raw = self._raw()
        return io.BufferedReader(raw) if isinstance(raw, io.FileIO) else raw

    def check_unchanged(self) -> None:
        """Raise InputError if a file outside of the store no longer holds the bytes that the job was planned with.

        Called when all was read: the result will be recorded as that of the planned bytes. A local file may have grown.
        """
        if not self._ref.stamp or self._ref.stamp == self._stamp():
            return
        found = blake3()
        with suppress(InputError):
            for block in OpenedPiece(replace(self._ref, compression=None)).blocks(1 << 22):
                found.update(block)
        if self._ref.digest != found.hexdigest():
            raise InputError(f"{self.path}: the file has changed since the job began; submit the job again")

    def _stamp(self) -> str:
        try:
            return stamp_of(os.stat(self.path)) if system_of(self.path) == "local" else stamp_of_url(self.path)
        except OSError:
            return ""

    def _raw(self) -> BinaryIO:
        """The stored bytes of the whole file, compressed as they may be."""
        if self._ref.store is not None:
            return io.BufferedReader(_ChunksFile(self._ref), buffer_size=1 << 20)
        if system_of(self.path) == "local":
            return open_local(self.path)
        try:
            system, name = file_system(self.path)
            opened: BinaryIO = system.open(name, "rb")
            return opened
        except OSError as error:
            raise InputError(f"{self.path}: cannot be opened: {error}") from None


class _ChunksFile(io.RawIOBase):
    """A store's file as it was when the job began, read a chunk at a time."""

    def __init__(self, ref: PieceRef) -> None:
        self._ref = ref
        self._ends: list[int] = []
        for _, length in ref.chunks:
            self._ends.append((self._ends[-1] if self._ends else 0) + length)
        self._position = 0
        self._held: tuple[int, list[bytes]] = (-1, [])  # a chunk, in blocks of _HELD_BLOCK_BYTES

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
            self._held = (-1, [])  # let go of the old chunk before the new one is read
            self._held = (index, read_chunk(self._ref, self._ref.chunks[index][0], _HELD_BLOCK_BYTES))
        number, start = divmod(self._position - self._ends[index] + self._ref.chunks[index][1], _HELD_BLOCK_BYTES)
        rest = memoryview(self._held[1][number])[start:]
        count = min(len(into), len(rest))
        into[:count] = rest[:count]
        self._position += count
        return count
