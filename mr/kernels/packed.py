"""Keys that fit a word and so need neither be hashed nor compared: numbers, and strings such as "order-00012345".

Strings fit where all of them have one length and differ only within eight neighbouring bytes: the word that holds these
bytes is the number of a key, or, where they are digits in all keys, the decimal number that they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from string import digits
from typing import Final

import numpy as np
from msgspec import Struct

from mr.kernels.distinct import Bytes
from mr.kernels.gather import bytes_of
from mr.kernels.keys import Leaf, Mask, Words

_WORD_BYTES: Final = 8
_LENGTH_MAX: Final = 64
"""Longer strings are hashed about as fast as they are looked at word by word."""
_BLOCK_ROWS: Final = 16_384
"""So many keys are looked at in one go: what is made of them on the way stays in the second-level cache."""
_EVERY_BYTE: Final = 0x0101010101010101


class Packing(Struct, frozen=True):
    """How the keys of a side of a join become numbers.

    `kind` is that of their leaf. Strings have `length` bytes, all equal but those from `window` on: `digits` decimal
    digits, or if that is 0 eight bytes (or as many as there are) of any kind. `shared` are (where a word begins, which
    of its bits all keys share, these bits), and cover all bytes but those of the window.
    """

    kind: str
    length: int = 0
    window: int = 0
    digits: int = 0
    shared: tuple[tuple[int, int, int], ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the numbers mean something, so that those of many keys may lie close together."""
        return self.kind in ("signed", "unsigned") or self.digits > 0


def packing_of(leaf: Leaf) -> Packing | None:
    """How the keys of `leaf`, which have no nulls, are packed; None where they do not fit.

    >>> from mr.kernels.keys import leaves_of
    >>> import pyarrow as pa
    >>> packing_of(leaves_of(pa.array(["order-00012345", "order-00099999"], pa.large_string()))[0]).digits
    8
    >>> packing_of(leaves_of(pa.array(["a", "no"], pa.large_string()))[0]) is None
    True
    """
    if leaf.kind in ("signed", "unsigned", "float"):
        return Packing(leaf.kind)
    if leaf.kind != "bytes" or not len(leaf):
        return None
    offsets, data = bytes_of(leaf.values)
    length = int(offsets[1])
    if length > _LENGTH_MAX or (np.diff(offsets) != length).any():
        return None
    rows = data.reshape(len(leaf), length)
    begins = sorted({*range(0, length - _WORD_BYTES, _WORD_BYTES), max(0, length - _WORD_BYTES)})
    differing, words = set(), []
    for at in begins:
        word = _word(rows, at)[0]
        words.append((at, int(word)))
        differs = int(np.bitwise_or.reduce([np.bitwise_or.reduce(_word(block, at) ^ word) for block in _blocks(rows)]))
        differing |= {at + i for i in range(_WORD_BYTES) if differs >> (8 * i) & 0xFF}
    first, end = min(differing, default=0), max(differing, default=0) + 1
    if end - first > _WORD_BYTES:
        return None
    decimal = bool(differing) and not any(_digits(block, first, end - first)[1].any() for block in _blocks(rows))
    while decimal and first > max(0, end - _WORD_BYTES) and chr(rows[0, first - 1]) in digits:
        first -= 1  # leading zeros, say: larger numbers than there are are keys like others
    window = first if decimal else min(first, begins[-1])
    end = end if decimal else window + _WORD_BYTES
    shared, covered = [], set(range(window, end))
    for at, word in words:
        bits = sum(0xFF << (8 * i) for i in range(_WORD_BYTES) if at + i not in covered)
        covered |= set(range(at, at + _WORD_BYTES))
        shared += [(at, bits, word & bits)] if bits else []
    return Packing(leaf.kind, length, window, end - window if decimal else 0, tuple(shared))


