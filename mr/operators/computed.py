"""Columns that Python functions make: what `select(x=fn)` and `with_columns(x=fn)` are besides expressions."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar, Final

from mr.batch import Batch
from mr.errors import PlanError
from mr.kernels.rows import Shape
from mr.operators.base import Run, TaskEnv, rows_shape
from mr.operators.columns import named
from mr.operators.python import PerRecord, PythonRun, each, parts_of

MADE: Final = "\x1f"
"""Begins the names of columns that functions made, until they are put in their place: as no user names one."""


class NewColumn(PerRecord, frozen=True):
    """One column more, the last: `fn(record)`, of the one type and name of `declared`, behind `MADE`.

    The record is of the columns `seen`.
    """

    seen: Shape | None = None
    label: ClassVar[str] = "column"

    def shape(self, given: Shape | None) -> Shape:
        if given is None or self.declared is None:
            raise PlanError("the columns that stand before a new one are not known")
        return rows_shape((*given.names, MADE + self.declared.names[0]), (*given.types, *self.declared.types))

    def start(self, env: TaskEnv, track: bool) -> Run:
        return _ColumnRun(self, env, track)


class _ColumnRun(PythonRun):
    operator: NewColumn

    def feed(self, batch: Batch) -> Iterable[Batch]:
        seen = self.operator.seen
        assert seen is not None
        data, row = batch.data, 0
        records = named(data.columns[: len(seen.names)], seen.names, seen.kind)
        for part in parts_of(Batch(records, batch.origins)):
            outputs, _ = each(self, part)
            made = self.convert(outputs, partial(self.env.where, part.origins))
            self.join_types(made.schema)
            some = data.slice(row, len(part.records))
            row += len(part.records)
            names = [*data.schema.names, MADE + made.schema.names[0]]
            yield Batch(named([*some.columns, *made.columns], names, "rows"), part.origins)
