"""The run file: what one map attempt leaves for the reduce tasks. The format, in prose: docs/formats/run-file.md.

This module has its values and the bytes of index and trailer; `writer` and `reader` do the I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import xxhash

from mr.tasks import Segment

MAGIC: Final = b"MRRUN\0\r\n"
VERSION: Final = 2
ALIGNMENT_BYTES: Final = 64
TRAILER: Final = struct.Struct("<4Q16s2I8s")
_LENGTHS: Final = struct.Struct("<4Q")
END_OF_STREAM: Final = b"\xff\xff\xff\xff\0\0\0\0"

RUN, ROW, BYTES = "mr.run", "mr.row", "mr.bytes"
"""The columns of a sample beside the sort columns."""

_TABLE: Final = pa.schema(
    [
        ("bucket", pa.uint32()),
        ("run", pa.uint32()),
        ("offset", pa.uint64()),
        ("bytes", pa.uint64()),
        ("rows", pa.uint64()),
        ("digest", pa.binary(16)),
        ("pages", pa.large_binary()),
    ]
)


@dataclass(frozen=True, eq=False)
class RunIndex:
    """What a run file holds: its schema, the table of its segments by (run, bucket) and, if its runs are sorted, their
    sample. Segments become values only where they are asked for: a reduce task opens every file for a few of each.
    """

    schema: pa.Schema
    table: pa.RecordBatch
    sample: pa.RecordBatch | None = None

    @classmethod
    def of(
        cls,
        schema: pa.Schema,
        segments: Sequence[Segment],
        sample: pa.RecordBatch | None = None,
        pages: Sequence[bytes] = (),
    ) -> RunIndex:
        """The index of these segments, with the digests of their pages (none: for no segment)."""
        rows = [(s.bucket, s.run, s.offset, s.bytes, s.rows, bytes.fromhex(s.digest)) for s in segments]
        columns = [*zip(*rows, strict=True), pages or [b""] * len(rows)] if rows else [[] for _ in _TABLE]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _TABLE, strict=True)]
        return cls(schema, pa.RecordBatch.from_arrays(arrays, schema=_TABLE), sample)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, in file order."""
        return self.at(range(self.table.num_rows))

    def between(self, low: int, high: int) -> tuple[Segment, ...]:
        """The segments with low <= bucket < high, by (bucket, run)."""
        buckets = self.table.column("bucket").to_numpy()
        found = np.flatnonzero((buckets >= low) & (buckets < high))
        return self.at(found[np.argsort(buckets[found], kind="stable")].tolist())

    def at(self, places: Sequence[int]) -> tuple[Segment, ...]:
        """The segments at these places of the table."""
        if not len(places):
            return ()
        *numbers, digests, _ = (column.to_pylist() for column in self.table.take(pa.array(places, pa.int64())).columns)
        return tuple(map(Segment, *numbers, [digest.hex() for digest in digests]))

    @property
    def rows(self) -> int:
        return int(self.table.column("rows").to_numpy().sum())

    @property
    def bytes(self) -> int:
        return int(self.table.column("bytes").to_numpy().sum())


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


def encode_index(index: RunIndex, offset: int) -> bytes:
    """Index and trailer as bytes, to be written at `offset` as the end of the file."""
    parts = [
        _stream(index.schema, None),
        _stream(_TABLE, index.table if index.table.num_rows else None),
        b"" if index.sample is None else _stream(index.sample.schema, index.sample),
    ]
    body = b"".join(parts)
    lengths = _LENGTHS.pack(offset, *map(len, parts))
    digest = xxhash.xxh3_128_digest(body + lengths)
    return body + TRAILER.pack(offset, *map(len, parts), digest, VERSION, 0, MAGIC)


def _stream(schema: pa.Schema, batch: pa.RecordBatch | None) -> bytes:
    message = b"" if batch is None else batch.serialize().to_pybytes()
    return bytes(schema.serialize().to_pybytes() + message + END_OF_STREAM)


def decode_index(whole: pa.Buffer) -> RunIndex:
    """The index of a run file given all its bytes (a mapped buffer). Raises `Damaged`.

    >>> empty = MAGIC + encode_index(RunIndex.of(pa.schema({"k": pa.int64()}), ()), offset=8)
    >>> decode_index(pa.py_buffer(empty)).schema.names
    ['k']
    """
    size = whole.size
    if size < len(MAGIC) + TRAILER.size:
        raise Damaged(f"it has {size} bytes, too few for a run file")
    trailer = whole.slice(size - TRAILER.size).to_pybytes()
    offset, schema_bytes, table_bytes, sample_bytes, digest, version, _zero, magic = TRAILER.unpack(trailer)
    if magic != MAGIC or whole.slice(0, len(MAGIC)).to_pybytes() != MAGIC:
        raise Damaged("it does not begin and end as a run file: it is cut short or something else")
    if version != VERSION:
        raise Damaged(f"it has format version {version}; this program reads {VERSION}")
    if offset + schema_bytes + table_bytes + sample_bytes + TRAILER.size != size:
        raise Damaged("its trailer does not fit its size")
    body = whole.slice(offset, size - TRAILER.size - offset)
    if xxhash.xxh3_128_digest(body.to_pybytes() + trailer[: _LENGTHS.size]) != digest:
        raise Damaged("the checksum of its index is wrong")
    batches = list(pa.ipc.open_stream(body.slice(schema_bytes, table_bytes)))
    sample = None
    if sample_bytes:
        sample = pa.ipc.open_stream(body.slice(schema_bytes + table_bytes)).read_next_batch()
    schema = pa.ipc.open_stream(body.slice(0, schema_bytes)).schema
    return RunIndex(schema, batches[0], sample) if batches else RunIndex.of(schema, (), sample)


def digest_of(data: Any) -> str:
    """XXH3-128 of a buffer as 32 hex digits.

    >>> digest_of(b"")
    '99aa06d3014798d86001c324468d497f'
    """
    return xxhash.xxh3_128_hexdigest(data)
