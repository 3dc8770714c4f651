"""What is looked at when all tasks of a stage have results: rejected records, types, and whether rows fit together.

Tasks find out the types of their records one by one; here they are made one. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mr.assignment import hashed_apart, read_schema
from mr.errors import JobFailed
from mr.graph import Stage
from mr.heads.splits import call_of
from mr.kernels.types import unify
from mr.operators.base import ErrorPolicy
from mr.operators.python import PerRecord, described
from mr.program import HashOutlet, PartOutlet, ReadHead
from mr.tasks import TaskResult


def settled_schemas(stage: Stage, results: Sequence[TaskResult]) -> tuple[bytes | None, ...]:
    """For each outlet the schema under which its rows must be written again, None where they fit together as they are.

    Raises TypeConflict where no schema fits all.
    """
    schemas: list[bytes | None] = []
    for i, outlet in enumerate(stage.program.outlets):
        outputs = [result.outputs[i] for result in results if result.outputs[i].rows] or [results[0].outputs[i]]
        different = dict.fromkeys(output.schema for output in outputs)
        spec = outlet.spec
        if (isinstance(spec, PartOutlet) and len(different) > 1) or (
            isinstance(spec, HashOutlet) and hashed_apart(different, spec.keys)
        ):
            schema = read_schema(b"")
            for serialised in different:
                schema = unify(schema, read_schema(serialised), f"the rows of stage {stage.id} ({stage.label})")
            schemas.append(bytes(schema.serialize().to_pybytes()))
        else:
            schemas.append(None)
    return tuple(schemas)


def check_types(stage: Stage, results: Sequence[TaskResult]) -> None:
    """Raise TypeConflict where a function gave types in one task that do not fit those in another."""
    for i, step in enumerate(stage.program.steps):
        if isinstance(step.op, PerRecord):
            schema = pa.schema([])
            for serialised in dict.fromkeys(result.types[i] for result in results):
                found = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(serialised)))
                schema = unify(schema, found, described(step.op.label, step.op.fn))


def check_rejects(stage: Stage, results: Sequence[TaskResult]) -> None:
    """Raise JobFailed when a reader or operator rejected more than its policy allows; shares are of what was read."""
    records = sum(result.records_in for result in results)
    for i, (name, policy) in enumerate(_policies(stage)):
        most, rejected = policy.max_bad, sum(result.rejected[i].records for result in results)
        if most is not None and rejected > (most * records if isinstance(most, float) else most):
            text = f"{name} rejected {rejected:,} of {records:,} records, more than max_bad_records={most}"
            raise JobFailed(text)


def _policies(stage: Stage) -> list[tuple[str, ErrorPolicy]]:
    """The name and the policy of head and steps, as `TaskResult.rejected` has them."""
    head = stage.program.head
    found = []
    op: Any
    for op in (getattr(head, "op", None), *(step.op for step in stage.program.steps)):
        policy = getattr(op, "on_error", None)
        found.append(("", ErrorPolicy()) if policy is None else (described(op.label, op.fn), policy))
    return [(call_of(head.reader), head.on_error), *found[1:]] if isinstance(head, ReadHead) else found


__all__ = ["check_rejects", "check_types", "settled_schemas"]
