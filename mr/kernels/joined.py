"""The rows of a join, written out from where they match: gathered in blocks, so that few keys may have many matches.

A `JoinLayout` says which columns a joined row has. All columns of the left come first, then those of the right that are
wanted, under the names that they get. A right or full join has rows without a left one: their key columns hold the key
of the right. Semi and anti joins only choose among the rows of the left, which stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from msgspec.structs import replace

from mr.kernels.keys import Ints, Mask
from mr.kernels.sizes import fitting, row_bytes
from mr.options import DICTIONARY_SAMPLE_ROWS, JOIN_BLOCK_BYTES

How = Literal["inner", "left", "right", "full", "semi", "anti"]
HOWS: Final[tuple[How, ...]] = ("inner", "left", "right", "full", "semi", "anti")


_UNEVEN: Final = 4
"""Where a row has so many times the mean of its side, rows are counted by what each has, else by the mean."""
_LOOKED_ROWS: Final = 65_536
"""Of so many rows at a time the largest is looked for: what that takes stays in the cache."""


class JoinLayout(Struct, frozen=True):
    """What is joined on what, and what a joined row has: `right` holds (column of the right, name in the result)."""

    how: How
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    right: tuple[tuple[str, str], ...] = ()
    left: tuple[str, ...] | None = None  # the columns of the left that are wanted of the result; None: all

    @property
    def keeps_left(self) -> bool:
        """Whether left rows without a match appear."""
        return self.how in ("left", "full")

    @property
    def keeps_right(self) -> bool:
        """Whether right rows without a match appear."""
        return self.how in ("right", "full")

    @property
    def right_columns(self) -> tuple[str, ...]:
        """The columns of the right side that the join looks at."""
        return tuple(dict.fromkeys((*self.right_on, *(source for source, _ in self.right))))

    @property
    def filters(self) -> bool:
        """Whether the result has rows of the left only."""
        return self.how in ("semi", "anti")


class Matches(Struct, frozen=True):
    """Which rows stand side by side, in order. Entry i: left row `lefts[i]` beside `counts[i]` places of the right.

    The places start at `starts[i]`. -1 in `lefts` or `starts` is a row of nulls on that side. `lefts` None: entry i
    is left row i. `counts` None: every entry is one row.
    """

    lefts: Ints | None
    starts: Ints
    counts: Ints | None


class Widths(Struct, frozen=True):
    """How many bytes the rows of a side have: `mean`, and `each` (int64[n]) if some have far more."""

    mean: int
    each: Ints | None


def widths(batches: Sequence[pa.RecordBatch]) -> Widths:
    """The widths of the rows of batches, one after the other.

    >>> widths([pa.record_batch({"n": [1, 2]})])
    Widths(mean=8, each=None)
    """
    mean = int(sum(batch.nbytes for batch in batches) // max(1, sum(batch.num_rows for batch in batches)))
    parts = (batch.slice(start, _LOOKED_ROWS) for batch in batches for start in range(0, batch.num_rows, _LOOKED_ROWS))
    if all(int(row_bytes(part).max()) <= _UNEVEN * mean for part in parts):
        return Widths(mean, None)
    return Widths(mean, np.concatenate([row_bytes(batch) for batch in batches]))


class Source:
    """Rows to gather from again and again: strings as Polars' views, which are gathered three times as fast."""

    def __init__(self, data: pa.RecordBatch) -> None:
        self.data = data
        self._views: dict[int, pl.Series] = {}

    def take(self, rows: Ints | slice) -> list[Any]:
        """The columns of these rows; -1 is a row of nulls."""
        if isinstance(rows, slice):
            return list(self.data.slice(rows.start, rows.stop - rows.start).columns)
        missing = rows < 0
        indices = pa.array(rows, mask=missing if missing.any() else None)
        return [
            self._strings(i, rows)
            if pa.types.is_large_string(column.type) and not indices.null_count
            else column.take(indices)
            for i, column in enumerate(self.data.columns)
        ]

    def _strings(self, i: int, rows: Ints) -> Any:
        view = self._views.get(i)
        if view is None:
            made = pl.from_arrow(self.data.column(i))
            assert isinstance(made, pl.Series)
            view = self._views[i] = made
        return view.gather(rows).to_arrow(compat_level=pl.CompatLevel.oldest())


