"""Keys that fit a word and so need neither be hashed nor compared: numbers, and strings such as "order-00012345".

Strings fit where all of them have one length and differ only within eight neighbouring bytes. The number of a key is a
one-to-one scramble of the word that holds these bytes: where it is equal, so are the keys.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec import Struct

from mr.kernels.distinct import MULTIPLIERS, Bytes
from mr.kernels.gather import bytes_of
from mr.kernels.keys import Leaf, Mask, Words

_WORD_BYTES: Final = 8
_LENGTH_MAX: Final = 64
"""Longer strings are hashed about as fast as they are looked at word by word."""


class Packing(Struct, frozen=True):
    """How the keys of a side of a join become numbers.

    `kind` is that of their leaf. Strings have `length` bytes, all equal but those from `window` on. `shared` are (where
    a word begins, which of its bits all keys share, these bits), and cover all bytes but the eight of the window.
    """

    kind: str
    length: int = 0
    window: int = 0
    shared: tuple[tuple[int, int, int], ...] = ()


def packing_of(leaf: Leaf) -> Packing | None:
    """How the keys of `leaf`, which have no nulls, are packed; None where they do not fit.

    >>> from mr.kernels.keys import leaves_of
    >>> import pyarrow as pa
    >>> packing_of(leaves_of(pa.array(["order-00012345", "order-00099999"], pa.large_string()))[0]).window
    6
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
        loaded = _word(rows, at)
        words.append((at, int(loaded[0])))
        differs = int(np.bitwise_or.reduce(loaded ^ loaded[0]))
        differing |= {at + i for i in range(_WORD_BYTES) if differs >> (8 * i) & 0xFF}
    window = min(min(differing, default=0), begins[-1])
    if max(differing, default=0) >= window + _WORD_BYTES:
        return None
    shared = []
    for at, word in words:
        outside = [i for i in range(_WORD_BYTES) if not 0 <= at + i - window < _WORD_BYTES]
        bits = sum(0xFF << (8 * i) for i in outside)
        shared += [(at, bits, word & bits)] if bits else []
    return Packing(leaf.kind, length, window, tuple(shared))


def packed(leaf: Leaf, packing: Packing) -> tuple[Words, Mask | None]:
    """The number of each key, uint64[n], and which keys can be of those `packing` was made for at all (None: all can).

    Two keys that can be have equal numbers exactly where they are equal. The number of a null means nothing.

    >>> from mr.kernels.keys import leaves_of
    >>> import pyarrow as pa
    >>> one, other = (leaves_of(pa.array(keys))[0] for keys in (["ab", "ac"], ["ac", "xb", "a"]))
    >>> numbers, possible = packed(other, packing_of(one))
    >>> bool(numbers[0] == packed(one, packing_of(one))[0][1]), possible.tolist()
    (True, [True, True, False])
    """
    if leaf.kind != packing.kind:  # all keys of this side are null, so it has no type
        return np.zeros(len(leaf), np.uint64), np.zeros(len(leaf), bool)
    if leaf.kind != "bytes":
        return _scrambled(leaf.values), None
    offsets, data = bytes_of(leaf.values)
    fits: Mask = np.diff(offsets) == packing.length
    if not fits.all():
        return _among(leaf, fits, packing)
    if not len(leaf):
        return np.zeros(0, np.uint64), None
    rows = data.reshape(len(leaf), packing.length)
    possible = np.ones(len(leaf), bool)
    for at, bits, word in packing.shared:
        loaded = _word(rows, at)
        possible &= (loaded if bits == (1 << 64) - 1 else loaded & np.uint64(bits)) == np.uint64(word)
    return _scrambled(_word(rows, packing.window)), None if possible.all() else possible


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


def _scrambled(words: Words) -> Words:
    """Other words for different words, evenly spread also in their top bits (after the finaliser of SplitMix64)."""
    mixed: Words = words * MULTIPLIERS[0]
    mixed ^= mixed >> np.uint64(32)
    mixed *= MULTIPLIERS[1]
    return mixed
