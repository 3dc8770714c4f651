"""Bounded merge: many sorted streams into one sorted stream, within a memory budget, ties in stream order.

What fits the budget is concatenated and sorted at once; what does not is merged block by block. The rows are the same
in the same order either way, only the batches are cut differently.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from mr.kernels.gather import taken
from mr.kernels.keys import Ints, Words, codes
from mr.kernels.sort import ORDER_ROW_BYTES, Key, SortedKeys, number_part, order, order_by, parts_of
from mr.options import BUCKETS_BYTES_MAX, MERGE_BLOCK_BYTES
from mr.shuffle.run_file import pieces
from mr.shuffle.source import SegmentSource
from mr.spills import spill_file

_BLOCKS_HELD: Final = 2
"""Blocks that a merge holds of each stream, and sorts together while it emits."""
_STREAMS_MIN: Final = 2

_PROBE_ROWS: Final = 1024

Stream = Iterator[pa.RecordBatch]

Merge = Callable[[pa.RecordBatch], tuple[pa.RecordBatch, Ints]]
"""Makes rows of equal keys one, in row order: (rows in order of first occurrence, the first row of each)."""


def bytes_to_sort(data_bytes: int, rows: int) -> int:
    """What sorting rows at once holds: them in one piece, their sorted copy, and what finding the order takes.

    The rows themselves lie in mapped files.

    >>> bytes_to_sort(1000, 10)
    2800
    """
    return 2 * data_bytes + ORDER_ROW_BYTES * rows


def sorted_rows(
    streams: Sequence[Stream],
    bytes_total: int,
    rows_total: int,
    by: Sequence[str],
    descending: Sequence[bool],
    memory_bytes: int,
    scratch: Path,
) -> Iterator[pa.RecordBatch]:
    """The rows of `streams`, each sorted by the columns `by`, as one sorted stream of non-empty batches.

    Ties are in stream order, then row order. `bytes_total` and `rows_total` are what all streams hold; if that can be
    sorted within `memory_bytes` one batch comes out. `scratch` is a folder for temporary files (unlinked at once; they
    vanish with the process).

    >>> streams = [iter([pa.RecordBatch.from_pydict({"k": keys})]) for keys in ([1, 3], [2])]
    >>> [batch["k"].to_pylist() for batch in sorted_rows(streams, 24, 3, ["k"], [False], 1 << 20, Path("."))]
    [[1, 2, 3]]
    """
    if bytes_to_sort(bytes_total, rows_total) > memory_bytes:
        yield from merge_sorted(streams, by, descending, memory_bytes, scratch)
        return
    batches = [batch for stream in streams for batch in stream if batch.num_rows]
    if batches:
        data = pa.concat_batches(batches)
        del batches
        data = taken(data, order(data, by, descending))
        yield data


def bucket_rows(
    sources: Sequence[SegmentSource],
    low: int,
    high: int,
    by: Sequence[str],
    descending: Sequence[bool],
    memory_bytes: int,
    scratch: Path,
    merge: Merge | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of the buckets low <= b < high of a hash shuffle, sorted by (bucket, `by`, source, run, row).

    `by` is the key columns and then the sort columns. Buckets are taken together as far as they fit `memory_bytes` and
    BUCKETS_BYTES_MAX; one that does not fit the memory is merged. Rows of one key may come in several batches. `merge`
    may be called before rows are sorted, if that leaves fewer of them. Raises `FetchFailed`.
    """
    totals = (_totals(sources, what, low, high).tolist() for what in ("bytes", "rows"))
    sizes = np.array(list(map(bytes_to_sort, *totals)))
    start = low
    while start < high:
        held = np.cumsum(sizes[start - low :])
        stop = start + max(1, int(np.searchsorted(held, min(memory_bytes, BUCKETS_BYTES_MAX), "right")))
        if held[0] > memory_bytes:
            streams = [source.batches(one) for source in sources for one in source.segments(start, stop)]
            yield from merge_sorted(streams, by, descending, memory_bytes, scratch)
        elif (data := _sorted_buckets(sources, start, stop, by, descending, merge)) is not None:
            yield data
        start = stop


