"""Filters over Parquet: row groups that cannot have a row that passes are not read, and nothing else changes."""

from __future__ import annotations

import datetime as dt
import io
import operator
import random
import zoneinfo
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import batches

import mr
from mr.formats.bounds import Bound, bounds_of
from mr.formats.parquet import ParquetReader
from mr.formats.parquet_footer import extremes

UTC = dt.UTC
COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "i": (pa.int64(), [-(2**63), -1, 0, 1, 2, 2**53, 2**53 + 1, 2**63 - 1]),
    "b": (pa.int8(), [-128, -1, 0, 1, 127]),
    "u": (pa.uint64(), [0, 1, 2**64 - 1]),
    "f": (pa.float64(), [float("-inf"), -1.0, -0.0, 0.0, 1.5, float("nan")]),
    "s": (pa.string(), ["", "a", "ab", "b", "é", "\U0001f600", "\uffff"]),
    "d": (pa.date32(), [dt.date(1969, 12, 31), dt.date(1970, 1, 1), dt.date(2026, 1, 1)]),
    "t": (pa.timestamp("us"), [dt.datetime(1969, 1, 1), dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 1, 1)]),
    "z": (pa.timestamp("ms", "UTC"), [dt.datetime(1969, 1, 1, tzinfo=UTC), dt.datetime(2026, 1, 1, tzinfo=UTC)]),
    "n": (pa.timestamp("ns"), [dt.datetime(2026, 1, 1)]),
    "x": (pa.bool_(), [True, False]),
}
OPERATORS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]


def parquet(columns: dict[str, list[Any]], group_rows: int) -> bytes:
    arrays = {name: pa.array(values, COLUMNS[name][0]) for name, values in columns.items()}
    out = io.BytesIO()
    pq.write_table(pa.table(arrays), out, row_group_size=group_rows)
    return out.getvalue()


@st.composite
def filtered(draw: st.DrawFn) -> tuple[dict[str, list[Any]], int, pl.Expr]:
    """Columns, the rows of a row group, and a filter of one or two comparisons."""
    rows = draw(st.integers(1, 8))
    names = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=2, unique=True))
    columns = {
        name: draw(st.lists(st.sampled_from([None, *COLUMNS[name][1]]), min_size=rows, max_size=rows)) for name in names
    }
    asked = []
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(names))
        value = draw(st.sampled_from([*COLUMNS[name][1], 1, 0.5] if name in "ibuf" else COLUMNS[name][1]))
        asked.append(draw(st.sampled_from(OPERATORS))(pl.col(name), value))
    expr = asked[0] if len(asked) == 1 else draw(st.sampled_from([operator.and_, operator.or_]))(*asked)
    return columns, draw(st.integers(1, 3)), draw(st.sampled_from([expr, expr, ~expr]))


@settings(max_examples=60, deadline=None)
@given(filtered())
def test_no_row_that_passes_is_left_out(case: tuple[dict[str, list[Any]], int, pl.Expr]) -> None:
    columns, group_rows, expr = case
    data = parquet(columns, group_rows)
    every, fewer = ParquetReader(), ParquetReader().skipping(bounds_of(expr))

    def passing(reader: Any) -> list[tuple[Any, ...]]:
        found = batches(reader, data)
        return [row for batch in found for row in pl.DataFrame(pl.from_arrow(batch.data)).filter(expr).rows()]

    assert list(map(repr, passing(fewer))) == list(map(repr, passing(every)))


def test_groups_are_left_out_by_each_kind_of_column() -> None:
    for name, small, large in [
        ("i", [1, 2], [8, 9]),
        ("b", [-3, -2], [-1, 3]),
        ("s", ["a", "aé"], ["b", None]),
        ("d", [dt.date(2026, 1, 1)] * 2, [dt.date(2026, 1, 2)] * 2),
        ("t", [dt.datetime(2026, 1, 1)] * 2, [dt.datetime(2026, 1, 1, 0, 0, 0, 1)] * 2),
        ("z", [dt.datetime(2026, 1, 1, tzinfo=UTC)] * 2, [dt.datetime(2026, 1, 2, tzinfo=UTC)] * 2),
    ]:
        data = parquet({name: [*small, *large]}, 2)
        for expr, kept in [
            (pl.col(name) > small[-1], large),
            (pl.col(name) >= large[0], large),
            (pl.col(name) < large[0], small),
            (pl.col(name) <= small[-1], small),
            (pl.col(name) == small[0], small),
            ((pl.col(name) == small[0]) & (pl.col(name) == large[0]), []),
            ((pl.col(name) == small[0]) | (pl.col(name) == large[0]), [*small, *large]),
        ]:
            found = batches(ParquetReader().skipping(bounds_of(expr)), data)
            assert [value for batch in found for value in batch.data.column(name).to_pylist()] == kept


