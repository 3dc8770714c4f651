"""Types: what declares a column, and how the types of two batches are joined."""

from __future__ import annotations

import datetime as dt
import decimal
import pickle
from typing import Annotated, Any, NamedTuple, NewType

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mr.batch import kind_of, with_kind
from mr.errors import PlanError, TypeConflict
from mr.kernels.declared import arrow_type
from mr.kernels.frames import plain as plain_column
from mr.kernels.types import (
    PICKLE,
    cast,
    converted,
    display,
    holds_objects,
    homeless,
    join_types,
    nulls,
    plain,
    unify,
)


class Hit(NamedTuple):
    host: str
    n: int


@pytest.mark.parametrize(
    ("declared", "expected", "shown"),
    [
        (int, pa.int64(), "int"),
        (float, pa.float64(), "float"),
        (str, pa.large_string(), "str"),
        (bytes, pa.large_binary(), "bytes"),
        (bool, pa.bool_(), "bool"),
        (dt.datetime, pa.timestamp("us"), "datetime"),
        (dt.date, pa.date32(), "date"),
        (dt.time, pa.time64("us"), "time"),
        (dt.timedelta, pa.duration("us"), "timedelta"),
        (decimal.Decimal, pa.decimal128(38, 18), "Decimal"),
        (list[int | None], pa.large_list(pa.int64()), "list[int]"),
        (tuple[str, int], pa.struct([("0", pa.large_string()), ("1", pa.int64())]), "tuple[str, int]"),
        (Hit, pa.struct([("host", pa.large_string()), ("n", pa.int64())]), "tuple[host: str, n: int]"),
        (dict[str, list[int]], pa.map_(pa.large_string(), pa.large_list(pa.int64())), "dict[str, list[int]]"),
        (str | None, pa.large_string(), "str"),
        (int | float, pa.float64(), "float"),
        (Annotated[int, "n"], pa.int64(), "int"),
        (NewType("Id", str), pa.large_string(), "str"),
        (np.int32, pa.int64(), "int"),
        (object, PICKLE, "object"),
        (set[int], PICKLE, "object"),
        (int | str, PICKLE, "object"),
        (pl.Int64, pa.int64(), "int"),
        (pl.List(pl.String), pa.large_list(pa.large_string()), "list[str]"),
        (pl.Datetime("us", "UTC"), pa.timestamp("us", "UTC"), "datetime[UTC]"),
        (pl.Categorical, pa.large_string(), "str"),
        (pl.Object, PICKLE, "object"),
        (pa.string(), pa.large_string(), "str"),
        (pa.int8(), pa.int8(), "int8"),
    ],
)
def test_declared_types(declared: Any, expected: pa.DataType, shown: str) -> None:
    assert arrow_type(declared) == expected
    assert display(expected) == shown


@pytest.mark.parametrize("declared", [Any, None, list, dict, tuple, tuple[int, ...], list[Any], dict[str, Any]])
def test_types_that_say_nothing(declared: Any) -> None:
    assert arrow_type(declared) is None


@pytest.mark.parametrize("declared", ["int", 3, print])
def test_what_is_no_type(declared: Any) -> None:
    with pytest.raises(PlanError, match="is not a type"):
        arrow_type(declared)


types = st.recursive(
    st.sampled_from([pa.null(), pa.int64(), pa.float64(), pa.large_string(), PICKLE, pa.timestamp("us", "UTC")]),
    lambda inner: st.one_of(
        inner.map(pa.large_list),
        st.tuples(inner, inner).map(lambda pair: pa.struct([("a", pair[0]), ("b", pair[1])])),
        inner.map(lambda item: pa.map_(pa.large_string(), item)),
    ),
    max_leaves=4,
)


@given(types, types, types)
def test_joining_types_does_not_depend_on_order(a: pa.DataType, b: pa.DataType, c: pa.DataType) -> None:
    assert join_types(a, a) == a
    assert join_types(a, b) == join_types(b, a)
    assert join_types(a, pa.null()) == a
    ab, bc = join_types(a, b), join_types(b, c)
    if ab is not None and bc is not None:
        assert join_types(ab, c) == join_types(a, bc)


