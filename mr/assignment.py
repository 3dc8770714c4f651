"""The tasks of a stage, once everything it reads is known: which splits, buckets and ranges each one gets. Pure.

Nothing here looks at the cluster: ranges come from real sizes and constants, so the tasks, their order and their
fingerprints are the same wherever the job runs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from msgspec import Struct
from msgspec.structs import replace

from mr.errors import PlanError, TypeConflict, at_line
from mr.fingerprint import Identity, Unfingerprintable, combine, digest, program_identity
from mr.graph import Graph, Stage
from mr.joining import HotKey, hot_keys, isolated, shares
from mr.kernels.frames import to_ipc
from mr.kernels.keys import Ints
from mr.kernels.types import cast, display, unify
from mr.options import REDUCE_ALONE_BYTES_MAX, REDUCE_RANGE_BYTES_MAX
from mr.program import GatherHead, HashOutlet, JoinHead, ResolveHead, SortHead
from mr.shuffle.ranges import Boundary, ranges
from mr.tasks import Cut, ExchangeInput, Output, Place, Segment, SourceFile, Split, TaskId

BEHIND: Final = 1 << 62
"""As the producer of a cut: behind all rows of its key."""

PIECES_PER_SHARE: Final = 8
"""The rows of a hot key are dealt out in so many pieces for each task: shares differ by an eighth at most."""


class Produced(Struct, frozen=True):
    """What one task left at an outlet that feeds an exchange. `place` resolves positions of its records."""

    task: TaskId
    output: Output
    place: Place


class Draft(Struct, frozen=True):
    """A task before it has a fingerprint."""

    split: Split | None = None
    exchanges: tuple[ExchangeInput, ...] = ()
    sides: tuple[ExchangeInput, ...] = ()
    own: bool = True  # the exchanges were filled by tasks of this graph

    @property
    def identity(self) -> str:
        """The identity of all that the task reads."""
        split = self.split.identity if self.split is not None else None
        return digest(split, [e.identity for e in self.exchanges], [e.identity for e in self.sides])

    @property
    def needs(self) -> tuple[TaskId, ...]:
        """The tasks whose files it reads."""
        reads = (*self.exchanges, *self.sides) if self.own else self.sides
        return tuple(sorted({file.producer for exchange in reads for file in exchange.files}))


def draft_tasks(
    stage: Stage, graph: Graph, produced: Mapping[int, Sequence[Produced]], splits: Sequence[Split]
) -> list[Draft]:
    """The tasks of `stage` in order, at least one. `produced` holds, by exchange, what producers left, in order."""
    sides = tuple(_side(produced[e], graph, e) for e in stage.sides)
    head = stage.program.head
    if stage.parts:
        parts = zip(*(node.parts for node in stage.parts), strict=True)
        return [Draft(exchanges=given, sides=sides, own=False) for given in parts]
    if stage.source is not None:
        return [Draft(split, sides=sides) for split in splits]
    if isinstance(head, GatherHead | ResolveHead):
        return [Draft(exchanges=(_whole(produced[stage.inputs[0]], isinstance(head, ResolveHead)),), sides=sides)]
    if isinstance(head, SortHead):
        return [Draft(exchanges=(given,), sides=sides) for given in _sorted_ranges(produced[stage.inputs[0]], head)]
    inputs = [produced[e] for e in stage.inputs]
    spec = graph.exchanges[stage.inputs[0]].spec
    assert isinstance(spec, HashOutlet)
    held = [_Side.of(items, spec.places) for items in inputs]
    if spec.partitions is not None:
        ranges = [(i, i + 1) for i in range(spec.partitions)]
    else:
        ranges = bucket_ranges(np.sum([side.sizes() for side in held], axis=0).tolist(), REDUCE_RANGE_BYTES_MAX)
    hot = _hot_keys(head, inputs, spec.places) if isinstance(head, JoinHead) and spec.partitions is None else {}
    for e, items in zip(stage.inputs, inputs, strict=True):
        _check_keys(items, graph.exchanges[e].spec.keys)  # type: ignore[union-attr]
    drafts = []
    for low, high in isolated(ranges, hot):
        if low in hot:
            drafts += [Draft(exchanges=pair, sides=sides) for pair in _split_bucket(held, low, hot[low])]
        else:
            drafts.append(Draft(exchanges=tuple(side.reads(low, high) for side in held), sides=sides))
    return drafts


class _Side(Struct, frozen=True):
    """One side of a hash shuffle into `total` buckets: its producers and, in bucket order, the segments of each."""

    producers: Sequence[Produced]
    segments: Sequence[Sequence[Segment]]
    buckets: Sequence[Sequence[int]]  # of these segments
    schema: bytes
    total: int

    @classmethod
    def of(cls, items: Sequence[Produced], total: int) -> _Side:
        ordered = [sorted(item.output.segments, key=lambda segment: segment.bucket) for item in items]
        buckets = [[segment.bucket for segment in segments] for segments in ordered]
        return cls(items, ordered, buckets, exchange_schema(items), total)

    def sizes(self) -> Ints:
        """The bytes of each bucket."""
        found = np.zeros(self.total, np.int64)
        for buckets, segments in zip(self.buckets, self.segments, strict=True):
            np.add.at(found, buckets, [segment.bytes for segment in segments])
        return found

    def held(self, low: int, high: int) -> list[tuple[Produced, Sequence[Segment]]]:
        """The producers that have rows of the buckets low <= b < high, and the segments that hold them."""
        found = []
        for item, segments, buckets in zip(self.producers, self.segments, self.buckets, strict=True):
            start = bisect_left(buckets, low)
            if start < (end := bisect_left(buckets, high, start)):
                found.append((item, segments[start:end]))
        return found

    def reads(self, low: int, high: int, some: slice = slice(None)) -> ExchangeInput:
        """What a task of these buckets reads, from `some` of the producers that have rows of them."""
        kept = self.held(low, high)[some]
        # equal segments in another number of buckets would come in another order
        identity = digest(self.schema, self.total, [[segment.digest for segment in found] for _, found in kept])
        size = sum(segment.bytes for _, found in kept for segment in found)
        return ExchangeInput(tuple(_file(item) for item, _ in kept), self.schema, size, identity, (low, high))


def _hot_keys(head: JoinHead, inputs: Sequence[Sequence[Produced]], total: int) -> dict[int, list[HotKey]]:
    """The keys whose left rows are worth several tasks, by bucket."""
    left, right = (_cast_samples(_samples(items)) for items in inputs)
    layout = head.op.layout
    found: dict[int, list[HotKey]] = {}
    for hot in hot_keys(left, right, layout.left_on, layout.right_on, total):
        found.setdefault(hot.bucket, []).append(hot)
    return found


def _split_bucket(sides: Sequence[_Side], bucket: int, hot: Sequence[HotKey]) -> Iterator[tuple[ExchangeInput, ...]]:
    """One bucket cut before and behind each hot key, whose left rows are dealt out in their order."""
    whole = [side.reads(bucket, bucket + 1) for side in sides]
    below: Cut | None = None
    for one in hot:
        key = to_ipc(one.key)
        before, behind = Cut(key, 0, 0, 0), Cut(key, BEHIND, 0, 0)
        yield tuple(_between(given, below, before) for given in whole)
        for share in _shares_of(sides[0], bucket, key, one.tasks):
            yield share, *(_between(given, before, behind) for given in whole[1:])
        below = behind
    yield tuple(_between(given, below, None) for given in whole)


class _Piece(NamedTuple):
    """Rows of a segment, from `row` of its run on; `producer` counts those that have rows of the bucket."""

    producer: int
    run: int
    row: int
    bytes: int


def _shares_of(side: _Side, bucket: int, key: bytes, tasks: int) -> Iterator[ExchangeInput]:
    """The rows of one key in so many shares, cut between producers, or between rows of one that has many.

    Where its rows lie in a segment nobody knows here, but a hot key has most of one: segments are cut evenly.
    """
    pieces: list[_Piece] = []
    held = side.held(bucket, bucket + 1)
    each = 1 + sum(segment.bytes for _, found in held for segment in found) // (tasks * PIECES_PER_SHARE)
    for producer, (_, segments) in enumerate(held):
        for one in segments:
            parts = min(one.rows, -(-one.bytes // each))
            rows = (one.start + one.rows * i // parts for i in range(parts))
            pieces += [_Piece(producer, one.run, row, one.bytes // parts) for row in rows]
    for start, end in shares([piece.bytes for piece in pieces], tasks):
        first, last = pieces[start], pieces[end - 1]
        upper = Cut(key, BEHIND, 0, 0)
        if end < len(pieces) and pieces[end].producer == last.producer:
            upper = Cut(key, last.producer - first.producer, pieces[end].run, pieces[end].row)
        read = side.reads(bucket, bucket + 1, slice(first.producer, last.producer + 1))
        size = sum(piece.bytes for piece in pieces[start:end])
        yield _between(replace(read, bytes=size), Cut(key, 0, first.run, first.row), upper)


def _between(given: ExchangeInput, lower: Cut | None, upper: Cut | None) -> ExchangeInput:
    return replace(given, lower=lower, upper=upper, identity=digest(given.identity, lower, upper))


def task_identity(program: Identity, draft: Draft, schemas: Sequence[bytes | None]) -> Identity:
    """The fingerprint of a task and its parts: its program, all that it reads, and the schemas it must write."""
    return combine([*program.parts, ("input", draft.identity), ("settled schemas", digest(tuple(schemas)))])


def job_identity(
    graph: Graph, splits: Mapping[int, Sequence[Split]], destinations: Sequence[tuple[str, bool]]
) -> str | None:
    """The job key: of its plan, inputs, destinations and whether they are appended to. None if a function has none."""
    try:
        programs = [program_identity(stage.program).digest for stage in graph.stages]
    except Unfingerprintable:
        return None
    parts = [[part.identity for node in stage.parts for part in node.parts] for stage in graph.stages]
    shape = [(stage.inputs, stage.sides, stage.limit_rows) for stage in graph.stages]
    inputs = [[split.identity for split in splits[stage]] for stage in sorted(splits)]
    return digest(programs, shape, parts, inputs, list(destinations))


def bucket_ranges(sizes: Sequence[int], bytes_max: int) -> list[tuple[int, int]]:
    """Aligned power-of-two ranges of buckets, halved until each has at most `bytes_max` or is one bucket.

    All buckets are one range only up to REDUCE_ALONE_BYTES_MAX.

    >>> bucket_ranges([5, 5, 1, 1], 4)
    [(0, 1), (1, 2), (2, 4)]
    """
    ranges: list[tuple[int, int]] = []
    pending = [(0, len(sizes))]
    while pending:
        low, high = pending.pop()
        most = min(bytes_max, REDUCE_ALONE_BYTES_MAX) if high - low == len(sizes) else bytes_max
        if high - low == 1 or sum(sizes[low:high]) <= most:
            ranges.append((low, high))
        else:
            middle = (low + high) // 2
            pending += [(middle, high), (low, middle)]
    return ranges


def read_schema(serialised: bytes) -> pa.Schema:
    """A schema from its bytes; empty bytes are the schema of no columns."""
    return pa.ipc.read_schema(pa.py_buffer(serialised)) if serialised else pa.schema([])


def exchange_schema(items: Sequence[Produced]) -> bytes:
    """The schema that all rows of an exchange fit. Raises TypeConflict naming column and both types."""
    schema = pa.schema([])
    for serialised in dict.fromkeys(item.output.schema for item in items):
        schema = unify(schema, read_schema(serialised), "records of one dataset")
    return bytes(schema.serialize().to_pybytes()) if len(schema) else b""


def _check_keys(items: Sequence[Produced], keys: Sequence[str]) -> None:
    """Raise TypeConflict where tasks hashed a key as different types: equal keys would lie in different buckets."""
    schemas = [read_schema(serialised) for serialised in dict.fromkeys(item.output.schema for item in items)]
    for key in keys:
        types = dict.fromkeys(schema.field(key).type for schema in schemas if len(schema))
        for one, other in combinations(types, 2):
            if not _hashed_alike(one, other):
                text = f"{display(one)} in some records and {display(other)} in others"
                raise TypeConflict(f"the key column {key!r} is {text}; declare its type with names=, or cast it")


def hashed_apart(schemas: Iterable[bytes], keys: Sequence[str]) -> bool:
    """Whether tasks that left rows of these schemas hashed equal keys of unequal types, so that they lie apart.

    >>> ints, floats = (pa.schema([("k", type)]).serialize().to_pybytes() for type in (pa.int64(), pa.float64()))
    >>> hashed_apart([ints, floats], ["k"]), hashed_apart([ints, ints], ["k"])
    (True, False)
    """
    read = [schema for schema in map(read_schema, schemas) if len(schema)]
    types = [dict.fromkeys(schema.field(key).type for schema in read) for key in keys]
    return any(not _hashed_alike(one, other) for found in types for one, other in combinations(found, 2))


def _hashed_alike(a: pa.DataType, b: pa.DataType) -> bool:
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        return all(_hashed_alike(x.type, y.type) for x, y in zip(a, b, strict=True))
    return bool(a == b or pa.types.is_null(a) or pa.types.is_null(b))


def check_join_keys(left: bytes, right: bytes, left_on: Sequence[str], right_on: Sequence[str]) -> None:
    """Raise PlanError where key columns turn out to have unequal types, which could never match."""
    schemas = read_schema(left), read_schema(right)
    if not all(len(schema) for schema in schemas):
        return
    for a, b in zip(left_on, right_on, strict=True):
        types = schemas[0].field(a).type, schemas[1].field(b).type
        if types[0] != types[1] and not any(map(pa.types.is_null, types)):
            raise PlanError(f"join(): {a!r} is {types[0]} on the left but {b!r} is {types[1]} on the right")


def _file(item: Produced) -> SourceFile:
    return SourceFile(item.task, item.output.path)


def _whole(items: Sequence[Produced], places: bool = False) -> ExchangeInput:
    """All rows of an exchange."""
    schema = exchange_schema(items)
    kept = [item for item in items if item.output.segments]
    where = tuple(item.place for item in kept) if places else ()
    identity = digest(schema, [[s.digest for s in item.output.segments] for item in kept], [p.pieces for p in where])
    size = sum(item.output.bytes for item in kept)
    return ExchangeInput(tuple(map(_file, kept)), schema, size, identity, places=where)


def _side(items: Sequence[Produced], graph: Graph, exchange: int) -> ExchangeInput:
    """All rows of an exchange that a step reads; an error is one of the line that asked for it."""
    feed = graph.exchanges[exchange].feeds[0]
    with at_line("".join(graph.stages[feed.stage].program.sites.outlets[feed.outlet : feed.outlet + 1])):
        return _whole(items)


def _sorted_ranges(items: Sequence[Produced], head: SortHead) -> list[ExchangeInput]:
    schema = exchange_schema(items)
    kept = [item for item in items if item.output.sample]
    samples = _samples(kept)
    files = tuple(map(_file, kept))
    rows = digest(schema, [[s.digest for s in item.output.segments] for item in kept])
    found = []
    limits = REDUCE_RANGE_BYTES_MAX, head.partitions, head.op is not None
    for part in ranges(_cast_samples(samples), head.by, head.descending, *limits):
        low, high = (None if bound is None else _cut(bound) for bound in (part.low, part.high))
        identity = digest(rows, low, high) if len(part.spans) else digest(schema, "no rows")
        spans = part.spans.tobytes()
        found.append(ExchangeInput(files, schema, part.bytes, identity, lower=low, upper=high, spans=spans))
    return found


def _samples(items: Sequence[Produced]) -> list[pa.RecordBatch]:
    return [pa.ipc.open_stream(item.output.sample).read_next_batch() for item in items if item.output.sample]


def _cast_samples(samples: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    schema = pa.schema([])
    for sample in samples:
        schema = unify(schema, sample.schema, "sort keys")
    return [cast(sample, schema) for sample in samples]


def _cut(boundary: Boundary) -> Cut:
    return Cut(to_ipc(boundary.key), boundary.task, boundary.run, boundary.row)


def places_of(splits: Sequence[Split], piece_lines: Sequence[Sequence[int]]) -> list[Place]:
    """Where the records of each split lie, from how many lines each piece has; lines go on from piece to piece."""
    lines_before: dict[str, int] = {}
    places = []
    for split, lines in zip(splits, piece_lines, strict=True):
        pieces = []
        for i, piece in enumerate(split.pieces):
            offset = 0 if piece.compression else piece.offset
            pieces.append((piece.path, offset, lines_before.get(piece.path, 0)))
            lines_before[piece.path] = lines_before.get(piece.path, 0) + (lines[i] if i < len(lines) else 0)
        places.append(Place(tuple(pieces)))
    return places


__all__ = [
    "Draft",
    "Produced",
    "bucket_ranges",
    "check_join_keys",
    "draft_tasks",
    "exchange_schema",
    "job_identity",
    "places_of",
    "read_schema",
    "task_identity",
]
