"""What a task has read so far, and how rows are counted on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa


@dataclass
class Reading:
    """What a task has read so far, and where it is, for progress and messages."""

    records: int = 0
    bytes: int = 0
    piece_lines: list[int] = field(default_factory=list)


def counted(rows: Iterator[pa.RecordBatch], reading: Reading) -> Iterator[pa.RecordBatch]:
    """`rows` as they are, counted as read."""
    for batch in rows:
        reading.records += batch.num_rows
        reading.bytes += batch.nbytes
        yield batch
