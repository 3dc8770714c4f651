"""What shuffles rows - grouped, joined, sorted, distinct - against plain Python and DuckDB, over many tiny tasks."""

from __future__ import annotations

import math
import operator
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from dataset_kit import ident, idents, in_order, rank, shrink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr

NAN = math.nan
COLUMNS = {"k": str, "f": float, "i": int}
rows_of = st.lists(
    st.tuples(
        st.sampled_from([None, "", "a", "b", "é", "a\0", "aaaaaaaaa"]),
        st.sampled_from([None, 0.0, -0.0, NAN, 1.5, -2.0, 1e300]),
        st.sampled_from([None, 0, 1, -3, 7, 2**62]),
    ),
    max_size=24,
)
fast = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)
    inline.reuse = False


def dataset(rows: list[Any]) -> mr.Dataset:
    return mr.from_items(rows, names=COLUMNS)


def grouped(rows: list[Any], *columns: int) -> dict[Any, list[Any]]:
    groups = defaultdict(list)
    for row in rows:
        groups[ident(tuple(row[c] for c in columns))].append(row)
    return groups


def by_key(rows: list[Any], width: int = 1) -> dict[Any, Any]:
    found = {ident(tuple(row[:width])): tuple(row[width:]) for row in rows}
    assert len(found) == len(rows)
    return found


def extreme(values: list[Any], largest: bool) -> Any:
    kept = sorted((v for v in values if v is not None), key=rank)
    return None if not kept else kept[-1 if largest else 0]


# --- aggregates ------------------------------------------------------------------------------------------------------


@fast
@given(rows_of)
def test_aggregates_of_groups(rows: list[Any]) -> None:
    found = (
        dataset(rows)
        .group_by("k", "f")
        .agg(
            n=mr.count(),
            c=mr.count("i"),
            low=mr.min("i"),
            high=mr.max("f"),
            low_f=mr.min("f"),
            d=mr.count_distinct("i"),
        )
    )
    expected = {}
    for key, members in grouped(rows, 0, 1).items():
        i, f = [m[2] for m in members], [m[1] for m in members]
        present = [v for v in i if v is not None]
        expected[key] = (
            len(i), len(present), extreme(i, False), extreme(f, True), extreme(f, False), len(set(present))
        )  # fmt: skip
    assert {k: ident(v) for k, v in by_key(found.take_all(), 2).items()} == {k: ident(v) for k, v in expected.items()}


@fast
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.none() | st.integers(-9, 9), st.none() | st.integers(-64, 64).map(lambda n: n / 8)
        ),
        max_size=24,
    )
)
def test_sums_and_means_as_sql(rows: list[Any]) -> None:
    data = mr.from_items(rows, names={"k": int, "i": int, "f": float})
    found = data.group_by("k").agg(
        si=mr.sum("i"), sf=mr.sum("f"), mi=mr.mean("i"), mf=mr.mean("f"), se=mr.sum(pl.col("i") * 2 + pl.col("k"))
    )
    table = pa.table(
        {
            n: pa.array([r[c] for r in rows], t)
            for c, (n, t) in enumerate(zip("kif", [pa.int64(), pa.int64(), pa.float64()], strict=True))
        }
    )
    sql = "SELECT k, sum(i)::BIGINT, sum(f), avg(i), avg(f), sum(i * 2 + k)::BIGINT FROM t GROUP BY k ORDER BY k"
    found_by_sql = duckdb.connect().from_arrow(table).query("t", sql)
    assert found_by_sql is not None
    expected = found_by_sql.fetchall()
    assert [tuple(row) for row in found.sort("k").take_all()] == expected


@fast
@given(rows_of)
def test_one_row_of_aggregates_over_everything(rows: list[Any]) -> None:
    (row,) = dataset(rows).agg(n=mr.count(), high=mr.max("i"), low=mr.min("f"), d=mr.count_distinct("k")).take_all()
    ks = {r[0] for r in rows if r[0] is not None}
    assert row._asdict().keys() == {"n", "high", "low", "d"}
    expected = (len(rows), extreme([r[2] for r in rows], True), extreme([r[1] for r in rows], False), len(ks))
    assert ident(tuple(row)) == ident(expected)


