"""A stage graph as text: drawn from the sources down, with estimates before a run and figures after it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mr.analysis import StageFigures
from mr.assignment import Draft, bucket_ranges, task_identity
from mr.fingerprint import Identity, Unfingerprintable, program_identity
from mr.graph import Graph, Stage
from mr.options import BUCKETS, REDUCE_RANGE_BYTES_MAX
from mr.program import GatherHead, GatherOutlet, HashOutlet, OutletSpec, PartOutlet, RangeOutlet, ResolveHead
from mr.purity import FileDigests, why_stale
from mr.sizing import SizeOf, known_size
from mr.stopwatch import KINDS
from mr.tasks import Split

if TYPE_CHECKING:
    from mr.journal import Journal


def human_bytes(n: float) -> str:
    """A number of bytes for people.

    >>> human_bytes(1_500_000)
    '1.5 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def explain_graph(graph: Graph, size_of: SizeOf | None = None, ran: Mapping[int, StageFigures] | None = None) -> str:
    """The stages as a tree: each hangs from the first stage that it reads; others that it reads are named.

    `size_of` gives the bytes of an input, for estimates; `ran` the figures of a run of this graph, by stage.
    """
    drawing = _Drawing(graph, size_of, ran or {})
    roots = [stage for stage in graph.stages if _parent(graph, stage) is None]
    return "\n".join(line for stage in roots for line in drawing.stage(stage))


class _Drawing:
    def __init__(self, graph: Graph, size_of: SizeOf | None, ran: Mapping[int, StageFigures]) -> None:
        self._graph = graph
        self._ran = ran
        self._bytes = _estimates(graph, size_of) if size_of is not None else {}

    def stage(self, stage: Stage) -> list[str]:
        """The lines of a stage and of those that hang from it."""
        children = [child for child in self._graph.stages if _parent(self._graph, child) == stage.id]
        bar = "│   " if children else "    "
        lines = [f"stage {stage.id}: {stage.label}", *(bar + fact for fact in self._facts(stage))]
        for child in children:
            last = child is children[-1]
            lines.append("│")
            first, *rest = self.stage(child)
            lines.append(("└─▶ " if last else "├─▶ ") + first)
            lines += [("    " if last else "│   ") + line for line in rest]
        return lines

    def _facts(self, stage: Stage) -> list[str]:
        graph = self._graph
        lines = [f"reads {_feeds(graph, e)} {_how(graph.exchanges[e].spec)}" for e in stage.inputs]
        lines += [f"reads {_feeds(graph, e)}, whole, in every task" for e in stage.sides]
        lines += stage.notes
        if stage.limit_rows is not None:
            lines.append(f"stops when the first tasks have {stage.limit_rows:,} rows")
        if len(stage.program.outlets) > 1:
            lines.append(f"shared: one pass feeds {len(stage.program.outlets)} outlets")
        ends = [sink.node.path for sink in graph.sinks if any(feed.stage == stage.id for feed in sink.feeds)]
        lines += [f"writes {path}" for path in ends]
        if stage.id in self._ran:
            return lines + _figures(self._ran[stage.id])
        return lines + self._estimate(stage)

    def _estimate(self, stage: Stage) -> list[str]:
        size = self._bytes.get(stage.id)
        if size is None:
            return []
        if not stage.inputs:
            return [f"about {human_bytes(size)} to read"]
        return [f"{_tasks(self._graph, stage, size)}, at most about {human_bytes(size)} to read"]


def _parent(graph: Graph, stage: Stage) -> int | None:
    """The stage under which this one is drawn; None for one that reads no other but as a side."""
    if stage.source is not None or not stage.inputs:
        return None
    return graph.exchanges[stage.inputs[0]].feeds[0].stage


def _estimates(graph: Graph, size_of: SizeOf) -> dict[int, int]:
    """The bytes that each stage reads at most, were nothing filtered, combined or added on the way."""
    found: dict[int, int] = {}
    pending = list(graph.stages)
    while pending:
        ready = [stage for stage in pending if all(up in found for up in graph.upstream(stage))]
        for stage in ready:
            sources = stage.parts if stage.source is None else (stage.source,)
            feeds = (feed.stage for e in stage.inputs for feed in graph.exchanges[e].feeds)
            found[stage.id] = sum(known_size(s, size_of) or 0 for s in sources) + sum(found[up] for up in feeds)
        pending = [stage for stage in pending if stage not in ready]
    return found


def _tasks(graph: Graph, stage: Stage, size: int) -> str:
    """How many tasks a stage behind an exchange will have, as far as is known before."""
    if isinstance(stage.program.head, GatherHead | ResolveHead):
        return "1 task"
    spec = graph.exchanges[stage.inputs[0]].spec if stage.inputs else None
    if isinstance(spec, HashOutlet) and spec.partitions is not None:
        return f"{spec.partitions} tasks, as asked for"
    if isinstance(spec, HashOutlet):
        count = len(bucket_ranges([size // spec.buckets] * spec.buckets, REDUCE_RANGE_BYTES_MAX))
    else:
        count = -(-size // REDUCE_RANGE_BYTES_MAX)
    return f"1 to {count} tasks by size" if count > 1 else "1 task by size"


def _figures(ran: StageFigures) -> list[str]:
    reused = f" ({ran.reused} reused)" if ran.reused else ""
    spilled = f", {human_bytes(ran.spilled)} spilled" if ran.spilled else ""
    times = ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in zip(KINDS, ran.seconds, strict=True))
    lines = [
        f"{ran.total:,} task{'s' * (ran.total != 1)}{reused}: {ran.records:,} records, {human_bytes(ran.bytes)} in; "
        f"{ran.rows_out:,} records, {human_bytes(ran.bytes_out)} out{spilled}",
        f"time over all tasks: {times}; slowest task {ran.id}.{ran.slowest[0]} {ran.slowest[1]:.2f} s",
    ]
    if ran.total > 1:
        sizes = (ran.read.min, ran.read.median, ran.read.p95, ran.read.max)
        names = ("smallest", "median", "95th percentile", "largest")
        lines.append("tasks read: " + ", ".join(f"{n} {human_bytes(s)}" for n, s in zip(names, sizes, strict=True)))
    return lines + list(ran.notes)


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
            lines += [f"stage {stage.id}: {fact}" for fact in _recorded(program, splits[stage.id], journal)]
        changed = _changed(program, recorded)
        if changed is not None:
            lines.append(f"stage {stage.id}: {changed}")
    return "\n".join(lines)


def _recorded(program: Identity, splits: Sequence[Split], journal: Journal) -> list[str]:
    """How many results are recorded and can be used, and why others cannot."""
    fingerprints = [task_identity(program, Draft(split), ()).digest for split in splits]
    known, files = journal.results(fingerprints), FileDigests()
    why = {name: why_stale(result, files) for name, result in known.items()}
    usable = sum(name in known and not why[name] for name in fingerprints)
    return [f"{usable} of {len(splits)} tasks have results", *dict.fromkeys(filter(None, why.values()))]


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
            text = f"shuffled by {', '.join(spec.keys)}" if spec.keys else "dealt out"
            text += f", {spec.partitions} partitions" if spec.partitions else ""
            text += f", {spec.buckets:,} buckets for the size of the input" if spec.buckets != BUCKETS else ""
            return text + (", combined by blocks" if spec.combiner else "")
        case RangeOutlet():
            return f"in ranges of {', '.join(spec.by)}" + (", combined by blocks" if spec.combiner else "")
        case GatherOutlet():
            return "gathered" + (", combined by blocks" if spec.combiner else "")
        case PartOutlet():
            return "as parts"
