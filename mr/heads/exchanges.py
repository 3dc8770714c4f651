"""The records of an exchange: ranges of buckets, a range of a sort, or all rows in producer order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from mr.errors import FetchFailed
from mr.operators.base import TaskEnv
from mr.program import SortHead
from mr.shuffle.merge import Merge, bucket_rows
from mr.shuffle.ranges import Boundary, Range, range_rows
from mr.shuffle.reader import RunReader
from mr.shuffle.run_file import RunIndex
from mr.tasks import Cut, ExchangeInput, Segment, SourceFile


class CastSource:
    """A run file whose rows are given out under the schema of the whole exchange (a `SegmentSource`).

    Every failure names the task that wrote the file, so that the scheduler can run that one again.
    """

    def __init__(self, home: Path, file: SourceFile, schema: pa.Schema) -> None:
        self._file = file
        try:
            self._reader = RunReader(home / file.path, schema)
        except FetchFailed as error:
            raise FetchFailed(error.path, error.reason, file.producer) from None

    @property
    def index(self) -> RunIndex:
        return self._reader.index

    def segments(self, low: int, high: int) -> tuple[Segment, ...]:
        return self._reader.segments(low, high)

    def batches(self, segment: Segment) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._reader.batches(segment)
        except FetchFailed as error:
            raise FetchFailed(error.path, error.reason, self._file.producer) from None

    def rows(self, run: int, start: int, stop: int) -> pa.RecordBatch:
        try:
            return self._reader.rows(run, start, stop)
        except FetchFailed as error:
            raise FetchFailed(error.path, error.reason, self._file.producer) from None

    def cast(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._reader.cast(batch)


def schema_of(given: ExchangeInput) -> pa.Schema:
    """The schema that all rows of an exchange are given out under."""
    return pa.ipc.read_schema(pa.py_buffer(given.schema)) if given.schema else pa.schema([])


def sources_of(given: ExchangeInput, home: Path) -> list[CastSource]:
    """The run files of an exchange, in producer order."""
    schema = schema_of(given)
    return [CastSource(home, file, schema) for file in given.files]


def bucketed(
    given: ExchangeInput, by: tuple[str, ...], descending: tuple[bool, ...], env: TaskEnv, merge: Merge | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a range of buckets, sorted by (bucket, `by`, producer, row); for `merge` see `shuffle.merge`."""
    low, high = given.buckets
    sources = sources_of(given, Path(env.home))
    return bucket_rows(sources, low, high, by, descending, env.memory_bytes, Path(env.scratch), merge)


def ranged(head: SortHead, given: ExchangeInput, env: TaskEnv) -> Iterator[pa.RecordBatch]:
    """The rows of one range of a global sort, in order."""
    spans = np.frombuffer(given.spans, np.int64).reshape(-1, 4)
    wanted = Range(_boundary(given.lower), _boundary(given.upper), spans, given.bytes)
    sources = sources_of(given, Path(env.home))
    return range_rows(sources, wanted, head.by, head.descending, env.memory_bytes, Path(env.scratch))


def _boundary(cut: Cut | None) -> Boundary | None:
    if cut is None:
        return None
    key = pa.ipc.open_stream(cut.key).read_next_batch()
    return Boundary(key, cut.producer, cut.run, cut.row)


def gathered(given: ExchangeInput, home: Path) -> Iterator[pa.RecordBatch]:
    """All rows of an exchange in producer order, a few at a time."""
    for source in sources_of(given, home):
        for segment in source.index.segments:
            yield from source.batches(segment)


def mapped(given: ExchangeInput, home: Path) -> list[pa.RecordBatch]:
    """All rows of an exchange in producer order, a run at a time, as they lie in the mapped files."""
    return [
        source.cast(source.rows(one.run, one.start, one.start + one.rows))
        for source in sources_of(given, home)
        for one in source.index.segments
    ]
