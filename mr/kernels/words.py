"""Eight bytes of a text as one number: a question asked of a few bytes at many places of a buffer, without a loop.

The first byte is the lowest. Sources: Warren, "Hacker's Delight", 6-1; Lemire, "Quickly parsing eight digits" (2018).
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

ONES: Final = np.uint64(0x0101010101010101)
TOPS: Final = np.uint64(0x8080808080808080)
LOWS: Final = ~TOPS
BLANKS: Final = np.uint64(0x2020202020202020)
ZEROS: Final = np.uint64(0x3030303030303030)  # the digit
_ALL: Final = np.uint64(0xFFFFFFFFFFFFFFFF)
LOWEST: Final = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
"""The lowest n bytes of a word, that is the first n of its text."""


def words_of(data: bytes) -> Words:
    """The word that begins at each byte of `data` but the last seven; nothing is copied.

    >>> int(words_of(b"abcdefghi")[1]) == word(b"bcdefghi")
    True
    """
    return np.ndarray((max(0, len(data) - 7),), "<u8", buffer=data, strides=(1,))


def word(text: bytes) -> int:
    """Up to eight bytes as a number.

    >>> hex(word(b"AB"))
    '0x4241'
    """
    return int.from_bytes(text, "little")


def zero_bytes(words: Words) -> Words:
    r"""The highest bits of the bytes that are zero; only the lowest such bit is sure to be right.

    >>> hex(zero_bytes(words_of(b"abc\0efgh"))[0])
    '0x80000000'
    """
    return words - ONES & ~words & TOPS


def words_at(data: bytes, at: Positions, count: int) -> Words:
    """`count` words in a row from each position on, (count, positions); a look at them costs as much as at one.

    >>> [int(part[0]) for part in words_at(b"...onetwothr", np.array([3]), 1)] == [word(b"onetwoth")]
    True
    """
    each = np.ndarray((max(0, len(data) - 8 * count + 1),), f"V{8 * count}", buffer=data, strides=(1,))
    return each[at].view("<u8").reshape(-1, count).T


def fits(words: Words, pattern: bytes) -> Mask:
    """Which words begin with `pattern`, in which "0" is any digit and "?" anything.

    >>> fits(words_of(b"10:05 10x05 "), b"00:??").tolist()
    [True, False, False, False, False]
    """
    same, digits = _kinds(pattern)
    differs = words ^ word(pattern)
    wrong = differs & same
    if digits:
        wrong |= ((differs & LOWS) + 0x76 * ONES | differs) & digits  # 0x76 + 10 is 0x80
    found: Mask = wrong == 0
    return found


@cache
def _kinds(pattern: bytes) -> tuple[int, int]:
    """All bits of the bytes of `pattern` that are as they are, and the highest bits of those that are any digit."""
    same = word(bytes(0 if byte in b"0?" else 0xFF for byte in pattern))
    return same, word(bytes(0x80 if byte == ord("0") else 0 for byte in pattern))


def has_blank(data: bytes, start: Positions, end: Positions) -> Mask:
    """Which of the texts between some positions contain a blank; two words must begin at each position in them.

    >>> has_blank(b"one two" + bytes(12), np.array([0, 0]), np.array([3, 5])).tolist()
    [False, True]
    """
    found = np.zeros(len(start), np.bool_)
    left: Positions | slice = slice(None)
    while len(start):
        length = (end - start).astype(np.uint64)
        first, second = words_at(data, start, 2)
        beyond = _ALL << np.minimum(length, 8) * 8
        blank = zero_bytes(first ^ BLANKS | beyond)
        beyond = _ALL << (np.clip(length, 8, 16) - 8) * 8
        blank |= zero_bytes(second ^ BLANKS | beyond)
        found[left] |= blank != 0
        more = np.flatnonzero(length > 16)
        left = more if isinstance(left, slice) else left[more]
        start, end = start[more] + 16, end[more]
    return found


def next_blank(data: bytes, start: Positions, end: Positions) -> Positions:
    """The first blank between some positions, or what is at its end; a word must begin at each position in between.

    >>> next_blank(b"one two" + bytes(9), np.array([0, 5]), np.array([7, 7])).tolist()
    [3, 7]
    """
    words, found, left = words_of(data), end.copy(), np.flatnonzero(start < end)
    at = start[left]
    while len(left):
        blank = zero_bytes(words[at] ^ BLANKS)
        at = at + (np.bitwise_count((blank & ~blank + 1) - 1) >> 3)  # 8 further where there is none
        found[left] = np.minimum(at, end[left])
        more = (blank == 0) & (at < end[left])
        left, at = left[more], at[more]
    return found


def numbers(text: Words, length: Positions) -> tuple[npt.NDArray[np.int64], Mask]:
    """The numbers of 1 to 8 digits at the ends of words, and which of them are numbers.

    >>> numbers(words_of(b"a: 12345 12x")[[0, 4]], np.array([5, 3]))[1].tolist()
    [True, False]
    """
    digits = (text ^ ZEROS) & ~LOWEST[8 - length]
    valid: Mask = ((digits & LOWS) + 0x76 * ONES | digits) & TOPS == 0  # 0x76 + 10 is 0x80
    pairs = digits * 10 + (digits >> 8)
    fours = (pairs & 0xFF000000FF) * 0xF424000000064 + (pairs >> 16 & 0xFF000000FF) * 0x271000000001
    return (fours >> 32).astype(np.int64), valid
