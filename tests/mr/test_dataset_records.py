"""The rules of records: kinds and names, the round trip between operators, types over tasks, and what is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pytest
from dataset_kit import ident, idents, shrink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr

fast = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)
    inline.reuse = False


class Hit(NamedTuple):
    host: str
    n: int


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: float


NUMBERS = list(range(10))
Use = Callable[[mr.Dataset], mr.Dataset]


# --- values and rows -------------------------------------------------------------------------------------------------


def test_kind_is_decided_by_the_operator_not_by_the_number_of_columns() -> None:
    values = mr.from_items(NUMBERS)
    assert values.take_all() == NUMBERS
    assert values.map(str).take(2) == ["0", "1"]
    assert values.map(lambda n: n, names="x").schema().names == ["x"]
    assert values.map(lambda n: n, names="x").first() == 0
    assert repr(values.map(lambda n: n, names=["x"]).first()) == "Row(x=0)"
    assert repr(values.select("value").first()) == "Row(value=0)"
    assert repr(values.map_batches(lambda df: df).first()) == "Row(value=0)"
    assert repr(mr.from_items([1], names=["x"]).first()) == "Row(x=1)"
    assert mr.from_items([1], names="x").first() == 1


def test_what_keeps_the_kind() -> None:
    values, rows = mr.from_items(["a", "b", "a"]), mr.from_items(["a", "b", "a"], names=["value"])
    uses: list[Use] = [
        lambda d: d.filter(lambda r: True),
        lambda d: d.filter(pl.col("value") != "z"),
        lambda d: d.sort("value"),
        lambda d: d.distinct(),
        lambda d: d.limit(3),
        lambda d: d.union(d),
        lambda d: d.top_k(3, by="value"),
    ]
    for keeps in uses:
        assert {type(r).__name__ for r in keeps(values).take_all()} == {"str"}
        assert {type(r).__name__ for r in keeps(rows).take_all()} == {"Row"}


def pair(n: int) -> tuple[int, int]:
    return n, n


def hit(n: int) -> Hit:
    return Hit(str(n), n)


def point(n: int) -> Point:
    return Point(n, n / 2)


def typed(n: int) -> float:
    return n + 0.5


def maybe(n: int) -> int | None:
    return n or None


def many(n: int) -> Iterator[Hit]:
    yield hit(n)


class Scale:
    def __init__(self, by: int = 2) -> None:
        self.by = by

    def __call__(self, n: int) -> float:
        return float(n * self.by)


@pytest.mark.parametrize(
    ("fn", "names", "types"),
    [
        (pair, ["key", "value"], [pa.int64(), pa.int64()]),
        (hit, ["host", "n"], [pa.large_string(), pa.int64()]),
        (point, ["x", "y"], [pa.int64(), pa.float64()]),
        (typed, ["value"], [pa.float64()]),
        (maybe, ["value"], [pa.int64()]),
        (functools.partial(hit), ["host", "n"], [pa.large_string(), pa.int64()]),
        (Scale, ["value"], [pa.float64()]),
        (Scale(3), ["value"], [pa.float64()]),
        (str, ["value"], [pa.large_string()]),
    ],
)
def test_annotations_are_known_before_anything_runs(fn: Any, names: list[str], types: list[Any]) -> None:
    data = mr.from_items(NUMBERS).map(fn)
    node = data._node
    assert node.shape is not None
    assert list(node.shape.names) == names
    assert list(node.shape.types) == types
    assert data.take_all() == [  # and true
        tuple(out) if isinstance(out, tuple) else dataclasses.astuple(out) if isinstance(out, Point) else out
        for out in map(fn() if fn is Scale else fn, NUMBERS)
    ]
    assert mr.from_items([1]).flat_map(many).sort("host").take_all() == [("1", 1)]


def test_names_rule_over_annotations_and_those_over_the_first_record() -> None:
    data = mr.from_items(NUMBERS)
    assert data.map(hit, names=["h", "m"]).first()._asdict() == {"h": "0", "m": 0}
    assert data.map(lambda n: Hit("a", n)).first()._asdict() == {"host": "a", "n": 0}
    declared = data.map(lambda n: (n, n), names={"a": int, "b": float})
    assert declared.schema().types == [pa.int64(), pa.float64()]
    assert repr(declared.first()) == "Row(a=0, b=0.0)"
    for types in ({"a": pa.int64(), "b": pa.float64()}, {"a": pl.Int64, "b": pl.Float64}):
        assert data.map(pair, names=types).schema().types == [pa.int64(), pa.float64()]


@pytest.mark.parametrize(
    ("record", "names"),
    [(1, ["value"]), ((1, 2), ["key", "value"]), ((1,), ["c0"]), ((1, 2, 3), ["c0", "c1", "c2"]), ({"a": 1}, ["a"])],
)
def test_unnamed_columns(record: Any, names: list[str]) -> None:
    assert mr.from_items([record]).schema().names == names
    assert mr.from_items([0]).map(lambda _: record).schema().names == names


@pytest.mark.parametrize("names", [[], [""], ["a", "a"], [1], {"a": 3}, ""])
def test_names_that_are_none(names: Any) -> None:
    with pytest.raises(mr.PlanError):
        mr.from_items([1]).map(lambda n: n, names=names)
    with pytest.raises(mr.PlanError):
        mr.from_items([1], names=names)


def test_a_column_that_is_not_known_at_plan_time_names_the_cure_and_the_line() -> None:
    unknown = mr.from_items(NUMBERS).map(lambda n: (n, n))
    for use in (
        lambda: unknown.select("key"),
        lambda: unknown.sort("key"),
        lambda: unknown.group_by("key"),
        lambda: unknown.filter(pl.col("key") > 1),
        lambda: unknown.join(unknown, on="key"),
        lambda: unknown.distinct(),
        lambda: unknown.agg(n=mr.sum("key")),
        lambda: unknown.explode("key"),
    ):
        with pytest.raises(mr.PlanError, match=r"add names=.*test_dataset_records\.py:\d+"):
            use()
    assert unknown.count() == 10


def test_dict_records() -> None:
    data = mr.from_items([{"a": 1, "b": 2}, {"b": 3}])
    assert data.take_all() == [(1, 2), (None, 3)]
    with pytest.raises(mr.RecordError, match="new key 'c'"):
        mr.from_items([{"a": 1}, {"c": 1}])
    later = mr.from_items(NUMBERS).map(lambda n: {"a": n, "c": n} if n == 9 else {"a": n})
    with pytest.raises(mr.JobFailed, match="c"):
        later.take_all()
    declared = mr.from_items(NUMBERS).map(lambda n: {"c": n} if n == 9 else {"a": n}, names={"a": int, "c": int})
    assert declared.take_all()[-1] == (None, 9)


def test_row() -> None:
    row: Any = mr.from_items([("h", 1)], names=["host name", "n"]).first()
    assert issubclass(type(row), tuple)
    assert (row.n, row["n"], row[1], row["host name"], row[0]) == (1, 1, 1, "h", "h")
    assert row._asdict() == {"host name": "h", "n": 1}
    assert row._replace(n=2) == ("h", 2)
    assert row == ("h", 1)
    assert hash(row) == hash(("h", 1))
    with pytest.raises(AttributeError, match="no column 'm'; there are host name, n"):
        row.m  # noqa: B018
    with pytest.raises(KeyError, match="no column"):
        row["m"]
    with pytest.raises(ValueError, match="no column m"):
        row._replace(m=1)
    back = mr.from_items([1]).map(lambda n: row).first()
    assert back._asdict() == row._asdict()


# --- the round trip --------------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
columns: list[st.SearchStrategy[Any]] = [
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    text,
    st.booleans(),
    st.binary(max_size=4),
    st.datetimes(),
    st.datetimes(dt.datetime(1900, 1, 1), timezones=st.just(dt.UTC)),
    st.dates(),
    st.times(),
    st.timedeltas(dt.timedelta(days=-(10**6)), dt.timedelta(days=10**6)),
    st.decimals(-(10**9), 10**9, places=3, allow_nan=False),
    st.lists(st.none() | st.integers(-5, 5), max_size=3),
    st.tuples(text, st.none() | st.floats(allow_nan=False)),
    st.dictionaries(text, st.integers(-5, 5), max_size=2),
    st.frozensets(st.integers(0, 5), max_size=3),
    st.complex_numbers(allow_nan=False),
]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and type(a) is type(b):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_values_reach_the_next_function_as_they_were_emitted(data: st.DataObject) -> None:
    """Through a map, a shuffle with a sort inside the group, and out: equal and of the same type."""
    emitted = data.draw(st.lists(st.none() | data.draw(st.sampled_from(columns)), min_size=1, max_size=9))
    rows = [(n % 2, n, value) for n, value in enumerate(emitted)]

    def check(row: Any) -> tuple[Any, ...]:
        assert same(row[2], emitted[row[1]])
        return tuple(row)

    names = ["k", "n", "v"]
    found = (
        mr.from_items(list(range(len(rows))))
        .map(lambda n: rows[n], names=names)
        .map(check, names=names)
        .group_by("k")
        .map_groups(lambda key, members: (check(r) for r in members), sort_by="n", names=names)
        .filter(lambda row: check(row) is not None)
        .sort("n")
        .take_all()
    )
    assert len(found) == len(rows)
    assert all(same(row.v, emitted[row.n]) for row in found)


def test_numpy_scalars_become_python_ones_and_nested_named_tuples_tuples() -> None:
    data = mr.from_items([0]).map(lambda _: (np.int32(3), np.float32(0.5), np.str_("a"), np.bool_(True)))
    (row,) = data.map(lambda row: (row, tuple(type(v).__name__ for v in row)), names=["row", "types"]).take_all()
    assert row.types == ("int", "float", "str", "bool")
    nested = mr.from_items([0]).map(lambda _: ("k", Hit("a", 1)), names=["k", "hit"]).first()
    assert tuple(nested.hit) == ("a", 1)


def test_objects_are_refused_as_keys_and_in_files(tmp_path: Path) -> None:
    data = mr.from_items([1, 2]).map(lambda n: (frozenset([n]), n), names=["s", "n"])
    with pytest.raises((mr.PlanError, mr.JobFailed), match="'s'"):
        data.group_by("s").agg(n=mr.count()).take_all()
    with pytest.raises((mr.PlanError, mr.JobFailed), match="'s'"):
        data.sort("s").take_all()
    with pytest.raises((mr.PlanError, mr.OutputError, mr.JobFailed), match="'s' holds Python objects"):
        data.write_parquet(str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    lists = mr.from_items([([1], 1)], names=["xs", "n"])
    with pytest.raises((mr.PlanError, mr.JobFailed), match="'xs'"):
        lists.group_by("xs").agg(n=mr.count()).take_all()


# --- types over batches and tasks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", ["write_parquet", "write_json"])
def test_null_gives_way_to_a_type_and_int_to_float_over_tasks(write: str, tmp_path: Path) -> None:
    """The parts of one output have one schema, although most tasks saw only nulls, or only ints."""
    rows = [(None, n) for n in range(8)] + [("a", 0.5)]
    data = mr.from_items(list(range(9))).map(lambda n: rows[n], names=["t", "x"])
    getattr(data, write)(str(tmp_path / "out"))
    parts = sorted((tmp_path / "out").glob("part-*"))
    assert len(parts) == 3
    if write == "write_parquet":
        schemas = {str(pl.read_parquet_schema(part)) for part in parts}
        assert len(schemas) == 1
        back = mr.read_parquet(str(tmp_path / "out"))
    else:
        back = mr.read_json(str(tmp_path / "out"), schema={"t": str, "x": float})
    assert back.take_all() == [(t, float(x)) for t, x in rows]
    assert [type(r.x) for r in back.take_all()] == [float] * 9
    assert [type(r.x) for r in data.take_all()] == [float] * 9


@fast
@given(
    st.lists(st.sampled_from([None, 1, 2, 0.5, 2**53 + 1, "a", True]), max_size=10),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_moving_a_boundary_never_changes_a_result(values: list[Any], split: int, batch: int) -> None:
    """A mixture of types is the same or an error, however the records are cut into tasks and batches."""
    found: list[Any] = []
    for items, rows in ((split, batch), (1000, 1000)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mr.inputs.ITEMS_PER_SPLIT", items)
            patch.setattr("mr.operators.python.PYTHON_BATCH_ROWS", rows)
            try:
                data = mr.from_items(list(range(len(values)))).map(lambda n: values[n], names="v").take_all()
                found.append([(type(v), v) for v in data])
            except (mr.JobFailed, mr.TypeConflict) as error:
                found.append("error" if "'v'" in str(error) else error)
    assert found[0] == found[1]
    kinds = {type(v) for v in values} - {type(None)}
    if found[0] != "error":
        assert kinds <= {int, float} or len(kinds) == 1
        assert [v for _, v in found[0]] == values
        assert len({t for t, _ in found[0]} - {type(None)}) <= 1
    else:
        assert len(kinds) > 1


@pytest.mark.parametrize("rows", [2, 3, 4, 100])
def test_ints_among_float_keys_are_floats_however_the_input_is_split(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decision 37: in one task they always were."""
    monkeypatch.setattr("mr.inputs.ITEMS_PER_SPLIT", rows)
    data = mr.from_items(NUMBERS).map(lambda n: (None if n < 4 else n if n < 8 else 4.0, n), names=["k", "v"])
    wanted = {None: 4, 4.0: 3, 5.0: 1, 6.0: 1, 7.0: 1}
    for counts in (
        data.group_by("k").agg(n=mr.count()),
        data.group_by("k").map_groups(lambda key, rows: (key, len(list(rows)))),
        data.join(data.distinct("k").select("k"), on="k", strategy="sort_merge").group_by("k").agg(n=mr.count()),
    ):
        found = dict(counts.take_all())
        assert found == {k: n for k, n in wanted.items() if k is not None or None in found}
        assert {type(key) for key in found} <= {float, type(None)}
    huge = mr.from_items(NUMBERS).map(lambda n: (2**53 + 1 if n < 8 else 4.0, n), names=["k", "v"])
    with pytest.raises((mr.TypeConflict, mr.JobFailed), match=r"'k'.*9007199254740993"):
        huge.group_by("k").agg(n=mr.count()).take_all()


