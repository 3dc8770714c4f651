"""sample, range, map_partitions, unnest, explode side by side, sorts of so many tasks, and what expressions may do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from dataset_kit import shrink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr
from mr.operators.held import Held
from mr.operators.sampling import priorities

fast = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)
    inline.reuse = False


# --- sample ----------------------------------------------------------------------------------------------------------


@fast
@given(count=st.integers(0, 60), n=st.integers(0, 20), seed=st.integers(0, 9))
def test_a_sample_of_n_is_so_many_records_in_input_order(count: int, n: int, seed: int) -> None:
    data = mr.from_items(list(range(count)), names="i")
    found = data.sample(n=n, seed=seed).take_all()
    assert len(found) == len(set(found)) == min(n, count)
    assert found == sorted(found)
    assert data.sample(n=n, seed=seed).take_all() == found
    assert data.sample(n=n, seed=seed).schema() == data.schema()


def test_a_share_is_near_what_was_asked_for_and_every_record_has_its_chance() -> None:
    data = mr.range(20_000)
    for fraction in (0.0, 0.1, 0.5, 1.0):
        found = data.sample(fraction, seed=1).take_all()
        assert abs(len(found) - 20_000 * fraction) <= 5 * math.sqrt(20_000 * fraction * (1 - fraction))
        assert found == sorted(found)
    assert data.sample(0.1, seed=2).take_all() != data.sample(0.1, seed=3).take_all()
    drawn = Counter(i for seed in range(300) for i in np.argsort(priorities(seed, "x", 0, 10))[:5].tolist())
    assert all(110 < drawn[i] < 190 for i in range(10))  # 150 each, sd 8.7


def test_a_sample_hangs_on_content_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    values = mr.from_items(list("abcdefghijklmnopqrst"))
    sampled = values.sample(0.5).take_all()
    assert sampled == values.map(str.upper).map(str.lower).sample(0.5).take_all()
    assert {type(record) for record in values.sample(n=3).take_all()} == {str}
    rows = values.map(lambda v: (v, 1)).sample(n=2)
    assert [type(record).__name__ for record in rows.take_all()] == ["Row", "Row"]
    assert values.distinct().sample(n=30).count() == 20


def test_what_sample_refuses() -> None:
    data = mr.from_items([1])
    for wrong in ({}, {"fraction": 0.5, "n": 1}, {"fraction": 1.5}, {"n": -1}):
        with pytest.raises(mr.PlanError, match=r"sample\(\)"):
            data.sample(**wrong)


# --- range -----------------------------------------------------------------------------------------------------------


@fast
@given(start=st.integers(-50, 50), stop=st.integers(-50, 50), step=st.integers(-7, 7).filter(bool))
def test_a_range_is_that_of_python(start: int, stop: int, step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mr.dataset.ranges.RANGE_SPLIT_ROWS", 6)
        patch.setattr("mr.operators.partitions.BLOCK_ROWS", 4)
        assert mr.range(start, stop, step).take_all() == list(range(start, stop, step))


def test_a_range_of_many_numbers_is_not_held_in_memory() -> None:
    assert mr.range(10**9).take(2) == [0, 1]
    assert mr.range(5).take_all() == mr.range(0, 5).take_all()
    assert mr.range(2**63 - 2, 2**63).take_all() == [2**63 - 2, 2**63 - 1]
    with pytest.raises(mr.PlanError, match="64 bits"):
        mr.range(2**63 - 1, 2**63 + 1)
    with pytest.raises(mr.PlanError, match="step"):
        mr.range(0, 1, 0)


# --- map_partitions --------------------------------------------------------------------------------------------------


def test_a_function_sees_the_records_of_a_task_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def chunked(records: Iterator[int]) -> Iterator[tuple[int, int]]:
        yield next(records), 1 + sum(1 for _ in records)

    data = mr.from_items(list(range(10)))  # 4 a split, as the kit shrinks it
    assert data.map_partitions(chunked).take_all() == [(0, 4), (4, 4), (8, 2)]
    monkeypatch.setattr("mr.operators.partitions.Held", lambda scratch, _: Held(scratch, 1))  # every batch to a file
    assert data.map_partitions(lambda records: list(records)[::-1]).take_all() == [3, 2, 1, 0, 7, 6, 5, 4, 9, 8]
    assert data.map_partitions(lambda records: []).take_all() == []


def test_a_function_of_a_partition_that_fails_is_told_with_its_place() -> None:
    data = mr.from_items(["1", "2", "x"])
    with pytest.raises(mr.JobFailed, match=r"map_partitions .*raised ValueError: .* after 3 records of the partition"):
        data.map_partitions(lambda records: map(int, records)).take_all()
    with pytest.raises(mr.JobFailed, match="an iterable of records is needed, not NoneType"):
        data.map_partitions(lambda records: None).take_all()


# --- unnest and explode ----------------------------------------------------------------------------------------------


class Size(NamedTuple):
    width: int
    height: int | None


class Thing(NamedTuple):
    name: str
    size: Size | None


def test_a_struct_becomes_columns_in_its_place() -> None:
    things = mr.from_items([1, 2]).map(lambda n: Thing("ab"[n - 1], Size(n, None) if n == 1 else None), names=None)
    with pytest.raises(mr.PlanError, match="add names="):
        things.unnest("size")

    def thing(n: int) -> Thing:
        return Thing("ab"[n - 1], Size(n, None) if n == 1 else None)

    flat = mr.from_items([1, 2]).map(thing).unnest("size")
    assert flat.schema().names == ["name", "width", "height"]
    assert flat.take_all() == [("a", 1, None), ("b", None, None)]
    with pytest.raises(mr.PlanError, match="not a struct"):
        flat.unnest("width")
    with pytest.raises(mr.PlanError, match="there is a column 'name' already"):
        flat.select("name", both=pl.struct("name")).unnest("both")


@fast
@given(lengths=st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=12))
def test_lists_side_by_side(lengths: list[int | None]) -> None:
    rows = [(i, None if n is None else list(range(n)), None if n is None else ["x"] * n) for i, n in enumerate(lengths)]
    data = mr.from_items(rows, names={"i": int, "a": list[int], "b": list[str]})
    expected = [(i, *pair) for i, a, b in rows for pair in (zip(a, b, strict=True) if a and b else [(None, None)])]
    assert data.explode("a", "b").take_all() == expected


def test_lists_of_other_lengths_are_refused() -> None:
    data = mr.from_items([([1], [1, 2])], names={"a": list[int], "b": list[int]})
    with pytest.raises(mr.JobFailed, match="'b' has 2 elements where 'a' has 1"):
        data.explode("a", "b").take_all()
    with pytest.raises(mr.PlanError, match="name at least one"):
        data.explode()


# --- order -----------------------------------------------------------------------------------------------------------


@fast
@given(values=st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=40), n=st.integers(1, 6), down=st.booleans())
def test_a_sort_of_so_many_tasks(values: list[int | None], n: int, down: bool) -> None:
    data = mr.from_items(values, names={"v": int}).sort("v", descending=down, num_partitions=n)
    known = sorted((v for v in values if v is not None), reverse=down)
    assert [row.v for row in data.take_all()] == known + [None] * (len(values) - len(known))
    assert data.map_partitions(lambda records: [1]).count() == n


def test_top_k_by_several_columns_in_mixed_directions() -> None:
    rows = [("a", 1), ("b", 2), ("c", 2), ("d", None)]
    assert mr.from_items(rows).top_k(3, by=["value", "key"], descending=[True, False]).take_all() == [
        ("b", 2),
        ("c", 2),
        ("a", 1),
    ]


def test_a_union_is_of_one_kind() -> None:
    values, rows = mr.from_items([1]), mr.from_items([(1,)], names=["value"])
    with pytest.raises(mr.PlanError, match="one dataset is of values, the other of rows"):
        values.union(rows)
    assert values.select("value").union(rows).count() == 2


# --- expressions -----------------------------------------------------------------------------------------------------

X = pl.col("x")


@pytest.mark.parametrize(
    "expression",
    [
        X - X.mean(),
        X.sum().over("g"),
        X.shift(1),
        X.cum_sum(),
        pl.len(),
        X.fill_null(strategy="forward"),
        pl.when(X.max() < X).then(1).otherwise(0),
        pl.lit(pl.Series([1, 2])),
        pl.int_range(pl.len()),
        X.sample(1),
        pl.col("l").list.sample(1),
        pl.col("l").list.eval(pl.element().shuffle()),
        X.append(X),
        X.unique(),
        pl.col("l").explode(empty_as_null=True),
        pl.col("g").cast(pl.Categorical).to_physical(),
        X.map_elements(lambda x: x, return_dtype=pl.Int64),
        pl.col("l").list.eval(pl.element().map_elements(lambda x: x, return_dtype=pl.Int64)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_expression_that_is_not_of_its_row_alone_is_refused(expression: pl.Expr) -> None:
    data = mr.from_items([("a", 1, [1])], names={"g": str, "x": int, "l": list[int]})
    uses = (
        lambda: data.select(e=expression),
        lambda: data.with_columns(e=expression),
        lambda: data.filter(expression == 1),
        lambda: data.group_by(e=expression),
    )
    for use in uses:
        with pytest.raises(mr.PlanError, match=r"(select|with_columns|filter|group_by)\(\): .*; "):
            use()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("cache", "materialize"), ("mapPartitions", "map_partitions"), ("coalesce", "repartition"), ("concat", "union")],
)
def test_more_methods_of_others_name_ours(theirs: str, ours: str) -> None:
    with pytest.raises(AttributeError, match=f"use {ours}"):
        getattr(mr.from_items([1]), theirs)