@given(types, st.integers(0, 3))
def test_every_type_has_nulls_and_survives_a_stream(type_: pa.DataType, rows: int) -> None:
    batch = pa.record_batch([nulls(rows, type_)], names=["x"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    assert pa.ipc.open_stream(sink.getvalue()).read_all().schema.types == [type_]
    assert pickle.loads(pickle.dumps(type_)) == type_
    assert holds_objects(type_) is ("mr.pickle" in str(type_))
    assert plain(type_) == type_


def schema(kind: Any = "rows", **columns: pa.DataType) -> pa.Schema:
    return with_kind(pa.schema(list(columns.items())), kind)


def test_unify() -> None:
    ints, floats, empty = schema(n=pa.int64(), s=pa.null()), schema(n=pa.float64(), s=pa.large_string()), pa.schema([])
    assert unify(ints, floats, "map").equals(floats, check_metadata=True)
    assert unify(floats, ints, "map").equals(floats, check_metadata=True)
    assert unify(empty, ints, "map").equals(ints, check_metadata=True)
    assert unify(ints, empty, "map").equals(ints, check_metadata=True)
    values = schema("values", n=pa.null())
    assert kind_of(unify(values, schema("values", n=pa.int64()), "map")) == "values"


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (schema(n=pa.int64()), schema(n=pa.large_string()), "map at job.py:3: column 'n' is int .* str"),
        (schema(n=pa.int64()), schema(n=pa.bool_()), "column 'n' is int .* bool"),
        (schema(n=pa.int64()), schema(m=pa.int64()), "columns n, others m"),
        (schema(a=pa.int64(), b=pa.int64()), schema(b=pa.int64(), a=pa.int64()), "columns a, b, others b, a"),
        (schema("values", n=pa.int64()), schema(n=pa.int64()), r"are values \(n\), others rows \(n\)"),
    ],
)
def test_what_does_not_unify(a: pa.Schema, b: pa.Schema, message: str) -> None:
    with pytest.raises(TypeConflict, match=message):
        unify(a, b, "map at job.py:3")


def test_cast_is_exact_at_any_depth_and_offset() -> None:
    data = {
        "n": pa.array([1, None, 3]),
        "l": pa.array([[1], None, [2, None]], pa.large_list(pa.int64())),
        "s": pa.array([(1, 2), None, (None, 4)], pa.struct([("a", pa.int64()), ("b", pa.int64())])),
        "m": pa.array([[("k", 1)], None, []], pa.map_(pa.large_string(), pa.int64())),
        "z": pa.nulls(3),
        "e": pa.array([[], None, []], pa.large_list(pa.null())),
    }
    batch = pa.record_batch(data)
    floats = schema(
        n=pa.float64(),
        l=pa.large_list(pa.float64()),
        s=pa.struct([("a", pa.float64()), ("b", pa.int64())]),
        m=pa.map_(pa.large_string(), pa.float64()),
        z=pa.large_list(PICKLE),
        e=pa.large_list(PICKLE),
    )
    for start in range(4):
        part = cast(batch.slice(start), floats)
        part.validate(full=True)
        assert part.schema.equals(floats, check_metadata=True)
        assert part.to_pylist() == batch.to_pylist()[start:]


def test_cast_refuses_ints_that_floats_cannot_hold() -> None:
    batch = pa.record_batch({"n": [2**53 + 1]})
    with pytest.raises(TypeConflict, match=r"'n'.*int and float"):
        cast(batch, schema(n=pa.float64()))


# --- what travels -----------------------------------------------------------------------------------------------------

