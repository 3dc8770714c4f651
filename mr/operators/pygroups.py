"""Keyed operators that call a user's Python function once a group: map_groups, map_reduce, reduce_by_key.

A group's records are an iterator that can be read once and need not be read to its end; they are streamed from the
sorted rows, so a group may be larger than memory.
"""

from __future__ import annotations

import contextlib
import functools
import typing
from collections import abc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from mr.errors import FunctionFailed, MillraceError, RecordError
from mr.kernels.group import group_starts
from mr.kernels.keys import codes
from mr.kernels.rows import Names, Shape, from_python, shape_of, to_python
from mr.operators.base import Combiner, Grouped, TaskEnv, rows_shape
from mr.operators.columns import named
from mr.operators.grouped import keep
from mr.operators.python import Function, built, described, shorten
from mr.options import PYTHON_BATCH_ROWS

KEY, VALUE = "key", "value"


@dataclass(frozen=True)
class _Part:
    """Records of one key that lie in one batch; `fresh` when the key differs from that of the part before."""

    key: Any
    records: list[Any]
    fresh: bool


def _same(a: Any, b: Any) -> bool:
    """Equality of keys as the engine sees it: NaN is equal to NaN, also inside tuples."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b) or (a != a and b != b)


def key_values(data: pa.RecordBatch, keys: tuple[str, ...]) -> list[Any]:
    """The key of every row as the user sees it: a plain value for one column, a Row for several."""
    return to_python(keep(data, keys, "values" if len(keys) == 1 else "rows"))


def _parts(rows: Iterator[pa.RecordBatch], keys: tuple[str, ...], value: str | None) -> Iterator[_Part]:
    last: list[Any] = []
    for batch in rows:
        if not batch.num_rows:
            continue
        starts = group_starts(batch, keys)
        names = key_values(batch.take(pa.array(starts)), keys)
        records = to_python(batch if value is None else keep(batch, (value,), "values"))
        ends = [*starts[1:].tolist(), batch.num_rows]
        for key, start, end in zip(names, starts.tolist(), ends, strict=True):
            yield _Part(key, records[start:end], not last or not _same(last[0], key))
            last = [key]


class OnePass:
    """Records that can be read once: going through them again would silently find none, so it is an error.

    >>> rows = OnePass(iter([1, 2]))
    >>> sum(rows), max(rows)
    Traceback (most recent call last):
    ...
    RuntimeError: the records of a group can be read once; keep them with list(...) to go through them again
    """

    def __init__(self, records: Iterator[Any]) -> None:
        self._over = False
        self._records = self._until_over(records)

    def _until_over(self, records: Iterator[Any]) -> Iterator[Any]:
        yield from records
        self._over = True

    def __iter__(self) -> Iterator[Any]:
        if self._over:
            cure = "keep them with list(...) to go through them again"
            raise RuntimeError(f"the records of a group can be read once; {cure}")
        return self._records

    def __next__(self) -> Any:
        return next(self._records)


class _Group:
    """The records of one group, read at most once; `rest()` skips what was not read."""

    def __init__(self, first: _Part, parts: Iterator[_Part], env: TaskEnv) -> None:
        self._parts = parts
        self._env = env
        self.next: _Part | None = None
        self.records = self._stream(first)

    def _stream(self, first: _Part) -> Iterator[Any]:
        yield from self._watched(first)
        for part in self._parts:
            if part.fresh:
                self.next = part
                return
            yield from self._watched(part)

    def _watched(self, part: _Part) -> Iterator[Any]:
        records = iter(part.records)
        self._env.watch(records)
        return records

    def rest(self) -> _Part | None:
        for _ in self.records:
            pass
        return self.next


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


def groups(
    rows: Iterator[pa.RecordBatch], keys: tuple[str, ...], value: str | None, env: TaskEnv
) -> Iterator[tuple[Any, Iterator[Any]]]:
    """(key, records) of each group of sorted rows; records are those of column `value`, or whole records."""
    parts = _parts(rows, keys, value)
    part = next(parts, None)
    while part is not None:
        group = _Group(part, parts, env)
        yield part.key, OnePass(group.records)
        part = group.rest()


def outputs_of(result: Any, call: str) -> Iterator[Any]:
    """The records that a grouped function's result means: an iterator many, None none, anything else one."""
    if result is None:
        return iter(())
    if isinstance(result, Iterator):
        return result
    if isinstance(result, list) and any(isinstance(item, (tuple, dict)) for item in result):
        raise RecordError(f"{call} returned a list of records, which would be one record; yield them instead")
    return iter((result,))


def stream(pairs: Iterator[tuple[Any, Iterator[Any]]], fn: Function, call: str) -> Iterator[Any]:
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
    """Map-side half of `map_reduce`: `fn(key, values)` gives values, the key cannot change."""

    fn: Function

    def exact(self, schema: pa.Schema) -> bool:
        return False  # how often it is applied shows in the values it gets

    def combine(self, block: pa.RecordBatch) -> pa.RecordBatch:
        call = described("combiner", self.fn)
        group, representatives = codes(block, (KEY,))
        in_order = np.argsort(group, kind="stable")
        values = to_python(keep(block.take(pa.array(in_order)), (VALUE,), "values"))
        bounds = np.append(np.flatnonzero(np.diff(group[in_order], prepend=-1)), len(values)).tolist()
        keys = block.take(pa.array(representatives))
        outputs: list[Any] = []
        counts: list[int] = []
        for i, key in enumerate(key_values(keys, (KEY,))):
            pair = (key, OnePass(iter(values[bounds[i] : bounds[i + 1]])))
            before = len(outputs)
            outputs.extend(stream(iter((pair,)), self.fn, call))
            counts.append(len(outputs) - before)
        shape = Shape("values", (VALUE,), (None,))
        try:
            data, _ = from_python(outputs, shape)
        except RecordError as error:
            raise type(error)(f"{call} gave a value that does not fit: {error.message}") from None
        repeated = keys.column(KEY).take(pa.array(np.repeat(np.arange(len(counts)), counts)))
        value = data.column(0) if data.num_rows else pa.nulls(0, block.schema.field(VALUE).type)
        return named([repeated, value], (KEY, VALUE), "rows")


def fold(fn: Function, key: Any, values: Iterator[Any]) -> Any:
    """`fn` over all values, from the left."""
    return functools.reduce(fn, values)


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
        pairs = ((key, iter(((key, fn(key, values)),))) for key, values in groups(rows, self.keys, VALUE, env))
        yield from batched(
            stream(pairs, lambda _key, records: records, call), rows_shape((KEY, VALUE), self.types), call
        )
