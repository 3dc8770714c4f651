"""What the tasks of a stage run: a head that makes batches, a tree of narrow operators, and outlets.

A program is a frozen value. All tasks of a stage share one; it is what their fingerprints have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import cloudpickle
from msgspec import Struct

from mr.errors import PlanError
from mr.formats.base import Layout, Reader, Writer
from mr.formats.compression import EXTENSIONS
from mr.kernels.rows import Shape
from mr.operators.base import Combiner, ErrorPolicy, Grouped, Narrow
from mr.operators.cogroups import CoGroups
from mr.operators.joins import MergeJoin
from mr.options import BUCKETS

HEAD = -1


class Port(NamedTuple):
    """Where records come out inside a program: of the head or a step, what it gives or what it rejected."""

    step: int = HEAD
    rejects: bool = False


# --- heads -----------------------------------------------------------------------------------------------------------


class ReadHead(Struct, frozen=True):
    """Reads a split. `columns`: only these are needed (None: all); `track`: keep where records lie.

    `counts_lines`: rejected records will be told by line number, so the lines of each piece must be known.
    """

    reader: Reader
    on_error: ErrorPolicy
    columns: tuple[str, ...] | None = None
    track: bool = False
    counts_lines: bool = False


class ItemsHead(Struct, frozen=True):
    """The records of the split itself."""


class RunHead(Struct, frozen=True):
    """Rows as they lie, in producer order: of the run files that the split names, else of buckets of exchange 0."""


class GroupHead(Struct, frozen=True):
    """Applies a keyed operator to a range of buckets of exchange 0."""

    op: Grouped


class JoinHead(Struct, frozen=True):
    """Joins a range of buckets of exchanges 0 and 1.

    `narrow`: the exchanges are whole and in key order, and these operators are applied to each side first.
    """

    op: MergeJoin
    narrow: tuple[tuple[Narrow, ...], ...] | None = None


class CoGroupHead(Struct, frozen=True):
    """Applies an operator over two inputs to the groups of equal keys of a range of buckets of exchanges 0 and 1."""

    op: CoGroups


class SortHead(Struct, frozen=True):
    """Merges a range of the sorted runs of exchange 0. `partitions`: there are so many ranges.

    `op`: goes through a keyed operator of these keys; a range has all rows of its keys.
    """

    by: tuple[str, ...]
    descending: tuple[bool, ...]
    partitions: int | None = None
    op: Grouped | None = None


class GatherHead(Struct, frozen=True):
    """All rows of exchange 0 in producer order, through a keyed operator without keys if there is one."""

    op: Grouped | None = None


class ResolveHead(Struct, frozen=True):
    """Rejected records of exchange 0, their positions turned into path, offset and line."""


Head = ReadHead | ItemsHead | RunHead | GroupHead | JoinHead | CoGroupHead | SortHead | GatherHead | ResolveHead


# --- the tree --------------------------------------------------------------------------------------------------------


class Step(Struct, frozen=True):
    """A narrow operator fed from a port. `track`: somebody behind it wants to know where records lie."""

    source: Port
    op: Narrow
    track: bool = False


# --- outlets ---------------------------------------------------------------------------------------------------------


class HashOutlet(Struct, frozen=True):
    """Rows into hash buckets of `keys`, sorted by (bucket, keys, `sort_by`), combined by blocks first.

    `buckets` are constant for a class of input sizes (`sizing.bucket_count`). `partitions` replaces them by so many;
    `partitioner(key, partitions)` then chooses among those. `frequent`: the most frequent keys are reported, as the
    sample of the output.
    """

    keys: tuple[str, ...]
    sort_by: tuple[str, ...] = ()
    descending: tuple[bool, ...] = ()
    combiner: Combiner | None = None
    partitions: int | None = None
    partitioner: Callable[[object, int], int] | None = None
    frequent: bool = False
    buckets: int = BUCKETS

    @property
    def places(self) -> int:
        """How many buckets rows are really put into."""
        return self.buckets if self.partitions is None else self.partitions


class RangeOutlet(Struct, frozen=True):
    """Sorted runs with an index of first keys, for a global sort; with a combiner, of rows to be grouped by `by`."""

    by: tuple[str, ...]
    descending: tuple[bool, ...]
    combiner: Combiner | None = None


class GatherOutlet(Struct, frozen=True):
    """Rows as they come, for one reader of all. A combiner without keys leaves a row even for no input of `shape`."""

    combiner: Combiner | None = None
    shape: Shape | None = None


class PartOutlet(Struct, frozen=True):
    """Part files of an output; written to `store` if that is set, else under the scratch root.

    `shape` is that of its rows as far as the plan knows: what a part without rows is written with.
    """

    writer: Writer
    store: str | None = None
    shape: Shape | None = None
    layout: Layout = Layout()

    @property
    def extension(self) -> str:
        """Of the part files, with the dot."""
        return self.writer.extension + EXTENSIONS[self.layout.codec]


OutletSpec = HashOutlet | RangeOutlet | GatherOutlet | PartOutlet


class Outlet(Struct, frozen=True):
    """An outlet and the port that feeds it."""

    source: Port
    spec: OutletSpec


class Sites(Struct, frozen=True):
    """The user's lines ("job.py:12") that made the head of a program, its steps and its outlets."""

    head: str = ""
    steps: tuple[str, ...] = ()
    outlets: tuple[str, ...] = ()


class Program(Struct, frozen=True):
    """A head, steps in an order in which each comes after what feeds it, and outlets.

    `sites`: the user's lines that made them, for messages; no part of any identity.
    """

    head: Head
    steps: tuple[Step, ...]
    outlets: tuple[Outlet, ...]
    sites: Sites = Sites()


def pickled(program: Program) -> bytes:
    """A program as workers are sent it, functions by value. Raises PlanError naming the user's line."""
    try:
        return bytes(cloudpickle.dumps(program))
    except Exception as error:  # whatever the user's objects raise when they are pickled
        cure = "make it inside the function, or in the __init__ of a class given as the function"
        site = next(filter(None, _unsendable(program)), program.sites.head)
        raise PlanError(f"{site}: a function uses what cannot travel: {error}; {cure}") from None


def _unsendable(program: Program) -> Iterator[str]:
    """The lines of what cannot be pickled."""
    sites = (program.sites.head, *program.sites.steps, *program.sites.outlets)
    for part, site in zip((program.head, *program.steps, *program.outlets), sites, strict=True):
        try:
            cloudpickle.dumps(part)
        except Exception:
            yield site
