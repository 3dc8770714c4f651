"""Joins: two aligned chunks (sort_merge), or batches against an index that is built once (broadcast).

Rows come out in left row order, and among the matches of one left row in right row order. Keys match when they are
equal as groups are (NaN equals NaN, -0.0 equals 0.0), but null never matches, nor does a key with a null in it. The
right key columns are dropped; a right column whose name the left side has gets the suffix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mr.errors import PlanError
from mr.kernels.group import group_starts
from mr.kernels.keys import Ints, Leaf, Mask, Words, canonical, codes, hashes, leaves_of
from mr.kernels.sort import number_part, order_by

How = Literal["inner", "left"]


@dataclass(frozen=True)
class RightIndex:
    """The right side of a join, ready to be probed; made by `build`."""

    data: pa.RecordBatch
    keys: pa.RecordBatch
    rows: Ints
    """Right rows that can match, by key, in row order within a key."""
    starts: Ints
    """Key i has the rows `rows[starts[i]:starts[i + 1]]`; keys are in order of their hashes unless these `collide`."""
    hashes: Words
    """The hash of key i."""
    directory: Ints
    """For each value of the top bits of a hash, the first key with such a hash; one entry more at the end."""
    collide: bool
    """Two keys have the same hash: probes must compare all keys."""


def build(right: pa.RecordBatch, right_keys: Sequence[str]) -> RightIndex:
    """Index `right` by its key columns for `join_hash`.

    >>> len(build(pa.RecordBatch.from_pydict({"k": ["a", "b", "a"]}), ["k"]).hashes)
    2
    """
    keys = _keys(right, right_keys)
    rows = np.flatnonzero(~_any_null(keys))
    found = hashes(keys, keys.schema.names)[rows]
    by_hash = order_by(len(rows), [number_part(found)])
    rows, found = rows[by_hash], found[by_hash]
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(rows)), bool), found[1:] != found[:-1]]))
    collide = len(group_starts(keys.take(pa.array(rows)), keys.schema.names)) != len(starts)
    if collide:  # one hash, several keys: gather the rows of each
        numbers, _ = codes(keys.take(pa.array(rows)), keys.schema.names)
        by_key = order_by(len(rows), [number_part(numbers.view(np.uint64))])
        rows, found = rows[by_key], found[by_key]
        starts = np.flatnonzero(np.diff(numbers[by_key], prepend=-1))
    first = found[starts]
    bits = max(1, len(first).bit_length())
    tops = (first >> np.uint64(64 - bits)).astype(np.int64)
    return RightIndex(
        data=right.drop_columns(list(right_keys)),
        keys=keys,
        rows=rows,
        starts=np.append(starts, len(rows)),
        hashes=first,
        directory=np.searchsorted(tops, np.arange((1 << bits) + 1)).astype(np.int64),
        collide=collide,
    )


def join_hash(
    left: pa.RecordBatch, index: RightIndex, left_keys: Sequence[str], how: How, suffix: str = "_right"
) -> pa.RecordBatch:
    """`left` joined with an indexed right side; see the module for order and matching.

    Raises `PlanError` if a right column's name is taken even with `suffix`.

    >>> left = pa.RecordBatch.from_pydict({"k": ["a", "x"], "v": [1, 2]})
    >>> index = build(pa.RecordBatch.from_pydict({"k": ["a"], "v": [9]}), ["k"])
    >>> join_hash(left, index, ["k"], "left").to_pylist()
    [{'k': 'a', 'v': 1, 'v_right': 9}, {'k': 'x', 'v': 2, 'v_right': None}]
    """
    keys = _keys(left, left_keys)
    if index.collide:
        return _joined(left, index, _find_by_value(keys, index), how, suffix)
    found = _find_hash(hashes(keys, keys.schema.names), index)
    found[_any_null(keys)] = -1
    hit = np.flatnonzero(found >= 0)
    if not len(hit):  # as it must be where all keys of a side are null and so have no type
        return _joined(left, index, found, how, suffix)
    mine = keys.take(pa.array(hit))
    theirs = index.keys.take(pa.array(index.rows[index.starts[found[hit]]]))
    found[hit[~_equal(mine, theirs)]] = -1
    return _joined(left, index, found, how, suffix)


def join_sorted(
    left: pa.RecordBatch,
    right: pa.RecordBatch,
    left_keys: Sequence[str],
    right_keys: Sequence[str],
    how: How,
    suffix: str = "_right",
) -> pa.RecordBatch:
    """Join two chunks that hold all rows of their keys; see the module for order and matching.

    >>> left = pa.RecordBatch.from_pydict({"k": [1, 1, None]})
    >>> right = pa.RecordBatch.from_pydict({"id": [1, None], "w": ["x", "y"]})
    >>> join_sorted(left, right, ["k"], ["id"], "inner").to_pylist()
    [{'k': 1, 'w': 'x'}, {'k': 1, 'w': 'x'}]
    """
    return join_hash(left, build(right, right_keys), left_keys, how, suffix)


def _keys(data: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    columns = [canonical(data.column(name)) for name in names]
    return pa.RecordBatch.from_arrays(columns, [str(i) for i in range(len(names))])


def _any_null(keys: pa.RecordBatch) -> Mask:
    mask = np.zeros(keys.num_rows, bool)
    for column in keys.columns:
        for leaf in leaves_of(column):
            if leaf.nulls is not None:
                mask |= leaf.nulls
    return mask


def _find_hash(wanted: Words, index: RightIndex) -> Ints:
    """The key with each hash, -1 where there is none."""
    found = np.full(len(wanted), -1, np.int64)
    bits = (len(index.directory) - 1).bit_length() - 1
    tops = (wanted >> np.uint64(64 - bits)).astype(np.int64)
    at, end = index.directory[tops], index.directory[tops + 1]
    rows = np.flatnonzero(at < end)
    at, end, wanted = at[rows], end[rows], wanted[rows]
    while len(rows):  # about one key for each value of the top bits, so few rounds
        here = index.hashes[at]
        found[rows] = np.where(here == wanted, at, -1)
        on = (here < wanted) & (at + 1 < end)
        rows, at, end, wanted = rows[on], at[on] + 1, end[on], wanted[on]
    return found


def _find_by_value(keys: pa.RecordBatch, index: RightIndex) -> Ints:
    """As `_find_hash`, exact without hashes: for keys whose hashes collide, which somebody must have constructed."""
    theirs = index.keys.take(pa.array(index.rows[index.starts[:-1]]))
    both = pa.concat_batches([theirs, keys.cast(theirs.schema)])
    numbers, _ = codes(both, both.schema.names)
    known = theirs.num_rows
    found = np.where(numbers[known:] < known, numbers[known:], -1)
    found[_any_null(keys)] = -1
    return found


def _equal(left: pa.RecordBatch, right: pa.RecordBatch) -> Mask:
    """Whether each row of `left`, without nulls, equals the same row of `right`."""
    same = np.ones(left.num_rows, bool)
    for a, b in zip(left.columns, right.columns, strict=True):
        for one, other in zip(leaves_of(a), leaves_of(b), strict=True):
            same &= _leaf_equal(one, other)
    return same


def _leaf_equal(one: Leaf, other: Leaf) -> Any:
    if one.kind == "bytes":
        return pc.equal(one.values, other.values).fill_null(False).to_numpy(zero_copy_only=False)
    equal = one.values == other.values
    return equal.all(axis=1) if one.kind == "wide" else equal


def _joined(left: pa.RecordBatch, index: RightIndex, found: Ints, how: How, suffix: str) -> pa.RecordBatch:
    """The rows of both sides side by side, given the key of each left row or -1."""
    counts = np.where(found >= 0, (index.starts[1:] - index.starts[:-1])[found] if len(index.hashes) else 0, 0)
    wide = np.maximum(counts, 1) if how == "left" else counts
    ends = np.cumsum(wide)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - wide, wide)
    left_rows = np.repeat(np.arange(left.num_rows), wide)
    keys = found[left_rows]
    missing = keys < 0
    places = np.where(missing, 0, index.starts[keys] + within)
    right_rows = index.rows[places] if len(index.rows) else places
    right = index.data.take(pa.array(right_rows, mask=missing))
    columns = [*left.take(pa.array(left_rows)).columns, *right.columns]
    return pa.RecordBatch.from_arrays(columns, schema=joined_schema(left.schema, right.schema, suffix))


def joined_schema(left: pa.Schema, right: pa.Schema, suffix: str = "_right") -> pa.Schema:
    """The schema of a join of `left` with `right`, which is without its keys. Raises `PlanError` if a name is taken.

    >>> joined_schema(pa.schema({"k": pa.int64(), "v": pa.int64()}), pa.schema({"v": pa.string()})).names
    ['k', 'v', 'v_right']
    """
    fields, names = list(left), set(left.names)
    for field in right:
        name = field.name if field.name not in names else field.name + suffix
        if name in names:
            raise PlanError(f"the join would make two columns named {name!r}: choose another suffix=")
        names.add(name)
        fields.append(field.with_name(name).with_nullable(True))
    return pa.schema(fields)
