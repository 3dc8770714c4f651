"""The logical plan: immutable nodes, each with the shape of its records and the user's line that made it.

Nodes are compared by identity: using one dataset twice is what makes work shared. Nothing here reads a file or runs a
function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Final, Literal, get_args

import pyarrow as pa
from msgspec import Struct, field

from mr.errors import PlanError
from mr.formats.base import Layout, Reader, Writer
from mr.formats.compression import EXTENSIONS
from mr.kernels.joined import How
from mr.kernels.rows import Shape
from mr.operators.base import ErrorPolicy, Grouped, Narrow
from mr.operators.cogroups import CoGroups
from mr.tasks import ExchangeInput

Mode = Literal["error", "overwrite", "append"]
Strategy = Literal["auto", "broadcast", "sort_merge", "partitioned"]
STRATEGIES: Final = get_args(Strategy)

PACKAGE = __name__.partition(".")[0]


class Site(Struct, frozen=True):
    """The user's line that made a node."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{PurePath(self.file).name}:{self.line}"


def call_site() -> Site:
    """The innermost frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if name != PACKAGE and not name.startswith(PACKAGE + "."):
            break
        frame = frame.f_back
    return Site(frame.f_code.co_filename, frame.f_lineno)


class _Sited(Struct, frozen=True, eq=False, kw_only=True):
    site: Site = field(default_factory=call_site)


class Node(_Sited, frozen=True, eq=False):
    """Base of all nodes. `shape` is None where only running the plan tells what records it gives."""

    shape: Shape | None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return ()

    @property
    def label(self) -> str:
        return type(self).__name__.lower()

    def known(self) -> Shape:
        """The shape. Raises PlanError naming the line whose function hides it."""
        if self.shape is not None:
            return self.shape
        hides: Node = self
        while hides.inputs and hides.inputs[0].shape is None:
            hides = hides.inputs[0]
        raise PlanError(f"the columns of {hides.label} are not known before it runs; add names= at {hides.site}")


class Read(Node, frozen=True, eq=False):
    """Records from files: `paths` are local paths, folders, globs or URLs, in the order given."""

    paths: tuple[str, ...]
    reader: Reader
    on_error: ErrorPolicy = ErrorPolicy()

    @property
    def label(self) -> str:
        return f"read {', '.join(self.paths)}"


class Items(Node, frozen=True, eq=False):
    """Records that the program itself holds, as one batch. `split_rows` go into a split (None: as many as suits).

    `made_bytes`: what is made of them first, where that is more than they are.
    """

    data: pa.RecordBatch
    split_rows: int | None = None
    made_bytes: int = 0


class Apply(Node, frozen=True, eq=False):
    """A narrow operator applied to one input."""

    input: Node
    op: Narrow

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        return self.op.label


class Rejected(Node, frozen=True, eq=False):
    """What `of` (a reader or a Python operator with on_error="quarantine") left out."""

    of: Node

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.of,)


class Union(Node, frozen=True, eq=False):
    """All records of the inputs, one input after the other."""

    parts: tuple[Node, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return self.parts


class GroupBy(Node, frozen=True, eq=False):
    """A keyed operator behind a shuffle. `partitions` fixes the number of reduce tasks; a partitioner needs it."""

    input: Node
    op: Grouped
    partitions: int | None = None
    partitioner: Callable[[object, int], int] | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        return f"{self.op.label}({', '.join(self.op.keys)})"


class Join(Node, frozen=True, eq=False):
    """Left and right matched on equal keys."""

    left: Node
    right: Node
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: How
    strategy: Strategy
    suffix: str
    partitions: int | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.left, self.right)


class Repartition(Node, frozen=True, eq=False):
    """The same records in `partitions` tasks: by the hash of the columns `by`, or dealt out in turn where it is ()."""

    input: Node
    partitions: int
    by: tuple[str, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        return f"repartition({', '.join(self.by)})"


class Materialized(Node, frozen=True, eq=False):
    """Records that lie in run files: part i is read by task i. `of` made them, and makes them again if they are lost.

    `keys`: the columns by whose hash they are partitioned, () for none: part i of n holds the rows whose bucket b has
    b * n // 256 == i. `note` says what they are.
    """

    parts: tuple[ExchangeInput, ...]
    keys: tuple[str, ...]
    note: str
    of: Node

    @property
    def label(self) -> str:
        return f"materialized {self.note}"


class CoGroup(Node, frozen=True, eq=False):
    """Groups of equal keys of left and right, given to a function together."""

    left: Node
    right: Node
    op: CoGroups

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    @property
    def label(self) -> str:
        return f"cogroup({', '.join(self.op.left_on)})"


class Sort(Node, frozen=True, eq=False):
    """All records in one order over all tasks, ties in input order. `partitions` fixes the number of tasks."""

    input: Node
    by: tuple[str, ...]
    descending: tuple[bool, ...]
    partitions: int | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


class First(Node, frozen=True, eq=False):
    """The first `count` records; `op` finds them in a task and again among what all tasks found."""

    input: Node
    count: int
    op: Narrow
    early: bool  # a prefix of the tasks may be enough (limit), as against all being needed (top_k)

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def label(self) -> str:
        return self.op.label


class Write(Node, frozen=True, eq=False):
    """An output: `path` is one file if it ends in the writer's extension, else a folder of parts."""

    input: Node
    path: str
    writer: Writer
    mode: Mode | None = None
    layout: Layout = Layout()

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def extension(self) -> str:
        """Of its files, with the dot: that of the format and of the compression."""
        return self.writer.extension + EXTENSIONS[self.layout.codec]

    @property
    def one_file(self) -> bool:
        """Whether the path names a file, not a folder."""
        ending = EXTENSIONS[self.layout.codec]
        return self.path.endswith(tuple(known + ending for known in (self.writer.extension, *self.writer.also)))