def test_sum_of_nothing_is_null_and_count_zero() -> None:
    empty = mr.from_items([], names={"x": int})
    assert empty.agg(s=mr.sum("x"), m=mr.mean("x"), n=mr.count(), c=mr.count("x")).take_all() == [(None, None, 0, 0)]
    nulls = mr.from_items([("a", None)], names={"k": str, "x": int}).group_by("k")
    assert nulls.agg(s=mr.sum("x"), low=mr.min("x"), m=mr.mean("x"), n=mr.count(), c=mr.count("x")).take_all() == [
        ("a", None, None, None, 1, 0)
    ]


@fast
@given(rows_of)
def test_grouping_by_expressions(rows: list[Any]) -> None:
    found = dataset(rows).group_by("k", odd=pl.col("i") % 2).agg(n=mr.count())
    expected: dict[Any, tuple[int]] = {}
    for k, _, i in rows:
        key = (k, None if i is None else i % 2)
        expected[key] = (expected.get(key, (0,))[0] + 1,)
    assert by_key(found.take_all(), 2) == expected
    counted = dataset(rows).group_by(pl.col("f").is_null()).count()
    assert by_key(counted.take_all()) == {k: (len(v),) for k, v in grouped([(r[1] is None,) for r in rows], 0).items()}


# --- Python functions of groups --------------------------------------------------------------------------------------


@fast
@given(rows_of, st.booleans())
def test_map_groups_sees_whole_records_in_the_order_asked_for(rows: list[Any], down: bool) -> None:
    numbered = [(*row, n) for n, row in enumerate(rows)]

    def trace(key: Any, records: Iterator[Any]) -> Iterator[tuple[Any, int, int]]:
        for place, record in enumerate(records):
            assert ident(record.f) == ident(key)
            yield record.f, place, record.n

    data = mr.from_items(numbered, names={**COLUMNS, "n": int}).group_by("f")
    groups = grouped(numbered, 1)
    found = data.map_groups(trace, names=["f", "place", "n"]).take_all()
    assert {k: [r.n for r in v] for k, v in grouped(found, 0).items()} == {
        k: [r[3] for r in v] for k, v in groups.items()
    }
    ordered = data.map_groups(trace, sort_by=["i", "k"], descending=[down, not down], names=["f", "place", "n"])
    names = ["k", "f", "i", "n"]
    for key, members in grouped(ordered.take_all(), 0).items():
        expected = in_order([dict(zip(names, m, strict=True)) for m in groups[key]], ["i", "k"], [down, not down])
        assert [m.n for m in members] == [e["n"] for e in expected]
        assert [m.place for m in members] == list(range(len(members)))


def test_the_key_is_a_value_for_one_column_and_a_row_for_several() -> None:
    data = mr.from_items([("a", 1), ("b", 2)], names=["k", "n"])

    def kind(key: Any, rows: Iterator[Any]) -> tuple[str, str]:
        return type(key).__name__, repr(key)

    assert sorted(data.group_by("k").map_groups(kind).take_all()) == [("str", "'a'"), ("str", "'b'")]
    assert sorted(data.group_by("k", "n").map_groups(kind).take_all()) == [
        ("Row", "Row(k='a', n=1)"), ("Row", "Row(k='b', n=2)"),
    ]  # fmt: skip


def test_a_grouped_function_gives_many_none_or_one() -> None:
    data = mr.from_items([("a", 1), ("b", 2), ("c", 3)], names=["k", "n"]).group_by("k")

    def some(key: str, rows: Iterator[Any]) -> Any:
        if key == "a":
            return iter([("a", 1), ("a", 2)])
        return None if key == "b" else ("c", 0)

    assert sorted(data.map_groups(some, names=["k", "x"]).take_all()) == [("a", 1), ("a", 2), ("c", 0)]
    values = data.map_groups(lambda key, rows: [key, "x"], names="list").take_all()
    assert sorted(values) == [["a", "x"], ["b", "x"], ["c", "x"]]  # a list of plain values is one value