def test_a_key_column_has_one_type_over_all_tasks() -> None:
    data = mr.from_items(NUMBERS).map(lambda n: (None if n < 4 else n if n < 8 else "x", n), names=["k", "v"])
    uses: list[Callable[[], mr.Dataset]] = [
        lambda: data.group_by("k").agg(n=mr.count()),
        lambda: data.group_by("k").map_groups(lambda key, rows: (key, len(list(rows)))),
        lambda: data.distinct("k"),
        lambda: data.join(mr.from_items([("x", 2)], names=["k", "w"]), on="k", strategy="sort_merge"),
    ]
    for use in uses:
        with pytest.raises(
            (mr.TypeConflict, mr.JobFailed, mr.PlanError),
            match=r"'k' is (int (in some records|before)|str in some records).*(str|int)",
        ):
            use().take_all()
    declared = mr.from_items(NUMBERS).map(lambda n: (n if n < 5 else float(n - 5), n), names={"k": float, "v": int})
    assert sorted(declared.group_by("k").agg(n=mr.count()).take_all()) == [(float(n), 2) for n in range(5)]
    nulls = mr.from_items(NUMBERS).map(lambda n: (None if n < 5 else n % 5, n), names=["k", "v"])
    assert {tuple(r) for r in nulls.group_by("k").agg(n=mr.count()).take_all()} == {
        (None, 5),
        *((k, 1) for k in range(5)),
    }