def test_rows_keep_their_numbers() -> None:
    data = parquet({"i": [1, 2, 3, 4, 5]}, 2)
    found = batches(ParquetReader().skipping((Bound("i", "Gt", 4),)), data, track=True)
    assert [batch.origins.tolist() for batch in found if batch.origins is not None] == [[[0, 4]]]
    chosen = batches(ParquetReader().skipping((Bound("i", "Gt", 2),)), data, row_groups=(0, 1), track=True)
    assert [batch.data.to_pydict() for batch in chosen] == [{"i": [3, 4]}]


def test_a_footer_with_any_byte_changed_says_something_or_nothing() -> None:
    data = parquet({"i": [1, 2, 3], "s": ["a", "b", "c"]}, 2)
    schema = pa.schema([("i", pa.int64()), ("s", pa.string())])
    random.seed(4)
    assert extremes(io.BytesIO(data), schema, {"i", "s"})[1] == {"i": (3, 3), "s": ("c", "c")}
    for at in range(len(data) - int.from_bytes(data[-8:-4], "little") - 8, len(data)):
        for byte in {data[at] ^ 1, 0x9C, random.randrange(256)}:
            damaged = data[:at] + bytes([byte]) + data[at + 1 :]
            assert isinstance(extremes(io.BytesIO(damaged), schema, {"i", "s"}), list)
    for size in range(0, len(data), 7):
        assert extremes(io.BytesIO(data[:size]), schema, {"i", "s"}) in ([], [{}, {}])


def test_times_are_compared_as_moments_where_clocks_show_an_hour_twice() -> None:
    rome = zoneinfo.ZoneInfo("Europe/Rome")
    moments = [dt.datetime(2020, 10, 25, hour, 30, tzinfo=UTC) for hour in (0, 1)]  # 2:30 by the clock, and 2:30 again
    out = io.BytesIO()
    pq.write_table(pa.table({"t": pa.array(moments, pa.timestamp("us", "Europe/Rome"))}), out, row_group_size=1)
    found = extremes(out, pa.schema([("t", pa.timestamp("us", "Europe/Rome"))]), {"t"})
    first = Bound("t", "Gt", dt.datetime(2020, 10, 25, 2, 30, tzinfo=rome))
    assert [first.possible(*group["t"]) for group in found] == [False, True]


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Three row groups: 0 to 9, 10 to 19 (unreadable), 20 to 29."""
    path = tmp_path / "n.parquet"
    table = pa.table({"n": range(30), "word": [f"word {i}" for i in range(30)]})
    pq.write_table(table, path, row_group_size=10, write_page_checksum=True, use_dictionary=False, compression="none")
    data = bytearray(path.read_bytes())
    at = data.index(b"word 13")
    data[at : at + 4] = b"WORD"
    path.write_bytes(data)
    return path


def test_a_filter_right_behind_the_read_leaves_groups_out(numbers: Path) -> None:
    data = mr.read_parquet(str(numbers))
    with mr.Session(on="inline"):
        with pytest.raises(mr.JobFailed, match="corrupt"):
            data.take_all()
        low = data.filter(pl.col("n") < 10)
        assert [row.n for row in low.take_all()] == list(range(10))
        assert [row.n for row in low.filter(pl.col("word") > "word 5").take_all()] == [6, 7, 8, 9]
        assert [row[0] for row in data.filter(pl.col("n") >= 28).select("word").take_all()] == ["word 28", "word 29"]
        with pytest.raises(mr.JobFailed, match="corrupt"):
            data.with_columns(n=pl.col("n") - 10).filter(pl.col("n") < 0).take_all()
        with pytest.raises(mr.JobFailed, match="corrupt"):
            data.filter(pl.col("n") <= 10).take_all()


def test_explain_says_by_which_columns_groups_are_left_out(numbers: Path) -> None:
    data = mr.read_parquet(str(numbers))
    wanted = (pl.col("n") < 10) & (pl.col("word") == "word 3")
    assert "leaves out row groups by the least and greatest n, word" in data.filter(wanted).explain()
    assert "leaves out" not in data.filter(pl.col("n") % 2 == 1).explain()
    assert "leaves out" not in mr.from_items([1], names=["n"]).filter(pl.col("n") < 10).explain()


def test_columns_of_folders_are_left_to_the_filter(tmp_path: Path) -> None:
    for day in (1, 2):
        folder = tmp_path / "days" / f"day={day}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"n": [day, day + 10]}), folder / "n.parquet", row_group_size=1)
    data = mr.read_parquet(str(tmp_path / "days")).filter((pl.col("day").cast(pl.Int64) == 2) & (pl.col("n") > 2))
    with mr.Session(on="inline"):
        assert [row.n for row in data.take_all()] == [12]
    assert "least and greatest n" in data.explain()
