"""CSV: types pinned from the head, misfits named, never a shifted row, and what is written comes back."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import io
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import Collected, batches, origins, read_all, shared

import mr.formats.blocks
from mr.batch import with_kind
from mr.errors import InputError, PlanError
from mr.formats.csv import CsvReader, CsvWriter, infer_csv
from mr.kernels.rows import from_python

INT, FLOAT, STR = pa.int64(), pa.float64(), pa.large_string()
PAIR = pa.schema([("s", STR), ("n", INT)])


def test_inferred_types() -> None:
    head = (
        b"i,f,s,b,d,t,ts,z,code,none,mixed\n"
        b"1,1.5,a,true,2020-01-01,01:02:03,2020-01-01 05:00:00,2020-01-01T05:00:00Z,007,,1\n"
        b"-2,2,,false,2020-01-02,01:02:04,2020-01-01 05:00:00.5,2020-01-01T05:00:00Z,1,,x\n"
    )
    schema = infer_csv(head, "a.csv")
    kinds = [INT, FLOAT, STR, pa.bool_(), pa.date32(), pa.time64("us"), pa.timestamp("us"), pa.timestamp("us", "UTC")]
    assert schema.types == [*kinds, STR, STR, STR]
    assert read_all(CsvReader(schema), head)[1][:3] == (-2, 2.0, None)
    declared = infer_csv(head, "a.csv", declared={"i": STR})
    assert (declared.field("i").type, declared.field("f").type) == (STR, FLOAT)
    assert infer_csv(b"1;a\n", "a.csv", header=False, delimiter=";").names == ["c0", "c1"]
    assert infer_csv(b"1,a\n", "a.csv", header=False, declared={"x": INT, "y": STR}).names == ["x", "y"]
    assert infer_csv(b"\xef\xbb\xbfa,b\n", "a.csv").types == [STR, STR]
    assert infer_csv(b"n\nNA\n1\n", "a.csv", null_values=("", "NA")).types == [INT]


@pytest.mark.parametrize(
    ("head", "options", "error", "message"),
    [
        (b"", {}, InputError, "a.csv, line 1: the header is ''"),
        (b"a,a\n", {}, InputError, "each column needs its own name"),
        (b"a,\n", {}, InputError, "each column needs its own name"),
        (b"a,b\n", {"declared": {"c": INT}}, PlanError, "names the column 'c'; a.csv has a, b"),
    ],
)
def test_heads_that_cannot_be(head: bytes, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        infer_csv(head, "a.csv", **options)


@pytest.mark.parametrize("name", ["flights", "airlines", "airports", "planes", "weather"])
def test_real_tables(name: str) -> None:
    data = shared(f"flights/{name}.csv.zst")
    data = data[: data.find(b"\n", 3 << 20) + 1 or None]  # the rest of the largest adds only time
    nulls = ("", "NA")
    found = batches(CsvReader(infer_csv(data[: 1 << 20], name, null_values=nulls), null_values=nulls), data)
    table = pa.Table.from_batches([b.data for b in found])
    oracle = list(csv.reader(io.StringIO(data.decode())))
    assert table.schema.names == oracle[0]
    assert table.num_rows == len(oracle) - 1
    for i, field in enumerate(table.schema):
        texts = [None if row[i] in nulls else row[i] for row in oracle[1:]]
        values = table.column(i).to_pylist()
        if pa.types.is_timestamp(field.type):
            values = [v.strftime("%Y-%m-%dT%H:%M:%SZ") for v in values]
        convert: Any = {INT: int, FLOAT: float}.get(field.type, str)
        assert values == [None if text is None else convert(text) for text in texts]
    lines = [line for _, line in origins(found)]
    assert lines == list(range(1, len(oracle)))


def test_header_stands_in_the_first_piece_only() -> None:
    data = b"s,n\na,1\nb,2\n"
    assert read_all(CsvReader(PAIR), data) == [("a", 1), ("b", 2)]
    assert read_all(CsvReader(PAIR), data[4:], offset=4) == [("a", 1), ("b", 2)]
    assert read_all(CsvReader(PAIR, header=False), data[4:]) == [("a", 1), ("b", 2)]
    assert read_all(CsvReader(PAIR), b"s,n\n") == []
    assert read_all(CsvReader(PAIR), b"") == []
    assert origins(batches(CsvReader(PAIR), b"\xef\xbb\xbfs,n\r\n\r\na,1\r\n")) == [[10, 2]]
    for header in (b"n,s\n", b"s\n", b"s,n,x\n", b"a,1\n"):
        with pytest.raises(InputError, match=r"logs/a.txt, line 1: the header is .* but the columns are s,n"):
            read_all(CsvReader(PAIR), header + b"a,1\n")


def test_columns_are_pushed_down_but_all_are_checked() -> None:
    rejects = Collected()
    assert read_all(CsvReader(PAIR), b"s,n\na,1\nb,x\n", rejects, columns=("s",)) == [("a",)]
    assert len(rejects.raws) == 1
    assert batches(CsvReader(PAIR), b"s,n\na,1\n", columns=())[0].rows == 1


MISFITS = [
    (b"x,1.5", "column 'n': '1.5' is not int; declare schema={'n': float}"),
    (b"x,abc", "column 'n': 'abc' is not int; declare schema={'n': str}, or null_values=['', 'abc']"),
    (b"x,99999999999999999999", "'99999999999999999999' is not int"),
    (b"x", "has 1 fields, there are 2 columns: s, n"),
    (b"x,1,2", "has 3 fields"),
    (b"\xff,1", "column 's' does not fit str: invalid UTF8 data"),
    (b"a\rb,1", "carriage return"),
]


@pytest.mark.parametrize(("line", "message"), MISFITS)
@pytest.mark.parametrize("at", [0, 1, 57, 99])
def test_one_misfit_is_found_among_many_lines(line: bytes, message: str, at: int) -> None:
    good = [f"k{i},{i}".encode() for i in range(100)]
    lines = [*good[:at], line, *good[at:]]
    data = b"s,n\n" + b"\n".join(lines) + b"\n"
    rejects = Collected()
    found = batches(CsvReader(PAIR), data, rejects)
    assert pa.Table.from_batches([b.data for b in found]).to_pylist() == [{"s": f"k{i}", "n": i} for i in range(100)]
    assert rejects.raws == [line]
    assert message in rejects.errors[0]
    assert rejects.origins == [[data.index(b"\n" + line + b"\n") + 1, at + 1]]
    assert origins(found) == [[data.index(good[i] + b"\n"), i + (2 if i >= at else 1)] for i in range(100)]


QUOTED = [["a\nb", "1"], ['c"d\n"', "2"], ["", "3"], ["x,y\r\n\n", "4"]]


def test_newlines_in_quotes_must_be_declared() -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([["s", "n"], *QUOTED])
    data = out.getvalue().replace("\n,3", '\n"",3').encode()
    expected = [(s, int(n)) for s, n in QUOTED]
    reader = CsvReader(PAIR, quoted_newlines=True)
    assert read_all(reader, data) == expected
    assert [line for _, line in origins(batches(reader, data))] == [1, 3, 5, 6]
    with pytest.raises(InputError, match=r"line 2, byte 4: a quote is left open .* pass quoted_newlines=True"):
        read_all(CsvReader(PAIR), data, Collected())
    for last in (b's,n\na,1\nb,"2\n', b's,n\na,1\nb,"2'):
        for declared in (True, False):
            with pytest.raises(InputError, match="a quote is left open"):
                read_all(CsvReader(pa.schema([("s", STR), ("n", STR)]), quoted_newlines=declared), last, Collected())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.text(st.sampled_from('ab,"\n é\r'), max_size=6), st.integers(0, 99)), min_size=1, max_size=8),
    st.integers(4, 40),
)
def test_no_row_is_ever_shifted(records: list[tuple[str, int]], block: int) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(records)
    data = out.getvalue().encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.formats.blocks, "READ_BLOCK_BYTES", block)
        assert read_all(CsvReader(PAIR, header=False, quoted_newlines=True), data) == records
        if any("\n" in text for text, _ in records):
            with pytest.raises(InputError, match="quoted_newlines=True"):
                read_all(CsvReader(PAIR, header=False), data, Collected())
        else:
            assert read_all(CsvReader(PAIR, header=False), data) == records


def test_a_quote_inside_a_field_is_itself() -> None:
    data = b's,n\n5" pipe,1\na "b" c,2\n"say ""x""",3\n'
    assert read_all(CsvReader(PAIR), data) == [('5" pipe', 1), ('a "b" c', 2), ('say "x"', 3)]


