"""Operators that call a user's Python function once a record: map, flat_map, filter.

The only per-record loops of the engine are these, and they are C loops around the user's function (`map`,
`chain.from_iterable`). When the function raises, the position of the list iterator tells which record it was.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import PurePath
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa

from mr.batch import Batch, Origins, with_kind
from mr.errors import FunctionFailed, PlanError, RecordError
from mr.kernels.lines import Lines
from mr.kernels.rows import Shape, from_python, to_python
from mr.kernels.types import unify
from mr.operators.base import ErrorPolicy, Narrow, Run, TaskEnv, raw_of, reject_rows
from mr.operators.text import WordBatch, flat_mapped, mapped, strings_as_words
from mr.options import PYTHON_BATCH_ROWS

Function = Callable[..., Any]


def name_of(fn: object) -> str:
    """What a function is called in messages: its name, also behind `partial`.

    >>> name_of(functools.partial(sorted))
    'sorted'
    """
    inner = inner_of(fn)
    return getattr(inner, "__qualname__", type(inner).__qualname__)


def inner_of(fn: object) -> object:
    """The user's function behind `partial` and decorators.

    >>> inner_of(functools.partial(functools.wraps(len)(lambda x: x)))
    <built-in function len>
    """
    behind = fn.func if isinstance(fn, functools.partial) else getattr(fn, "__wrapped__", None)
    return inner_of(behind) if callable(behind) else fn


def described(label: str, fn: object) -> str:
    """An operator and the function that it calls, with the function's line, for messages.

    >>> described("map", len), described("map", shorten).rpartition(":")[0]
    ('map len', 'map shorten (python.py')
    """
    code = getattr(inner_of(fn), "__code__", None)
    line = "" if code is None else f" ({PurePath(code.co_filename).name}:{code.co_firstlineno})"
    return f"{label} {name_of(fn)}{line}"


def built(fn: Function) -> Function:
    """A function to call a record at a time: a class whose instances can be called is built once per task.

    >>> built(int) is int
    True
    """
    builds = inspect.isclass(fn) and any("__call__" in vars(base) for base in fn.__mro__)
    made: Function = fn() if builds else fn
    return made


def consumed(iterator: Iterator[Any], total: int) -> int:
    """How many of `total` records a list iterator has given out."""
    return total - iterator.__length_hint__()  # type: ignore[attr-defined, no-any-return]


class Part:
    """Some records in a row of a batch, as Python sees them; their columns and origins are looked at when needed."""

    def __init__(self, whole: Batch, start: int, records: list[Any]) -> None:
        self._whole = whole
        self._rows = slice(start, start + len(records))
        self.records = records

    @property
    def origins(self) -> Origins | None:
        """Where the records lie."""
        return None if self._whole.origins is None else self._whole.origins[self._rows]

    @property
    def batch(self) -> Batch:
        """The records as a batch."""
        return Batch(self._whole.data.slice(self._rows.start, len(self.records)), self.origins)


def parts_of(batch: Batch) -> Iterator[Part]:
    """The records of a batch, at most `PYTHON_BATCH_ROWS` at a time."""
    lines = batch.values() if isinstance(batch, Lines) else None
    for start in range(0, batch.rows, PYTHON_BATCH_ROWS):
        stop = start + PYTHON_BATCH_ROWS
        yield Part(batch, start, to_python(batch.data[start:stop]) if lines is None else lines[start:stop])


class PythonRun(Run):
    """Runs `emit(records) -> outputs` over slices of a batch and keeps track of what failed."""

    def __init__(self, operator: PerRecord, env: TaskEnv, track: bool) -> None:
        self.operator = operator
        self.env = env
        self.track = track
        self.fn = built(operator.fn)
        self.shape = operator.declared
        self.types = pa.schema([])  # of all outputs so far
        self.rejects = []

    def feed(self, batch: Batch) -> Iterable[Batch]:
        done = self.operator.by_columns(batch, self.track)
        if done is not None:
            if done.rows:
                yield done
            return
        for part in parts_of(batch):
            for made in self.operator.apply(self, part):
                if isinstance(made, WordBatch):
                    words = pa.schema([(made.shape.names[0], pa.large_string())])
                    self.join_types(with_kind(words, made.shape.kind))
                else:
                    self.join_types(made.data.schema)
                yield made

    def join_types(self, schema: pa.Schema) -> None:
        """A column has one type over all batches and tasks, also where nobody looks at its values later."""
        if not schema.equals(self.types):
            self.types = unify(self.types, schema, described(self.operator.label, self.operator.fn))

    def failed(self, error: Exception, part: Part, row: int) -> None:
        """Record `row` of `part` made the function raise: fail with its place, or note the reject and return."""
        policy = self.operator.on_error
        record, origins = part.records[row], part.origins
        message = f"{type(error).__name__}: {error}"
        if policy.on_error == "fail":
            where = self.env.where(origins, row)
            text = f"{described(self.operator.label, self.operator.fn)} raised {message}"
            raise FunctionFailed(f"{text}{where} for record {shorten(record)}", row, error) from error
        at = np.array([row], dtype=np.int64)
        self.rejects.append(reject_rows(origins, at, name_of(self.operator.fn), [message], [raw_of(record)]))

    def batch_of(self, outputs: list[Any], origin_of: Callable[[int], str]) -> Batch:
        """Outputs as records whose origins nobody asks for."""
        words = strings_as_words(outputs, self.shape)
        if words is None:
            return Batch(self.convert(outputs, origin_of))
        self.shape = words.shape
        return words

    def convert(self, outputs: list[Any], origin_of: Callable[[int], str]) -> pa.RecordBatch:
        """Outputs as columns; the first ones fix the shape for the rest of the task."""
        try:
            data, self.shape = from_python(outputs, self.shape)
        except RecordError as error:
            where = "" if error.row is None else origin_of(error.row)
            text = f"{described(self.operator.label, self.operator.fn)} gave a record that does not fit{where}"
            raise type(error)(f"{text}: {error.message}") from None
        return data


class PerRecord(Narrow, frozen=True):
    """Base of the operators that call `fn(record)`. `declared` is the shape fixed by names= or annotations."""

    fn: Function
    declared: Shape | None = None
    on_error: ErrorPolicy = ErrorPolicy()
    pure: bool = True
    calls_python: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not callable(self.fn):
            cure = "; select(), with_columns() and filter() take expressions" if isinstance(self.fn, pl.Expr) else ""
            raise PlanError(f"{self.label}(): {self.fn if cure else repr(self.fn)} is not a function{cure}")

    def shape(self, given: Shape | None) -> Shape | None:
        return self.declared

    def start(self, env: TaskEnv, track: bool) -> Run:
        return PythonRun(self, env, track)

    def by_columns(self, batch: Batch, track: bool) -> Batch | None:
        """The output for a whole batch, if a kernel knows it; see `operators.text`."""
        return None

    def apply(self, run: PythonRun, part: Part) -> Iterator[Batch]:
        """The output for a part of a batch."""
        raise NotImplementedError


class Map(PerRecord, frozen=True):
    """One record for each record."""

    label: ClassVar[str] = "map"

    def by_columns(self, batch: Batch, track: bool) -> Batch | None:
        return mapped(self.fn, batch, self.declared, track)

    def apply(self, run: PythonRun, part: Part) -> Iterator[Batch]:
        outputs, kept = each(run, part)
        if not outputs:
            return

        def origins() -> Origins | None:
            return part.origins if kept is None or part.origins is None else part.origins[kept]

        def where(row: int) -> str:
            return run.env.where(origins(), row)

        yield Batch(run.convert(outputs, where), origins()) if run.track else run.batch_of(outputs, where)


class Filter(PerRecord, frozen=True):
    """The records for which the function returns something true."""

    label: ClassVar[str] = "filter"

    def shape(self, given: Shape | None) -> Shape | None:
        return given

    def apply(self, run: PythonRun, part: Part) -> Iterator[Batch]:
        outputs, kept = each(run, part, then=bool)
        mask = np.fromiter(outputs, dtype=bool, count=len(outputs))
        yield part.batch.take(np.flatnonzero(mask) if kept is None else kept[mask])


class FlatMap(PerRecord, frozen=True):
    """Any number of records for each record: the function returns or yields an iterable."""

    label: ClassVar[str] = "flat_map"

    def by_columns(self, batch: Batch, track: bool) -> Batch | None:
        return flat_mapped(self.fn, batch, self.declared, track)

    def apply(self, run: PythonRun, part: Part) -> Iterator[Batch]:
        fn = run.fn if inspect.isgeneratorfunction(run.fn) else functools.partial(checked, run.fn)
        if run.track or self.on_error.on_error != "fail":
            yield from self._one_by_one(run, fn, part)
            return
        source = iter(part.records)
        run.env.watch(source)
        stream = chain.from_iterable(map(fn, source))
        while True:
            try:
                outputs = list(islice(stream, PYTHON_BATCH_ROWS))
            except Exception as error:
                run.failed(error, part, consumed(source, len(part.records)) - 1)
                raise
            if not outputs:
                return
            near = consumed(source, len(part.records)) - 1
            yield run.batch_of(outputs, functools.partial(_nearest, run, part, near))

    def _one_by_one(self, run: PythonRun, fn: Function, part: Part) -> Iterator[Batch]:
        """As `apply`, knowing which record each output came from; a record that fails contributes nothing."""
        lists, kept = each(run, part, lambda record: list(fn(record)))
        counts = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
        source = np.repeat(np.arange(len(part.records)) if kept is None else kept, counts)
        outputs = list(chain.from_iterable(lists))
        for start in range(0, len(outputs), PYTHON_BATCH_ROWS):
            owners = source[start : start + PYTHON_BATCH_ROWS]
            mine = None if part.origins is None else part.origins[owners]
            data = run.convert(outputs[start : start + PYTHON_BATCH_ROWS], functools.partial(run.env.where, mine))
            yield Batch(data, mine if run.track else None)


def _nearest(run: PythonRun, part: Part, near: int, _row: int) -> str:
    """Where the record is that was being read when an output was made."""
    return run.env.where(part.origins, near)


def each(
    run: PythonRun, part: Part, fn: Function | None = None, then: Callable[[Any], Any] | None = None
) -> tuple[list[Any], np.ndarray[Any, np.dtype[np.int64]] | None]:
    """`fn` of every record (then `then` of that), and the indices of those that did not fail (None: all of them)."""
    outputs: list[Any] = []
    records = part.records
    source = iter(records)
    run.env.watch(source)
    failed: list[int] = []
    while True:
        try:
            made = map(fn or run.fn, source)
            outputs.extend(made if then is None else map(then, made))
            if len(outputs) + len(failed) == len(records):
                break
            raise RuntimeError("the function raised StopIteration")
        except MemoryError:  # no fault of the record
            raise
        except Exception as error:
            row = consumed(source, len(records)) - 1
            run.failed(error, part, row)
            failed.append(row)
    return outputs, np.delete(np.arange(len(records)), failed) if failed else None


def checked(fn: Function, record: Any) -> Iterable[Any]:
    """The result of a function that is not a generator, refused where iterating it would surely be a mistake."""
    try:
        result = fn(record)
    except StopIteration as error:  # would end the stream of all records silently
        raise RuntimeError("the function raised StopIteration") from error
    if result is None or isinstance(result, (str, bytes, dict)):
        kind = type(result).__name__
        raise TypeError(f"flat_map needs an iterable of records, got {kind}; return a list or yield the records")
    return result  # type: ignore[no-any-return]


def shorten(record: object, limit: int = 200) -> str:
    """`repr` of a record, cut to a line's length.

    >>> shorten("x" * 1000, 10)
    "'xxxxxx..."
    """
    text = repr(record)
    return text if len(text) <= limit else text[: limit - 3] + "..."
