"""Joins: batches against an index that is built once (broadcast), or two chunks that hold all rows of their keys.

Keys match when they are equal as groups are (NaN equals NaN, -0.0 equals 0.0), but null never matches, nor does a key
with a null in it.

Order: with an index, the left rows in their order, and the matches of each in right row order. With chunks, by key
(as `sort` has it, within a bucket), and the rows of a key by (left row, right row).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from msgspec import Struct
from msgspec.structs import replace

from mr.errors import PlanError
from mr.kernels.group import group_starts
from mr.kernels.joined import JoinLayout, Matches, RightRows, Source, encoded, joined_blocks, left_rows, right_rows
from mr.kernels.keys import Ints
from mr.kernels.lookup import KeyIndex, find, index_keys, key_columns, same_types
from mr.kernels.sort import number_part, order_by, parts_of


class RightIndex(Struct, frozen=True):
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
    index, rows, starts = index_keys(key_columns(right, layout.right_on))
    unique = len(starts) == len(rows)
    counts = np.broadcast_to(np.int64(1), len(rows)) if unique else np.diff(starts, append=len(rows))
    wanted = encoded(right_rows(right, layout, None))
    if len(rows) < right.num_rows or not (rows[1:] > rows[:-1]).all():
        wanted = replace(wanted, source=Source(wanted.source.data.take(pa.array(rows))))  # a key's rows lie together
    return RightIndex(index, wanted, starts, counts, unique)


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


class Chunk(Struct, frozen=True):
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
    index, rows, _ = index_keys(theirs.keys)
    found = find(mine.keys, index)
    found = np.where(found >= 0, rows[found], -1) if len(rows) else found
    matches = _by_group(mine, theirs, found, layout)
    wanted = right_rows(right.data, layout, theirs.rows)
    if right.data.num_rows <= left.data.num_rows:
        wanted = encoded(wanted)
    return joined_blocks(left_rows(left.data, layout), wanted, matches, layout)


class _Groups(Struct, frozen=True):
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
        return Matches(lefts, np.repeat(starts, wide), None if (counts == 1).all() else np.repeat(counts, wide))
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
    one, other = same_types(left.keys, theirs)
    keys = pa.concat_batches([one, other])
    ids = np.concatenate([left.buckets, right.buckets[alone]]).astype(np.uint64)
    return order_by(len(ids), [number_part(ids), *parts_of(keys, keys.schema.names)])


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