@pytest.mark.parametrize("records", [[("a", 1)], [{"k": 1}], [("a", 1), ("b", 2)]])
def test_a_list_of_records_is_refused(records: list[Any]) -> None:
    data = mr.from_items([("a", 1)])
    with pytest.raises(mr.JobFailed, match="yield them"):
        data.group_by("key").map_groups(lambda key, rows: records).take_all()
    with pytest.raises(mr.JobFailed, match="yield them"):
        data.map_reduce(lambda row: [(row.key, row.value)], lambda key, values: records).take_all()


def test_rows_of_a_group_need_not_be_read() -> None:
    data = mr.from_items([(n % 3, n) for n in range(50)])
    found = data.group_by("key").map_groups(lambda key, rows: (key, next(rows).value)).take_all()
    assert sorted(found) == [(0, 0), (1, 1), (2, 2)]
    assert sorted(data.group_by("key").map_groups(lambda key, rows: key).take_all()) == [0, 1, 2]


def test_an_error_in_a_grouped_function_names_the_key() -> None:
    data = mr.from_items([("a", 0)]).group_by("key")
    with pytest.raises(mr.JobFailed, match=r"(?s)map_groups .*ZeroDivisionError.*'a'"):
        data.map_groups(lambda key, rows: 1 / next(rows).value).take_all()


@fast
@given(rows_of, st.integers(0, 4), st.booleans())
def test_top_k_of_groups_and_of_all(rows: list[Any], k: int, down: bool) -> None:
    names = ["k", "f", "i", "n"]
    numbered = [(*row, n) for n, row in enumerate(rows)]
    data = mr.from_items(numbered, names={**COLUMNS, "n": int})
    dicts = [dict(zip(names, row, strict=True)) for row in numbered]
    best = [row["n"] for row in in_order(dicts, ["f", "i"], [down, True])[:k]]
    assert [row.n for row in data.top_k(k, by=["f", "i"], descending=[down, True]).take_all()] == best
    found = grouped(data.group_by("k").top_k(k, by="f", descending=down).take_all(), 0)
    for key, members in grouped(numbered, 0).items():
        of_key = [dict(zip(names, row, strict=True)) for row in members]
        expected = [row["n"] for row in in_order(of_key, ["f"], [down])[:k]]
        assert [row.n for row in found.get(key, [])] == expected


@fast
@given(rows_of)
def test_reduce_by_key_folds_in_input_order(rows: list[Any]) -> None:
    found = dataset(rows).with_columns(t=pl.col("i").cast(pl.String).fill_null("-")).reduce_by_key(
        operator.add, key="k", value="t"
    )  # fmt: skip
    expected = {k: ("".join("-" if r[2] is None else str(r[2]) for r in v),) for k, v in grouped(rows, 0).items()}
    assert by_key(found.take_all()) == expected


def words(line: str) -> Iterator[tuple[str, int]]:
    for word in line.split():
        yield word, 1


def total(word: str, ns: Iterator[int]) -> tuple[str, int]:
    return word, sum(ns)


@fast
@given(st.lists(st.text("ab \0", max_size=8), max_size=12), st.booleans(), st.sampled_from([None, 1, 5]))
def test_map_reduce_counts_words(lines: list[str], combined: bool, partitions: int | None) -> None:
    counts: dict[str, int] = {}
    for word in " ".join(lines).split():
        counts[word] = counts.get(word, 0) + 1
    combiner = (lambda word, ns: sum(ns)) if combined else None
    partitioner = (lambda key, n: len(key) % n) if partitions and combined else None
    found = mr.from_items(lines, names={"line": str}).select("line").map(lambda row: row.line, names={"l": str}).map(
        lambda row: row.l, names="l"
    ).map_reduce(
        words, total, combiner=combiner, partitioner=partitioner, num_partitions=partitions, names={"w": str, "n": int}
    )  # fmt: skip
    assert sorted(found.take_all()) == sorted(counts.items())


