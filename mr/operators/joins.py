"""Joins: both sides shuffled and merged, or the right side broadcast to every task of the left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import pyarrow as pa
from msgspec import Struct
from msgspec.structs import replace

from mr.batch import Batch, CodedBatch
from mr.errors import TypeConflict
from mr.kernels.frames import concat
from mr.kernels.join import Chunk, RightIndex, build, join_chunks, probe, right_names
from mr.kernels.joined import How, JoinLayout, cross_blocks, joined_blocks, left_rows, lone_left, lone_right, right_rows
from mr.kernels.keys import normalise_keys
from mr.kernels.mapped_join import MappedRight, mapped_right, probe_mapped
from mr.kernels.rows import Shape
from mr.kernels.types import display
from mr.operators.base import Narrow, Run, TaskEnv, rows_shape


def joined_shape(left: Shape, right: Shape, layout: JoinLayout) -> Shape:
    """The columns of a join: those of the left, then those of the right, as far as the layout wants them."""
    if layout.filters and layout.left is None:
        return left
    types, theirs = (dict(zip(side.names, side.types, strict=True)) for side in (left, right))
    if layout.keeps_right:
        for name, other in zip(layout.left_on, layout.right_on, strict=True):
            types[name] = types[name] if types[name] is not None else theirs[other]
    kept = {name: types[name] for name in (left.names if layout.left is None else layout.left)}
    kept |= {name: theirs[source] for source, name in layout.right}
    return rows_shape(kept, kept.values())


def layout_of(
    left: Shape, right: Shape, left_on: tuple[str, ...], right_on: tuple[str, ...], how: How, suffix: str
) -> JoinLayout:
    """The layout with all columns. Raises PlanError where the suffix does not make a name unique."""
    named = {} if how in ("semi", "anti") else right_names(left.names, right.names, right_on, suffix)
    return JoinLayout(how, left_on, right_on, tuple(named.items()))


def told(data: pa.RecordBatch, shape: Shape) -> pa.RecordBatch:
    """`data`, or no rows of `shape` where there was no record to tell the columns."""
    if data.num_columns:
        return data
    return pa.RecordBatch.from_arrays([pa.nulls(0, type or pa.null()) for type in shape.types], names=shape.names)


class HotKey(Struct, frozen=True):
    """One key that does not fit memory: its left rows, once, and its right rows, as often as wanted.

    `null`: it holds a null and so matches nothing.
    """

    left: Iterator[pa.RecordBatch]
    right: Sequence[pa.RecordBatch]
    null: bool


_WITH_MATCHES: dict[How, How] = {"right": "inner", "full": "left"}
"""What a join is where no right row can be without a match."""

Aligned = tuple[Chunk, Chunk]
"""Left and right rows, all that their keys have."""


class MergeJoin(Struct, frozen=True):
    """Joins two inputs that are both in buckets of the key; output in (bucket, key, left row, right row) order."""

    layout: JoinLayout
    left: Shape
    right: Shape
    output: Shape
    label: ClassVar[str] = "join (sort-merge)"

    def join(self, given: Iterable[Aligned | HotKey], partial: bool) -> Iterator[pa.RecordBatch]:
        """Join pair after pair. `partial`: other tasks have more left rows of the only key, which both sides have."""
        layout = self.layout
        if partial:
            layout = replace(layout, how=_WITH_MATCHES.get(layout.how, layout.how))
        for item in given:
            if isinstance(item, HotKey):
                yield from self._hot(item, layout)
                continue
            left, right = item
            if left.data.num_rows or (right.data.num_rows and layout.keeps_right):
                mine = replace(left, data=told(left.data, self.left))
                theirs = replace(right, data=told(right.data, self.right))
                yield from join_chunks(mine, theirs, layout)

    def _hot(self, key: HotKey, layout: JoinLayout) -> Iterator[pa.RecordBatch]:
        right = [right_rows(part, layout, None) for part in key.right]
        matched, rows = bool(right) and not key.null, 0
        for mine in key.left:
            rows += mine.num_rows
            left = left_rows(mine, layout)
            if layout.filters:
                if matched == (layout.how == "semi"):
                    yield left
            elif matched:
                yield from cross_blocks(left, right, layout)
            elif layout.keeps_left:
                nothing = right_rows(told(pa.record_batch({}), self.right), layout, None)
                yield from joined_blocks(left, nothing, lone_left(left.num_rows), layout)
        if layout.keeps_right and (not matched or not rows):
            nobody = left_rows(told(pa.record_batch({}), self.left), layout)
            for part in right:
                yield from joined_blocks(nobody, part, lone_right(part.keys.num_rows), layout)


_COPIES = 3
"""Indexing a side holds its rows, their copy in the order of the index, and their keys ..."""
_ROW_BYTES = 100
"""... and numbers for each row."""


class BroadcastJoin(Narrow, frozen=True):
    """Joins every batch of the left with the whole right side, broadcast input `side` of the `sides` of the task.

    A side that does not fit its share of half of what the task may hold stays in its files and is looked at part by
    part, for every batch: slow, but with the same rows in the same order. A counter tells.
    """

    layout: JoinLayout
    right: Shape
    output: Shape
    side: int
    sides: int = 1
    label: ClassVar[str] = "join (broadcast)"

    def shape(self, given: Shape | None) -> Shape | None:
        return self.output

    def start(self, env: TaskEnv, track: bool) -> Run:
        layout = self.layout
        key = f"{layout.how} {layout.right_on} {layout.right}"
        memory_bytes = env.memory_bytes // (2 * self.sides)

        def prepared(batches: Sequence[pa.RecordBatch]) -> object:
            size = sum(batch.nbytes * _COPIES + batch.num_rows * _ROW_BYTES for batch in batches)
            if size <= memory_bytes:
                return build(told(concat(batches, batches[0].schema), self.right), layout)
            return mapped_right(batches, memory_bytes // (2 * _COPIES))

        side = env.side(self.side, prepared, key)
        assert isinstance(side, RightIndex | MappedRight)
        if isinstance(side, MappedRight):
            env.count("broadcast sides too large for memory", 1)
        return _Probing(side, layout, memory_bytes // 4)


class _Probing(Run):
    """A broadcast join at work. Nothing is kept between batches, unless going through the side is dear."""

    def __init__(self, side: RightIndex | MappedRight, layout: JoinLayout, held_bytes_max: int) -> None:
        self._side = side
        self._layout = layout
        self._held: list[pa.RecordBatch] = []
        self._held_bytes_max = held_bytes_max
        schema = side.schema if isinstance(side, MappedRight) else side.index.keys.schema
        names = layout.right_on if isinstance(side, MappedRight) else schema.names
        self._types = [schema.field(name).type for name in names]
        self.rejects = []

    def feed(self, batch: Batch) -> Iterable[Batch]:
        layout = self._layout
        left = normalise_keys(batch.data, layout.left_on)  # as a shuffle does: the rows are the same either way
        for name, other in zip(layout.left_on, self._types, strict=True):
            mine = left.schema.field(name).type
            if mine != other and not pa.types.is_null(mine) and not pa.types.is_null(other):
                types = f"{display(mine)} on the left but {display(other)} on the right"
                raise TypeConflict(f"join(): the key {name!r} is {types}; cast one of them with with_columns()")
        if not isinstance(self._side, MappedRight):
            yield from map(CodedBatch, probe(left, self._side, layout))
            return
        if self._held and self._held[0].schema != left.schema:
            yield from self.end()
        self._held.append(left)
        if sum(held.nbytes for held in self._held) >= self._held_bytes_max:
            yield from self.end()

    def end(self) -> Iterable[Batch]:
        if self._held and isinstance(self._side, MappedRight):
            left, self._held = concat(self._held, self._held[0].schema), []
            yield from map(Batch, probe_mapped(left, self._side, self._layout))