def _totals(sources: Sequence[SegmentSource], what: str, low: int, high: int) -> Ints:
    """The sums over the segments of all sources, by bucket."""
    totals = np.zeros(high - low, np.int64)
    for source in sources:
        buckets = source.index.column("bucket")
        wanted = (buckets >= low) & (buckets < high)
        np.add.at(totals, buckets[wanted] - low, source.index.column(what)[wanted])
    return totals


def _sorted_buckets(
    sources: Sequence[SegmentSource],
    low: int,
    high: int,
    by: Sequence[str],
    descending: Sequence[bool],
    merge: Merge | None,
) -> pa.RecordBatch | None:
    found = [(source, span) for source in sources for span in source.index.spans(low, high)]
    if not found:
        return None
    data = pa.concat_batches([source.cast(source.rows(one.run, one.start, one.stop)) for source, one in found])
    buckets, rows = (np.concatenate([getattr(span, what) for _, span in found]) for what in ("buckets", "rows"))
    ids = np.repeat(buckets, rows).astype(np.uint64)
    if merge is not None and _keys_repeat(data, ids, by):
        data, firsts = merge(data)
        ids = ids[firsts]
    return taken(data, order_by(data.num_rows, [number_part(ids), *parts_of(data, by, descending)]))


def _keys_repeat(data: pa.RecordBatch, buckets: Words, keys: Sequence[str]) -> bool:
    """Whether keys come twice on average, judged by the first buckets: these have all rows of their keys."""
    if data.num_rows < 2 * _PROBE_ROWS:
        return False
    rows_up_to = np.cumsum(np.bincount(buckets.view(np.int64)))
    last = np.searchsorted(rows_up_to, _PROBE_ROWS, "right")
    some = data.take(pa.array(np.flatnonzero(buckets <= last)))
    return bool(2 * len(codes(some, keys)[1]) <= some.num_rows)


