"""Keys looked up among keys: by number where they fit a word, else by hash.

Where keys are looked up by hash they are compared, too: a hash alone never decides. Numbers that lie close together,
as ids do, are places in a table; others are found by their top bits, evenly spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from msgspec import Struct

from mr.kernels.distinct import MULTIPLIERS
from mr.kernels.keys import Ints, Leaf, Mask, Words, canonical, codes, hashes, leaves_of
from mr.kernels.packed import Packing, packed, packing_of
from mr.kernels.sort import number_part, order_by

_FIXED_BYTES_MAX = 64
"""Longer keys gain nothing when they are compared as binaries of fixed size."""
_ROOM = 8
"""Numbers lie close together if there are at most so many times as many between the least and the largest: a table of
their places then takes no more than the numbers themselves and a directory."""
_SAMPLE_ROWS = 16_384
"""How keys are packed is guessed from so many of them."""
_SPARE_BITS = 2
"""A directory of four to eight places a key: most lookups then end at their first key."""
_ROUNDS_MAX = 16
"""Numbers that many others are in front of, which somebody must have constructed, are found by bisection."""


class Places(Struct, frozen=True):
    """Distinct numbers that lie close together: the key of each number from `first` on, -1 where there is none.

    The first and the last place are for the numbers that lie outside.
    """

    first: np.uint64
    keys: npt.NDArray[np.int32]

    def find(self, numbers: Words) -> Ints:
        """The key with each number, -1 where there is none."""
        at = (numbers - self.first).view(np.int64)  # what wraps around is clipped to an end, too
        return self.keys.take(at, mode="clip").astype(np.int64)


class Directory(Struct, frozen=True):
    """Distinct numbers, evenly spread."""

    numbers: Words
    """Ascending, and the largest number once more at the end."""
    firsts: npt.NDArray[np.int32]
    """For each value of the top bits of a number, the first key with such a number or a larger one."""

    def find(self, wanted: Words) -> Ints:
        """The key with each number, -1 where there is none."""
        bits = (len(self.firsts) - 1).bit_length() - 1
        at = self.firsts.take((wanted >> np.uint64(64 - bits)).view(np.int64))
        here = self.numbers.take(at)
        rows = np.flatnonzero(here != wanted)
        found = at.astype(np.int64)
        found[rows] = -1
        rows = rows[here[rows] < wanted[rows]]
        at, wanted = at[rows] + 1, wanted[rows]
        for _ in range(_ROUNDS_MAX):  # few keys for each value of the top bits; the last number ends all of them
            if not len(rows):
                break
            here = self.numbers.take(at)
            equal = here == wanted
            found[rows[equal]] = at[equal]
            on = here < wanted
            rows, at, wanted = rows[on], at[on] + 1, wanted[on]
        if len(rows):
            places = np.searchsorted(self.numbers, wanted)
            found[rows] = np.where(self.numbers.take(places) == wanted, places, -1)
        found[found == len(self.numbers) - 1] = -1  # no key, only the end
        return found


class KeyIndex(Struct, frozen=True, dict=True):
    """Distinct keys without nulls, ready to be looked up; made by `index_keys`."""

    packing: Packing | None
    """How keys become numbers; None: these are their hashes."""
    keys: pa.RecordBatch
    """The keys, to be compared; of packed ones only the types."""
    table: Places | Directory | None
    """None: two keys have the same hash, so all keys must be compared."""

    @cached_property
    def compared(self) -> list[_Values]:
        """The leaves of the keys in the forms in which they are compared."""
        return _values(self.keys)


def index_keys(keys: pa.RecordBatch) -> tuple[KeyIndex, Ints, Ints]:
    """An index of the distinct keys, the rows without a null by key, in row order within a key, and where keys start.

    >>> index, rows, starts = index_keys(pa.RecordBatch.from_pydict({"k": [1, None, 2, 1]}))
    >>> sorted(part.tolist() for part in np.split(rows, starts[1:]))
    [[0, 3], [2]]
    """
    nulls = _any_null(keys)
    rows = None if nulls is None else np.flatnonzero(~nulls)
    valid = keys if rows is None else keys.take(pa.array(rows))
    packing, numbers = _numbers(valid)
    none = pa.RecordBatch.from_pylist([], schema=valid.schema)  # unlike a slice it does not keep all keys in memory
    close = None if packing is None else _close(numbers, packing)
    if close is not None:
        places, by_number, starts = _places(numbers, *close)
        return KeyIndex(packing, none, places), by_number if rows is None else rows[by_number], starts
    total = valid.num_rows
    numbers = numbers if packing is None else _spread(numbers)
    by_number = order_by(total, [number_part(numbers)])
    numbers = numbers[by_number]
    starts = _starts(numbers)
    collide = packing is None and len(starts) < total and _collide(valid, by_number, numbers)
    if collide:  # one hash, several keys: gather the rows of each
        groups, _ = codes(valid.take(pa.array(by_number)), keys.schema.names)
        by_key = order_by(total, [number_part(groups.view(np.uint64))])
        by_number = by_number[by_key]
        starts = np.flatnonzero(np.diff(groups[by_key], prepend=-1))
    apart = len(starts) == total
    compared = none if packing is not None else valid.take(pa.array(by_number if apart else by_number[starts]))
    table = None if collide else _directory(numbers if apart else numbers[starts])
    return KeyIndex(packing, compared, table), by_number if rows is None else rows[by_number], starts


def _numbers(keys: pa.RecordBatch) -> tuple[Packing | None, Words]:
    """The numbers of keys without nulls, and how they are packed; None and their hashes if they are not.

    What some keys from all over the side have in common mostly goes for all, as packing them tells.
    """
    parts = [leaf for column in keys.columns for leaf in leaves_of(column)]
    for looked_at in (_sample(parts[0]), parts[0]) if len(parts) == 1 else ():
        packing = packing_of(looked_at)
        if packing is None:
            break
        numbers, possible = packed(parts[0], packing)
        if possible is None:
            return packing, numbers
    return None, hashes(keys, keys.schema.names)


def _sample(leaf: Leaf) -> Leaf:
    """Some of many strings, evenly spread."""
    step = len(leaf) // _SAMPLE_ROWS
    if leaf.kind != "bytes" or step < 2:
        return leaf
    return Leaf("bytes", None, leaf.values.take(pa.array(np.arange(0, len(leaf), step))))


def _spread(numbers: Words) -> Words:
    """Other numbers for different numbers, evenly spread also in their top bits (after the finaliser of SplitMix64)."""
    mixed: Words = numbers * MULTIPLIERS[0]
    mixed ^= mixed >> np.uint64(32)
    mixed *= MULTIPLIERS[1]
    return mixed


def _starts(ascending: Words) -> Ints:
    """Where each number occurs first."""
    return np.flatnonzero(np.concatenate([np.ones(min(1, len(ascending)), bool), ascending[1:] != ascending[:-1]]))


def _close(numbers: Words, packing: Packing) -> tuple[int, int] | None:
    """The least and the largest number, if all lie close together."""
    if not packing.whole or not len(numbers):
        return None
    ordered = numbers.view(np.int64) if packing.kind == "signed" else numbers
    least, largest = int(ordered.min()), int(ordered.max())
    return (least, largest) if largest - least < _ROOM * len(numbers) else None


def _places(numbers: Words, least: int, largest: int) -> tuple[Places, Ints, Ints]:
    """The table, the rows by key, in row order within one, and where keys start."""
    first = np.uint64((least - 1) % (1 << 64))
    at = (numbers - first).view(np.int64)
    rows = np.arange(len(at), dtype=np.int64)
    keys = np.full(largest - least + 3, -1, np.int32)
    keys[at] = rows
    if np.count_nonzero(keys >= 0) == len(at):  # no key twice: rows stay as they lie
        return Places(first, keys), rows, rows
    by_number = order_by(len(at), [number_part(at.view(np.uint64))])
    at = at[by_number]
    starts = _starts(at.view(np.uint64))
    keys[at[starts]] = rows[: len(starts)]
    return Places(first, keys), by_number, starts


def _collide(keys: pa.RecordBatch, rows: Ints, found: Words) -> bool:
    """Whether rows of one hash have several keys."""
    same = np.flatnonzero(found[1:] == found[:-1])
    one, other = keys.take(pa.array(rows[same])), keys.take(pa.array(rows[same + 1]))
    return not _equal(_values(one), _values(other), None).all()


def _directory(ascending: Words) -> Directory:
    bits = len(ascending).bit_length() + _SPARE_BITS
    tops = (ascending >> np.uint64(64 - bits)).view(np.int64)
    firsts = np.zeros((1 << bits) + 1, np.int32)
    firsts[tops + 1] = np.arange(1, len(tops) + 1, dtype=np.int32)  # the last write, the last key, stays
    np.maximum.accumulate(firsts, out=firsts)
    return Directory(np.append(ascending, ~np.uint64(0)), firsts)


def find(keys: pa.RecordBatch, index: KeyIndex) -> Ints:
    """The number of each key in the index, -1 where it is not there or holds a null.

    >>> index, rows, starts = index_keys(pa.RecordBatch.from_pydict({"k": ["b", "a"]}))
    >>> found = find(pa.RecordBatch.from_pydict({"k": ["a", None, "c"]}), index)
    >>> rows[found[0]], found[1:].tolist()
    (np.int64(1), [-1, -1])
    """
    table = index.table
    if table is None:
        return _find_by_value(keys, index)
    nulls = _any_null(keys)
    if index.packing is not None:
        (leaf,) = (leaf for column in keys.columns for leaf in leaves_of(column))
        numbers, possible = packed(leaf, index.packing)
        found = table.find(_spread(numbers) if isinstance(table, Directory) else numbers)
        if possible is not None:
            found[~possible] = -1
    else:
        found = table.find(hashes(keys, keys.schema.names))
    if nulls is not None:
        found[nulls] = -1
    missing = found < 0
    if index.packing is not None or missing.all():  # as all are where the keys of a side are null and so have no type
        return found
    same = _equal(_values(keys), index.compared, np.where(missing, 0, found))
    found[missing | ~same] = -1
    return found


def same_types(one: pa.RecordBatch, other: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Keys under one schema: a side whose keys are all null may have no type."""
    fields = [b if pa.types.is_null(a.type) else a for a, b in zip(one.schema, other.schema, strict=True)]
    schema = pa.schema([pa.field(f.name, f.type) for f in fields])
    return one.cast(schema), other.cast(schema)


