"""Where the records of a task come from: a split, ranges of shuffles, or all rows of an exchange."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mr.batch import Batch, Origins
from mr.errors import FetchFailed, RecordError
from mr.formats.base import Reader
from mr.kernels.frames import concat
from mr.operators.base import REJECTED, TaskEnv, reject_rows
from mr.pieces import OpenedPiece
from mr.program import (
    GatherHead,
    GroupHead,
    Head,
    ItemsHead,
    JoinHead,
    ReadHead,
    ResolveHead,
    SortHead,
)
from mr.shuffle.merge import bucket_rows, sorted_rows
from mr.shuffle.ranges import Boundary, range_streams
from mr.shuffle.reader import RunReader
from mr.shuffle.run_file import RunIndex
from mr.tasks import Cut, ExchangeInput, Segment, SourceFile, Split, TaskSpec

PIECE_SHIFT = 40  # a record number is (piece << 40) + number in the piece


@dataclass
class Reading:
    """What a task has read so far, and where it is, for progress and messages."""

    records: int = 0
    bytes: int = 0
    piece_lines: list[int] = field(default_factory=list)


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


def records_of(
    head: Head, spec: TaskSpec, env: TaskEnv, reading: Reading, reject: Callable[[pa.RecordBatch], None]
) -> Iterator[Batch]:
    """The records that a task starts from. Raises FetchFailed, InputError, RecordError."""
    match head:
        case ReadHead():
            assert spec.split is not None
            yield from _read(head, spec.split, env, reading, reject)
        case ItemsHead():
            assert spec.split is not None
            assert spec.split.items is not None
            with pa.ipc.open_stream(spec.split.items) as reader:
                for batch in reader:
                    reading.records += batch.num_rows
                    yield Batch(batch)
        case GroupHead(op):
            rows = _bucketed(spec.exchanges[0], (*op.keys, *op.order[0]), _directions(op), env)
            yield from map(Batch, op.reduce(_counted(rows, reading), env))
        case JoinHead(op):
            yield from map(Batch, op.join(_pairs(head, spec, env, reading), env))
        case SortHead():
            yield from map(Batch, _counted(_range(head, spec.exchanges[0], env), reading))
        case GatherHead(op):
            rows = _counted(gathered(spec.exchanges[0], Path(env.home)), reading)
            yield from map(Batch, rows if op is None else op.reduce(rows, env))
        case ResolveHead():
            yield from map(Batch, _counted(_resolved(spec.exchanges[0], Path(env.home)), reading))


def _counted(rows: Iterator[pa.RecordBatch], reading: Reading) -> Iterator[pa.RecordBatch]:
    for batch in rows:
        reading.records += batch.num_rows
        reading.bytes += batch.nbytes
        yield batch


def _directions(op: object) -> tuple[bool, ...]:
    keys, (by, descending) = op.keys, op.order  # type: ignore[attr-defined]
    return (False,) * len(keys) + (tuple(descending) or (False,) * len(by))


# --- splits ----------------------------------------------------------------------------------------------------------


def _read(
    head: ReadHead, split: Split, env: TaskEnv, reading: Reading, reject: Callable[[pa.RecordBatch], None]
) -> Iterator[Batch]:
    policy = head.on_error
    for number, ref in enumerate(split.pieces):
        piece, before = OpenedPiece(ref), reading.bytes
        shift = number << PIECE_SHIFT

        def rejects(origins: Origins, raws: list[bytes], errors: list[str], shift: int = shift) -> None:
            origins = origins + np.array([0, shift], dtype=np.int64)
            if policy.on_error == "fail":
                shown = raws[0][:200].decode("utf-8", "backslashreplace")
                raise RecordError(f"cannot parse{env.where(origins, 0)}: {errors[0]}: {shown}", 0)
            env.count("rejected records", len(raws))
            reading.records += len(raws)
            if policy.on_error == "quarantine":
                texts = [raw.decode("utf-8", "backslashreplace") for raw in raws]
                rows = np.arange(len(raws), dtype=np.int64)
                reject(reject_rows(origins, rows, call_of(head.reader), errors, texts))

        for batch in head.reader.read(piece, rejects, head.columns, head.track):
            if batch.origins is not None and shift:
                batch = Batch(batch.data, batch.origins + np.array([0, shift], dtype=np.int64))
            reading.records += batch.rows
            reading.bytes = before + piece.consumed
            yield batch
        piece.check_unchanged()
        reading.bytes = before + ref.length
        reading.piece_lines.append(_lines(piece) if head.counts_lines else 0)


def call_of(reader: Reader) -> str:
    """The function that made a reader, as users know it.

    >>> from mr.formats.text import TextReader
    >>> call_of(TextReader())
    'read_text'
    """
    words = re.findall("[A-Z][a-z]*", type(reader).__name__.removesuffix("Reader"))
    return "_".join(["read", *words]).lower()


def _lines(piece: OpenedPiece) -> int:
    """Line ends in a piece: what the line numbers of the next piece of the file start from."""
    return sum(int(np.count_nonzero(np.frombuffer(block, np.uint8) == 10)) for block in piece.blocks(1 << 22))


# --- exchanges -------------------------------------------------------------------------------------------------------


def _schema(given: ExchangeInput) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(given.schema)) if given.schema else pa.schema([])


def _sources(given: ExchangeInput, home: Path) -> list[CastSource]:
    schema = _schema(given)
    return [CastSource(home, file, schema) for file in given.files]


def _bucketed(
    given: ExchangeInput, by: tuple[str, ...], descending: tuple[bool, ...], env: TaskEnv
) -> Iterator[pa.RecordBatch]:
    low, high = given.buckets
    sources = _sources(given, Path(env.home))
    return bucket_rows(sources, low, high, by, descending, env.memory_bytes, Path(env.scratch))


def _pairs(
    head: JoinHead, spec: TaskSpec, env: TaskEnv, reading: Reading
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Both sides of the range, at once if they fit the budget, else bucket by bucket."""
    left, right = spec.exchanges
    low, high = left.buckets
    fits = (left.bytes + right.bytes) * 3 <= env.memory_bytes
    bounds = [(low, high)] if fits else [(bucket, bucket + 1) for bucket in range(low, high)]
    sides = ((left, head.op.left_on), (right, head.op.right_on))
    sources = [_sources(side, Path(env.home)) for side, _ in sides]
    for start, end in bounds:
        tables = []
        for (side, keys), readers in zip(sides, sources, strict=True):
            down = (False,) * len(keys)
            rows = bucket_rows(readers, start, end, keys, down, env.memory_bytes, Path(env.scratch))
            tables.append(concat(list(_counted(rows, reading)), _schema(side)))
        yield tables[0], tables[1]