@pytest.mark.parametrize("rows", [5, 6, 100])
@pytest.mark.parametrize("batch", [3, 6, 100])
def test_a_conflict_is_found_also_where_records_are_only_counted(
    rows: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mr.inputs.ITEMS_PER_SPLIT", rows)
    monkeypatch.setattr("mr.operators.python.PYTHON_BATCH_ROWS", batch)
    for make in (
        lambda items: items.map(lambda n: n if n < 5 else "a"),
        lambda items: items.flat_map(lambda n: [n if n < 5 else "a"]),
    ):
        with pytest.raises((mr.TypeConflict, mr.JobFailed), match=r"map .*'value' is int .*str"):
            make(mr.from_items(NUMBERS)).count()
    assert mr.from_items(NUMBERS).map(lambda n: None if n < 5 else "a").count() == 10


def test_a_conflict_names_record_column_and_both_types() -> None:
    with pytest.raises(mr.TypeConflict, match=r"'value'.*int.*str 'a'") as caught:
        mr.from_items([1, "a"])
    assert caught.value.row == 1
    with pytest.raises(mr.JobFailed, match=r"(?s)map .*'value'.*int.*bool True"):
        mr.from_items([1, 2]).map(lambda n: n == 2 or 1).take_all()
    over_tasks = mr.from_items(NUMBERS).map(lambda n: "a" if n > 7 else n, names=["x"])
    with pytest.raises(mr.TypeConflict, match=r"'x' is int in some records and str in others"):
        over_tasks.take_all()
    with pytest.raises((mr.JobFailed, mr.TypeConflict), match=r"is int in some records and str in others"):
        mr.from_items(NUMBERS[:3]).map(lambda n: n, names=["x"]).union(over_tasks).agg(n=mr.max("x")).take_all()


def test_declared_types_are_kept_and_enforced() -> None:
    data = mr.from_items(NUMBERS)
    assert data.map(lambda n: None, names={"x": float}).schema().field("x").type == pa.float64()
    with pytest.raises(mr.JobFailed, match=r"'x'.*str 'a'"):
        data.map(lambda n: "a", names={"x": int}).take_all()
    with pytest.raises(mr.JobFailed, match="columns"):
        data.map(lambda n: (1, 2, 3), names=["a", "b"]).take_all()
    with pytest.raises(mr.JobFailed, match=r"columns \['value'\] do not match the declared \['x'\]"):
        data.map_batches(lambda df: df, names=["x"]).take_all()


# --- nulls -----------------------------------------------------------------------------------------------------------


def test_functions_see_none_and_filter_keeps_only_true() -> None:
    data = mr.from_items([1, None, 0, 5])
    assert data.map(lambda v: v is None).take_all() == [False, True, False, False]
    assert data.filter(pl.col("value") > 0).take_all() == [1, 5]
    assert data.filter(~(pl.col("value") > 0)).take_all() == [0]
    assert data.filter(lambda v: v).take_all() == [1, 5]
    assert data.filter(pl.col("value").is_null()).take_all() == [None]
    assert data.filter(pl.lit(True)).take_all() == [1, None, 0, 5]
    assert data.filter(pl.lit(False)).take_all() == []
    flags = mr.from_items([(True, 1), (None, 2), (False, 3)], names=["ok", "n"])
    assert [r.n for r in flags.filter(pl.col("ok")).take_all()] == [1]


def test_null_and_nan_are_one_group_each_and_zeros_are_one() -> None:
    data = mr.from_items([(v, 1) for v in (None, math.nan, 0.0, -0.0, -math.nan, None)], names=["k", "n"])
    found = {ident(row.k): row.n for row in data.group_by("k").agg(n=mr.count()).take_all()}
    assert found == {None: 2, "NaN": 2, 0.0: 2}
    assert idents((v,) for v in data.select("k").distinct().sort("k").map(lambda r: r.k, names="k").take_all()) == [
        (0.0,), ("NaN",), (None,),
    ]  # fmt: skip


# --- expressions -----------------------------------------------------------------------------------------------------

X = pl.col("x")


def numbers() -> mr.Dataset:
    return mr.from_items([(n, float(n)) for n in NUMBERS], names=["x", "y"])


@pytest.mark.parametrize(
    ("expr", "named"),
    [
        (X - X.mean(), "mean"),
        (X.sum(), "sum"),
        (X.shift(1), "shift"),
        (X.cum_sum(), "cum_sum"),
        (X.sort(), "sort"),
        (X.rank(), "rank"),
        (X.over("y"), "over"),
        (X.unique(), "unique"),
        (X.head(2), "slice|head"),
        (X.filter(X > 1), "one value a row"),
        (X.drop_nulls(), "one value a row"),
        (pl.concat_list(X, "y").list.eval(pl.element() + 1).list.sum() - X.mean(), "mean"),
        (pl.len(), "len"),
        (pl.when(X.max() < X).then(1).otherwise(2), "max"),
        (X.map_elements(lambda v: v, return_dtype=pl.Int64), "calls Python"),
        (X.map_batches(lambda s: s), "calls Python"),
        (pl.struct(X.reverse(), "y"), "reverse"),
    ],
)
def test_expressions_must_be_row_wise(expr: pl.Expr, named: str) -> None:
    for use in (
        lambda: numbers().select(a=expr),
        lambda: numbers().with_columns(a=expr),
        lambda: numbers().filter(expr),
        lambda: numbers().group_by(a=expr),
        lambda: numbers().group_by("y").agg(a=mr.sum(expr)),
    ):
        with pytest.raises(mr.PlanError, match=named):
            use()


@fast
@given(st.lists(st.tuples(st.none() | st.integers(-9, 9), st.none() | text), max_size=12))
def test_row_wise_expressions_are_those_of_polars(rows: list[Any]) -> None:
    frame = pl.DataFrame(rows, schema={"x": pl.Int64, "s": pl.String}, orient="row")
    data = mr.from_items(rows, names={"x": int, "s": str})
    exprs = {
        "sign": pl.when(X > 0).then(pl.lit("+")).otherwise(pl.lit("-")),
        "upper": pl.col("s").str.to_uppercase(),
        "both": pl.concat_str(pl.col("s"), X.cast(pl.String), ignore_nulls=True),
        "low": pl.min_horizontal(X, pl.lit(3)),
        "one": pl.lit(1),
        "in": X.is_in([1, 2]),
        "filled": pl.coalesce(X, -1) * 2,
        "parts": pl.col("s").str.split("a"),
    }
    assert data.select(**exprs).take_all() == frame.select(**exprs).rows()
    assert data.with_columns(**exprs).take_all() == frame.with_columns(**exprs).rows()
    assert data.with_columns(x=X + 1).take_all() == frame.with_columns(X + 1).rows()
    assert data.filter((X > 0) & (pl.col("s") != "a")).take_all() == frame.filter((X > 0) & (pl.col("s") != "a")).rows()
    assert data.select("s", "x").take_all() == frame.select("s", "x").rows()
    assert data.select(cs.numeric()).take_all() == frame.select(cs.numeric()).rows()
    assert data.select(pl.all()).take_all() == frame.rows()
    twice = (cs.integer() * 2).name.suffix("_twice")
    assert data.with_columns(twice).take_all() == frame.with_columns(twice).rows()
    assert data.select(pl.col("x", "s").is_null()).take_all() == frame.select(pl.col("x", "s").is_null()).rows()
    assert data.select(pl.col("x", "s")).schema().names == ["x", "s"]


def test_selectors_are_expanded_before_they_are_checked() -> None:
    for expr in (pl.all().mean(), pl.col("x", "y") - pl.col("x", "y").mean(), pl.all().filter(X > 1)):
        with pytest.raises(mr.PlanError, match=r"more than one row|one value a row"):
            numbers().select(expr)
    assert numbers().select(pl.all() * X).take_all() == [(n * n, float(n * n)) for n in NUMBERS]
    with pytest.raises(mr.PlanError, match="several columns"):
        numbers().select(cs.integer() * cs.float())
    with pytest.raises(mr.PlanError, match="not one column"):
        numbers().filter(pl.all() > 1)


def test_columns_and_types_of_expressions_are_checked_at_plan_time() -> None:
    for use in (
        lambda: numbers().select("z"),
        lambda: numbers().filter(pl.col("z") > 1),
        lambda: numbers().select(pl.col("x").str.len_chars()),
        lambda: numbers().select("x", "x"),
        lambda: numbers().select(1),  # type: ignore[arg-type]
        lambda: numbers().group_by("z"),
        lambda: numbers().group_by(),
        lambda: numbers().group_by("x").agg(),
        lambda: numbers().group_by("x").agg(n=mr.sum("z")),
        lambda: numbers().group_by("x").agg(x=mr.sum("y")),
        lambda: numbers().sort("z"),
        lambda: numbers().sort(),
        lambda: numbers().sort("x", "y", descending=[True]),
        lambda: numbers().top_k(2, by="z"),
        lambda: numbers().explode("x"),
        lambda: numbers().limit(-1),
        lambda: numbers().map_batches(lambda df: df, batch_size=0),
        lambda: numbers().map_batches(lambda df: df, batch_format="pandas"),  # type: ignore[arg-type]
        lambda: numbers().map(str, on_error="ignore"),  # type: ignore[arg-type]
        lambda: numbers().map("x"),  # type: ignore[arg-type]
        lambda: numbers().write_parquet("x", mode="replace"),  # type: ignore[arg-type]
    ):
        with pytest.raises(mr.PlanError):
            use()


def test_an_aggregation_of_polars_is_refused_with_ours() -> None:
    with pytest.raises(mr.PlanError, match=r"mr\.sum\('x'\)"):
        numbers().group_by("y").agg(t=pl.col("x").sum())  # type: ignore[arg-type]
    with pytest.raises((mr.PlanError, TypeError), match=r"mr.sum"):
        numbers().group_by("y").agg(pl.col("x").sum())  # type: ignore[arg-type]
    with pytest.raises((mr.PlanError, TypeError), match=r"mr.sum"):
        numbers().agg(pl.col("x").sum())  # type: ignore[arg-type]
    with pytest.raises(mr.PlanError, match=r"mr.count"):
        numbers().group_by("y").agg(n=len)  # type: ignore[arg-type]


def test_a_filter_whose_answer_is_neither_true_nor_false_fails_at_its_record(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("1\n2\n3\n")

    def odd(line: str) -> Any:
        return np.array([True, False]) if line == "2" else int(line) % 2

    lines = mr.read_text(str(tmp_path / "n.txt"))
    with pytest.raises(mr.JobFailed, match=r"odd .* raised ValueError: The truth value .*n\.txt, line 2, byte 2"):
        lines.filter(odd).take_all()
    assert lines.filter(odd, on_error="skip").take_all() == ["1", "3"]


def test_filter_refuses_what_is_not_a_condition() -> None:
    with pytest.raises(mr.PlanError, match=r"true or false|bool"):
        numbers().filter(pl.col("x") + 1)
    with pytest.raises(mr.PlanError):
        numbers().filter("x")  # type: ignore[arg-type]


# --- Python operators ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", ["ab", b"ab", {"a": 1}, None])
def test_flat_map_refuses_what_is_surely_a_mistake(result: Any) -> None:
    with pytest.raises(mr.JobFailed, match=f"needs an iterable of records, got {type(result).__name__}"):
        mr.from_items([1]).flat_map(lambda _: result).take_all()


@fast
@given(st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=10))
def test_flat_map_takes_any_iterable(lists: list[list[int]]) -> None:
    flat = [v for one in lists for v in one]
    data = mr.from_items(list(range(len(lists))))
    for fn in (
        lambda n: lists[n],
        lambda n: tuple(lists[n]),
        lambda n: iter(lists[n]),
        lambda n: (v for v in lists[n]),
        lambda n: np.array(lists[n], dtype=int),
    ):
        assert data.flat_map(fn).take_all() == flat
        assert data.flat_map(fn, on_error="skip").take_all() == flat
        assert data.flat_map(fn).map(lambda v: v).take_all() == flat


def test_explode() -> None:
    data = mr.from_items([("a", [1, 2]), ("b", []), ("c", None), ("d", [None])], names={"k": str, "v": list[int]})
    assert data.explode("v").take_all() == [("a", 1), ("a", 2), ("b", None), ("c", None), ("d", None)]
    assert data.explode("v").schema().field("v").type == pa.int64()
    assert mr.from_items([[1], [2, 3]]).explode("value").take_all() == [1, 2, 3]
    assert data.filter(pl.col("k") == "z").explode("v").take_all() == []


@pytest.mark.parametrize("batch_format", ["polars", "arrow", "numpy"])
def test_map_batches_gets_batches_of_the_size_asked_for(batch_format: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mr.inputs.ITEMS_PER_SPLIT", 7)

    def size(batch: Any) -> dict[str, list[int]]:
        rows = len(batch["value"]) if batch_format == "numpy" else len(batch)
        return {
            "rows": [rows],
            "first": [int(batch["value"][0] if batch_format != "arrow" else batch["value"][0].as_py())],
        }

    found = mr.from_items(list(range(18))).map(int).map_batches(size, batch_size=4, batch_format=batch_format)
    assert found.take_all() == [(4, 0), (3, 4), (4, 7), (3, 11), (4, 14)]
    with pytest.raises(mr.JobFailed, match=r"return a pl\.DataFrame, pa\.Table or dict of columns, not int"):
        mr.from_items([1]).map_batches(lambda b: 1).take_all()


def twice(batch: Any) -> pa.Table:
    return pa.table([batch["value"], batch["value"]], ["value", "value"])


def bare(batch: Any) -> pa.Table:
    return batch.select([])


@pytest.mark.parametrize("fn", [twice, bare])
def test_a_batch_of_unusable_columns_is_an_error_that_names_the_function(fn: Any) -> None:
    why = "two columns named 'value'" if fn is twice else "3 rows but no columns"
    data = mr.from_items([1, 2, 3])
    for made in (
        data.map_batches(fn, batch_format="arrow"),
        data.group_by("value").map_batches(fn, batch_format="arrow"),
        data.map_batches(fn, batch_format="arrow", names=["value"]),
    ):
        with pytest.raises(mr.JobFailed, match=rf"map_batches {fn.__name__} \(test_dataset_records\.py:\d+\).*{why}"):
            made.take_all()
    left = data.map_batches(fn, batch_size=2, batch_format="arrow", on_error="quarantine").rejected().take_all()
    assert [why.replace("3 rows", f"{rows} rows") in row.error for row, rows in zip(left, (2, 1), strict=True)] == [
        True
    ] * 2


@pytest.mark.parametrize("nothing", [pl.DataFrame(), pa.table({}), {}])
def test_a_batch_of_nothing_is_no_rows(nothing: Any) -> None:
    made = mr.from_items([1, 2, 3]).map_batches(lambda batch: nothing if 2 in batch["value"] else batch, batch_size=1)
    assert made.take_all() == [(1,), (3,)]


def test_a_class_is_built_once_a_task(tmp_path: Path) -> None:
    class Counts:
        def __init__(self) -> None:
            mr.counter("built").add()

        def __call__(self, n: int) -> int:
            mr.counter("called").add()
            return n

    uses: list[Use] = [lambda d: d.map(Counts), lambda d: d.filter(Counts)]
    uses += [lambda d: d.map(lambda n: [n]).flat_map(Counts)]
    for use in uses:
        result = use(mr.from_items(NUMBERS)).write_json(str(tmp_path / "out"), mode="overwrite")
        assert result.counters == {"built": 3, "called": 10}


def test_limit_take_first_count_show_schema(capsys: pytest.CaptureFixture[str]) -> None:
    data = mr.from_items(NUMBERS)
    for n in (0, 1, 4, 5, 10, 99):
        assert data.limit(n).take_all() == NUMBERS[:n]
        assert data.take(n) == NUMBERS[:n]
        assert data.filter(pl.col("value") % 3 == 1).limit(n).take_all() == [1, 4, 7][:n]
        assert data.limit(n).count() == min(n, 10)
        assert data.limit(n).map(str).limit(3).take_all() == [str(i) for i in NUMBERS[:n]][:3]
        assert sorted(data.sort("value", descending=True).limit(n).take_all()) == sorted(NUMBERS[::-1][:n])
    assert (data.first(), mr.from_items([]).first(), data.count()) == (0, None, 10)
    assert data.schema() == pa.schema([("value", pa.int64())])
    data.show(2)
    assert "│ 1     │" in capsys.readouterr().out


def test_take_reads_no_more_than_it_needs() -> None:
    def explode_late(n: int) -> int:
        if n > 5:
            raise ValueError("was not needed")
        return n

    assert mr.from_items(list(range(100))).map(explode_late).take(3) == [0, 1, 2]


# --- errors in functions ---------------------------------------------------------------------------------------------


def parse(text: str) -> int:
    return int(text)


MIXED = ["1", "x", "3", "4", "y", "6", "7", "8", "z"]


def test_fail_names_the_function_the_record_and_shows_only_user_frames() -> None:
    with pytest.raises(
        mr.JobFailed, match=r"(?s)map parse \(test_dataset_records\.py:\d+\) raised ValueError: .*'x'"
    ) as caught:
        mr.from_items(MIXED).map(parse).take_all()
    assert "in parse" in str(caught.value.detail)
    assert "mr/operators" not in str(caught.value.detail)


def test_skip_and_quarantine(tmp_path: Path) -> None:
    data = mr.from_items(MIXED)
    assert data.map(parse, on_error="skip").take_all() == [1, 3, 4, 6, 7, 8]
    kept = data.map(parse, on_error="quarantine")
    rejected = kept.rejected().take_all()
    assert [row.raw for row in rejected] == [b"x", b"y", b"z"]
    assert rejected[0]._fields == ("path", "offset", "line", "operator", "error", "raw")
    assert {row.operator for row in rejected} == {"parse"}
    assert rejected[0].error == "ValueError: invalid literal for int() with base 10: 'x'"

    @mr.job
    def both(out: str) -> Any:
        numbers = mr.from_items(MIXED).map(parse, on_error="quarantine")
        return {"good": numbers.write_json(f"{out}/good"), "bad": numbers.rejected().write_json(f"{out}/bad")}

    result = both(str(tmp_path))
    assert {name: output.rows for name, output in result.outputs.items()} == {"good": 6, "bad": 3}
    assert result.counters["rejected records"] == 3
    assert data.filter(lambda t: int(t) > 3, on_error="skip").take_all() == ["4", "6", "7", "8"]


def test_a_rejected_record_contributes_nothing_also_when_it_had_already_yielded() -> None:
    def some(n: int) -> Iterator[int]:
        yield n
        if n % 4 == 3:
            raise ValueError(n)
        yield -n

    data = mr.from_items(list(range(12)))
    assert data.flat_map(some, on_error="skip").take_all() == [v for n in range(12) if n % 4 != 3 for v in (n, -n)]
    assert [r.raw for r in data.flat_map(some, on_error="quarantine").rejected().take_all()] == [b"3", b"7", b"11"]


def test_quarantine_needs_a_use_and_rejected_needs_a_quarantine(tmp_path: Path) -> None:
    kept = mr.from_items(MIXED).map(parse, on_error="quarantine")
    with pytest.raises(mr.PlanError, match=r"test_dataset_records\.py:\d+.*rejected\(\)"):
        kept.write_json(str(tmp_path / "out"))
    with pytest.raises(mr.PlanError, match="quarantine"):
        mr.from_items(MIXED).map(parse, on_error="skip").rejected()
    with pytest.raises(mr.PlanError, match="quarantine"):
        kept.filter(lambda n: True).rejected()


@pytest.mark.parametrize(("most", "fails"), [(2, True), (3, False), (0.3, True), (0.34, False)])
def test_max_bad_records_is_a_count_or_a_share(most: Any, fails: bool) -> None:
    data = mr.from_items(MIXED).map(parse, on_error="skip", max_bad_records=most)
    if fails:
        with pytest.raises(mr.JobFailed, match=r"map .* rejected 3 of 9 records"):
            data.take_all()
    else:
        assert data.count() == 6


def test_a_message_is_one_line_without_escape_codes(tmp_path: Path) -> None:
    def broken(line: str) -> str:
        raise ValueError("no\n  such key")

    (tmp_path / "in").write_bytes(b"\x1b[31m\0\n")
    with pytest.raises(mr.JobFailed, match=r"raised ValueError: no such key at .*in, line 1, byte 0") as caught:
        mr.read_text(str(tmp_path / "in")).map(broken).take_all()
    assert "no\n  such key" in caught.value.detail
    with pytest.raises(mr.JobFailed) as caught:
        mr.read_json(str(tmp_path / "in"), schema={"n": int}).take_all()
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith(r"\x1b[31m\x00")


def test_a_function_that_ends_the_program_shows_only_user_frames() -> None:
    with pytest.raises(mr.JobFailed, match=r"SystemExit: 3$") as caught:
        mr.from_items([1]).map(lambda n: sys.exit(3)).take_all()
    assert "sys.exit(3)" in caught.value.detail


def test_a_function_that_interrupts_its_worker_fails_its_task(tmp_path: Path) -> None:
    def interrupts(n: int) -> int:
        raise KeyboardInterrupt("stop")

    with (
        mr.Session(on="local", workers=1, home=tmp_path),
        pytest.raises(mr.JobFailed, match="KeyboardInterrupt: stop") as caught,
    ):
        mr.from_items([1]).map(interrupts).take_all()
    assert "lost" not in str(caught.value)
    assert "interrupts" in caught.value.detail
    assert "/mr/worker.py" not in caught.value.detail


@pytest.mark.parametrize("most", [0.4, 0.3])
def test_a_share_is_of_what_the_operator_was_given(most: float) -> None:
    def parse(n: int) -> int:
        return n // (n % 10 % 3)  # fails for 4 of 10

    many = mr.from_items(["0"]).flat_map(lambda _: list(range(1000)), names="n")
    few = mr.range(1000).filter(lambda n: n < 10)
    for data in (many, few, mr.range(1000)):
        counted = data.map(parse, names="n", on_error="skip", max_bad_records=most)
        if most == 0.4:
            assert counted.count() in (6, 600)
        else:
            with pytest.raises(mr.JobFailed, match=r"rejected 4(00)? of (1,000|10) records"):
                counted.count()


def test_max_bad_records_counts_those_of_its_own_operator() -> None:
    data = mr.from_items(MIXED).map(str, on_error="skip", max_bad_records=0).map(parse, on_error="skip")
    assert data.count() == 6
    with pytest.raises(mr.JobFailed, match="rejected"):
        mr.from_items(MIXED).map(parse, on_error="skip", max_bad_records=2).map(str, on_error="skip").count()
    strict = mr.from_items(MIXED).map(parse, on_error="skip").filter(
        lambda n: 1 / (n - 3), on_error="skip", max_bad_records=0
    )  # fmt: skip
    with pytest.raises(mr.JobFailed, match=r"rejected 1 of 6 records"):
        strict.count()


def test_stop_iteration_and_exit_do_not_end_the_records_silently() -> None:
    def stop(n: int) -> Any:
        raise StopIteration

    uses: list[Use] = [lambda d: d.map(stop), lambda d: d.flat_map(stop), lambda d: d.filter(stop)]
    for use in uses:
        with pytest.raises(mr.JobFailed, match="StopIteration"):
            use(mr.from_items([1])).take_all()
    with pytest.raises(mr.JobFailed, match="StopIteration"):
        mr.from_items([(1, 1)]).group_by("key").map_groups(lambda key, rows: stop(1)).take_all()


# --- what functions may ask ------------------------------------------------------------------------------------------


def test_counters_are_summed_over_tasks_and_kept_when_reused(inline: mr.Session, tmp_path: Path) -> None:
    inline.reuse = True

    def odd(n: int) -> int:
        mr.counter("odd").add(n % 2)
        return n

    data = mr.from_items([n for n in range(20) for _ in range(2)]).map(odd)
    first = data.write_json(str(tmp_path / "a"))
    again = data.write_json(str(tmp_path / "b"))
    assert first.counters == again.counters == {"odd": 20}
    assert (again.tasks_run, again.tasks_reused) == (0, first.tasks_run)
    mr.counter("outside").add()  # goes nowhere


def test_equal_splits_run_once_but_count_each_time(tmp_path: Path) -> None:
    def count(n: int) -> int:
        mr.counter("seen").add()
        return n

    result = mr.from_items([1, 2, 3, 4] * 3).map(count).write_json(str(tmp_path / "out"))
    assert result.tasks_run == 1
    assert result.counters == {"seen": 12}
    assert mr.read_json(str(tmp_path / "out")).count() == 12


def test_the_generator_is_seeded_by_the_task() -> None:
    def roll(n: int) -> float:
        return mr.rng().random()

    data = mr.from_items(NUMBERS).map(roll)
    first = data.take_all()
    assert len(set(first)) == 10
    assert data.take_all() == first
    with mr.Session(on="inline", memory=10_000, reuse=False):
        assert data.take_all() == first
    assert mr.context().attempt == ""


# --- day-one help ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("groupBy", "group_by"), ("collect", "take_all"), ("withColumn", "with_columns"), ("flatMap", "flat_map"),
        ("foldby", "reduce_by_key"), ("frequencies", "value_counts"), ("fliter", "filter"),
    ],
)  # fmt: skip
def test_an_unknown_method_names_ours(theirs: str, ours: str) -> None:
    with pytest.raises(AttributeError, match=rf"no method {theirs!r}; use {ours}"):
        getattr(mr.from_items([1]), theirs)
    assert not hasattr(mr.from_items([1]), "_repr_mimebundle_")