class Collect(Node, frozen=True, eq=False):
    """The records themselves, for `take_all` and the other actions."""

    input: Node

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


def walk(roots: tuple[Node, ...], made: bool = False) -> Iterator[Node]:
    """Every node that `roots` depend on, once, inputs before users; with `made` also what made materialized results."""
    seen: set[int] = set()
    pending = [(root, False) for root in reversed(roots)]
    while pending:  # not by recursion: a loop over materialized results makes a long chain
        node, complete = pending.pop()
        if complete:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            below = (node.of,) if made and isinstance(node, Materialized) else node.inputs
            pending.append((node, True))
            pending += [(one, False) for one in reversed(below)]


def policy_of(node: Node) -> ErrorPolicy:
    """What becomes of records that a reader or an operator cannot process."""
    maker = node if isinstance(node, Read) else getattr(node, "op", None)
    policy: ErrorPolicy = getattr(maker, "on_error", ErrorPolicy())
    return policy


def validate(roots: tuple[Node, ...]) -> None:
    """Raise PlanError for what only the whole plan shows: quarantined records that nobody looks at."""
    nodes = list(walk(roots, made=True))
    looked_at = {id(node.of) for node in nodes if isinstance(node, Rejected)}
    for node in nodes:
        if policy_of(node).on_error == "quarantine" and id(node) not in looked_at:
            raise PlanError(
                f'{node.site}: on_error="quarantine", but nothing uses .rejected() of this dataset; '
                'write ds.rejected() somewhere or use on_error="skip"'
            )


__all__ = [
    "STRATEGIES",
    "Apply",
    "CoGroup",
    "Collect",
    "First",
    "GroupBy",
    "Items",
    "Join",
    "Materialized",
    "Mode",
    "Node",
    "Read",
    "Rejected",
    "Repartition",
    "Site",
    "Sort",
    "Strategy",
    "Union",
    "Write",
    "call_site",
    "policy_of",
    "validate",
    "walk",
]
