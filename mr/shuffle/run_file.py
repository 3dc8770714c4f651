"""The run file: what one map attempt leaves for the reduce tasks. The format, in prose: docs/formats/run-file.md.

This module has its values and the bytes of index and trailer; `writer` and `reader` do the I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import xxhash
from msgspec import Struct

from mr.kernels.keys import Ints
from mr.tasks import Segment

MAGIC: Final = b"MRRUN\0\r\n"
VERSION: Final = 3
ALIGNMENT_BYTES: Final = 64
TRAILER: Final = struct.Struct("<4Q16s2I8s")
_LENGTHS: Final = struct.Struct("<4Q")
END_OF_STREAM: Final = b"\xff\xff\xff\xff\0\0\0\0"

RUN, ROW, BYTES = "mr.run", "mr.row", "mr.bytes"
"""The columns of a sample beside the sort columns."""

_RUNS: Final = pa.schema(
    [("offset", pa.uint64()), ("bytes", pa.uint64()), ("rows", pa.uint64()), ("pages", pa.large_binary())]
)
_SEGMENTS: Final = pa.schema(
    [
        ("bucket", pa.uint32()),
        ("run", pa.uint32()),
        ("start", pa.uint64()),
        ("bytes", pa.uint64()),
        ("rows", pa.uint64()),
        ("digest", pa.binary(16)),
    ]
)


class Span(Struct, frozen=True, eq=False):
    """The rows start <= row < stop of a run: `rows[i]` of the bucket `buckets[i]`, one bucket after the other."""

    run: int
    start: int
    stop: int
    buckets: Ints
    rows: Ints


class RunIndex(Struct, frozen=True, eq=False, dict=True):
    """What a run file holds: its schema, the tables of its runs and of their segments by (run, bucket) and, if its runs
    are sorted, their sample. Segments become values only where they are asked for: a reduce task opens every file for
    a few of each.
    """

    schema: pa.Schema
    runs: pa.RecordBatch
    table: pa.RecordBatch
    sample: pa.RecordBatch | None = None

    @classmethod
    def of(
        cls,
        schema: pa.Schema,
        runs: Sequence[tuple[int, int, int, bytes]] = (),
        segments: Sequence[Sequence[Any]] = (),
        sample: pa.RecordBatch | None = None,
    ) -> RunIndex:
        """The index of `runs` (offset, bytes, rows, pages), given the columns of the table of segments, run by run."""
        columns = zip(*runs, strict=True) if runs else [[] for _ in _RUNS]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _RUNS, strict=True)]
        parts = [
            pa.RecordBatch.from_arrays(
                [pa.array(column, field.type) for column, field in zip(columns, _SEGMENTS, strict=True)],
                schema=_SEGMENTS,
            )
            for columns in segments
        ]
        table = pa.concat_batches(parts) if parts else pa.RecordBatch.from_pylist([], _SEGMENTS)
        return cls(schema, pa.RecordBatch.from_arrays(arrays, schema=_RUNS), table, sample)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, in file order."""
        return self._at(np.arange(self.table.num_rows))

    def between(self, low: int, high: int) -> tuple[Segment, ...]:
        """The segments with low <= bucket < high, by (bucket, run)."""
        buckets = self.column("bucket")
        found = np.flatnonzero((buckets >= low) & (buckets < high))
        return self._at(found[np.argsort(buckets[found], kind="stable")])

    def spans(self, low: int, high: int) -> list[Span]:
        """The rows of the buckets low <= b < high: at most one span of each run, in order of runs."""
        buckets, rows = self.column("bucket"), self.column("rows")
        found = []
        for run, (first, end) in enumerate(pairwise(self._firsts)):
            a, b = first + np.searchsorted(buckets[first:end], [low, high])
            if a < b:
                start = int(self.column("start")[a])
                found.append(Span(run, start, start + int(rows[a:b].sum()), buckets[a:b], rows[a:b]))
        return found

    @cached_property
    def _firsts(self) -> list[int]:
        """The places in the table where the segments of each run begin, and its end."""
        runs = self.column("run")
        return [int(place) for place in np.searchsorted(runs, np.arange(self.runs.num_rows + 1))]

    def column(self, name: str) -> Ints:
        """A column of the table of segments, but for the digests."""
        return self._columns[name]

    @cached_property
    def _columns(self) -> dict[str, Ints]:
        names = _SEGMENTS.names[:-1]
        return {name: self.table.column(name).to_numpy().astype(np.int64) for name in names}

    def _at(self, places: Ints) -> tuple[Segment, ...]:
        *numbers, digests = (column.to_pylist() for column in self.table.take(pa.array(places, pa.int64())).columns)
        return tuple(map(Segment, *numbers, [digest.hex() for digest in digests]))

    @property
    def rows(self) -> int:
        return int(self.column("rows").sum())

    @property
    def bytes(self) -> int:
        return int(self.column("bytes").sum())


