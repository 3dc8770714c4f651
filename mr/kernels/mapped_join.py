"""A right side that does not fit memory, joined with batches of the left: rows and order are those of `join.probe`.

The rows of the right side lie in mapped files. Parts of it that fit are indexed one after another; what is kept of a
part is where its rows match, and the order of its rows. Then the joined rows are gathered from the mapped batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from msgspec import Struct

from mr.kernels.frames import concat
from mr.kernels.join import build
from mr.kernels.joined import JoinLayout, Matches, Source, joined_entries, joined_rows, left_rows, right_rows, widths
from mr.kernels.keys import Ints
from mr.kernels.lookup import find, key_columns
from mr.kernels.sizes import rows_filling

_PIECES: Final = 4
"""Batches are cut into at least so many pieces of a part."""


class MappedRight(Struct, frozen=True):
    """Right rows in batches that are not copied; each part of `parts` is so many consecutive batches."""

    batches: tuple[pa.RecordBatch, ...]
    parts: tuple[slice, ...]

    @property
    def schema(self) -> pa.Schema:
        """Of the rows."""
        return self.batches[0].schema


def mapped_right(batches: Sequence[pa.RecordBatch], bytes_max: int) -> MappedRight:
    """`batches` (at least one), cut where they are long, in parts of about `bytes_max` bytes.

    >>> one = pa.RecordBatch.from_pydict({"k": [1, 2]})
    >>> mapped_right([one, one, one], 40).parts
    (slice(0, 2, None), slice(2, 3, None))
    """
    batches = [piece for batch in batches for piece in _pieces(batch, bytes_max // _PIECES)]
    parts, start, held = [], 0, 0
    for i, batch in enumerate(batches):
        if i > start and held + batch.nbytes > bytes_max:
            parts.append(slice(start, i))
            start, held = i, 0
        held += batch.nbytes
    return MappedRight(tuple(batches), (*parts, slice(start, len(batches))))


def _pieces(data: pa.RecordBatch, bytes_each: int) -> Iterator[pa.RecordBatch]:
    """`data` in slices of so many bytes and a row at most, at least one."""
    while data.nbytes > bytes_each and (rows := rows_filling(data, bytes_each)) < data.num_rows:
        yield data.slice(0, rows)
        data = data.slice(rows)
    yield data


def probe_mapped(left: pa.RecordBatch, right: MappedRight, layout: JoinLayout) -> Iterator[pa.RecordBatch]:
    """`left` joined with the right side, in blocks.

    >>> right = mapped_right([pa.RecordBatch.from_pydict({"k": [1], "w": [w]}) for w in (8, 9)], 1)
    >>> layout = JoinLayout("inner", ("k",), ("k",), (("w", "w"),))
    >>> left = pa.RecordBatch.from_pydict({"k": [1]})
    >>> [row for block in probe_mapped(left, right, layout) for row in block.to_pylist()]
    [{'k': 1, 'w': 8}, {'k': 1, 'w': 9}]
    """
    keys = key_columns(left, layout.left_on)
    hit = np.zeros(left.num_rows, bool)
    found: list[Ints] = []  # (left row, first place, matches) of each match, a place being a position in `rows`
    rows: list[Ints] = []
    bounds = np.cumsum([0, *(batch.num_rows for batch in right.batches)])
    for part in right.parts:
        data = concat(right.batches[part], right.schema).select(list(layout.right_on))
        index = build(
            data.append_column("", pa.array(np.arange(bounds[part.start], bounds[part.stop]))), _numbered(layout)
        )
        at = find(keys, index.index)
        lefts = np.flatnonzero(at >= 0)
        hit[lefts] = True
        if len(lefts) and not layout.filters:
            order = index.right.source.data.column(0).to_numpy()
            starts = index.starts[at[lefts]] + sum(map(len, rows))
            found.append(np.stack([lefts, starts, index.counts[at[lefts]]]))
            rows.append(order)
    mine = left_rows(left, layout)
    if layout.filters:
        yield mine.filter(pa.array(hit if layout.how == "semi" else ~hit))
        return
    if layout.keeps_left:
        alone = np.flatnonzero(~hit)
        found.append(np.stack([alone, np.full(len(alone), -1), np.ones(len(alone), np.int64)]))
    lefts, starts, counts = np.concatenate(found or [np.zeros((3, 0), np.int64)], axis=1)
    in_order = np.argsort(lefts, kind="stable")  # of one left row, parts come in their order
    matches = Matches(lefts[in_order], starts[in_order], counts[in_order])
    order = np.concatenate([*rows, np.zeros(1, np.int64)])
    gathered = Source(mine)
    wide = widths([batch.select([source for source, _ in layout.right]) for batch in right.batches])
    for taken, places in joined_entries(matches, widths([mine]), wide, order):
        theirs = _gathered(right, bounds, order[places[places >= 0]], layout)
        numbers = np.where(places >= 0, np.cumsum(places >= 0) - 1, -1)
        yield joined_rows(gathered, right_rows(theirs, layout, None), taken, numbers, layout)


def _numbered(layout: JoinLayout) -> JoinLayout:
    """A layout that keeps the number of a row and nothing else of it."""
    return JoinLayout("inner", layout.right_on, layout.right_on, (("", ""),))


def _gathered(right: MappedRight, bounds: Ints, rows: Ints, layout: JoinLayout) -> pa.RecordBatch:
    """Rows by number, from the batches that hold them."""
    columns = list(layout.right_columns)
    batch_of = np.searchsorted(bounds, rows, side="right") - 1
    by_batch = np.argsort(batch_of, kind="stable")
    parts = []
    numbers, firsts = np.unique(batch_of[by_batch], return_index=True)
    for number, chosen in zip(numbers.tolist(), np.split(by_batch, firsts[1:]) if len(rows) else [], strict=True):
        parts.append(right.batches[number].select(columns).take(pa.array(rows[chosen] - bounds[number])))
    if not parts:
        return right.batches[0].select(columns).slice(0, 0)
    back = np.empty(len(rows), np.int64)
    back[by_batch] = np.arange(len(rows))
    return pa.concat_batches(parts).take(pa.array(back))
