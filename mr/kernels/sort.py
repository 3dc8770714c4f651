"""Order: stable argsort of key columns, and cutting a sorted batch at a key.

Nulls are last in both directions, NaN is above all numbers, -0.0 equals 0.0, strings compare as UTF-8 bytes.

Method: most significant bits first. A key is a sequence of bits (a null flag, then words whose unsigned order is the
order of the values). One round packs (tie group | next bits | row) into a uint64 and sorts these plain numbers, which
numpy does with vector instructions; the row in the low bits makes it stable. Only rows that still tie take part in
the next round, with their next bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from mr.kernels.keys import Ints, Leaf, Mask, Words, leaves
from mr.kernels.squeeze import narrowed, squeezed

_SIGN: Final = np.uint64(1 << 63)
_SAMPLE_ROWS: Final = 2048
_BYTE_WORDS_MAX: Final = 8
_ROOM_BITS_MIN: Final = 8
_FEW_WORDS: Final = 1024
_BLOCK_ROWS: Final = 16_384

ORDER_ROW_BYTES: Final = 80
"""What `order_by` holds of each row at its peak, beside the data: indices, words, and what makes and sorts them."""

Piece = tuple[int, Words, bool]
"""Some bits of the keys of some rows: how many, as numbers below 2^bits, and whether they are the part's last."""

Part = Callable[[Ints, int], Piece]
"""One part of a key: (rows, step) -> the piece number `step` of these rows, most significant first."""


def order(data: pa.RecordBatch, by: Sequence[str], descending: Sequence[bool] = ()) -> Ints:
    """The row indices (int64) that sort `data` by the columns `by`; stable; `descending` per column, default none.

    >>> order(pa.RecordBatch.from_pydict({"k": [None, 2.0, float("nan"), 1.0]}), ["k"], [True]).tolist()
    [2, 1, 3, 0]
    """
    return order_by(data.num_rows, parts_of(data, by, descending))


def parts_of(data: pa.RecordBatch, by: Sequence[str], descending: Sequence[bool] = ()) -> list[Part]:
    """The parts of the order of `data` by the columns `by`, for `order_by`.

    >>> batch = pa.RecordBatch.from_pydict({"k": [2, 1]})
    >>> order_by(2, parts_of(batch, ["k"])).tolist()
    [1, 0]
    """
    return [
        part
        for name, down in _directions(by, descending)
        for leaf in leaves(data, [name])
        for part in _leaf_parts(leaf, down)
    ]


def number_part(numbers: Words) -> Part:
    """A part of plain uint64 numbers, such as bucket ids; see `order_by`."""
    return lambda rows, _step: (*narrowed(numbers[rows]), True)


def order_by(rows_total: int, parts: Sequence[Part]) -> Ints:
    """The indices (int64) that sort rows 0 .. rows_total-1 by `parts`, stable; see the module for the method.

    >>> order_by(3, [number_part(np.array([7, 5, 7], np.uint64))]).tolist()
    [1, 0, 2]
    """
    found: Ints = np.arange(rows_total, dtype=np.int64)
    tied_at, group, groups = found, None, 1  # at first all rows tie, as one group
    pieces = _Pieces(parts, rows_total)
    while len(tied_at) > 1:
        row_bits = np.uint64((len(tied_at) - 1).bit_length())
        rows = found if group is None else found[tied_at]
        bits, packed = pieces.take(rows, 64 - int(row_bits) - (groups - 1).bit_length())
        if group is not None:
            packed |= group << np.uint64(bits)
        packed <<= row_bits
        packed |= np.arange(len(tied_at), dtype=np.uint64)
        packed = sorted_words(packed)
        local = (packed & np.uint64((1 << int(row_bits)) - 1)).view(np.int64)
        if group is None:
            found = local
        else:
            found[tied_at] = rows[local]
        if pieces.done:
            break
        packed = packed >> row_bits
        same = np.zeros(len(tied_at) + 1, bool)
        np.equal(packed[1:], packed[:-1], out=same[1:-1])
        tied = same[1:] | same[:-1]
        if not tied.any():
            break
        number = np.cumsum(tied & ~same[:-1], dtype=np.uint64)[tied]
        groups = int(number[-1])
        tied_at, group = tied_at[tied], number - np.uint64(1)
        pieces.keep(local[tied])
    return found


