"""Aggregates: DuckDB is the oracle for values, a left fold for states."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import pickle
from decimal import Decimal

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_oracle import POOLS, STRUCT

import mr.aggregates as agg
from mr.errors import PlanError, RecordError, TypeConflict

# DuckDB has no null type, no struct with our order of NaN inside, and no 256-bit decimals
SQL_TYPES = [t for t in POOLS if t not in (pa.null(), STRUCT, pa.binary(3), pa.decimal256(50, 0))]
ADDABLE = [pa.bool_(), pa.int8(), pa.int64(), pa.uint64(), pa.decimal128(12, 2)]


@st.composite
def tables(draw: st.DrawFn, types: list[pa.DataType]) -> pa.RecordBatch:
    rows = draw(st.lists(st.tuples(st.sampled_from([None, "a", "b"]), st.integers(0, 99)), max_size=20))
    pool = [None, *POOLS[dtype := draw(st.sampled_from(types))]]
    values = [pool[number % len(pool)] for _, number in rows]
    return pa.RecordBatch.from_arrays(
        [pa.array([k for k, _ in rows], pa.large_string()), pa.array(values, dtype)], ["k", "x"]
    )


def run(data: pa.RecordBatch, keys: list[str], aggs: dict[str, agg.Aggregation], block: int = 1000) -> pa.RecordBatch:
    """Partial states by blocks of rows, merged, finished: as a job does."""
    blocks = [data.slice(start, block) for start in range(0, max(1, data.num_rows), block)]
    partials = pa.concat_batches([agg.grouped_aggregate(one, keys, aggs) for one in blocks])
    return agg.finalise(agg.merge_states(partials, keys, aggs), keys, aggs)


def plain(value: object) -> object:
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value + 0.0
    return value.replace(tzinfo=None) if isinstance(value, dt.datetime) else value


def sql(data: pa.RecordBatch, select: str) -> dict[object, tuple[object, ...]]:
    connection = duckdb.connect()
    if pa.types.is_timestamp(data["x"].type):  # DuckDB would need another package to return time zones
        data = data.set_column(1, "x", data["x"].cast(pa.timestamp("us")))
    connection.register("t", pa.Table.from_batches([data]))
    rows = connection.sql(f"select k, {select} from t group by k").fetchall()
    return {row[0]: tuple(plain(value) for value in row[1:]) for row in rows}


def by_key(data: pa.RecordBatch) -> dict[object, tuple[object, ...]]:
    return {row.pop("k"): tuple(plain(value) for value in row.values()) for row in data.to_pylist()}


@settings(max_examples=60, deadline=None)
@given(tables(SQL_TYPES), st.integers(1, 7))
def test_count_min_and_max_are_those_of_sql(data, block):
    aggs = {"n": agg.count(), "m": agg.count("x"), "lo": agg.min("x"), "hi": agg.max("x")}
    found = run(data, ["k"], aggs, block)
    assert by_key(found) == sql(data, "count(*), count(x), min(x), max(x)")
    for name, aggregate in aggs.items():
        assert found[name].type == aggregate.output_type(data["x"].type)


@settings(max_examples=60, deadline=None)
@given(tables(ADDABLE), st.integers(1, 7))
def test_exact_sums_and_means_are_those_of_sql_or_do_not_fit(data, block):
    cast = "x::int" if data["x"].type == pa.bool_() else "x"
    expected = sql(data, f"sum({cast})")
    if any(x is not None and not -(2**63) <= x < 2**63 for (x,) in expected.values()):
        with pytest.raises(RecordError, match="sum of 'x' does not fit"):
            run(data, ["k"], {"s": agg.sum("x")}, block)
    else:
        found = run(data, ["k"], {"s": agg.sum("x")}, block)
        assert by_key(found) == expected
        assert found["s"].type == agg.sum("x").output_type(data["x"].type)
    for key, (mean,) in by_key(run(data, ["k"], {"m": agg.mean("x")}, block)).items():
        values = [
            v for k, v in zip(data["k"].to_pylist(), data["x"].to_pylist(), strict=True) if k == key and v is not None
        ]
        if values and not isinstance(values[0], Decimal):
            assert mean == sum(values) / len(values)  # of Python ints: correctly rounded
        else:
            assert mean == (pytest.approx(float(sum(values) / len(values))) if values else None)


@settings(max_examples=120, deadline=None)
@given(tables([pa.float64(), pa.float32()]))
def test_float_sums_and_means_are_sequential(data):
    found = by_key(run(data, ["k"], {"s": agg.sum("x"), "m": agg.mean("x")}))
    for key in found:
        total, number = 0.0, 0
        for k, x in zip(data["k"].to_pylist(), data["x"].to_pylist(), strict=True):
            if k == key and x is not None:
                total, number = total + x, number + 1
        assert found[key] == ((plain(total), plain(total / number)) if number else (None, None))


@settings(max_examples=100, deadline=None)
@given(tables([*SQL_TYPES, pa.null()]), st.lists(st.integers(0, 20), max_size=4), st.sampled_from(["k", ""]))
def test_merging_is_a_left_fold(data, cuts, key):
    keys = [key] if key else []
    aggs = {"n": agg.count("x"), "lo": agg.min("x"), "hi": agg.max("x"), "t": agg.top_k("x", 2)}
    if pa.types.is_floating(data["x"].type) or data["x"].type in (*ADDABLE, pa.null(), pa.duration("ms")):
        aggs |= {"s": agg.sum("x"), "m": agg.mean("x")}
    bounds = [0, *sorted(cuts), data.num_rows]
    states = [agg.grouped_aggregate(data.slice(a, max(0, b - a)), keys, aggs) for a, b in itertools.pairwise(bounds)]
    at_once = agg.merge_states(pa.concat_batches(states), keys, aggs)
    carried = states[0]
    for state in states[1:]:
        carried = agg.merge_states(pa.concat_batches([carried, state]), keys, aggs)
    assert at_once.schema.equals(states[0].schema)
    assert [repr(row) for row in carried.to_pylist()] == [repr(row) for row in at_once.to_pylist()]


@settings(max_examples=60, deadline=None)
@given(tables(SQL_TYPES), st.lists(st.integers(0, 20), max_size=3))
def test_exact_aggregates_have_the_same_bytes_wherever_states_are_cut(data, cuts):
    aggs = {"n": agg.count("x"), "lo": agg.min("x"), "hi": agg.max("x"), "t": agg.top_k("x", 2)}
    if data["x"].type in ADDABLE:
        aggs |= {"s": agg.sum("x"), "m": agg.mean("x")}
    assert all(aggregate.exact(data["x"].type) for aggregate in aggs.values())
    bounds = [0, *sorted(cuts), data.num_rows]
    parts = [agg.grouped_aggregate(data.slice(a, max(0, b - a)), ["k"], aggs) for a, b in itertools.pairwise(bounds)]
    merged = agg.merge_states(pa.concat_batches(parts), ["k"], aggs)
    assert merged.serialize().equals(
        agg.merge_states(agg.grouped_aggregate(data, ["k"], aggs), ["k"], aggs).serialize()
    )


def test_partial_sums_may_leave_64_bits_as_long_as_the_whole_does_not():
    data = pa.RecordBatch.from_pydict({"x": pa.array([2**63 - 1, 2**63 - 1, -(2**63), 2], pa.int64())})
    whole = pa.RecordBatch.from_pydict({"x": pa.array([2**63 - 1, 2**63 - 1, -(2**63), -(2**63), 7], pa.int64())})
    assert run(whole, [], {"s": agg.sum("x")}, block=2)["s"].to_pylist() == [5]
    with pytest.raises(RecordError, match="sum of 'x' does not fit 64 bits: cast"):
        run(data, [], {"s": agg.sum("x")}, block=2)


def test_without_keys_there_is_one_row_also_of_no_rows():
    empty = pa.RecordBatch.from_pydict({"x": pa.array([], pa.int64())})
    aggs = {"n": agg.count(), "s": agg.sum("x"), "m": agg.mean("x"), "lo": agg.min("x"), "t": agg.top_k("x", 2)}
    assert run(empty, [], aggs).to_pylist() == [{"n": 0, "s": None, "m": None, "lo": None, "t": []}]


def test_with_keys_no_rows_give_no_rows_of_the_right_types():
    empty = pa.RecordBatch.from_pydict({"k": pa.array([], pa.large_string()), "x": pa.array([], pa.int32())})
    found = run(empty, ["k"], {"s": agg.sum("x"), "hi": agg.max("x")})
    assert found.num_rows == 0
    assert found.schema.types == [pa.large_string(), pa.int64(), pa.int32()]


def test_durations_have_sums_and_means():
    second = dt.timedelta(seconds=1)
    data = pa.RecordBatch.from_pydict(
        {"x": pa.array([second, None, 2 * second, dt.timedelta(milliseconds=4)], pa.duration("ms"))}
    )
    found = run(data, [], {"s": agg.sum("x"), "m": agg.mean("x")}, block=2)
    assert found.to_pylist() == [{"s": dt.timedelta(seconds=3, milliseconds=4), "m": dt.timedelta(milliseconds=1001)}]
    halves = pa.RecordBatch.from_pydict(
        {"k": [1, 1, 2, 2, 3, 3], "x": pa.array([1, 2, 2, 3, -1, -2], pa.duration("s"))}
    )
    means = run(halves, ["k"], {"m": agg.mean("x")})["m"].to_pylist()
    assert [mean.total_seconds() for mean in means] == [2, 2, -2]  # 1.5, 2.5, -1.5: half to even


def test_keys_come_out_normalised_and_group_by_value():
    data = pa.RecordBatch.from_pydict({"k": [-0.0, math.nan, 0.0, None, -math.nan]})
    found = run(data, ["k"], {"n": agg.count()})
    assert found["n"].to_pylist() == [2, 2, 1]
    assert math.copysign(1, found["k"][0].as_py()) == 1


def test_adjacent_groups_are_merged_without_hashing_to_the_same_states():
    data = pa.RecordBatch.from_pydict({"k": ["a", "a", None, None, "b"], "x": [1, 2, 3, 4, None]})
    aggs = {"s": agg.sum("x"), "d": agg.approx_distinct("x")}
    states = pa.concat_batches([agg.grouped_aggregate(data.slice(i, 1), ["k"], aggs) for i in range(5)])
    assert agg.merge_states(states, ["k"], aggs, adjacent=True).equals(agg.merge_states(states, ["k"], aggs))


def test_states_are_named_after_the_output():
    data = pa.RecordBatch.from_pydict({"k": [1], "x": [1]})
    states = agg.grouped_aggregate(data, ["k"], {"a b": agg.mean("x"), "n": agg.count()})
    assert states.schema.names == ["k", "a b.sum", "a b.carry", "a b.n", "n.n"]


@pytest.mark.parametrize("make", [agg.sum, agg.mean])
def test_what_cannot_be_added_is_refused_with_column_and_type(make):
    for dtype in (pa.large_string(), pa.date32(), pa.timestamp("s")):
        with pytest.raises(TypeConflict, match=r"of 'x': values of type .* cannot be added"):
            make("x").output_type(dtype)
        with pytest.raises(TypeConflict):
            run(pa.RecordBatch.from_arrays([pa.nulls(1, dtype)], ["x"]), [], {"s": make("x")})


@pytest.mark.parametrize("make", [agg.min, agg.max, agg.approx_distinct])
def test_what_cannot_be_compared_is_refused(make):
    with pytest.raises(TypeConflict, match=r"of 'x': values of type list.*lists cannot be compared"):
        run(pa.RecordBatch.from_arrays([pa.array([[1]], pa.large_list(pa.int64()))], ["x"]), [], {"s": make("x")})


def test_a_column_is_a_name_or_an_expression():
    assert isinstance(agg.sum(pl.col("x") * 2).column, pl.Expr)
    with pytest.raises(PlanError, match=r"mean\(\) takes a column name"):
        agg.mean(5)  # type: ignore[arg-type]


def test_aggregates_can_be_sent_to_workers():
    again = pickle.loads(pickle.dumps(agg.mean("x")))
    assert (type(again), again.column) == (agg.Mean, "x")


def test_only_float_sums_depend_on_where_states_are_cut():
    assert not agg.sum("x").exact(pa.float64())
    assert not agg.mean("x").exact(pa.float32())
    data = pa.RecordBatch.from_pydict({"x": [1e16, 1.0, -1e16, 1.0]})
    assert [run(data, [], {"s": agg.sum("x")}, block)["s"][0].as_py() for block in (4, 2)] == [1.0, 0.0]


def test_decimal_sums_are_exact_up_to_38_digits():
    nines = Decimal(10**38 - 1)
    data = pa.RecordBatch.from_pydict({"x": pa.array([nines, 1, -2, None], pa.decimal128(38, 0))})
    assert run(data, [], {"s": agg.sum("x")}, block=2)["s"].to_pylist() == [Decimal(10**38 - 2)]
    with pytest.raises(RecordError, match=r"sum of 'x' does not fit decimal\(38\)"):
        run(data.slice(0, 2), [], {"s": agg.sum("x")})