_ITEMS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(0, 9),
    pa.string(): st.sampled_from(["", "é", "a text of more than twelve bytes"]),
    pa.string_view(): st.sampled_from(["", "é", "a text of more than twelve bytes"]),
    pa.binary(2): st.just(b"\0\xff"),
    pa.dictionary(pa.int8(), pa.string()): st.sampled_from(["x", "y"]),
    pa.decimal32(5, 2): st.decimals(-9, 9, places=2),
    pa.timestamp("s"): st.datetimes().map(lambda moment: moment.replace(microsecond=0)),
    pa.date64(): st.dates(),
    pa.time32("s"): st.times().map(lambda moment: moment.replace(microsecond=0)),
    pa.null(): st.none(),
}


def _columns(depth: int) -> st.SearchStrategy[tuple[pa.DataType, st.SearchStrategy[Any]]]:
    flat = st.sampled_from(list(_ITEMS.items()))
    if not depth:
        return flat
    inner = _columns(depth - 1)
    outer = (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)
    lists = st.tuples(st.sampled_from(outer), inner).map(
        lambda p: (p[0](p[1][0]), st.lists(p[1][1] | st.none(), max_size=3))
    )
    pairs = inner.map(lambda one: (pa.list_(one[0], 2), st.lists(one[1] | st.none(), min_size=2, max_size=2)))
    structs = st.tuples(inner, inner).map(
        lambda two: (
            pa.struct([("a", two[0][0]), ("b", two[1][0])]),
            st.fixed_dictionaries({"a": two[0][1] | st.none(), "b": two[1][1] | st.none()}),
        )
    )
    maps = inner.map(
        lambda one: (
            pa.map_(pa.string(), one[0]),
            st.dictionaries(st.sampled_from("ab"), one[1] | st.none()).map(lambda found: list(found.items())),
        )
    )
    return flat | lists | pairs | structs | maps


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(0, 5), st.integers(0, 5))
def test_what_travels_is_what_was_there(data: st.DataObject, start: int, rows: int) -> None:
    type_, values = data.draw(_columns(2))
    array = pa.array(data.draw(st.lists(values | st.none(), max_size=6)), type_).slice(start, rows)
    found = converted(array, plain(type_))
    found.validate(full=True)
    assert found.type == plain(type_) == plain(plain(type_))
    assert found.to_pylist() == array.to_pylist()


def test_items_of_a_list_view_are_not_lost() -> None:
    """pyarrow 26 casts this one to [[1, 2], None, [], []]."""
    array = pa.array([[1, 2], None, [], [3]], pa.list_view(pa.int64()))
    assert plain_column(array).to_pylist() == [[1, 2], None, [], [3]]


def test_extension_types_and_run_ends_travel_as_what_they_hold() -> None:
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, None], pa.binary(16)))
    assert plain_column(uuids).to_pylist() == [b"0" * 16, None]
    runs = pa.array([1, 1, None], pa.run_end_encoded(pa.int32(), pa.int64()))
    assert plain_column(runs).to_pylist() == [1, 1, None]
    assert plain(PICKLE) == PICKLE


@pytest.mark.parametrize(
    "type_",
    [pa.month_day_nano_interval(), pa.decimal256(39, 0), pa.struct([]), pa.dense_union([pa.field("a", "int8")])],
)
def test_types_that_no_operator_takes_are_refused(type_: pa.DataType) -> None:
    for around in (type_, pa.list_(type_), pa.struct([("a", type_)]), pa.map_(pa.string(), type_)):
        assert homeless(around) == type_
        with pytest.raises(PlanError, match="no column can be declared"):
            arrow_type(around)
    if not pa.types.is_union(type_):
        with pytest.raises(TypeConflict, match="have no place here"):
            plain_column(pa.nulls(1, type_))


def test_what_polars_has_in_wider_forms_only_is_widened_before() -> None:
    for type_ in (pa.decimal32(5, 2), pa.decimal64(18, 3), pa.decimal256(38, 1), pa.timestamp("s", "UTC"), pa.date64()):
        series = pl.from_arrow(pa.nulls(1, plain(type_)))
        assert plain(series.to_arrow().type) == plain(type_)  # type: ignore[union-attr]
