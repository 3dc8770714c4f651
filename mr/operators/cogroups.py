"""Groups of two inputs at a time: cogroup.

Both inputs come in (bucket, key) order, so the next group is the one with the smaller place. Each side is a stream of
its own: a function may read either first, or none, and a group of either may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from msgspec import Struct

from mr.kernels.keys import buckets
from mr.kernels.rows import Shape, row_class
from mr.kernels.sort import Key, SortedKeys
from mr.operators.base import ErrorPolicy, TaskEnv
from mr.operators.group_rows import OnePass, Part, Sides, parted
from mr.operators.pygroups import batches_of
from mr.operators.python import Function, built
from mr.options import BUCKETS

Place = tuple[int, Key]
"""Where a key lies in the order of a shuffle: its bucket, then the key itself."""
Group = tuple[Place, Part, OnePass]
Order = tuple[tuple[str, ...], tuple[bool, ...]]
"""Columns and, for each, whether it is descending."""


class CoGroups(Struct, frozen=True):
    """`fn(key, left records, right records)` for each key of either side. `partitions`, `buckets`: see `HashOutlet`.

    `orders`: by which columns and in which directions records of a group lie, on each side, beyond input order.
    """

    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    fn: Function
    partitions: int | None = None
    declared: Shape | None = None
    pure: bool = True
    on_error: ErrorPolicy = ErrorPolicy()
    buckets: int = BUCKETS
    orders: tuple[Order, Order] = (((), ()), ((), ()))
    label: ClassVar[str] = "cogroup"

    def reduce(
        self, left: Iterator[pa.RecordBatch], right: Iterator[pa.RecordBatch], env: TaskEnv
    ) -> Iterator[pa.RecordBatch]:
        """The output for the sorted rows of both sides."""
        pairs = self._pairs(self._groups(left, self.left_on, env), self._groups(right, self.right_on, env))
        return batches_of(self, built(self.fn), self.declared, pairs, env)

    def _groups(self, rows: Iterator[pa.RecordBatch], keys: tuple[str, ...], env: TaskEnv) -> Iterator[Group]:
        """The groups of one side and their places."""
        known: pa.RecordBatch | None = None
        for part, records in parted(rows, keys, None, env):
            if part.keys is not known:
                known, order = part.keys, SortedKeys(part.keys, keys)
                numbers = buckets(part.keys, keys, self.buckets).astype(np.int64)
                if self.partitions is not None:
                    numbers = numbers * self.partitions // self.buckets
                numbers_of = numbers.tolist()
            yield (numbers_of[part.number], order.at(part.number)), part, records

    def _pairs(self, lefts: Iterator[Group], rights: Iterator[Group]) -> Iterator[tuple[Any, Sides]]:
        left, right = next(lefts, None), next(rights, None)
        while left is not None or right is not None:
            takes_left = left is not None and (right is None or left[0] <= right[0])
            takes_right = right is not None and (left is None or right[0] <= left[0])
            mine, theirs = left if takes_left else None, right if takes_right else None
            yield self._key(mine, theirs), (_records(mine), _records(theirs))
            left = next(lefts, None) if takes_left else left
            right = next(rights, None) if takes_right else right

    def _key(self, mine: Group | None, theirs: Group | None) -> Any:
        """The key as the user sees it; a Row has the names of the left side."""
        if mine is not None:
            return mine[1].key
        assert theirs is not None
        key = theirs[1].key
        return key if len(self.left_on) == 1 else row_class(self.left_on)(key)


def _records(group: Group | None) -> OnePass:
    return OnePass(iter(())) if group is None else group[2]
