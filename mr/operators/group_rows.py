"""The groups of sorted rows, one after the other, for functions that are called once a group.

A group's records are an iterator that can be read once and need not be read to its end; they are streamed from the
sorted rows, so a group may be larger than memory.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, cast

import pyarrow as pa

from mr.kernels.frames import concat
from mr.kernels.group import group_starts
from mr.kernels.rows import to_python
from mr.operators.base import TaskEnv
from mr.operators.grouped import keep
from mr.options import PYTHON_BATCH_ROWS

Sides = tuple["OnePass", ...]
"""The records of a group, of each input that is grouped."""


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

    __slots__ = ("_records", "_rest")  # no cycle: the collector is off while tasks run

    def __init__(self, records: Iterator[Any], rest: Callable[[], int] = int) -> None:
        self._records = cast("types.GeneratorType[Any, None, None]", _each(records))
        self._rest = rest

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

    def size(self) -> int:
        """The number of all records, taken or not; no more are given out."""
        self.close()
        return self._rest()


def _each(records: Iterator[Any]) -> Iterator[Any]:
    """The same records; a generator knows whether it is over."""
    yield from records


def groups(
    rows: Iterator[pa.RecordBatch], keys: tuple[str, ...], value: str | None, env: TaskEnv
) -> Iterator[tuple[Any, Sides]]:
    """(key, (records,)) of each group of sorted rows; records are those of column `value`, or whole records."""
    return ((part.key, (records,)) for part, records in parted(rows, keys, value, env))


def parted(
    rows: Iterator[pa.RecordBatch], keys: tuple[str, ...], value: str | None, env: TaskEnv
) -> Iterator[tuple[Part, OnePass]]:
    """The first part and the records of each group of sorted rows.

    What is not read when the next group is asked for is skipped, without making Python records of it.
    """
    parts = _parts(rows, keys, value)
    found: list[Part] = [*islice(parts, 1)]  # the first part of the next group, once it has been met
    met = 0  # rows of this group

    def following() -> Part | None:
        """The next part of the same group."""
        nonlocal met
        part = None if found else next(parts, None)
        if part is not None and part.fresh:
            found.append(part)
            return None
        met += 0 if part is None else part.end - part.start
        return part

    def stream(part: Part | None) -> Iterator[Any]:
        while part is not None:
            records = iter(part.piece.records[part.start : part.end])
            env.watch(records)
            yield from records
            part = following()

    def rest() -> int:
        while following() is not None:
            pass
        return met

    while found:
        first = found.pop()
        met = first.end - first.start
        records = OnePass(stream(first), rest)
        yield first, records
        records.size()
