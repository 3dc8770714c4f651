"""cogroup against plain Python: every key of either side once, its rows in input order, read in any order or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest
from dataset_kit import ident, in_order, shrink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr

keys = st.sampled_from([None, "", "a", "b", "é", "aaaaaaaaa"])
floats = st.sampled_from([None, 0.0, -0.0, math.nan, 1.5])
rows_of = st.lists(st.tuples(keys, floats), max_size=16)
fast = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)
    inline.reuse = False


def sides(left: list[Any], right: list[Any]) -> tuple[mr.Dataset, mr.Dataset]:
    """Both with the number of each row; the right one names its keys otherwise."""
    numbered = [[(*row, n) for n, row in enumerate(rows)] for rows in (left, right)]
    return (
        mr.from_items(numbered[0], names={"k": str, "f": float, "n": int}),
        mr.from_items(numbered[1], names={"key": str, "g": float, "m": int}),
    )


KEYED = {"key": str, "left": list[int], "right": list[int]}


def left_first(key: Any, left: Iterator[Any], right: Iterator[Any]) -> tuple[Any, list[int], list[int]]:
    return key, [row.n for row in left], [row.m for row in right]


def right_first(key: Any, left: Iterator[Any], right: Iterator[Any]) -> tuple[Any, list[int], list[int]]:
    theirs = [row.m for row in right]
    return key, [row.n for row in left], theirs


def in_turns(key: Any, left: Iterator[Any], right: Iterator[Any]) -> tuple[Any, list[int], list[int]]:
    mine, theirs = [], []
    while True:
        a, b = next(left, None), next(right, None)
        if a is None and b is None:
            return key, mine, theirs
        mine += [] if a is None else [a.n]
        theirs += [] if b is None else [b.m]


@fast
@given(rows_of, rows_of, st.booleans(), st.sampled_from([None, 3]))
def test_records_of_a_group_come_in_the_order_of_sort_by(
    left: list[Any], right: list[Any], down: bool, partitions: int | None
) -> None:
    a, b = sides(left, right)
    both = a.cogroup(b, left_on="k", right_on="key", num_partitions=partitions)
    made = both.map_groups(left_first, left_sort_by="f", right_sort_by=["g", "m"], descending=down, names=KEYED)
    found = {row.key: (row.left, row.right) for row in made.take_all()}
    mine = in_order([{"k": k, "f": f, "n": n} for n, (k, f) in enumerate(left)], ["f"], [down])
    theirs = in_order([{"k": k, "g": g, "m": m} for m, (k, g) in enumerate(right)], ["g", "m"], [down, down])
    expected = {
        key: ([row["n"] for row in mine if row["k"] == key], [row["m"] for row in theirs if row["k"] == key])
        for key in {row["k"] for row in (*mine, *theirs)}
    }
    assert found == expected


def test_sort_by_names_columns_of_both_sides() -> None:
    data = mr.from_items([("a", 2), ("a", 1)])
    both = data.cogroup(data, on="key")

    def values(key: Any, left: Iterator[Any], right: Iterator[Any]) -> tuple[list[int], list[int]]:
        return [row.value for row in left], [row.value for row in right]

    names = ["left", "right"]
    assert both.map_groups(values, sort_by="value", names=names).take_all() == [([1, 2], [1, 2])]
    assert both.map_groups(values, sort_by="value", right_sort_by="key", names=names).take_all() == [([1, 2], [2, 1])]
    with pytest.raises(mr.PlanError, match="no column 'x'"):
        both.map_groups(values, left_sort_by="x")


@fast
@given(rows_of, rows_of, st.sampled_from([left_first, right_first, in_turns]), st.sampled_from([None, 1, 3]))
def test_each_key_of_either_side_comes_once(
    left: list[Any], right: list[Any], fn: Callable[..., Any], partitions: int | None
) -> None:
    a, b = sides(left, right)
    names = ["key", "mine", "theirs"]
    for width, on in ((1, ("k",)), (2, ("k", "f"))):
        theirs = ("key", "g")[:width]
        both = a.cogroup(b, left_on=on, right_on=theirs, num_partitions=partitions).map_groups(fn, names=names)
        expected: dict[Any, tuple[list[int], list[int]]] = {}
        for side, rows in enumerate((left, right)):
            for number, row in enumerate(rows):
                key = ident(row[0] if width == 1 else tuple(row[:width]))
                expected.setdefault(key, ([], []))[side].append(number)
        found = both.take_all()
        assert {ident(row.key): (row.mine, row.theirs) for row in found} == expected
        assert len(found) == len(expected)
        with mr.Session(on="inline", memory=1, reuse=False):
            assert list(map(repr, both.take_all())) == list(map(repr, found))


def test_what_is_not_read_is_skipped() -> None:
    a, b = sides([("a", 1.0), ("b", 2.0), ("a", 3.0)] * 9, [("a", 1.0), ("c", 1.0)] * 9)
    both = a.cogroup(b, left_on="k", right_on="key")
    assert sorted(both.map_groups(lambda key, left, right: key).take_all()) == ["a", "b", "c"]
    firsts = both.map_groups(lambda key, left, right: (key, next(left, None) is None, next(right, None) is None))
    assert sorted(map(tuple, firsts.take_all())) == [("a", False, False), ("b", False, True), ("c", True, False)]


def test_rows_can_be_read_once() -> None:
    a, b = sides([("a", 1.0)], [("a", 1.0)])
    twice = a.cogroup(b, left_on="k", right_on="key").map_groups(lambda key, left, right: (list(right), list(right)))
    with pytest.raises(mr.JobFailed, match=r"can be read once.*for key 'a'"):
        twice.take_all()


def test_a_group_larger_than_memory_streams_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mr.inputs.ITEMS_PER_SPLIT", 1 << 20)
    a = mr.from_items(range(2_000)).with_columns(k=pl.lit("hot"))
    counted = a.cogroup(a, on="k").map_groups(lambda key, x, y: (sum(1 for _ in y), sum(r.value for r in x)))
    with mr.Session(on="inline", memory=1, reuse=False):
        assert tuple(counted.first()) == (2_000, sum(range(2_000)))


def test_empty_sides() -> None:
    a, b = sides([("a", 1.0)], [])
    for one, other in ((a, b), (b, a)):
        on = {"left_on": one.schema().names[0], "right_on": other.schema().names[0]}
        found = one.cogroup(other, **on).map_groups(lambda key, x, y: (key, len(list(x)) + len(list(y))))  # type: ignore[arg-type]
        assert list(map(tuple, found.take_all())) == [("a", 1)]
    assert b.cogroup(b, on="key").map_groups(lambda key, x, y: key).take_all() == []


def test_wrong_keys_are_refused() -> None:
    a, b = sides([("a", 1.0)], [("a", 1.0)])
    with pytest.raises(mr.PlanError, match="give on="):
        a.cogroup(b)
    with pytest.raises(mr.PlanError, match=r"cogroup\(\) on the right: no column 'k'"):
        a.cogroup(b, on="k")
    with pytest.raises(mr.PlanError, match=r"cogroup\(\): 'k' is .* on the left but 'm' is"):
        a.cogroup(b, left_on="k", right_on="m")
    hidden = mr.from_items(["a"]).map(lambda value: (value, 1), names=["k", "v"])
    other = mr.from_items([3]).map(lambda value: (value, 1), names=["k", "v"])
    with pytest.raises(mr.JobFailed, match=r"cogroup\(\): 'k' is str on the left but 'k' is int on the right"):
        hidden.cogroup(other, on="k").map_groups(lambda key, x, y: key).take_all()
