"""Words of a text: where `str.split` would find them, and how often each occurs, without making strings of them.

A word of up to 8 bytes is one number and one of up to 16 is two (`distinct.leading_words`), so counting words is
counting numbers. Most are among those that were seen before: they are looked up in a table that stays in the cache,
one slot a word, and only those that are not in it are grouped.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa

from mr.kernels.distinct import (
    MULTIPLIERS,
    NO_SHORT_WORD,
    Bytes,
    Ints,
    Mask,
    Words,
    binaries_at,
    first_equal,
    first_in_arrow,
    leading_pairs,
    leading_words,
    numbered,
    slots_of,
)

WHITESPACE: Final = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
"""All that `str.isspace` is true for: what `str.split()` splits at and `str.strip()` strips."""

_WIDE_SPACES: Final = np.array([ord(space) for space in WHITESPACE if space > "\x7f"], np.int32)
_TABLE_BITS: Final = 16
"""A table of 512 KiB a word of 8 bytes: larger ones leave the second-level cache."""

_CACHED_WORDS: Final = 1 << 18
"""Words that are counted at a time: 2 MiB of them."""

_GATHERED_WORDS: Final = 1 << 16
_GATHERED_BYTES: Final = 1 << 22
"""Shorter texts wait until there are so many words, or bytes: each count goes over the whole table."""

_EMPTY: Final = 2 * NO_SHORT_WORD
"""Stands for the string without bytes, as 0 stands for an empty slot: no other string has this word either."""


def split_words(data: bytes | Bytes, ascii_only: bool) -> tuple[Ints, Ints]:
    r"""Where the words of UTF-8 text are, as `str.split()` finds them: starts and lengths in bytes, int64 (n,) each.

    `ascii_only`: the text is known to have no other characters.

    >>> starts, lengths = split_words(b" to be\x1cor\n", True)
    >>> starts.tolist(), lengths.tolist()
    ([1, 4, 7], [2, 2, 2])
    """
    text = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    is_space = np.subtract(text, 9, dtype=np.uint8) < 5  # \t to \r
    is_space |= np.subtract(text, 28, dtype=np.uint8) < 5  # \x1c to blank
    if not ascii_only:
        _mark_wide_spaces(text, is_space)
    ends = np.flatnonzero(is_space)
    if len(text) and not is_space[-1]:
        ends = np.append(ends, len(text))
    starts = np.zeros(len(ends), np.int64)
    np.add(ends[:-1], 1, out=starts[1:])
    lengths = ends - starts
    if lengths.min(initial=1) == 0:  # between two spaces
        words = np.flatnonzero(lengths)
        starts, lengths = starts[words], lengths[words]
    return starts, lengths


def _mark_wide_spaces(text: Bytes, is_space: Mask) -> None:
    """Set all bytes of each whitespace character beyond ASCII."""
    for lead in (0xC2, 0xE1, 0xE2, 0xE3):
        at = np.flatnonzero(text == lead)
        if not len(at):
            continue
        size = 2 if lead == 0xC2 else 3
        points = text[at].astype(np.int32) & (0x1F if size == 2 else 0x0F)
        for i in range(1, size):
            points = points << 6 | (text[at + i] & 0x3F)
        for wide in at[np.isin(points, _WIDE_SPACES)]:
            is_space[wide : wide + size] = True


class WordCounts:
    """Counts equal strings over many texts.

    >>> counts = WordCounts()
    >>> for text in (b"to be or not to be", b"to see"):
    ...     counts.add(np.frombuffer(text, np.uint8), *split_words(text, True))
    >>> words, numbers = counts.take()
    >>> sorted(zip(words.to_pylist(), numbers.tolist()))
    [(b'be', 2), (b'not', 1), (b'or', 1), (b'see', 1), (b'to', 3)]
    """

    def __init__(self) -> None:
        self._gathered: list[tuple[Bytes, Ints, Ints]] = []
        self._gathered_words = self._gathered_bytes = 0
        self._zeros = False
        self._short = _NumberCounts(1)
        self._middle = _NumberCounts(2)
        self._longest: list[Any] = []
        self._longest_bytes = 0

    @property
    def held_bytes(self) -> int:
        """What it holds of words that no table has had room for, counted as often as they came."""
        return self._short.held_bytes + self._middle.held_bytes + self._longest_bytes

    def add(self, data: Bytes, starts: Ints, lengths: Ints) -> None:
        """Count the byte strings of `data` at `starts` (ascending, not overlapping), `lengths` bytes long."""
        self._gathered.append((data, starts, lengths))
        self._gathered_words += len(starts)
        self._gathered_bytes += len(data)
        if self._gathered_words >= _GATHERED_WORDS or self._gathered_bytes >= _GATHERED_BYTES:
            self._count_gathered()

    def _count_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._gathered_words = self._gathered_bytes = 0
        if len(gathered) == 1:
            self._count(*gathered[0])
        elif gathered:
            data, starts, lengths = zip(*gathered, strict=True)
            offsets = np.cumsum([0, *map(len, data[:-1])])
            moved = [start + offset for start, offset in zip(starts, offsets, strict=True)]
            self._count(np.concatenate(data), np.concatenate(moved), np.concatenate(lengths))

    def _count(self, data: Bytes, starts: Ints, lengths: Ints) -> None:
        if not len(starts):
            return
        if data[starts[0] : starts[-1] + lengths[-1]].min(initial=1) == 0:  # "a" and "a\0" would be one number
            self._zeros = True
            self._add_longest(data, starts, lengths)
            return
        for i in range(0, len(starts), _CACHED_WORDS):
            self._count_some(data, starts[i : i + _CACHED_WORDS], lengths[i : i + _CACHED_WORDS])

    def _count_some(self, data: Bytes, starts: Ints, lengths: Ints) -> None:
        words = leading_words(data, starts, lengths)
        if not lengths.min():
            words[lengths == 0] = _EMPTY
        longer = np.flatnonzero(lengths > 8)
        if len(longer):
            words[longer] = NO_SHORT_WORD
            self._add_longer(data, starts[longer], lengths[longer])
        self._short.add([words])

    def _add_longer(self, data: Bytes, starts: Ints, lengths: Ints) -> None:
        longest = np.flatnonzero(lengths > 16)
        if len(longest):
            self._add_longest(data, starts[longest], lengths[longest])
            middle = np.flatnonzero(lengths <= 16)
            starts, lengths = starts[middle], lengths[middle]
        self._middle.add([*leading_pairs(data, starts, lengths)])

    def _add_longest(self, data: Bytes, starts: Ints, lengths: Ints) -> None:
        strings = binaries_at(data, starts, lengths)
        self._longest.append(strings)
        self._longest_bytes += strings.nbytes

    def take(self) -> tuple[Any, Ints]:
        """The words so far (`pa.LargeBinaryArray`, in no special order) and how often each occurred, int64 (n,).

        What is taken depends on the texts alone. The next count begins at zero.
        """
        self._count_gathered()
        words, counts = [], []
        for table in (self._short, self._middle):
            columns, numbers = table.take()
            real = columns[0] != NO_SHORT_WORD
            columns, numbers = [column[real] for column in columns], numbers[real]
            columns[0][columns[0] == _EMPTY] = 0
            words.append(_as_binaries(columns))
            counts.append(numbers)
        longest, self._longest, self._longest_bytes = self._longest, [], 0
        if longest:
            counted = pa.chunked_array(longest).combine_chunks().value_counts()
            words.append(counted.field("values"))
            counts.append(counted.field("counts").to_numpy())
        found, numbers = pa.concat_arrays(words), np.concatenate(counts)
        if self._zeros:  # then short words are among the long ones, too
            self._zeros = False
            codes, firsts = numbered(first_in_arrow(found))
            found = found.take(pa.array(firsts))
            sums = np.zeros(len(firsts), np.int64)
            np.add.at(sums, codes, numbers)
            numbers = sums
        return found, numbers


class _NumberCounts:
    """Counts rows of `width` uint64 numbers, of which the first is never 0.

    A table has a slot for each hash: the row that came first, and how often it came since. Other rows wait.
    """

    def __init__(self, width: int) -> None:
        self._keys = [np.zeros(1 << _TABLE_BITS, np.uint64) for _ in range(width)]
        self._counts = np.zeros(1 << _TABLE_BITS, np.int64)
        self._waiting: list[list[Words]] = []
        self.held_bytes = 0

    def add(self, columns: list[Words]) -> None:
        slots = slots_of(columns, MULTIPLIERS[0], _TABLE_BITS)
        missed = self._others(columns, slots)
        if len(missed):
            free = missed[self._keys[0].take(slots[missed]) == 0]
            if len(free):
                for keys, column in zip(self._keys, columns, strict=True):
                    keys[slots[free]] = column[free]
                missed = missed[self._others([column[missed] for column in columns], slots[missed])]
            self._waiting.append([column[missed] for column in columns])
            self.held_bytes += len(columns) * missed.nbytes
        self._count(slots, 1)
        self._count(slots[missed], -1)

    def _others(self, columns: list[Words], slots: Ints) -> Ints:
        """The rows that are not the one in their slot."""
        differs = self._keys[0].take(slots) != columns[0]
        for keys, column in zip(self._keys[1:], columns[1:], strict=True):
            differs |= keys.take(slots) != column
        return np.flatnonzero(differs)

    def _count(self, slots: Ints, by: int) -> None:
        if 4 * len(slots) < len(self._counts):
            np.add.at(self._counts, slots, by)
        else:
            self._counts += by * np.bincount(slots, minlength=len(self._counts))

    def take(self) -> tuple[list[Words], Ints]:
        """The rows so far, once each, and their numbers; counting starts anew."""
        used = np.flatnonzero(self._counts)
        columns, counts = [keys[used] for keys in self._keys], self._counts[used]
        if self._waiting:
            waiting = [np.concatenate(parts) for parts in zip(*self._waiting, strict=True)]
            numbers = np.bincount(first_equal(waiting))
            firsts = np.flatnonzero(numbers)
            columns = [np.append(column, other[firsts]) for column, other in zip(columns, waiting, strict=True)]
            counts = np.append(counts, numbers[firsts])
        for array in (*self._keys, self._counts):
            array[:] = 0
        self._waiting, self.held_bytes = [], 0
        return columns, counts


def _as_binaries(columns: list[Words]) -> Any:
    """Little-endian words, uint64[n] each, as the `pa.LargeBinaryArray` (n,) of the strings without zero bytes."""
    bounds = np.zeros(len(columns[0]) + 1, np.int64)
    for column in columns:
        for size in range(8):
            bounds[1:] += column >= np.uint64(1 << 8 * size)
    np.cumsum(bounds, out=bounds)
    flat = np.stack(columns, axis=1).view(np.uint8).ravel()
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(flat[flat != 0])]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(columns[0]), buffers)