# --- writing ----------------------------------------------------------------------------------------------------------


def written(records: list[Any], cut: int = 1000, schema: pa.Schema | None = None) -> bytes:
    batch, _ = from_python(records, None)
    schema = schema or batch.schema
    out = io.BytesIO()
    CsvWriter().check(schema)
    assert CsvWriter().write((batch.slice(i, cut) for i in range(0, len(records), cut)), schema, out) == len(records)
    return out.getvalue()


texts = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
rows = st.fixed_dictionaries(
    {
        "s": texts,
        "i": st.none() | st.integers(-(2**63), 2**63 - 1),
        "f": st.none() | st.floats(allow_nan=False),
        "b": st.none() | st.booleans(),
        "d": st.none() | st.dates(),
        "t": st.none() | st.times(),
        "ts": st.none() | st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)),
        "z": st.none() | st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC)),
        "x": st.none() | st.decimals(-(10**9), 10**9, places=6),
        "odd, name": texts,
    }
)
TYPES = [STR, INT, FLOAT, pa.bool_(), pa.date32(), pa.time64("us"), pa.timestamp("us"), pa.timestamp("us", "UTC")]
TYPES += [pa.decimal128(38, 18), STR]
FULL = pa.schema(list(zip(["s", "i", "f", "b", "d", "t", "ts", "z", "x", "odd, name"], TYPES, strict=True)))


