"""Numbers in fewer bits, in the same order: without what is below the least, or without the bits that all share."""

from __future__ import annotations

from typing import Final

import numpy as np

from mr.kernels.keys import Words

_BITS_MAX: Final = 36
"""With its bucket and the row of a million these fill a word: one round sorts a block. More bits are not worth it."""
_SAMPLE_ROWS: Final = 2048
_BLOCK_ROWS: Final = 16_384


def narrowed(words: Words) -> tuple[int, Words]:
    """The bits that the range of `words` (uint64) needs, and each less the least; changes `words`.

    >>> bits, found = narrowed(np.array([7, 9], np.uint64))
    >>> bits, found.tolist()
    (2, [0, 2])
    """
    if not len(words):
        return 0, words
    low = words.min()
    words -= low
    return int(words.max()).bit_length(), words


def squeezed(words: Words) -> tuple[int, Words] | None:
    """The bits that `words` (uint64) do not share, of digits four a byte, closed up; None where there are many.

    >>> bits, found = squeezed(np.array([0x3131, 0x3139, 0x3531], np.uint64))
    >>> bits, found.tolist()
    (2, [0, 1, 2])
    """
    varying = _varying(words[:: 1 + len(words) // _SAMPLE_ROWS])
    if varying.bit_count() > _BITS_MAX:
        return None
    varying = _varying(words)
    bits = varying.bit_count()
    if bits > _BITS_MAX:
        return None
    found = np.zeros(len(words), np.uint64)
    runs = _runs(varying)
    for start in range(0, len(words), _BLOCK_ROWS):  # what is made on the way stays in the processor's cache
        block, out = words[start : start + _BLOCK_ROWS], found[start : start + _BLOCK_ROWS]
        for shift, mask in runs:
            out |= (block >> np.uint64(shift)) & np.uint64(mask)
    return bits, found


def _varying(words: Words) -> int:
    """The bits in which not all words are equal."""
    return int(np.bitwise_or.reduce(words) ^ np.bitwise_and.reduce(words)) if len(words) else 0


def _runs(varying: int) -> list[tuple[int, int]]:
    """For each run of ones how far it goes down, and where it then stands."""
    runs, low, filled = [], 0, 0
    while varying >> low:
        low += ((varying >> low) & -(varying >> low)).bit_length() - 1
        width = ((~(varying >> low)) & ((varying >> low) + 1)).bit_length() - 1
        runs.append((low - filled, ((1 << width) - 1) << filled))
        low, filled = low + width, filled + width
    return runs
