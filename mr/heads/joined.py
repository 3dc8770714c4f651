"""Both sides of a join, in pairs that hold all rows of their keys, within the memory of an attempt.

Buckets are taken together as far as they fit: one pair, not even sorted, as the kernel orders keys, not rows. Of a
bucket that does not fit both sides are merged in key order and cut at keys, block by block; one key with more rows than
a block is handed on by itself, its right rows in a file if they are many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from mr.batch import Batch
from mr.errors import FetchFailed
from mr.heads.exchanges import CastSource, schema_of, sources_of
from mr.heads.materialized import in_order
from mr.heads.reading import Reading, counted
from mr.kernels.frames import concat
from mr.kernels.join import Chunk
from mr.kernels.keys import Ints
from mr.kernels.sizes import fitting
from mr.kernels.sort import Key, SortedKeys
from mr.operators.base import Narrow, Run, TaskEnv
from mr.operators.joins import Aligned, HotKey
from mr.options import MERGE_BLOCK_BYTES
from mr.program import JoinHead
from mr.shuffle.merge import sorted_rows
from mr.shuffle.run_file import Span, pieces
from mr.spills import spill_file
from mr.tasks import Cut, ExchangeInput, TaskSpec

_COPIES = 2
"""A pair that is joined at once holds its rows, and at most once more the keys and a block of what comes out ..."""
_ROW_BYTES = 120
"""... and for each row the numbers that say where it goes."""
_SHARES = 8
"""Of the memory: two for the merge of each side, one for what is held of each, the rest for joining that."""

SIZES: Final = ("bytes", "rows")


def is_part(spec: TaskSpec) -> bool:
    """Whether the task has some of the left rows of one key, and other tasks the others."""
    lower, upper = spec.exchanges[0].lower, spec.exchanges[0].upper
    return lower is not None and upper is not None and lower.key == upper.key


def pairs(head: JoinHead, spec: TaskSpec, env: TaskEnv, reading: Reading) -> Iterator[Aligned | HotKey]:
    """The rows of a task's range of buckets, or of keys in one bucket; see the module. Raises FetchFailed."""
    layout = head.op.layout
    left, right = (
        _Side(given, on, env, reading)
        for given, on in zip(spec.exchanges, (layout.left_on, layout.right_on), strict=True)
    )
    if head.narrow is not None:
        ops = head.narrow
        yield from _aligned((left.narrowed(ops[0]), left.on), (right.narrowed(ops[1]), right.on), env)
        return

    low, high = spec.exchanges[0].buckets
    costs = left.costs(low, high) + right.costs(low, high)
    for start, end, cost in fitting(costs, env.memory_bytes):
        if left.bounded or cost > env.memory_bytes:
            bucket = low + start
            yield from _aligned((left.merged(bucket), left.on), (right.merged(bucket), right.on), env)
        else:
            yield left.chunk(low + start, low + end), right.chunk(low + start, low + end)


