"""Where some bytes of a text are, as a bit a byte: all places of them, and the next one behind each of many places.

Bits are an eighth of a mask, and a word of them is 64 bytes of the text. The first byte is the lowest bit.
Source: Warren, "Hacker's Delight", 2-1 and 5-4 (the bits below the lowest one, and how many they are).
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from mr.kernels.words import Positions, Words

_ONE: Final = np.uint64(1)
_WORD_BITS: Final = 64
_WINDOW_BITS: Final = 57
"""The word that begins at the byte of a bit has so many from that bit on, at least."""
_WINDOWS_MAX: Final = 32
_DENSE_BYTES: Final = 16
"""Where there is one in so many bytes, words have several each: numpy's own search takes less time then."""


class Bits:
    """The bytes of a text for which `compare(text, byte)` is true.

    >>> bits = Bits(np.equal, np.frombuffer(b"one two three", np.uint8), ord("e"))
    >>> bits.total, bits.places.tolist(), bits.next(np.array([0, 3, 13])).tolist()
    (3, [2, 11, 12], [2, 11, 13])
    """

    def __init__(self, compare: np.ufunc, text: npt.NDArray[np.uint8], byte: int) -> None:
        self._size = len(text)
        self._mask = np.empty((len(text) // _WORD_BITS + 2) * _WORD_BITS, np.bool_)
        compare(text, byte, out=self._mask[: len(text)])
        self._mask[len(text) :] = False
        self._bytes = np.packbits(self._mask, bitorder="little")

    @property
    def _words(self) -> Words:
        return self._bytes.view("<u8")

    @cached_property
    def total(self) -> int:
        """How many there are."""
        return int(np.bitwise_count(self._words).sum(dtype=np.int64))

    @cached_property
    def places(self) -> Positions:
        """All of them, ascending."""
        if _DENSE_BYTES * self.total > self._size:
            return np.flatnonzero(self._mask)
        at = np.flatnonzero(self._words != 0)
        left, first = self._words[at], at << 6
        if len(at) == self.total:
            first += _below(left)
            return first
        found, counts = np.empty(self.total, np.int64), np.bitwise_count(left)
        rank = np.cumsum(counts, dtype=np.int64) - counts
        while len(left):
            found[rank] = first + _below(left)
            left &= left - _ONE
            more = np.flatnonzero(left)
            left, first, rank = left[more], first[more], rank[more] + 1
        return found

    def next(self, at: Positions) -> Positions:
        """The first at or behind each of some places, else the length of the text; places may be one more than that."""
        found, missing = self._looked_at(at)
        rows = missing
        for _ in range(_WINDOWS_MAX):
            found[rows] = self._size
            at = at[missing] + _WINDOW_BITS
            inside = np.flatnonzero(at < self._size)
            at, rows = at[inside], rows[inside]
            if not len(rows):
                return found
            found[rows], missing = self._looked_at(at)
            rows = rows[missing]
        found[rows] = np.append(self.places, self._size)[np.searchsorted(self.places, at[missing])]
        return found

    def _looked_at(self, at: Positions) -> tuple[Positions, Positions]:
        """The first in the window of each place, and the numbers of those places where there is none."""
        windows = np.ndarray((len(self._bytes) - 7,), "<u8", self._bytes, strides=(1,))
        window = windows[at >> 3]
        window >>= (at & 7).view(np.uint64)
        return at + _below(window), np.flatnonzero(window == 0)


def _below(words: Words) -> npt.NDArray[np.uint8]:
    """How many bits are below the lowest one; 64 where there is none."""
    return np.bitwise_count(~words & (words - _ONE))