def _range(head: SortHead, given: ExchangeInput, env: TaskEnv) -> Iterator[pa.RecordBatch]:
    low, high = _boundary(given.lower), _boundary(given.upper)
    streams = []
    for number, source in zip(given.numbers, _sources(given, Path(env.home)), strict=True):
        streams += range_streams(source, number, head.by, head.descending, low, high)
    return sorted_rows(streams, given.bytes, head.by, head.descending, env.memory_bytes, Path(env.scratch))


def _boundary(cut: Cut | None) -> Boundary | None:
    if cut is None:
        return None
    key = pa.ipc.open_stream(cut.key).read_next_batch()
    return Boundary(key, cut.producer, cut.run, cut.row)


def gathered(given: ExchangeInput, home: Path) -> Iterator[pa.RecordBatch]:
    """All rows of an exchange in producer order."""
    for source in _sources(given, home):
        for segment in source.index.segments:
            yield from source.batches(segment)


RESOLVED = pa.schema(
    [
        ("path", pa.large_string()),
        ("offset", pa.int64()),
        ("line", pa.int64()),
        ("operator", pa.large_string()),
        ("error", pa.large_string()),
        ("raw", pa.large_string()),
    ]
)
"""Rejected records as the user sees them: `offset` in bytes from 0, `line` from 1; null where they mean nothing."""


def _resolved(given: ExchangeInput, home: Path) -> Iterator[pa.RecordBatch]:
    yield pa.RecordBatch.from_pylist([], schema=RESOLVED)
    schema = _schema(given)
    for file, place in zip(given.files, given.places, strict=True):
        pieces = place.pieces or (("", 0, 0),)
        paths = pa.array([path or None for path, _, _ in pieces], pa.large_string())
        offsets = np.array([offset for _, offset, _ in pieces], dtype=np.int64)
        lines = np.array([line for _, _, line in pieces], dtype=np.int64)
        source = CastSource(home, file, schema if len(schema) else REJECTED)
        for segment in source.index.segments:
            for batch in source.batches(segment):
                offset, line = batch.column("offset").to_numpy(), batch.column("line").to_numpy()
                known = offset >= 0
                piece = np.where(known, line >> PIECE_SHIFT, 0)
                number = (line & ((1 << PIECE_SHIFT) - 1)) + lines[piece] + 1
                columns = [
                    pc.if_else(pa.array(known), paths.take(pa.array(piece)), pa.scalar(None, pa.large_string())),
                    pa.array(offset + offsets[piece], mask=~known),
                    pa.array(number, mask=~known),
                    *(batch.column(name) for name in ("operator", "error", "raw")),
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=RESOLVED)
