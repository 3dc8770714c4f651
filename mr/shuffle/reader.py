"""Reads a run file on this node's disk: mapped, verified, without a copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from mr.errors import FetchFailed
from mr.kernels.types import cast
from mr.shuffle.run_file import Damaged, RunIndex, decode_index, digest_of
from mr.tasks import Segment


class RunReader:
    """The run file at `path`, a `SegmentSource`. Raises `FetchFailed` if it is missing, damaged or newer.

    Opening it checks magic, version and the index; a segment is checked when it is read. Batches refer to the mapped
    file and keep it mapped; there is nothing to close. They are cast to `schema` if given: where a task saw only nulls
    in a column (or integers where others saw floats) its file has another type than the stage has.
    """

    def __init__(self, path: Path, schema: pa.Schema | None = None) -> None:
        self.path = path
        self._schema = schema
        try:
            with pa.memory_map(str(path)) as file:
                self._whole = file.read_buffer()
            self.index: RunIndex = decode_index(self._whole)
        except (OSError, Damaged, pa.ArrowInvalid) as error:
            raise FetchFailed(str(path), f"{error}") from error
        self._sorted = tuple(sorted(self.index.segments, key=lambda segment: (segment.bucket, segment.run)))

    def segments(self, low: int, high: int) -> tuple[Segment, ...]:
        """The segments with low <= bucket < high, by (bucket, run)."""
        return tuple(segment for segment in self._sorted if low <= segment.bucket < high)

    def read(self, segment: Segment) -> pa.Table:
        """The rows of a segment, verified. Raises `FetchFailed` if they are damaged, `TypeConflict` if a cast fails."""
        return pa.Table.from_batches(self.batches(segment), self._schema or self.index.schema)

    def batches(self, segment: Segment) -> Iterator[pa.RecordBatch]:
        """The rows of a segment, verified, in the batches in which they were written. Raises as `read`."""
        same = self._schema is None or self._schema.equals(self.index.schema)
        for batch in self._open(segment):
            yield batch if same else cast(batch, self._schema)

    def _open(self, segment: Segment) -> pa.ipc.RecordBatchStreamReader:
        where = f"bucket {segment.bucket}, run {segment.run}"
        if segment.offset + segment.bytes > self._whole.size:
            raise FetchFailed(str(self.path), f"it ends before {where}")
        data = self._whole.slice(segment.offset, segment.bytes)
        if digest_of(data) != segment.digest:
            raise FetchFailed(str(self.path), f"the checksum of {where} is wrong")
        try:
            return pa.ipc.open_stream(data)
        except pa.ArrowInvalid as error:
            raise FetchFailed(str(self.path), f"{where} cannot be decoded: {error}") from error
