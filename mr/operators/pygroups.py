"""Keyed operators that call a user's Python function once a group: map_groups, map_reduce, reduce_by_key.

Where the policy is not to fail, a group for which the function raises is left out whole: what it gave before is held
until it is over.
"""

from __future__ import annotations

import contextlib
import functools
import typing
from collections import abc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from msgspec import Struct

from mr.errors import FunctionFailed, MillraceError, RecordError
from mr.kernels.keys import codes
from mr.kernels.rows import Names, Shape, from_python, shape_of, to_python
from mr.kernels.sort import number_part, order_by
from mr.operators.base import Combiner, ErrorPolicy, Grouped, TaskEnv, raw_of, reject_rows, rows_shape
from mr.operators.columns import named
from mr.operators.group_rows import OnePass, Sides, groups, key_values
from mr.operators.grouped import keep
from mr.operators.held import Held
from mr.operators.python import Function, built, described, name_of, shorten
from mr.options import PYTHON_BATCH_ROWS

KEY, VALUE, GROUP = "key", "value", "group"


def grouped_shape(names: Names | None, fn: Function) -> Shape | None:
    """The shape of what a grouped function gives: of the items, if it is annotated to return an iterator.

    >>> def fn(key, rows) -> Iterator[tuple[str, int]]: ...
    >>> grouped_shape(["word", "n"], fn).types
    (DataType(large_string), DataType(int64))
    """
    target = fn.func if isinstance(fn, functools.partial) else fn
    with contextlib.suppress(NameError, TypeError, AttributeError):  # builtins, and names only a type checker knows
        origin = typing.get_origin(typing.get_type_hints(target).get("return"))
        return shape_of(names, fn, origin in (abc.Iterator, abc.Generator, abc.Iterable))
    return shape_of(names, fn, False)


def outputs_of(result: Any, call: str) -> Iterator[Any]:
    """The records that a grouped function's result means: an iterator many, None none, anything else one."""
    if result is None:
        return iter(())
    if isinstance(result, Iterator):
        return result
    if isinstance(result, list) and any(isinstance(item, (tuple, dict)) for item in result):
        raise RecordError(f"{call} returned a list of records, which would be one record; yield them instead")
    return iter((result,))


class PerGroup(Protocol):
    """An operator that calls a function once a group: what `batches_of` needs to know of it."""

    @property
    def label(self) -> str: ...

    @property
    def fn(self) -> Function: ...

    @property
    def on_error(self) -> ErrorPolicy: ...


def batches_of(
    op: PerGroup, fn: Function, shape: Shape | None, pairs: Iterator[tuple[Any, Sides]], env: TaskEnv
) -> Iterator[pa.RecordBatch]:
    """The records that `fn(key, *sides)` gives for each group, as batches; the first ones fix the shape of the rest.

    Where the policy is not to fail, a group for which `fn` raises gives nothing, whatever came before it raised.
    """
    call = described(op.label, op.fn)
    if op.on_error.on_error != "fail":
        yield from _forgiving(op, fn, shape, pairs, env)
        return
    records = _stream(pairs, fn, call)
    while outputs := list(islice(records, PYTHON_BATCH_ROWS)):
        data, shape = _converted(outputs, shape, call)
        yield data


def _converted(outputs: list[Any], shape: Shape | None, call: str) -> tuple[pa.RecordBatch, Shape | None]:
    try:
        return from_python(outputs, shape)
    except RecordError as error:
        raise type(error)(f"{call} gave a record that does not fit: {error.message}") from None


def _stream(pairs: Iterator[tuple[Any, Sides]], fn: Function, call: str) -> Iterator[Any]:
    """All records that `fn` gives, with errors that name the key."""
    for key, sides in pairs:
        try:
            yield from outputs_of(fn(key, *sides), call)
        except (MillraceError, MemoryError):
            raise
        except Exception as error:
            raise failed(call, key, error) from error


def failed(call: str, key: Any, error: Exception) -> FunctionFailed:
    """The error of a function that raised for the records of a key."""
    return FunctionFailed(f"{call} raised {type(error).__name__}: {error} for key {shorten(key)}", None, error)


