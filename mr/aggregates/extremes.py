"""The smallest and largest values, one or k of them; whether any or all are true."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from mr.aggregates.base import Aggregation, States
from mr.kernels import group
from mr.kernels.keys import Ints, canonical, key_problem
from mr.kernels.sort import number_part, order_by, parts_of


class Extreme(Aggregation, frozen=True, eq=False):
    """Base of min and max. State: the value so far."""

    largest: ClassVar[bool]

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        self.output_type(column.type)
        return self._best(canonical(column), ids, groups)

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        return self._best(states[self.name], ids, groups)

    def finals(self, states: States) -> Any:
        return states[self.name]

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        if problem := key_problem(input_type):
            raise self.refused(input_type, f"have no order: {problem}")
        return canonical(pa.nulls(0, input_type)).type

    def _best(self, column: Any, ids: Ints, groups: int) -> States:
        rows = group.extremes(column, ids, groups, self.largest)
        return {self.name: column.take(pa.array(rows, mask=rows < 0))}


class Min(Extreme, frozen=True, eq=False):
    """The smallest non-null value, of any type with an order; NaN only if there is nothing else."""

    name, parts, largest = "min", ("min",), False


class Max(Extreme, frozen=True, eq=False):
    """The largest non-null value, of any type with an order; NaN if there is one."""

    name, parts, largest = "max", ("max",), True


class _Truth(Extreme, frozen=True, eq=False):
    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        if not (pa.types.is_boolean(input_type) or pa.types.is_null(input_type)):
            example = f'mr.{self.name}(pl.col("x") > 0)'
            raise self.refused(input_type, f"are not true or false; compare them first, as {example}")
        return input_type


class AnyTrue(_Truth, frozen=True, eq=False):
    """Whether a value is true; null if there are only nulls."""

    name, parts, largest = "any", ("any",), True


class AllTrue(_Truth, frozen=True, eq=False):
    """Whether no value is false; null if there are only nulls."""

    name, parts, largest = "all", ("all",), False


class TopK(Aggregation, frozen=True, eq=False):
    """The `k` largest (or smallest) non-null values, in that order. State: the list itself."""

    k: int
    descending: bool
    name, parts = "top_k", ("values",)

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        self.output_type(column.type)
        return {"values": self._best(canonical(column), ids, groups)}

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        lists = states["values"]
        return {"values": self._best(lists.flatten(), ids[np.asarray(lists.value_parent_indices())], groups)}

    def finals(self, states: States) -> Any:
        return states["values"]

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        if problem := key_problem(input_type):
            raise self.refused(input_type, f"have no order: {problem}")
        return pa.large_list(canonical(pa.nulls(0, input_type)).type)

    def _best(self, column: Any, ids: Ints, groups: int) -> Any:
        valid = np.asarray(column.is_valid())
        if not valid.all():
            column, ids = column.filter(pa.array(valid)), ids[valid]
        data = pa.RecordBatch.from_arrays([column], ["value"])
        rows = order_by(len(ids), [number_part(ids.view(np.uint64)), *parts_of(data, ["value"], [self.descending])])
        ids = ids[rows]
        first = np.flatnonzero(np.diff(ids, prepend=-1))
        kept = np.arange(len(ids)) - np.repeat(first, np.diff(np.append(first, len(ids)))) < self.k
        return group.lists(column.take(pa.array(rows[kept])), ids[kept], groups)
