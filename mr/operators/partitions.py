"""Operators over the records of a whole task: rows as they were shuffled, functions of a partition, ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa

from mr.batch import Batch
from mr.errors import FunctionFailed, MillraceError
from mr.kernels.rows import Shape, to_python
from mr.operators.base import Grouped, Narrow, Run, TaskEnv, rows_shape
from mr.operators.columns import named
from mr.operators.python import PerRecord, PythonRun, consumed, described
from mr.options import PYTHON_BATCH_ROWS
from mr.spills import spill_file

BLOCK_ROWS: Final = 65_536
"""Numbers of a range that are made at a time."""


@dataclass(frozen=True)
class Shuffled(Grouped):
    """The rows as they come, in (bucket, key, task, row) order: for a shuffle without a reduction."""

    keys: tuple[str, ...]
    label: ClassVar[str] = "repartition"

    def shape(self, given: Shape) -> Shape | None:
        return given

    def reduce(self, rows: Iterator[pa.RecordBatch], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        return rows


@dataclass(frozen=True)
class MapPartitions(PerRecord):
    """`fn(records) -> records` once a task, over an iterator of all records that reach the operator there."""

    label: ClassVar[str] = "map_partitions"

    def start(self, env: TaskEnv, track: bool) -> Run:
        return _PartitionRun(self, env, track)


class _PartitionRun(PythonRun):
    def __init__(self, operator: MapPartitions, env: TaskEnv, track: bool) -> None:
        super().__init__(operator, env, track)
        self._held = _Held(Path(env.scratch), env.memory_bytes // 4)
        self._source: Iterator[Any] = iter([])
        self._given = 0  # records up to the end of `_source`

    def feed(self, batch: Batch) -> Iterable[Batch]:
        self._held.add(batch.data)
        return ()

    def end(self) -> Iterator[Batch]:
        outputs = self._outputs()
        while True:
            some = list(islice(outputs, PYTHON_BATCH_ROWS))
            if not some:
                return
            yield Batch(self.convert(some, lambda row: f" after {self._taken():,} records of the partition"))

    def _taken(self) -> int:
        return consumed(self._source, self._given)

    def _outputs(self) -> Iterator[Any]:
        try:
            result = self.fn(chain.from_iterable(self._lists()))
            if result is None or isinstance(result, (str, bytes, dict)):
                kind = type(result).__name__
                raise TypeError(f"an iterable of records is needed, not {kind}; return a list or yield the records")
            yield from result
        except MillraceError:
            raise
        except Exception as error:
            text = f"{described(self.operator.label, self.operator.fn)} raised {type(error).__name__}: {error}"
            raise FunctionFailed(f"{text} after {self._taken():,} records of the partition", None, error) from error

    def _lists(self) -> Iterator[Iterator[Any]]:
        for data in self._held.batches():
            for start in range(0, data.num_rows, PYTHON_BATCH_ROWS):
                records = to_python(data.slice(start, PYTHON_BATCH_ROWS))
                self._source = iter(records)
                self._given += len(records)
                self.env.watch(self._source)
                yield self._source


class _Held:
    """Batches in order: in memory up to a budget, the ones before in files of the folder `scratch`."""

    def __init__(self, scratch: Path, memory_bytes: int) -> None:
        self._scratch = scratch
        self._memory_bytes = memory_bytes
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self._files: list[Path] = []

    def add(self, data: pa.RecordBatch) -> None:
        """Append a batch."""
        self._batches.append(data)
        self._bytes += data.nbytes
        if self._bytes > self._memory_bytes:
            for schema, some in groupby(self._batches, key=lambda batch: batch.schema):
                path = self._scratch / f"partition-{id(self):x}-{len(self._files)}"
                self._files.append(path)
                with spill_file(path) as sink, pa.ipc.new_stream(sink, schema) as writer:
                    for batch in some:
                        writer.write_batch(batch)
            self._batches, self._bytes = [], 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All batches."""
        for path in self._files:
            with pa.memory_map(str(path)) as source:
                yield from pa.ipc.open_stream(source)
        yield from self._batches


@dataclass(frozen=True)
class Counted(Narrow):
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
