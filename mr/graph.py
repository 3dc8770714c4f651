"""The stage graph that a plan compiles to: stages joined by exchanges, and the outputs that they end in.

Frozen values: `stages` makes them, `assignment` turns a stage into tasks, `explain` draws them.
"""

from __future__ import annotations

from msgspec import Struct

from mr.plan import Items, Materialized, Read, Write
from mr.program import GatherHead, OutletSpec, Program, ResolveHead


class Feed(Struct, frozen=True):
    """An outlet of a stage."""

    stage: int
    outlet: int


class Exchange(Struct, frozen=True):
    """Records on their way from the tasks of some stages, in order, to those of another."""

    id: int
    spec: OutletSpec
    feeds: tuple[Feed, ...]


class Stage(Struct, frozen=True):
    """Tasks that run one program. `source` is the node read (None behind a shuffle); `inputs` are exchanges.

    `sides` are exchanges that every task reads whole; task i reads part i of each of `parts`; `limit_rows`: see
    `scheduler.StageShape`; `notes` explain choices to the user.
    """

    id: int
    label: str
    program: Program
    source: Read | Items | Materialized | None
    inputs: tuple[int, ...]
    sides: tuple[int, ...]
    limit_rows: int | None
    notes: tuple[str, ...] = ()
    parts: tuple[Materialized, ...] = ()

    @property
    def single(self) -> bool:
        """Whether the stage always is one task."""
        return isinstance(self.program.head, GatherHead | ResolveHead)


class Sink(Struct, frozen=True):
    """An output and the outlets whose parts it is made of, in order."""

    node: Write
    feeds: tuple[Feed, ...]


class Graph(Struct, frozen=True):
    """A compiled plan. `collects` are the exchanges that hold the records of `Collect` nodes, in their order."""

    stages: tuple[Stage, ...]
    exchanges: tuple[Exchange, ...]
    sinks: tuple[Sink, ...]
    collects: tuple[int, ...]

    def upstream(self, stage: Stage) -> tuple[int, ...]:
        """The stages that `stage` reads."""
        reads = (*stage.inputs, *stage.sides)
        return tuple(sorted({feed.stage for e in reads for feed in self.exchanges[e].feeds}))

    def publishes(self, stage: Stage) -> bool:
        """Whether files of the stage are needed beyond the job: parts of an output, or collected records."""
        ends = {feed.stage for sink in self.sinks for feed in sink.feeds}
        ends |= {feed.stage for e in self.collects for feed in self.exchanges[e].feeds}
        return stage.id in ends


__all__ = ["Exchange", "Feed", "Graph", "Sink", "Stage"]
