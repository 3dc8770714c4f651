"""Range partitioning: the ranges, one after the other, are the stable sort of all rows; hot keys split."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_oracle import expected_order, key_batches, key_names

from mr.kernels.sort import order
from mr.shuffle import writer as writer_module
from mr.shuffle.merge import sorted_rows
from mr.shuffle.ranges import boundaries, range_streams
from mr.shuffle.reader import RunReader
from mr.shuffle.writer import RunWriter


def shuffle(folder: Path, tasks: list[list[pa.RecordBatch]], by: list[str], descending: list[bool]) -> list[RunReader]:
    readers = []
    for number, runs in enumerate(tasks):
        with RunWriter(folder / f"map-{number}", "a", runs[0].schema) as writer:
            for run in runs:
                writer.append_sorted_run(run.take(pa.array(order(run, by, descending))), by)
            writer.finish()
        readers.append(RunReader(folder / f"map-{number}"))
    return readers


def read_ranges(
    readers: list[RunReader], by: list[str], descending: list[bool], range_bytes: int, folder: Path
) -> list[list[int]]:
    bounds = [None, *boundaries([reader.index.sample for reader in readers], by, descending, range_bytes), None]
    ranges = []
    for low, high in pairwise(bounds):
        streams = [
            one for task, reader in enumerate(readers) for one in range_streams(reader, task, by, descending, low, high)
        ]
        ranges.append(
            [
                row
                for batch in sorted_rows(streams, 1 << 40, by, descending, 0, folder)
                for row in batch["row"].to_pylist()
            ]
        )
    return ranges


@settings(max_examples=120, deadline=None)
@given(key_batches(columns_max=2, rows_max=60), st.data())
def test_the_ranges_in_order_are_the_sorted_rows(tmp_path_factory, batch, data):
    by = key_names(batch)
    descending = data.draw(st.lists(st.booleans(), min_size=len(by), max_size=len(by)))
    cuts = sorted(data.draw(st.lists(st.integers(0, batch.num_rows), min_size=3, max_size=3)))
    bounds = [0, *cuts, batch.num_rows]
    runs = [batch.slice(a, b - a) for a, b in pairwise(bounds)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "SORT_BLOCK_BYTES", 600)
        folder = tmp_path_factory.mktemp("sort")
        readers = shuffle(folder, [runs[:2], runs[2:]], by, descending)
    ranges = read_ranges(readers, by, descending, 1500, folder)
    assert [row for one in ranges for row in one] == expected_order(batch, by, descending)


def test_one_hot_key_is_split_into_ranges_of_about_the_wanted_size(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "SORT_BLOCK_BYTES", 10_000)
    tasks = []
    for task in range(3):
        rows = np.arange(task * 20_000, task * 20_000 + 20_000)
        tasks.append([pa.RecordBatch.from_pydict({"k": np.where(rows % 50, 7, rows), "row": rows})])
    readers = shuffle(tmp_path, tasks, ["k"], [False])
    ranges = read_ranges(readers, ["k"], [False], 100_000, tmp_path)
    together = pa.concat_batches([run for runs in tasks for run in runs])
    expected = together.take(pa.array(order(together, ["k"])))["row"].to_pylist()
    assert [row for one in ranges for row in one] == expected
    assert len(ranges) >= 9
    assert max(len(one) for one in ranges) < 2.5 * len(expected) / len(ranges)


def test_only_the_blocks_of_a_range_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "SORT_BLOCK_BYTES", 5_000)
    data = pa.RecordBatch.from_pydict({"k": np.arange(20_000), "row": np.arange(20_000)})
    (reader,) = shuffle(tmp_path, [[data]], ["k"], [False])
    bounds = boundaries([reader.index.sample], ["k"], [False], 40_000)
    read = []
    batches = reader.batches
    reader.batches = lambda segment: (read.append(segment.bucket), batches(segment))[1]  # type: ignore[method-assign]
    low, high = bounds[1], bounds[2]
    rows = [
        row for one in range_streams(reader, 0, ["k"], [False], low, high) for b in one for row in b["row"].to_pylist()
    ]
    assert rows == list(range(low.row, high.row))
    assert len(read) <= 12 < len(reader.index.segments)


def test_tasks_without_rows_take_no_part(tmp_path):
    assert boundaries([], ["k"], [False], 10) == []
    assert boundaries([None], ["k"], [False], 10) == []
    data = pa.RecordBatch.from_pydict({"k": [2, 1], "row": [0, 1]})
    readers = shuffle(tmp_path, [[data.slice(0, 0)], [data]], ["k"], [False])
    assert read_ranges(readers, ["k"], [False], 1 << 20, tmp_path) == [[1, 0]]