def packed(leaf: Leaf, packing: Packing) -> tuple[Words, Mask | None]:
    """The number of each key, uint64[n], and which keys can be of those `packing` was made for at all (None: all can).

    Two keys that can be have equal numbers exactly where they are equal. The number of a null means nothing.

    >>> from mr.kernels.keys import leaves_of
    >>> import pyarrow as pa
    >>> one, other = (leaves_of(pa.array(keys))[0] for keys in (["a7", "a8"], ["a8", "x8", "ax", "a"]))
    >>> numbers, possible = packed(other, packing_of(one))
    >>> int(numbers[0]), possible.tolist()
    (8, [True, False, False, False])
    """
    if leaf.kind != packing.kind:  # all keys of this side are null, so it has no type
        return np.zeros(len(leaf), np.uint64), np.zeros(len(leaf), bool)
    if leaf.kind != "bytes":
        return leaf.values, None
    offsets, data = bytes_of(leaf.values)
    fits: Mask = np.diff(offsets) == packing.length
    if not fits.all():
        return _among(leaf, fits, packing)
    rows = data.reshape(len(leaf), packing.length)
    numbers, impossible, start = np.empty(len(leaf), np.uint64), [], 0
    for block in _blocks(rows):
        numbers[start : start + len(block)], differs = _numbered(block, packing)
        impossible += [start + np.flatnonzero(differs)] if differs.any() else []
        start += len(block)
    if not impossible:
        return numbers, None
    possible = np.ones(len(leaf), bool)
    possible[np.concatenate(impossible)] = False
    return numbers, possible


def _blocks(rows: Bytes) -> Iterator[Bytes]:
    return (rows[start : start + _BLOCK_ROWS] for start in range(0, len(rows), _BLOCK_ROWS))


def _numbered(rows: Bytes, packing: Packing) -> tuple[Words, Words]:
    """The numbers of keys of the right length; not 0: this cannot be a key."""
    if packing.digits:
        numbers, differs = _digits(rows, packing.window, packing.digits)
    else:
        numbers, differs = _word(rows, packing.window), np.zeros(len(rows), np.uint64)
    for at, bits, word in packing.shared:
        other = _word(rows, at) ^ np.uint64(word)
        differs |= other if bits == (1 << 64) - 1 else other & np.uint64(bits)
    return numbers, differs


def _digits(rows: Bytes, first: int, digits: int) -> tuple[Words, Words]:
    """The decimal numbers in the `digits` (at most 8) bytes of each row from `first` on; not 0: this is none.

    Neighbouring digits, then pairs, then fours are put together in one multiplication for all of a word (after
    https://lemire.me/blog/2022/01/21/swar-explained-parsing-eight-digits/).
    """
    at = max(0, min(first, rows.shape[1] - _WORD_BYTES))
    kept = _EVERY_BYTE << (8 * (_WORD_BYTES - digits)) & (1 << 64) - 1  # what precedes the digits is shifted below them
    words = _word(rows, at) << np.uint64(8 * (_WORD_BYTES - digits - (first - at)))
    words &= np.uint64(kept * 0xFF)
    words ^= np.uint64(kept * ord("0"))
    wrong = words + np.uint64(kept * (0x7F - 9))
    wrong |= words
    wrong &= np.uint64(kept * 0x80)
    for scale, width in ((10, 8), (100, 16), (10_000, 32)):
        words *= np.uint64((scale << width) + 1)
        words >>= np.uint64(width)
        words &= np.uint64(((1 << width) - 1) * (((1 << 64) - 1) // ((1 << 2 * width) - 1)))
    return words, wrong


def _among(leaf: Leaf, fits: Mask, packing: Packing) -> tuple[Words, Mask]:
    """As `packed`, where only some keys have the right length."""
    rows = np.flatnonzero(fits)
    found, possible = packed(Leaf(leaf.kind, None, leaf.values.take(rows)), packing)
    numbers = np.zeros(len(leaf), np.uint64)
    numbers[rows] = found
    if possible is not None:
        fits[rows] = possible
    return numbers, fits


def _word(rows: Bytes, at: int) -> Words:
    """The eight bytes of each row from `at` on as a little-endian number; short rows are filled up with zeros."""
    total, length = rows.shape
    if length >= _WORD_BYTES:
        return np.ndarray((total,), "<u8", rows, at, (length,))
    padded = np.zeros((total, _WORD_BYTES), np.uint8)
    padded[:, :length] = rows
    return padded.view("<u8")[:, 0]
