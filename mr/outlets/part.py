"""One part of an output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from blake3 import blake3

from mr.batch import KIND_KEY, kind_of, with_kind
from mr.errors import OutputError, PlanError
from mr.kernels.rows import Shape
from mr.kernels.types import cast, unify
from mr.outlets.base import OutletRun
from mr.program import PartOutlet
from mr.storage import store_file
from mr.tasks import Output


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