class RightRows(Struct, frozen=True):
    """The right side to gather from: its wanted columns as they will be named, its keys, and the row of each place.

    `widths` are those of the rows with nothing encoded.
    """

    source: Source
    keys: pa.RecordBatch
    rows: Ints | None
    widths: Widths


def left_rows(left: pa.RecordBatch, layout: JoinLayout) -> pa.RecordBatch:
    """The columns of the left that the result has."""
    return left if layout.left is None else left.select(list(layout.left))


def right_rows(right: pa.RecordBatch, layout: JoinLayout, rows: Ints | None) -> RightRows:
    """The right side of a join; `rows` None: places are rows."""
    chosen = [right.column(source) for source, _ in layout.right]
    fields = [right.schema.field(source).with_name(name).with_nullable(True) for source, name in layout.right]
    data = pa.RecordBatch.from_arrays(chosen, schema=pa.schema(fields))
    return RightRows(Source(data), right.select(list(layout.right_on)), rows, widths([data]))


def encoded(right: RightRows) -> RightRows:
    """`right` with strings that repeat as dictionaries, of distinct values without null: quick to gather and to group.

    >>> data = pa.RecordBatch.from_pydict({"k": range(4), "w": pa.array(["x", "y", "x", "x"], pa.large_string())})
    >>> layout = JoinLayout("inner", ("k",), ("k",), (("w", "w"),))
    >>> encoded(right_rows(data, layout, None)).source.data.column("w").indices.to_pylist()
    [0, 1, 0, 0]
    """
    data = right.source.data
    for i, field in enumerate(data.schema):
        if pa.types.is_large_string(field.type) and _repeats(data.column(i)):
            column = data.column(i).dictionary_encode()
            data = data.set_column(i, field.with_type(column.type), column)
    return replace(right, source=Source(data))


def _repeats(column: pa.Array) -> bool:
    """Whether there are half as many values as rows, judged by the first ones."""
    sample = column.slice(0, DICTIONARY_SAMPLE_ROWS)
    return pl.Series(sample).n_unique() * 2 <= len(sample)


