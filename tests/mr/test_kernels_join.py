"""Joins: against nested loops in plain Python, and against DuckDB."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_oracle import POOLS, columns, identity

from mr.errors import PlanError
from mr.kernels import join
from mr.kernels.join import build, join_hash, join_sorted


@st.composite
def sides(draw: st.DrawFn) -> tuple[pa.RecordBatch, pa.RecordBatch, list[str]]:
    types = draw(st.lists(st.sampled_from(list(POOLS)), min_size=1, max_size=2))
    names = [f"k{i}" for i in range(len(types))]
    found = []
    for value in ("a", "b"):
        rows = draw(st.integers(0, 12))
        keys = [draw(columns(rows, [dtype])) for dtype in types]
        found.append(pa.RecordBatch.from_arrays([*keys, pa.array(range(rows), pa.int64())], [*names, value]))
    return found[0], found[1], names


def nested_loops(
    left: pa.RecordBatch, right: pa.RecordBatch, names: list[str], how: str
) -> list[tuple[int, int | None]]:
    theirs = identity(right, names)
    found: list[tuple[int, int | None]] = []
    for i, key in enumerate(identity(left, names)):
        matches = [j for j, other in enumerate(theirs) if other == key and not any(null for null, _ in key)]
        found += [(i, j) for j in matches] or ([(i, None)] if how == "left" else [])
    return found


@settings(max_examples=200, deadline=None)
@given(sides(), st.sampled_from(["inner", "left"]), st.booleans())
def test_rows_match_in_left_then_right_order_and_nulls_never(both, how, collide):
    left, right, names = both
    index = build(right, names)
    if collide:  # the path for keys whose hashes are equal
        index = join.RightIndex(**{**vars(index), "collide": True})
    found = join_hash(left, index, names, how)
    assert list(zip(found["a"].to_pylist(), found["b"].to_pylist(), strict=True)) == nested_loops(
        left, right, names, how
    )
    assert found.schema.names == [*names, "a", "b"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([None, "", "a", "b", "c"])), st.lists(st.sampled_from([None, "", "a", "b"])))
def test_the_rows_are_those_of_a_sql_join(left, right):
    mine = pa.RecordBatch.from_pydict(
        {"k": pa.array(left, pa.large_string()), "a": pa.array(range(len(left)), pa.int64())}
    )
    theirs = pa.RecordBatch.from_pydict(
        {"id": pa.array(right, pa.large_string()), "b": pa.array(range(len(right)), pa.int64())}
    )
    database = duckdb.connect()
    database.register("l", pa.Table.from_batches([mine]))
    database.register("r", pa.Table.from_batches([theirs]))
    for how in ("inner", "left"):
        expected = database.sql(f"select l.k, a, b from l {how} join r on l.k = r.id order by a, b").fetchall()
        found = join_sorted(mine, theirs, ["k"], ["id"], how)
        assert [tuple(row.values()) for row in found.to_pylist()] == expected


def test_equal_hashes_of_different_keys_do_not_match(monkeypatch):
    monkeypatch.setattr(join, "hashes", lambda data, names: np.zeros(data.num_rows, np.uint64))
    left = pa.RecordBatch.from_pydict({"k": ["a", "b", "x"]})
    right = pa.RecordBatch.from_pydict({"k": ["b", "c", "a", "b", None], "v": [1, 2, 3, 4, 5]})
    assert build(right, ["k"]).collide
    assert join_sorted(left, right, ["k"], ["k"], "left")["v"].to_pylist() == [3, 1, 4, None]
    assert join_sorted(left, right.slice(0, 1), ["k"], ["k"], "left")["v"].to_pylist() == [None, 1, None]


def test_a_taken_name_gets_the_suffix_and_a_taken_suffix_is_refused():
    left = pa.RecordBatch.from_pydict({"k": [1], "v": [2]})
    right = pa.RecordBatch.from_pydict({"k": [1], "v": [3]})
    assert join_sorted(left, right, ["k"], ["k"], "inner", "_r").to_pylist() == [{"k": 1, "v": 2, "v_r": 3}]
    with pytest.raises(PlanError, match="'v_right'"):
        join_sorted(left.append_column("v_right", pa.array([0])), right, ["k"], ["k"], "inner")


def test_many_keys_are_all_found():
    rng = np.random.default_rng(3)
    right = pa.RecordBatch.from_pydict({"k": rng.permutation(20_000), "v": np.arange(20_000)})
    wanted = rng.integers(0, 40_000, 30_000)
    place = {key: row for row, key in enumerate(right["k"].to_pylist())}
    found = join_hash(pa.RecordBatch.from_pydict({"k": wanted}), build(right, ["k"]), ["k"], "left")
    assert found["v"].to_pylist() == [place.get(key) for key in wanted.tolist()]
