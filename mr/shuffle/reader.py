"""Reads a run file on this node's disk: mapped, verified, without a copy.

A worker runs task after task that read the same files: what is mapped, decoded and verified is kept for the next one.
Mapped pages are the page cache's, so this costs no memory that counts.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import xxhash

from mr.errors import FetchFailed
from mr.kernels.types import cast, list_bounds
from mr.options import MERGE_BLOCK_BYTES, PAGE_BYTES, RUNS_MAPPED_MAX
from mr.shuffle.run_file import Damaged, RunIndex, decode_index, pieces
from mr.tasks import Segment

_PREFIX: Final = struct.Struct("<Ii")


class RunReader:
    """The run file at `path`, a `SegmentSource`. Raises `FetchFailed` if it is missing, damaged or newer.

    Opening it checks magic, version and the index; a segment is checked when it is read. Batches refer to the mapped
    file and keep it mapped; there is nothing to close. They are cast to `schema` if given: where a task saw only nulls
    in a column (or integers where others saw floats) its file has another type than the stage has.
    """

    def __init__(self, path: Path, schema: pa.Schema | None = None) -> None:
        self.path = path
        try:
            found = os.stat(path)
            self._mapped = _map(str(path), found.st_ino, found.st_mtime_ns, found.st_size)
        except (OSError, Damaged, pa.ArrowInvalid) as error:
            raise FetchFailed(str(path), f"{error}") from error
        self.index: RunIndex = self._mapped.index
        self._schema = None if schema is None or schema.equals(self.index.schema) else schema

    def segments(self, low: int, high: int) -> tuple[Segment, ...]:
        """The segments with low <= bucket < high, by (bucket, run)."""
        return self.index.between(low, high)

    def read(self, segment: Segment) -> pa.Table:
        """The rows of a segment, verified. Raises `FetchFailed` if they are damaged, `TypeConflict` if a cast fails."""
        return pa.Table.from_batches(self.batches(segment), self._schema or self.index.schema)

    def batches(self, segment: Segment) -> Iterator[pa.RecordBatch]:
        """The rows of a segment, verified, in batches of at most `MERGE_BLOCK_BYTES` or one row. Raises as `read`."""
        for piece in pieces(self.rows(segment.run, segment.start, segment.start + segment.rows), MERGE_BLOCK_BYTES):
            yield self.cast(piece)

    def rows(self, run: int, start: int, stop: int) -> pa.RecordBatch:
        """The rows start <= row < stop of a run: one verified batch, still under the file's own schema."""
        try:
            return self._mapped.run(run).rows(start, stop)
        except Damaged as error:
            raise FetchFailed(str(self.path), f"run {run}: {error}") from error

    def cast(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows of the file under the schema that was asked for. Raises `TypeConflict`."""
        return batch if self._schema is None else cast(batch, self._schema)


class _Mapped:
    """A run file in the address space, with its index, and what of it was read and verified before."""

    def __init__(self, path: str) -> None:
        with pa.memory_map(path) as file:
            self.whole: pa.Buffer = file.read_buffer()
        self.index = decode_index(self.whole)
        self._runs: dict[int, _Run] = {}

    def run(self, number: int) -> _Run:
        if number not in self._runs:
            offset, size, _, pages = (column[number].as_py() for column in self.index.runs.columns)
            if offset + size > self.whole.size:
                raise Damaged("the file ends before it")
            self._runs[number] = _Run(self.whole.slice(offset, size), pages)
        return self._runs[number]


@lru_cache(maxsize=RUNS_MAPPED_MAX)
def _map(path: str, inode: int, mtime_ns: int, size: int) -> _Mapped:
    """The file as it is now: one that was replaced or changed has other numbers."""
    return _Mapped(path)


class _Run:
    """One batch, of which the pages that a slice lies on are verified when it is asked for."""

    def __init__(self, data: pa.Buffer, digests: bytes) -> None:
        self._data = data
        self._digests = digests
        self._verified = bytearray(len(digests) // 16)
        self._verify_heads()
        try:
            self._batch = pa.ipc.open_stream(data).read_next_batch()
        except (pa.ArrowException, OSError, ValueError, StopIteration) as error:
            raise Damaged(f"it cannot be decoded: {error}") from error

    def rows(self, start: int, stop: int) -> pa.RecordBatch:
        part = self._batch.slice(start, max(0, stop - start))
        for column in part.columns:
            self._verify_column(column)
        return part

    def _verify_heads(self) -> None:
        """Check what says where the rows lie before it is decoded: the schema message, and the batch's up to its body.

        Each begins with 4 bytes FF and its length in 4 bytes (https://arrow.apache.org/docs/format/Columnar.html).
        """
        end = 0
        for _ in ("schema", "batch"):
            self._verify(end, end + _PREFIX.size)
            _, length = _PREFIX.unpack(self._data.slice(end, _PREFIX.size))
            end += _PREFIX.size + length
            self._verify(0, end)

    def _verify_column(self, column: Any) -> None:
        """Check all bytes that the rows of a sliced column are made of."""
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        low, high, kind = column.offset, column.offset + len(column), column.type
        if not len(column) or pa.types.is_null(kind):
            return
        validity, *rest = column.buffers()
        self._verify_buffer(validity, low // 8, -(-high // 8))
        if pa.types.is_struct(kind):
            for child in range(kind.num_fields):
                self._verify_column(column.field(child))
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
            width = 8 if pa.types.is_large_list(kind) else 4
            self._verify_buffer(rest[0], low * width, (high + 1) * width)
            _, start, stop = list_bounds(column)
            for values in (column.keys, column.items) if pa.types.is_map(kind) else (column.values,):
                self._verify_column(values.slice(start, stop - start))
        elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
            self._verify_buffer(rest[0], low * 8, high * 8 + 8)
            offsets = np.frombuffer(rest[0], np.int64, len(column) + 1, low * 8)
            self._verify_buffer(rest[1], int(offsets[0]), int(offsets[-1]))
        elif len(rest) == 1 and not pa.types.is_nested(kind):
            self._verify_buffer(rest[0], low * kind.bit_width // 8, -(-high * kind.bit_width // 8))
        else:
            for buffer in rest:
                self._verify_buffer(buffer, 0, 0 if buffer is None else buffer.size)

    def _verify_buffer(self, buffer: pa.Buffer | None, low: int, high: int) -> None:
        if buffer is not None and low < high:
            base = buffer.address - self._data.address
            self._verify(base + low, base + high)

    def _verify(self, low: int, high: int) -> None:
        """Check the pages of the bytes low <= byte < high of the segment."""
        for page in range(low // PAGE_BYTES, -(-high // PAGE_BYTES)):
            if page >= len(self._verified):
                raise Damaged("it is shorter than its rows say")
            if not self._verified[page]:
                start = page * PAGE_BYTES
                data = self._data.slice(start, min(PAGE_BYTES, self._data.size - start))
                if xxhash.xxh3_128_digest(data) != self._digests[page * 16 : page * 16 + 16]:
                    raise Damaged(f"the checksum of page {page} is wrong")
                self._verified[page] = 1
