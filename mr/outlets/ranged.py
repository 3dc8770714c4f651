"""Sorted runs for a global sort."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from mr.kernels.gather import taken
from mr.kernels.sort import order
from mr.outlets.base import RunOutlet
from mr.program import RangeOutlet
from mr.shuffle.writer import RunWriter


class RangeRun(RunOutlet):
    """Runs sorted as a whole, with an index of first keys."""

    def __init__(
        self, index: int, path: Path, attempt: str, settled: pa.Schema | None, spec: RangeOutlet, memory_bytes: int
    ) -> None:
        super().__init__(index, path, attempt, settled, None, memory_bytes)
        self._spec = spec

    def append(self, writer: RunWriter, data: pa.RecordBatch) -> None:
        writer.append_sorted_run(taken(data, order(data, self._spec.by, self._spec.descending)), self._spec.by)
