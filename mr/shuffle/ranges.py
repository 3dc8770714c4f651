"""Range partitioning of a sort: boundaries from the samples of all map tasks, and reading one range.

The total order of a sort is (sort columns, task, run, row): no two rows tie, so a hot key can be split over ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mr.kernels.sort import Key, SortedKeys, order
from mr.shuffle.run_file import BYTES, ROW, RUN
from mr.shuffle.source import SegmentSource


@dataclass(frozen=True, eq=False)
class Boundary:
    """The first row of a range: its sort columns (one row), and its place in the shuffle to tell equal ones apart."""

    key: pa.RecordBatch
    task: int
    run: int
    row: int


def boundaries(
    samples: Sequence[pa.RecordBatch | None], by: Sequence[str], descending: Sequence[bool], range_bytes_max: int
) -> list[Boundary]:
    """Where to cut all rows into ranges of at most about `range_bytes_max` bytes: the first rows of all but the first.

    `samples` are those of the map tasks' run files, by task number (None: no rows). A sampled block counts for the
    range in which it begins, so a range is larger by up to a block of each run.

    >>> sample = pa.RecordBatch.from_pydict({"k": [1, 5], "mr.run": [0, 0], "mr.row": [0, 9], "mr.bytes": [80, 80]})
    >>> [(bound.key["k"][0].as_py(), bound.row) for bound in boundaries([sample], ["k"], [False], 100)]
    [(5, 9)]
    """
    tasks = np.repeat(np.arange(len(samples)), [0 if sample is None else sample.num_rows for sample in samples])
    present = [sample for sample in samples if sample is not None]
    if not present:
        return []
    data = pa.concat_batches(present)
    found, held = [], 0
    in_order = order(data, by, descending)
    sizes = data.column(BYTES).to_numpy()[in_order]
    for row, size in zip(in_order.tolist(), sizes.tolist(), strict=True):
        if held and held + size > range_bytes_max:
            key = data.select(list(by)).slice(row, 1)
            found.append(Boundary(key, int(tasks[row]), data.column(RUN)[row].as_py(), data.column(ROW)[row].as_py()))
            held = 0
        held += size
    return found


def range_streams(
    source: SegmentSource,
    task: int,
    by: Sequence[str],
    descending: Sequence[bool],
    low: Boundary | None,
    high: Boundary | None,
) -> list[Iterator[pa.RecordBatch]]:
    """The rows of map task number `task` with low <= row < high (None: no bound), one sorted stream for each run.

    Reads only the blocks that hold them, and up to one more at each end. Raises `FetchFailed`.
    """
    sample = source.index.sample
    if sample is None:
        return []
    streams = []
    for run in range(int(pc.max(sample.column(RUN)).as_py() or 0) + 1 if sample.num_rows else 0):
        blocks = sample.filter(pc.equal(sample.column(RUN), run))
        ends = [
            None if bound is None else _place(source, task, run, blocks, by, descending, bound) for bound in (low, high)
        ]
        streams.append(_rows(source, run, ends[0] or 0, ends[1]))
    return streams


def _place(
    source: SegmentSource,
    task: int,
    run: int,
    blocks: pa.RecordBatch,
    by: Sequence[str],
    descending: Sequence[bool],
    bound: Boundary,
) -> int:
    """How many rows of a run come before `bound`."""
    if (task, run) == (bound.task, bound.run):
        return bound.row
    side: Literal["left", "right"] = "right" if (task, run) < (bound.task, bound.run) else "left"
    key: Key = SortedKeys(bound.key, by, descending).at(0)
    block = SortedKeys(blocks, by, descending).cut(key, side) - 1
    if block < 0:
        return 0
    row = int(blocks.column(ROW)[block].as_py())
    for segment in source.segments(block, block + 1):
        for batch in source.batches(segment) if segment.run == run else ():
            place = SortedKeys(batch, by, descending).cut(key, side)
            row += place
            if place < batch.num_rows:
                return row
    return row


def _rows(source: SegmentSource, run: int, low: int, high: int | None) -> Iterator[pa.RecordBatch]:
    at = 0
    for segment in (segment for segment in source.index.segments if segment.run == run):
        if at + segment.rows <= low or (high is not None and at >= high):
            at += segment.rows
            continue
        for batch in source.batches(segment):
            start = max(0, low - at)
            end = batch.num_rows if high is None else min(batch.num_rows, high - at)
            if end > start:
                yield batch.slice(start, end - start)
            at += batch.num_rows
