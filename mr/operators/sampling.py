"""Samples: records chosen by a hash of where they stand in what the task reads, the same in every attempt.

A record's *priority* is a 64-bit number mixed from the seed, the identity of the content that the task reads and the
record's position among those that reach the operator. A share keeps the records whose priority is low enough; a count
keeps those of the lowest priorities over all tasks. The mixer is SplitMix64 (Steele, Lea, Flood: Fast splittable
pseudorandom number generators, 2014).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from mr.batch import Batch, kind_of
from mr.kernels.frames import concat
from mr.kernels.rows import Shape
from mr.kernels.types import cast, unify
from mr.operators.base import Narrow, Run, TaskEnv, rows_shape
from mr.operators.columns import named

PRIORITY = "mr.priority"

Words = npt.NDArray[np.uint64]


def priorities(seed: int, identity: str, start: int, rows: int) -> Words:
    """The priorities of `rows` records from position `start`.

    >>> priorities(0, "x", 5, 2).tolist() == priorities(0, "x", 0, 7)[5:].tolist()
    True
    """
    base = np.uint64(xxhash.xxh3_64_intdigest(f"{seed} {identity}".encode()))
    mixed: Words = base + np.arange(start + 1, start + rows + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class SampleShare(Narrow, frozen=True):
    """Each record with the probability `fraction`, independently."""

    fraction: float
    seed: int
    label: ClassVar[str] = "sample"

    def shape(self, given: Shape | None) -> Shape | None:
        return given

    def start(self, env: TaskEnv, track: bool) -> Run:
        return _ShareRun(self, env.identity)


class _ShareRun(Run):
    def __init__(self, operator: SampleShare, identity: str) -> None:
        self._operator = operator
        self._identity = identity
        self._rows = 0
        self.rejects = []

    def feed(self, batch: Batch) -> Iterable[Batch]:
        found = priorities(self._operator.seed, self._identity, self._rows, batch.rows)
        self._rows += batch.rows
        yield batch.take(np.flatnonzero(found < self._operator.fraction * 2.0**64))


class Prioritise(Narrow, frozen=True):
    """One column more, the last: priorities, for `LowestPriorities` to choose by. Records may have one of its name."""

    seed: int
    label: ClassVar[str] = "draw"

    def shape(self, given: Shape | None) -> Shape | None:
        if given is None:
            return None
        return rows_shape((*given.names, PRIORITY), (*given.types, pa.uint64()), given.kind)

    def start(self, env: TaskEnv, track: bool) -> Run:
        return _PriorityRun(self.seed, env.identity)


class _PriorityRun(Run):
    def __init__(self, seed: int, identity: str) -> None:
        self._seed = seed
        self._identity = identity
        self._rows = 0
        self.rejects = []

    def feed(self, batch: Batch) -> Iterable[Batch]:
        found = priorities(self._seed, self._identity, self._rows, batch.rows)
        self._rows += batch.rows
        columns = [*batch.data.columns, pa.array(found)]
        yield Batch(named(columns, [*batch.data.schema.names, PRIORITY], kind_of(batch.data.schema)), batch.origins)


class LowestPriorities(Narrow, frozen=True):
    """The `count` records of the lowest priorities, in input order."""

    count: int
    label: ClassVar[str] = "sample"

    def shape(self, given: Shape | None) -> Shape | None:
        return given

    def start(self, env: TaskEnv, track: bool) -> Run:
        return _LowestRun(self.count)


class _LowestRun(Run):
    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: pa.RecordBatch | None = None
        self.rejects = []

    def feed(self, batch: Batch) -> Iterable[Batch]:
        data = batch.data
        if self._kept is not None:
            schema = unify(self._kept.schema, data.schema, "sample")
            data = concat([cast(self._kept, schema), cast(data, schema)], schema)
        lowest = np.argsort(data.columns[-1].to_numpy(), kind="stable")[: self._count]
        self._kept = data.take(pa.array(np.sort(lowest)))
        return ()

    def end(self) -> Iterable[Batch]:
        if self._kept is not None:
            yield Batch(self._kept)


class DropPriority(Narrow, frozen=True):
    """The records without their priorities: of `output`, the shape they had before."""

    output: Shape | None
    label: ClassVar[str] = "drawn"

    def shape(self, given: Shape | None) -> Shape | None:
        return self.output

    def start(self, env: TaskEnv, track: bool) -> Run:
        return _DropRun()


class _DropRun(Run):
    def __init__(self) -> None:
        self.rejects = []

    def feed(self, batch: Batch) -> Iterable[Batch]:
        names = batch.data.schema.names[:-1]
        yield Batch(named(batch.data.columns[:-1], names, kind_of(batch.data.schema)), batch.origins)