def sorted_words(words: Words) -> Words:
    """`words` (uint64) in ascending order; may sort in place.

    Polars sorts plain numbers at 13 ns each on any processor; numpy's vector sort takes from 8 to 50.

    >>> sorted_words(np.array([3, 1, 2], np.uint64)).tolist()
    [1, 2, 3]
    """
    if len(words) < _FEW_WORDS:
        words.sort()
        return words
    return pl.Series(words).sort(multithreaded=False).to_numpy()


class _Pieces:
    """Doles out the bits of the parts in the portions that fit a round; what is left of a piece waits for the next."""

    def __init__(self, parts: Sequence[Part], rows_total: int) -> None:
        self._parts = list(parts)
        self._step = 0
        self._bits = 0
        self._words: Words = np.zeros(rows_total, np.uint64)

    @property
    def done(self) -> bool:
        return not self._parts and not self._bits

    def take(self, rows: Ints, room: int) -> tuple[int, Words]:
        """The next bits of `rows`, as many as fit in `room` (> 0) bits without starting a piece for a few."""
        chunk: Words | None = None
        taken = 0
        while room:
            if not self._bits:
                if not self._parts or (taken and room < _ROOM_BITS_MIN):
                    break
                self._fetch(rows)
            use = min(room, self._bits)
            self._bits -= use
            if use:
                high = self._words >> np.uint64(self._bits) if self._bits else self._words
                self._words = self._words & np.uint64((1 << self._bits) - 1)
                chunk = high if chunk is None else (chunk << np.uint64(use)) | high
            taken, room = taken + use, room - use
        return taken, np.zeros(len(rows), np.uint64) if chunk is None else chunk

    def _fetch(self, rows: Ints) -> None:
        self._bits, self._words, last = self._parts[0](rows, self._step)
        self._step += 1
        if last:
            self._parts.pop(0)
            self._step = 0

    def keep(self, local: Ints) -> None:
        """Carry on with the rows at these indices of the last round's."""
        if self._bits:
            self._words = self._words[local]


def _directions(by: Sequence[str], descending: Sequence[bool]) -> list[tuple[str, bool]]:
    return list(zip(by, descending or [False] * len(by), strict=True))


def _leaf_parts(leaf: Leaf, down: bool) -> list[Part]:
    nulls = leaf.nulls
    flag: list[Part] = [] if nulls is None else [lambda rows, _step: (1, nulls[rows].astype(np.uint64), True)]
    values: list[Part]
    if leaf.kind == "bytes":
        values = [_BytesPart(leaf.values, nulls)]
    elif leaf.kind == "wide":
        words = leaf.values
        values = [
            _words_part(words[:, k], "signed" if k == words.shape[1] - 1 else "unsigned", nulls)
            for k in reversed(range(words.shape[1]))
        ]
    else:
        values = [_words_part(leaf.values, leaf.kind, nulls)]
    return flag + ([_inverted(part) for part in values] if down else values)


def _inverted(part: Part) -> Part:
    def inverted(rows: Ints, step: int) -> Piece:
        bits, words, last = part(rows, step)
        return bits, words ^ np.uint64((1 << bits) - 1), last

    return inverted


def ordered_words(words: Words, kind: Literal["signed", "unsigned", "float"]) -> Words:
    """The values of a leaf of this kind as uint64 whose order is theirs; a new array.

    >>> ordered_words(np.array([-1, 1]).view(np.uint64), "signed").argsort().tolist()
    [0, 1]
    """
    if kind == "signed":
        return words ^ _SIGN
    if kind == "float":  # negative numbers reversed, positive ones above them (Herf, "Radix tricks", 2001)
        return words ^ np.where(words & _SIGN, ~np.uint64(0), _SIGN)
    return words.copy()