class _Side:
    """One side of a join: its run files, and the bounds on the keys of this task, if it has only some of a bucket's."""

    def __init__(self, given: ExchangeInput, on: tuple[str, ...], env: TaskEnv, reading: Reading) -> None:
        self.on = on
        self._given = given
        self._env = env
        self._reading = reading
        self._sources = sources_of(given, Path(env.home))
        self._lower, self._upper = (_bound(cut, on) for cut in (given.lower, given.upper))

    @property
    def bounded(self) -> bool:
        """Whether there are bounds."""
        return self._lower is not None or self._upper is not None

    def costs(self, low: int, high: int) -> Ints:
        """The memory that joining each of these buckets at once takes for this side."""
        found = np.zeros(high - low, np.int64)
        for index in (source.index for source in self._sources):
            buckets = index.column("bucket")
            wanted = (buckets >= low) & (buckets < high)
            each = index.column("bytes") * _COPIES + index.column("rows") * _ROW_BYTES
            np.add.at(found, buckets[wanted] - low, each[wanted])
        return found

    def _spans(self, low: int, high: int) -> list[_Stored]:
        sources = enumerate(self._sources)
        return [_Stored(number, source, span) for number, source in sources for span in source.index.spans(low, high)]

    def chunk(self, low: int, high: int) -> Chunk:
        """All rows of these buckets: those of a key are in their final order, (producer, run, row)."""
        stored = self._spans(low, high)
        batches = (one.source.cast(one.source.rows(one.span.run, one.span.start, one.span.stop)) for one in stored)
        data = concat(list(counted(batches, self._reading)), schema_of(self._given))
        if high - low == 1 or not stored:
            return Chunk(data)
        buckets, rows = (np.concatenate([getattr(one.span, what) for one in stored]) for what in ("buckets", "rows"))
        return Chunk(data, np.repeat(buckets, rows))

    def merged(self, bucket: int) -> Iterator[pa.RecordBatch]:
        """The rows of one bucket within the bounds, in (key, producer, run, row) order."""
        indexes = [source.index for source in self._sources]
        size, rows = (sum(int(i.column(what)[i.column("bucket") == bucket].sum()) for i in indexes) for what in SIZES)
        streams = [self._within(one) for one in self._spans(bucket, bucket + 1)]
        down = (False,) * len(self.on)
        memory, scratch = self._env.memory_bytes * 2 // _SHARES, Path(self._env.scratch)
        return counted(sorted_rows(streams, size, rows, self.on, down, memory, scratch), self._reading)

    def narrowed(self, ops: Sequence[Narrow]) -> Iterator[pa.RecordBatch]:
        """All rows as they lie, through narrow operators."""
        try:
            rows = counted(in_order(self._given, Path(self._env.home)), self._reading)
            batches: Iterator[Batch] = map(Batch, rows)
            for op in ops:
                batches = _fed(op.start(self._env, False), batches)
            yield from (batch.data for batch in batches)
        except FetchFailed as error:  # of another run: the session makes it again
            raise FetchFailed(error.path, f"a materialized result is lost: {error.reason}") from None

    def _looked_at(self, stored: _Stored) -> tuple[int, int]:
        """The rows of a run among which those within the bounds are: of one key that tasks share, only the task's."""
        row, stop = stored.span.start, stored.span.stop
        if self._lower is None or self._upper is None or self._lower.key != self._upper.key:
            return row, stop
        here = stored.producer, stored.span.run
        if here <= self._lower.place:
            row = max(row, self._lower.cut.row) if here == self._lower.place else stop
        if here >= self._upper.place:
            stop = min(stop, self._upper.cut.row) if here == self._upper.place else row
        return row, max(row, stop)

    def _within(self, stored: _Stored) -> Iterator[pa.RecordBatch]:
        row, stop = self._looked_at(stored)
        for piece in pieces(stored.source.rows(stored.span.run, row, stop), MERGE_BLOCK_BYTES):
            batch = stored.source.cast(piece)
            keys = SortedKeys(batch, self.on)
            start = 0 if self._lower is None else self._lower.rows_before(keys, stored, row, batch.num_rows)
            end = batch.num_rows if self._upper is None else self._upper.rows_before(keys, stored, row, batch.num_rows)
            row += batch.num_rows
            if end > start:
                yield batch.slice(start, end - start)


class _Stored(NamedTuple):
    """Rows of one bucket or several in a run of the file of a producer, by its place among the files."""

    producer: int
    source: CastSource
    span: Span


class _Bound(NamedTuple):
    """A cut and its key."""

    key: Key
    cut: Cut

    @property
    def place(self) -> tuple[int, int]:
        """The producer and the run that the cut goes through."""
        return self.cut.producer, self.cut.run

    def rows_before(self, keys: SortedKeys, stored: _Stored, first: int, rows: int) -> int:
        """How many of the rows with these keys, which begin at row `first` of their run, lie before the cut."""
        here, there = (stored.producer, stored.span.run), self.place
        low = keys.cut(self.key, "left") if here >= there else 0
        if here > there:
            return low
        high = keys.cut(self.key, "right", low)
        return high if here < there else min(max(self.cut.row - first, low), high)


def _bound(cut: Cut | None, on: Sequence[str]) -> _Bound | None:
    if cut is None:
        return None
    key = pa.ipc.open_stream(cut.key).read_next_batch()
    return _Bound(SortedKeys(key, key.schema.names).at(0), cut)


