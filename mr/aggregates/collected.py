"""The first value, the last one, all of them: in (task, row) order, nulls among them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from mr.aggregates.base import Aggregation, Ordered, States
from mr.kernels import group
from mr.kernels.keys import Ints
from mr.kernels.types import plain


class First(Aggregation, frozen=True, eq=False):
    """The value of the first row, null if it is null. State: the `value`, and whether there was a row at all."""

    name = "first"
    parts: ClassVar[tuple[str, ...]] = ("value", "any")

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        return self._chosen(column, self._rows(ids, groups, None))

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        return self._chosen(states["value"], self._rows(ids, groups, np.asarray(states["any"])))

    def finals(self, states: States) -> Any:
        return states["value"]

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        return plain(input_type)

    def _rows(self, ids: Ints, groups: int, among: Any) -> Ints:
        return group.firsts(ids, groups, among)

    def _chosen(self, column: Any, rows: Ints) -> States:
        return {"value": column.take(pa.array(rows, mask=rows < 0)), "any": pa.array(rows >= 0)}


class Last(First, frozen=True, eq=False):
    """The value of the last row, null if it is null."""

    name = "last"

    def _rows(self, ids: Ints, groups: int, among: Any) -> Ints:
        rows = group.firsts(ids[::-1], groups, None if among is None else among[::-1])
        return np.where(rows < 0, rows, len(ids) - 1 - rows)


class Collect(Ordered, frozen=True, eq=False):
    """All values in row order, nulls included, as a list; of no rows the empty list."""

    name, parts, sorts = "collect", (), False

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        return {}

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        return {}

    def prepared(self, column: Any) -> Any:
        return column

    def walk(self, before: States | None, values: Any, counts: Ints, ids: Ints, states: States, groups: int) -> States:
        if before is not None:
            known = before["values"].flatten()
            values, ids = pa.concat_arrays([known, values]), np.concatenate([np.zeros(len(known), np.int64), ids])
        return {"values": group.lists(values, ids, groups)}

    def finals(self, states: States) -> Any:
        return states["values"]

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        return pa.large_list(plain(input_type))
