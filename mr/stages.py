"""Plan -> stages -> tasks, purely: fuse narrow operators, share inputs, cut at shuffles, choose joins.

`compile_plan` turns a plan into a graph of stages joined by exchanges. Narrow operators are fused into the stage that
makes their input; a node that is used twice is one port with two users, so its work is done once. `plan_tasks` lists
the tasks of a stage once everything it reads is known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache

import polars as pl
from msgspec.structs import replace

from mr.drafting import StageDraft, finished
from mr.errors import PlanError
from mr.graph import Exchange, Feed, Graph, Sink
from mr.joining import ALIKE, Needs, alike, choose, lying, needs_of, partitioning_of, trimmed
from mr.kernels.rows import Shape
from mr.operators.columns import Select
from mr.operators.joins import BroadcastJoin, MergeJoin, joined_shape
from mr.operators.partitions import Shuffled
from mr.operators.regrouped import Regrouped
from mr.ordering import ONE_ROW_A_KEY, Uses, has_one_row_a_key, sorted_groups, uses_of, without_order
from mr.plan import (
    Apply,
    CoGroup,
    Collect,
    First,
    GroupBy,
    Items,
    Join,
    Materialized,
    Node,
    Read,
    Rejected,
    Repartition,
    Sort,
    Union,
    Write,
)
from mr.program import (
    CoGroupHead,
    GatherHead,
    GatherOutlet,
    GroupHead,
    HashOutlet,
    Head,
    ItemsHead,
    JoinHead,
    Outlet,
    OutletSpec,
    PartOutlet,
    Port,
    RangeOutlet,
    ReadHead,
    ResolveHead,
    RunHead,
    SortHead,
    Step,
)
from mr.sizing import SizeOf, bucket_count, known_size, source_bytes

Ports = tuple[tuple[StageDraft, Port], ...]
StoreOf = Callable[[str], str | None]


def compile_plan(roots: tuple[Node, ...], size_of: SizeOf, store_of: StoreOf) -> Graph:
    """The stage graph of a plan whose roots are `Write` and `Collect` nodes.

    `size_of` gives the bytes of a read if known, `store_of` the store that an output path lies in (None: no store).
    """
    return _Compiler(size_of, store_of).compile(roots)


class _Compiler:
    def __init__(self, size_of: SizeOf, store_of: StoreOf) -> None:
        self._size_of = cache(size_of)  # asked for each join and shuffle; files may be many
        self._store_of = store_of
        self._drafts: list[StageDraft] = []
        self._exchanges: list[Exchange] = []
        self._ports: dict[Node, Ports] = {}
        self._needs: Needs = {}
        self._uses: Uses = {}
        self._site = ""  # of the node that is looked at

    def compile(self, roots: tuple[Node, ...]) -> Graph:
        self._needs, self._uses = needs_of(roots), uses_of(roots)
        sinks: list[Sink] = []
        collects: list[int] = []
        for root in roots:
            self._site = str(root.site)
            if isinstance(root, Write):
                sinks.append(self._sink(root))
            elif isinstance(root, Collect):
                collects.append(self._exchange(self._emit(root.input), GatherOutlet()))
            else:
                raise PlanError(f"{root.site}: a job returns written datasets, not a {root.label}")
        stages = tuple(finished(draft) for draft in self._drafts)
        return Graph(stages, tuple(self._exchanges), tuple(sinks), tuple(collects))

    # --- building blocks ---------------------------------------------------------------------------------------------

    def _stage(self, head: Head, label: str, **given: object) -> StageDraft:
        draft = StageDraft(len(self._drafts), head, labels=[label], site=self._site, **given)  # type: ignore[arg-type]
        self._drafts.append(draft)
        return draft

    def _outlet(self, draft: StageDraft, port: Port, spec: OutletSpec) -> Feed:
        draft.outlets.append(Outlet(port, spec))
        draft.outlet_sites.append(self._site)
        return Feed(draft.id, len(draft.outlets) - 1)

    def _exchange(self, ports: Ports, spec: OutletSpec) -> int:
        feeds = tuple(self._outlet(draft, port, spec) for draft, port in ports)
        self._exchanges.append(Exchange(len(self._exchanges), spec, feeds))
        return len(self._exchanges) - 1

    def _behind(self, ports: Ports, spec: OutletSpec, head: Head, label: str) -> tuple[StageDraft, Port]:
        """A new stage that reads all of `ports` through an exchange."""
        exchange = self._exchange(ports, spec)
        return self._stage(head, label, inputs=(exchange,)), Port()

    def _append(self, ports: Ports, op_for: Callable[[StageDraft], object], label: str) -> Ports:
        """The same operator fused behind each port."""
        out = []
        for draft, port in ports:
            draft.steps.append(Step(port, op_for(draft)))  # type: ignore[arg-type]
            draft.step_sites.append(self._site)
            draft.labels.append(label)
            out.append((draft, Port(len(draft.steps) - 1)))
        return tuple(out)

    def _classed(self, spec: HashOutlet, *read: Node) -> HashOutlet:
        """With as many buckets as suit what `read` is made of; both sides of a join need the same."""
        if spec.partitions is not None:
            return spec
        return replace(spec, buckets=bucket_count(source_bytes(read, self._size_of)))

    def _applied(self, ports: Ports, node: Apply) -> Ports:
        return self._append(ports, lambda _: node.op, node.label)

    def _upstream(self, draft: StageDraft) -> set[int]:
        """The stages that `draft` depends on, itself included."""
        seen: set[int] = set()
        pending = [draft.id]
        while pending:
            current = pending.pop()
            if current not in seen:
                seen.add(current)
                reads = (*self._drafts[current].inputs, *self._drafts[current].sides)
                pending += [feed.stage for e in reads for feed in self._exchanges[e].feeds]
        return seen

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _emit(self, node: Node) -> Ports:
        ports = self._ports.get(node)
        if ports is None:
            outer, self._site = self._site, str(node.site)
            ports = self._ports[node] = self._emit_new(node)
            self._site = outer
        return ports

    def _emit_new(self, node: Node) -> Ports:
        match node:
            case Read():
                return ((self._stage(ReadHead(node.reader, node.on_error), node.label, source=node), Port()),)
            case Items():
                return ((self._stage(ItemsHead(), node.label, source=node), Port()),)
            case Materialized():
                return ((self._stage(RunHead(), node.label, source=node), Port()),)
            case Repartition():
                head: Head = GroupHead(Shuffled(node.by)) if node.by else RunHead()
                spec = HashOutlet(node.by, partitions=node.partitions)
                return (self._shuffled(node.input, spec, head, node.label),)
            case Apply():
                return self._applied(self._emit(node.input), node)
            case Union():
                return tuple(port for part in node.parts for port in self._emit(part))
            case Rejected():
                ports = tuple((draft, Port(port.step, rejects=True)) for draft, port in self._emit(node.of))
                return (self._behind(ports, GatherOutlet(), ResolveHead(), "rejected"),)
            case GroupBy():
                return self._group(node)
            case Join():
                return self._join(node)
            case CoGroup():
                return (self._cogroup(node),)
            case Sort():
                return self._sort(node)
            case First():
                return self._first(node)
        raise PlanError(f"{node.site}: a {node.label} cannot be used as an input")

    def _shuffled(self, read: Node, spec: HashOutlet | RangeOutlet, head: Head, label: str) -> tuple[StageDraft, Port]:
        """A stage behind a shuffle by keys, to which an order of equal keys other than that of input means nothing."""
        below, left_out = without_order(read, spec.keys if isinstance(spec, HashOutlet) else spec.by)
        draft, port = self._behind(self._emit(below), spec, head, label)
        draft.notes += _in_vain(left_out)
        return draft, port

    def _sort(self, node: Sort) -> Ports:
        found = sorted_groups(node, self._uses)
        if found is None:
            ranges, merged = RangeOutlet(node.by, node.descending), SortHead(node.by, node.descending, node.partitions)
            return (self._behind(self._emit(node.input), ranges, merged, node.label),)
        group = found.group
        spec = RangeOutlet(found.by, found.descending, group.op.combiner)
        head = SortHead(found.by, found.descending, node.partitions, group.op)
        ports: Ports = (self._shuffled(group.input, spec, head, group.label),)
        ports[0][0].site = str(group.site)
        ports[0][0].notes.append(f"sorted by {', '.join(found.by)} as it is grouped: one shuffle for both")
        for step in found.between:
            ports = self._applied(ports, step)
        return ports

    def _group(self, node: GroupBy) -> Ports:
        if not node.op.keys:
            gather = GatherOutlet(node.op.combiner, node.input.shape)
            return (self._behind(self._emit(node.input), gather, GatherHead(node.op), node.label),)
        below, left_out = without_order(node.input, node.op.keys)
        alone = has_one_row_a_key(below, node.op.keys, node.partitions) and node.partitioner is None
        if alone and isinstance(node.op, ONE_ROW_A_KEY):
            ports = self._append(self._emit(below), lambda _: Regrouped(node.op), node.label)
            notes = f"{node.label} without a shuffle: each key has one row already", *_in_vain(left_out)
            for draft, _ in ports:
                draft.notes += notes
            return ports
        sort_by, descending = node.op.order
        fixed = HashOutlet(node.op.keys, sort_by, descending, node.op.combiner, node.partitions, node.partitioner)
        spec = self._classed(fixed, node.input)
        return (self._shuffled(node.input, spec, GroupHead(node.op), node.label),)

    def _cogroup(self, node: CoGroup) -> tuple[StageDraft, Port]:
        ons = node.op.left_on, node.op.right_on
        sides = [without_order(side, on) for side, on in zip(node.inputs, ons, strict=True)]
        wanted = zip(ons, node.op.orders, strict=True)
        fixed = [HashOutlet(on, *order, partitions=node.op.partitions) for on, order in wanted]
        specs = [self._classed(spec, *node.inputs) for spec in fixed]
        ids = tuple(self._exchange(self._emit(side), spec) for (side, _), spec in zip(sides, specs, strict=True))
        head, notes = CoGroupHead(replace(node.op, buckets=specs[0].buckets)), [*_in_vain(sides[0][1] + sides[1][1])]
        return self._stage(head, node.label, inputs=ids, notes=notes), Port()

    def _first(self, node: First) -> Ports:
        ports = self._append(self._emit(node.input), lambda _: node.op, node.label)
        if len(ports) == 1 and ports[0][0].single:
            return ports
        if node.early and len(ports) == 1:
            ports[0][0].limit_rows = node.count  # dropped again if the stage turns out to feed more than this
        behind = self._behind(ports, GatherOutlet(), GatherHead(), node.label)
        return self._append((behind,), lambda _: node.op, node.label)

    def _join(self, node: Join) -> Ports:
        layout, columns = trimmed(node, self._needs[id(node)])
        shapes = _narrowed(node.left.known(), columns), _narrowed(node.right.known(), layout.right_columns)
        output = joined_shape(*shapes, layout)
        if node.strategy in ("auto", "partitioned") and not alike(node):
            sides = lying(node.left), lying(node.right)
            head = JoinHead(MergeJoin(layout, *shapes, output), tuple(ops for _, ops in sides))
            lie = tuple(lies for lies, _ in sides)
            note = f"partitioned join: {ALIKE}; reads {lie[0].label}, and {lie[1].label}"
            given = {"parts": lie, "notes": [note]}
            return ((self._stage(head, "join (partitioned)", **given), Port()),)
        asked = node.strategy == "auto" and any(partitioning_of(side) for side in node.inputs)
        unlike = [f"not a partitioned join: {alike(node)}"] if asked else []
        node, left_out = self._without_order(node)
        told = unlike + left_out
        left, right = self._emit(node.left), self._emit(node.right)
        below = set().union(*(self._upstream(draft) for draft, _ in right))
        waits, beside = any(draft.id in below for draft, _ in left), max(draft.side_bytes for draft, _ in left)
        chosen, why = choose(node, self._size_of, waits, beside)
        left, right = self._kept(left, node.left, shapes[0]), self._kept(right, node.right, shapes[1])
        if chosen == "broadcast":
            exchange = self._exchange(right, GatherOutlet())
            size = known_size(node.right, self._size_of) or 0

            def op_for(draft: StageDraft) -> BroadcastJoin:
                draft.sides.append(exchange)
                draft.side_bytes += size
                draft.notes += [f"broadcast join: {why}", *told]
                return BroadcastJoin(layout, shapes[1], output, side=len(draft.sides) - 1)

            return self._append(left, op_for, "join (broadcast)")
        count = node.partitions
        specs = (HashOutlet(on, partitions=count, frequent=count is None) for on in (node.left_on, node.right_on))
        pairs = zip((left, right), specs, strict=True)
        ids = tuple(self._exchange(ports, self._classed(spec, *node.inputs)) for ports, spec in pairs)
        head = JoinHead(MergeJoin(layout, *shapes, output))
        notes = [f"sort-merge join: {why}", *told]
        return ((self._stage(head, "join (sort-merge)", inputs=ids, notes=notes), Port()),)

    def _without_order(self, node: Join) -> tuple[Join, list[str]]:
        """A join whose sides are not sorted in vain: the order of the left is that of a broadcast join's result."""
        right, out = without_order(node.right, node.right_on)
        node = replace(node, right=right)
        if choose(node, self._size_of, waits=False, beside=0)[0] == "sort_merge":
            left, more = without_order(node.left, node.left_on)
            node, out = replace(node, left=left), more + out
        return node, _in_vain(out)

    def _kept(self, ports: Ports, node: Node, shape: Shape) -> Ports:
        """Only the columns of `shape`, if `node` has more: others need not travel."""
        if shape == node.shape:
            return ports
        return self._append(ports, lambda _: Select(tuple(map(pl.col, shape.names)), shape), "select")

    def _sink(self, node: Write) -> Sink:
        spec = PartOutlet(node.writer, self._store_of(node.path), node.input.shape, node.layout)
        ports = self._emit(node.input)
        if node.one_file and not (len(ports) == 1 and ports[0][0].single):
            ports = (self._behind(ports, GatherOutlet(), GatherHead(), "gather"),)
        return Sink(node, tuple(self._outlet(draft, port, spec) for draft, port in ports))


def _in_vain(left_out: tuple[str, ...]) -> list[str]:
    return [f"{', '.join(left_out)} left out: what follows puts rows in its own order"] if left_out else []


def _narrowed(shape: Shape, columns: Collection[str] | None) -> Shape:
    """The shape of rows with only these columns, in their order; None: all."""
    if columns is None or len(columns) == len(shape.names):
        return shape
    kept = [(name, type) for name, type in zip(shape.names, shape.types, strict=True) if name in columns]
    return Shape("rows", *zip(*kept, strict=True))


__all__ = ["Graph", "compile_plan"]
