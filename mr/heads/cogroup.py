"""Both sides of a cogroup, each a stream of rows in (bucket, key, task, row) order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from mr.errors import TypeConflict
from mr.heads.exchanges import schema_of, sources_of
from mr.heads.reading import Reading, counted
from mr.kernels.types import display
from mr.operators.base import TaskEnv
from mr.operators.cogroups import CoGroups
from mr.shuffle.merge import bucket_rows
from mr.tasks import TaskSpec


def sides(
    op: CoGroups, spec: TaskSpec, env: TaskEnv, reading: Reading
) -> tuple[Iterator[pa.RecordBatch], Iterator[pa.RecordBatch]]:
    """The rows of both sides; each gets half of the memory. Raises TypeConflict where the types of keys differ."""
    schemas = [schema_of(given) for given in spec.exchanges]
    for a, b in zip(op.left_on, op.right_on, strict=True) if all(map(len, schemas)) else ():
        left, right = schemas[0].field(a).type, schemas[1].field(b).type
        if left != right and not pa.types.is_null(left) and not pa.types.is_null(right):
            text = f"{a!r} is {display(left)} on the left but {b!r} is {display(right)} on the right"
            raise TypeConflict(f"cogroup(): {text}; cast one of them with with_columns()")
    streams = []
    wanted = zip(spec.exchanges, (op.left_on, op.right_on), op.orders, strict=True)
    for number, (given, keys, (by, down)) in enumerate(wanted):
        scratch = Path(env.scratch) / f"side-{number}"  # both merge at the same time
        columns, directions = (*keys, *by), (*(False,) * len(keys), *down)
        sources = sources_of(given, Path(env.home))
        rows = bucket_rows(sources, *given.buckets, columns, directions, env.memory_bytes // 2, scratch)
        streams.append(counted(rows, reading))
    return streams[0], streams[1]
