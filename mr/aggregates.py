"""Aggregates: count, sum, min, max, mean and count_distinct, each as partial / merge / final.

`partial` turns rows into one state a group, `merge` turns states into one state a group, `final` states into the
result. The law is that of a left fold: merging [a, b, c] in row order is merging [merging [a, b], c], so a group larger
than memory is streamed by putting the state so far in front of the next rows. Rows go in row order, always.

States are columns: `f"{out}.{part}"`, the parts being `Aggregate.parts`. Column types carry what a later step must know
(a sum of durations has a state of durations), so steps need no schema beside them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mr.errors import PlanError, RecordError, TypeConflict
from mr.kernels import group
from mr.kernels.keys import Ints, canonical, codes, key_problem, normalise_keys, null_mask
from mr.kernels.sort import number_part, order_by

States = dict[str, Any]
"""State columns (Arrow arrays of one length) by part."""


@dataclass(frozen=True, eq=False)
class Aggregate(ABC):
    """One aggregate of `column`: a column name, an expression (the compiler makes it a column first) or None (rows)."""

    column: str | pl.Expr | None
    parts: ClassVar[tuple[str, ...]]
    name: ClassVar[str]

    @abstractmethod
    def partial(self, column: Any, ids: Ints, groups: int) -> States:
        """States of `groups` groups from the input array (None for `count()`); `ids` int64[rows], the group of each.

        Raises `TypeConflict` naming the column if its type cannot be aggregated so.
        """

    @abstractmethod
    def merge(self, states: States, ids: Ints, groups: int) -> States:
        """States of `groups` groups from states, in row order."""

    @abstractmethod
    def final(self, states: States) -> Any:
        """The result array, one value a state. Raises `RecordError` if one does not fit its type."""

    @abstractmethod
    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        """The type of the result for this input type. Raises `TypeConflict` if it cannot be aggregated so."""

    def exact(self, input_type: pa.DataType) -> bool:
        """Whether merging some neighbouring states earlier gives the same bytes; false where floats are added."""
        return True

    def _refuse(self, dtype: pa.DataType, reason: str) -> TypeConflict:
        of = repr(self.column) if isinstance(self.column, str) else "its expression"
        return TypeConflict(f"{self.name} of {of}: values of type {dtype} {reason}")


class Count(Aggregate):
    """Rows, or the non-null values of a column; int64."""

    name, parts = "count", ("n",)

    def partial(self, column: Any, ids: Ints, groups: int) -> States:
        valid = None if column is None or column.null_count == 0 else np.asarray(column.is_valid())
        return {"n": pa.array(group.count(ids, groups, valid))}

    def merge(self, states: States, ids: Ints, groups: int) -> States:
        return {"n": pa.array(group.sum_ints(states["n"].to_numpy(), ids, groups)[0])}

    def final(self, states: States) -> Any:
        return states["n"]

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        return pa.int64()


class Sum(Aggregate):
    """The sum of the non-null values, null if there are none: exact for integers, booleans (the number of true),
    durations and decimals, in row order for floats.

    State: `sum` (int64, duration, float64 or decimal256) and, for those of 64-bit integers, `carry`, the multiples of
    2^64 beside it: partial sums may leave int64 as long as the whole does not.
    """

    name = "sum"
    parts: ClassVar[tuple[str, ...]] = ("sum", "carry")

    def partial(self, column: Any, ids: Ints, groups: int) -> States:
        return self._add(self._addable(column), None, ids, groups)

    def merge(self, states: States, ids: Ints, groups: int) -> States:
        return self._add(states["sum"], states["carry"], ids, groups)

    def final(self, states: States) -> Any:
        total = states["sum"]
        if (_filled(states["carry"]) != 0).any():
            raise RecordError(f"the sum of {self.column!r} does not fit 64 bits: cast it to float64 or decimal before")
        try:
            return total.cast(self.output_type(total.type))
        except pa.ArrowInvalid as error:
            raise RecordError(f"the sum of {self.column!r} does not fit decimal(38): cast it to float64") from error

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        t = pa.types
        if t.is_null(input_type) or t.is_duration(input_type):
            return input_type
        if t.is_integer(input_type) or t.is_boolean(input_type) or t.is_floating(input_type):
            return pa.float64() if t.is_floating(input_type) else pa.int64()
        if t.is_decimal(input_type):
            return pa.decimal128(38, input_type.scale)
        raise self._refuse(input_type, "cannot be added; cast the column to a number first")

    def exact(self, input_type: pa.DataType) -> bool:
        return not pa.types.is_floating(input_type)

    def _addable(self, column: Any) -> Any:
        column = canonical(column)
        self.output_type(column.type)
        if pa.types.is_boolean(column.type) or pa.types.is_floating(column.type):
            return column.cast(pa.uint8() if pa.types.is_boolean(column.type) else pa.float64())
        return column.cast(pa.decimal256(76, column.type.scale)) if pa.types.is_decimal(column.type) else column

    def _add(self, column: Any, carries: Any, ids: Ints, groups: int) -> States:
        dtype = column.type
        if pa.types.is_null(dtype):
            return {"sum": pa.nulls(groups), "carry": pa.nulls(groups)}
        nulls = null_mask(column)
        if nulls is not None:
            column, ids = column.drop_null(), ids[~nulls]
            carries = None if carries is None else carries.filter(pa.array(~nulls))
        none = group.count(ids, groups) == 0
        if pa.types.is_floating(dtype):
            sums = group.sum_floats(column.to_numpy(), ids, groups)
            return {"sum": pa.array(sums, mask=none), "carry": pa.nulls(groups)}
        if pa.types.is_decimal(dtype):
            total = group.sum_decimals(column, ids, groups)
            return {"sum": pc.if_else(pa.array(none), None, total), "carry": pa.nulls(groups)}
        numbers = column.view(pa.int64()) if pa.types.is_duration(dtype) else column
        low, carry = group.sum_ints(numbers.to_numpy(), ids, groups)
        if carries is not None:
            carry = carry + group.sum_ints(_filled(carries), ids, groups)[0]
        total = pa.array(low, mask=none)
        total = total.view(dtype) if pa.types.is_duration(dtype) else total
        return {"sum": total, "carry": pa.array(carry, mask=none)}


class Mean(Sum):
    """The mean of the non-null values as float64 (durations: duration, half to even), null if there are none.

    Integers are summed exactly and divided once, correctly rounded.
    """

    name, parts = "mean", ("sum", "carry", "n")

    def partial(self, column: Any, ids: Ints, groups: int) -> States:
        return {**super().partial(column, ids, groups), **Count(None).partial(column, ids, groups)}

    def merge(self, states: States, ids: Ints, groups: int) -> States:
        return {**super().merge(states, ids, groups), **Count(None).merge(states, ids, groups)}

    def final(self, states: States) -> Any:
        total, counts = states["sum"], states["n"].to_numpy()
        if pa.types.is_null(total.type):
            return pa.nulls(len(total), pa.float64())
        none, safe = counts == 0, np.where(counts == 0, 1, counts)
        if pa.types.is_duration(total.type):
            whole = super().final(states).view(pa.int64()).fill_null(0).to_numpy()
            quotient, rest = np.divmod(whole, safe)
            quotient = quotient + ((2 * rest > safe) | ((2 * rest == safe) & (quotient % 2 == 1)))
            return pa.array(quotient, mask=none).view(total.type)
        if not pa.types.is_integer(total.type):
            return pa.array(_filled(total.cast(pa.float64())) / safe, mask=none)
        low, carry = _filled(total), _filled(states["carry"])
        means = low / safe
        for i in np.flatnonzero((carry != 0) | (low > 1 << 53) | (low < -(1 << 53))):  # rare: not exact as floats
            means[i] = ((int(carry[i]) << 64) + int(low[i])) / int(safe[i])
        return pa.array(means, mask=none)

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        super().output_type(input_type)
        return input_type if pa.types.is_duration(input_type) else pa.float64()


class _Extreme(Aggregate):
    largest: ClassVar[bool]

    def partial(self, column: Any, ids: Ints, groups: int) -> States:
        self.output_type(column.type)
        return self._best(canonical(column), ids, groups)

    def merge(self, states: States, ids: Ints, groups: int) -> States:
        return self._best(states[self.name], ids, groups)

    def final(self, states: States) -> Any:
        return states[self.name]

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        if problem := key_problem(input_type):
            raise self._refuse(input_type, f"have no order: {problem}")
        return canonical(pa.nulls(0, input_type)).type

    def _best(self, column: Any, ids: Ints, groups: int) -> States:
        rows = group.extremes(column, ids, groups, self.largest)
        return {self.name: column.take(pa.array(rows, mask=rows < 0))}


class Min(_Extreme):
    """The smallest non-null value, of any type with an order; NaN only if there is nothing else."""

    name, parts, largest = "min", ("min",), False


class Max(_Extreme):
    """The largest non-null value, of any type with an order; NaN if there is one."""

    name, parts, largest = "max", ("max",), True


class CountDistinct(Aggregate):
    """How many different non-null values there are, exactly; int64. State: the values, in order of first occurrence."""

    name, parts = "count_distinct", ("values",)

    def partial(self, column: Any, ids: Ints, groups: int) -> States:
        self.output_type(column.type)
        column = canonical(column)
        if column.null_count:
            ids, column = ids[np.asarray(column.is_valid())], column.drop_null()
        pairs = pa.RecordBatch.from_arrays([pa.array(ids), column], ["id", "value"])
        seen = codes(pairs, ["id", "value"])[1]
        seen = seen[order_by(len(seen), [number_part(ids[seen].view(np.uint64))])]
        offsets = np.zeros(groups + 1, np.int64)
        np.cumsum(group.count(ids[seen], groups), out=offsets[1:])
        return {"values": pa.LargeListArray.from_arrays(pa.array(offsets), column.take(pa.array(seen)))}

    def merge(self, states: States, ids: Ints, groups: int) -> States:
        lists = states["values"]
        return self.partial(lists.flatten(), ids[lists.value_parent_indices().to_numpy()], groups)

    def final(self, states: States) -> Any:
        return states["values"].value_lengths()

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        if problem := key_problem(input_type):
            raise self._refuse(input_type, f"cannot be compared: {problem}")
        return pa.int64()


def _filled(array: Any) -> Any:
    """As numpy, null as 0."""
    if pa.types.is_null(array.type):
        return np.zeros(len(array), np.int64)
    array = array.view(pa.int64()) if pa.types.is_duration(array.type) else array
    return array.fill_null(0).to_numpy() if array.null_count else array.to_numpy()


def count(column: str | pl.Expr | None = None) -> Aggregate:
    """The number of rows, or of the non-null values of `column` (a name or an expression); int64.

    >>> count("word").name
    'count'
    """
    return Count(None if column is None else _column(column, "count"))


def sum(column: str | pl.Expr) -> Aggregate:
    """The sum of the non-null values of `column`; null if there are none.

    int64 for integers and booleans (`RecordError` if it does not fit), float64 for floats, duration for durations,
    decimal(38) for decimals.

    >>> sum("bytes").name
    'sum'
    """
    return Sum(_column(column, "sum"))


def min(column: str | pl.Expr) -> Aggregate:
    """The smallest non-null value of `column`, of its type; NaN is above all numbers; null if there is none.

    >>> min("time").name
    'min'
    """
    return Min(_column(column, "min"))


def max(column: str | pl.Expr) -> Aggregate:
    """The largest non-null value of `column`, of its type; NaN is above all numbers; null if there is none.

    >>> max("time").name
    'max'
    """
    return Max(_column(column, "max"))


def mean(column: str | pl.Expr) -> Aggregate:
    """The mean of the non-null values of `column` as float64 (of durations: duration); null if there are none.

    >>> mean("ms").name
    'mean'
    """
    return Mean(_column(column, "mean"))


def count_distinct(column: str | pl.Expr) -> Aggregate:
    """The exact number of different non-null values of `column`; int64. Keeps the values: use it on small domains.

    >>> count_distinct("host").name
    'count_distinct'
    """
    return CountDistinct(_column(column, "count_distinct"))


def _column(column: object, name: str) -> str | pl.Expr:
    if isinstance(column, str | pl.Expr):
        return column
    raise PlanError(f"{name}() takes a column name or a Polars expression, not {type(column).__name__}")


def grouped_aggregate(data: pa.RecordBatch, key_names: Sequence[str], aggs: Mapping[str, Aggregate]) -> pa.RecordBatch:
    """Partial states of each group of `data`: the keys (normalised) and the state columns of each of `aggs`.

    One row a group in order of first occurrence; with no keys exactly one row. `aggs` maps output names to aggregates
    whose `column` is a column name (or None).

    >>> batch = pa.RecordBatch.from_pydict({"k": ["b", "a", "b"]})
    >>> grouped_aggregate(batch, ["k"], {"n": count()}).to_pylist()
    [{'k': 'b', 'n.n': 2}, {'k': 'a', 'n.n': 1}]
    """
    data = normalise_keys(data, key_names)

    def states(agg: Aggregate, _out: str, ids: Ints, groups: int) -> States:
        return agg.partial(data.column(agg.column) if isinstance(agg.column, str) else None, ids, groups)

    return _by_group(data, key_names, aggs, states, adjacent=False)


def merge_states(
    data: pa.RecordBatch, key_names: Sequence[str], aggs: Mapping[str, Aggregate], adjacent: bool = False
) -> pa.RecordBatch:
    """The states of `grouped_aggregate` (or of this) merged in row order, one row a group in order of first occurrence.

    `adjacent` says that rows of equal keys are neighbours, as after a shuffle: nothing is hashed then.

    >>> batch = pa.RecordBatch.from_pydict({"k": ["b", "a", "b"], "n.n": [1, 2, 3]})
    >>> merge_states(batch, ["k"], {"n": count()}).to_pylist()
    [{'k': 'b', 'n.n': 4}, {'k': 'a', 'n.n': 2}]
    """

    def states(agg: Aggregate, out: str, ids: Ints, groups: int) -> States:
        return agg.merge(_states(data, out, agg), ids, groups)

    return _by_group(data, key_names, aggs, states, adjacent)


def finalise(data: pa.RecordBatch, key_names: Sequence[str], aggs: Mapping[str, Aggregate]) -> pa.RecordBatch:
    """The results: keys and one column for each of `aggs`, row by row from merged states.

    Raises `RecordError` naming the column if a result does not fit its type.

    >>> finalise(pa.RecordBatch.from_pydict({"k": ["b"], "n.n": [4]}), ["k"], {"n": count()}).to_pylist()
    [{'k': 'b', 'n': 4}]
    """
    columns = [data.column(name) for name in key_names]
    columns += [agg.final(_states(data, out, agg)) for out, agg in aggs.items()]
    return pa.RecordBatch.from_arrays(columns, [*key_names, *aggs])


def _states(data: pa.RecordBatch, out: str, agg: Aggregate) -> States:
    return {part: data.column(f"{out}.{part}") for part in agg.parts}


def _by_group(
    data: pa.RecordBatch, key_names: Sequence[str], aggs: Mapping[str, Aggregate], states: Any, adjacent: bool
) -> pa.RecordBatch:
    if not key_names:
        ids, first, groups = np.zeros(data.num_rows, np.int64), np.zeros(0, np.int64), 1
    elif adjacent:
        first = group.group_starts(data, key_names)
        ids, groups = group.ids_of(first, data.num_rows), len(first)
    else:
        ids, first = codes(data, key_names)
        groups = len(first)
    names, columns = list(key_names), [data.column(name).take(pa.array(first)) for name in key_names]
    for out, agg in aggs.items():
        for part, column in states(agg, out, ids, groups).items():
            names.append(f"{out}.{part}")
            columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names)
