"""What outlets have in common: gathering, combining by blocks, writing run after run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import pyarrow as pa

from mr.batch import Batch, decoded, kind_of, with_kind
from mr.kernels.frames import concat, to_ipc
from mr.kernels.sizes import logical_bytes, rows_filling
from mr.kernels.types import cast, unify
from mr.operators.base import Combiner
from mr.options import COMBINE_BLOCK_ROWS, RECOMBINE_SHARE_MAX, RUN_BYTES_MAX, RUN_ROWS_MAX
from mr.shuffle.run_file import RunIndex
from mr.shuffle.writer import RunWriter
from mr.spills import spill_file
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

    def take(self, batch: Batch) -> None:
        """Take the next records as they came from an operator, for outlets that need not look at all of them."""
        self.write(batch.data)

    @abstractmethod
    def finish(self) -> Output:
        """Write what is left and describe what was written."""

    @abstractmethod
    def abort(self) -> None:
        """Remove what was written."""


class Pending:
    """Batches waiting to be written, joined under the schema that fits them all."""

    def __init__(self, settled: pa.Schema | None, where: str) -> None:
        self.schema = settled
        self.bytes = 0
        self.rows = 0
        self._where = where
        self._spilled: list[pa.RecordBatch] = []  # in mapped files, each under the schema as it was then
        self._batches: list[pa.RecordBatch] = []
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._spilled) + len(self._batches)

    def add(self, data: pa.RecordBatch) -> None:
        """Take a batch; the schema grows to fit it."""
        if not data.num_columns:
            return
        if self.schema is None:
            self.schema = data.schema
        elif not self.schema.equals(data.schema, check_metadata=True):
            self.schema = unify(self.schema, data.schema, self._where)
        self._batches.append(data)
        self._held_bytes += data.nbytes
        self.bytes += logical_bytes(data)
        self.rows += data.num_rows

    def room(self, data: pa.RecordBatch) -> int:
        """How many of these rows fill the run that is gathered; all if they do not."""
        return rows_filling(data.slice(0, RUN_ROWS_MAX - self.rows), RUN_BYTES_MAX - self.bytes)

    def spill(self, path: Path, held_bytes_max: int) -> None:
        """If more than so many bytes are held in memory, put them into a file at `path`, mapped and without a name.

        What is in such a file already stays in it.
        """
        if self._held_bytes <= held_bytes_max:
            return
        assert self.schema is not None
        try:
            with spill_file(path) as sink, pa.ipc.new_stream(sink, self.schema) as writer:
                for batch in self._batches:
                    writer.write_batch(cast(batch, self.schema))
            with pa.memory_map(str(path)) as file:
                self._spilled += pa.ipc.open_stream(file.read_buffer())
        finally:
            path.unlink(missing_ok=True)
        self._batches, self._held_bytes = [], 0

    def take(self) -> pa.RecordBatch:
        """All batches as one under the schema so far; nothing is held afterwards."""
        schema = self.schema if self.schema is not None else pa.schema([])
        batches, self._spilled, self._batches = [*self._spilled, *self._batches], [], []
        self.bytes = self.rows = self._held_bytes = 0
        return concat([cast(batch, schema) for batch in batches], schema)


class RunOutlet(OutletRun):
    """Base of the outlets that write a run file: gathers, combines by blocks, and writes run after run.

    Of what is gathered at most `memory_bytes` stay in memory, the rest waits in a file: when a run is written
    depends on the rows alone.
    """

    def __init__(
        self,
        index: int,
        path: Path,
        attempt: str,
        settled: pa.Schema | None,
        combiner: Combiner | None,
        memory_bytes: int,
    ) -> None:
        self._index = index
        self._path = path
        self._attempt = attempt
        self._combiner = combiner
        self._block: list[pa.RecordBatch] = []
        self._block_rows = 0
        self._exact = False
        self._fed = 0  # rows that were combined since the last run
        self._pending = Pending(settled, "the rows of a shuffle")
        self._memory_bytes = memory_bytes
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
        block = Pending(None, "the rows of a block")
        alike = all(part.schema.equals(self._block[0].schema) for part in self._block)
        for part in self._block:  # a filter may have decoded some of them
            block.add(part if alike else decoded(part))
        self._fed += self._block_rows
        self._block, self._block_rows = [], 0
        rows = self.ready(block.take())
        self._exact = self._combiner.exact(rows.schema)
        self._add(self._combiner.combine(rows))

    def ready(self, data: pa.RecordBatch) -> pa.RecordBatch:
        """Rows in the form in which they are compared; called once for every row, many at a time."""
        return data

    def _add(self, data: pa.RecordBatch) -> None:
        """Take rows for runs, each ending with the row that fills it: batches of a shuffle end where memory does.

        What was combined comes in blocks that do not, and a run ends with one.
        """
        while self._combiner is None and (rows := self._pending.room(data)) < data.num_rows:
            self._gather(data.slice(0, rows))
            data = data.slice(rows)
        self._gather(data)

    def _gather(self, data: pa.RecordBatch) -> None:
        self._pending.add(data)
        if self._pending.bytes >= RUN_BYTES_MAX or self._pending.rows >= RUN_ROWS_MAX:
            self._flush()
        else:
            waiting = self._path.with_name(f".{self._path.name}.{self._attempt}.pending")
            self._pending.spill(waiting, self._memory_bytes)

    def _flush(self) -> None:
        blocks = len(self._pending)
        data = self._pending.take()
        if not data.num_rows:
            return
        if self._combiner is None:
            data = self.ready(data)
        elif self._exact and blocks > 1 and data.num_rows <= RECOMBINE_SHARE_MAX * self._fed:
            data = self._combiner.recombine(data)
        self._fed = 0
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
