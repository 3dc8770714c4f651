"""Joins: batches against an index that is built once (broadcast), or two chunks that hold all rows of their keys.

Keys match when they are equal as groups are (NaN equals NaN, -0.0 equals 0.0), but null never matches, nor does a key
with a null in it. Where keys are looked up by hash they are compared, too: a hash alone never decides.

Order: with an index, the left rows in their order, and the matches of each in right row order. With chunks, by key
(as `sort` has it, within a bucket), and the rows of a key by (left row, right row).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from mr.errors import PlanError
from mr.kernels.group import group_starts
from mr.kernels.joined import JoinLayout, Matches, RightRows, Source, encoded, joined_blocks, left_rows, right_rows
from mr.kernels.keys import Ints, Leaf, Mask, Words, canonical, codes, hashes, leaves_of
from mr.kernels.sort import number_part, order_by, parts_of

_FIXED_BYTES_MAX = 64
"""Longer keys gain nothing when they are compared as binaries of fixed size."""
_SPARE_BITS = 1
"""A directory of two to four places a key: most lookups then end at their first key."""


@dataclass(frozen=True)
class KeyIndex:
    """Distinct keys without nulls, ready to be looked up; made by `index_keys`."""

    keys: pa.RecordBatch
    hashes: Words
    """The hash of each key, ascending, and the largest number once more at the end."""
    directory: Ints
    """For each value of the top bits of a hash, the first key with such a hash or a larger one."""
    collide: bool
    """Two keys have the same hash: all keys must be compared. Then keys are in no order."""

    @cached_property
    def compared(self) -> list[_Values]:
        """The leaves of the keys in the forms in which they are compared."""
        return _values(self.keys)


@dataclass(frozen=True)
class RightIndex:
    """The right side of a join, ready to be probed; made by `build`. Key i has the places from `starts[i]`."""

    index: KeyIndex
    right: RightRows
    starts: Ints
    counts: Ints
    unique: bool


def build(right: pa.RecordBatch, layout: JoinLayout) -> RightIndex:
    """Index `right` by its key columns for `probe`.

    >>> layout = JoinLayout("inner", ("k",), ("k",))
    >>> build(pa.RecordBatch.from_pydict({"k": ["a", "b", "a"]}), layout).counts.tolist()
    [1, 2]
    """
    keys = key_columns(right, layout.right_on)
    rows = np.flatnonzero(~_any_null(keys))
    found = hashes(keys, keys.schema.names)[rows]
    by_hash = order_by(len(rows), [number_part(found)])
    rows, found = rows[by_hash], found[by_hash]
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(rows)), bool), found[1:] != found[:-1]]))
    collide = _collide(keys, rows, found)
    if collide:  # one hash, several keys: gather the rows of each
        numbers, _ = codes(keys.take(pa.array(rows)), keys.schema.names)
        by_key = order_by(len(rows), [number_part(numbers.view(np.uint64))])
        rows, found = rows[by_key], found[by_key]
        starts = np.flatnonzero(np.diff(numbers[by_key], prepend=-1))
    index = _index(keys.take(pa.array(rows[starts])), found[starts], collide)
    counts = np.diff(starts, append=len(rows))
    wanted = encoded(right_rows(right, layout, None))
    in_order = Source(wanted.source.data.take(pa.array(rows)))  # a key's rows lie together
    return RightIndex(index, replace(wanted, source=in_order), starts, counts, len(starts) == len(rows))


def _collide(keys: pa.RecordBatch, rows: Ints, found: Words) -> bool:
    """Whether rows of one hash have several keys."""
    same = np.flatnonzero(found[1:] == found[:-1])
    one, other = keys.take(pa.array(rows[same])), keys.take(pa.array(rows[same + 1]))
    return not _equal(_values(one), _values(other), None).all() if len(same) else False


def _index(keys: pa.RecordBatch, sorted_hashes: Words, collide: bool) -> KeyIndex:
    bits = len(sorted_hashes).bit_length() + _SPARE_BITS
    tops = (sorted_hashes >> np.uint64(64 - bits)).astype(np.int64)
    directory = np.zeros((1 << bits) + 1, np.int64)
    np.cumsum(np.bincount(tops, minlength=1 << bits), out=directory[1:])
    return KeyIndex(keys, np.append(sorted_hashes, ~np.uint64(0)), directory.astype(np.int32), collide)


def index_keys(keys: pa.RecordBatch) -> tuple[KeyIndex, Ints]:
    """An index of distinct keys, and the row of `keys` of each: none where a key holds a null.

    >>> index_keys(pa.RecordBatch.from_pydict({"k": ["a", None]}))[1].tolist()
    [0]
    """
    rows = np.flatnonzero(~_any_null(keys))
    found = hashes(keys, keys.schema.names)[rows]
    by_hash = order_by(len(rows), [number_part(found)])
    rows, found = rows[by_hash], found[by_hash]
    return _index(keys.take(pa.array(rows)), found, bool((found[1:] == found[:-1]).any())), rows


def probe(left: pa.RecordBatch, index: RightIndex, layout: JoinLayout) -> Iterator[pa.RecordBatch]:
    """`left` joined with an indexed right side, in blocks; see the module for order and matching.

    Not for joins that keep right rows: which of them match no row only all of the left tells.

    >>> layout = JoinLayout("left", ("k",), ("k",), (("v", "v_right"),))
    >>> left = pa.RecordBatch.from_pydict({"k": ["a", "x"], "v": [1, 2]})
    >>> index = build(pa.RecordBatch.from_pydict({"k": ["a"], "v": [9]}), layout)
    >>> [row for block in probe(left, index, layout) for row in block.to_pylist()]
    [{'k': 'a', 'v': 1, 'v_right': 9}, {'k': 'x', 'v': 2, 'v_right': None}]
    """
    found = find(key_columns(left, layout.left_on), index.index)
    left = left_rows(left, layout)
    hit = found >= 0
    if not layout.keeps_left and not (hit.all() and layout.how != "anti"):
        chosen = ~hit if layout.how == "anti" else hit
        left, found, hit = left.filter(pa.array(chosen)), found[chosen], hit[chosen]
    if layout.filters or index.unique:
        matches = Matches(None, found, None)  # the key is the place
    else:
        starts = np.where(hit, index.starts[found], -1)
        matches = Matches(None, starts, np.where(hit, index.counts[found], 1))
    return joined_blocks(left, index.right, matches, layout)


def find(keys: pa.RecordBatch, index: KeyIndex) -> Ints:
    """The number of each key in the index, -1 where it is not there or holds a null."""
    if index.collide:
        return _find_by_value(keys, index)
    nulls = _any_null(keys)
    found = _find_hash(hashes(keys, keys.schema.names), index)
    found[nulls] = -1
    missing = found < 0
    if missing.all():  # as it must be where all keys of a side are null and so have no type
        return found
    same = _equal(_values(keys), index.compared, np.where(missing, 0, found))
    found[missing | ~same] = -1
    return found


@dataclass(frozen=True)
class Chunk:
    """Rows of one side of a join, all that its keys have; in any order, but the rows of a key in their final order.

    `buckets` is the bucket of each row (None: all are of one). It is not looked at where keys tell rows apart.
    """

    data: pa.RecordBatch
    buckets: Ints | None = None


def join_chunks(left: Chunk, right: Chunk, layout: JoinLayout) -> Iterator[pa.RecordBatch]:
    """Two chunks that hold all rows of their keys joined, in blocks; see the module for order and matching.

    >>> left = Chunk(pa.RecordBatch.from_pydict({"k": [2, 1, 1]}))
    >>> right = Chunk(pa.RecordBatch.from_pydict({"id": [3, 1], "w": ["x", "y"]}))
    >>> layout = JoinLayout("full", ("k",), ("id",), (("w", "w"),))
    >>> [tuple(row.values()) for block in join_chunks(left, right, layout) for row in block.to_pylist()]
    [(1, 'y'), (1, 'y'), (2, None), (3, 'x')]
    """
    mine, theirs = _group(left, layout.left_on), _group(right, layout.right_on)
    index, rows = index_keys(theirs.keys)
    found = find(mine.keys, index)
    found = np.where(found >= 0, rows[found], -1) if len(rows) else found
    matches = _by_group(mine, theirs, found, layout)
    return joined_blocks(left_rows(left.data, layout), right_rows(right.data, layout, theirs.rows), matches, layout)


@dataclass(frozen=True)
class _Groups:
    """Rows by (bucket, key, row): group i has the key i and `rows[starts[i]:starts[i] + counts[i]]`."""

    keys: pa.RecordBatch
    buckets: Ints
    rows: Ints
    starts: Ints
    counts: Ints


def _group(chunk: Chunk, on: Sequence[str]) -> _Groups:
    """Order a chunk by runs of equal keys rather than row by row: what was shuffled has few runs."""
    keys = key_columns(chunk.data, on)
    names, total = keys.schema.names, keys.num_rows
    firsts = group_starts(keys, names)
    lengths = np.diff(firsts, append=total)
    heads = keys.take(pa.array(firsts)) if len(firsts) < total else keys
    ids = np.zeros(len(firsts), np.int64) if chunk.buckets is None else chunk.buckets[firsts]
    ordered = order_by(len(firsts), [number_part(ids.astype(np.uint64)), *parts_of(heads, names)])
    heads = heads.take(pa.array(ordered))
    first_runs = group_starts(heads, names)
    begins, widths = firsts[ordered], lengths[ordered]
    ends = np.cumsum(widths)
    rows = np.arange(total) + np.repeat(begins - (ends - widths), widths)
    starts = (ends - widths)[first_runs]
    if len(first_runs) < len(ordered):
        heads = heads.take(pa.array(first_runs))
    return _Groups(heads, ids[ordered][first_runs], rows, starts, np.diff(starts, append=total))


def _by_group(left: _Groups, right: _Groups, found: Ints, layout: JoinLayout) -> Matches:
    """The matches in (bucket, key, left row, right row) order, given the right group of each left group or -1."""
    hit = found >= 0
    if layout.filters:
        rows = left.rows[np.repeat(hit == (layout.how == "semi"), left.counts)]
        return Matches(rows, rows, None)
    starts = np.where(hit, right.starts[found], -1) if len(right.starts) else found
    counts = np.where(hit, right.counts[found], 1) if len(right.counts) else np.ones(len(found), np.int64)
    wide = left.counts if layout.keeps_left else np.where(hit, left.counts, 0)
    if not layout.keeps_right:
        lefts = left.rows if layout.keeps_left or hit.all() else left.rows[np.repeat(hit, left.counts)]
        return Matches(lefts, np.repeat(starts, wide), np.repeat(counts, wide))
    alone = np.ones(len(right.starts), bool)
    alone[found[hit]] = False
    alone_rows = np.flatnonzero(alone)
    order = _merged(left, right, alone_rows)
    first = np.concatenate([left.starts, np.full(len(alone_rows), -1)])[order]
    entries = np.concatenate([wide, np.ones(len(alone_rows), np.int64)])[order]
    ends = np.cumsum(entries)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - entries, entries)
    first = np.repeat(first, entries)
    lefts = np.where(first < 0, -1, left.rows[np.where(first < 0, 0, first + within)]) if len(left.rows) else first
    starts = np.concatenate([starts, right.starts[alone_rows]])[order]
    counts = np.concatenate([counts, right.counts[alone_rows]])[order]
    return Matches(lefts, np.repeat(starts, entries), np.repeat(counts, entries))


def _merged(left: _Groups, right: _Groups, alone: Ints) -> Ints:
    """The order of the groups of the left and those `alone` on the right; equal keys (with nulls): the left first."""
    theirs = right.keys.take(pa.array(alone))
    one, other = _same_types(left.keys, theirs)
    keys = pa.concat_batches([one, other])
    ids = np.concatenate([left.buckets, right.buckets[alone]]).astype(np.uint64)
    return order_by(len(ids), [number_part(ids), *parts_of(keys, keys.schema.names)])


def _same_types(one: pa.RecordBatch, other: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Keys under one schema: a side whose keys are all null may have no type."""
    fields = [b if pa.types.is_null(a.type) else a for a, b in zip(one.schema, other.schema, strict=True)]
    schema = pa.schema([pa.field(f.name, f.type) for f in fields])
    return one.cast(schema), other.cast(schema)