def _forgiving(
    op: PerGroup, fn: Function, shape: Shape | None, pairs: Iterator[tuple[Any, Sides]], env: TaskEnv
) -> Iterator[pa.RecordBatch]:
    """As `batches_of`, leaving groups out. What a group gives is held until it is over, as columns if it is much."""
    call = described(op.label, op.fn)
    done: list[Any] = []  # what groups that are over gave
    for key, sides in pairs:
        held = Held(Path(env.scratch), env.memory_bytes // 4)
        try:
            outputs = outputs_of(fn(key, *sides), call)
            some = list(islice(outputs, PYTHON_BATCH_ROWS))
            if len(some) == PYTHON_BATCH_ROWS:
                if done:
                    data, shape = _converted(done, shape, call)
                    yield data
                    done = []
                grown = shape
                while some:
                    data, grown = _converted(some, grown, call)
                    held.add(data)
                    some = list(islice(outputs, PYTHON_BATCH_ROWS))
                shape = grown
        except (MillraceError, MemoryError):
            raise
        except Exception as error:
            held.drop()
            records = sum(side.size() for side in sides)
            text, place = f"{type(error).__name__}: {error}", np.zeros(1, np.int64)
            env.reject(reject_rows(None, place, name_of(op.fn), [text], [raw_of(key)], records))
            continue
        yield from held.batches()
        held.drop()
        done += some
        if len(done) >= PYTHON_BATCH_ROWS:
            data, shape = _converted(done, shape, call)
            yield data
            done = []
    if done:
        yield _converted(done, shape, call)[0]


class MapGroups(Grouped, frozen=True):
    """`fn(key, records)` for each group. `value` names the column of which records are made (None: whole records)."""

    keys: tuple[str, ...]
    fn: Function
    sort_by: tuple[str, ...] = ()
    descending: tuple[bool, ...] = ()
    value: str | None = None
    declared: Shape | None = None
    combine_with: Combiner | None = None
    pure: bool = True
    on_error: ErrorPolicy = ErrorPolicy()
    label: ClassVar[str] = "map_groups"

    @property
    def order(self) -> tuple[tuple[str, ...], tuple[bool, ...]]:
        return self.sort_by, self.descending

    @property
    def combiner(self) -> Combiner | None:
        return self.combine_with

    def shape(self, given: Shape) -> Shape | None:
        return self.declared

    def reduce(self, rows: Iterator[pa.RecordBatch], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        pairs = groups(rows, self.keys, self.value, env)
        return batches_of(self, built(self.fn), self.declared, pairs, env)


class MapReduce(MapGroups, frozen=True):
    """The reducer of `map_reduce`."""

    label: ClassVar[str] = "map_reduce"


class PythonCombiner(Combiner, frozen=True):
    """Map-side half of `map_reduce`: `fn(key, values)` gives values, the key (the last of `keys`) cannot change.

    With `forgives` the values for which `fn` raises stay as they are: the reducer will find out what becomes of them.
    """

    fn: Function
    keys: tuple[str, ...] = (KEY,)
    forgives: bool = False
    type: pa.DataType | None = None  # of the values that it gives, if that is known
    pure: bool = True

    def exact(self, schema: pa.Schema) -> bool:
        return False  # how often it is applied shows in the values it gets

    def combine(self, block: pa.RecordBatch) -> pa.RecordBatch:
        call = described("combiner", self.fn)
        group, representatives = codes(block, self.keys)
        in_order = order_by(len(group), [number_part(group.view(np.uint64))])
        values = to_python(keep(block, (VALUE,), "values").take(pa.array(in_order)))
        bounds = np.append(np.flatnonzero(np.diff(group[in_order], prepend=-1)), len(values)).tolist()
        outputs: list[Any] = []
        starts: list[int] = []
        for i, key in enumerate(key_values(block.take(pa.array(representatives)), self.keys[-1:])):
            starts.append(len(outputs))
            given = values[bounds[i] : bounds[i + 1]]
            try:
                outputs += outputs_of(self.fn(key, OnePass(iter(given))), call)
            except (MillraceError, MemoryError):
                raise
            except Exception as error:
                if not self.forgives:
                    raise failed(call, key, error) from error
                outputs[starts[-1] :] = given
        try:
            data, _ = from_python(outputs, Shape("values", (VALUE,), (self.type,)))
        except RecordError as error:
            raise type(error)(f"{call} gave a value that does not fit: {error.message}") from None
        counts = np.diff(np.array([*starts, len(outputs)]))
        rows = pa.array(np.repeat(representatives, counts))
        value = data.column(0) if data.num_rows else pa.nulls(0, block.schema.field(VALUE).type)
        return named([*(block.column(key).take(rows) for key in self.keys), value], (*self.keys, VALUE), "rows")


class Regrouped(Struct, frozen=True):
    """A mapper of pairs (key, value) whose keys are told which group they belong to: gives (group, key, value).

    `grouping` is a function of the key, or how many leading items of a tuple make the group.

    >>> def mapper(line):
    ...     yield ("a", 1), line
    >>> list(Regrouped(mapper, 1)("x"))
    [('a', ('a', 1), 'x')]
    """

    mapper: Function
    grouping: Function | int

    @property
    def __wrapped__(self) -> Function:
        """The user's function, which messages name."""
        return self.mapper

    def __call__(self, record: Any) -> Iterator[tuple[Any, Any, Any]]:
        for key, value in self.mapper(record):
            yield self._group(key), key, value

    def _group(self, key: Any) -> Any:
        if not isinstance(self.grouping, int):
            return self.grouping(key)
        if not isinstance(key, tuple) or len(key) < self.grouping:
            raise TypeError(f"grouping={self.grouping} needs keys that are tuples of so many items, not {key!r}")
        return key[0] if self.grouping == 1 else key[: self.grouping]


def fold(fn: Function, key: Any, values: Iterator[Any]) -> Iterator[Any]:
    """`fn` over all values, from the left: one value, also where it is None or a list."""
    yield functools.reduce(fn, values)


class Folded(Grouped, frozen=True):
    """`reduce_by_key`: one row (key, value) for each key, the values folded with an associative `fn(a, b)`."""

    fn: Function
    types: tuple[pa.DataType | None, pa.DataType | None] = (None, None)
    keys: tuple[str, ...] = (KEY,)
    pure: bool = True
    on_error: ErrorPolicy = ErrorPolicy()
    label: ClassVar[str] = "reduce_by_key"

    @property
    def combiner(self) -> Combiner | None:
        fn = functools.partial(fold, self.fn)
        return PythonCombiner(fn, forgives=self.on_error.on_error != "fail", type=self.types[1], pure=self.pure)

    def shape(self, given: Shape) -> Shape | None:
        return rows_shape((KEY, VALUE), self.types)

    def reduce(self, rows: Iterator[pa.RecordBatch], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        def folded(key: Any, values: Iterator[Any]) -> tuple[Any, Any]:
            return key, next(fold(self.fn, key, values))

        pairs = groups(rows, self.keys, VALUE, env)
        return batches_of(self, folded, rows_shape((KEY, VALUE), self.types), pairs, env)