def test_values_of_a_key_come_in_input_order() -> None:
    data = mr.from_items(list(range(60)))
    found = data.map_reduce(lambda n: [(n % 4, n)], lambda key, values: (key, list(values)), names=["k", "v"])
    assert sorted(found.take_all()) == [(k, list(range(k, 60, 4))) for k in range(4)]


def extremes(key: str, values: Iterator[int]) -> Iterator[int]:
    kept = sorted(values)
    mr.counter("saved").add(max(0, len(kept) - 2))
    yield from dict.fromkeys([kept[0], kept[-1]])


def test_a_combiner_gives_values_only(tmp_path: Path) -> None:
    data = mr.from_items([("a", n) for n in range(40)])
    found = data.map_reduce(
        lambda row: [row], lambda key, values: (key, sorted(values)), combiner=extremes, names=["k", "v"]
    )
    result = found.write_json(str(tmp_path / "out"))
    ((key, values),) = found.take_all()
    assert (key, values[0], values[-1]) == ("a", 0, 39)
    assert set(values) <= set(range(40))
    assert len(values) == 40 - result.counters["saved"] < 40


def test_partitions_are_chosen_by_the_partitioner() -> None:
    data = mr.from_items(list(range(40)))
    chosen = data.map_reduce(
        lambda n: [(n, n)], lambda key, values: (mr.context().attempt.split("#")[0], key),
        partitioner=lambda key, n: key % n, num_partitions=4, names=["task", "key"],
    ).take_all()  # fmt: skip
    tasks: dict[str, set[int]] = defaultdict(set)
    for row in chosen:
        tasks[row.task].add(row.key % 4)
    assert sorted(map(sorted, tasks.values())) == [[0], [1], [2], [3]]
    with pytest.raises(mr.PlanError, match="num_partitions"):
        data.map_reduce(lambda n: [(n, n)], total, partitioner=lambda key, n: 0)


def test_a_partitioner_that_fails_is_named_with_key_and_line() -> None:
    def part(key: Any, n: int) -> Any:
        return (lambda: 1 / 0)() if choice is None else choice if key == 3 else np.int64(0)

    pairs = mr.from_items(list(range(5))).map(lambda n: (n, n), names=["key", "value"])
    choices: list[Any] = [None, 7, 2, -1, "a", True, 0.5, np.float64(1), [1]]
    for choice in choices:
        made = pairs.map_reduce(lambda row: [row], total, partitioner=part, num_partitions=2)
        why = "raised ZeroDivisionError: division by zero for key 0"
        if choice is not None:
            why = f"gave {re.escape(repr(choice))} for key 3: give an int from 0 to 1"
        line = part.__code__.co_firstlineno
        with pytest.raises(
            mr.JobFailed, match=rf"test_dataset_grouped\.py:{line + 6}: partitioner .*part \(.*:{line}\) {why}"
        ):
            made.take_all()
    choice = np.int64(1)
    fine = pairs.map_reduce(lambda row: [row], lambda key, _: (key,), partitioner=part, num_partitions=2, names=["key"])
    assert sorted(fine.take_all()) == [(n,) for n in range(5)]


@pytest.mark.parametrize("n", [1, 3])
def test_num_partitions_fixes_the_number_of_reduce_tasks(n: int, inline: mr.Session, tmp_path: Path) -> None:
    data = mr.from_items([(k, 1) for k in range(9)])
    result = data.group_by("key", num_partitions=n).agg(n=mr.count()).write_parquet(str(tmp_path / "out"))
    assert result.stages[-1]["total"] == n
    with pytest.raises(mr.PlanError, match="num_partitions"):
        data.group_by("key", num_partitions=257)


# --- distinct, union, sort -------------------------------------------------------------------------------------------