def key_columns(data: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """The key columns as they are compared, named by their places."""
    columns = [canonical(data.column(name)) for name in names]
    return pa.RecordBatch.from_arrays(columns, [str(i) for i in range(len(names))])


def _any_null(keys: pa.RecordBatch) -> Mask:
    mask = np.zeros(keys.num_rows, bool)
    for column in keys.columns:
        for leaf in leaves_of(column):
            if leaf.nulls is not None:
                mask |= leaf.nulls
    return mask


def _find_hash(wanted: Words, index: KeyIndex) -> Ints:
    """The key with each hash, -1 where there is none."""
    bits = (len(index.directory) - 1).bit_length() - 1
    at = index.directory.take((wanted >> np.uint64(64 - bits)).view(np.int64))
    here = index.hashes.take(at)
    rows = np.flatnonzero(here != wanted)
    found = at.astype(np.int64)
    found[rows] = -1
    rows = rows[here[rows] < wanted[rows]]
    at, wanted = at[rows] + 1, wanted[rows]
    while len(rows):  # few keys for each value of the top bits, so few rounds; the last hash ends all of them
        here = index.hashes.take(at)
        equal = here == wanted
        found[rows[equal]] = at[equal]
        on = here < wanted
        rows, at, wanted = rows[on], at[on] + 1, wanted[on]
    found[found == len(index.hashes) - 1] = -1  # no key, only the end
    return found


def _find_by_value(keys: pa.RecordBatch, index: KeyIndex) -> Ints:
    """As `find`, exact without hashes: for keys whose hashes collide, which somebody must have constructed."""
    theirs, mine = _same_types(index.keys, keys)
    numbers, _ = codes(pa.concat_batches([theirs, mine]), theirs.schema.names)
    known = theirs.num_rows
    found = np.where(numbers[known:] < known, numbers[known:], -1)
    found[_any_null(keys)] = -1
    return found


@dataclass(frozen=True)
class _Values:
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


def right_names(left: Sequence[str], right: Sequence[str], right_on: Sequence[str], suffix: str) -> dict[str, str]:
    """How the columns of the right but its keys are called in the result. Raises `PlanError` if a name is taken.

    >>> right_names(["k", "v"], ["id", "v"], ["id"], "_right")
    {'v': 'v_right'}
    """
    taken, named = set(left), {}
    for name in right:
        if name in right_on:
            continue
        unique = name if name not in taken else name + suffix
        if unique in taken:
            raise PlanError(f"join(): column {unique!r} would stand twice; choose another suffix=")
        taken.add(unique)
        named[name] = unique
    return named
