"""Joins: both sides shuffled and merged, or the right side broadcast to every task of the left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import pyarrow as pa

from mr.batch import Batch
from mr.errors import PlanError, TypeConflict
from mr.kernels.join import RightIndex, build, join_hash, join_sorted
from mr.kernels.keys import canonical
from mr.kernels.rows import Shape
from mr.kernels.types import display
from mr.operators.base import Narrow, Run, Stateless, TaskEnv, rows_shape

How = Literal["inner", "left"]


def joined_shape(left: Shape, right: Shape, right_on: tuple[str, ...], suffix: str) -> Shape:
    """The columns of a join: all of the left, then those of the right but its keys; repeated names get the suffix.

    Raises PlanError where the suffix does not make a name unique.
    """
    names, types = list(left.names or ()), list(left.types or ())
    for name, type in zip(right.names or (), right.types or (), strict=True):
        if name in right_on:
            continue
        unique = name if name not in names else name + suffix
        if unique in names:
            raise PlanError(f"join(): column {unique!r} would stand twice; choose another suffix=")
        names.append(unique)
        types.append(type)
    return rows_shape(names, types)


def told(data: pa.RecordBatch, shape: Shape) -> pa.RecordBatch:
    """`data`, or no rows of `shape` where there was no record to tell the columns."""
    if data.num_columns:
        return data
    return pa.RecordBatch.from_arrays([pa.nulls(0, type or pa.null()) for type in shape.types], names=shape.names)


@dataclass(frozen=True)
class MergeJoin:
    """Joins two inputs that are both sorted by (bucket, key); output in (bucket, key, left row, right row) order."""

    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: How
    suffix: str
    output: Shape
    right: Shape
    label: ClassVar[str] = "join (sort-merge)"

    def join(self, pairs: Iterator[tuple[pa.RecordBatch, pa.RecordBatch]], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        """Join pair after pair; all rows of a key are in one pair."""
        for left, right in pairs:
            if left.num_rows:
                right = told(right, self.right)
                yield join_sorted(left, right, self.left_on, self.right_on, self.how, self.suffix)


@dataclass(frozen=True)
class BroadcastJoin(Narrow):
    """Joins every batch of the left with the whole right side, broadcast input `side` of the task."""

    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: How
    suffix: str
    output: Shape
    right: Shape
    side: int
    label: ClassVar[str] = "join (broadcast)"

    def shape(self, given: Shape | None) -> Shape | None:
        return self.output

    def start(self, env: TaskEnv, track: bool) -> Run:
        index = env.side(self.side, lambda data: build(told(data, self.right), self.right_on), ",".join(self.right_on))
        assert isinstance(index, RightIndex)

        def apply(batch: Batch) -> Batch:
            for name, key in zip(self.left_on, index.keys.schema, strict=True):
                left = canonical(batch.data.column(name)).type
                if left != key.type and not pa.types.is_null(left) and not pa.types.is_null(key.type):
                    types = f"{display(left)} on the left but {display(key.type)} on the right"
                    raise TypeConflict(f"join(): the key {name!r} is {types}; cast one of them with with_columns()")
            return Batch(join_hash(batch.data, index, self.left_on, self.how, self.suffix))

        return Stateless(apply)