@settings(max_examples=80, deadline=None)
@given(st.lists(rows, min_size=1, max_size=5), st.integers(1, 5))
def test_what_is_written_comes_back(records: list[dict[str, Any]], cut: int) -> None:
    records = [{name: record[name] for name in FULL.names} for record in records]
    data = written(records, cut)
    assert data == written(records)
    reader = CsvReader(FULL, quoted_newlines=True)
    assert read_all(reader, data) == [tuple(record.values()) for record in records]


def test_written_bytes_are_plain(tmp_path: Any) -> None:
    records = [("a", 1, 0.1, None), ("b,c", -2, 1e22, "")]
    assert written(records) == b'c0,c1,c2,c3\na,1,0.1,\n"b,c",-2,1e+22,""\n'
    (tmp_path / "a.csv").write_bytes(written(records))
    assert duckdb.sql(f"select c0, c1, c2 from '{tmp_path}/a.csv'").fetchall() == [("a", 1, 0.1), ("b,c", -2, 1e22)]
    empty = with_kind(PAIR, "rows")
    out = io.BytesIO()
    assert CsvWriter().write(iter([]), empty, out) == 0
    assert out.getvalue() == b"s,n\n"


def test_one_column_with_nulls_comes_back() -> None:
    data = written([{"n": 1}, {"n": None}, {"n": 3}])
    assert read_all(CsvReader(pa.schema([("n", INT)])), data) == [(1,), (None,), (3,)]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ([1], "list[int]"),
        ({"a": 1}, "dict[str, int]"),
        (dt.timedelta(1), "timedelta"),
        ({1}, "object"),
    ],
)
def test_what_csv_cannot_hold(value: Any, shown: str) -> None:
    batch, _ = from_python([{"v": value}], None)
    with pytest.raises(PlanError) as caught:
        CsvWriter().check(batch.schema)
    assert f"'v' is {shown}, which CSV cannot hold; turn it into" in str(caught.value)
    with pytest.raises(PlanError, match="read_csv"):
        CsvReader(batch.schema)


def test_bytes_are_text_with_escapes() -> None:
    data = written([{"b": b"caf\xc3\xa9"}, {"b": b'\xff\\"'}, {"b": None}])
    assert data == 'b\ncafé\n"\\xff\\\\""" "\n\n'.replace('" "', '"').encode()


def test_decimals_are_written_in_full() -> None:
    assert b"1.250000" in written([{"x": decimal.Decimal("1.25")}])