class Damaged(ValueError):
    """The bytes are not a run file that this version reads; the message says why."""


def pieces(data: pa.RecordBatch, bytes_max: int) -> Iterator[pa.RecordBatch]:
    """`data` in slices of at most `bytes_max` bytes as IPC messages, or of one row; cut by the rows alone.

    >>> [piece.num_rows for piece in pieces(pa.RecordBatch.from_pydict({"x": list(range(100))}), 600)]
    [50, 50]
    """
    size = pa.ipc.get_record_batch_size(data)
    if size <= bytes_max or data.num_rows <= 1:
        if data.num_rows:
            yield data
        return
    wanted = -(-size * 9 // (bytes_max * 8))  # some slack, for rows of unequal size and for the head of each message
    each = max(1, min(-(-data.num_rows // wanted), -(-data.num_rows // 2)))
    for start in range(0, data.num_rows, each):
        yield from pieces(data.slice(start, each), bytes_max)


def encode_index(index: RunIndex) -> bytes:
    """Index and trailer as bytes: the end of the file."""
    parts = [
        _stream(index.schema, None),
        _stream(_RUNS, index.runs),
        _stream(_SEGMENTS, index.table),
        b"" if index.sample is None else _stream(index.sample.schema, index.sample),
    ]
    body = b"".join(parts)
    lengths = list(map(len, parts))
    digest = xxhash.xxh3_128_digest(body + _LENGTHS.pack(*lengths))
    return body + TRAILER.pack(*lengths, digest, VERSION, 0, MAGIC)


def _stream(schema: pa.Schema, batch: pa.RecordBatch | None) -> bytes:
    message = b"" if batch is None else batch.serialize().to_pybytes()
    return bytes(schema.serialize().to_pybytes() + message + END_OF_STREAM)


def decode_index(whole: pa.Buffer) -> RunIndex:
    """The index of a run file given all its bytes (a mapped buffer). Raises `Damaged`.

    >>> empty = MAGIC + encode_index(RunIndex.of(pa.schema({"k": pa.int64()})))
    >>> decode_index(pa.py_buffer(empty)).schema.names
    ['k']
    """
    size = whole.size
    if size < len(MAGIC) + TRAILER.size:
        raise Damaged(f"it has {size} bytes, too few for a run file")
    trailer = whole.slice(size - TRAILER.size).to_pybytes()
    *lengths, digest, version, _zero, magic = TRAILER.unpack(trailer)
    if magic != MAGIC or whole.slice(0, len(MAGIC)).to_pybytes() != MAGIC:
        raise Damaged("it does not begin and end as a run file: it is cut short or something else")
    if version != VERSION:
        raise Damaged(f"it has format version {version}; this program reads {VERSION}")
    offset = size - TRAILER.size - sum(lengths)
    if offset < len(MAGIC):
        raise Damaged("its trailer does not fit its size")
    body = whole.slice(offset, sum(lengths))
    if xxhash.xxh3_128_digest(body.to_pybytes() + trailer[: _LENGTHS.size]) != digest:
        raise Damaged("the checksum of its index is wrong")
    schema, *tables = (
        body.slice(end - length, length) for end, length in zip(accumulate(lengths), lengths, strict=True)
    )
    runs, segments, sample = (pa.ipc.open_stream(part).read_next_batch() if part.size else None for part in tables)
    return RunIndex(pa.ipc.read_schema(schema), runs, segments, sample)
