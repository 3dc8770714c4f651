"""Count, sum and mean: exact for integers and decimals, in row order for floats."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mr.aggregates.base import Aggregation, States
from mr.errors import RecordError
from mr.kernels import group
from mr.kernels.keys import Ints, canonical, null_mask


class Count(Aggregation, frozen=True, eq=False):
    """Rows, or the non-null values of a column; int64."""

    name, parts = "count", ("n",)

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        valid = None if column is None or column.null_count == 0 else np.asarray(column.is_valid())
        return {"n": pa.array(group.count(ids, groups, valid))}

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        return {"n": pa.array(group.sum_ints(states["n"].to_numpy(), ids, groups)[0])}

    def finals(self, states: States) -> Any:
        return states["n"]

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        return pa.int64()


class Sum(Aggregation, frozen=True, eq=False):
    """The sum of the non-null values, null if there are none: exact for integers, booleans (the number of true),
    durations and decimals, in row order for floats.

    State: `sum` (int64, duration, float64 or decimal256) and, for those of 64-bit integers, `carry`, the multiples of
    2^64 beside it: partial sums may leave int64 as long as the whole does not.
    """

    name = "sum"
    parts: ClassVar[tuple[str, ...]] = ("sum", "carry")

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        return self._add(self._addable(column), None, ids, groups)

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        return self._add(states["sum"], states["carry"], ids, groups)

    def finals(self, states: States) -> Any:
        total = states["sum"]
        if (filled(states["carry"]) != 0).any():
            raise RecordError(f"the sum of {self.of} does not fit 64 bits: cast it to float64 or decimal before")
        try:
            return total.cast(self.output_type(total.type))
        except pa.ArrowInvalid as error:
            raise RecordError(f"the sum of {self.of} does not fit decimal(38): cast it to float64") from error

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        t = pa.types
        if t.is_null(input_type) or t.is_duration(input_type):
            return input_type
        if t.is_integer(input_type) or t.is_boolean(input_type) or t.is_floating(input_type):
            return pa.float64() if t.is_floating(input_type) else pa.int64()
        if t.is_decimal(input_type):
            return pa.decimal128(38, input_type.scale)
        raise self.refused(input_type, "cannot be added; cast the column to a number first")

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
            carry = carry + group.sum_ints(filled(carries), ids, groups)[0]
        total = pa.array(low, mask=none)
        total = total.view(dtype) if pa.types.is_duration(dtype) else total
        return {"sum": total, "carry": pa.array(carry, mask=none)}


class Mean(Sum, frozen=True, eq=False):
    """The mean of the non-null values as float64 (durations: duration, half to even), null if there are none.

    Integers are summed exactly and divided once, correctly rounded.
    """

    name, parts = "mean", ("sum", "carry", "n")

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        return {**super().partials(column, ids, groups), **Count(None).partials(column, ids, groups)}

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        return {**super().merged(states, ids, groups), **Count(None).merged(states, ids, groups)}

    def finals(self, states: States) -> Any:
        total, counts = states["sum"], states["n"].to_numpy()
        if pa.types.is_null(total.type):
            return pa.nulls(len(total), pa.float64())
        none, safe = counts == 0, np.where(counts == 0, 1, counts)
        if pa.types.is_duration(total.type):
            whole = super().finals(states).view(pa.int64()).fill_null(0).to_numpy()
            quotient, rest = np.divmod(whole, safe)
            quotient = quotient + ((2 * rest > safe) | ((2 * rest == safe) & (quotient % 2 == 1)))
            return pa.array(quotient, mask=none).view(total.type)
        if not pa.types.is_integer(total.type):
            return pa.array(filled(total.cast(pa.float64())) / safe, mask=none)
        low, carry = filled(total), filled(states["carry"])
        means = low / safe
        for i in np.flatnonzero((carry != 0) | (low > 1 << 53) | (low < -(1 << 53))):  # rare: not exact as floats
            means[i] = ((int(carry[i]) << 64) + int(low[i])) / int(safe[i])
        return pa.array(means, mask=none)

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        super().output_type(input_type)
        return input_type if pa.types.is_duration(input_type) else pa.float64()


def filled(array: Any) -> Any:
    """As numpy, null as 0."""
    if pa.types.is_null(array.type):
        return np.zeros(len(array), np.int64)
    array = array.view(pa.int64()) if pa.types.is_duration(array.type) else array
    return array.fill_null(0).to_numpy() if array.null_count else array.to_numpy()
