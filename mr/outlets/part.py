"""The part files of an output that one task leaves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
from blake3 import blake3

from mr.batch import KIND_KEY, kind_of, with_kind
from mr.errors import OutputError, PlanError
from mr.formats.compression import compressed
from mr.formats.hive import file_schema
from mr.kernels.frames import concat
from mr.kernels.hive import check_partition_by, split_by_folder
from mr.kernels.rows import Shape
from mr.kernels.sizes import logical_bytes
from mr.kernels.types import cast, unify
from mr.options import PART_BLOCK_ROWS, PARTITIONS_PER_TASK_MAX
from mr.outlets.base import OutletRun
from mr.program import PartOutlet
from mr.spills import spill_file
from mr.storage import start_writing, store_file
from mr.tasks import Output, PartFile


class PartRun(OutletRun):
    """The parts of one task, written when all its rows and so its schema are known: folder by folder, one open file."""

    def __init__(
        self, path: Path, attempt: str, settled: pa.Schema | None, spec: PartOutlet, memory_bytes: int
    ) -> None:
        self._path = path
        self._temp = path.with_name(f"{path.name}.{attempt}")
        self._spec = spec
        self._settled = settled
        spool = self._temp.with_name(f"{self._temp.name}.spool")
        self._spool = Spool(spool, memory_bytes // 4, spec.layout.partition_by)

    def write(self, data: pa.RecordBatch) -> None:
        self._spool.add(data)

    def finish(self) -> Output:
        schema = self._settled or self._spool.schema
        if schema is None:
            schema = empty_batch(self._spec.shape).schema
        schema = with_kind(schema, kind_of(schema))
        by = self._spec.layout.partition_by
        inside = file_schema(schema, by)
        self._check(schema, inside)
        parts: list[PartFile] = []
        for folder in self._spool.folders():
            rows = (cast(batch, schema).select(inside.names) for batch in self._spool.batches(folder))
            marked = (batch.replace_schema_metadata(inside.metadata) for batch in rows)
            for _, group in groupby(_numbered(marked, self._spec.layout.part_bytes_max), itemgetter(0)):
                parts.append(self._part(folder, (batch for _, batch in group), inside, len(parts)))
        if not parts:
            parts.append(self._part("", iter(()), inside, 0))
        self._spool.close()
        rows_in_all, size = sum(part.rows for part in parts), sum(part.bytes for part in parts)
        return Output("", schema.serialize().to_pybytes(), rows_in_all, size, parts=tuple(parts))

    def _check(self, schema: pa.Schema, inside: pa.Schema) -> None:
        """Raise OutputError for columns that cannot be written; without any there was no record to tell them."""
        try:
            if len(schema):
                check_partition_by(schema, self._spec.layout.partition_by)
                self._spec.writer.check(inside)
        except PlanError as error:
            raise OutputError(str(error)) from None

    def _part(self, folder: str, rows: Iterator[pa.RecordBatch], schema: pa.Schema, number: int) -> PartFile:
        with open(self._temp, "wb") as file, compressed(file, self._spec.layout.codec) as out:
            count = self._spec.writer.write(rows, schema, out)
        size, digest = self._temp.stat().st_size, digest_file(self._temp)
        if self._spec.store is None:
            start_writing(self._temp)  # while other tasks run: publication waits for it
            path = self._path.with_name(f"{self._path.name}.{number}")
            os.replace(self._temp, path)
            return PartFile(folder, path.name, count, size, digest)
        manifest = store_file(self._spec.store, self._temp, self._spec.extension)
        self._temp.unlink()
        return PartFile(folder, "", count, size, digest, manifest)

    def abort(self) -> None:
        self._spool.close()
        self._temp.unlink(missing_ok=True)


def _numbered(batches: Iterable[pa.RecordBatch], bytes_max: int | None) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches, each with the number of the part that it belongs in, cut where a part ends.

    A part ends behind the first PART_BLOCK_ROWS rows, counted from the first, with which it has `bytes_max`.
    """
    number, part_bytes, missing = 0, 0, PART_BLOCK_ROWS
    for batch in batches:
        start = end = 0
        while bytes_max is not None and end < batch.num_rows:
            rows = min(missing, batch.num_rows - end)
            part_bytes += logical_bytes(batch.slice(end, rows))
            end, missing = end + rows, missing - rows or PART_BLOCK_ROWS
            if missing == PART_BLOCK_ROWS and part_bytes >= bytes_max:
                yield number, batch.slice(start, end - start)
                start, number, part_bytes = end, number + 1, 0
        if start < batch.num_rows:
            yield number, batch.slice(start)


class Spool:
    """Batches in order, in memory up to a budget and then in files, given back folder by folder.

    `by`: the columns whose values name folders; without them all rows are of the folder "".
    """

    def __init__(self, path: Path, memory_bytes: int, by: tuple[str, ...] = ()) -> None:
        self._path = path
        self._memory_bytes = memory_bytes
        self._by = by
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0
        self._rest: dict[str, list[pa.RecordBatch]] = {}  # of a folder: what was held at the end
        self._files: list[Path] = []
        self._places: dict[str, list[tuple[int, int]]] = {}  # of a folder: (file, batch in it)
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
        path = self._path.with_name(f"{self._path.name}{len(self._files)}")
        self._files.append(path)
        with spill_file(path) as sink, pa.ipc.new_file(sink, self.schema) as writer:
            for number, (folder, batch) in enumerate(self._take_held()):
                writer.write_batch(batch)
                self._places.setdefault(folder, []).append((len(self._files) - 1, number))

    def _take_held(self) -> list[tuple[str, pa.RecordBatch]]:
        assert self.schema is not None
        batches = [cast(batch, self.schema) for batch in self._held if batch.num_rows]
        self._held, self._held_bytes = [], 0
        if not self._by or not batches:
            return [("", batch) for batch in batches]
        check_partition_by(self.schema, self._by)
        return split_by_folder(concat(batches, self.schema), self._by)

    def folders(self) -> list[str]:
        """The folders that rows are of, in the order of their names; after it nothing can be added.

        Raises OutputError for more than PARTITIONS_PER_TASK_MAX.
        """
        for folder, batch in self._take_held() if self._held else ():
            self._rest.setdefault(folder, []).append(batch)
        found = sorted({*self._places, *self._rest})
        if len(found) > PARTITIONS_PER_TASK_MAX:
            cure = "partition by a column with fewer values, or sort or repartition by it first"
            names = ", ".join(self._by)
            raise OutputError(f"partition_by {names}: {len(found):,} folders of one task; {cure}")
        return found

    def batches(self, folder: str) -> Iterator[pa.RecordBatch]:
        """The rows of a folder in order, each batch with the schema that fitted all when it came."""
        for file, number in self._places.get(folder, ()):
            with pa.memory_map(str(self._files[file])) as source:
                yield pa.ipc.open_file(source).get_batch(number)
        yield from self._rest.get(folder, ())

    def close(self) -> None:
        """Remove the files."""
        for path in self._files:
            path.unlink(missing_ok=True)
        self._held, self._files, self._places, self._rest = [], [], {}, {}


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
