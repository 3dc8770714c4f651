"""Words without their common bits: in the order of the words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from mr.kernels.sort import order
from mr.kernels.squeeze import squeezed


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), st.data())
def test_bits_that_differ_keep_their_order(fixed: int, mask: int, data: st.DataObject) -> None:
    values = st.integers(0, (1 << 64) - 1).map(lambda value: (fixed & ~mask) | (value & mask))
    words = np.array(data.draw(st.lists(values, max_size=20)), np.uint64)
    found = squeezed(words)
    varying = 0
    for word in words.tolist():
        varying |= word ^ int(words[0])
    assert (found is None) == (varying.bit_count() > 36)
    if found is not None:
        bits, numbers = found
        assert bits == varying.bit_count()
        assert all(number >> bits == 0 for number in numbers.tolist())
        ranks = {word: rank for rank, word in enumerate(sorted(set(words.tolist())))}
        expected = {number: rank for rank, number in enumerate(sorted(set(numbers.tolist())))}
        assert [ranks[word] for word in words.tolist()] == [expected[number] for number in numbers.tolist()]


def test_a_bit_that_no_sampled_word_has_is_seen() -> None:
    words = np.zeros(100_000, np.uint64)
    words[77_777] = 1 << 63
    found = squeezed(words)
    assert found is not None
    assert (found[0], np.flatnonzero(found[1]).tolist()) == (1, [77_777])


def test_strings_of_digits_are_sorted_as_python_does() -> None:
    rng = np.random.default_rng(5)
    texts = [f"order-{number:011}" for number in rng.integers(0, 10**6, 5_000) * 9_999]
    keys = pa.RecordBatch.from_pydict({"k": pa.array(texts, pa.large_string())})
    for down in (False, True):
        sign = -1 if down else 1
        expected = sorted(range(len(texts)), key=lambda row: (sign * int(texts[row][6:]), row))
        assert order(keys, ["k"], [down]).tolist() == expected