def merge_sorted(
    streams: Sequence[Stream], by: Sequence[str], descending: Sequence[bool], memory_bytes: int, scratch: Path
) -> Iterator[pa.RecordBatch]:
    """Merge sorted streams of batches of at most `MERGE_BLOCK_BYTES`, or of one row; see `sorted_rows`.

    As many streams are merged at a time as `memory_bytes` has room to sort two blocks of each, two at least; where
    there are more, neighbours are merged first, into temporary files in `scratch`. Of rows longer than a block one at
    a time is copied; the others stay where the streams have them, in mapped files.

    >>> streams = [iter([pa.RecordBatch.from_pydict({"k": keys})]) for keys in ([1, 3], [2])]
    >>> [batch["k"].to_pylist() for batch in merge_sorted(streams, ["k"], [False], 1 << 30, Path("."))]
    [[1, 2, 3]]
    """
    streams, block_bytes = _peeked(streams, by)
    fan_in = max(_STREAMS_MIN, memory_bytes // (_BLOCKS_HELD * block_bytes))
    level = 0
    while len(streams) > fan_in:
        groups = [streams[start : start + fan_in] for start in range(0, len(streams), fan_in)]
        streams = [
            _spilled(_merge(group, by, descending), scratch / f"merge-{level}-{number}.arrow")
            for number, group in enumerate(groups)
        ]
        level += 1
    yield from _merge(streams, by, descending)


def _peeked(streams: Sequence[Stream], by: Sequence[str]) -> tuple[Sequence[Stream], int]:
    """The streams (without empty ones at the front), and what sorting a full block takes, going by the first one.

    The keys of rows longer than a block are copied to compare them.
    """
    for number, stream in enumerate(streams):
        first = next(stream, None)
        if first is not None:
            rows = first.num_rows * MERGE_BLOCK_BYTES // max(1, first.nbytes)
            size = max(MERGE_BLOCK_BYTES, first.select(list(by)).nbytes)
            return [chain([first], stream), *streams[number + 1 :]], bytes_to_sort(size, rows)
    return [], 1


def _spilled(batches: Iterable[pa.RecordBatch], path: Path) -> Stream:
    """`batches` written to `path` and read back block by block; the name is gone when this returns."""
    writer = None
    try:
        with spill_file(path) as sink:
            for batch in batches:
                writer = writer or pa.ipc.new_stream(sink, batch.schema)
                for piece in pieces(batch, MERGE_BLOCK_BYTES):
                    writer.write_batch(piece)
            if writer is None:
                return iter(())
            writer.close()
        with pa.memory_map(str(path)) as file:
            return iter(pa.ipc.open_stream(file.read_buffer()))
    finally:
        path.unlink(missing_ok=True)


class _Block:
    """A block of a stream. `long`: it is a row longer than blocks should be."""

    def __init__(self, data: pa.RecordBatch, by: Sequence[str], descending: Sequence[bool]) -> None:
        self.data = data
        self.keys = SortedKeys(data, by, descending)
        self.long = data.nbytes > MERGE_BLOCK_BYTES
        self._last = None if self.long else self._key()

    @property
    def last(self) -> Key:
        """The key of the last row; that of a long row may be long, and is not kept."""
        return self._last or self._key()

    def _key(self) -> Key:
        return self.keys.at(self.data.num_rows - 1)


class _Held:
    """What a merge holds of one stream: what is left of one block and the next, so that a round can use a whole one.

    A long block is held alone or behind one that is not.
    """

    def __init__(self, stream: Stream, by: Sequence[str], descending: Sequence[bool]) -> None:
        self._stream = stream
        self._by, self._descending = by, descending
        self._blocks: deque[_Block] = deque()
        self._used = 0
        self._more = True
        self.fill()

    @property
    def last(self) -> Key:
        """The key of the last row that is held."""
        return self._blocks[-1].last

    @property
    def empty(self) -> bool:
        return not self._blocks

    @property
    def limits(self) -> bool:
        """Whether a round may not go beyond the last row: more comes behind it, or it is long, and one a round will
        do."""
        return self._more or self._blocks[-1].long

    def fill(self) -> None:
        """Read until two blocks are held, or one that is long, or the stream ends."""
        while self._more and len(self._blocks) < _BLOCKS_HELD and not (self._blocks and self._blocks[-1].long):
            data = next(self._stream, None)
            if data is None:
                self._more = False
            elif data.num_rows:
                self._blocks.append(_Block(data, self._by, self._descending))

    def take(self, limit: Key | None, equal_too: bool) -> list[pa.RecordBatch]:
        """The rows below `limit` (None: all), and those equal to it if `equal_too`, removed from what is held."""
        taken = []
        while self._blocks:
            block = self._blocks[0]
            last = block.last
            whole = limit is None or last < limit or (equal_too and last == limit)
            end = block.data.num_rows
            if not whole:
                assert limit is not None
                end = block.keys.cut(limit, "right" if equal_too else "left", self._used)
            if end > self._used:
                taken.append(block.data.slice(self._used, end - self._used))
            if not whole:
                self._used = end
                break
            self._blocks.popleft()
            self._used = 0
        return taken


def _merge(streams: Sequence[Stream], by: Sequence[str], descending: Sequence[bool]) -> Iterator[pa.RecordBatch]:
    held = [_Held(stream, by, descending) for stream in streams]
    while held := [one for one in held if not one.empty]:
        limiting = [i for i, one in enumerate(held) if one.limits]
        # Rows up to the smallest last key can have no smaller ones behind them. Of equal last keys the first stream
        # sets the limit: rows equal to it in streams before it are all here, in later ones they wait for its own.
        first = min(limiting, key=lambda i: (held[i].last, i), default=None)
        limit = None if first is None else held[first].last
        taken = [held[i].take(limit, equal_too=first is None or i <= first) for i in range(len(held))]
        yield from _ordered([part for part in taken if part], by, descending)
        for one in held:
            one.fill()


def _ordered(
    sequences: Sequence[Sequence[pa.RecordBatch]], by: Sequence[str], descending: Sequence[bool]
) -> Iterator[pa.RecordBatch]:
    """Sorted sequences of batches, in stream order, as one sorted sequence."""
    if len(sequences) == 1:
        yield from sequences[0]
    elif sequences:
        data = pa.concat_batches([batch for part in sequences for batch in part])
        yield taken(data, order(data, by, descending))
