"""Operators that look at a whole batch or count rows: map_batches, and the per-task halves of limit and top_k."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
import pyarrow as pa

from mr.batch import Batch, Origins, kind_of, with_kind
from mr.errors import FunctionFailed, RecordError
from mr.kernels.canonical import canonical
from mr.kernels.frames import concat, from_polars, plain, to_polars
from mr.kernels.rows import Shape
from mr.kernels.sort import order
from mr.kernels.types import cast, unify
from mr.operators.base import ErrorPolicy, Narrow, Run, TaskEnv, reject_rows
from mr.operators.columns import named
from mr.operators.python import Function, built, described, name_of

BatchFormat = Literal["polars", "arrow", "numpy"]


def to_format(data: pa.RecordBatch, batch_format: BatchFormat) -> Any:
    """A batch as the user asked for it: pl.DataFrame, pa.Table or dict of numpy arrays."""
    if batch_format == "polars":
        return to_polars(data)
    if batch_format == "arrow":
        return pa.Table.from_batches([data])
    return {name: column.to_numpy(zero_copy_only=False) for name, column in zip(data.schema.names, data, strict=True)}


def from_format(result: Any) -> pa.RecordBatch:
    """What a user's batch function returned, as a batch of rows.

    Raises TypeError for anything but a pl.DataFrame, pa.Table, pa.RecordBatch or dict of columns, ValueError for two
    columns of one name, and for rows without columns.

    >>> from_format(pa.table([[1], [2]], ["n", "n"]))
    Traceback (most recent call last):
    ...
    ValueError: the batch that it returned has two columns named 'n'; rename one
    """
    if isinstance(result, pl.DataFrame):
        _check_columns(result.columns, result.height)
        return from_polars(result)
    if isinstance(result, dict):
        result = pa.table(result)
    if isinstance(result, (pa.Table, pa.RecordBatch)):
        _check_columns(result.schema.names, result.num_rows)
        return named([plain(c) for c in result.columns], result.schema.names, "rows")
    kind = type(result).__name__
    raise TypeError(f"return a pl.DataFrame, pa.Table or dict of columns, not {kind}")


def _check_columns(names: Sequence[str], rows: int) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the batch that it returned has two columns named {twice!r}; rename one")
    if rows and not names:
        cure = "keep a column; where no row is left, return a batch without rows"
        raise ValueError(f"the batch that it returned has {rows} rows but no columns; {cure}")


class MapBatches(Narrow, frozen=True):
    """`fn(batch) -> batch` over batches of exactly `batch_size` rows, cut from the split alone."""

    fn: Function
    batch_size: int
    batch_format: BatchFormat
    declared: Shape | None = None
    pure: bool = True
    on_error: ErrorPolicy = ErrorPolicy()
    label: ClassVar[str] = "map_batches"
    calls_python: ClassVar[bool] = True

    def shape(self, given: Shape | None) -> Shape | None:
        return self.declared

    def start(self, env: TaskEnv, track: bool) -> Run:
        return _BatchesRun(self, env)


class _BatchesRun(Run):
    def __init__(self, operator: MapBatches, env: TaskEnv) -> None:
        self._operator = operator
        self._env = env
        self._fn = built(operator.fn)
        self._held: list[pa.RecordBatch] = []
        self._rows = 0
        self._origin: Any = None
        self.rejects = []

    def feed(self, batch: Batch) -> Iterable[Batch]:
        size = self._operator.batch_size
        start = 0
        while start < batch.rows:
            part = batch.data.slice(start, size - self._rows)
            if not self._held and batch.origins is not None:
                self._origin = batch.origins[start : start + 1]
            self._held.append(part)
            self._rows += part.num_rows
            start += part.num_rows
            if self._rows == size:
                yield from self._call()

    def end(self) -> Iterable[Batch]:
        if self._rows:
            yield from self._call()

    def _call(self) -> Iterator[Batch]:
        schema = self._held[0].schema
        for held in self._held[1:]:
            schema = unify(schema, held.schema, "map_batches")
        data = concat([cast(b, schema) for b in self._held], schema)
        self._held, self._rows = [], 0
        operator = self._operator
        try:
            result = from_format(self._fn(to_format(data, operator.batch_format)))
        except MemoryError:
            raise
        except Exception as error:
            if operator.on_error.on_error != "fail":
                self.rejects.append(rejected_batch(self._origin, operator.fn, error, data))
                return
            where = self._env.where(self._origin, 0)
            text = f"{described('map_batches', operator.fn)} raised {type(error).__name__}: {error}"
            raise FunctionFailed(
                f"{text} for the batch of {data.num_rows} rows that begins{where or ' here'}", 0, error
            ) from error
        if operator.declared is not None:
            result = conform(result, operator.declared, described("map_batches", operator.fn))
        yield Batch(result)


def rejected_batch(first: Origins | None, fn: Function, error: Exception, data: pa.RecordBatch) -> pa.RecordBatch:
    """A batch for which `fn` raised as one reject; `first` is where its first record lies.

    `raw` is all of it, as an Arrow IPC stream: `pl.read_ipc_stream(raw)`.
    """
    columns = [column.storage if isinstance(column, pa.ExtensionArray) else column for column in data.columns]
    whole = canonical(pa.RecordBatch.from_arrays(columns, data.schema.names))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_batch(whole)
    raw, text = sink.getvalue().to_pybytes(), f"{type(error).__name__}: {error}"
    return reject_rows(first, np.zeros(1, np.int64), name_of(fn), [text], [raw], data.num_rows)


def conform(data: pa.RecordBatch, declared: Shape, call: str) -> pa.RecordBatch:
    """`data` with exactly the declared columns and types. Raises RecordError naming the column that does not fit."""
    names = declared.names or tuple(data.schema.names)
    if set(names) != set(data.schema.names):
        raise RecordError(f"{call}: columns {data.schema.names} do not match the declared {list(names)}")
    columns = []
    for name, type in zip(names, declared.types or (None,) * len(names), strict=True):
        column = data.column(name)
        if type is not None and column.type != type:
            try:
                column = column.cast(type)
            except pa.ArrowException as error:
                raise RecordError(f"{call}: column {name!r} is {column.type}, declared {type}: {error}") from None
        columns.append(column)
    return named(columns, names, declared.kind)


class LimitRows(Narrow, frozen=True):
    """The first `count` records of a task."""

    count: int
    label: ClassVar[str] = "limit"

    def shape(self, given: Shape | None) -> Shape | None:
        return given

    def start(self, env: TaskEnv, track: bool) -> Run:
        return _LimitRun(self.count)


class _LimitRun(Run):
    def __init__(self, count: int) -> None:
        self._left = count
        self.rejects = []

    def feed(self, batch: Batch) -> Iterable[Batch]:
        if self._left >= batch.rows:
            self._left -= batch.rows
            yield batch
        elif self._left:
            left, self._left = self._left, 0
            origins = None if batch.origins is None else batch.origins[:left]
            yield Batch(batch.data.slice(0, left), origins)


class TopRows(Narrow, frozen=True):
    """The first `count` records of a task in the order of `by`, ties in input order."""

    count: int
    by: tuple[str, ...]
    descending: tuple[bool, ...]
    label: ClassVar[str] = "top_k"

    def shape(self, given: Shape | None) -> Shape | None:
        return given

    def start(self, env: TaskEnv, track: bool) -> Run:
        return _TopRun(self)


class _TopRun(Run):
    def __init__(self, operator: TopRows) -> None:
        self._operator = operator
        self._best: pa.RecordBatch | None = None
        self.rejects = []

    def feed(self, batch: Batch) -> Iterable[Batch]:
        data = batch.data
        if self._best is not None:
            schema = unify(self._best.schema, data.schema, "top_k")
            data = concat([cast(self._best, schema), cast(data, schema)], schema)
        first = order(data, self._operator.by, self._operator.descending)[: self._operator.count]
        self._best = data.take(pa.array(np.asarray(first, dtype=np.int64)))
        return ()

    def end(self) -> Iterable[Batch]:
        if self._best is not None:
            schema = with_kind(self._best.schema, kind_of(self._best.schema))
            yield Batch(self._best.cast(schema))
