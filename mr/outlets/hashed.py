"""Rows into the buckets of a hash shuffle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mr.errors import RecordError
from mr.kernels.keys import buckets, normalise_keys
from mr.kernels.partition import bucket_by, sort_into_buckets
from mr.operators.pygroups import key_values
from mr.operators.python import name_of
from mr.options import BUCKETS
from mr.outlets.base import RunOutlet
from mr.program import HashOutlet
from mr.shuffle.writer import RunWriter


class HashRun(RunOutlet):
    """Runs sorted by (bucket, keys, sort columns)."""

    def __init__(self, index: int, path: Path, attempt: str, settled: pa.Schema | None, spec: HashOutlet) -> None:
        super().__init__(index, path, attempt, settled, spec.combiner)
        self._spec = spec
        self._rows = 0

    def ready(self, data: pa.RecordBatch) -> pa.RecordBatch:
        return normalise_keys(data, self._spec.keys)

    def append(self, writer: RunWriter, data: pa.RecordBatch) -> None:
        spec = self._spec
        if spec.partitions is None:
            rows, offsets = sort_into_buckets(data, spec.keys, spec.sort_by, spec.descending)
        else:
            ids = self._partition_ids(data, spec.partitions)
            self._rows += data.num_rows
            rows, offsets = bucket_by(data, ids, spec.partitions, spec.keys, spec.sort_by, spec.descending)
        writer.append_run(rows, offsets)

    def _partition_ids(self, data: pa.RecordBatch, partitions: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        spec = self._spec
        if not spec.keys:  # dealt out in turn, counted from the split's start
            return np.arange(self._rows, self._rows + data.num_rows, dtype=np.int64) % partitions
        if spec.partitioner is None:
            return buckets(data, spec.keys).astype(np.int64) * partitions // BUCKETS
        chosen = [spec.partitioner(key, partitions) for key in key_values(data, spec.keys)]
        wrong = next((i for i, n in enumerate(chosen) if type(n) is not int or not 0 <= n < partitions), None)
        if wrong is not None:
            text = f"partitioner {name_of(spec.partitioner)} gave {chosen[wrong]!r}"
            raise RecordError(f"{text}, not an int from 0 to {partitions - 1}", wrong)
        return np.array(chosen, dtype=np.int64)
