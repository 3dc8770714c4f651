"""Rows into the buckets of a hash shuffle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from msgspec.structs import replace

from mr.errors import RecordError
from mr.kernels.frames import to_ipc
from mr.kernels.keys import buckets
from mr.kernels.partition import bucket_by, sort_into_buckets
from mr.kernels.skew import frequent_keys, merged_keys
from mr.operators.group_rows import key_values
from mr.operators.pygroups import failed
from mr.operators.python import Function, consumed, described, shorten
from mr.options import BUCKETS
from mr.outlets.keyed import KeyedRun
from mr.program import HashOutlet
from mr.shuffle.writer import RunWriter
from mr.tasks import Output


class HashRun(KeyedRun):
    """Runs sorted by (bucket, keys, sort columns)."""

    def __init__(
        self,
        index: int,
        path: Path,
        attempt: str,
        settled: pa.Schema | None,
        spec: HashOutlet,
        memory_bytes: int,
        identity: str,
    ) -> None:
        super().__init__(index, path, attempt, settled, spec.keys, spec.combiner, memory_bytes)
        self._spec = spec
        self._turn = xxhash.xxh3_64_intdigest(identity.encode()) % (spec.partitions or 1)
        self._frequent: list[pa.RecordBatch] = []

    def finish(self) -> Output:
        output = super().finish()
        found = [keys for keys in self._frequent if keys.num_rows]
        return replace(output, sample=to_ipc(merged_keys(found, self._spec.keys))) if found else output

    def append(self, writer: RunWriter, data: pa.RecordBatch) -> None:
        spec = self._spec
        if spec.partitions is None:
            rows, offsets = sort_into_buckets(data, spec.keys, spec.sort_by, spec.descending, spec.buckets)
        else:
            ids = self._partition_ids(data, spec.partitions)
            rows, offsets = bucket_by(data, ids, spec.partitions, spec.keys, spec.sort_by, spec.descending)
        writer.append_run(rows, offsets)
        if spec.frequent:
            self._frequent.append(frequent_keys(rows, spec.keys))

    def _partition_ids(self, data: pa.RecordBatch, partitions: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        spec = self._spec
        if not spec.keys:  # dealt out in turn; tasks begin at different partitions, for many may have few rows each
            first, self._turn = self._turn, self._turn + data.num_rows
            return np.arange(first, self._turn, dtype=np.int64) % partitions
        if spec.partitioner is None:
            return buckets(data, spec.keys).astype(np.int64) * partitions // BUCKETS
        return _chosen(spec.partitioner, key_values(data, spec.keys), partitions)


def _chosen(partitioner: Function, keys: list[Any], partitions: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The partitions that a user's function chooses for keys. Raises RecordError naming it and the key."""
    call, source = described("partitioner", partitioner), iter(keys)
    try:
        chosen = [partitioner(key, partitions) for key in source]
    except MemoryError:
        raise
    except Exception as error:
        raise failed(call, keys[consumed(source, len(keys)) - 1], error) from error
    for key, choice in zip(keys, chosen, strict=True):
        if not (type(choice) is int or isinstance(choice, np.integer)) or not 0 <= choice < partitions:
            text = f"{call} gave {choice!r} for key {shorten(key)}"
            raise RecordError(f"{text}: give an int from 0 to {partitions - 1}, num_partitions being {partitions}")
    return np.array(chosen, dtype=np.int64)
