"""Range partitioning of a sort: boundaries from the samples of all map tasks, and the rows of one range.

The total order of a sort is (sort columns, task, run, row): no two rows tie, so a hot key can be split over ranges.
A sample tells which blocks of each run a range begins and ends in; what else lies in these two is left out by the
worker, which sorts it with the rest: cheaper than a search in each of very many runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa
from msgspec import Struct

from mr.kernels.gather import taken
from mr.kernels.group import group_starts
from mr.kernels.keys import Ints
from mr.kernels.sort import SortedKeys, order
from mr.options import MERGE_BLOCK_BYTES
from mr.shuffle.merge import bytes_to_sort, merge_sorted
from mr.shuffle.run_file import pieces
from mr.shuffle.source import SegmentSource

BEFORE: Final = -1
"""As the task of a boundary: before all rows of its key."""

END: Final = np.iinfo(np.int64).max
"""As the last row of a span: all that are left of the run."""


class Boundary(Struct, frozen=True, eq=False):
    """The first row of a range: its sort columns (one row), and its place in the shuffle to tell equal ones apart."""

    key: pa.RecordBatch
    task: int
    run: int
    row: int


class Range(Struct, frozen=True, eq=False):
    """Rows low <= row < high (None: no bound). They lie in `spans`, int64[n, 4]: task, run, first row, row after the
    last; in a span there are others before and after them, up to a block each. `bytes` is about what they have.
    """

    low: Boundary | None
    high: Boundary | None
    spans: Ints
    bytes: int


def ranges(
    samples: Sequence[pa.RecordBatch | None],
    by: Sequence[str],
    descending: Sequence[bool],
    range_bytes_max: int,
    count: int | None = None,
    whole_keys: bool = False,
) -> list[Range]:
    """All rows cut into ranges of at most about `range_bytes_max` bytes, in order; at least one.

    `count`: into so many about equal ranges instead; where there are not enough blocks the last ones are empty.
    `whole_keys`: no key is split, however many rows it has.
    `samples` are those of the map tasks' run files, by task number (None: no rows). A sampled block counts for the
    range in which it begins, so a range is larger or smaller by up to a block of each run.

    >>> sample = pa.RecordBatch.from_pydict({"k": [1, 5], "mr.run": [0, 0], "mr.row": [0, 9], "mr.bytes": [80, 80]})
    >>> [part.spans.tolist() for part in ranges([sample], ["k"], [False], 100)]
    [[[0, 0, 0, 9]], [[0, 0, 0, 9223372036854775807]]]
    """
    present = [(task, sample) for task, sample in enumerate(samples) if sample is not None and sample.num_rows]
    nothing = Range(None, None, np.zeros((0, 4), np.int64), 0)
    if not present:
        return [nothing] * (count or 1)
    data = pa.concat_batches([sample for _, sample in present])
    *columns, runs, rows, sizes_bytes = data.columns  # whatever the keys are called
    keys = pa.RecordBatch.from_arrays(columns, list(by))
    task = np.repeat([task for task, _ in present], [sample.num_rows for _, sample in present])
    run, row = runs.to_numpy(), rows.to_numpy()
    first = np.flatnonzero(np.diff(task, prepend=-1) | np.diff(run, prepend=-1))  # the first block of each run
    number = np.repeat(np.arange(len(first)), np.diff(first, append=len(run)))
    in_order = order(keys, by, descending)
    sizes = np.cumsum(sizes_bytes.to_numpy()[in_order])
    cuts = _cuts(sizes, range_bytes_max) if count is None else _even_cuts(sizes, count)
    if whole_keys:
        cuts = _at_keys(cuts, group_starts(keys.take(pa.array(in_order)), by))
    bounds: list[Boundary | None] = [None]
    for place in in_order[cuts].tolist():
        key = keys.slice(place, 1)
        tie = (BEFORE, 0, 0) if whole_keys else (int(task[place]), int(run[place]), int(row[place]))
        bounds.append(Boundary(key, *tie))
    bounds.append(None)
    found = [
        Range(low, high, spans, size)
        for (low, high), spans, size in zip(
            pairwise(bounds),
            _spans(first, task, run, row, number[in_order], [0, *cuts, len(run)]),
            np.diff(sizes[[*(cut - 1 for cut in cuts), len(run) - 1]], prepend=0).tolist(),
            strict=True,
        )
    ]
    return found + [nothing] * ((count or 0) - len(found))


def _at_keys(cuts: Sequence[int], starts: Ints) -> list[int]:
    """Cuts moved back to where the key begins that they would split.

    >>> _at_keys([1, 4, 5], np.array([0, 3, 5]))
    [3, 5]
    """
    moved = np.unique(starts[np.searchsorted(starts, cuts, "right") - 1])
    return [cut for cut in moved.tolist() if cut > 0]


def _even_cuts(sizes: Ints, count: int) -> list[int]:
    """Where to cut blocks into `count` ranges of about equal bytes, or as many as there are blocks.

    >>> _even_cuts(np.array([80, 160, 170]), 2)
    [2]
    """
    wanted = sizes[-1] * np.arange(1, count) / count
    cuts = np.unique(np.searchsorted(sizes, wanted, "left") + 1)
    return [cut for cut in cuts.tolist() if cut < len(sizes)]


def _cuts(sizes: Ints, bytes_max: int) -> list[int]:
    """Where to cut blocks into ranges of at most `bytes_max`, or of one block, given the running sums of their sizes.

    >>> _cuts(np.array([80, 160, 170]), 100)
    [1]
    """
    cuts: list[int] = []
    at = 0
    while True:
        before = int(sizes[at - 1]) if at else 0
        at = max(at + 1, int(np.searchsorted(sizes, before + bytes_max, "right")))
        if at >= len(sizes):
            return cuts
        cuts.append(at)


def _spans(first: Ints, task: Ints, run: Ints, row: Ints, numbers: Ints, bounds: Sequence[int]) -> Iterator[Ints]:
    """The spans of each range, given the run of every sampled block in sorted order, cut at `bounds`."""
    blocks = np.diff(first, append=len(run))  # of each run
    before = np.zeros(len(first), np.int64)  # blocks of each run that begin before the range
    for low, high in pairwise(bounds):
        after = before + np.bincount(numbers[low:high], minlength=len(first))
        begin = row[first + np.maximum(before - 1, 0)]
        end = np.where(after < blocks, row[first + np.minimum(after, blocks - 1)], END)
        used = np.flatnonzero((after > 0) & (begin < end))
        yield np.stack([task[first[used]], run[first[used]], begin[used], end[used]], axis=1)
        before = after


class _Part(Struct, frozen=True, eq=False):
    """The rows of one span: a batch of the mapped file."""

    source: SegmentSource
    task: int
    run: int
    start: int
    data: pa.RecordBatch


def range_rows(
    sources: Sequence[SegmentSource],
    wanted: Range,
    by: Sequence[str],
    descending: Sequence[bool],
    memory_bytes: int,
    scratch: Path,
) -> Iterator[pa.RecordBatch]:
    """The rows of a range in order, in non-empty batches; `sources` are the files of the map tasks by task number.

    One batch if that fits `memory_bytes`; else runs are merged by blocks. Raises `FetchFailed`.
    """
    parts = []
    for task, run, start, stop in wanted.spans.tolist():
        data = sources[task].rows(run, start, stop)
        if data.num_rows:
            parts.append(_Part(sources[task], task, run, start, data))
    if not parts:
        return
    rows = sum(part.data.num_rows for part in parts)
    if bytes_to_sort(sum(part.data.nbytes for part in parts), rows) <= memory_bytes:
        sorted_batch = _sorted_at_once(parts, wanted, by, descending)
        if sorted_batch.num_rows:
            yield sorted_batch
        return
    streams = [_stream(part, wanted, by, descending) for part in parts]
    yield from merge_sorted(streams, by, descending, memory_bytes, scratch)


def _sorted_at_once(
    parts: Sequence[_Part], wanted: Range, by: Sequence[str], descending: Sequence[bool]
) -> pa.RecordBatch:
    data = pa.concat_batches([part.source.cast(part.data) for part in parts])
    in_order = order(data, by, descending)
    keys = SortedKeys(data, by, descending)
    low = 0 if wanted.low is None else _rows_below(wanted.low, parts, keys, in_order, by, descending)
    high = len(in_order) if wanted.high is None else _rows_below(wanted.high, parts, keys, in_order, by, descending)
    return taken(data, in_order[low:high])


def _rows_below(
    bound: Boundary, parts: Sequence[_Part], keys: SortedKeys, in_order: Ints, by: Sequence[str], down: Sequence[bool]
) -> int:
    """How many of the sorted rows come before `bound`."""
    wanted = SortedKeys(bound.key, by, down).at(0)
    tie: int = 0  # rows of the parts, one after the other, that lie before the boundary's place
    for part in parts:
        if (part.task, part.run) < (bound.task, bound.run):
            tie += part.data.num_rows
        elif (part.task, part.run) == (bound.task, bound.run):
            tie += min(max(bound.row - part.start, 0), part.data.num_rows)
    low, high = 0, len(in_order)
    while low < high:
        middle = (low + high) // 2
        row = int(in_order[middle])
        if (keys.at(row), row) < (wanted, tie):
            low = middle + 1
        else:
            high = middle
    return low


def _stream(part: _Part, wanted: Range, by: Sequence[str], descending: Sequence[bool]) -> Iterator[pa.RecordBatch]:
    """The rows of a part that are in the range, block by block."""
    low, high = (
        default if bound is None else _place(part, bound, by, descending)
        for bound, default in ((wanted.low, 0), (wanted.high, part.data.num_rows))
    )
    for piece in pieces(part.data.slice(low, max(0, high - low)), MERGE_BLOCK_BYTES):
        yield part.source.cast(piece)


def _place(part: _Part, bound: Boundary, by: Sequence[str], descending: Sequence[bool]) -> int:
    """How many rows of a part come before `bound`."""
    here, there = (part.task, part.run), (bound.task, bound.run)
    if here == there:
        return int(min(max(bound.row - part.start, 0), part.data.num_rows))
    side: Literal["left", "right"] = "right" if here < there else "left"
    low, high = 0, part.data.num_rows
    wanted = SortedKeys(bound.key, by, descending).at(0)
    while low < high:  # one row at a time: the part may be larger than memory
        middle = (low + high) // 2
        key = SortedKeys(part.source.cast(part.data.slice(middle, 1)), by, descending).at(0)
        if key < wanted or (side == "right" and key == wanted):
            low = middle + 1
        else:
            high = middle
    return low