def test_help_of_groups_and_of_iterating() -> None:
    grouped = mr.from_items([(1, 2)]).groupby("key")
    assert grouped.count().take_all() == [(1, 1)]
    with pytest.raises(AttributeError, match="GroupedDataset has no method 'aggregate'"):
        grouped.aggregate  # noqa: B018
    with pytest.raises(TypeError, match="take_all"):
        iter(mr.from_items([1]))
    with pytest.raises(AttributeError, match="no_such"):
        mr.no_such  # noqa: B018


def test_sessions_are_nested_and_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mr.session import _Current, current

    outer = current()
    with mr.Session(on="inline", workers=3, memory="1MiB", home=tmp_path / "home") as inner:
        assert (current(), inner.workers, inner.memory_bytes) == (inner, 3, 1 << 20)
        assert mr.from_items([1]).take_all() == [1]
        assert (tmp_path / "home" / "journal.db").exists()
    assert current() is outer
    monkeypatch.setattr(_Current, "session", None)
    mr.configure(on="inline", memory="2GB")
    assert (current().on, current().memory_bytes) == ("inline", 2 * 10**9)
    wrong: Any
    for wrong in ({"on": "spark"}, {"memory": "much"}):
        with pytest.raises(mr.PlanError):
            mr.Session(**wrong)


def test_showing_a_dataset_runs_nothing() -> None:
    def never(n: int) -> int:
        raise AssertionError

    data = mr.from_items([1]).map(never)
    assert "stage 0: items > map" in data.explain()
    assert "stage 0" in data._repr_html_()
    repr(data)
