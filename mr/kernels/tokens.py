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

_TABLES: Final = 2
"""The second takes most of the words whose slot in the first is another's."""


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
    """Counts equal words over many texts.

    >>> counts = WordCounts()
    >>> for text in (b"to be or not to be", b"to see"):
    ...     counts.add(np.frombuffer(text, np.uint8), *split_words(text, True))
    >>> words, numbers = counts.take()
    >>> sorted(zip(words.to_pylist(), numbers.tolist()))
    [(b'be', 2), (b'not', 1), (b'or', 1), (b'see', 1), (b'to', 3)]
    """

    def __init__(self) -> None:
        self._short = _NumberCounts(1)
        self._middle = _NumberCounts(2)
        self._longest: list[Any] = []

    @property
    def held(self) -> int:
        """Roughly how many words it holds: those that no table has had room for, counted as often as they came."""
        return self._short.held + self._middle.held + sum(map(len, self._longest))

    def add(self, data: Bytes, starts: Ints, lengths: Ints) -> None:
        """Count the byte strings of `data` at `starts` (ascending, not overlapping), `lengths` bytes long, > 0."""
        if not len(starts):
            return
        if data.min() == 0:  # "a" and "a\0" would be one number
            self._longest.append(binaries_at(data, starts, lengths))
            return
        words = leading_words(data, starts, lengths)
        longer = np.flatnonzero(lengths > 8)
        if len(longer):
            words[longer] = NO_SHORT_WORD
            self._add_longer(data, starts[longer], lengths[longer])
        self._short.add([words])

    def _add_longer(self, data: Bytes, starts: Ints, lengths: Ints) -> None:
        longest = np.flatnonzero(lengths > 16)
        if len(longest):
            self._longest.append(binaries_at(data, starts[longest], lengths[longest]))
            middle = np.flatnonzero(lengths <= 16)
            starts, lengths = starts[middle], lengths[middle]
        self._middle.add([leading_words(data, starts, lengths), leading_words(data, starts + 8, lengths - 8)])

    def take(self) -> tuple[Any, Ints]:
        """The words so far (`pa.LargeBinaryArray`, in no special order) and how often each occurred, int64 (n,).

        A word may be there more than once. What is taken depends on the texts alone. The next count begins at zero.
        """
        words, counts = [], []
        for table in (self._short, self._middle):
            columns, numbers = table.take()
            real = columns[0] != NO_SHORT_WORD
            columns, numbers = [column[real] for column in columns], numbers[real]
            words.append(_as_binaries(np.stack(columns, axis=1)))
            counts.append(numbers)
        longest, self._longest = self._longest, []
        if longest:
            found = pa.chunked_array(longest).combine_chunks().value_counts()
            words.append(found.field("values"))
            counts.append(found.field("counts").to_numpy())
        return pa.concat_arrays(words), np.concatenate(counts)


class _NumberCounts:
    """Counts rows of `width` uint64 numbers, of which the first is never 0."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._tables = [_Table(width, multiplier) for multiplier in MULTIPLIERS[:_TABLES]]
        self._waiting: list[list[Words]] = []
        self.held = 0

    def add(self, columns: list[Words]) -> None:
        for table in self._tables:
            missed = table.count(columns)
            columns = [column[missed] for column in columns]
            if not len(missed):
                return
        self._waiting.append(columns)
        self.held += len(missed)

    def take(self) -> tuple[list[Words], Ints]:
        """The rows so far, once each, and their numbers; counting starts anew."""
        taken = [table.take() for table in self._tables]
        if self._waiting:
            columns = [np.concatenate(parts) for parts in zip(*self._waiting, strict=True)]
            codes, firsts = numbered(first_equal(columns))
            taken.append(([column[firsts] for column in columns], np.bincount(codes)))
        self._waiting, self.held = [], 0
        columns = [np.concatenate([part[0][i] for part in taken]) for i in range(self._width)]
        return columns, np.concatenate([counts for _, counts in taken])


class _Table:
    """A slot for each hash: the row of numbers that came first, and how often it came since."""

    def __init__(self, width: int, multiplier: np.uint64) -> None:
        self._multiplier = multiplier
        self._keys = [np.zeros(1 << _TABLE_BITS, np.uint64) for _ in range(width)]
        self._counts = np.zeros(1 << _TABLE_BITS, np.int64)

    def count(self, columns: list[Words]) -> Ints:
        """Count the rows that have a slot, or find an empty one; the indices of the others."""
        slots = slots_of(columns, self._multiplier, _TABLE_BITS)
        missed = self._others(columns, slots)
        if len(missed):
            free = missed[self._keys[0].take(slots[missed]) == 0]
            if len(free):
                for keys, column in zip(self._keys, columns, strict=True):
                    keys[slots[free]] = column[free]
                missed = missed[self._others([column[missed] for column in columns], slots[missed])]
        self._add(slots, 1)
        self._add(slots[missed], -1)
        return missed

    def _others(self, columns: list[Words], slots: Ints) -> Ints:
        differs = self._keys[0].take(slots) != columns[0]
        for keys, column in zip(self._keys[1:], columns[1:], strict=True):
            differs |= keys.take(slots) != column
        return np.flatnonzero(differs)

    def _add(self, slots: Ints, by: int) -> None:
        if 4 * len(slots) < len(self._counts):
            np.add.at(self._counts, slots, by)
        else:
            self._counts += by * np.bincount(slots, minlength=len(self._counts))

    def take(self) -> tuple[list[Words], Ints]:
        used = np.flatnonzero(self._counts)
        taken = [keys[used] for keys in self._keys], self._counts[used]
        for array in (*self._keys, self._counts):
            array[:] = 0
        return taken


def _as_binaries(words: Words) -> Any:
    """Little-endian words, uint64[n, k], as the `pa.LargeBinaryArray` (n,) of strings without zero bytes."""
    matrix = words.view(np.uint8).reshape(len(words), 8 * words.shape[1])
    filled = matrix != 0
    bounds = np.zeros(len(words) + 1, np.int64)
    np.cumsum(np.count_nonzero(filled, axis=1), out=bounds[1:])
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(matrix[filled])]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(words), buffers)
