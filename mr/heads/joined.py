"""Both sides of a join, in pairs that hold all rows of their keys, within the memory of an attempt.

A range of buckets that fits is one pair, not even sorted: the kernel orders keys, not rows. Else each bucket that fits
is one. Else both sides of the bucket are merged in key order and cut at keys, block by block; one key with more rows
than a block is handed on by itself, its right rows in a file if they are many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from mr.batch import Batch
from mr.errors import FetchFailed
from mr.heads.exchanges import CastSource, schema_of, sources_of
from mr.heads.materialized import in_order
from mr.heads.reading import Reading, counted
from mr.kernels.frames import concat
from mr.kernels.join import Chunk
from mr.kernels.sort import Key, SortedKeys
from mr.operators.base import Narrow, Run, TaskEnv
from mr.operators.joins import Aligned, HotKey
from mr.options import MERGE_BLOCK_BYTES
from mr.program import JoinHead
from mr.shuffle.merge import sorted_rows
from mr.shuffle.run_file import pieces
from mr.spills import spill_file
from mr.tasks import Cut, ExchangeInput, Segment, TaskSpec

_COPIES = 2
"""A pair that is joined at once holds its rows, and at most once more the keys and a block of what comes out ..."""
_ROW_BYTES = 120
"""... and for each row the numbers that say where it goes."""
_SHARES = 8
"""Of the memory: two for the merge of each side, one for what is held of each, the rest for joining that."""

Stored = tuple[CastSource, Segment]


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

    def fits(low: int, high: int) -> bool:
        return not left.bounded and left.cost(low, high) + right.cost(low, high) <= env.memory_bytes

    low, high = spec.exchanges[0].buckets
    ranges = [(low, high)] if fits(low, high) else [(bucket, bucket + 1) for bucket in range(low, high)]
    for start, end in ranges:
        if fits(start, end):
            yield left.chunk(start, end), right.chunk(start, end)
        else:
            yield from _aligned((left.merged(start), left.on), (right.merged(start), right.on), env)


class _Side:
    """One side of a join: its run files, and the bounds on the keys of this task, if it has only some of a bucket's."""

    def __init__(self, given: ExchangeInput, on: tuple[str, ...], env: TaskEnv, reading: Reading) -> None:
        self.on = on
        self._given = given
        self._env = env
        self._reading = reading
        self._sources = sources_of(given, Path(env.home))

    @property
    def bounded(self) -> bool:
        """Whether there are bounds."""
        return self._given.lower is not None or self._given.upper is not None

    def _stored(self, low: int, high: int) -> list[Stored]:
        found = [(source, segment) for source in self._sources for segment in source.segments(low, high)]
        return sorted(found, key=lambda item: item[1].bucket)  # stable: sources in order, and the runs within each

    def cost(self, low: int, high: int) -> int:
        """The memory that joining these buckets at once takes for this side."""
        stored = self._stored(low, high)
        return sum(segment.bytes * _COPIES + segment.rows * _ROW_BYTES for _, segment in stored)

    def chunk(self, low: int, high: int) -> Chunk:
        """All rows of these buckets, in (bucket, producer, run, row) order: those of a key are in their final order."""
        stored = self._stored(low, high)
        batches = chain.from_iterable(source.batches(segment) for source, segment in stored)
        data = concat(list(counted(batches, self._reading)), schema_of(self._given))
        if high - low == 1:
            return Chunk(data)
        ids = np.repeat([segment.bucket for _, segment in stored], [segment.rows for _, segment in stored])
        return Chunk(data, ids.astype(np.int64))

    def merged(self, bucket: int) -> Iterator[pa.RecordBatch]:
        """The rows of one bucket within the bounds, in (key, producer, run, row) order."""
        stored = self._stored(bucket, bucket + 1)
        streams = [self._within(source, segment) for source, segment in stored]
        size, rows = (sum(getattr(segment, what) for _, segment in stored) for what in ("bytes", "rows"))
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

    def _within(self, source: CastSource, segment: Segment) -> Iterator[pa.RecordBatch]:
        lower, upper = (_bound(cut, self.on) for cut in (self._given.lower, self._given.upper))
        for batch in source.batches(segment):
            keys = SortedKeys(batch, self.on)
            start = 0 if lower is None else keys.cut(*lower)
            end = batch.num_rows if upper is None else keys.cut(*upper, start)
            if end > start:
                yield batch.slice(start, end - start)


def _bound(cut: Cut | None, on: Sequence[str]) -> tuple[Key, Literal["left", "right"]] | None:
    """A key, and whether its own rows lie behind (left) or before (right) the cut: no cut goes through them."""
    if cut is None:
        return None
    key = pa.ipc.open_stream(cut.key).read_next_batch()
    return SortedKeys(key, key.schema.names).at(0), "left" if cut.producer == 0 else "right"


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