@fast
@given(rows_of)
def test_distinct_keeps_the_first_of_each(rows: list[Any]) -> None:
    numbered = mr.from_items([(*row, n) for n, row in enumerate(rows)], names={**COLUMNS, "n": int})
    found = numbered.distinct("k", "f").take_all()
    assert sorted(row.n for row in found) == sorted(
        next(n for n, row in enumerate(rows) if ident(row[:2]) == key) for key in grouped(rows, 0, 1)
    )
    assert sorted(idents(dataset(rows).distinct().take_all()), key=repr) == sorted(grouped(rows, 0, 1, 2), key=repr)
    counts = dataset(rows).value_counts().take_all()
    assert by_key(counts, 3) == {k: (len(v),) for k, v in grouped(rows, 0, 1, 2).items()}


@fast
@given(rows_of, st.booleans(), st.booleans())
def test_sort_is_stable_with_nulls_last_and_nan_above_all(rows: list[Any], a: bool, b: bool) -> None:
    names = [*COLUMNS, "n"]
    numbered = [(*row, n) for n, row in enumerate(rows)]
    data = mr.from_items(numbered, names={**COLUMNS, "n": int})
    expected = in_order([dict(zip(names, row, strict=True)) for row in numbered], ["f", "k"], [a, b])
    assert [row.n for row in data.sort("f", "k", descending=[a, b]).take_all()] == [row["n"] for row in expected]


@fast
@given(rows_of, rows_of)
def test_union_is_one_after_the_other(a: list[Any], b: list[Any]) -> None:
    both = dataset(a).union(dataset(b), dataset(a))
    assert idents(both.take_all()) == idents([*a, *b, *a])
    assert idents(both.filter(pl.col("i") > 0).take_all()) == idents(r for r in [*a, *b, *a] if r[2] and r[2] > 0)
    assert both.count() == 2 * len(a) + len(b)


def test_union_of_a_dataset_with_itself_and_of_unlike_columns() -> None:
    one = mr.from_items(list(range(9)))
    assert one.union(one).take_all() == [*range(9), *range(9)]
    assert one.union(one.filter(pl.col("value") > 6)).limit(11).take_all() == [*range(9), 7, 8]
    with pytest.raises(mr.PlanError, match="differ"):
        one.union(mr.from_items([(1, 2)]))
    with pytest.raises(mr.PlanError, match="one dataset is of values, the other of rows"):
        one.union(mr.from_items([1], names=["value"]))  # rows are not values
    mixed = mr.from_items([1, 2]).union(mr.from_items([0.5]))
    assert mixed.take_all() == [1.0, 2.0, 0.5]
    assert all(type(v) is float for v in mixed.take_all())
    with pytest.raises(mr.PlanError, match=r"'value' is int in one dataset and str in another"):
        mr.from_items([1]).union(mr.from_items(["a"]))


def test_num_partitions_of_everything_that_shuffles() -> None:
    data = mr.from_items([(n % 7, n) for n in range(40)])
    for n in (1, 5):
        groups = data.group_by("key", num_partitions=n)
        assert sorted(groups.map_groups(lambda key, rows: (key, len(list(rows)))).take_all()) == [
            (k, len(range(k, 40, 7))) for k in range(7)
        ]
        assert sorted(groups.top_k(1, by="value").take_all()) == [(k, max(range(k, 40, 7))) for k in range(7)]
        joined = data.join(data, on="value", strategy="sort_merge", num_partitions=n)
        assert sorted(row.value for row in joined.take_all()) == list(range(40))
        assert sorted(data.distinct("key", num_partitions=n).take_all()) == [(k, k) for k in range(7)]


# --- joins -----------------------------------------------------------------------------------------------------------

key_values = st.sampled_from([None, 0.0, -0.0, NAN, 1.5])
sides = st.lists(st.tuples(key_values, st.sampled_from([None, "x", "y"])), max_size=14)


