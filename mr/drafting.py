"""A stage under construction, and the finished one: its operators know who looks at what they give."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, field
from msgspec.structs import replace

from mr.formats.bounds import Bound, bounds_of
from mr.graph import Stage
from mr.operators.columns import FilterExpr, Select, WithColumns
from mr.operators.joins import BroadcastJoin
from mr.plan import Items, Materialized, Read
from mr.program import GatherHead, Head, Outlet, Port, Program, ReadHead, ResolveHead, Sites, Step


class StageDraft(Struct):
    """What `Stage` has, as far as it is known; `side_bytes`: those of its broadcast sides."""

    id: int
    head: Head
    source: Read | Items | Materialized | None = None
    inputs: tuple[int, ...] = ()
    sides: list[int] = field(default_factory=list)
    side_bytes: int = 0  # of the sides, as far as they are known
    steps: list[Step] = field(default_factory=list)
    outlets: list[Outlet] = field(default_factory=list)
    limit_rows: int | None = None
    labels: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parts: tuple[Materialized, ...] = ()
    site: str = ""
    step_sites: list[str] = field(default_factory=list)
    outlet_sites: list[str] = field(default_factory=list)

    @property
    def single(self) -> bool:
        """Whether the stage always is one task."""
        return isinstance(self.head, GatherHead | ResolveHead)


def finished(draft: StageDraft) -> Stage:
    """The stage, with only the columns read and only the places of records kept that somebody looks at."""
    head = draft.head
    steps = tuple(_sharing(step, len(draft.sides)) for step in _tracked(draft))
    if isinstance(head, ReadHead):
        rejects = any(outlet.source.rejects for outlet in draft.outlets)
        track = rejects or any(step.op.calls_python for step in steps)
        head = replace(head, columns=_needed_columns(draft, Port()), track=track, counts_lines=rejects)
        head, skips = _skipping(head, draft)
        draft.notes += skips
    limit = draft.limit_rows if len(draft.outlets) == 1 else None
    sites = Sites(draft.site, tuple(draft.step_sites), tuple(draft.outlet_sites))
    program = Program(head, steps, tuple(draft.outlets), sites)
    label = " > ".join(draft.labels)
    notes = tuple(dict.fromkeys(draft.notes))
    return Stage(draft.id, label, program, draft.source, draft.inputs, tuple(draft.sides), limit, notes, draft.parts)


def _sharing(step: Step, sides: int) -> Step:
    """A step that knows how many broadcast sides the tasks of its stage hold."""
    return replace(step, op=replace(step.op, sides=sides)) if isinstance(step.op, BroadcastJoin) else step


def _users(draft: StageDraft, port: Port) -> Iterator[int]:
    return (i for i, step in enumerate(draft.steps) if step.source == port)


def _tracked(draft: StageDraft) -> tuple[Step, ...]:
    """Steps that know whether an operator behind them calls Python and so wants to name records in errors."""

    def wanted(index: int) -> bool:
        return any(draft.steps[i].op.calls_python or wanted(i) for i in _users(draft, Port(index)))

    return tuple(replace(step, track=wanted(i)) for i, step in enumerate(draft.steps))


def _skipping(head: ReadHead, draft: StageDraft) -> tuple[ReadHead, list[str]]:
    """The head with what filters right behind it ask for, if its reader can make use of that, and a note of it."""
    port = Port()
    bounds: list[Bound] = []
    while all(outlet.source != port for outlet in draft.outlets):
        ops = [(i, draft.steps[i].op) for i in _users(draft, port)]
        if len(ops) != 1 or not isinstance(ops[0][1], FilterExpr):
            break
        bounds += bounds_of(ops[0][1].expr)
        port = Port(ops[0][0])
    reader = head.reader.skipping(tuple(bounds)) if bounds else head.reader
    if reader is head.reader:
        return head, []
    names = ", ".join(dict.fromkeys(bound.column for bound in bounds))
    return replace(head, reader=reader), [f"leaves out row groups by the least and greatest {names}"]


def _needed_columns(draft: StageDraft, port: Port) -> tuple[str, ...] | None:
    """The columns of `port` that anything behind it looks at (None: all), for push-down into readers."""
    if any(outlet.source == port for outlet in draft.outlets):
        return None
    needed: set[str] = set()
    for index in _users(draft, port):
        below = _needed_columns(draft, Port(index))
        match draft.steps[index].op:
            case Select(exprs):
                needed |= {name for e in exprs for name in e.meta.root_names()}
            case WithColumns(exprs) if below is not None:
                made = {e.meta.output_name() for e in exprs}
                needed |= (set(below) - made) | {name for e in exprs for name in e.meta.root_names()}
            case FilterExpr(expr) if below is not None:
                needed |= set(below) | set(expr.meta.root_names())
            case _:
                return None
    return tuple(sorted(needed)) or None  # a batch without columns would not know its number of rows