def key_columns(data: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """The key columns as they are compared, named by their places."""
    columns = [canonical(data.column(name)) for name in names]
    return pa.RecordBatch.from_arrays(columns, [str(i) for i in range(len(names))])


def _any_null(keys: pa.RecordBatch) -> Mask | None:
    """Which keys hold a null; None: none does."""
    masks = [leaf.nulls for column in keys.columns for leaf in leaves_of(column) if leaf.nulls is not None]
    return np.logical_or.reduce(masks) if masks else None


def _find_by_value(keys: pa.RecordBatch, index: KeyIndex) -> Ints:
    """As `find`, exact without hashes: for keys whose hashes collide, which somebody must have constructed."""
    theirs, mine = same_types(index.keys, keys)
    numbers, _ = codes(pa.concat_batches([theirs, mine]), theirs.schema.names)
    known = theirs.num_rows
    found = np.where(numbers[known:] < known, numbers[known:], -1)
    nulls = _any_null(keys)
    if nulls is not None:
        found[nulls] = -1
    return found


class _Values(Struct, frozen=True, dict=True):
    """A leaf of keys, to be compared."""

    leaf: Leaf

    @cached_property
    def views(self) -> pl.Series:
        """Strings and binaries as Polars has them: quicker to gather and compare than Arrow's."""
        return pl.Series(self.leaf.values)

    @cached_property
    def fixed(self) -> Any:
        """Strings and binaries that all have one length as a `pa.FixedSizeBinaryArray`, quicker still; else None."""
        array = self.leaf.values
        if array.null_count or not len(array):
            return None
        offsets = np.frombuffer(array.buffers()[1], np.int64, len(array) + 1, array.offset * 8)
        width = int(offsets[1] - offsets[0])
        if not 0 < width <= _FIXED_BYTES_MAX or (np.diff(offsets) != width).any():
            return None
        data = array.buffers()[2].slice(int(offsets[0]), width * len(array))
        return pa.Array.from_buffers(pa.binary(width), len(array), [None, data])


def _values(keys: pa.RecordBatch) -> list[_Values]:
    return [_Values(leaf) for column in keys.columns for leaf in leaves_of(column)]


def _equal(one: Sequence[_Values], other: Sequence[_Values], rows: Ints | None) -> Mask:
    """Whether each key of `one`, without nulls, equals the same of `other`, or that at `rows` of it."""
    same: Mask | None = None
    for a, b in zip(one, other, strict=True):
        if a.leaf.kind != "bytes":
            values = b.leaf.values
            equal = a.leaf.values == (values if rows is None else values[rows])
            equal = equal.all(axis=1) if equal.ndim == 2 else equal
        elif b.fixed is not None and a.fixed is not None and a.fixed.type == b.fixed.type:
            equal = _equal_fixed(a.fixed, b.fixed if rows is None else b.fixed.take(pa.array(rows)))
        else:
            theirs = b.views if rows is None else b.views.gather(rows)
            equal = (a.views == theirs).fill_null(False).to_numpy()
        same = equal if same is None else same & equal
    assert same is not None
    return same


def _equal_fixed(one: Any, other: Any) -> Mask:
    """Whether each of some binaries of one length equals the other in its place."""
    width, equal = one.type.byte_width, np.ones(len(one), bool)
    a, b = (np.frombuffer(side.buffers()[1], np.uint8, width * len(side), width * side.offset) for side in (one, other))
    equal[np.flatnonzero(a != b) // width] = False
    return equal
