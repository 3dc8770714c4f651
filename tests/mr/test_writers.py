"""Writers: compression, part sizes, Arrow files, and bytes that depend on the rows alone."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

import mr
import mr.formats.arrow
import mr.outlets.part
from mr.errors import CorruptInput, InputError, JobFailed, PlanError
from mr.formats.arrow import ArrowWriter, batch_sizes
from mr.formats.base import Writer
from mr.formats.compression import _EvenBlocks, compressed
from mr.formats.csv import CsvWriter
from mr.formats.jsonl import JsonWriter
from mr.formats.parquet import ParquetWriter
from mr.kernels.canonical import canonical
from mr.kernels.sizes import logical_bytes, row_bytes

ROWS = [(i, f"host-{i % 3}", i / 8 if i % 5 else None) for i in range(100)]
NAMES = {"n": int, "host": str, "x": float}


@pytest.fixture
def data(inline: mr.Session) -> mr.Dataset:
    return mr.from_items(ROWS, names=NAMES)


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


# --- compression -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["zstd", "snappy", "lz4", "none"])
def test_parquet_is_compressed_as_asked(codec: Any, data: mr.Dataset, tmp_path: Path) -> None:
    data.write_parquet(str(tmp_path / "out.parquet"), compression=codec)
    column = pq.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0).column(0)
    assert column.compression == {"none": "UNCOMPRESSED"}.get(codec, codec.upper())
    assert mr.read_parquet(str(tmp_path / "out.parquet")).take_all() == data.take_all()


@pytest.mark.parametrize(("codec", "ending"), [("gzip", ".gz"), ("zstd", ".zst")])
@pytest.mark.parametrize("format", ["csv", "json", "text"])
def test_text_is_compressed_as_asked_or_as_the_path_says(
    format: str, codec: Any, ending: str, data: mr.Dataset, tmp_path: Path
) -> None:
    rows = data.select("host") if format == "text" else data
    write, read = f"write_{format}", getattr(mr, f"read_{format}")
    getattr(rows, write)(str(tmp_path / "plain"))
    (plain,) = parts(tmp_path / "plain")
    getattr(rows, write)(str(tmp_path / "folder"), compression=codec)
    (part,) = parts(tmp_path / "folder")
    assert part.name == plain.name + ending
    file = tmp_path / f"out{plain.suffix}{ending}"
    getattr(rows, write)(str(file))
    assert file.read_bytes() == part.read_bytes()
    inside = gzip.decompress(part.read_bytes()) if codec == "gzip" else pa.input_stream(part, "zstd").read()
    assert inside == plain.read_bytes()
    assert read(str(file)).take_all() == read(str(plain)).take_all()


def test_compressions_that_readers_could_not_guess_are_refused(data: mr.Dataset, tmp_path: Path) -> None:
    for path, codec in (("out.csv", "gzip"), ("out.csv.gz", "zstd"), ("out", "bz2")):
        with pytest.raises(PlanError, match=r"is named \.csv\.|use 'gzip', 'zstd'"):
            data.write_csv(str(tmp_path / path), compression=codec)  # type: ignore[arg-type]
    for writer in (data.write_parquet, data.write_arrow):
        with pytest.raises(PlanError, match="compression='best': use"):
            writer(str(tmp_path / "out"), compression="best")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(1, 64))
@settings(max_examples=25, deadline=None)
def test_compressed_bytes_depend_on_the_content_alone(codec: Any, writes: list[bytes], block: int) -> None:
    whole = b"".join(writes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mr.formats.compression.COMPRESSED_BLOCK_BYTES", block)
        made = []
        for cuts in (writes, [whole], [whole[i : i + 1] for i in range(len(whole))]):
            sink = io.BytesIO()
            with compressed(sink, codec) as out:
                for cut in cuts:
                    out.write(cut)
            made.append(sink.getvalue())
    assert made[0] == made[1] == made[2]
    read = gzip.decompress(made[0]) if codec == "gzip" else pa.input_stream(pa.py_buffer(made[0]), "zstd").read()
    assert read == whole


@given(st.lists(st.binary(max_size=9), max_size=9))
def test_compressors_are_given_even_blocks(writes: list[bytes]) -> None:
    class Compressor:
        """Libraries do not promise that where writes end does not reach their output."""

        def __init__(self) -> None:
            self.given: list[bytes] = []

        def write(self, data: bytes) -> None:
            self.given.append(data)

        def close(self) -> None: ...

    compressor = Compressor()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mr.formats.compression.COMPRESSED_BLOCK_BYTES", 4)
        with _EvenBlocks(compressor) as out:
            for data in writes:
                out.write(data)
    whole = b"".join(writes)
    assert b"".join(compressor.given) == whole
    assert [len(block) for block in compressor.given[:-1]] == [4] * (len(whole) // 4)


# --- part sizes ------------------------------------------------------------------------------------------------------


def test_a_task_begins_a_new_part_after_so_many_bytes_of_rows(inline: mr.Session, tmp_path: Path) -> None:
    rows = mr.range(50_000)  # 8 bytes a row, looked at every 8,192 rows
    rows.repartition(1).write_parquet(str(tmp_path / "out"), target_file_size=100_000)
    counts = [pq.ParquetFile(part).metadata.num_rows for part in parts(tmp_path / "out")]
    assert counts == [16_384, 16_384, 16_384, 848]
    success = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert [part["rows"] for part in success["parts"]] == counts
    assert mr.read_parquet(str(tmp_path / "out")).take_all() == list(range(50_000))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 12), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_where_parts_end_does_not_depend_on_batches(lengths: list[int], rows: int, bytes_max: int) -> None:
    data = pa.record_batch({"s": pa.array(["x" * n if n else None for n in lengths], pa.large_string())})
    batches = [data.slice(start, rows) for start in range(0, data.num_rows, rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.outlets.part, "PART_BLOCK_ROWS", 4)
        found = []
        for given_ in ([data], batches):
            sizes: dict[int, int] = {}
            for number, part in mr.outlets.part._numbered(given_, bytes_max):
                sizes[number] = sizes.get(number, 0) + part.num_rows
            found.append(sizes)
    assert found[0] == found[1]
    wanted, size, count = [], 0, 0  # the rule again, row by row
    for i, n in enumerate(lengths):
        size, count = size + 8 + n, count + 1
        if (i + 1) % 4 == 0 and size >= bytes_max:
            wanted.append(count)
            size = count = 0
    assert list(found[0].values()) == wanted + [count] * (count > 0)


def test_part_sizes_are_for_folders(data: mr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="target_file_size makes several; name a folder"):
        data.write_csv(str(tmp_path / "out.csv"), target_file_size="1MB")


# --- Arrow files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
def test_arrow_files_are_what_others_read(codec: Any, data: mr.Dataset, tmp_path: Path) -> None:
    data.write_arrow(str(tmp_path / "out.arrow"), compression=codec)
    with pa.ipc.open_file(str(tmp_path / "out.arrow")) as reader:
        assert [tuple(row.values()) for row in reader.read_all().to_pylist()] == ROWS
    assert pl.read_ipc(tmp_path / "out.arrow").rows() == ROWS
    assert mr.read_arrow(str(tmp_path / "out.arrow")).take_all() == data.take_all()


def test_values_stay_values(inline: mr.Session, tmp_path: Path) -> None:
    mr.from_items(["a", "b"]).write_arrow(str(tmp_path / "out"))
    assert mr.read_arrow(str(tmp_path / "out")).take_all() == ["a", "b"]


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_record_batches_are_splits_and_others_encodings_are_read(
    kind: str, inline: mr.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mr.inputs, "LOCAL_SPLIT_BYTES", 1)
    words = pa.array(["a", "b", "a", None]).dictionary_encode()
    table = pa.table({"w": words, "v": pa.array(["x", None, "yy", "z" * 20]).cast(pa.string_view()), "n": [1, 2, 3, 4]})
    make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    (tmp_path / "in").mkdir()
    with make(str(tmp_path / "in" / "x.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    read = mr.read_arrow(str(tmp_path / "in"))
    assert len(mr.inputs.splits_of(read._node, inline.journal)) == 4  # type: ignore[arg-type]
    assert read.take_all() == [("a", "x", 1), ("b", None, 2), ("a", "yy", 3), (None, "z" * 20, 4)]
    assert read.select("n").take_all() == [(1,), (2,), (3,), (4,)]


def test_arrow_files_that_are_none_or_differ_are_named(inline: mr.Session, tmp_path: Path) -> None:
    for name, table in (("a", pa.table({"n": [1]})), ("b", pa.table({"n": ["x"]})), ("c", pa.table({"m": [1]}))):
        with pa.ipc.new_file(str(tmp_path / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(mr.JobFailed, match=r"b\.arrow: column 'n' is str here and int in the first file"):
        mr.read_arrow([str(tmp_path / "a.arrow"), str(tmp_path / "b.arrow")]).take_all()
    with pytest.raises(mr.JobFailed, match=r"c\.arrow: has no column 'n'"):
        mr.read_arrow([str(tmp_path / "a.arrow"), str(tmp_path / "c.arrow")]).take_all()
    (tmp_path / "d.arrow").write_bytes(b"not arrow at all")
    with pytest.raises(mr.InputError, match=r"d\.arrow.*: not a readable Arrow"):
        mr.read_arrow(str(tmp_path / "d.arrow"))
    cut = (tmp_path / "a.arrow").read_bytes()[:200]
    (tmp_path / "e.arrow").write_bytes(cut)
    with pytest.raises(mr.InputError, match=r"e\.arrow.*: not a readable Arrow"):
        mr.read_arrow(str(tmp_path / "e.arrow")).take_all()


# --- bytes -----------------------------------------------------------------------------------------------------------

PAIRS = pa.struct([("a", pa.int64()), ("b", pa.large_string())])


def list_items(given: dict[Any, Any]) -> list[Any]:
    return list(given.items())


VALUES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float64(), st.floats()),
    (pa.bool_(), st.booleans()),
    (pa.large_string(), st.text(max_size=4)),
    (pa.large_binary(), st.binary(max_size=4)),
    (pa.date32(), st.dates()),
    (pa.timestamp("us"), st.datetimes()),
    (pa.time64("us"), st.times()),
    (pa.decimal128(9, 2), st.integers(-(10**6), 10**6).map(lambda n: Decimal(n).scaleb(-2))),
    (pa.large_list(pa.large_string()), st.lists(st.none() | st.text(max_size=2), max_size=3)),
    (PAIRS, st.fixed_dictionaries({"a": st.none() | st.integers(0, 9), "b": st.text(max_size=2)})),
    (pa.map_(pa.large_string(), pa.int64()), st.dictionaries(st.text(max_size=2), st.integers(0, 9)).map(list_items)),
    (pa.null(), st.none()),
]


@st.composite
def batches(draw: Any) -> pa.RecordBatch:
    columns = draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=3))
    rows = draw(st.integers(0, 12))
    arrays = [
        pa.array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), type_) for type_, values in columns
    ]
    return pa.RecordBatch.from_arrays(arrays, names=[f"c{i}" for i in range(len(arrays))])


def in_disguise(data: pa.RecordBatch, seed: int) -> pa.RecordBatch:
    """The same rows in other buffers: shifted, with validity where nothing is null, with rubbish under the nulls."""
    order = np.random.default_rng(seed).permutation(data.num_rows)
    wide = pa.Table.from_batches([data, data.take(pa.array(order)), data]).combine_chunks().to_batches()
    moved = wide[0].slice(2 * data.num_rows) if wide else data
    columns = []
    for column in moved.columns:
        if pa.types.is_int64(column.type) and len(column):
            raw = column.fill_null(seed).to_numpy(zero_copy_only=False).copy()
            bits = np.packbits(column.is_valid().to_numpy(zero_copy_only=False), bitorder="little")
            bits[-1] |= 0xFF << (len(column) % 8 or 8) & 0xFF
            column = pa.Array.from_buffers(pa.int64(), len(column), [pa.py_buffer(bits.tobytes()), pa.py_buffer(raw)])
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=data.schema)


def written(writer: Writer, data: list[pa.RecordBatch], schema: pa.Schema) -> bytes:
    out = io.BytesIO()
    writer.write(iter(data), schema, out)
    return out.getvalue()


@given(batches(), st.integers(1, 99), st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_equal_rows_give_equal_bytes_in_whatever_buffers_they_are(data: pa.RecordBatch, seed: int, rows: int) -> None:
    other = in_disguise(data, seed)
    assert str(other.to_pylist()) == str(data.to_pylist())  # NaN is not equal to itself
    assert str(canonical(other).to_pylist()) == str(data.to_pylist())
    canonical(other).validate(full=True)
    cut = [other.slice(start, rows) for start in range(0, other.num_rows, rows)]
    for writer in (ArrowWriter(), ParquetWriter()):
        assert written(writer, [data], data.schema) == written(writer, cut, data.schema)
    assert logical_bytes(data) == logical_bytes(other) == sum(map(logical_bytes, cut))
    assert [int(row_bytes(part).sum()) for part in cut] == list(map(logical_bytes, cut))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.formats.arrow, "ARROW_BATCH_ROWS", 3)
        assert written(ArrowWriter(), [data], data.schema) == written(ArrowWriter(), cut, data.schema)


def test_columns_that_do_not_repeat_get_no_dictionary() -> None:
    data = pa.record_batch({"id": list(range(1000)), "host": ["a", "b"] * 500, "xs": [[1], [1]] * 500})
    raw = written(ParquetWriter(), [data], data.schema)
    group = pq.ParquetFile(pa.BufferReader(raw)).metadata.row_group(0)
    found = {group.column(i).path_in_schema: "RLE_DICTIONARY" in group.column(i).encodings for i in range(3)}
    assert found == {"id": False, "host": True, "xs.list.element": True}


@pytest.mark.parametrize("writer", [CsvWriter(), JsonWriter()])
def test_lines_do_not_depend_on_batches(writer: Writer) -> None:
    rows = {"s": ["a", None, "", 'q"', "é\n"], "t": [dt.datetime(2026, 1, 1)] * 5, "x": [1.0, 0.1, None, 1e300, -0.0]}
    schema = pa.schema([("s", pa.large_string()), ("t", pa.timestamp("us")), ("x", pa.float64())])
    data = pa.record_batch(rows, schema=schema)
    assert written(writer, [data], data.schema) == written(writer, [data.slice(i, 1) for i in range(5)], data.schema)


NESTED = pa.schema(
    [
        ("xs", pa.large_list(pa.float64())),
        ("s", pa.struct([("a", pa.large_string()), ("b", pa.large_list(pa.struct([("c", pa.int64())])))])),
    ]
)
PAIR = st.fixed_dictionaries({"c": st.none() | st.integers(-(2**63), 2**63 - 1)})
NESTED_ROWS = st.fixed_dictionaries(
    {
        "xs": st.none() | st.lists(st.none() | st.floats(), max_size=3),
        "s": st.none()
        | st.fixed_dictionaries(
            {"a": st.none() | st.text(max_size=5), "b": st.none() | st.lists(st.none() | PAIR, max_size=2)}
        ),
    }
)


@given(st.lists(NESTED_ROWS, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_nested_values_are_the_json_that_python_makes(rows: list[Any]) -> None:
    data = pa.RecordBatch.from_pylist(rows, schema=NESTED)
    for row in rows:  # JSON knows no NaN and no infinity
        row["xs"] = row["xs"] and [x if x is not None and abs(x) < float("inf") else None for x in row["xs"]]
    lines = written(JsonWriter(), [data], NESTED).decode().removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == rows


# --- records that the program holds ----------------------------------------------------------------------------------


def test_tables_and_frames_are_datasets(inline: mr.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr(mr.inputs, "ITEMS_PER_SPLIT", 2)
    rows = [(1, "a"), (2, None), (3, "c")]
    table = pa.table({"n": [1, 2, 3], "s": pa.array(["a", None, "c"]).dictionary_encode()})
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    for made in (mr.from_arrow(table), mr.from_arrow(chunked), mr.from_arrow(table.to_batches()[0])):
        assert made.take_all() == rows
        assert made.schema().field("s").type == pa.large_string()
    assert len(mr.inputs.splits_of(mr.from_arrow(table)._node, inline.journal)) == 2  # type: ignore[arg-type]
    assert mr.from_polars(pl.from_arrow(table)).take_all() == rows  # type: ignore[arg-type]
    frame = pandas.DataFrame({"n": [1, 2, 3], "s": ["a", None, "c"], "x": [0.5, float("nan"), 1.5]}, index=[7, 8, 9])
    assert mr.from_pandas(frame).take_all() == [(1, "a", 0.5), (2, None, None), (3, "c", 1.5)]
    with pytest.raises(PlanError, match="from_pandas"):
        mr.from_pandas(pandas.DataFrame({"x": [1, "a"]}))
    with pytest.raises(PlanError, match="a name of its own"):
        mr.from_arrow(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"]))


# --- what a dataset shows of itself ----------------------------------------------------------------------------------


def test_notebooks_see_columns_and_plan_and_nothing_runs(inline: mr.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mr.Session, "collect", lambda *_: pytest.fail("it ran"))
    monkeypatch.setattr(mr.Session, "start", lambda *_: pytest.fail("it ran"))
    data = mr.from_items([("<b>", 1)], names={"host": str, "n<": int})
    assert repr(data) == "<Dataset of rows (host: str, n<: int)>"
    assert "columns known when it runs" in repr(data.map(lambda row: row))
    shown = data._repr_html_()
    assert "<td>n&lt;</td><td>int</td>" in shown
    assert "stage 0" in shown
    lost = data.join(mr.read_text("nowhere", include_path=True), left_on="host", right_on="text")
    assert "no plan: no input at nowhere" in lost._repr_html_()


def arrow_file(path: Path, table: pa.Table) -> str:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    return str(path)


def test_types_that_only_files_have_behave_as_others(inline: mr.Session, tmp_path: Path) -> None:
    """Polars gave these back as other types: a column was not of the type of itself any more."""
    columns = {
        "d": pa.array([Decimal("1.25"), None], pa.decimal32(5, 2)),
        "t": pa.array([dt.datetime(2026, 1, 1), None], pa.timestamp("s")),
        "y": pa.array([dt.date(2026, 1, 1), None], pa.date64()),
        "u": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, None], pa.binary(16))),
        "l": pa.array([[1, 2], [3]], pa.list_view(pa.int64())),
    }
    data = mr.read_arrow(arrow_file(tmp_path / "in.arrow", pa.table(columns)))
    first = data.take(1)[0]
    assert first == (Decimal("1.25"), dt.datetime(2026, 1, 1), dt.date(2026, 1, 1), b"0" * 16, [1, 2])
    for key in "dtyu":
        assert data.join(data.select(key, other=pl.col("l")), on=key).take_all() == [(*first, [1, 2])]
        assert data.group_by(key).count().agg(n=mr.count()).first().n == 2
    data.write_parquet(str(tmp_path / "out.parquet"))
    assert mr.read_parquet(str(tmp_path / "out.parquet")).take_all() == data.take_all()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table([pa.array([1]), pa.array([2])], ["a", "a"]), "every column needs a name of its own"),
        (pa.table([pa.array([1]), pa.array([2])], ["a", ""]), "every column needs a name of its own"),
        (pa.table({"x": pa.nulls(1, pa.decimal256(50, 0))}), "column 'x' is of type decimal256"),
        (pa.table({"x": pa.nulls(1, pa.month_day_nano_interval())}), "column 'x' is of type month_day_nano"),
    ],
)
def test_columns_that_cannot_travel_are_refused_before_anything_runs(
    inline: mr.Session, tmp_path: Path, table: pa.Table, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        mr.read_arrow(arrow_file(tmp_path / "in.arrow", table))
    if not pa.types.is_interval(table.schema.types[0]):
        pq.write_table(table, tmp_path / "in.parquet")
        with pytest.raises(InputError, match=message):
            mr.read_parquet(str(tmp_path / "in.parquet"))


def test_text_that_is_not_utf8_is_found_whatever_its_type_in_the_file(inline: mr.Session, tmp_path: Path) -> None:
    """Taken on trust, it crashes Polars."""
    views = pa.array([b"\xff\xfe", b"ok"]).cast(pa.binary_view())
    table = pa.table({"x": pa.Array.from_buffers(pa.string_view(), 2, views.buffers())})
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(JobFailed, match="column 'x' holds bytes that are not text"):
        mr.read_parquet(str(tmp_path / "in.parquet")).with_columns(y=pl.col("x").str.to_uppercase()).take_all()


@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
@pytest.mark.parametrize("kind", ["file", "stream"])
def test_record_batches_that_are_large_when_decompressed_are_refused(
    kind: str, codec: Any, inline: mr.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mr.formats.arrow, "ARROW_DECODED_BYTES_MAX", 50_000)
    monkeypatch.setattr(mr.formats.arrow, "DECOMPRESSED_RATIO_MAX", 20)
    good = pa.table({"s": [f"{i * 7919 % 99991}" for i in range(9000)], "n": [[i] for i in range(9000)]})
    zeros = pa.table({"s": ["x" * 2000] * 9000, "n": [[0]] * 9000})
    make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    for name, table in (("good", good), ("zeros", zeros)):
        with make(tmp_path / name, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_table(table)
    assert mr.read_arrow(str(tmp_path / "good")).count() == 9000
    if codec is None:
        assert mr.read_arrow(str(tmp_path / "zeros")).count() == 9000
    else:
        for split_bytes in (mr.inputs.PACKED_FILE_BYTES_MAX, 0):  # seen when it is read, or when it is cut
            monkeypatch.setattr(mr.inputs, "PACKED_FILE_BYTES_MAX", split_bytes)
            with pytest.raises(mr.MillraceError, match=r"zeros.*when decompressed; is it a decompression bomb"):
                mr.read_arrow(str(tmp_path / "zeros")).count()


class Counting(io.BytesIO):
    """A file that counts the bytes that are read of it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
def test_sizes_of_arrow_batches_are_found_without_reading_them(new: Any, legacy: bool, compression: str | None) -> None:
    rows = 40_000
    words = pa.array([f"x{i % 97}" for i in range(rows)]).dictionary_encode()
    table = pa.table(
        {"n": np.random.default_rng(1).integers(0, 1 << 60, rows), "s": words, "l": [[i] for i in range(rows)]}
    )
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression, use_legacy_format=legacy)
    with new(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=10_000)
    file = Counting(sink.getvalue().to_pybytes())
    file.seek(8 if new is pa.ipc.new_file else 0)
    messages = [message for message in pa.ipc.MessageReader.open_stream(file) if message.type == "record batch"]
    file.count = 0
    assert batch_sizes(file, "p") == [message.metadata.size + message.body.size for message in messages]
    assert len(messages) == 4
    assert file.count < 10_000 < len(file.getvalue()) // 20
    for cut in (3, 12, len(file.getvalue()) // 2, len(file.getvalue()) - 1):
        with pytest.raises(CorruptInput):
            batch_sizes(io.BytesIO(file.getvalue()[:cut]), "p")
    with pytest.raises(CorruptInput, match="does not begin with a schema"):
        batch_sizes(io.BytesIO(bytes(100)), "p")
