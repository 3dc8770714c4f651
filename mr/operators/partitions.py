"""Operators over the records of a whole task: rows as they were shuffled, functions of a partition, ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa

from mr.batch import Batch, Origins
from mr.errors import FunctionFailed, MillraceError
from mr.kernels.rows import Shape, to_python
from mr.operators.base import Grouped, Narrow, Run, TaskEnv, raw_of, reject_rows, rows_shape
from mr.operators.columns import named
from mr.operators.held import Held
from mr.operators.python import PerRecord, PythonRun, consumed, described, name_of
from mr.options import PYTHON_BATCH_ROWS

BLOCK_ROWS: Final = 65_536
"""Numbers of a range that are made at a time."""


class Shuffled(Grouped, frozen=True):
    """The rows as they come, in (bucket, key, task, row) order: for a shuffle without a reduction."""

    keys: tuple[str, ...]
    label: ClassVar[str] = "repartition"

    def shape(self, given: Shape) -> Shape | None:
        return given

    def reduce(self, rows: Iterator[pa.RecordBatch], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        return rows


class MapPartitions(PerRecord, frozen=True):
    """`fn(records) -> records` once a task, over an iterator of all records that reach the operator there."""

    label: ClassVar[str] = "map_partitions"

    def start(self, env: TaskEnv, track: bool) -> Run:
        return _PartitionRun(self, env, track)


class _PartitionRun(PythonRun):
    """What comes is held until it is all there; with a policy so is what comes out, until the function is done."""

    def __init__(self, operator: MapPartitions, env: TaskEnv, track: bool) -> None:
        super().__init__(operator, env, track)
        self._held = self._holder()
        self._rows = 0
        self._first: Origins | None = None
        self._records: list[Any] = []  # those that the function is taking
        self._source: Iterator[Any] = iter([])
        self._given = 0  # records up to the end of `_source`

    def _holder(self) -> Held:
        return Held(Path(self.env.scratch), self.env.memory_bytes // 4)

    def feed(self, batch: Batch) -> Iterable[Batch]:
        if self._first is None and batch.origins is not None:
            self._first = batch.origins[:1]
        self._rows += batch.rows
        self._held.add(batch.data)
        return ()

    def end(self) -> Iterator[Batch]:
        if self.operator.on_error.on_error == "fail":
            yield from map(Batch, self._made())
            return
        made = self._holder()
        try:
            for data in self._made():
                made.add(data)
        except FunctionFailed as error:
            self._leave_out(error)
            made.drop()
            self.types = pa.schema([])
        yield from map(Batch, made.batches())

    def _made(self) -> Iterator[pa.RecordBatch]:
        outputs = self._outputs()
        while some := list(islice(outputs, PYTHON_BATCH_ROWS)):
            data = self.convert(some, lambda row: self._place())
            self.join_types(data.schema)
            yield data

    def _place(self) -> str:
        """How far the function has come."""
        begins = self.env.where(self._first, 0)
        return f" after {self._taken():,} records of the partition{f' that begins{begins}' if begins else ''}"

    def _taken(self) -> int:
        return consumed(self._source, self._given)

    def _outputs(self) -> Iterator[Any]:
        try:
            result = self.fn(chain.from_iterable(self._lists()))
            if result is None or isinstance(result, (str, bytes, dict)):
                kind = type(result).__name__
                raise TypeError(f"an iterable of records is needed, not {kind}; return a list or yield the records")
            yield from result
        except (MillraceError, MemoryError):
            raise
        except Exception as error:
            text = f"{described(self.operator.label, self.operator.fn)} raised {type(error).__name__}: {error}"
            raise FunctionFailed(f"{text}{self._place()}", None, error) from error

    def _leave_out(self, error: FunctionFailed) -> None:
        """The records of the task are one reject: the record that the function took last stands for them."""
        cause = error.__cause__
        taken = self._taken() - (self._given - len(self._records))
        raw = raw_of(self._records[taken - 1]) if taken else b""
        text = f"{type(cause).__name__}: {cause}, after {self._taken():,} of {self._rows:,} records of the partition"
        name, at = name_of(self.operator.fn), np.zeros(1, dtype=np.int64)
        self.rejects.append(reject_rows(self._first, at, name, [text], [raw], self._rows))

    def _lists(self) -> Iterator[Iterator[Any]]:
        for data in self._held.batches():
            for start in range(0, data.num_rows, PYTHON_BATCH_ROWS):
                self._records = to_python(data.slice(start, PYTHON_BATCH_ROWS))
                self._source = iter(self._records)
                self._given += len(self._records)
                self.env.watch(self._source)
                yield self._source


class Counted(Narrow, frozen=True):
    """The numbers start, start + step, ... of blocks (start, count): the records of `mr.range`."""

    step: int
    label: ClassVar[str] = "range"

    def shape(self, given: Shape | None) -> Shape | None:
        return rows_shape(["value"], [pa.int64()], "values")

    def start(self, env: TaskEnv, track: bool) -> Run:
        return _CountedRun(self.step)


class _CountedRun(Run):
    def __init__(self, step: int) -> None:
        self._step = step
        self.rejects = []

    def feed(self, batch: Batch) -> Iterable[Batch]:
        for start, count in zip(*(column.to_pylist() for column in batch.data.columns), strict=True):
            for done in range(0, count, BLOCK_ROWS):
                places = np.arange(done, min(done + BLOCK_ROWS, count), dtype=np.int64)
                yield Batch(named([pa.array(start + places * self._step)], ["value"], "values"))
