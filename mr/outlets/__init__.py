"""Where records leave a task: into the buckets of a shuffle, sorted runs, a plain sequence, or a part of an output.

An outlet gathers batches until a fixed number of bytes, counted from the split's start, and then writes a run: what
is written depends on the records alone, never on the memory budget.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from mr.outlets.base import OutletRun, SchemaGrew
from mr.outlets.gathered import GatherRun
from mr.outlets.hashed import HashRun
from mr.outlets.keyed import GroupedRangeRun
from mr.outlets.part import PartRun, digest_file
from mr.outlets.ranged import RangeRun
from mr.program import GatherOutlet, HashOutlet, OutletSpec, PartOutlet, RangeOutlet


def open_outlet(
    index: int,
    spec: OutletSpec,
    path: Path,
    attempt: str,
    settled: pa.Schema | None,
    memory_bytes: int,
    identity: str,
) -> OutletRun:
    """The outlet `index` of a program at work, writing to `path`; `memory_bytes` is its share of the attempt's.

    `identity` names what the task reads.
    """
    match spec:
        case HashOutlet():
            return HashRun(index, path, attempt, settled, spec, memory_bytes // 4, identity)
        case RangeOutlet():
            run = RangeRun if spec.combiner is None else GroupedRangeRun
            return run(index, path, attempt, settled, spec, memory_bytes // 4)
        case GatherOutlet():
            return GatherRun(index, path, attempt, settled, spec, memory_bytes // 4)
        case PartOutlet():
            return PartRun(path, attempt, settled, spec, memory_bytes)


__all__ = ["OutletRun", "SchemaGrew", "digest_file", "open_outlet"]
