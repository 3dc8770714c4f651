"""What a task has read so far, and how rows are counted on the way."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from msgspec import Struct, field

from mr.stopwatch import Stopwatch


class Reading(Struct):
    """What a task has read so far, where it is, and what that took: for progress, messages and `explain --analyze`."""

    records: int = 0
    bytes: int = 0
    piece_lines: list[int] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)


def counted(rows: Iterator[pa.RecordBatch], reading: Reading) -> Iterator[pa.RecordBatch]:
    """`rows` of exchanges as they are, counted as read."""
    for batch in reading.watch.timed("shuffle", rows):
        reading.records += batch.num_rows
        reading.bytes += batch.nbytes
        yield batch