class _Cursor:
    """Rows in key order, of which about `bytes_held` are held at a time."""

    def __init__(self, rows: Iterator[pa.RecordBatch], on: Sequence[str], bytes_held: int) -> None:
        self._rows = (piece for batch in rows for piece in pieces(batch, max(bytes_held // 4, MERGE_BLOCK_BYTES)))
        self._on = on
        self._bytes_held = bytes_held
        self._blocks: deque[tuple[pa.RecordBatch, SortedKeys]] = deque()
        self._schema = pa.schema([])
        self.more = True

    def fill(self) -> None:
        """Read until enough is held or the rows end."""
        while self.more and sum(block.nbytes for block, _ in self._blocks) < self._bytes_held:
            self._read()

    def _read(self) -> None:
        block = next(self._rows, None)
        if block is None:
            self.more = False
        else:
            self._schema = block.schema
        if block is not None and block.num_rows:
            self._blocks.append((block, SortedKeys(block, self._on)))

    @property
    def empty(self) -> bool:
        return not self._blocks

    @property
    def last(self) -> Key:
        """The key of the last row held. Requires: not empty."""
        block, keys = self._blocks[-1]
        return keys.at(block.num_rows - 1)

    def whole(self, batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
        """Batches that were taken, as one."""
        return concat(batches, self._schema)

    def take(self, limit: Key | None) -> list[pa.RecordBatch]:
        """The held rows whose key is below `limit` (None: all), which are held no longer."""
        return list(self._taken(limit, "left"))

    def rest_of(self, key: Key) -> Iterator[pa.RecordBatch]:
        """The rows from here on with this key; reads on as long as there are any."""
        while True:
            yield from self._taken(key, "right")
            if self._blocks or not self.more:
                return
            self._read()

    def _taken(self, limit: Key | None, side: Literal["left", "right"]) -> Iterator[pa.RecordBatch]:
        while self._blocks:
            block, keys = self._blocks[0]
            end = block.num_rows if limit is None else keys.cut(limit, side)
            if end < block.num_rows:
                rest = block.slice(end)
                self._blocks[0] = rest, SortedKeys(rest, self._on)
            else:
                self._blocks.popleft()
            if end:
                yield block.slice(0, end)
            if end < block.num_rows:
                return


def _fed(run: Run, batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        yield from run.feed(batch)
    yield from run.end()


Rows = tuple[Iterator[pa.RecordBatch], Sequence[str]]
"""Rows in the order of their key columns, and these."""


def _aligned(left: Rows, right: Rows, env: TaskEnv) -> Iterator[Aligned | HotKey]:
    """Two sides in key order in pairs of blocks that are cut at the same key."""
    held = max(MERGE_BLOCK_BYTES, env.memory_bytes // _SHARES)
    mine, theirs = (_Cursor(*side, held) for side in (left, right))
    hot = 0
    while True:
        mine.fill()
        theirs.fill()
        if mine.empty and theirs.empty:
            return
        # the last key of a side that goes on may have more rows; all keys below it are held whole on both sides
        limit = min((side.last for side in (mine, theirs) if side.more), default=None)
        taken = mine.take(limit), theirs.take(limit)
        if taken[0] or taken[1]:
            yield Chunk(mine.whole(taken[0])), Chunk(theirs.whole(taken[1]))
        else:
            assert limit is not None
            hot += 1
            copies = _kept(theirs.rest_of(limit), held, Path(env.scratch) / f"hot-{hot}.arrow")
            yield HotKey(mine.rest_of(limit), copies, any(null for null, _ in limit))


def _kept(rows: Iterator[pa.RecordBatch], bytes_max: int, path: Path) -> Sequence[pa.RecordBatch]:
    """The rows, to be gone through as often as wanted: in memory, or mapped from a file if they are too many."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in rows:
        held.append(batch)
        size += batch.nbytes
        if size > bytes_max:
            break
    else:
        return [concat(held, held[0].schema)] if held else []
    try:
        with spill_file(path) as sink, pa.ipc.new_stream(sink, held[0].schema) as writer:
            for batch in chain(held, rows):
                writer.write_batch(batch)
        del held
        with pa.memory_map(str(path)) as file:
            return list(pa.ipc.open_stream(file.read_buffer()))
    finally:
        path.unlink(missing_ok=True)
