"""A stage graph as text."""

from __future__ import annotations

from mr.program import GatherOutlet, HashOutlet, OutletSpec, PartOutlet, RangeOutlet
from mr.stages import Graph, Stage


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
