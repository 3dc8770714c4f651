"""Parquet: equal rows give equal bytes however they were cut, and come back as they were."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import itertools
import random
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import Collected, batches, origins, read_all

import mr.formats.parquet
import mr.formats.parquet_pages
from mr.batch import kind_of
from mr.errors import CorruptInput, InputError, PlanError
from mr.formats.parquet import ParquetReader, ParquetWriter, infer_parquet
from mr.formats.parquet_pages import _Chunk
from mr.kernels.rows import Shape, from_python, to_python


def records(n: int) -> list[tuple[Any, ...]]:
    rng = random.Random(7)
    return [
        (
            rng.choice(["a", "bb", "", "é" * 30, None]),
            rng.choice([rng.randrange(10**12), None]),
            rng.random() if i % 5 else float("nan"),
            [rng.choice(["x", None])] * rng.randrange(3) if i % 7 else None,
            (i, "t") if i % 3 else None,
            {"k": i} if i % 2 else {},
            dt.datetime(2026, 1, 1) + dt.timedelta(seconds=i),
            decimal.Decimal(i) / 8,
            bytes([i % 256]) * (i % 4),
            None,
        )
        for i in range(n)
    ]


def batch_of(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    return from_python(rows, None)[0]


def written(batch: pa.RecordBatch, cuts: list[int]) -> bytes:
    """`batch` written in pieces, each a copy of its own so that no two share buffers or bitmaps."""
    bounds = [0, *sorted(cuts), batch.num_rows]
    out = io.BytesIO()
    parts = [batch.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    copies = [part if i % 2 else part.take(pa.array(range(part.num_rows), pa.int64())) for i, part in enumerate(parts)]
    assert ParquetWriter().write(iter(copies), batch.schema, out) == batch.num_rows
    return out.getvalue()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 2500), max_size=12))
def test_bytes_do_not_depend_on_batches(cuts: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.formats.parquet, "ROW_GROUP_ROWS", 1000)
        assert written(batch_of(records(2500)), cuts) == written(batch_of(records(2500)), [])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=8))
def test_wide_rows_end_a_row_group_early_wherever_batches_end(cuts: list[int]) -> None:
    rows = [("x" * (997 * i % 5000), i) for i in range(300)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.formats.parquet, "ROW_GROUP_BYTES_MAX", 20_000)
        data = written(batch_of(rows), cuts)
        assert data == written(batch_of(rows), [])
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    wanted, held, count = [], 0, 0
    for text, _ in rows:  # a row is the text, its offset of 8 bytes and a number of 8
        held, count = held + len(text) + 16, count + 1
        if held >= 20_000:
            wanted.append(count)
            held = count = 0
    assert counts == [*wanted, count][: len(counts)]
    assert sum(counts) == 300


def test_row_groups_have_a_fixed_count_and_content_is_readable_elsewhere(tmp_path: Any) -> None:
    batch = pa.record_batch({"n": pa.array(range(600_000)), "s": pa.array(["x"] * 600_000, pa.large_string())})
    data = written(batch, [5, 300_000])
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [262_144, 262_144, 75_712]
    (tmp_path / "a.parquet").write_bytes(data)
    found = duckdb.sql(f"select count(*), sum(n), min(s) from '{tmp_path}/a.parquet'").fetchall()
    assert found == [(600_000, 599_999 * 300_000, "x")]


def test_rows_come_back_equal() -> None:
    rows = [tuple(0.5 if v != v else v for v in row) for row in records(500)]
    batch = batch_of(rows)
    found = batches(ParquetReader(), written(batch, []))
    assert [record for b in found for record in to_python(b.data)] == rows
    assert found[0].data.schema.equals(batch.schema, check_metadata=True)
    assert origins(found) == [[0, i] for i in range(500)]


def test_values_come_back_as_values() -> None:
    batch, _ = from_python(["a", None], Shape("values", ("word",), (None,)))
    data = written(batch, [])
    assert read_all(ParquetReader(), data) == ["a", None]
    assert kind_of(infer_parquet(io.BytesIO(data), "p")) == "values"


def test_columns_and_row_groups_are_pushed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mr.formats.parquet, "ROW_GROUP_ROWS", 2)
    batch = from_python([{"a": i, "a.b": -i, "c": str(i)} for i in range(6)], None)[0]
    data = written(batch, [])
    assert read_all(ParquetReader(), data, columns=("c", "a"), row_groups=(1, 2)) == [(i, str(i)) for i in (2, 3, 4, 5)]
    assert batches(ParquetReader(), data, columns=("c", "a"))[0].data.schema.names == ["a", "c"]
    assert sum(b.rows for b in batches(ParquetReader(), data, columns=())) == 6


def test_empty_result_keeps_its_schema() -> None:
    batch = batch_of(records(3)).slice(0, 0)
    data = written(batch, [])
    assert read_all(ParquetReader(), data) == []
    assert infer_parquet(io.BytesIO(data), "p").equals(batch.schema, check_metadata=True)


def test_foreign_files_are_widened_to_the_travelling_types() -> None:
    table = pa.table(
        {
            "d": pa.array(["x", "y", None]).dictionary_encode(),
            "l": pa.array([["x"], [], None], pa.list_(pa.string())),
            "f": pa.array([b"ab", None, b"cd"], pa.binary(2)),
            "v": pa.array(["p", None, "q"], pa.string_view()),
            "i": pa.array([1, 2, 3], pa.int16()),
            "t": pa.array([1, 2, None], pa.timestamp("ns")),
        }
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    schema = batches(ParquetReader(), out.getvalue())[0].data.schema
    assert [str(t) for t in schema.types[:3]] == ["large_string", "large_list<item: large_string>", "large_binary"]
    assert [str(t) for t in schema.types[3:]] == ["large_string", "int16", "timestamp[ns]"]
    found = batches(ParquetReader(), out.getvalue())[0].data
    assert found.drop_columns("t").to_pylist() == table.drop_columns("t").to_pylist()


def test_pinned_schema() -> None:
    data = written(from_python([{"n": 1, "x": "a"}], None)[0], [])
    floats = pa.schema([("n", pa.float64())])
    assert read_all(ParquetReader(floats), data) == [(1.0,)]
    with pytest.raises(InputError, match="'n' is int here and str in the first file"):
        read_all(ParquetReader(pa.schema([("n", pa.large_string())])), data)
    with pytest.raises(InputError, match="has no column 'z'"):
        read_all(ParquetReader(pa.schema([("z", pa.large_string())])), data)


def test_damage_is_found_and_names_the_file() -> None:
    data = bytearray(written(batch_of(records(500)), []))
    for bad in (bytes(data[:-10]), b"PAR1", b"", b"no parquet at all"):
        with pytest.raises(InputError, match=r"logs/b\.parquet"):
            read_all(ParquetReader(), bad, path="logs/b.parquet")
    data[len(data) // 4] ^= 0xFF
    with pytest.raises(InputError, match=r"logs/b\.parquet, byte \d+: row group 0 is corrupt"):
        read_all(ParquetReader(), bytes(data), Collected(), path="logs/b.parquet")


def test_objects_are_refused_with_a_cure() -> None:
    batch, _ = from_python([{"s": [{1, 2}]}], None)
    with pytest.raises(PlanError, match="'s' holds Python objects; turn it into"):
        ParquetWriter().check(batch.schema)
    with pytest.raises(PlanError, match="no columns"):
        ParquetWriter().check(pa.schema([]))


# --- what a file would take in memory --------------------------------------------------------------------------------


def small_dictionary() -> pa.Table:
    """Few long values, in columns of all kinds, of rows whose first ones are null."""
    long = ["x" * 9000, "y" * 50]
    rows = [None, None, *range(700)]
    return pa.table(
        {
            "n": pa.array(rows),
            "s": pa.array([None if i is None else long[i % 2] for i in rows]),
            "b": pa.array([None if i is None else [long[i % 2].encode()] * (i % 3) for i in rows]),
            "t": pa.array([None if i is None else {"a": long[i % 2], "b": i} for i in rows]),
            "m": pa.array([None if i is None else [(long[0], i)] for i in rows], pa.map_(pa.string(), pa.int64())),
        }
    )


def stored(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


@pytest.mark.parametrize("column", ["s", "b", "t", "m"])
@pytest.mark.parametrize("group_bytes_max", [0, 1 << 26])
def test_rows_of_a_small_dictionary_are_decoded_few_at_a_time(
    column: str, group_bytes_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few kilobytes of file may be gigabytes of rows: each value is in it once."""
    monkeypatch.setattr(mr.formats.parquet_pages, "PARQUET_DECODED_BYTES_MAX", 100_000)
    monkeypatch.setattr(mr.formats.parquet_pages, "_DICTIONARY_BYTES_MIN", 1000)
    monkeypatch.setattr(mr.formats.parquet, "PARQUET_GROUP_BYTES_MAX", group_bytes_max)
    monkeypatch.setattr(mr.formats.parquet, "PARQUET_READ_BYTES", 300)
    table = small_dictionary().select([column, "n"])
    data = stored(table, row_group_size=300)
    assert len(data) < 50_000 < table.nbytes
    found = batches(ParquetReader(infer_parquet(io.BytesIO(data), "x")), data)
    assert max(batch.data.nbytes for batch in found) <= 3 * 100_000
    assert pa.Table.from_batches([batch.data for batch in found]).to_pylist() == table.to_pylist()


