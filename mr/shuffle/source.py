"""Where a reduce task reads a map task's rows from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from mr.shuffle.run_file import RunIndex
from mr.tasks import Segment


class SegmentSource(Protocol):
    """One map task's run file, wherever it lies: on this node's disk (`reader.RunReader`), or behind a server.

    Requires: the file is complete and nobody changes it. Reads are idempotent, and several sources may be read in turn
    or at once; one source is used by one thread. Every method raises `FetchFailed` naming the file if it is missing,
    damaged, newer than this version or cannot be reached, and never returns rows that were not verified.
    """

    @property
    def index(self) -> RunIndex:
        """Schema, segments and sample; read when the source is made, so that this does no I/O."""

    def segments(self, low: int, high: int) -> tuple[Segment, ...]:
        """The segments with low <= bucket < high, by (bucket, run)."""

    def batches(self, segment: Segment) -> Iterator[pa.RecordBatch]:
        """The rows of a segment in order, in batches of at most `MERGE_BLOCK_BYTES` or one row."""

    def rows(self, run: int, start: int, stop: int) -> pa.RecordBatch:
        """The rows start <= row < stop of a sorted run as one batch, under the schema of the file (see `cast`)."""

    def cast(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows of the file under the schema that all files of the exchange are read with. Raises `TypeConflict`."""
