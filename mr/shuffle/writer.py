"""Writes one run file: runs of sorted rows go straight to a temporary file, the index is kept until the end.

Memory: the caller's run, and lengths or copies of those of its columns that digests need in another form. The bytes are
the same for the same rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import xxhash

from mr.kernels.keys import Ints
from mr.kernels.sizes import bytes_between, logical_bytes
from mr.options import PAGE_BYTES, SORT_BLOCK_BYTES, SORT_BLOCK_ROWS_MIN
from mr.shuffle.run_file import (
    ALIGNMENT_BYTES,
    BYTES,
    MAGIC,
    ROW,
    RUN,
    RunIndex,
    encode_index,
)
from mr.shuffle.segment_digests import segment_digests

_WRITE_BUFFER_BYTES: Final = 1 << 18


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
        self._file = open(self._temporary, "wb", buffering=_WRITE_BUFFER_BYTES)  # noqa: SIM115
        self._at = self._file.write(MAGIC)
        self._runs: list[tuple[int, int, int, bytes]] = []
        self._segments: list[Sequence[Any]] = []
        self._samples: list[pa.RecordBatch] = []

    def append_run(self, data: pa.RecordBatch, offsets: Ints | Sequence[int]) -> None:
        """Append a run: `data` sorted by bucket, bucket b being rows offsets[b] to offsets[b + 1]."""
        bounds = np.asarray(offsets, np.int64)
        buckets = np.flatnonzero(np.diff(bounds))
        size, pages = self._write(data)
        if len(bounds) == 2:
            self._add_whole(data.num_rows, size, pages)
        elif len(buckets):
            starts = np.append(bounds[buckets], bounds[-1])
            digests, sizes = segment_digests(data, starts)
            runs = np.full(len(buckets), len(self._runs) - 1)
            self._segments.append([buckets, runs, starts[:-1], sizes, np.diff(starts), digests])

    def append_sorted_run(self, data: pa.RecordBatch, by: Sequence[str]) -> None:
        """Append a run that is sorted as a whole by the columns `by`: one segment."""
        size, pages = self._write(data)
        self._add_whole(data.num_rows, size, pages)
        if data.num_rows:
            self._samples.append(_sample(data, by, len(self._runs) - 1))

    def finish(self) -> RunIndex:
        """Complete the file and give it its final name, replacing what another attempt left there."""
        sample = pa.concat_batches(self._samples) if self._samples else None
        index = RunIndex.of(self._schema, self._runs, self._segments, sample)
        self._align()
        self._file.write(encode_index(index))
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

    def _write(self, data: pa.RecordBatch) -> tuple[int, bytes]:
        """Write a run as it lies in memory: its bytes, and the digests of its pages."""
        if not data.schema.equals(self._schema):
            raise TypeError(f"the rows have schema\n{data.schema}\nbut this run file has\n{self._schema}")
        self._align()
        sink = _PagedSink(self._file)
        if data.num_rows:
            with pa.PythonFile(sink, mode="w") as out, pa.ipc.new_stream(out, self._schema) as stream:
                stream.write_batch(data)
        pages = sink.pages()
        self._runs.append((self._at, sink.bytes, data.num_rows, pages))
        self._at += sink.bytes
        return sink.bytes, pages

    def _add_whole(self, rows: int, size: int, pages: bytes) -> None:
        """The last run is one segment, if it has rows."""
        if rows:
            self._segments.append([[0], [len(self._runs) - 1], [0], [size], [rows], [xxhash.xxh3_128_digest(pages)]])

    def _align(self) -> None:
        self._at += self._file.write(bytes(-self._at % ALIGNMENT_BYTES))


class _PagedSink:
    """A file for Arrow's writer, which hands over the buffers of a batch as they are: written, and hashed by page."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digests: list[bytes] = []
        self._page = xxhash.xxh3_128()
        self.bytes = 0

    def write(self, data: Any) -> int:
        view = memoryview(data)
        start = 0
        while start < len(view):
            end = min(len(view), start + PAGE_BYTES - self.bytes % PAGE_BYTES)
            self._file.write(view[start:end])  # Linux takes four times as long for many megabytes in one call
            self._page.update(view[start:end])
            self.bytes += end - start
            start = end
            if self.bytes % PAGE_BYTES == 0:
                self._digests.append(self._page.digest())
                self._page.reset()
        return len(view)

    def pages(self) -> bytes:
        """The digests of all pages, one after the other."""
        last = [self._page.digest()] if self.bytes % PAGE_BYTES else []
        return b"".join([*self._digests, *last])

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """The file goes on with the next run."""


def _sample(data: pa.RecordBatch, by: Sequence[str], run: int) -> pa.RecordBatch:
    """The first rows of the blocks of a sorted run: a function of the rows, for it says where ranges begin."""
    each = max(SORT_BLOCK_ROWS_MIN, SORT_BLOCK_BYTES * data.num_rows // max(1, logical_bytes(data)))
    bounds = np.append(np.arange(0, data.num_rows, each), data.num_rows)
    rows = bounds[:-1]
    sample = data.select(list(by)).take(pa.array(rows))
    positions = {RUN: np.full(len(rows), run), ROW: rows, BYTES: bytes_between(data, bounds)}
    for name, values in positions.items():
        sample = sample.append_column(name, pa.array(values, pa.int64()))
    return sample
