"""Where records leave a task: into the buckets of a shuffle, sorted runs, a plain sequence, or a part of an output.

An outlet gathers batches until a fixed number of bytes, counted from the split's start, and then writes a run: what
is written depends on the records alone, never on the memory budget.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from blake3 import blake3

from mr.batch import KIND_KEY, kind_of, with_kind
from mr.errors import OutputError, PlanError, RecordError
from mr.kernels.frames import concat, to_ipc
from mr.kernels.keys import buckets, normalise_keys
from mr.kernels.partition import bucket_by, sort_into_buckets
from mr.kernels.rows import Shape
from mr.kernels.sort import order
from mr.kernels.types import cast, unify
from mr.operators.base import Combiner
from mr.operators.pygroups import key_values
from mr.operators.python import name_of
from mr.options import BUCKETS, COMBINE_BLOCK_ROWS, RUN_BYTES_MAX
from mr.program import GatherOutlet, HashOutlet, OutletSpec, PartOutlet, RangeOutlet
from mr.shuffle.run_file import RunIndex
from mr.shuffle.writer import RunWriter
from mr.storage import store_file
from mr.tasks import Output


class SchemaGrew(Exception):
    """Rows turned up that do not fit the schema of runs already written; `schema` holds both."""

    def __init__(self, outlet: int, schema: pa.Schema) -> None:
        super().__init__(outlet)
        self.outlet = outlet
        self.schema = schema


class OutletRun(ABC):
    """An outlet at work in one attempt."""

    @abstractmethod
    def write(self, data: pa.RecordBatch) -> None:
        """Take the next records."""

    @abstractmethod
    def finish(self) -> Output:
        """Write what is left and describe what was written."""

    @abstractmethod
    def abort(self) -> None:
        """Remove what was written."""


class _Pending:
    """Batches waiting to be written, joined under the schema that fits them all."""

    def __init__(self, settled: pa.Schema | None, where: str) -> None:
        self.schema = settled
        self.bytes = 0
        self._settled = settled
        self._where = where
        self._batches: list[pa.RecordBatch] = []

    def add(self, data: pa.RecordBatch) -> None:
        if not data.num_columns:
            return
        if self.schema is None:
            self.schema = data.schema
        elif not self.schema.equals(data.schema, check_metadata=True):
            self.schema = unify(self.schema, data.schema, self._where)
        self._batches.append(data)
        self.bytes += data.nbytes

    def take(self) -> pa.RecordBatch:
        schema = self.schema if self.schema is not None else pa.schema([])
        batches, self._batches, self.bytes = self._batches, [], 0
        return concat([cast(batch, schema) for batch in batches], schema)


class RunOutlet(OutletRun):
    """Base of the outlets that write a run file: gathers, combines by blocks, and writes run after run."""

    def __init__(
        self, index: int, path: Path, attempt: str, settled: pa.Schema | None, combiner: Combiner | None
    ) -> None:
        self._index = index
        self._path = path
        self._attempt = attempt
        self._combiner = combiner
        self._block: list[pa.RecordBatch] = []
        self._block_rows = 0
        self._exact = False
        self._pending = _Pending(settled, "the rows of a shuffle")
        self._writer: RunWriter | None = None
        self._schema: pa.Schema | None = None

    def write(self, data: pa.RecordBatch) -> None:
        if self._combiner is None:
            self._add(data)
            return
        start = 0
        while start < data.num_rows:  # blocks count rows from the split's start
            part = data.slice(start, COMBINE_BLOCK_ROWS - self._block_rows)
            self._block.append(part)
            self._block_rows += part.num_rows
            start += part.num_rows
            if self._block_rows == COMBINE_BLOCK_ROWS:
                self._combine()

    def _combine(self) -> None:
        assert self._combiner is not None
        block = _Pending(None, "the rows of a block")
        for part in self._block:
            block.add(part)
        self._block, self._block_rows = [], 0
        rows = self.ready(block.take())
        self._exact = self._combiner.exact(rows.schema)
        self._add(self._combiner.combine(rows))

    def ready(self, data: pa.RecordBatch) -> pa.RecordBatch:
        """Rows in the form in which they are compared; called once for every row, many at a time."""
        return data

    def _add(self, data: pa.RecordBatch) -> None:
        self._pending.add(data)
        if self._pending.bytes >= RUN_BYTES_MAX:
            self._flush()

    def _flush(self) -> None:
        data = self._pending.take()
        if not data.num_rows:
            return
        if self._combiner is None:
            data = self.ready(data)
        elif self._exact:
            data = self._combiner.recombine(data)
        if self._writer is None:
            self._schema = data.schema
            self._writer = RunWriter(self._path, self._attempt, data.schema)
        elif not self._writer_takes(data.schema):
            assert self._schema is not None
            raise SchemaGrew(self._index, unify(self._schema, data.schema, "the rows of a shuffle"))
        self.append(self._writer, data)

    def _writer_takes(self, schema: pa.Schema) -> bool:
        return self._schema is not None and self._schema.equals(schema)

    @abstractmethod
    def append(self, writer: RunWriter, data: pa.RecordBatch) -> None:
        """Write `data` as one run."""

    def finish(self) -> Output:
        if self._block:
            self._combine()
        self._flush()
        schema = self._pending.schema if self._schema is None else with_kind(self._schema, kind_of(self._schema))
        described = b"" if schema is None else schema.serialize().to_pybytes()
        if self._writer is None:
            return Output("", described, 0, 0)
        index: RunIndex = self._writer.finish()
        sample = b"" if index.sample is None else to_ipc(index.sample)
        return Output(self._path.name, described, index.rows, index.bytes, index.segments, sample)

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.abort()


class HashRun(RunOutlet):
    """Runs sorted by (bucket, keys, sort columns)."""

    def __init__(self, index: int, path: Path, attempt: str, settled: pa.Schema | None, spec: HashOutlet) -> None:
        super().__init__(index, path, attempt, settled, spec.combiner)
        self._spec = spec

    def ready(self, data: pa.RecordBatch) -> pa.RecordBatch:
        return normalise_keys(data, self._spec.keys)

    def append(self, writer: RunWriter, data: pa.RecordBatch) -> None:
        spec = self._spec
        if spec.partitions is None:
            rows, offsets = sort_into_buckets(data, spec.keys, spec.sort_by, spec.descending)
        else:
            ids = _partition_ids(data, spec, spec.partitions)
            rows, offsets = bucket_by(data, ids, spec.partitions, spec.keys, spec.sort_by, spec.descending)
        writer.append_run(rows, offsets)


def _partition_ids(data: pa.RecordBatch, spec: HashOutlet, partitions: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    if spec.partitioner is None:
        return buckets(data, spec.keys).astype(np.int64) * partitions // BUCKETS
    chosen = [spec.partitioner(key, partitions) for key in key_values(data, spec.keys)]
    wrong = next((i for i, n in enumerate(chosen) if type(n) is not int or not 0 <= n < partitions), None)
    if wrong is not None:
        text = f"partitioner {name_of(spec.partitioner)} gave {chosen[wrong]!r}, not an int from 0 to {partitions - 1}"
        raise RecordError(text, wrong)
    return np.array(chosen, dtype=np.int64)


class RangeRun(RunOutlet):
    """Runs sorted as a whole, with an index of first keys."""

    def __init__(self, index: int, path: Path, attempt: str, settled: pa.Schema | None, spec: RangeOutlet) -> None:
        super().__init__(index, path, attempt, settled, None)
        self._spec = spec

    def append(self, writer: RunWriter, data: pa.RecordBatch) -> None:
        sorted_data = data.take(pa.array(order(data, self._spec.by, self._spec.descending)))
        writer.append_sorted_run(sorted_data, self._spec.by)


class GatherRun(RunOutlet):
    """Runs of rows as they come."""

    def __init__(self, index: int, path: Path, attempt: str, settled: pa.Schema | None, spec: GatherOutlet) -> None:
        super().__init__(index, path, attempt, settled, spec.combiner)
        self._spec = spec
        self._combined = False

    def append(self, writer: RunWriter, data: pa.RecordBatch) -> None:
        writer.append_run(data, [0, data.num_rows])

    def finish(self) -> Output:
        if self._combiner is not None and not self._block and self._writer is None and not self._pending.bytes:
            self._block = [empty_batch(self._spec.shape)]  # the aggregate of no rows is a row
        return super().finish()


class PartRun(OutletRun):
    """One part of an output, written when all its rows and so its schema are known."""

    def __init__(
        self, path: Path, attempt: str, settled: pa.Schema | None, spec: PartOutlet, memory_bytes: int
    ) -> None:
        self._path = path
        self._temp = path.with_name(f"{path.name}.{attempt}")
        self._spec = spec
        self._settled = settled
        self._spool = Spool(self._temp.with_suffix(".spool"), memory_bytes // 4)

    def write(self, data: pa.RecordBatch) -> None:
        self._spool.add(data)

    def finish(self) -> Output:
        schema = self._settled or self._spool.schema
        if schema is None:
            schema = empty_batch(self._spec.shape).schema
        schema = with_kind(schema, kind_of(schema))
        try:
            if len(schema):  # else there was no record to tell the columns: the part is empty
                self._spec.writer.check(schema)
        except PlanError as error:
            raise OutputError(str(error)) from None
        with open(self._temp, "wb") as file:
            rows = self._spec.writer.write(self._spool.batches(schema), schema, file)
        self._spool.close()
        size, digest = self._temp.stat().st_size, digest_file(self._temp)
        described = schema.serialize().to_pybytes()
        if self._spec.store is None:
            os.replace(self._temp, self._path)
            return Output(self._path.name, described, rows, size, digest=digest)
        manifest = store_file(self._spec.store, self._temp, self._spec.writer.extension)
        self._temp.unlink()
        return Output("", described, rows, size, digest=digest, manifest=manifest)

    def abort(self) -> None:
        self._spool.close()
        self._temp.unlink(missing_ok=True)


class Spool:
    """Batches in order, in memory up to a budget and then in a file, given back under the schema that fits all."""

    def __init__(self, path: Path, memory_bytes: int) -> None:
        self._path = path
        self._memory_bytes = memory_bytes
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0
        self._files: list[Path] = []
        self.schema: pa.Schema | None = None

    def add(self, data: pa.RecordBatch) -> None:
        """Append a batch."""
        if not data.num_columns:
            return
        marked = with_kind(data.schema, kind_of(data.schema))  # whether one batch comes or many, the file says its kind
        self.schema = marked if self.schema is None else unify(self.schema, marked, "the rows of an output")
        self._held.append(data)
        self._held_bytes += data.nbytes
        if self._held_bytes > self._memory_bytes:
            self._spill()

    def _spill(self) -> None:
        assert self.schema is not None
        path = self._path.with_name(f"{self._path.name}{len(self._files)}")
        self._files.append(path)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, self.schema) as writer:
            for batch in self._held:
                writer.write_batch(cast(batch, self.schema))
        self._held, self._held_bytes = [], 0

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """All batches, cast to `schema`."""
        for path in self._files:
            with pa.memory_map(str(path)) as source:
                for batch in pa.ipc.open_stream(source):
                    yield cast(batch, schema)
        for batch in self._held:
            yield cast(batch, schema)

    def close(self) -> None:
        """Remove the file."""
        for path in self._files:
            path.unlink(missing_ok=True)
        self._held = []


def open_outlet(
    index: int, spec: OutletSpec, path: Path, attempt: str, settled: pa.Schema | None, memory_bytes: int
) -> OutletRun:
    """The outlet `index` of a program at work, writing to `path`."""
    match spec:
        case HashOutlet():
            return HashRun(index, path, attempt, settled, spec)
        case RangeOutlet():
            return RangeRun(index, path, attempt, settled, spec)
        case GatherOutlet():
            return GatherRun(index, path, attempt, settled, spec)
        case PartOutlet():
            return PartRun(path, attempt, settled, spec, memory_bytes)


def empty_batch(shape: Shape | None) -> pa.RecordBatch:
    """No rows of a shape; columns of unknown type are null."""
    if shape is None:
        return pa.RecordBatch.from_arrays([], names=[])
    fields = [pa.field(name, type or pa.null()) for name, type in zip(shape.names, shape.types, strict=True)]
    return pa.RecordBatch.from_pylist([], schema=pa.schema(fields, {KIND_KEY: shape.kind.encode()}))


def digest_file(path: Path) -> str:
    """BLAKE3 (hex) of a file."""
    hasher = blake3()
    hasher.update_mmap(path)
    return str(hasher.hexdigest())
