"""Both sides of a join, in pairs that hold all rows of their keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from mr.heads.exchanges import schema_of, sources_of
from mr.heads.reading import Reading, counted
from mr.kernels.frames import concat
from mr.operators.base import TaskEnv
from mr.program import JoinHead
from mr.shuffle.merge import bucket_rows
from mr.tasks import TaskSpec


def pairs(
    head: JoinHead, spec: TaskSpec, env: TaskEnv, reading: Reading
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Both sides of the range, at once if they fit the budget, else bucket by bucket."""
    left, right = spec.exchanges
    low, high = left.buckets
    fits = (left.bytes + right.bytes) * 3 <= env.memory_bytes
    bounds = [(low, high)] if fits else [(bucket, bucket + 1) for bucket in range(low, high)]
    sides = ((left, head.op.left_on), (right, head.op.right_on))
    sources = [sources_of(side, Path(env.home)) for side, _ in sides]
    for start, end in bounds:
        tables = []
        for (side, keys), readers in zip(sides, sources, strict=True):
            down = (False,) * len(keys)
            rows = bucket_rows(readers, start, end, keys, down, env.memory_bytes, Path(env.scratch))
            tables.append(concat(list(counted(rows, reading)), schema_of(side)))
        yield tables[0], tables[1]