@fast
@given(sides, sides, st.sampled_from(["inner", "left"]), st.sampled_from(["broadcast", "sort_merge"]))
def test_joins(left: list[Any], right: list[Any], how: Any, strategy: Any) -> None:
    a = mr.from_items([(*row, n) for n, row in enumerate(left)], names={"f": float, "s": str, "n": int})
    b = mr.from_items([(*row, n) for n, row in enumerate(right)], names={"g": float, "s": str, "m": int})
    found = a.join(b, left_on=["f", "s"], right_on=["g", "s"], how=how, strategy=strategy)
    expected: list[tuple[int, int | None]] = []
    for n, row in enumerate(left):
        matches = [m for m, other in enumerate(right) if None not in row and ident(other) == ident(row)]
        expected += [(n, m) for m in matches] or [(n, None)] * (how == "left")
    rows = found.take_all()
    assert sorted([(row.n, row.m) for row in rows], key=repr) == sorted(expected, key=repr)
    assert found.schema().names == ["f", "s", "n", "m"]
    assert all(ident(tuple(row)[:2]) == ident(left[row.n]) for row in rows)


@pytest.mark.parametrize("strategy", ["broadcast", "sort_merge"])
@pytest.mark.parametrize("how", ["inner", "left"])
def test_joins_with_an_empty_side(how: Any, strategy: Any) -> None:
    some = mr.from_items([("a", 1), ("b", 2)])
    none = some.filter(pl.col("value") > 9)
    nothing = mr.from_items([], names={"key": str, "value": int})
    for right in (none, nothing):
        kept = [] if how == "inner" else [("a", 1, None), ("b", 2, None)]
        assert sorted(some.join(right, on="key", how=how, strategy=strategy).take_all()) == kept
        assert right.join(some, on="key", how=how, strategy=strategy).take_all() == []


@pytest.mark.parametrize("strategy", ["broadcast", "sort_merge"])
@pytest.mark.parametrize("how", ["inner", "left"])
def test_joins_with_a_side_whose_types_no_record_told(how: Any, strategy: Any, tmp_path: Path) -> None:
    some = mr.from_items([("a", 1), ("b", 2)])
    unknown = some.filter(pl.col("value") > 9).map(lambda row: row, names=["key", "other"])
    joined = some.join(unknown, on="key", how=how, strategy=strategy)
    kept = [] if how == "inner" else [("a", 1, None), ("b", 2, None)]
    assert sorted(joined.take_all()) == kept
    assert unknown.join(some, on="key", how=how, strategy=strategy).take_all() == []
    nulls = mr.from_items([(None, 3)], names=["key", "other"])
    assert sorted(some.join(nulls, on="key", how=how, strategy=strategy).take_all()) == kept
    left = nulls.join(some, on="key", how=how, strategy=strategy).take_all()
    assert left == ([] if how == "inner" else [(None, 3, None)])
    assert joined.write_parquet(str(tmp_path / "out")).outputs["out"].rows == len(kept)


def test_join_options() -> None:
    a, b = mr.from_items([("k", 1)]), mr.from_items([("k", 2)])
    wrong: Any
    assert a.join(b, on="key", suffix="_b").take_all()[0]._asdict() == {"key": "k", "value": 1, "value_b": 2}
    assert a.join(b, left_on="key", right_on="key").schema().names == ["key", "value", "value_right"]
    for wrong, message in [
        ({"on": "nope"}, "no column 'nope'"),
        ({"left_on": "key"}, "left_on= and right_on="),
        ({}, "on="),
        ({"on": "key", "how": "outer"}, "full"),
        ({"on": "key", "strategy": "hash"}, "sort_merge"),
        ({"left_on": "key", "right_on": "value"}, "is str on the left but 'value' is int"),
    ]:
        with pytest.raises(mr.PlanError, match=message):
            a.join(b, **wrong)
    untyped = mr.from_items([1]).map(lambda n: (n, n), names=["key", "x"])
    with pytest.raises(mr.PlanError, match=r"string.*int64"):  # types that only the data tells
        a.join(untyped, on="key", strategy="sort_merge").take_all()
    with pytest.raises(mr.JobFailed, match="'key' is str on the left but int on the right"):
        a.join(untyped, on="key", strategy="broadcast").take_all()


