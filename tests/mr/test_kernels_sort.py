"""Order: against a stable sort in plain Python, on awkward values and on every path of the byte kernel."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_oracle import expected_order, key_batches, key_names

from mr.kernels.sort import cut, order


@settings(max_examples=300, deadline=None)
@given(key_batches(), st.data())
def test_order_is_a_stable_sort_with_nulls_last_and_nan_above_all(batch, data):
    names = key_names(batch)
    descending = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    assert order(batch, names, descending).tolist() == expected_order(batch, names, descending)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.none(), st.binary(max_size=20)), max_size=60), st.booleans())
def test_binaries_are_ordered_by_bytes(values, down):
    batch = pa.RecordBatch.from_arrays([pa.array(values, pa.large_binary())], ["k"])
    assert order(batch, ["k"], [down]).tolist() == expected_order(batch, ["k"], [down])


def texts(kind: str, rng: random.Random) -> list[str | None]:
    rows = 9000
    if kind == "repeated":  # ranked at once
        return [rng.choice(["the", "of", "and", "a", None, "something", "somethinG"]) for _ in range(rows)]
    if kind == "distinct":
        return [f"{rng.randrange(10**9):x}" for _ in range(rows)]
    if kind == "common prefix":
        return [f"https://example.com/path/{rng.randrange(10**6):06d}" for _ in range(rows)]
    if kind == "equal pairs":  # ranked after the first word
        return [f"prefix{rng.randrange(rows // 2):09d}tail" for _ in range(rows)]
    if kind == "deep ties":  # more words than are compared one by one
        return [f"{i % 7:04d}" * 30 + str(rng.randrange(10**6)) for i in range(rows)]
    return ["x" * rng.randrange(20) + "\0" * rng.randrange(3) for _ in range(rows)]


@pytest.mark.parametrize("kind", ["repeated", "distinct", "common prefix", "equal pairs", "deep ties", "zero bytes"])
@pytest.mark.parametrize("down", [False, True])
def test_long_columns_of_strings(kind, down):
    values = texts(kind, random.Random(kind))
    batch = pa.RecordBatch.from_arrays(
        [pa.array(values, pa.large_string()), pa.array([i % 3 for i in range(len(values))])], ["k", "n"]
    )

    def key(i: int) -> tuple[bool, bytes]:
        return values[i] is not None, (values[i] or "").encode()

    by_number = sorted(range(len(values)), key=lambda i: i % 3)
    valid = sorted((i for i in by_number if values[i] is not None), key=key, reverse=down)
    expected = valid + [i for i in by_number if values[i] is None]
    assert order(batch, ["k", "n"], [down, False]).tolist() == expected


@settings(max_examples=150, deadline=None)
@given(key_batches(), st.data())
def test_cut_finds_the_place_of_any_key(batch, data):
    names = key_names(batch)
    descending = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    if batch.num_rows == 0:
        return
    pick = data.draw(st.integers(0, batch.num_rows - 1))
    key, rest = batch.slice(pick, 1), batch.take(pa.array([i for i in range(batch.num_rows) if i != pick], pa.int64()))
    in_order = rest.take(pa.array(expected_order(rest, names, descending), pa.int64()))
    # where a stable sort puts the key if it comes first, and if it comes last
    first = expected_order(pa.concat_batches([key, in_order]), names, descending).index(0)
    last = expected_order(pa.concat_batches([in_order, key]), names, descending).index(in_order.num_rows)
    assert cut(in_order, names, descending, key, "left") == first
    assert cut(in_order, names, descending, key, "right") == last
