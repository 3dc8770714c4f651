"""Keyed operators over rows that have one row for each key already: no shuffle brings together what is alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from mr.batch import Batch
from mr.kernels.rows import Shape
from mr.operators.base import Grouped, Narrow, Run, TaskEnv


class Regrouped(Narrow, frozen=True):
    """`op` on each batch by itself. Requires: rows in the order of a shuffle by the keys of `op`, each key once."""

    op: Grouped
    label: ClassVar[str] = "regroup"

    def shape(self, given: Shape | None) -> Shape | None:
        return None if given is None else self.op.shape(given)

    def start(self, env: TaskEnv, track: bool) -> Run:
        return _RegroupedRun(self.op, env)


class _RegroupedRun(Run):
    def __init__(self, op: Grouped, env: TaskEnv) -> None:
        self._op = op
        self._env = env
        self.rejects = []

    def feed(self, batch: Batch) -> Iterable[Batch]:
        if batch.data.num_rows:
            combiner = self._op.combiner
            rows = batch.data if combiner is None else combiner.combine(batch.data)
            yield from map(Batch, self._op.reduce(iter([rows]), self._env))
