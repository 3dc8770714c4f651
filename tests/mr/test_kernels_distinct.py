"""The first of equal rows: as a dict says."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mr.kernels import distinct
from mr.kernels.distinct import (
    binaries_at,
    first_equal,
    first_equal_bytes,
    first_in_arrow,
    leading_pairs,
    leading_words,
    numbered,
    numbered_close,
)

PIECES = st.sampled_from([b"", b"a", b"a\0", b"ab", b"x" * 7, b"x" * 8, b"x" * 9, b"x" * 16, b"x" * 17, b"\0", b"\0\1"])
NUMBERS = st.integers(0, 3) | st.sampled_from([256, 1 << 63, (1 << 64) - 1])


def firsts(values: list[object]) -> list[int]:
    seen: dict[object, int] = {}
    return [seen.setdefault(value, row) for row, value in enumerate(values)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=40), st.integers(1, 2))
def test_rows_are_equal_where_all_their_numbers_are(rows, width):
    columns = [np.array([row[i] for row in rows], np.uint64) for i in range(width)]
    assert first_equal(columns).tolist() == firsts([row[:width] for row in rows])


@pytest.mark.parametrize("distinct_values", [10, 3_000, 10**9])
def test_many_rows_are_numbered_exactly_however_few_slots_there_are(monkeypatch, distinct_values):
    monkeypatch.setattr(distinct, "_SLOT_BITS_MAX", 8)  # most rows take the later rounds, or Arrow's table
    values = np.random.default_rng(distinct_values).integers(0, distinct_values, 5_000)
    assert first_equal([values.astype(np.uint64)]).tolist() == firsts(values.tolist())
    twice = [values.astype(np.uint64), (values * 7).astype(np.uint64)]
    assert first_equal(twice).tolist() == firsts(values.tolist())


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES | st.binary(max_size=20), max_size=30), st.binary(max_size=9))
def test_byte_strings_are_equal_where_python_says_so(values, before):
    data = np.frombuffer(before + b"".join(values), np.uint8)
    lengths = np.array([len(value) for value in values], np.int64)
    starts = len(before) + np.cumsum(lengths) - lengths
    assert first_equal_bytes(data, starts, lengths).tolist() == firsts(values)
    assert binaries_at(data, starts, lengths).to_pylist() == values
    for value, word in zip(values, leading_words(data, starts, lengths), strict=True):
        assert word.tobytes() == value[:8].ljust(8, b"\0")
    for value, *pair in zip(values, *leading_pairs(data, starts, lengths), strict=True):
        assert b"".join(word.tobytes() for word in pair) == value[:16].ljust(16, b"\0")


def test_numbers_are_dense_and_in_order_of_first_occurrence():
    codes, representatives = numbered(first_in_arrow(pa.array(["b", None, "a", "b", None])))
    assert codes.tolist() == [0, 1, 2, 0, 1]
    assert representatives.tolist() == [0, 1, 2]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([-(1 << 63), -2, 0, 2000, (1 << 63) - 9]), st.lists(st.integers(0, 8), max_size=40))
def test_numbers_close_together_are_numbered_as_others_are(least, values):
    numbers = np.array([least + value for value in values], np.int64)
    found = numbered_close(numbers)
    expected = numbered(first_equal([numbers.view(np.uint64)]))
    if max(values, default=0) - min(values, default=0) < len(values):
        assert [part.tolist() for part in found] == [part.tolist() for part in expected]
    else:
        assert found is None


def test_numbers_far_apart_get_no_table():
    assert numbered_close(np.array([0, (1 << 63) - 1, -(1 << 63)])) is None
