"""Writes one run file: runs of sorted rows go straight to a temporary file, the index is kept until the end.

Memory: the caller's run and one block of `MERGE_BLOCK_BYTES`. The bytes are the same for the same rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import pyarrow as pa
import xxhash

from mr.kernels.keys import Ints
from mr.options import MERGE_BLOCK_BYTES, SORT_BLOCK_BYTES
from mr.shuffle.run_file import (
    ALIGNMENT_BYTES,
    BLOCK,
    BYTES,
    END_OF_STREAM,
    MAGIC,
    ROW,
    RUN,
    RunIndex,
    encode_index,
    pieces,
)
from mr.tasks import Segment

_WRITE_BUFFER_BYTES: Final = 1 << 20


class RunWriter:
    """Writes the run file `path` for the attempt named `attempt`; all rows have `schema` (no dictionaries).

    Runs are numbered from 0 in the order in which they are appended. As a context manager it aborts unless `finish`
    was called. `OSError` comes through. Not thread-safe.

    >>> import tempfile
    >>> batch = pa.RecordBatch.from_pydict({"k": [1, 1, 2]})
    >>> with tempfile.TemporaryDirectory() as folder, RunWriter(Path(folder) / "m", "a0", batch.schema) as writer:
    ...     writer.append_run(batch, [0, 2, 3])
    ...     [(segment.bucket, segment.rows) for segment in writer.finish().segments]
    [(0, 2), (1, 1)]
    """

    def __init__(self, path: Path, attempt: str, schema: pa.Schema) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{attempt}")
        self._schema = schema
        self._head = schema.serialize()
        self._file = open(self._temporary, "wb", buffering=_WRITE_BUFFER_BYTES)  # noqa: SIM115
        self._at = self._file.write(MAGIC)
        self._segments: list[Segment] = []
        self._samples: list[pa.RecordBatch] = []
        self._runs = 0

    def append_run(self, data: pa.RecordBatch, offsets: Ints | Sequence[int]) -> None:
        """Append a run: `data` sorted by bucket, bucket b being rows offsets[b] to offsets[b + 1]."""
        self._check(data)
        for bucket in range(len(offsets) - 1):
            start, end = int(offsets[bucket]), int(offsets[bucket + 1])
            if end > start:
                self._append(data.slice(start, end - start), bucket)
        self._runs += 1

    def append_sorted_run(self, data: pa.RecordBatch, by: Sequence[str]) -> None:
        """Append a run that is sorted as a whole by the columns `by`, in blocks of about `SORT_BLOCK_BYTES`."""
        self._check(data)
        blocks, rows, row = list(pieces(data, SORT_BLOCK_BYTES)), [], 0
        first = len(self._segments)
        for number, block in enumerate(blocks):
            self._append(block, number)
            rows.append(row)
            row += block.num_rows
        sample = data.select(list(by)).take(pa.array(rows, pa.int64()))
        positions = {
            RUN: [self._runs] * len(blocks),
            BLOCK: range(len(blocks)),
            ROW: rows,
            BYTES: [segment.bytes for segment in self._segments[first:]],
        }
        for name, values in positions.items():
            sample = sample.append_column(name, pa.array(values, pa.int64()))
        self._samples.append(sample)
        self._runs += 1

    def finish(self) -> RunIndex:
        """Complete the file and give it its final name, replacing what another attempt left there."""
        sample = pa.concat_batches(self._samples) if self._samples else None
        index = RunIndex(self._schema, tuple(self._segments), sample)
        self._align()
        self._file.write(encode_index(index, self._at))
        self._file.close()
        os.replace(self._temporary, self._path)
        return index

    def abort(self) -> None:
        """Remove what was written. Harmless after `finish`."""
        if not self._file.closed:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _check(self, data: pa.RecordBatch) -> None:
        if not data.schema.equals(self._schema):
            raise TypeError(f"the rows have schema\n{data.schema}\nbut this run file has\n{self._schema}")

    def _append(self, data: pa.RecordBatch, bucket: int) -> None:
        self._align()
        offset, digest = self._at, xxhash.xxh3_128()
        messages = (piece.serialize() for piece in pieces(data, MERGE_BLOCK_BYTES))
        for part in (self._head, *messages, END_OF_STREAM):
            digest.update(part)
            self._at += self._file.write(part)
        self._segments.append(Segment(bucket, self._runs, offset, self._at - offset, data.num_rows, digest.hexdigest()))

    def _align(self) -> None:
        self._at += self._file.write(bytes(-self._at % ALIGNMENT_BYTES))
