"""Run files: what is read is what was written, damage is found before decoding, and the bytes follow the rows alone."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_oracle import key_batches, key_names

from mr.errors import FetchFailed, TypeConflict
from mr.kernels.partition import sort_into_buckets
from mr.kernels.sort import order
from mr.options import MERGE_BLOCK_BYTES, PAGE_BYTES, SORT_BLOCK_BYTES, SORT_BLOCK_ROWS_MIN
from mr.shuffle.reader import RunReader
from mr.shuffle.run_file import Damaged, RunIndex, decode_index, encode_index
from mr.shuffle.writer import RunWriter


def words(rows: int, seed: int = 0) -> pa.RecordBatch:
    numbers = np.random.default_rng(seed).integers(0, 500, rows)
    return pa.RecordBatch.from_pydict({"k": pa.array([f"w{n}" for n in numbers], pa.large_string()), "n": numbers})


def written(path: Path, runs: list[pa.RecordBatch], attempt: str = "a") -> RunIndex:
    with RunWriter(path, attempt, runs[0].schema) as writer:
        for run in runs:
            writer.append_run(*sort_into_buckets(run, ["k"]))
        return writer.finish()


@settings(max_examples=50, deadline=None)
@given(key_batches(), st.integers(0, 24))
def test_every_row_comes_back_in_its_bucket_and_run(tmp_path_factory, batch, middle):
    path, names = tmp_path_factory.mktemp("run") / "m", key_names(batch)
    with RunWriter(path, "a", batch.schema) as writer:
        sorted_runs = [sort_into_buckets(part, names) for part in (batch.slice(0, middle), batch.slice(middle))]
        for data, offsets in sorted_runs:
            writer.append_run(data, offsets)
        index = writer.finish()
    reader = RunReader(path)
    assert reader.index.schema.equals(batch.schema)
    assert reader.index.segments == index.segments
    assert index.rows == batch.num_rows
    found = [
        (segment.bucket, segment.run, row)
        for segment in reader.segments(0, 256)
        for row in reader.read(segment)["row"].to_pylist()
    ]
    expected = [
        (bucket, run, row)
        for bucket in range(256)
        for run, (data, offsets) in enumerate(sorted_runs)
        for row in data["row"].to_pylist()[offsets[bucket] : offsets[bucket + 1]]
    ]
    assert found == expected


def test_buckets_are_found_by_range_in_bucket_then_run_order(tmp_path):
    written(tmp_path / "m", [words(2000, 1), words(2000, 2)])
    reader = RunReader(tmp_path / "m")
    places = [(segment.bucket, segment.run) for segment in reader.segments(16, 32)]
    assert places == sorted(places)
    assert {bucket for bucket, _ in places} <= set(range(16, 32))
    assert {run for _, run in places} == {0, 1}


def test_batches_are_bounded_by_bytes(tmp_path):
    texts = ["x" * n for n in [*np.random.default_rng(1).integers(0, 20_000, 400).tolist(), 2 * MERGE_BLOCK_BYTES]]
    data = pa.RecordBatch.from_pydict(
        {"k": pa.array(["a"] * len(texts), pa.large_string()), "x": pa.array(texts, pa.large_string())}
    )
    written(tmp_path / "m", [data])
    reader = RunReader(tmp_path / "m")
    batches = list(reader.batches(reader.index.segments[0]))
    assert pa.Table.from_batches(batches)["x"].to_pylist() == texts
    sizes = [pa.ipc.get_record_batch_size(batch) for batch in batches]
    assert all(size <= MERGE_BLOCK_BYTES or batch.num_rows == 1 for size, batch in zip(sizes, batches, strict=True))
    assert len(batches) < 60


def run_bytes(path: Path, index: RunIndex) -> list[bytes]:
    data = path.read_bytes()
    assert all(run["offset"] % 64 == 0 for run in index.runs.to_pylist())
    return [data[run["offset"] : run["offset"] + run["bytes"]] for run in index.runs.to_pylist()]


def page_digests(data: bytes) -> bytes:
    return b"".join(xxhash.xxh3_128_digest(data[at : at + PAGE_BYTES]) for at in range(0, len(data), PAGE_BYTES))


def test_a_run_is_a_plain_arrow_stream_of_one_batch_with_digests_of_its_pages(tmp_path):
    runs = [words(70_000), words(1000)]
    index = written(tmp_path / "m", runs)
    for run, data, pages in zip(runs, run_bytes(tmp_path / "m", index), index.runs["pages"].to_pylist(), strict=True):
        (batch,) = pa.ipc.open_stream(data).read_all().to_batches()
        assert batch.equals(sort_into_buckets(run, ["k"])[0])
        assert pages == page_digests(data)
    assert len(index.runs["pages"][0].as_py()) > 2 * 16


def test_the_digest_of_a_segment_is_as_documented(tmp_path):
    texts, flags = ["a", None, "bcd"], [True, None, False]
    data = pa.RecordBatch.from_pydict(
        {
            "s": pa.array(texts, pa.large_string()),
            "n": pa.array([1, 2, 3], pa.int32()),
            "b": pa.array(flags),
            "z": pa.nulls(3),
            "l": pa.array([[1], [], [2, 3]], pa.large_list(pa.int64())),
        }
    )
    with RunWriter(tmp_path / "m", "a", data.schema) as writer:
        writer.append_run(data, [0, 1, 1, 3])
        first, second = writer.finish().segments
    head = data.schema.serialize().to_pybytes()
    one = struct.pack("<Q5B", 1, *bytes(5)) + struct.pack("<q", 1) + b"a" + struct.pack("<i", 1) + b"\1"
    two = struct.pack("<Q5B", 2, 1, 0, 1, 0, 0) + b"\0\1" + struct.pack("<2q", 0, 3) + b"bcd"
    two += struct.pack("<2i", 2, 3) + b"\0\1" + b"\0\0"
    one += struct.pack("<qBq", 1, 1, 1)
    two += struct.pack("<2q2B2q", 0, 2, 1, 1, 2, 3)
    assert (first.digest, second.digest) == tuple(xxhash.xxh3_128_hexdigest(head + part) for part in (one, two))
    assert [(s.bucket, s.run, s.start, s.bytes, s.rows) for s in (first, second)] == [
        (0, 0, 0, len(one), 1),
        (2, 0, 1, len(two), 2),
    ]


@settings(max_examples=60, deadline=None)
@given(key_batches(), st.integers(0, 24))
def test_the_digest_of_a_segment_says_what_its_rows_are_wherever_they_lie(tmp_path_factory, batch, more):
    path = tmp_path_factory.mktemp("run") / "m"
    before = batch.slice(0, more)
    with RunWriter(path, "a", batch.schema) as writer:
        both = pa.concat_batches([before, batch])
        writer.append_run(batch, [0, batch.num_rows, batch.num_rows])
        writer.append_run(both, [0, before.num_rows, both.num_rows])
        segments = {(segment.run, segment.bucket): segment for segment in writer.finish().segments}
    if batch.num_rows:
        assert segments[0, 0].digest == segments[1, 1].digest
        assert segments[0, 0].bytes == segments[1, 1].bytes
    if before.num_rows:
        same = before.num_rows == batch.num_rows
        assert (segments[1, 0].digest == segments[1, 1].digest) == same


def test_values_of_other_types_have_other_digests(tmp_path):
    digests = set()
    for array in (pa.array([0, 0]), pa.array([0.0, 0.0]), pa.array([None, 0]), pa.array([0, None]), pa.nulls(2)):
        data = pa.RecordBatch.from_arrays([array], ["x"])
        with RunWriter(tmp_path / "m", "a", data.schema) as writer:
            writer.append_run(data, [0, 2, 2])
            digests.add(writer.finish().segments[0].digest)
    assert len(digests) == 5


def test_the_trailer_is_as_documented(tmp_path):
    written(tmp_path / "m", [words(10)])
    data = (tmp_path / "m").read_bytes()
    *lengths, digest, version, zero, magic = struct.unpack("<4Q16s2I8s", data[-64:])
    assert (version, zero, magic, data[:8]) == (3, 0, b"MRRUN\0\r\n", b"MRRUN\0\r\n")
    offset = len(data) - 64 - sum(lengths)
    assert offset % 64 == 0
    assert digest == xxhash.xxh3_128_digest(data[offset:-64] + data[-64:-32])
    tables = [pa.ipc.open_stream(data[offset + sum(lengths[:n]) :]) for n in range(3)]
    assert tables[0].schema.equals(words(0).schema)
    assert [tables[1].read_all().num_rows, tables[2].read_all()["rows"].to_numpy().sum()] == [1, 10]


def test_the_bytes_do_not_depend_on_the_attempt_or_on_how_the_rows_lie_in_memory(tmp_path):
    data = words(3000)
    padded = pa.concat_batches([words(7, 9), data, words(5, 9)]).slice(7, 3000)
    written(tmp_path / "one", [data], "first")
    written(tmp_path / "two", [padded], "second")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_a_file_without_rows_keeps_its_schema(tmp_path):
    index = written(tmp_path / "m", [words(0)])
    assert (index.segments, index.rows, index.bytes) == ((), 0, 0)
    assert RunReader(tmp_path / "m").index.schema.equals(words(0).schema)


def test_the_schema_keeps_its_metadata(tmp_path):
    schema = pa.schema([("k", pa.int64())], metadata={b"mr.kind": b"values"})
    with RunWriter(tmp_path / "m", "a", schema) as writer:
        writer.finish()
    assert RunReader(tmp_path / "m").index.schema.metadata == {b"mr.kind": b"values"}


def test_an_abandoned_attempt_leaves_nothing(tmp_path):
    with RunWriter(tmp_path / "m", "a", words(1).schema) as writer:
        writer.append_run(*sort_into_buckets(words(10), ["k"]))
        assert [path.name for path in tmp_path.iterdir()] == [".m.a"]
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_schema_are_refused(tmp_path):
    with RunWriter(tmp_path / "m", "a", words(1).schema) as writer, pytest.raises(TypeError, match="this run file has"):
        writer.append_run(pa.RecordBatch.from_pydict({"k": [1]}), [0, 1])


def test_a_missing_or_empty_or_foreign_file_is_a_failed_fetch(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "foreign").write_bytes(b"x" * 500)
    for name in ("missing", "empty", "foreign"):
        with pytest.raises(FetchFailed) as caught:
            RunReader(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)


def test_every_flipped_byte_is_found_or_lies_in_a_gap(tmp_path):
    index = written(tmp_path / "m", [words(60)])
    good = (tmp_path / "m").read_bytes()
    covered = [range(run["offset"], run["offset"] + run["bytes"]) for run in index.runs.to_pylist()]
    offset = len(good) - 64 - sum(struct.unpack("<4Q", good[-64:-32]))
    places = [*range(8), *range(offset, len(good) - 12), *range(len(good) - 8, len(good))]
    for place in [*places[:: max(1, len(places) // 400)], *covered[0][::31], covered[0][-1]]:
        (tmp_path / "m").write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        with pytest.raises(FetchFailed):
            [reader.read(s) for reader in [RunReader(tmp_path / "m")] for s in reader.segments(0, 256)]


def test_every_truncation_is_found_on_opening(tmp_path):
    written(tmp_path / "m", [words(60)])
    good = (tmp_path / "m").read_bytes()
    for length in range(0, len(good), 97):
        (tmp_path / "m").write_bytes(good[:length])
        with pytest.raises(FetchFailed):
            RunReader(tmp_path / "m")


def test_damage_to_a_schema_of_several_pages_is_found_before_it_is_decoded(tmp_path):
    names = [f"{i}{'x' * 500}" for i in range(700)]
    data = pa.RecordBatch.from_arrays([pa.array([i]) for i in range(len(names))], names)
    with RunWriter(tmp_path / "m", "a", data.schema) as writer:
        writer.append_run(data, [0, 1])
        (run,) = writer.finish().runs.to_pylist()
    good = (tmp_path / "m").read_bytes()
    for place in range(run["offset"] + PAGE_BYTES, run["offset"] + run["bytes"], 4001):
        (tmp_path / "m").write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        with pytest.raises(FetchFailed, match=r"run 0: the checksum of page \d+ is wrong"):
            RunReader(tmp_path / "m").rows(0, 0, 1)


def test_a_damaged_page_does_not_keep_segments_on_others_from_being_read(tmp_path):
    index = written(tmp_path / "m", [words(70_000)])
    (run,) = index.runs.to_pylist()
    data = bytearray((tmp_path / "m").read_bytes())
    data[run["offset"] + run["bytes"] - 100] ^= 1  # among the last rows of the last column
    (tmp_path / "m").write_bytes(data)
    reader = RunReader(tmp_path / "m")
    first, *_, last = index.segments
    assert reader.read(first).num_rows == first.rows
    with pytest.raises(FetchFailed, match=r"run 0: the checksum of page \d+ is wrong"):
        next(reader.batches(last))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_flipped_byte_below_nested_rows_is_found_by_those_who_read_them(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("run") / "m"
    inner = [{"s": "x" * (n % 40), "l": [n] * (n % 3), "m": [(n, "y")] if n % 2 else None} for n in range(8000)]
    kind = pa.struct({"s": pa.large_string(), "l": pa.list_(pa.int64()), "m": pa.map_(pa.int64(), pa.large_string())})
    batch = pa.RecordBatch.from_arrays([pa.array(inner, kind)], ["x"])
    with RunWriter(path, "a", batch.schema) as writer:
        writer.append_run(batch, [0, 100, 4000, 8000])
        (run,) = writer.finish().runs.to_pylist()
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(run["offset"], run["offset"] + run["bytes"] - 1))] ^= 4
    path.write_bytes(raw)
    for start, stop in ((0, 100), (100, 4000), (4000, 8000)):
        with suppress(FetchFailed):
            assert RunReader(path).rows(0, start, stop).to_pylist() == batch.slice(start, stop - start).to_pylist()


@pytest.mark.parametrize("version", [2, 4])
def test_another_version_is_refused(version):
    data = bytearray(b"MRRUN\0\r\n" + encode_index(RunIndex.of(words(0).schema)))
    assert decode_index(pa.py_buffer(bytes(data))).segments == ()
    data[-16:-12] = struct.pack("<I", version)
    with pytest.raises(Damaged, match=f"version {version}; this program reads 3"):
        decode_index(pa.py_buffer(bytes(data)))


def test_a_column_of_nulls_is_read_as_the_type_that_the_stage_has(tmp_path):
    data = pa.RecordBatch.from_arrays([pa.array(["a"], pa.large_string()), pa.nulls(1), pa.array([3])], ["k", "x", "n"])
    index = written(tmp_path / "m", [data])
    stage = pa.schema([("k", pa.large_string()), ("x", pa.large_string()), ("n", pa.float64())])
    found = RunReader(tmp_path / "m", stage).read(index.segments[0])
    assert found.schema.equals(stage)
    assert found.to_pylist() == [{"k": "a", "x": None, "n": 3.0}]
    data = data.set_column(2, "n", pa.array([2**53 + 1]))
    index = written(tmp_path / "m", [data])
    with pytest.raises(TypeConflict):
        RunReader(tmp_path / "m", stage).read(index.segments[0])


def sorted_runs(path: Path) -> tuple[list[pa.RecordBatch], RunIndex]:
    rng = np.random.default_rng(5)
    runs = []
    for rows in (60_000, 10):
        x = pa.array(["y" * (n % 90) for n in range(rows)], pa.large_string())
        data = {"v": rng.integers(0, 99, rows), "k": rng.integers(0, 1000, rows), "x": x, "b": rng.random(rows) < 0.5}
        data["n"] = pa.array(rng.integers(0, 9, rows), mask=rng.random(rows) < 0.5)
        data["l"] = [[1, 2], [3]] * (rows // 2)
        batch = pa.RecordBatch.from_pydict(data)
        runs.append(batch.take(pa.array(order(batch, ["k"], [True]))))
    with RunWriter(path, "a", runs[0].schema) as writer:
        for run in runs:
            writer.append_sorted_run(run, ["k"])
        return runs, writer.finish()


def test_a_sorted_run_is_one_batch_with_a_sample_and_digests_of_its_pages(tmp_path):
    runs, index = sorted_runs(tmp_path / "m")
    reader = RunReader(tmp_path / "m")
    sample = reader.index.sample
    assert sample.equals(index.sample)
    assert sample.schema.names == ["k", "mr.run", "mr.row", "mr.bytes"]
    each = np.diff([row["mr.row"] for row in sample.to_pylist() if row["mr.run"] == 0])
    assert len(set(each.tolist())) == 1
    assert each[0] >= SORT_BLOCK_ROWS_MIN
    for row in sample.to_pylist():
        assert runs[row["mr.run"]]["k"][row["mr.row"]].as_py() == row["k"]
        assert row["mr.bytes"] <= SORT_BLOCK_BYTES * 1.2
    assert [(s.run, s.bucket, s.rows) for s in index.segments] == [(0, 0, 60_000), (1, 0, 10)]
    for segment, run, part in zip(index.segments, runs, run_bytes(tmp_path / "m", index), strict=True):
        pages = page_digests(part)
        assert segment.digest == xxhash.xxh3_128_hexdigest(pages)
        assert pa.ipc.open_stream(part).read_all().to_batches() == [run]
        assert reader.read(segment).equals(pa.Table.from_batches([run]))
    sizes = [pa.ipc.get_record_batch_size(batch) for batch in reader.batches(index.segments[0])]
    assert max(sizes) <= MERGE_BLOCK_BYTES


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60_000), st.integers(0, 9_000))
def test_any_rows_of_a_sorted_run_are_read_without_the_others(tmp_path_factory, start, count):
    path = tmp_path_factory.getbasetemp() / "sorted-run"
    runs, _ = sorted_runs(path) if not path.exists() else (None, None)
    reader = RunReader(path)
    whole = reader.rows(0, 0, 60_000)
    assert runs is None or whole.equals(runs[0])
    assert reader.rows(0, start, start + count).equals(whole.slice(start, count))


def test_every_flipped_byte_of_a_sorted_run_is_found_by_those_who_read_it(tmp_path):
    _, index = sorted_runs(tmp_path / "m")
    good = (tmp_path / "m").read_bytes()
    first = index.segments[0]
    start, size = (index.runs[name][0].as_py() for name in ("offset", "bytes"))
    places = np.random.default_rng(3).integers(start, start + size, 40).tolist()
    for place in [start, *places, start + size - 1]:
        (tmp_path / "m").write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        reader = RunReader(tmp_path / "m")
        with pytest.raises(FetchFailed, match="run 0: the checksum of page"):
            reader.read(first)
        assert RunReader(tmp_path / "m").read(index.segments[1]).num_rows == 10


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    for rows in (500, 600):
        index = written(tmp_path / "m", [words(rows, rows)])
        reader = RunReader(tmp_path / "m")
        assert sum(reader.read(segment).num_rows for segment in index.segments) == rows


def test_what_was_mapped_is_not_opened_again(tmp_path, monkeypatch):
    written(tmp_path / "m", [words(500)])
    RunReader(tmp_path / "m")
    monkeypatch.setattr(pa, "memory_map", None)
    assert RunReader(tmp_path / "m").index.rows == 500
