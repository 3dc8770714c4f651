"""Merge: the same rows in the same order whatever the budget, ties in stream order."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_oracle import expected_order, key_batches, key_names

import mr.shuffle.merge
from mr.kernels.keys import buckets
from mr.kernels.partition import sort_into_buckets
from mr.kernels.sort import order
from mr.options import MERGE_BLOCK_BYTES
from mr.shuffle.merge import bucket_rows, bytes_to_sort, merge_sorted, sorted_rows
from mr.shuffle.reader import RunReader
from mr.shuffle.run_file import pieces
from mr.shuffle.writer import RunWriter


def in_blocks(data: pa.RecordBatch, cuts: list[int]) -> list[pa.RecordBatch]:
    bounds = [0, *sorted(min(cut, data.num_rows) for cut in cuts), data.num_rows]
    return [data.slice(start, end - start) for start, end in pairwise(bounds)]


def rows_of(batches: object) -> list[int]:
    return [row for batch in batches for row in batch["row"].to_pylist()]  # type: ignore[attr-defined]


@settings(max_examples=250, deadline=None)
@given(key_batches(columns_max=2), st.data())
def test_a_merge_is_a_stable_sort_of_the_streams_one_after_the_other(tmp_path_factory, batch, data):
    names = key_names(batch)
    descending = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    cuts = st.lists(st.integers(0, batch.num_rows), max_size=4)
    streams = []
    for part in in_blocks(batch, data.draw(cuts)):
        in_order = part.take(pa.array(expected_order(part, names, descending), pa.int64()))
        streams.append(in_blocks(in_order, data.draw(cuts)))
    # the expected order is that of the batch itself: each stream is a slice of it, so ties are in row order
    expected = expected_order(batch, names, descending)
    scratch = tmp_path_factory.mktemp("scratch")
    # memory 0: two streams at a time, through files; blocks of 1 byte: all are longer than they should be
    for memory, block_bytes in ((0, MERGE_BLOCK_BYTES), (0, 1), (1 << 40, 40)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mr.shuffle.merge, "MERGE_BLOCK_BYTES", block_bytes)
            merged = merge_sorted([iter(stream) for stream in streams], names, descending, memory, scratch)
            assert rows_of(merged) == expected
        fitted = sorted_rows([iter(stream) for stream in streams], 1, 1, names, descending, memory, scratch)
        assert rows_of(fitted) == expected
    assert list(scratch.iterdir()) == []


def stream(seed: int, rows: int, distinct: int) -> pa.RecordBatch:
    rng = np.random.default_rng(seed)
    data = pa.RecordBatch.from_pydict(
        {
            "k": pa.array([f"key{n:06d}" for n in rng.integers(0, distinct, rows)], pa.large_string()),
            "row": np.arange(seed * 1_000_000, seed * 1_000_000 + rows),
        }
    )
    return data.take(pa.array(order(data, ["k"])))


@pytest.mark.parametrize("distinct", [1, 5, 1_000_000])
@pytest.mark.parametrize("memory_blocks", [0, 16, 1000])
def test_many_blocks_of_many_streams(tmp_path, distinct, memory_blocks):
    streams = [stream(seed, 3000 + 700 * seed, distinct) for seed in range(6)]
    blocks = [[data.slice(at, 256) for at in range(0, data.num_rows, 256)] for data in streams]
    together = pa.concat_batches(streams)
    expected = together.take(pa.array(order(together, ["k"])))
    merged = list(merge_sorted([iter(b) for b in blocks], ["k"], [False], memory_blocks * MERGE_BLOCK_BYTES, tmp_path))
    assert pa.concat_batches(merged).equals(expected)
    assert list(tmp_path.iterdir()) == []


def test_a_merge_holds_two_blocks_of_each_stream(tmp_path):
    pulled = [0, 0, 0]

    def counted(number: int) -> object:
        for start in range(100):
            pulled[number] += 1
            yield pa.RecordBatch.from_pydict({"k": np.arange(start * 10, start * 10 + 10), "row": np.arange(10)})

    merged = merge_sorted([counted(number) for number in range(3)], ["k"], [False], 1 << 40, tmp_path)
    for emitted, batch in enumerate(merged, start=1):
        assert batch.num_rows <= 3 * 2 * 10
        assert max(pulled) <= 2 * emitted + 2
    assert pulled == [100, 100, 100]


LONG = 200_000
"""Bytes of a long row; blocks are a tenth of that."""

LONG_ROWS: dict[str, Callable[[int], tuple[str, str]]] = {
    "long values": lambda k: (f"{k:03d}", "v" * LONG),
    "long keys": lambda k: (f"{k:03d}" + "x" * LONG, ""),
    "long keys that begin alike": lambda k: ("x" * LONG + f"{k:03d}", ""),
    "long keys that are equal": lambda k: ("x" * LONG, ""),
    "few long rows": lambda k: (f"{k:03d}", "v" * (LONG if k % 20 == 0 else 9)),
}


@pytest.mark.parametrize("kind", LONG_ROWS)
def test_a_merge_of_rows_longer_than_blocks_copies_few_of_them_at_a_time(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mr.shuffle.merge, "MERGE_BLOCK_BYTES", LONG // 10)
    rng, rows, paths = np.random.default_rng(5), [], []
    for number in range(30):
        keys = sorted(rng.integers(0, 100, 8).tolist())
        made = [LONG_ROWS[kind](k) for k in keys]
        rows += [(key, number * 100 + i) for i, (key, _) in enumerate(made)]
        columns = {"k": [key for key, _ in made], "x": [text for _, text in made]}
        data = {name: pa.array(texts, pa.large_string()) for name, texts in columns.items()}
        batch = pa.RecordBatch.from_pydict({**data, "row": range(number * 100, number * 100 + 8)})
        paths.append(tmp_path / str(number))
        with pa.OSFile(str(paths[-1]), "wb") as file, pa.ipc.new_stream(file, batch.schema) as writer:
            for piece in pieces(batch, LONG // 10):
                writer.write_batch(piece)
    expected = [row for _, row in sorted(rows, key=lambda item: item[0])]
    streams = [iter(pa.ipc.open_stream(pa.memory_map(str(path)).read_buffer())) for path in paths]
    del made, columns, data, batch, piece
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        merged = merge_sorted(streams, ["k"], [False], 10 * LONG, tmp_path)
        found = [row for batch in merged for row in batch["row"].to_pylist()]
        peak = pool.max_memory() + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert found == expected
    assert peak < 6 * LONG, "30 streams hold 60 blocks"


def sources(tmp_path: object, batches: list[pa.RecordBatch], by: list[str]) -> list[RunReader]:
    found = []
    for number, batch in enumerate(batches):
        path = tmp_path / f"map-{number}"  # type: ignore[operator]
        with RunWriter(path, "a", batch.schema) as writer:
            half = batch.num_rows // 3
            for run in (batch.slice(0, half), batch.slice(half)):
                writer.append_run(*sort_into_buckets(run, by[:1], by[1:]))
            writer.finish()
        found.append(RunReader(path))
    return found


@settings(max_examples=40, deadline=None)
@given(key_batches(columns_max=2, rows_max=60), st.integers(0, 60), st.integers(0, 255))
def test_a_hash_shuffle_comes_back_in_bucket_key_task_row_order(tmp_path_factory, batch, cut, middle):
    by = key_names(batch)
    folder = tmp_path_factory.mktemp("shuffle")
    readers = sources(folder, [batch.slice(0, cut), batch.slice(cut)], by)
    ids = buckets(batch, by[:1]).tolist()
    expected = sorted(expected_order(batch, by, [False] * len(by)), key=lambda row: ids[row])
    for memory in (0, 20_000, 1 << 40):
        found = []
        for low, high in ((0, middle), (middle, 256)):
            found += rows_of(bucket_rows(readers, low, high, by, [False] * len(by), memory, folder))
        assert found == expected


def test_buckets_that_fit_are_taken_together(tmp_path):
    data = stream(0, 5000, 4000)
    readers = sources(tmp_path, [data], ["k"])
    assert len(list(bucket_rows(readers, 0, 256, ["k"], [False], 1 << 30, tmp_path))) == 1
    size = bytes_to_sort(readers[0].index.bytes, data.num_rows) // 4
    assert 3 <= len(list(bucket_rows(readers, 0, 256, ["k"], [False], size, tmp_path))) <= 6


def test_no_more_buckets_are_taken_together_than_pays(tmp_path, monkeypatch):
    data = stream(0, 5000, 4000)
    readers = sources(tmp_path, [data], ["k"])
    (whole,) = bucket_rows(readers, 0, 256, ["k"], [False], 1 << 30, tmp_path)
    monkeypatch.setattr(
        mr.shuffle.merge, "BUCKETS_BYTES_MAX", bytes_to_sort(readers[0].index.bytes, data.num_rows) // 4
    )
    found = list(bucket_rows(readers, 0, 256, ["k"], [False], 1 << 30, tmp_path))
    assert 3 <= len(found) <= 6
    assert pa.Table.from_batches(found).equals(pa.Table.from_batches([whole]))


def test_no_streams_and_empty_streams_give_nothing(tmp_path):
    empty = stream(0, 10, 3).slice(0, 0)
    for streams in ([], [iter(())], [iter([empty]), iter(())]):
        assert list(merge_sorted(streams, ["k"], [False], 1 << 30, tmp_path)) == []
    assert list(sorted_rows([iter([empty])], 0, 0, ["k"], [False], 1 << 30, tmp_path)) == []
    assert list(bucket_rows([], 0, 256, ["k"], [False], 1 << 30, tmp_path)) == []
