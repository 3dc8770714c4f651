"""Partition: rows come out in (bucket, key, sort columns, row) order, with the right offsets."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_oracle import expected_order, key_batches, key_names

from mr.errors import RecordError
from mr.kernels.keys import buckets
from mr.kernels.partition import bucket_by, sort_into_buckets


@settings(max_examples=100, deadline=None)
@given(key_batches(), st.booleans())
def test_rows_are_sorted_by_bucket_then_keys_then_sort_columns(batch, down):
    keys, sort_by = key_names(batch)[:1], key_names(batch)[1:]
    ids = buckets(batch, keys).tolist()
    by = expected_order(batch, [*keys, *sort_by], [False] + [down] * len(sort_by))
    expected = sorted(by, key=lambda row: ids[row])
    data, offsets = sort_into_buckets(batch, keys, sort_by, [down] * len(sort_by))
    assert data["row"].to_pylist() == expected
    assert len(offsets) == 257
    assert np.diff(offsets).tolist() == [ids.count(bucket) for bucket in range(256)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 3)), max_size=50))
def test_given_buckets_are_used_as_they_are(rows):
    ids = np.array([bucket for bucket, _ in rows], np.int64)
    batch = pa.RecordBatch.from_pydict({"k": pa.array([key for _, key in rows], pa.int64())})
    data, offsets = bucket_by(batch, ids, 1000, ["k"])
    assert data["k"].to_pylist() == [key for _, key in sorted(rows)]
    assert offsets.tolist() == [int((ids < bucket).sum()) for bucket in range(1001)]


def test_without_keys_rows_keep_their_order_within_a_bucket():
    batch = pa.RecordBatch.from_pydict({"x": [9, 8, 7, 6]})
    assert bucket_by(batch, np.array([1, 0, 1, 0]), 2)[0]["x"].to_pylist() == [8, 6, 9, 7]


@pytest.mark.parametrize("wrong", [-1, 3])
def test_an_id_out_of_range_is_an_error_with_its_row(wrong):
    with pytest.raises(RecordError, match=rf"partition {wrong} is not one of 0 to 2") as caught:
        bucket_by(pa.RecordBatch.from_pydict({"x": [1, 2]}), np.array([0, wrong]), 3)
    assert caught.value.row == 1