def joined_blocks(
    left: pa.RecordBatch, right: RightRows, matches: Matches, layout: JoinLayout
) -> Iterator[pa.RecordBatch]:
    """The joined rows in order, in blocks of about `JOIN_BLOCK_BYTES`; at least one block, perhaps without rows.

    `left` and `right` are what `left_rows` and `right_rows` made of the sides.

    >>> left = pa.RecordBatch.from_pydict({"k": [1, 2]})
    >>> layout = JoinLayout("left", ("k",), ("id",), (("w", "w"),))
    >>> right = right_rows(pa.RecordBatch.from_pydict({"id": [1, 1], "w": [8, 9]}), layout, None)
    >>> matches = Matches(None, np.array([0, -1]), np.array([2, 1]))
    >>> [tuple(row.values()) for block in joined_blocks(left, right, matches, layout) for row in block.to_pylist()]
    [(1, 8), (1, 9), (2, None)]
    """
    mine = Source(left)
    # where no left row stands twice a block has no more of them than the left has; and one row is as its mean is
    once = matches.counts is None or left.num_rows == 1
    ours = Widths(left.nbytes // max(1, left.num_rows), None) if once else widths([left])
    for lefts, places in joined_entries(matches, ours, right.widths, right.rows):
        yield joined_rows(mine, right, lefts, places, layout)


def joined_entries(
    matches: Matches, left: Widths, right: Widths, rows: Ints | None
) -> Iterator[tuple[Ints | slice, Ints]]:
    """The left row and the right place of each joined row, in blocks of about `JOIN_BLOCK_BYTES`; at least one.

    `rows` is the row of the right, as its widths count them, at each place (None: places are rows).
    """
    total = len(matches.starts) if matches.counts is None else int(matches.counts.sum())
    each = max(1, JOIN_BLOCK_BYTES // max(1, left.mean + right.mean))
    ends = None if matches.counts is None else np.cumsum(matches.counts)
    for low in range(0, max(1, total), each):
        lefts, places = _entries(matches, ends, low, min(total, low + each))
        if left.each is None and right.each is None:
            yield lefts, places
            continue
        sizes = np.maximum(1, _sizes(left, lefts) + _sizes(right, places if rows is None else _rows(rows, places)))
        if not len(places):
            yield lefts, places
        for start, end, _ in fitting(sizes, JOIN_BLOCK_BYTES):
            part = slice(low + start, low + end) if isinstance(lefts, slice) else lefts[start:end]
            yield part, places[start:end]


def _sizes(side: Widths, rows: Ints | slice) -> Ints | int:
    """The bytes of these rows (-1: nulls)."""
    if side.each is None or isinstance(rows, slice) or not len(side.each):
        return side.mean if side.each is None else side.each[rows]
    return np.where(rows < 0, 0, side.each[rows])


def _rows(rows: Ints, places: Ints) -> Ints:
    """The right row at each place (-1: nulls)."""
    return np.where(places < 0, -1, rows[places]) if len(rows) else places


def _entries(matches: Matches, ends: Ints | None, low: int, high: int) -> tuple[Ints | slice, Ints]:
    """The left row and the right place of the joined rows `low` to `high`."""
    if matches.counts is None or ends is None or low == high:
        return (slice(low, high) if matches.lefts is None else matches.lefts[low:high]), matches.starts[low:high]
    first, last = np.searchsorted(ends, [low, high - 1], side="right")
    entries = slice(int(first), int(last) + 1)
    begins = ends[entries] - matches.counts[entries]
    shown = np.minimum(ends[entries], high) - np.maximum(begins, low)
    lefts = np.arange(entries.start, entries.stop) if matches.lefts is None else matches.lefts[entries]
    within = np.arange(low, high) - np.repeat(begins, shown)
    starts = np.repeat(matches.starts[entries], shown)
    return np.repeat(lefts, shown), np.where(starts < 0, -1, starts + within)


def joined_rows(
    left: Source, right: RightRows, lefts: Ints | slice, places: Ints, layout: JoinLayout
) -> pa.RecordBatch:
    """The rows at these left rows beside those at these places of the right (-1: nulls)."""
    columns = left.take(lefts)
    if layout.filters:
        return pa.RecordBatch.from_arrays(columns, schema=left.data.schema)
    theirs = places if right.rows is None else _rows(right.rows, places)
    if layout.keeps_right and not isinstance(lefts, slice):
        keys = Source(right.keys).take(theirs)
        for name, key in zip(layout.left_on, keys, strict=True):
            at = left.data.schema.get_field_index(name)
            if at >= 0:
                columns[at] = _either(columns[at], key, lefts < 0)
    fields = [f.with_type(c.type).with_nullable(True) for f, c in zip(left.data.schema, columns, strict=True)]
    fields += list(right.source.data.schema)
    return pa.RecordBatch.from_arrays(columns + right.source.take(theirs), schema=pa.schema(fields))


def _either(left: Any, right: Any, from_right: Mask) -> Any:
    """The key of the side that has one; a side whose keys are all null may have no type."""
    if pa.types.is_null(left.type):
        left = left.cast(right.type)
    elif pa.types.is_null(right.type):
        right = right.cast(left.type)
    return pc.if_else(pa.array(from_right), right, left) if from_right.any() else left


def cross_blocks(left: pa.RecordBatch, right: Sequence[RightRows], layout: JoinLayout) -> Iterator[pa.RecordBatch]:
    """Every row of `left` beside all rows of all of `right`, in order: what one key gives.

    >>> layout = JoinLayout("inner", ("k",), ("k",), (("w", "w"),))
    >>> right = [right_rows(pa.RecordBatch.from_pydict({"k": [1], "w": [w]}), layout, None) for w in (8, 9)]
    >>> left = pa.RecordBatch.from_pydict({"k": [1, 1], "n": [1, 2]})
    >>> [(row["n"], row["w"]) for block in cross_blocks(left, right, layout) for row in block.to_pylist()]
    [(1, 8), (1, 9), (2, 8), (2, 9)]
    """
    step = left.num_rows if len(right) == 1 else 1  # the right side is gone through once for each left row
    for row in range(0, left.num_rows, max(1, step)):
        part = left.slice(row, step)
        for theirs in right:
            starts, counts = np.zeros(step, np.int64), np.full(step, theirs.keys.num_rows, np.int64)
            yield from joined_blocks(part, theirs, Matches(None, starts, counts), layout)


def lone_left(rows: int) -> Matches:
    """So many left rows beside nulls."""
    return Matches(None, np.full(rows, -1), None)


def lone_right(rows: int) -> Matches:
    """So many right rows beside nulls."""
    return Matches(np.full(1, -1), np.zeros(1, np.int64), np.full(1, rows))
