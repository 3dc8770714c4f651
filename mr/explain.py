"""A stage graph as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mr.assignment import Draft, task_identity
from mr.fingerprint import Identity, Unfingerprintable, program_identity
from mr.journal import Journal
from mr.program import GatherOutlet, HashOutlet, OutletSpec, PartOutlet, RangeOutlet
from mr.stages import Graph, Stage
from mr.tasks import Split


def explain_graph(graph: Graph) -> str:
    """One paragraph a stage: what is fused in it, what it reads, and where its records go."""
    return "\n".join(line for stage in graph.stages for line in _stage(graph, stage))


def _stage(graph: Graph, stage: Stage) -> list[str]:
    lines = [f"stage {stage.id}: {stage.label}"]
    lines += [f"  reads {_feeds(graph, e)} {_how(graph.exchanges[e].spec)}" for e in stage.inputs]
    lines += [f"  reads {_feeds(graph, e)}, whole, in every task" for e in stage.sides]
    lines += [f"  {stage.note}"] if stage.note else []
    lines += [f"  stops when the first tasks have {stage.limit_rows:,} rows"] if stage.limit_rows is not None else []
    for sink in graph.sinks:
        if any(feed.stage == stage.id for feed in sink.feeds):
            lines.append(f"  writes {sink.node.path}")
    if len(stage.program.outlets) > 1:
        lines.append(f"  shared: one pass feeds {len(stage.program.outlets)} outlets")
    return lines


def explain_reuse(graph: Graph, splits: Mapping[int, Sequence[Split]], journal: Journal) -> str:
    """For each stage how many recorded results fit its inputs, or what has changed since one was recorded."""
    lines = []
    for stage in graph.stages:
        try:
            program = program_identity(stage.program)
        except Unfingerprintable as error:
            lines.append(f"stage {stage.id}: always runs: {error}")
            continue
        recorded = journal.parts_like(stage.label)
        if stage.sides:
            lines.append(f"stage {stage.id}: known when its broadcast side is")
        elif stage.id in splits:
            found = _recorded(program, splits[stage.id], journal)
            lines.append(f"stage {stage.id}: {found} of {len(splits[stage.id])} tasks have results")
        changed = _changed(program, recorded)
        if changed is not None:
            lines.append(f"stage {stage.id}: {changed}")
    return "\n".join(lines)


def _recorded(program: Identity, splits: Sequence[Split], journal: Journal) -> int:
    fingerprints = [task_identity(program, Draft(split), ()).digest for split in splits]
    return len(journal.results(fingerprints))


def _changed(program: Identity, recorded: Sequence[dict[str, str]]) -> str | None:
    """What differs from the most alike result that is recorded; None if nothing does."""
    if not recorded:
        return "nothing is recorded of a stage with these operators"
    differences = [[n for n, digest in program.parts if parts.get(n) != digest] for parts in recorded]
    least = min(differences, key=len)
    return f"changed since the last run: {', '.join(least)}" if least else None


def _feeds(graph: Graph, exchange: int) -> str:
    stages = ", ".join(f"stage {feed.stage}" for feed in graph.exchanges[exchange].feeds)
    return stages if "," not in stages else f"({stages})"


def _how(spec: OutletSpec) -> str:
    match spec:
        case HashOutlet():
            text = f"shuffled by {', '.join(spec.keys)}"
            text += f", {spec.partitions} partitions" if spec.partitions else ""
            return text + (", combined by blocks" if spec.combiner else "")
        case RangeOutlet():
            return f"in ranges of {', '.join(spec.by)}"
        case GatherOutlet():
            return "gathered" + (", combined by blocks" if spec.combiner else "")
        case PartOutlet():
            return "as parts"
