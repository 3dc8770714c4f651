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

from mr.errors import FetchFailed
from mr.kernels.sort import order
from mr.shuffle import writer as writer_module
from mr.shuffle.ranges import range_rows, ranges
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
    readers: list[RunReader], by: list[str], descending: list[bool], range_bytes: int, folder: Path, memory: int = 0
) -> list[list[int]]:
    found = []
    for one in ranges([reader.index.sample for reader in readers], by, descending, range_bytes):
        batches = range_rows(readers, one, by, descending, memory, folder)
        found.append([row for batch in batches for row in batch["row"].to_pylist()])
    return found


@settings(max_examples=120, deadline=None)
@given(key_batches(columns_max=2, rows_max=60), st.data())
def test_the_ranges_in_order_are_the_sorted_rows(tmp_path_factory, batch, data):
    by = key_names(batch)
    descending = data.draw(st.lists(st.booleans(), min_size=len(by), max_size=len(by)))
    cuts = sorted(data.draw(st.lists(st.integers(0, batch.num_rows), min_size=3, max_size=3)))
    bounds = [0, *cuts, batch.num_rows]
    runs = [batch.slice(a, b - a) for a, b in pairwise(bounds)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "SORT_BLOCK_BYTES", 200)
        patch.setattr(writer_module, "SORT_BLOCK_ROWS_MIN", 1)
        folder = tmp_path_factory.mktemp("sort")
        readers = shuffle(folder, [runs[:2], runs[2:]], by, descending)
    merged = read_ranges(readers, by, descending, 1500, folder)
    assert [row for one in merged for row in one] == expected_order(batch, by, descending)
    at_once = read_ranges(readers, by, descending, 1500, folder, memory=1 << 40)
    assert at_once == merged


def test_one_hot_key_is_split_into_ranges_of_about_the_wanted_size(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "SORT_BLOCK_BYTES", 10_000)
    tasks = []
    for task in range(3):
        rows = np.arange(task * 20_000, task * 20_000 + 20_000)
        tasks.append([pa.RecordBatch.from_pydict({"k": np.where(rows % 50, 7, rows), "row": rows})])
    readers = shuffle(tmp_path, tasks, ["k"], [False])
    found = read_ranges(readers, ["k"], [False], 100_000, tmp_path)
    together = pa.concat_batches([run for runs in tasks for run in runs])
    expected = together.take(pa.array(order(together, ["k"])))["row"].to_pylist()
    assert [row for one in found for row in one] == expected
    assert len(found) >= 9
    assert max(len(one) for one in found) < 2.5 * len(expected) / len(found)


def test_only_the_blocks_of_a_range_are_read_and_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "SORT_BLOCK_BYTES", 5_000)
    numbers = np.arange(200_000)
    data = pa.RecordBatch.from_pydict({"k": numbers, "row": numbers})
    (reader,) = shuffle(tmp_path, [[data]], ["k"], [False])
    offset, size, *_ = (column[0].as_py() for column in reader.index.runs.columns)
    path = tmp_path / "map-0"
    damaged = bytearray(path.read_bytes())
    damaged[offset + size - 100] ^= 1  # among the last rows of the last column
    path.write_bytes(damaged)
    (reader,) = [RunReader(path)]
    *good, _, bad = ranges([reader.index.sample], ["k"], [False], 400_000)
    assert len(good) > 5
    for one in good:
        ((_, _, start, stop),) = one.spans.tolist()
        assert (start, stop) == (0 if one.low is None else one.low.row - 312, one.high.row)
        assert stop - start < 30_000
        rows = [row for batch in range_rows([reader], one, ["k"], [False], 1 << 30, tmp_path) for row in batch["row"]]
        assert pa.array(rows).to_pylist() == list(range(0 if one.low is None else one.low.row, one.high.row))
    with pytest.raises(FetchFailed, match="run 0: the checksum of page"):
        list(range_rows([reader], bad, ["k"], [False], 1 << 30, tmp_path))


def test_tasks_without_rows_take_no_part(tmp_path):
    for samples in ([], [None]):
        (one,) = ranges(samples, ["k"], [False], 10)
        assert (one.low, one.high, len(one.spans), one.bytes) == (None, None, 0, 0)
        assert list(range_rows([], one, ["k"], [False], 1 << 20, tmp_path)) == []
    data = pa.RecordBatch.from_pydict({"k": [2, 1], "row": [0, 1]})
    readers = shuffle(tmp_path, [[data.slice(0, 0)], [data]], ["k"], [False])
    assert read_ranges(readers, ["k"], [False], 1 << 20, tmp_path) == [[1, 0]]
