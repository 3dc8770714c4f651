"""The round-trip law: what a function emits reaches the next one equal and of the same type, or is an error."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import gc
import pickle
import zoneinfo
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mr.batch import kind_of
from mr.errors import PlanError, RecordError, TypeConflict
from mr.kernels.rows import Row, Shape, from_python, row_class, shape_of, to_python

VALUE = Shape("values", ("x",), (None,), declared=True)


class Hit(NamedTuple):
    host: str
    n: int


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: float


class Page(TypedDict):
    url: str
    size: int


class Colour(enum.IntEnum):
    RED = 1


class Word(str):
    __slots__ = ()


def same(a: Any, b: Any) -> bool:
    """Whether `a` is `b` equal and of the same type, at every depth; NaN is itself, a NamedTuple becomes a Row."""
    if isinstance(a, Row) and isinstance(b, tuple):
        return a._fields == getattr(b, "_fields", None) and all(map(same, a, b))
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(map(same, a, b)) and all(map(same, a.values(), b.values()))
    return bool(a == b or (a != a and b != b))


def there_and_back(records: list[Any], shape: Shape | None = None) -> list[Any]:
    batch, shape = from_python(records, shape)
    batch.validate(full=True)
    assert shape is not None
    assert tuple(batch.schema.names) == shape.names
    return to_python(batch)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
int64 = st.integers(-(2**63), 2**63 - 1)
zones = st.sampled_from([dt.UTC, zoneinfo.ZoneInfo("Europe/Berlin"), dt.timezone(dt.timedelta(hours=-3, minutes=-30))])
span = dt.timedelta(days=10**8)
scalars: list[st.SearchStrategy[Any]] = [
    text,
    int64,
    st.floats(),
    st.booleans(),
    st.binary(max_size=5),
    st.datetimes(),
    st.dates(),
    st.times(),
    st.timedeltas(-span, span),
    st.decimals(-(10**19), 10**19, places=18, allow_nan=False),
    st.frozensets(st.integers()),
    st.complex_numbers(),
    st.sampled_from(Colour),
    text.map(Word),
    text.map(lambda s: bytearray(s.encode())),
]
keys = st.sampled_from([text, int64, st.booleans(), st.dates(), st.binary(max_size=3)])


def nested(inner: st.SearchStrategy[st.SearchStrategy[Any]]) -> st.SearchStrategy[st.SearchStrategy[Any]]:
    maybe = inner.map(lambda s: st.none() | s)
    return st.one_of(
        maybe.map(lambda s: st.lists(s, max_size=3)),
        st.tuples(maybe, maybe).map(lambda s: st.tuples(*s)),
        st.tuples(maybe, maybe).map(lambda s: st.tuples(*s).map(lambda pair: Hit(*pair))),
        st.tuples(keys, maybe).map(lambda s: st.dictionaries(*s, max_size=3)),
    )


columns = st.recursive(st.sampled_from(scalars), nested, max_leaves=4)
"""Strategies of strategies: each makes the values of one column, all of one type."""


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(max_examples=150, deadline=None)
@given(st.data(), columns)
def test_one_type_comes_back_the_same(data: st.DataObject, column: st.SearchStrategy[Any]) -> None:
    values = data.draw(st.lists(st.none() | column, max_size=6))
    assert same(there_and_back(values, VALUE), values)
    assert same(
        [row.x for row in there_and_back([{"x": value} for value in values] or [{"x": None}])][: len(values)], values
    )


@settings(max_examples=100, deadline=None)
@given(st.data(), zones)
def test_datetimes_of_a_zone(data: st.DataObject, zone: dt.tzinfo) -> None:
    moments = st.datetimes(
        dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29), timezones=st.just(zone), allow_imaginary=False
    )
    values = data.draw(st.lists(moments, min_size=1, max_size=5))
    back = there_and_back(values, VALUE)
    assert [(v.timestamp(), v.utcoffset()) for v in back] == [(v.timestamp(), v.utcoffset()) for v in values]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.none(), *scalars), min_size=2, max_size=3))
def test_any_mixture_is_the_same_or_an_error(values: list[Any]) -> None:
    conflict = None
    try:
        back = there_and_back(values, VALUE)
    except TypeConflict as error:
        conflict = error
    if conflict is not None:
        assert conflict.row in range(len(values))
        assert "'x'" in str(conflict)
    else:
        floats = [float(v) if type(v) is int else v for v in values]
        assert same(back, values) or ({type(v) for v in values} >= {int, float} and same(back, floats))


@pytest.mark.parametrize(
    ("values", "row", "parts"),
    [
        ([1, True], 1, ["int", "bool True"]),
        ([1, None, "a"], 2, ["int", "str 'a'"]),
        ([b"a", "a"], 1, ["bytes", "str"]),
        ([1.5, 2**53 + 1], 1, ["float", "9007199254740993"]),
        ([1, 2**63], 1, ["int", "9223372036854775808", "64 bits; declare it as object"]),
        (["a", Word("b")], 1, ["str", "Word 'b'"]),
        ([[1], [2, "a"]], 1, ["'x[]'", "int", "str 'a'"]),
        ([(1, 2), None, (1, 2, 3)], 2, ["2 items", "(1, 2, 3)"]),
        ([Hit("a", 1), ("a", 1)], 1, ["host, n"]),
        ([{"a": 1}, {"a": 1, "b": "c"}], 1, ["values of x", "str 'c'"]),
        ([{"a": 1}, {None: 1}], 1, ["None"]),
        ([dt.date(2020, 1, 1), dt.datetime(2020, 1, 1)], 1, ["date", "datetime"]),
        (["a", "\ud800"], 1, ["'x'", "surrogates"]),
        ([decimal.Decimal("1"), decimal.Decimal("1e-19")], 1, ["Decimal"]),
        ([decimal.Decimal("NaN")], 0, ["Decimal", "no NaN; keep the value as str"]),
        ([dt.timedelta.max], 0, ["timedelta"]),
        ([0, lambda: 0], 1, ["int", "function"]),
        ([lambda: 0], 0, ["function cannot be pickled"]),
    ],
)
def test_errors_name_record_column_and_both_types(values: list[Any], row: int, parts: list[str]) -> None:
    with pytest.raises(RecordError) as caught:
        from_python(values, VALUE)
    assert caught.value.row == row
    for part in ["x", *parts]:
        assert part in str(caught.value)


def test_numpy_scalars_become_python_ones() -> None:
    values = [np.int32(1), np.float64(0.5), np.bool_(True), np.str_("a"), np.datetime64("2020-01-01T00:00:00", "ns")]
    expected = [1, 0.5, True, "a", dt.datetime(2020, 1, 1)]
    for value, wanted in zip(values, expected, strict=True):
        assert same(there_and_back([value, wanted], VALUE), [wanted, wanted])


def test_ints_among_floats_become_floats() -> None:
    assert same(there_and_back([1, None, 2.5], VALUE), [1.0, None, 2.5])
    assert same(there_and_back([[1], [2.5]], VALUE), [[1.0], [2.5]])


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "kind", "names"),
    [
        ("a", "values", ("value",)),
        ([1, 2], "values", ("value",)),
        (("a", 1), "rows", ("key", "value")),
        (("a",), "rows", ("c0",)),
        (("a", 1, 2.5), "rows", ("c0", "c1", "c2")),
        (Hit("a", 1), "rows", ("host", "n")),
        (Point(1, 2.5), "rows", ("x", "y")),
        ({"u v": 1, "w": None}, "rows", ("u v", "w")),
        (row_class(("p", "q"))((1, 2)), "rows", ("p", "q")),
    ],
)
def test_first_record_fixes_the_shape(record: Any, kind: str, names: tuple[str, ...]) -> None:
    batch, shape = from_python([record], None)
    assert shape is not None
    assert (shape.kind, shape.names, kind_of(batch.schema)) == (kind, names, kind)
    back = to_python(batch)[0]
    if kind == "rows":
        assert isinstance(back, Row)
        values = (
            record.values()
            if isinstance(record, dict)
            else dataclasses.astuple(record)
            if names == ("x", "y")
            else record
        )
        assert back == tuple(values)
    else:
        assert back == record


def test_later_records_keep_to_the_shape() -> None:
    _, shape = from_python([{"a": 1, "b": "x"}], None)
    assert there_and_back([{"b": "y"}, {"a": 2}], shape) == [(None, "y"), (2, None)]
    for bad, message in [
        ({"a": 1, "c": 2}, "new key 'c'; columns are a, b"),
        ((1, "x", 2), "3 items, there are 2 columns"),
        (None, "leave it out with flat_map"),
        ("a", "a record is str 'a'"),
        (Hit("a", 1), "has the columns host, n; expected are a, b"),
    ]:
        with pytest.raises(RecordError, match=message) as caught:
            from_python([{"a": 1}, bad], shape)
        assert caught.value.row == 1


def test_the_first_record_that_is_not_none_decides() -> None:
    batch, shape = from_python([None, None], None)
    assert (shape, batch.schema.types) == (Shape("values", ("value",), (None,)), [pa.null()])
    with pytest.raises(RecordError, match="columns are key, value"):
        from_python([None, ("a", 1)], None)
    batch, shape = from_python([], None)
    assert (batch.num_columns, shape) == (0, None)
    batch, _ = from_python([], Shape("rows", ("a", "b"), (None, pa.int64())))
    assert (batch.schema.types, batch.num_rows) == ([pa.null(), pa.int64()], 0)


def test_names_have_the_last_word_on_names() -> None:
    pair = Shape("rows", ("a", "b"), (None, None), declared=True)
    for record in [(1, 2), [1, 2], Hit("h", 2), {"b": 2, "a": 1}, Point(1, 2.0)]:
        assert there_and_back([record], pair)[0]._fields == ("a", "b")
    mixed = there_and_back([(1, 2), [3, 4], {"a": 5}], pair)
    assert mixed == [(1, 2), (3, 4), (5, None)]
    one = Shape("rows", ("w",), (None,), declared=True)
    assert there_and_back(["a", ("b",), None, {"w": "c"}], one) == [("a",), ("b",), (None,), ("c",)]
    with pytest.raises(RecordError, match="has the columns host, n; expected are n, host"):
        from_python([Hit("a", 1)], Shape("rows", ("n", "host"), (None, None), declared=True))
    assert there_and_back([(1, 2)], VALUE) == [(1, 2)]
    assert there_and_back([{"a": 2}], VALUE) == [{"a": 2}]


def test_declared_types_are_enforced() -> None:
    def one(value: Any, type_: pa.DataType) -> Any:
        return there_and_back([value], Shape("values", ("x",), (type_,)))[0]

    assert same(one(1, pa.float64()), 1.0)
    assert same(one([1], pa.large_list(pa.float64())), [1.0])
    assert same(one(7, pa.int8()), 7)
    assert same(one(0.5, pa.float32()), 0.5)
    assert one(float("nan"), pa.float32()) != 0
    assert one(decimal.Decimal("1.25"), pa.decimal128(10, 2)) == decimal.Decimal("1.25")
    assert one(Hit("a", 1), pa.struct([("h", pa.large_string()), ("n", pa.int64())]))._fields == ("h", "n")
    assert one(None, pa.int64()) is None
    for value, type_ in [
        ("a", pa.int64()),
        (1, pa.large_string()),
        (1.0, pa.int64()),
        (True, pa.int64()),
        (300, pa.int8()),
        (0.1, pa.float32()),
        (2**60, pa.float64()),
        ([1, "a"], pa.large_list(pa.int64())),
        (decimal.Decimal("1.255"), pa.decimal128(10, 2)),
        (dt.datetime(2020, 1, 1), pa.timestamp("us", "UTC")),
        (dt.datetime(2020, 1, 1, tzinfo=dt.UTC), pa.timestamp("us")),
        (dt.datetime(2020, 1, 1), pa.date32()),
        ({1, 2}, pa.large_list(pa.int64())),
    ]:
        with pytest.raises(TypeConflict, match="'x"):
            one(value, type_)
    with pytest.raises(TypeConflict) as caught:
        from_python([1, 2, 300], Shape("values", ("x",), (pa.int8(),)))
    assert caught.value.row == 2


def no_hints(x):  # type: ignore[no-untyped-def]
    return x


class Parser:
    def __call__(self, line: str) -> tuple[str, int]:
        return line, 1


def hinted(result: Any) -> Callable[..., Any]:
    def fn() -> None: ...

    fn.__annotations__["return"] = result
    return fn


INT, FLOAT, STR = pa.int64(), pa.float64(), pa.large_string()


@pytest.mark.parametrize(
    ("fn", "yields", "expected"),
    [
        (no_hints, False, None),
        (str.split, True, None),
        (hinted(Any), False, None),
        (hinted(None), False, None),
        (hinted(object), False, None),
        (hinted(dict[str, int]), False, None),
        (hinted(tuple[int, ...]), False, None),
        (hinted("NoSuchName"), False, None),
        (hinted(int), False, Shape("values", ("value",), (INT,))),
        (hinted(int | None), False, Shape("values", ("value",), (INT,))),
        (hinted(Literal["a", "b"]), False, Shape("values", ("value",), (STR,))),
        (hinted(list[str]), False, Shape("values", ("value",), (pa.large_list(STR),))),
        (hinted(tuple[str, int]), False, Shape("rows", ("key", "value"), (STR, INT))),
        (hinted(tuple[str, int, Any]), False, Shape("rows", ("c0", "c1", "c2"), (STR, INT, None))),
        (hinted(Hit), False, Shape("rows", ("host", "n"), (STR, INT))),
        (hinted(Hit | None), False, Shape("rows", ("host", "n"), (STR, INT))),
        (hinted(Point), False, Shape("rows", ("x", "y"), (INT, FLOAT))),
        (hinted(Page), False, Shape("rows", ("url", "size"), (STR, INT))),
        (hinted(Iterator[tuple[str, int]]), True, Shape("rows", ("key", "value"), (STR, INT))),
        (hinted(Iterable[Hit]), True, Shape("rows", ("host", "n"), (STR, INT))),
        (hinted(Generator[str, None, None]), True, Shape("values", ("value",), (STR,))),
        (hinted(list[str]), True, Shape("values", ("value",), (STR,))),
        (hinted(tuple[str, ...]), True, Shape("values", ("value",), (STR,))),
        (hinted(tuple[str, int]), True, None),
        (hinted(Iterator[Hit] | None), True, Shape("rows", ("host", "n"), (STR, INT))),
        (functools.partial(hinted(int), 1), False, Shape("values", ("value",), (INT,))),
        (Parser, False, Shape("rows", ("key", "value"), (STR, INT))),
        (Parser(), False, Shape("rows", ("key", "value"), (STR, INT))),
        (Parser().__call__, False, Shape("rows", ("key", "value"), (STR, INT))),
        (int, False, Shape("values", ("value",), (INT,))),
        (Hit._make, False, None),
        (len, False, None),
    ],
)
def test_return_annotation_fixes_the_shape(fn: Callable[..., Any], yields: bool, expected: Shape | None) -> None:
    assert shape_of(None, fn, yields) == expected


def test_names_go_before_the_annotation() -> None:
    pair = hinted(tuple[str, int])
    assert shape_of("w", hinted(int), False) == Shape("values", ("w",), (INT,), declared=True)
    assert shape_of(["a", "b"], pair, False) == Shape("rows", ("a", "b"), (STR, INT), declared=True)
    assert shape_of(["a"], hinted(int), False) == Shape("rows", ("a",), (INT,), declared=True)
    assert shape_of(["n", "host"], hinted(Hit), False) == Shape("rows", ("n", "host"), (None, None), declared=True)
    assert shape_of({"a": int, "b": Any}, no_hints, False) == Shape("rows", ("a", "b"), (INT, None), declared=True)


@pytest.mark.parametrize("names", ["", [], ["a", "a"], [1], [""], {}, {"a": "int"}])
def test_names_that_cannot_be(names: Any) -> None:
    with pytest.raises(PlanError):
        shape_of(names, no_hints, False)


# --- Row --------------------------------------------------------------------------------------------------------------


def test_row_is_a_tuple_with_names() -> None:
    row = row_class(("host", "any name", "count", "_fields", "class"))(["a", 1, 2, 3, 4])
    assert (row.host, row["any name"], row.count, row["_fields"], row[0], row[-1], row[1:3]) == (
        "a",
        1,
        2,
        3,
        "a",
        4,
        (1, 2),
    )
    assert row == ("a", 1, 2, 3, 4)
    assert hash(row) == hash(("a", 1, 2, 3, 4))
    assert row._asdict() == {"host": "a", "any name": 1, "count": 2, "_fields": 3, "class": 4}
    assert row._replace(host="b")[0] == "b"
    host, *_ = row
    assert host == "a"
    assert repr(row_class(("a", "b c"))((1, "x"))) == "Row(a=1, b c='x')"
    match row_class(("a", "b"))((1, 2)):
        case Row() as found:
            assert found.b == 2
    for copied in (pickle.loads(pickle.dumps(row)), copy.copy(row), copy.deepcopy(row)):
        assert copied == row
        assert copied._fields == row._fields
        assert copied.host == "a"
    assert row_class(("a",)) is row_class(("a",))


def test_row_says_which_columns_there_are() -> None:
    row = row_class(("host", "n"))(("a", 1))
    for act in (lambda: row.hots, lambda: row["hots"], lambda: row._replace(hots=1)):
        with pytest.raises((AttributeError, KeyError, ValueError), match=r"no column '?hots'?; there are host, n"):
            act()


def test_dict_subclasses_are_rows_and_named_values_stay_what_they_are() -> None:
    counter = collections.Counter("aab")
    assert there_and_back([counter], None) == [(2, 1)]
    assert same(there_and_back([counter], VALUE), [counter])


def test_a_collection_while_a_row_class_is_made_takes_nothing_away(monkeypatch: pytest.MonkeyPatch) -> None:
    from mr.kernels import rows

    monkeypatch.setattr(rows, "hasattr", lambda *given: gc.collect() < 0 or hasattr(*given), raising=False)
    assert rows.row_class.__wrapped__(("first", "second"))([1, 2]).second == 2


def test_fold_is_kept_where_there_is_a_zone_to_say_what_it_means() -> None:
    twice = dt.datetime(2024, 10, 27, 2, 30)
    for zone in (None, zoneinfo.ZoneInfo("Europe/Berlin")):
        moments = [twice.replace(fold=fold, tzinfo=zone) for fold in (0, 1)]
        found = there_and_back(moments)
        assert found == moments
        assert [moment.fold for moment in found] == ([0, 0] if zone is None else [0, 1])
        assert [moment.utcoffset() for moment in found] == [moment.utcoffset() for moment in moments]