def test_a_join_of_a_dataset_with_what_was_made_of_it() -> None:
    data = mr.from_items([(n % 3, n) for n in range(12)])
    totals = data.group_by("key").agg(total=mr.sum("value"))
    joined = data.join(totals, on="key")
    assert [tuple(r) for r in joined.sort("value").take_all()] == [
        (n % 3, n, sum(range(n % 3, 12, 3))) for n in range(12)
    ]
    same = data.join(data, on="value", strategy="broadcast").sort("value").take_all()
    assert [tuple(r) for r in same] == [(n % 3, n, n % 3) for n in range(12)]


def test_auto_broadcasts_what_is_known_to_be_small() -> None:
    small, other = mr.from_items([(1, 2)]), mr.from_items([(1, 3)])
    assert "broadcast join: the right side has" in small.join(other, on="key").explain()
    grouped_side = other.group_by("key").agg(n=mr.count())
    assert "not known before it runs" in small.join(grouped_side, on="key").explain()
    assert "sort-merge join: asked for" in small.join(other, on="key", strategy="sort_merge").explain()


# --- the same rows in the same order, whatever the budget and the boundaries -----------------------------------------


def every_shuffle(rows: list[Any]) -> dict[str, mr.Dataset]:
    data = mr.from_items([(*row, n) for n, row in enumerate(rows)], names={**COLUMNS, "n": int})
    groups = data.group_by("k")
    return {
        "agg": groups.agg(n=mr.count(), low=mr.min("f"), d=mr.count_distinct("i")),
        "map_groups": groups.map_groups(lambda k, rs: (k, [r.n for r in rs]), sort_by="f", names=["k", "ns"]),
        "top_k": groups.top_k(2, by="f"),
        "distinct": data.distinct("f"),
        "sort": data.sort("f", "k", descending=True),
        "reduce_by_key": data.reduce_by_key(lambda a, b: max(a, b), key="k", value="n"),
        "sort_merge": data.join(data.select("k", m="n"), on="k", strategy="sort_merge"),
        "one": data.agg(n=mr.count(), s=mr.max("f")),
    }


@fast
@given(st.lists(st.tuples(st.integers(0, 2), st.floats(-1e9, 1e9)), max_size=40))
def test_float_sums_are_the_same_bits_within_any_budget(rows: list[Any]) -> None:
    """Added from the left in blocks of rows counted from the split's start, then block after block."""
    expected: dict[int, float] = {}
    for split in range(0, len(rows), 4):
        for block in (rows[split : split + 3], rows[split + 3 : split + 4]):
            partial: dict[int, float] = {}
            for k, x in block:
                partial[k] = partial.get(k, 0.0) + x
            for k, x in partial.items():
                expected[k] = expected.get(k, 0.0) + x
    data = mr.from_items(rows, names={"k": int, "x": float}).group_by("k").agg(s=mr.sum("x"), n=mr.count())
    assert {row.k: row.s.hex() for row in data.take_all()} == {k: s.hex() for k, s in expected.items()}
    with mr.Session(on="inline", memory=1, reuse=False):
        assert {row.k: row.s.hex() for row in data.take_all()} == {k: s.hex() for k, s in expected.items()}


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows_of)
def test_memory_and_splits_change_nothing(rows: list[Any]) -> None:
    rows = rows * 3
    wanted = {name: idents(data.take_all()) for name, data in every_shuffle(rows).items()}
    with mr.Session(on="inline", memory=1, reuse=False):
        assert {name: idents(data.take_all()) for name, data in every_shuffle(rows).items()} == wanted
    with pytest.MonkeyPatch.context() as patch, mr.Session(on="inline", reuse=False):
        patch.setattr("mr.inputs.ITEMS_PER_SPLIT", 1000)
        assert {name: idents(data.take_all()) for name, data in every_shuffle(rows).items()} == wanted
