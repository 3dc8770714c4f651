"""Groups and the reductions in row order, against plain Python loops."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_oracle import columns, expected_order, identity, key_batches, key_names

from mr.kernels.group import (
    count,
    extremes,
    firsts,
    group_starts,
    hardly_repeats,
    ids_of,
    sum_decimals,
    sum_floats,
    sum_ints,
)
from mr.options import SAMPLE_ROWS


@settings(max_examples=150, deadline=None)
@given(key_batches())
def test_groups_start_where_the_key_changes(batch):
    names = key_names(batch)
    keys = identity(batch, names)
    expected = [i for i in range(len(keys)) if i == 0 or keys[i] != keys[i - 1]]
    starts = group_starts(batch, names)
    assert starts.tolist() == expected
    assert ids_of(starts, len(keys)).tolist() == [sum(s <= i for s in expected) - 1 for i in range(len(keys))]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(allow_nan=True))))
def test_floats_are_added_one_by_one_in_row_order(rows):
    sums = [0.0] * 5
    for group, value in rows:
        sums[group] += value
    found = sum_floats(np.array([v for _, v in rows], np.float64), np.array([g for g, _ in rows], np.int64), 5)
    assert [x.hex() for x in found] == [math.nan.hex() if math.isnan(x) else x.hex() for x in sums]
    assert len({bits for bits in found.view(np.uint64).tolist() if math.isnan(np.uint64(bits).view(np.float64))}) <= 1


def test_float_sums_of_a_long_column_are_sequential():
    rng = np.random.default_rng(1)
    values, ids = rng.standard_normal(50_000) * 10.0 ** rng.integers(-8, 8, 50_000), rng.integers(0, 7, 50_000)
    sums = [0.0] * 7
    for group, value in zip(ids.tolist(), values.tolist(), strict=True):
        sums[group] += value
    assert sum_floats(values, ids, 7).tolist() == sums


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([np.int8, np.int64, np.uint64]))
def test_integer_sums_are_exact_beyond_64_bits(data, dtype):
    bounds = np.iinfo(dtype)
    values = st.integers(int(bounds.min), int(bounds.max)) | st.sampled_from([int(bounds.min), int(bounds.max)])
    rows = data.draw(st.lists(st.tuples(st.integers(0, 2), values)))
    low, carry = sum_ints(np.array([v for _, v in rows], dtype), np.array([g for g, _ in rows], np.int64), 3)
    totals = [sum(v for g, v in rows if g == group) for group in range(3)]
    assert [int(c) * 2**64 + int(x) for x, c in zip(low, carry, strict=True)] == totals
    assert [int(c) == 0 for c in carry] == [-(2**63) <= total < 2**63 for total in totals]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-(10**60), 10**60))))
def test_decimal_sums_are_exact(rows):
    column = pa.array([Decimal(v) for _, v in rows], pa.decimal256(76, 0))
    found = sum_decimals(column, np.array([g for g, _ in rows], np.int64), 3)
    assert [int(x) for x in found.to_pylist()] == [sum(v for g, v in rows if g == group) for group in range(3)]


def test_a_decimal_sum_that_leaves_256_bits_is_an_error():
    column = pa.array([Decimal(10**76 - 1)] * 9, pa.decimal256(76, 0))
    with pytest.raises(OverflowError):
        sum_decimals(column, np.zeros(9, np.int64), 1)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(0, 20), st.booleans())
def test_extremes_are_the_first_of_the_smallest_or_largest_values(data, rows, largest):
    column = data.draw(columns(rows))
    ids = np.array(data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)), np.int64)
    batch = pa.RecordBatch.from_arrays([column], ["k"])
    in_order = [row for row in expected_order(batch, ["k"], [largest]) if column[row].is_valid]
    expected = [next((row for row in in_order if ids[row] == group), -1) for group in range(4)]
    assert extremes(column, ids, 4, largest).tolist() == expected


def test_count_and_firsts_can_look_at_some_rows_only():
    ids, among = np.array([0, 1, 1, 0]), np.array([False, True, True, True])
    assert count(ids, 3).tolist() == [2, 2, 0]
    assert count(ids, 3, among).tolist() == [1, 2, 0]
    assert firsts(ids, 3, among).tolist() == [3, 1, -1]


@pytest.mark.parametrize("distinct", [300, 20_000, 400_000, 900_000, 1_100_000, 1_500_000, 10_000_000])
def test_whether_keys_repeat_is_judged_by_all_pairs_of_the_sample(distinct: int) -> None:
    rows, sample = 100_000, SAMPLE_ROWS
    keys = np.random.default_rng(distinct).integers(0, distinct, rows)
    half = sample // 2
    looked_at = np.concatenate([keys[:half], keys[half :: (rows - half) // half][:half]])
    pairs = sample - len(set(looked_at.tolist()))
    found = hardly_repeats(pa.RecordBatch.from_pydict({"k": keys}), ["k"])
    assert found == (10 * pairs * rows <= sample * sample)