def _words_part(words: Words, kind: Literal["signed", "unsigned", "float"], nulls: Mask | None) -> Part:
    def part(rows: Ints, _step: int) -> Piece:
        ordered = ordered_words(words[rows], kind)
        if nulls is not None:
            null = nulls[rows]
            if not null.all():
                ordered[null] = ordered[~null].min()  # so that the filler does not widen the range of bits
        return *narrowed(ordered), True

    return part


def _common_bytes(array: Any) -> int:
    bounds = pc.min_max(array).as_py()
    low, high = bounds["min"] or b"", bounds["max"] or b""
    return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))


class _BytesPart:
    """The order of binaries: words of 8 bytes after the common prefix, then the length where only zeros differ.

    Where most values repeat, and after `_BYTE_WORDS_MAX` words, the distinct values are ranked instead.
    """

    def __init__(self, array: Any, nulls: Mask | None) -> None:
        self._array = array
        self._offsets = np.zeros(1, np.int64)
        if len(array):
            self._offsets = np.frombuffer(array.buffers()[1], np.int64, len(array) + 1, array.offset * 8)
        self._nulls = nulls
        buffer = array.buffers()[2]
        data = np.frombuffer(buffer, np.uint8) if buffer is not None else np.zeros(0, np.uint8)
        self._data = data if len(data) >= 8 else np.concatenate([data, np.zeros(8, np.uint8)])

    @cached_property
    def _prefix_bytes(self) -> int:
        """How many bytes all values have in common at their start; a sample can say that there are none."""
        places = np.arange(0, len(self._array), 1 + len(self._array) // _SAMPLE_ROWS)
        return _common_bytes(self._array.take(pa.array(places))) and _common_bytes(self._array)

    @cached_property
    def _lengths(self) -> Ints:
        lengths: Ints = np.diff(self._offsets)
        if self._nulls is not None:
            lengths[self._nulls] = 0
        return lengths

    def __call__(self, rows: Ints, step: int) -> Piece:
        deep = step >= _BYTE_WORDS_MAX
        if deep or self._repeats(rows, sorted_so_far=step > 0):
            return *narrowed(self._ranks(rows, deep)), True
        lengths = self._lengths[rows]
        base, longest = self._prefix_bytes + 8 * step, int(lengths.max(initial=0))
        if base >= longest:  # all bytes seen: a shorter value that ties differs by zero bytes only
            return *narrowed(lengths.view(np.uint64)), True
        words = self._words(rows, lengths, base)
        if longest < base + 8:
            words >>= np.uint64(8 * (base + 8 - longest))
        return *(squeezed(words) or narrowed(words)), longest <= base + 8 and longest == lengths.min()

    def _words(self, rows: Ints, lengths: Ints, base: int) -> Words:
        """The 8 bytes of each of `rows` from byte `base` on as a big-endian number, zero after the value's end."""
        words = np.empty(len(rows), np.uint64)
        for start in range(0, len(rows), _BLOCK_ROWS):  # what is made on the way stays in the processor's cache
            block = slice(start, start + _BLOCK_ROWS)
            words[block] = self._block_words(self._offsets[:-1][rows[block]] + base, lengths[block] - base)
        return words

    def _block_words(self, starts: Ints, lengths: Ints) -> Words:
        """The 8 bytes at each of `starts` as a big-endian number, zero after `lengths` bytes."""
        overlapping: Words = np.ndarray(len(self._data) - 7, "<u8", self._data, strides=(1,))
        last = len(self._data) - 8
        if starts.max(initial=0) <= last:
            words = overlapping[starts]
        else:
            inside = np.minimum(starts, last)
            words = overlapping[inside]
            words >>= ((starts - inside) * 8).astype(np.uint64) & np.uint64(63)
        words.byteswap(inplace=True)
        if lengths.min(initial=8) < 8:
            unused = (8 - np.clip(lengths, 0, 8)).astype(np.uint64) * np.uint64(8)
            words >>= np.minimum(unused, np.uint64(63))
            words <<= unused & np.uint64(63)
            words[lengths <= 0] = 0
        return words

    def _repeats(self, rows: Ints, sorted_so_far: bool) -> bool:
        """Whether ranking the distinct values pays, judged by a sample: few distinct ones, or equal neighbours."""
        if len(rows) < 2 * _SAMPLE_ROWS:
            return False
        places = np.arange(0, len(rows) - 1, len(rows) // _SAMPLE_ROWS)
        sample = self._array.take(pa.array(rows[places]))
        if not sorted_so_far:
            return 2 * len(sample.unique()) <= len(sample)
        equal = pc.equal(sample, self._array.take(pa.array(rows[places + 1])))
        return bool(5 * (equal.true_count + equal.null_count) >= 2 * len(sample))

    def _ranks(self, rows: Ints, deep: bool) -> Words:
        coded = self._array.take(pa.array(rows)).dictionary_encode()
        distinct = coded.dictionary
        ranks = np.zeros(max(1, len(distinct)), np.uint64)
        found = pc.sort_indices(distinct) if deep else order_by(len(distinct), [_BytesPart(distinct, None)])
        ranks[np.asarray(found)] = np.arange(len(distinct), dtype=np.uint64)
        indices: Ints = coded.indices.fill_null(0).to_numpy()
        return ranks[indices]


def cut(
    data: pa.RecordBatch,
    by: Sequence[str],
    descending: Sequence[bool],
    key: pa.RecordBatch,
    side: Literal["left", "right"],
) -> int:
    """Where the one row of `key` belongs in `data`, which is sorted by `by`: before (left) or after (right) its equals.

    Exact under the order of `order`; compares about log2(rows) times.

    >>> batch = pa.RecordBatch.from_pydict({"k": [1, 3, 3, None]})
    >>> [cut(batch, ["k"], [False], batch.slice(1, 1), side) for side in ("left", "right")]
    [1, 3]
    """
    wanted = SortedKeys(key, by, descending).at(0)
    return SortedKeys(data, by, descending).cut(wanted, side)


Key = tuple[tuple[int, Any], ...]
"""The key of one row: (is null, value) per part, so that `<` and `==` follow the order of `order`."""


class _Down(Struct, frozen=True):
    """A binary that compares the other way round."""

    value: bytes

    def __lt__(self, other: _Down) -> bool:
        return other.value < self.value


def _value_at(leaf: Leaf, row: int, down: bool) -> tuple[int, Any]:
    if leaf.nulls is not None and leaf.nulls[row]:
        return 1, 0
    if leaf.kind == "bytes":
        value = leaf.values[row].as_py()
        return 0, _Down(value) if down else value
    if leaf.kind == "wide":
        number = int.from_bytes(leaf.values[row].tobytes(), "little", signed=True)
    else:
        number = int(leaf.values[row])
        if leaf.kind == "signed":
            number -= (number >> 63) << 64
        elif leaf.kind == "float":
            number = -(number - (1 << 63)) if number >> 63 else number
    return 0, -number if down else number


class SortedKeys:
    """The keys of a batch, one row at a time: for binary searches and for merging. Reads no more than it is asked.

    >>> keys = SortedKeys(pa.RecordBatch.from_pydict({"k": [1, 3, None]}), ["k"])
    >>> keys.at(1) < keys.at(2), keys.cut(keys.at(1), "left")
    (True, 1)
    """

    def __init__(self, data: pa.RecordBatch, by: Sequence[str], descending: Sequence[bool] = ()) -> None:
        self._leaves = [(leaf, down) for name, down in _directions(by, descending) for leaf in leaves(data, [name])]
        self._rows = data.num_rows

    def at(self, row: int) -> Key:
        """The key of row number `row`."""
        return tuple(_value_at(leaf, row, down) for leaf, down in self._leaves)

    def cut(self, key: Key, side: Literal["left", "right"], low: int = 0) -> int:
        """See the function `cut`; rows before `low` are known to be below `key`."""
        high = self._rows
        while low < high:
            middle = (low + high) // 2
            here = self.at(middle)
            if here < key or (side == "right" and here == key):
                low = middle + 1
            else:
                high = middle
        return low