def test_columns_without_long_values_are_read_in_large_batches() -> None:
    table = pa.table({"s": [f"key-{i % 1000}" for i in range(20_000)], "n": [i % 9000 for i in range(20_000)]})
    data = stored(table)
    assert [batch.rows for batch in batches(ParquetReader(infer_parquet(io.BytesIO(data), "x")), data)] == [20_000]


@pytest.mark.parametrize("group_bytes_max", [0, 1 << 26])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_pages_that_are_large_when_decompressed_are_refused(
    group_bytes_max: int, version: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"a": [bytes(60_000)] * 3, "b": [bytes(50_000)] * 3, "c": [1, 2, 3]})
    data = stored(table, compression="zstd", use_dictionary=False, data_page_size=1, data_page_version=version)
    assert len(data) < 10_000
    monkeypatch.setattr(mr.formats.parquet, "PARQUET_GROUP_BYTES_MAX", group_bytes_max)
    monkeypatch.setattr(mr.formats.parquet, "PARQUET_READ_BYTES", 50)
    monkeypatch.setattr(mr.formats.parquet_pages, "PARQUET_PAGES_BYTES_MAX", 170_000)
    reader = ParquetReader(infer_parquet(io.BytesIO(data), "x"))
    assert sum(batch.rows for batch in batches(reader, data, columns=("b", "c"))) == 3
    with pytest.raises(CorruptInput, match="pages of more than 170,000 bytes at once; is it a decompression bomb"):
        batches(reader, data)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4000), max_size=30))
def test_heads_of_pages_are_found_wherever_reads_end(cuts: list[int]) -> None:
    table = pa.table({"s": [f"{i % 13}" * (i % 40) for i in range(3000)]})
    data = stored(table, data_page_size=500, compression="zstd")
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0)
    pages = data[4 : 4 + metadata.total_compressed_size]
    whole, parts = _Chunk(), _Chunk()
    assert not whole.feed(pages)
    for low, high in itertools.pairwise([0, *itertools.accumulate(cuts), len(pages)]):
        if low < high:
            parts.feed(pages[low:high])
    assert whole.page_bytes > 0
    assert (whole._skip, whole._rest, whole._lost) == (0, b"", False)
    if sum(cuts) <= len(pages):
        assert (parts.page_bytes, parts._skip, parts._rest, parts._lost) == (whole.page_bytes, 0, b"", False)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_bytes_that_are_no_head_of_a_page_are_left_to_arrow(data: bytes, cut: int) -> None:
    chunk = _Chunk()
    chunk.feed(data[:cut])
    chunk.feed(data[cut:])
    _Chunk().feed(b"\x1c" * 5000)  # structs within structs
