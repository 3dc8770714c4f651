"""Eight bytes of a text as one number: a question asked of a few bytes at many places of a buffer, without a loop.

The first byte is the lowest. Sources: Warren, "Hacker's Delight", 6-1; Lemire, "Quickly parsing eight digits" (2018).
"""

from __future__ import annotations

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


def has_blank(words: Words, start: Positions, end: Positions) -> Mask:
    """Which of the texts between some positions contain a blank; a word must begin at each position in them.

    >>> has_blank(words_of(b"one two        "), np.array([0, 0]), np.array([3, 5])).tolist()
    [False, True]
    """
    found = np.zeros(len(start), np.bool_)
    left = np.arange(len(start))
    while len(left):
        beyond = ~LOWEST[np.minimum(end[left] - start[left], 8)]
        found[left] |= zero_bytes(words[start[left]] ^ BLANKS | beyond) != 0
        start = start + 8
        left = left[start[left] < end[left]]
    return found


def numbers(words: Words, end: Positions, length: Positions) -> tuple[npt.NDArray[np.int64], Mask]:
    """The numbers of 1 to 8 digits that end at some positions, eight bytes in or more, and which of them are numbers.

    >>> numbers(words_of(b"size: 1234567 12x"), np.array([13, 17]), np.array([7, 3]))[1].tolist()
    [True, False]
    """
    digits = (words[end - 8] ^ ZEROS) & ~LOWEST[8 - length]
    valid: Mask = ((digits & LOWS) + 0x76 * ONES | digits) & TOPS == 0  # 0x76 + 10 is 0x80
    pairs = digits * 10 + (digits >> 8)
    fours = (pairs & 0xFF000000FF) * 0xF424000000064 + (pairs >> 16 & 0xFF000000FF) * 0x271000000001
    return (fours >> 32).astype(np.int64), valid
