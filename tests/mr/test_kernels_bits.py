"""Places of bytes as bits, against numpy's search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mr.kernels.bits import Bits


def check(text: bytes) -> None:
    """All that `Bits` says of the quotes of a text."""
    array = np.frombuffer(text, np.uint8)
    for compare in (np.equal, np.less_equal):
        bits = Bits(compare, array, ord('"'))
        expected = np.flatnonzero(compare(array, ord('"')))
        assert bits.total == len(expected)
        assert bits.places.tolist() == expected.tolist()
        assert bits.places.dtype == np.int64
        at = np.arange(len(text) + 2)
        following = np.append(expected, len(text))[np.searchsorted(expected, at)]
        assert bits.next(at).tolist() == following.tolist()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 6, 7, 8, 55, 56, 57, 58, 63, 64, 65, 200]), st.integers(0, 3)), max_size=30
    )
)
def test_places_at_all_distances(gaps: list[tuple[int, int]]) -> None:
    check(b"".join(b"x" * gap + b'"' * marks for gap, marks in gaps))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 63, 64, 65, 127, 128, 5_000])
def test_no_place_and_every_place(size: int) -> None:
    check(b"x" * size)
    check(b'"' * size)
    check(b"x" * size + b'"')
