"""Operators over the records of a whole task: rows as they were shuffled, and functions of a partition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from mr.kernels.rows import Shape
from mr.operators.base import Grouped, TaskEnv


@dataclass(frozen=True)
class Shuffled(Grouped):
    """The rows as they come, in (bucket, key, task, row) order: for a shuffle without a reduction."""

    keys: tuple[str, ...]
    label: ClassVar[str] = "repartition"

    def shape(self, given: Shape) -> Shape | None:
        return given

    def reduce(self, rows: Iterator[pa.RecordBatch], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        return rows
