"""Where the records of a task come from: a split, ranges of shuffles, or all rows of an exchange."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from mr.batch import Batch, CodedBatch
from mr.heads.cogroup import sides
from mr.heads.exchanges import bucketed, gathered, mapped, ranged
from mr.heads.joined import is_part, pairs
from mr.heads.materialized import in_order, materialized
from mr.heads.reading import Reading, counted
from mr.heads.rejected import resolved
from mr.heads.splits import place_of, read_split
from mr.kernels.keys import Ints
from mr.operators.base import Grouped, TaskEnv
from mr.program import (
    CoGroupHead,
    GatherHead,
    GroupHead,
    Head,
    ItemsHead,
    JoinHead,
    ReadHead,
    ResolveHead,
    RunHead,
    SortHead,
)
from mr.shuffle.merge import Merge
from mr.tasks import TaskSpec


def records_of(head: Head, spec: TaskSpec, env: TaskEnv, reading: Reading) -> Iterator[Batch]:
    """The records that a task starts from. Raises FetchFailed, InputError, RecordError."""
    match head:
        case ReadHead():
            assert spec.split is not None
            yield from read_split(head, spec.split, env, reading)
        case ItemsHead():
            assert spec.split is not None
            assert spec.split.items is not None
            with pa.ipc.open_stream(spec.split.items) as reader:
                for batch in reader:
                    reading.records += batch.num_rows
                    yield Batch(batch)
        case RunHead():
            split, home = spec.split, Path(env.home)
            rows = in_order(spec.exchanges[0], home) if split is None else materialized(split, home)
            yield from map(Batch, counted(rows, reading))
        case GroupHead(op):
            merge = _merging(op, reading) if op.merges else None
            rows = bucketed(spec.exchanges[0], (*op.keys, *op.order[0]), _directions(op), env, merge)
            yield from map(Batch, op.reduce(counted(rows, reading), env))
        case JoinHead(op):
            yield from map(CodedBatch, op.join(pairs(head, spec, env, reading), is_part(spec)))
        case CoGroupHead(op):
            yield from map(Batch, op.reduce(*sides(op, spec, env, reading), env))
        case SortHead():
            rows = counted(ranged(head, spec.exchanges[0], env), reading)
            yield from map(Batch, rows if head.op is None else head.op.reduce(rows, env))
        case GatherHead(op):
            rows = counted(gathered(spec.exchanges[0], Path(env.home)), reading)
            yield from map(Batch, rows if op is None else op.reduce(rows, env))
        case ResolveHead():
            yield from map(Batch, counted(resolved(spec.exchanges[0], Path(env.home)), reading))


def _merging(op: Grouped, reading: Reading) -> Merge:
    """The operator's merge; rows that it makes fewer were read all the same."""

    def merge(rows: pa.RecordBatch) -> tuple[pa.RecordBatch, Ints]:
        merged, firsts = op.merge(rows)
        reading.records += rows.num_rows - merged.num_rows
        reading.bytes += rows.nbytes - merged.nbytes
        return merged, firsts

    return merge


def _directions(op: object) -> tuple[bool, ...]:
    keys, (by, descending) = op.keys, op.order  # type: ignore[attr-defined]
    return (False,) * len(keys) + (tuple(descending) or (False,) * len(by))


__all__ = ["Reading", "gathered", "mapped", "place_of", "records_of"]
