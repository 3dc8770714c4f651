"""What is looked at when all tasks of a stage have results: rejected records, types, and whether rows fit together.

Tasks find out the types of their records one by one; here they are made one. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from msgspec import Struct

from mr.assignment import hashed_apart, read_schema
from mr.errors import JobFailed, TypeConflict, at_line
from mr.graph import Feed, Graph, Stage
from mr.heads.splits import call_of
from mr.kernels.rows import Shape
from mr.kernels.types import unify
from mr.operators.base import ErrorPolicy
from mr.operators.python import PerRecord, described
from mr.program import HashOutlet, OutletSpec, PartOutlet, ReadHead
from mr.tasks import Output, TaskResult


def sharing(graph: Graph) -> dict[Feed, tuple[Feed, ...]]:
    """For each outlet that is not the only one to feed an end: all that do, in order.

    An end is an output of which the plan does not know all types, or a hash shuffle: its rows must have one type.
    """
    ends = [sink.feeds for sink in graph.sinks if not _typed(sink.node.input.shape)]
    ends += [exchange.feeds for exchange in graph.exchanges if isinstance(exchange.spec, HashOutlet)]
    return {feed: feeds for feeds in ends for feed in feeds if len(feeds) > 1}


def _typed(shape: Shape | None) -> bool:
    return shape is not None and None not in shape.types


def waiting(graph: Graph) -> dict[int, frozenset[int]]:
    """For each stage the others that must be complete before it is settled: those that it shares an end with.

    Those that read what it leaves, near or far, cannot be waited for.
    """
    above: dict[int, set[int]] = {stage.id: set() for stage in graph.stages}
    for _ in graph.stages:  # as often as the longest chain may be
        for stage in graph.stages:
            for up in graph.upstream(stage):
                above[stage.id] |= {up, *above[up]}
    found: dict[int, set[int]] = {stage.id: set() for stage in graph.stages}
    for feed, feeds in sharing(graph).items():
        found[feed.stage] |= {other.stage for other in feeds if feed.stage not in (other.stage, *above[other.stage])}
    return {stage: frozenset(others) for stage, others in found.items()}


class Left(Struct, frozen=True):
    """What a stage left at an outlet. `all`: also what others did that feed the same end, as far as they are complete;
    `final`: that of those which are settled, so that it cannot be written again. `asked`: the schema that it was told
    to write.
    """

    mine: Sequence[Output]
    all: Sequence[Output]
    final: Sequence[Output] = ()
    asked: bytes | None = None


def settled_schemas(stage: Stage, left: Sequence[Left]) -> tuple[bytes | None, ...]:
    """For each outlet the schema under which its rows must be written again, None where they fit together as they are.

    Raises TypeConflict where no schema fits all, or only one that settled rows do not have; it names the line that
    asked for the outlet.
    """
    schemas: list[bytes | None] = []
    sites = stage.program.sites.outlets or ("",) * len(left)
    for outlet, one, site in zip(stage.program.outlets, left, sites, strict=True):
        with at_line(site):
            schemas.append(_settled(outlet.spec, one, f"the rows of stage {stage.id} ({stage.label})"))
    return tuple(schemas)


def _settled(spec: OutletSpec, one: Left, where: str) -> bytes | None:
    different = dict.fromkeys(output.schema for output in one.all if output.rows)
    apart = hashed_apart(different, spec.keys) if isinstance(spec, HashOutlet) else len(different) > 1
    if not apart or not isinstance(spec, PartOutlet | HashOutlet):
        return None
    schema = pa.schema([])
    for serialised in different:
        schema = unify(schema, read_schema(serialised), where)
    if not all(read_schema(output.schema).equals(schema) for output in one.final if output.rows):
        raise TypeConflict(f"{where} have wider types than others of the same union; declare them with names=")
    wanted = bytes(schema.serialize().to_pybytes())
    fits = one.asked == wanted or all(output.schema == wanted for output in one.mine if output.rows)
    return None if fits else wanted


def check_types(stage: Stage, results: Sequence[TaskResult]) -> None:
    """Raise TypeConflict where a function gave types in one task that do not fit those in another."""
    sites = stage.program.sites.steps or ("",) * len(stage.program.steps)
    for i, (step, site) in enumerate(zip(stage.program.steps, sites, strict=True)):
        if isinstance(step.op, PerRecord):
            schema = pa.schema([])
            for serialised in dict.fromkeys(result.types[i] for result in results):
                found = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(serialised)))
                with at_line(site):
                    schema = unify(schema, found, described(step.op.label, step.op.fn))


def check_rejects(stage: Stage, results: Sequence[TaskResult]) -> None:
    """Raise JobFailed when a reader or operator rejected more than allowed; shares are of what it was given."""
    sites = (stage.program.sites.head, *stage.program.sites.steps)
    for i, (name, policy) in enumerate(policies(stage)):
        records = sum(result.rejected[i].given for result in results)
        most, rejected = policy.max_bad, sum(result.rejected[i].records for result in results)
        if most is not None and rejected > (most * records if isinstance(most, float) else most):
            text = f"{name} rejected {rejected:,} of {records:,} records, more than max_bad_records={most}"
            raise JobFailed(f"{sites[i]}: {text}" if any(sites) else text)


def policies(stage: Stage) -> list[tuple[str, ErrorPolicy]]:
    """The name and the policy of head and steps, as `TaskResult.rejected` has them."""
    head = stage.program.head
    found = []
    op: Any
    for op in (getattr(head, "op", None), *(step.op for step in stage.program.steps)):
        policy = getattr(op, "on_error", None)
        found.append(("", ErrorPolicy()) if policy is None else (described(op.label, op.fn), policy))
    return [(call_of(head.reader), head.on_error), *found[1:]] if isinstance(head, ReadHead) else found


__all__ = ["Left", "check_rejects", "check_types", "policies", "settled_schemas", "sharing", "waiting"]
