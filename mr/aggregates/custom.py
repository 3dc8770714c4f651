"""Aggregates that users write: three Python functions."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from mr.aggregates.base import Aggregation, States
from mr.errors import FunctionFailed, MillraceError, PlanError, RecordError
from mr.kernels import group
from mr.kernels.columns import from_list, to_list
from mr.kernels.keys import Ints
from mr.kernels.rows import row_class, shape_of
from mr.kernels.types import PICKLE


class _OfColumn(Aggregation, frozen=True, eq=False, kw_only=True):
    column: str | pl.Expr


class Aggregate(_OfColumn, frozen=True, eq=False):
    """An aggregate made of three functions of yours.

    `partial(values)` turns the list of a group's values in one block of rows (None for null) into a state,
    `merge(state, state)` joins two states, the first being of earlier rows, and `final(state)` makes the result of the
    state of all rows. `merge` must be associative. A state is anything that can be pickled; it travels from the map
    tasks to the reduce tasks, so keep it small. `column` is a column name or an expression; `pl.struct("a", "b")` gives
    rows of several columns. Of no rows at all the result is `final(partial([]))`. The return annotation of `final`, if
    there is one, is the type of the result.

    >>> import mr
    >>> spread = mr.Aggregate(
    ...     partial=lambda values: (min(values), max(values)),
    ...     merge=lambda a, b: (min(a[0], b[0]), max(a[1], b[1])),
    ...     final=lambda state: state[1] - state[0],
    ...     column="value",
    ... )
    >>> mr.from_items([("a", 3), ("a", 8)]).group_by("key").agg(spread=spread).take_all()
    [Row(key='a', spread=5)]
    """

    partial: Callable[[list[Any]], Any]
    merge: Callable[[Any, Any], Any]
    final: Callable[[Any], Any]
    name, parts = "Aggregate", ("state",)

    def __post_init__(self) -> None:
        for role in ("partial", "merge", "final"):
            if not callable(getattr(self, role)):
                raise PlanError(f"mr.Aggregate(): {role}={getattr(self, role)!r} is not a function")
        if not isinstance(self.column, (str, pl.Expr)):
            raise PlanError("mr.Aggregate(): column= is a column name or a Polars expression")

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        order = group.order_of(ids)
        values = to_list(column if order is None else column.take(pa.array(order)), row_class)
        bounds = np.zeros(groups + 1, np.int64)
        np.cumsum(group.count(ids, groups), out=bounds[1:])
        ends = bounds.tolist()
        return self._states([self._call("partial", values[a:b]) for a, b in itertools.pairwise(ends)])

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        found: list[Any] = [None] * groups
        began = [False] * groups
        for number, state in zip(ids.tolist(), to_list(states["state"], row_class), strict=True):
            found[number] = self._call("merge", found[number], state) if began[number] else state
            began[number] = True
        return self._states(found)

    def finals(self, states: States) -> Any:
        values = [self._call("final", state) for state in to_list(states["state"], row_class)]
        try:
            return from_list(values, self.output_type(pa.null()), self.of.strip("'"))
        except RecordError as error:
            raise type(error)(f"{_described('final', self.final)} gave a value that does not fit: {error}") from None

    def output_type(self, input_type: pa.DataType) -> pa.DataType | None:
        shape = shape_of(None, self.final, False)
        return shape.types[0] if shape is not None and shape.kind == "values" else None

    def exact(self, input_type: pa.DataType) -> bool:
        return False  # how often `merge` is applied may show in the state

    def _states(self, states: Sequence[Any]) -> States:
        return {"state": from_list(states, PICKLE, f"the state of {self.of}")}

    def _call(self, role: str, *arguments: Any) -> Any:
        fn = getattr(self, role)
        try:
            return fn(*arguments)
        except MillraceError:
            raise
        except Exception as error:
            text = f"{_described(role, fn)} raised {type(error).__name__}: {error}"
            raise FunctionFailed(text, None, error) from error


def _described(role: str, fn: Any) -> str:
    """A function of the aggregate and its line, for messages."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    code = getattr(fn, "__code__", None)
    line = "" if code is None else f" ({PurePath(code.co_filename).name}:{code.co_firstlineno})"
    return f"mr.Aggregate {role} {getattr(fn, '__qualname__', type(fn).__qualname__)}{line}"
