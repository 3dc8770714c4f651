"""Keys looked up among keys: against a dict, packed into words or hashed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mr.kernels import lookup
from mr.kernels.distinct import MULTIPLIERS
from mr.kernels.keys import leaves_of
from mr.kernels.lookup import Places, find, index_keys
from mr.kernels.packed import packed, packing_of


def batch(keys: list[str | None] | np.ndarray) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([keys if isinstance(keys, pa.Array) else pa.array(keys)], ["0"])


def texts(values: list[str | None]) -> pa.Array:
    return pa.array(["?", *values], pa.large_string()).slice(1)  # a slice, as what comes from a shuffle is


def looked_up(keys: pa.Array, wanted: pa.Array) -> list[list[int]]:
    """The rows of `keys` that each of `wanted` finds."""
    index, rows, starts = index_keys(batch(keys))
    parts = np.split(rows, starts[1:])
    return [parts[i].tolist() if i >= 0 else [] for i in find(batch(wanted), index).tolist()]


def known(keys: pa.Array, wanted: pa.Array) -> list[list[int]]:
    values = keys.to_pylist()
    return [[row for row, value in enumerate(values) if value == key and key is not None] for key in wanted.to_pylist()]


@st.composite
def formatted(draw: st.DrawFn) -> tuple[list[str | None], list[str | None]]:
    """Keys of one length and a common beginning and end, and what is wanted of them: others, too."""
    before, after = draw(st.text("ab", max_size=12)), draw(st.text("ab", max_size=12))
    middle = st.text("xy\0", min_size=(width := draw(st.integers(0, 10))), max_size=width)
    keys = [before + text + after for text in draw(st.lists(middle, max_size=12))]
    other = st.builds(
        lambda text, start, end: start + text + end,
        middle,
        st.sampled_from([before, "b" * len(before)]),
        st.sampled_from([after, "b" * len(after), after + "a"]),
    )
    wanted = draw(st.lists(st.one_of(st.sampled_from([None, "", *keys]), other), max_size=12))
    nulls = draw(st.booleans())
    return [*keys, None] if nulls else list(keys), wanted


@settings(max_examples=100, deadline=None)
@given(formatted())
def test_formatted_strings_find_exactly_their_equals(sides: tuple[list[str | None], list[str | None]]) -> None:
    keys, wanted = map(texts, sides)
    assert looked_up(keys, wanted) == known(keys, wanted)


@pytest.mark.parametrize(
    ("keys", "fits"),
    [
        (["order-00012345-x", "order-99912345-x"], True),
        (["a0000000", "b0000001"], True),
        (["a00000000", "b00000001"], False),
        (["a", "bc"], False),
        (["a", "b"], True),
        (["", ""], True),
        (["x" * 63 + "1", "x" * 63 + "2"], True),
        (["x" * 64 + "1", "x" * 64 + "2"], False),
        ([1, 2], True),
        ([1.5, 2.5], True),
        ([True], True),
    ],
)
def test_what_fits_a_word_is_neither_hashed_nor_compared(keys: list[object], fits: bool) -> None:
    given = pa.array(keys, pa.large_string()) if isinstance(keys[0], str) else pa.array(keys)
    index, _, _ = index_keys(batch(given))
    assert (index.packing is not None) == fits
    assert (index.keys.num_rows == 0) == fits
    assert looked_up(given, given) == known(given, given)


def test_numbers_of_different_keys_differ() -> None:
    leaf = leaves_of(pa.array(np.arange(100_000) * (1 << 40) + np.arange(100_000) % 3))[0]
    packing = packing_of(leaf)
    assert packing is not None
    assert len(np.unique(packed(leaf, packing)[0])) == 100_000


def unscrambled(numbers: np.ndarray) -> np.ndarray:
    """The words that are scrambled to `numbers`."""
    inverses = [np.uint64(pow(int(m), -1, 1 << 64)) for m in MULTIPLIERS[:2]]
    words = numbers * inverses[1]
    words ^= words >> np.uint64(32)
    return words * inverses[0]


def test_keys_made_to_have_one_place_are_found_all_the_same() -> None:
    last = ~np.uint64(0) - np.arange(2_000, dtype=np.uint64)  # the largest number ends the index, too
    numbers = np.concatenate([np.arange(2_000, dtype=np.uint64), last])
    keys = pa.array(unscrambled(numbers))
    wanted = pa.array(unscrambled(np.concatenate([numbers[::-7], np.arange(1_990, 2_500, dtype=np.uint64)])))
    assert looked_up(keys, wanted) == known(keys, wanted)


NUMBERS = st.one_of(
    st.integers(-5, 60),  # close together
    st.integers(-(1 << 63), -(1 << 63) + 3),
    st.integers((1 << 63) - 4, (1 << 63) - 1),
    st.integers(-(1 << 63), (1 << 63) - 1),
)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([st.integers(-5, 60), NUMBERS]).flatmap(st.lists), st.lists(NUMBERS))
def test_numbers_find_exactly_their_equals_near_and_far(keys: list[int], wanted: list[int]) -> None:
    sides = [pa.array([*numbers, None], pa.int64()) for numbers in (keys, [*wanted, *keys[:3]])]
    assert looked_up(*sides) == known(*sides)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 120), min_size=1),
    st.lists(st.one_of(st.integers(0, 120).map(str), st.text("0159:/a", max_size=9))),
    st.sampled_from([("", ""), ("id-", ""), ("order-00", "-x"), ("a" * 11, ""), ("0" * 9, "")]),
    st.integers(3, 8),
)
def test_decimal_strings_find_exactly_their_equals(
    numbers: list[int], others: list[str], around: tuple[str, str], digits: int
) -> None:
    before, after = around
    keys = texts([before + str(n).zfill(digits) + after for n in numbers])
    wanted = texts([before + text.rjust(digits, fill) + after for text in others for fill in "0/:"])
    assert looked_up(keys, wanted) == known(keys, wanted)


@pytest.mark.parametrize(
    ("keys", "close"),
    [
        (range(100), True),
        (range(0, 700, 7), True),
        (range(0, 1000, 10), False),
        ([f"c-{n:08}" for n in range(100)], True),
        ([f"c-{n:08}" for n in range(0, 1100, 11)], False),
        ([f"c-{n:08x}" for n in range(100)], False),
        ([0.0, 1.0, 2.0], False),
        ([2**63 - 1, 2**63, 2**63 + 1], True),
    ],
)
def test_keys_that_are_numbers_close_together_are_places_in_a_table(keys: Sequence[object], close: bool) -> None:
    given = pa.array(list(keys), pa.uint64() if keys[-1] == 2**63 + 1 else None)
    given = given.cast(pa.large_string()) if pa.types.is_string(given.type) else given
    assert isinstance(index_keys(batch(given))[0].table, Places) == close


def test_keys_that_lie_close_together_stay_in_the_order_of_their_rows() -> None:
    _, rows, starts = index_keys(batch(np.array([5, 3, 4])))
    assert rows.tolist() == starts.tolist() == [0, 1, 2]


@pytest.mark.parametrize("other", ["c-0007", "d-0007", "c-00x7", "c-007", "", "c-0007-"])
@pytest.mark.parametrize("row", [0, 1, 9])
def test_a_key_that_is_unlike_those_that_were_looked_at_is_found(
    other: str, row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_SAMPLE_ROWS", 4)
    values: list[str | None] = [f"c-{n:04}" for n in range(20)]
    values.insert(row, other)
    keys, wanted = texts(values), texts([*values, None, "c-0020", "c-00x8"])
    assert looked_up(keys, wanted) == known(keys, wanted)
