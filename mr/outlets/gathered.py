"""Rows as they come, for one reader of all."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from mr.outlets.base import RunOutlet
from mr.outlets.part import empty_batch
from mr.program import GatherOutlet
from mr.shuffle.writer import RunWriter
from mr.tasks import Output


class GatherRun(RunOutlet):
    """Runs of rows as they come."""

    def __init__(
        self, index: int, path: Path, attempt: str, settled: pa.Schema | None, spec: GatherOutlet, memory_bytes: int
    ) -> None:
        super().__init__(index, path, attempt, settled, spec.combiner, memory_bytes)
        self._spec = spec

    def append(self, writer: RunWriter, data: pa.RecordBatch) -> None:
        writer.append_run(data, [0, data.num_rows])

    def finish(self) -> Output:
        if self._combiner is not None and not self._block and self._writer is None and not len(self._pending):
            self._block = [empty_batch(self._spec.shape)]  # the aggregate of no rows is a row
        return super().finish()
