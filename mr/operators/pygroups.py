"""Keyed operators that call a user's Python function once a group: map_groups, map_reduce, reduce_by_key.

A group's records are an iterator that can be read once and need not be read to its end; they are streamed from the
sorted rows, so a group may be larger than memory.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import types
import typing
from collections import abc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, Final, NamedTuple, cast

import numpy as np
import pyarrow as pa

from mr.errors import FunctionFailed, MillraceError, RecordError
from mr.kernels.frames import concat
from mr.kernels.group import group_starts
from mr.kernels.keys import codes
from mr.kernels.rows import Names, Shape, from_python, shape_of, to_python
from mr.kernels.sort import number_part, order_by
from mr.operators.base import Combiner, Grouped, TaskEnv, rows_shape
from mr.operators.columns import named
from mr.operators.grouped import keep
from mr.operators.python import Function, built, described, shorten
from mr.options import PYTHON_BATCH_ROWS

KEY, VALUE, GROUP = "key", "value", "group"


class _Piece:
    """Some rows of a batch, made Python records when one of them is asked for."""

    def __init__(self, data: pa.RecordBatch) -> None:
        self._data = data

    @cached_property
    def records(self) -> list[Any]:
        return to_python(self._data)


class Part(NamedTuple):
    """Records of one key that lie in one piece; `fresh` when the key differs from that of the part before.

    `keys` has the keys of all parts of the piece as columns, this one's in row `number`.
    """

    key: Any
    fresh: bool
    piece: _Piece
    start: int
    end: int
    keys: pa.RecordBatch
    number: int


def key_values(data: pa.RecordBatch, keys: tuple[str, ...]) -> list[Any]:
    """The key of every row as the user sees it: a plain value for one column, a Row for several."""
    return to_python(keep(data, keys, "values" if len(keys) == 1 else "rows"))


def _parts(rows: Iterator[pa.RecordBatch], keys: tuple[str, ...], value: str | None) -> Iterator[Part]:
    last: pa.RecordBatch | None = None  # keys are compared as columns: of a zone's times Python compares the clock's
    for batch in rows:
        for at in range(0, batch.num_rows, PYTHON_BATCH_ROWS):
            data = batch.slice(at, PYTHON_BATCH_ROWS)
            starts = group_starts(data, keys)
            found = keep(data, keys).take(pa.array(starts))
            names = key_values(found, keys)
            piece = _Piece(data if value is None else keep(data, (value,), "values"))
            bounds = [*starts.tolist(), data.num_rows]
            fresh = last is None or len(group_starts(concat([last, found.slice(0, 1)], found.schema), keys)) > 1
            for number, key in enumerate(names):
                yield Part(key, fresh, piece, bounds[number], bounds[number + 1], found, number)
                fresh = True
            last = found.slice(len(names) - 1)


class OnePass:
    """Records that can be read once: going through them again would silently find none, so it is an error.

    >>> rows = OnePass(iter([1, 2]))
    >>> sum(rows), max(rows)
    Traceback (most recent call last):
    ...
    RuntimeError: the records of a group can be read once; keep them with list(...) to go through them again
    """

    __slots__ = ("_records",)  # no cycle: the collector is off while tasks run

    def __init__(self, records: Iterator[Any]) -> None:
        self._records = cast("types.GeneratorType[Any, None, None]", _each(records))

    def __iter__(self) -> Iterator[Any]:
        if self._records.gi_frame is None:
            cure = "keep them with list(...) to go through them again"
            raise RuntimeError(f"the records of a group can be read once; {cure}")
        return self._records

    def __next__(self) -> Any:
        return next(self._records)

    def close(self) -> None:
        """Give out no more records."""
        self._records.close()


def _each(records: Iterator[Any]) -> Iterator[Any]:
    """The same records; a generator knows whether it is over."""
    yield from records


def groups(
    rows: Iterator[pa.RecordBatch], keys: tuple[str, ...], value: str | None, env: TaskEnv
) -> Iterator[tuple[Any, OnePass]]:
    """(key, records) of each group of sorted rows; records are those of column `value`, or whole records."""
    return ((part.key, records) for part, records in parted(rows, keys, value, env))


def parted(
    rows: Iterator[pa.RecordBatch], keys: tuple[str, ...], value: str | None, env: TaskEnv
) -> Iterator[tuple[Part, OnePass]]:
    """The first part and the records of each group of sorted rows.

    What is not read when the next group is asked for is skipped, without making Python records of it.
    """
    parts = _parts(rows, keys, value)
    found: list[Part] = [*islice(parts, 1)]  # the first part of the next group, once it has been met

    def stream(part: Part | None) -> Iterator[Any]:
        while part is not None:
            records = iter(part.piece.records[part.start : part.end])
            env.watch(records)
            yield from records
            part = next(parts, None)
            if part is not None and part.fresh:
                found.append(part)
                return

    while found:
        first = found.pop()
        records = OnePass(stream(first))
        yield first, records
        records.close()
        if not found:
            found.extend(islice(filter(_IS_FRESH, parts), 1))


_IS_FRESH: Final = operator.attrgetter("fresh")


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


def stream(pairs: Iterator[tuple[Any, Any]], fn: Function, call: str) -> Iterator[Any]:
    """All records that `fn(key, records)` gives, with errors that name the key."""
    for key, records in pairs:
        try:
            yield from outputs_of(fn(key, records), call)
        except MillraceError:
            raise
        except Exception as error:
            text = f"{call} raised {type(error).__name__}: {error} for key {shorten(key)}"
            raise FunctionFailed(text, None, error) from error


def batched(records: Iterator[Any], shape: Shape | None, call: str) -> Iterator[pa.RecordBatch]:
    """Records as batches; the first ones fix the shape of the rest."""
    while outputs := list(islice(records, PYTHON_BATCH_ROWS)):
        try:
            data, shape = from_python(outputs, shape)
        except RecordError as error:
            raise type(error)(f"{call} gave a record that does not fit: {error.message}") from None
        yield data


@dataclass(frozen=True)
class MapGroups(Grouped):
    """`fn(key, records)` for each group. `value` names the column of which records are made (None: whole records)."""

    keys: tuple[str, ...]
    fn: Function
    sort_by: tuple[str, ...] = ()
    descending: tuple[bool, ...] = ()
    value: str | None = None
    declared: Shape | None = None
    combine_with: Combiner | None = None
    pure: bool = True
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
        call = described(self.label, self.fn)
        yield from batched(stream(groups(rows, self.keys, self.value, env), built(self.fn), call), self.declared, call)


@dataclass(frozen=True)
class PythonCombiner(Combiner):
    """Map-side half of `map_reduce`: `fn(key, values)` gives values, the key (the last of `keys`) cannot change."""

    fn: Function
    keys: tuple[str, ...] = (KEY,)

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

        def pairs() -> Iterator[tuple[Any, Iterator[Any]]]:
            for i, key in enumerate(key_values(block.take(pa.array(representatives)), self.keys[-1:])):
                starts.append(len(outputs))
                yield key, OnePass(iter(values[bounds[i] : bounds[i + 1]]))

        for output in stream(pairs(), self.fn, call):
            outputs.append(output)  # noqa: PERF402 -- pairs() looks at its length meanwhile
        try:
            data, _ = from_python(outputs, Shape("values", (VALUE,), (None,)))
        except RecordError as error:
            raise type(error)(f"{call} gave a value that does not fit: {error.message}") from None
        counts = np.diff(np.array([*starts, len(outputs)]))
        rows = pa.array(np.repeat(representatives, counts))
        value = data.column(0) if data.num_rows else pa.nulls(0, block.schema.field(VALUE).type)
        return named([*(block.column(key).take(rows) for key in self.keys), value], (*self.keys, VALUE), "rows")


@dataclass(frozen=True)
class Regrouped:
    """A mapper of pairs (key, value) whose keys are told which group they belong to: gives (group, key, value).

    `grouping` is a function of the key, or how many leading items of a tuple make the group.

    >>> def mapper(line):
    ...     yield ("a", 1), line
    >>> list(Regrouped(mapper, 1)("x"))
    [('a', ('a', 1), 'x')]
    """

    mapper: Function
    grouping: Function | int

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


@dataclass(frozen=True)
class Folded(Grouped):
    """`reduce_by_key`: one row (key, value) for each key, the values folded with an associative `fn(a, b)`."""

    fn: Function
    types: tuple[pa.DataType | None, pa.DataType | None] = (None, None)
    keys: tuple[str, ...] = (KEY,)
    pure: bool = True
    label: ClassVar[str] = "reduce_by_key"

    @property
    def combiner(self) -> Combiner | None:
        return PythonCombiner(functools.partial(fold, self.fn))

    def shape(self, given: Shape) -> Shape | None:
        return rows_shape((KEY, VALUE), self.types)

    def reduce(self, rows: Iterator[pa.RecordBatch], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        call = described(self.label, self.fn)
        fn = functools.partial(fold, self.fn)
        pairs = ((key, iter(((key, next(fn(key, values))),))) for key, values in groups(rows, self.keys, VALUE, env))
        yield from batched(
            stream(pairs, lambda _key, records: records, call), rows_shape((KEY, VALUE), self.types), call
        )
