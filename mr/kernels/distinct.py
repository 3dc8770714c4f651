"""Equal rows: for each row the first one that has the same value, exactly.

Method: a table of row numbers indexed by a few bits of a multiplicative hash. Every row writes its number into its
slot, from the last row to the first, so that a slot holds the first row that came to it; a row whose value equals that
row's is settled by one comparison. The others go into another round with another multiplier, and what is left where
most rows differ goes through Arrow's hash table. No row is taken for equal because of a hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

MULTIPLIERS: Final = tuple(
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
)
"""Odd numbers of evenly mixed bits, one a round: the primes of XXH64 and of the golden ratio."""

_SLOT_BITS_MAX: Final = 20
"""A table of 4 MiB: slots that two values share cost more than the third-level cache does."""

NO_SHORT_WORD: Final = 256
"""What no string of up to 8 bytes has as its word, unless it has a zero byte: then lengths are compared, too."""

_MASKS: Final[Words] = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)


def first_equal(columns: Sequence[Words]) -> Ints:
    """For each row, int64[n], the first row that has the same numbers in all `columns` (uint64[n], one or more).

    >>> first_equal([np.array([7, 5, 7, 5], np.uint64)]).tolist()
    [0, 1, 0, 1]
    """
    found, missed = _one_round(columns, MULTIPLIERS[0])
    rows, before = missed, len(found)
    for multiplier in MULTIPLIERS[1:]:
        if not len(rows):
            return found
        columns = [column[missed] for column in columns]
        if 2 * len(rows) > before:
            break
        firsts, missed = _one_round(columns, multiplier)
        found[rows] = rows[firsts]
        rows, before = rows[missed], len(rows)
    else:
        columns = [column[missed] for column in columns]
    values = pa.array(columns[0]) if len(columns) == 1 else binary_rows(np.stack(columns, axis=1))
    found[rows] = rows[first_in_arrow(values)]
    return found


def _one_round(columns: Sequence[Words], multiplier: np.uint64) -> tuple[Ints, Ints]:
    """The first row in the slot of each row, and the rows for which that is another value."""
    total = len(columns[0])
    bits = min(_SLOT_BITS_MAX, max(4, (2 * total).bit_length()))
    slots = slots_of(columns, multiplier, bits)
    numbers = np.int32 if total < 1 << 31 else np.int64
    table = np.empty(1 << bits, numbers)
    table[slots[::-1]] = np.arange(total - 1, -1, -1, dtype=numbers)  # the last write, the first row, stays
    firsts: Ints = table.take(slots).astype(np.int64, copy=False)
    differs = columns[0].take(firsts) != columns[0]
    for column in columns[1:]:
        differs |= column.take(firsts) != column
    return firsts, np.flatnonzero(differs)


def slots_of(columns: Sequence[Words], multiplier: np.uint64, bits: int) -> Ints:
    """A number below 2^bits for each row, int64[n]: the top bits of a product (Knuth's multiplicative hashing).

    >>> slots_of([np.array([0, 1], np.uint64)], MULTIPLIERS[0], 8).tolist()
    [0, 158]
    """
    mixed = columns[0] * multiplier
    for column in columns[1:]:
        mixed ^= mixed >> np.uint64(32)
        mixed += column
        mixed *= multiplier
    mixed >>= np.uint64(64 - bits)
    return mixed.view(np.int64)


def first_in_arrow(array: Any) -> Ints:
    """As `first_equal` for the values of an Arrow array; nulls are equal. Arrow's hash table is better at long values.

    >>> first_in_arrow(pa.array(["a", None, None])).tolist()
    [0, 1, 1]
    """
    numbers = array.dictionary_encode(null_encoding="encode").indices.to_numpy().astype(np.int64)
    firsts = np.zeros(len(numbers), np.int64)
    firsts[numbers[::-1]] = np.arange(len(numbers) - 1, -1, -1, dtype=np.int64)
    found: Ints = firsts.take(numbers)
    return found


def first_equal_bytes(data: Bytes, starts: Ints, lengths: Ints) -> Ints:
    """As `first_equal` for the byte strings at `starts` (int64[n], ascending) of `data`, `lengths` (int64[n]) long.

    Made for short strings: those of up to 8 bytes are compared as one number, those of up to 16 as two.

    >>> text = np.frombuffer(b"to be or not to be", np.uint8)
    >>> first_equal_bytes(text, np.array([0, 3, 6, 9, 13, 16]), np.array([2, 2, 2, 3, 2, 2])).tolist()
    [0, 1, 2, 3, 0, 1]
    """
    if not len(starts):
        return np.zeros(0, np.int64)
    zeros = bool(data[starts[0] : starts[-1] + lengths[-1]].min(initial=1) == 0)  # "a" and "a\0" have one word
    long = np.flatnonzero(lengths > 8)
    if 2 * len(long) > len(starts):
        return _first_equal_long(data, starts, lengths, zeros)
    sizes = [lengths.view(np.uint64)] if zeros else []
    words = leading_words(data, starts, lengths)
    words[long] = NO_SHORT_WORD
    found = first_equal([words, *sizes])
    if len(long):
        found[long] = long[_first_equal_long(data, starts[long], lengths[long], zeros)]
    return found


def _first_equal_long(data: Bytes, starts: Ints, lengths: Ints, zeros: bool) -> Ints:
    """By two words; `zeros`: there may be zero bytes, so that lengths tell more."""
    words, more = leading_pairs(data, starts, lengths)
    longest = np.flatnonzero(lengths > 16)
    words[longest], more[longest] = 0, NO_SHORT_WORD
    found = first_equal([words, more, *([lengths.view(np.uint64)] if zeros else [])])
    if len(longest):
        binaries = binaries_at(data, starts[longest], lengths[longest])
        found[longest] = longest[first_in_arrow(binaries)]
    return found


def leading_words(data: Bytes, starts: Ints, lengths: Ints) -> Words:
    """The up to 8 first bytes of each byte string of `data` as a little-endian number, zero after its end.

    >>> leading_words(np.frombuffer(b"abc", np.uint8), np.array([1]), np.array([2])).tobytes()
    b'bc\\x00\\x00\\x00\\x00\\x00\\x00'
    """
    if len(data) < 16:
        data = np.concatenate([data, np.zeros(16, np.uint8)])
    overlapping: Words = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))
    last = len(data) - 8
    found = overlapping[np.minimum(starts, last)]
    late = int(np.searchsorted(starts, last, side="right"))  # a few values at the very end, or past it
    found[late:] >>= (8 * np.minimum(starts[late:] - last, 7)).astype(np.uint64)
    found &= _MASKS.take(lengths, mode="clip")
    return found


def leading_pairs(data: Bytes, starts: Ints, lengths: Ints) -> tuple[Words, Words]:
    """As `leading_words`, the up to 8 first bytes and the up to 8 bytes behind them: a look at both costs as one does.

    >>> words = leading_pairs(np.frombuffer(b"one thousand and one", np.uint8), np.array([4]), np.array([12]))
    >>> [word.tobytes() for word in words]
    [b'thousand', b' and\\x00\\x00\\x00\\x00']
    """
    both = np.ndarray((max(0, len(data) - 15),), "V16", data, strides=(1,))
    early = int(np.searchsorted(starts, len(both)))
    found = np.empty((2, len(starts)), np.uint64)
    found[:, :early] = both[starts[:early]].view("<u8").reshape(-1, 2).T
    found[0, :early] &= _MASKS.take(lengths[:early], mode="clip")
    found[1, :early] &= _MASKS.take(lengths[:early] - 8, mode="clip")
    found[0, early:] = leading_words(data, starts[early:], lengths[early:])
    found[1, early:] = leading_words(data, starts[early:] + 8, lengths[early:] - 8)
    return found[0], found[1]


def binaries_at(data: Bytes, starts: Ints, lengths: Ints) -> Any:
    """The byte strings at `starts` (ascending, not overlapping) of `data` as a compact `pa.LargeBinaryArray`.

    >>> binaries_at(np.frombuffer(b"to be or", np.uint8), np.array([0, 6]), np.array([2, 2])).to_pylist()
    [b'to', b'or']
    """
    rows = len(starts)
    bounds = np.empty(2 * rows + 1, np.int64)  # value, gap, value, gap, ...
    bounds[0:-1:2], bounds[1::2], bounds[-1] = starts, starts + lengths, len(data)
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(data)]
    both = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 2 * rows, buffers)
    return both.take(pa.array(np.arange(0, 2 * rows, 2, dtype=np.int64)))


def numbered(first: Ints) -> tuple[Ints, Ints]:
    """Dense numbers in order of first occurrence for what `first_equal` found: (codes int64[n], firsts int64[groups]).

    >>> [part.tolist() for part in numbered(np.array([0, 1, 0, 3]))]
    [[0, 1, 0, 2], [0, 1, 3]]
    """
    is_first = first == np.arange(len(first), dtype=np.int64)
    numbers = np.cumsum(is_first, dtype=np.int64)
    numbers -= 1
    return numbers.take(first), np.flatnonzero(is_first)


def numbered_close(numbers: Ints) -> tuple[Ints, Ints] | None:
    """As `numbered(first_equal([numbers]))` in fewer steps; None where the numbers (int64[n]) lie too far apart.

    >>> [part.tolist() for part in numbered_close(np.array([7, 5, 7, 6]))]
    [[0, 1, 0, 2], [0, 1, 3]]
    """
    total = len(numbers)
    least, largest = (int(numbers.min()), int(numbers.max())) if total else (0, 0)
    if largest - least >= min(total, 1 << _SLOT_BITS_MAX):
        return None
    slots = numbers - least if least else numbers
    table = np.full(largest - least + 1, total, np.int64)
    table[slots[::-1]] = np.arange(total - 1, -1, -1, dtype=np.int64)  # the last write, the first row, stays
    firsts = np.sort(table[table < total])
    table[slots[firsts]] = np.arange(len(firsts))
    return table.take(slots), firsts


def binary_rows(words: Words) -> Any:
    """uint64[n] or uint64[n, k] as n binaries of 8 k little-endian bytes.

    >>> len(binary_rows(np.zeros((3, 2), np.uint64))[0].as_py())
    16
    """
    width = 8 * (words.shape[1] if words.ndim == 2 else 1)
    offsets = np.arange(len(words) + 1, dtype=np.int64) * width
    flat = np.ascontiguousarray(words)
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(words), [None, pa.py_buffer(offsets), pa.py_buffer(flat)]
    )
